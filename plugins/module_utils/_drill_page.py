# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of a drill: one HTML file that needs nothing else, for the administrator at night and the director by day.

No script, no font, no picture from anywhere: the policy in its head forbids them, and allows the one style sheet that it
carries by its digest. So a hostile name that got past the escaping could still load and run nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any
from urllib.parse import quote

from ansible_collections.odkops.central.plugins.module_utils._diagnoses import DIAGNOSES
from ansible_collections.odkops.central.plugins.module_utils._drill_record import counted
from ansible_collections.odkops.central.plugins.module_utils._drill_sections import (
    RESULT_WORDS,
    checks,
    environment,
    figures,
    past,
    sign,
    times,
)
from ansible_collections.odkops.central.plugins.module_utils._drill_style import STYLE
from ansible_collections.odkops.central.plugins.module_utils._drill_text import (
    NOTHING,
    duration,
    escape,
    plural,
    shortened,
    size,
    time_of,
)

#: The remedies of diagnoses are written in Markdown.
_CODE = re.compile("`([^`]+)`")
_COLOURS = {"passed": "#17734a", "failed": "#b3261e", "error": "#b3261e", "skipped": "#6c7a8c"}
_ICONS = {
    "passed": "M9 16.5l5 5 9.5-11",
    "failed": "M10 10l12 12m0-12-12 12",
    "error": "M16 8v10m0 5v.5",
    "skipped": "M9 16h14",
}


def _policy() -> str:
    digest = base64.b64encode(hashlib.sha256(STYLE.encode("utf-8")).digest()).decode("ascii")
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


def _icon(result: str) -> str:
    picture = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
        f'<rect width="32" height="32" rx="8" fill="{_COLOURS[result]}"/>'
        f'<path d="{_ICONS[result]}" fill="none" stroke="#fff" stroke-width="4" stroke-linecap="round"/></svg>'
    )
    return "data:image/svg+xml," + quote(picture)


def _the_set(record: dict[str, Any]) -> str:
    """Return how a sentence names the set."""
    started = record["set"]["started_at"]
    return f"the set of {time_of(started)}" if started else "the set"


def _answered(record: dict[str, Any]) -> str:
    if record["rto"] is None:
        return "Central never answered with all its data"
    return f"Central answered with all its data after {duration(record['rto'])}"


def verdict(record: dict[str, Any]) -> str:
    """Return what came out of the drill, in one sentence of plain text."""
    counts = counted(record["checks"])
    made = counts["passed"] + counts["failed"]
    if record["result"] == "passed":
        left = f", {counts['skipped']:,} could not be made" if counts["skipped"] else ""
        how = "the one check" if made == 1 else f"all {made:,} checks"
        of = _the_set(record)
        return f"{of[0].upper()}{of[1:]} can be relied on: {_answered(record)}, and {how} passed{left}."
    if record["result"] == "failed":
        which = "the check" if made == 1 else f"{counts['failed']:,} of {made:,} checks"
        but = "and" if record["rto"] is None else "but"
        # Whether that was all its data is what the checks deny.
        answered = _answered(record).replace(" with all its data", "")
        broke_off = ", and the drill broke off" if record["error"] else ""
        return f"Do not rely on {_the_set(record)}: {answered}, {but} {which} failed{broke_off}."
    if record["result"] == "error":
        what = _the_set(record) if record["set"]["set_id"] else "any set"
        return f"The drill broke off after {duration(record['elapsed'])}: it proves nothing of {what}."
    return "This Central was not drilled this time."


def _cause(record: dict[str, Any]) -> str:
    """Return the second paragraph of the verdict: what failed or broke, and what to do."""
    error = record["error"]
    if error:
        known = DIAGNOSES.get(error["diagnosis"] or "")
        remedy = ""
        if known:
            what = _CODE.sub(r"<code>\1</code>", escape(known.remedy))
            remedy = f'<p><span class="soft">What to do:</span> {what}</p>'
        code = f" <code>{escape(error['diagnosis'])}</code>" if error["diagnosis"] else ""
        return f'<p class="cause" dir="auto">{escape(shortened(error["message"], 800))}{code}</p>{remedy}'
    failed = [check for check in record["checks"] if check["result"] == "failed"]
    if failed:
        names = "; ".join(check["title"] for check in failed[:5])
        more = f"; and {len(failed) - 5:,} more" if len(failed) > 5 else ""
        return f'<p class="cause" dir="auto">{escape(shortened(names, 600) + more)}</p>'
    if record["result"] == "skipped":
        return "<p>No time was left in the budget. It is among the first of the next run.</p>"
    return ""


def _head(record: dict[str, Any]) -> str:
    result = record["result"]
    return (
        f'<header><p class="over">Disaster-recovery drill, {escape(time_of(record["started_at"]))}</p>'
        f"<h1>{escape(record['central'])}</h1></header>"
        f'<main><div class="verdict {result}">{sign(result, said=False)}<div>'
        f"<p><strong>{RESULT_WORDS[result]}</strong>{escape(verdict(record))}</p>{_cause(record)}</div></div>"
    )


