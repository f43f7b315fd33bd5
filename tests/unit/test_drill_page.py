# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The page of a drill: what it says, and that nothing in it is anything but text. How it looks is an integration test."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _drill_plots
from ansible_collections.odkops.central.plugins.module_utils._drill_page import page, verdict
from ansible_collections.odkops.central.plugins.module_utils._drill_record import validated

from support.drills import BEGAN, HOSTILE, hostile_record, make_history, make_record

VOID = {"meta", "link", "br"}
#: Attributes by which a page loads or runs something.
ACTIVE = {"src", "srcset", "style", "action", "formaction", "data", "xlink:href", "background", "ping"}


class Reader(HTMLParser):
    """Reads a page strictly: elements nest, no attribute comes twice, ids are unique."""

    def __init__(self, data: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(data.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        """What a person reads."""
        return re.sub(r"\s+", " ", " ".join(self.texts))


def read(history: list[dict[str, Any]], unread: int = 0) -> Reader:
    known = [validated(record) for record in history]
    return Reader(page(known[0], known, unread))


ALL = {
    "first": make_history(1),
    "second": make_history(2),
    "forty": make_history(40),
    "failed": make_history(40, failing=("rows", "secrets")),
    "error": make_history(3, result="error"),
    "skipped": make_history(5, result="skipped"),
    "hostile": [hostile_record(), *make_history(3)[1:]],
    "without RTO": make_history(3, failing=("login",), rto=None),
    "nothing measured": [make_record(phases=[], rto=0, elapsed=0, figures={}, versions={}, host={}, set={}, rpo=None)],
    "no time passes": [make_record(phases=[{"name": "a", "start": 0, "seconds": 0}], rto=0, elapsed=0)],
    "at once": [make_record(), make_record(drill_id="20261123T033012Z-0")],
    "years": [
        make_record(rto=10**8, elapsed=10**9),
        make_record(when=BEGAN - timedelta(days=9000), rto=0.001, set={"size": 1}),
    ],
}


@pytest.mark.parametrize("name", ALL)
def test_pages_are_whole_and_load_nothing(name: str) -> None:
    found = read(ALL[name])
    ids = [attributes["id"] for _tag, attributes in found.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for tag, attributes in found.tags:
        assert tag not in (
            "script",
            "img",
            "iframe",
            "object",
            "embed",
            "base",
            "form",
            "foreignobject",
            "animate",
            "set",
            "use",
        )
        assert not ACTIVE & set(attributes)
        assert not any(attribute.startswith("on") for attribute in attributes)
        if "href" in attributes:
            assert re.fullmatch(r"data:image/svg\+xml,[^\"']*|[0-9A-Za-z.-]+\.html", attributes["href"] or "")
    numbers = " ".join(value or "" for _tag, attributes in found.tags for value in attributes.values())
    assert "nan" not in numbers.split()
    assert not re.search(r"\b(nan|inf)%", numbers)


def test_the_policy_allows_the_one_style_sheet_and_nothing_else() -> None:
    data = page(validated(make_record()), [validated(make_record())]).decode()
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', data)[1])  # type: ignore[index]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    (style,) = re.findall("<style>(.*?)</style>", data, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert rules["default-src"] == "'none'"
    assert rules["style-src"] == f"'sha256-{digest}'"
    assert "http" not in policy
    assert data.index("Content-Security-Policy") < data.index("<style>")
    assert not re.search(r"url\(|@import", style)


def test_hostile_texts_are_shown_as_they_are() -> None:
    found = read(ALL["hostile"])
    shown = HOSTILE.replace("\x00", "\ufffd").replace("\x1b", "\ufffd").replace("\u202e", "\ufffd")
    assert shown in found.text
    assert not re.search("[\x00\x1b\u202e]", found.text)
    harmless = {tag for tag, _attributes in read(ALL["failed"]).tags} | {"br", "ul", "li", "i"}
    assert {tag for tag, _attributes in found.tags} <= harmless


def test_what_an_administrator_wants_to_know() -> None:
    record = make_record(failing=("submissions",), kept="odkdrill-x-7c41d2")
    record["set"].update(authenticated=False, absent={"enketo": "Not backed up."})
    text = read([record], unread=2).text
    for wanted in (
        "Failed Do not rely on the set of 23 Nov 2026, 02:00 UTC",
        "3 min 41 s",
        "1 h 30 min",
        record["set"]["set_id"],
        record["central"],
        "58,214",
        "Load the database",
        "v2026.2.1",
        "docker compose -p odkdrill-x-7c41d2 ps",
        "not authenticated",
        "enketo. Not backed up.",
        "2 records of earlier drills could not be read",
        "a new host, building images, DNS, certificates",
    ):
        assert wanted in text, wanted
    assert text.index("Failed (1)") < text.index("Passed (10)")


def test_an_error_says_what_to_do() -> None:
    text = read(ALL["error"]).text
    assert "Broke off" in text
    assert "the database could not be loaded" in text
    assert "disk_full" in text
    assert "What to do:" in text


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (
            make_record(),
            (
                "The set of 23 Nov 2026, 02:00 UTC can be relied on: Central answered with all its data after 3 min 41 s, "
                "and all 11 checks passed."
            ),
        ),
        (
            make_record(failing=("rows", "forms")),
            (
                "Do not rely on the set of 23 Nov 2026, 02:00 UTC: Central answered after 3 min 41 s, "
                "but 2 of 11 checks failed."
            ),
        ),
        (
            make_record(failing=("login",), rto=None),
            ("Do not rely on the set of 23 Nov 2026, 02:00 UTC: Central never answered, and 1 of 11 checks failed."),
        ),
        (
            make_record(failing=("login",), rto=None, error={"diagnosis": "tampered", "message": "It was changed."}),
            (
                "Do not rely on the set of 23 Nov 2026, 02:00 UTC: Central never answered, and 1 of 11 checks failed, "
                "and the drill broke off."
            ),
        ),
        (
            make_record("error"),
            "The drill broke off after 2 min 32 s: it proves nothing of the set of 23 Nov 2026, 02:00 UTC.",
        ),
        (make_record("skipped"), "This Central was not drilled this time."),
    ],
)
def test_the_verdict_is_one_sentence(record: dict[str, Any], sentence: str) -> None:
    assert verdict(validated(record)) == sentence


def test_history_shows_each_drill_and_marks_those_that_did_not_pass() -> None:
    history = make_history(40)
    found = read(history)
    drilled = [record for record in history if record["result"] != "skipped"]
    bad = sum(record["result"] != "passed" for record in drilled)
    kinds = [attributes.get("class") for _tag, attributes in found.tags]
    # Two plots, and once each in the legend.
    assert kinds.count("cross") == 2 * bad + 1
    assert kinds.count("dot") == 2 * (len(drilled) - bad) + 1
    assert kinds.count("ring") == 3
    links = [attributes["href"] for tag, attributes in found.tags if tag == "a"]
    assert links == [f"{record['drill_id']}.html" for record in history[1:15]]
    assert "and 25 earlier" in found.text


def test_timeline_has_a_bar_for_each_phase_at_its_place() -> None:
    record = validated(make_record())
    picture = Reader(_drill_plots.timeline(record).encode())
    bars = [
        attributes for tag, attributes in picture.tags if tag == "rect" and attributes["width"] not in ("3", "100%")
    ]
    assert len(bars) == len(record["phases"])
    for phase, drawn in zip(record["phases"], bars):
        assert float(str(drawn["x"])[:-1]) == pytest.approx(100 * phase["start"] / record["elapsed"], abs=0.01)
        assert float(str(drawn["width"])[:-1]) == pytest.approx(100 * phase["seconds"] / record["elapsed"], abs=0.01)
        assert drawn["class"] == ("bar" if phase["start"] < record["rto"] else "bar after")
    assert picture.tags[0][1]["role"] == "img"
    assert "Load the database 1 min 36 s" in picture.text


@pytest.mark.parametrize("most", [1e-6, 0.02, 0.9, 1, 3.9, 59, 61, 3600, 86_399, 86_401, 10**7, 10**12])
def test_scales_have_round_steps_and_few_of_them(most: float) -> None:
    for step in (_drill_plots.nice_step(most), _drill_plots.nice_seconds(most)):
        assert 1 <= most / step <= 4.001 or most / step < 1.7
    assert len(_drill_plots.tick_label(_drill_plots.nice_seconds(most))) <= 11