def _tile(name: str, value: str, about: str, kind: str = "") -> str:
    marked = f' class="{kind}"' if kind else ""
    return f'<div><dt>{name}</dt><dd{marked}>{value}</dd><dd class="small">{about}</dd></div>'


def _tiles(record: dict[str, Any]) -> str:
    counts = counted(record["checks"])
    made = counts["passed"] + counts["failed"]
    bad = "bad" if counts["failed"] else ""
    about = (
        f"{plural(counts['failed'], 'check')} failed"
        if counts["failed"]
        else "checks passed"
        if made
        else "nothing was checked"
    )
    if counts["skipped"]:
        about += f", {counts['skipped']:,} not made"
    return (
        '<dl class="tiles">'
        + "".join(
            (
                _tile(
                    '<abbr title="recovery time objective">RTO</abbr>',
                    duration(record["rto"]),
                    "from the start to Central with all its data"
                    if record["rto"] is not None
                    else "Central never answered",
                    "bad" if record["rto"] is None and record["result"] in ("failed", "error") else "",
                ),
                _tile(
                    '<abbr title="recovery point objective">RPO</abbr>',
                    duration(record["rpo"]),
                    "age of the set when the drill began",
                ),
                _tile("Checks", f"{counts['passed']:,} of {made:,}" if made else NOTHING, about, bad),
                _tile("Size of the set", size(record["set"]["size"]), f"{escape(record['depth'])} depth"),
            )
        )
        + "</dl>"
    )


def _notes(record: dict[str, Any], unread: int) -> str:
    held, found = record["set"], []
    if held["authenticated"] is False:
        found.append(
            "The set is not authenticated: it was made without a passphrase, so nobody can tell whether it was changed."
        )
    if record["rpo"] is not None and record["rpo"] < 0:
        found.append("The set is from the future of this host's clock: one of the clocks is wrong, and so is the RPO.")
    found += [
        f"Not in the set, and so not proven: {escape(part)}. {escape(why)}" for part, why in held["absent"].items()
    ]
    if record["kept"]:
        found.append(
            f"The drill's Central was kept for you to look at: <code>docker compose -p {escape(record['kept'])} ps</code>"
        )
    if unread:
        found.append(f"{plural(unread, 'record')} of earlier drills could not be read.")
    return f'<ul class="notes">{"".join(f"<li dir=auto>{note}</li>" for note in found)}</ul>' if found else ""


def _facts(record: dict[str, Any]) -> str:
    held = record["set"]
    proven = {None: "not known", True: "yes, by its passphrase", False: "no"}[held["authenticated"]]
    facts = [
        ("Set", f'<span class="id">{escape(held["set_id"] or NOTHING)}</span>'),
        ("Taken at", escape(time_of(held["started_at"], seconds=True))),
        ("Parts", escape(", ".join(held["parts"]) or NOTHING)),
        ("Authenticated", proven),
        ("Path", f"<code>{escape(held['path'] or NOTHING)}</code>"),
        ("Drill", f'<span class="id">{escape(record["drill_id"])}</span>'),
        ("Began", escape(time_of(record["started_at"], seconds=True))),
        ("Ended", f"{escape(time_of(record['finished_at'], seconds=True))}, after {duration(record['elapsed'])}"),
    ]
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)
    return f'<section><h2>The set and the drill</h2><dl class="facts">{rows}</dl></section>'


def page(record: dict[str, Any], history: list[dict[str, Any]], unread: int = 0) -> bytes:
    """Return the page of the drill `record` (validated), in UTF-8.

    :param history: the records up to this one, the newest first, this one among them
    :param unread: how many records of earlier drills could not be read
    """
    title = f"{RESULT_WORDS[record['result']]}: drill of {record['central']}, {time_of(record['started_at'])}"
    body = [
        _head(record),
        _tiles(record),
        _notes(record, unread),
        checks(record) if record["result"] != "skipped" else "",
        times(record),
        past(record, history),
        figures(record),
        _facts(record),
        environment(record),
    ]
    end = (
        "RPO: what was entered between the set and a disaster is lost, so it is the age of the set. RTO: measured in this drill, "
        "on this host. It leaves out what a real recovery may need besides: a new host, building images, DNS, certificates. "
        f"The whole record is in {escape(record['drill_id'])}.json beside this page. "
        "Made by the Ansible collection odkops.central."
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy()}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="robots" content="noindex">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)}</title>\n"
        f'<link rel="icon" href="{_icon(record["result"])}">\n<style>{STYLE}</style>\n</head>\n<body>\n'
        + "\n".join(part for part in body if part)
        + f"\n</main>\n<footer><p>{end}</p></footer>\n</body>\n</html>\n"
    ).encode()
