# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The record of a drill: what is accepted, what is made of it, and what is refused with which sentence."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _drill_record, _drill_text
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from hypothesis import given
from hypothesis import strategies as st

from support.drills import CENTRAL, hostile_record, make_record


def refused(**changes: Any) -> str:
    with pytest.raises(CentralError) as caught:
        _drill_record.validated({**make_record(), **changes})
    assert caught.value.diagnosis in ("bad_option", "bad_name")
    assert caught.value.message.endswith(".")
    return caught.value.message


@pytest.mark.parametrize("record", [make_record(), make_record("error"), make_record("skipped"), hostile_record()])
def test_a_good_record_stays_as_it_is(record: dict[str, Any]) -> None:
    known = _drill_record.validated(record)
    assert known == record
    assert _drill_record.parse(_drill_record.render(known)) == known
    assert json.loads(_drill_record.render(known)) == record


def test_what_templates_turn_into_text_is_turned_back() -> None:
    record = make_record()
    record.update(rpo="5412.5", rto="41", kept="", error="None", elapsed="7")
    record["set"].update(size="12", authenticated="True")
    record["phases"][0]["seconds"] = "1.5"
    known = _drill_record.validated(record)
    assert (known["rpo"], known["rto"], known["kept"], known["error"], known["elapsed"]) == (
        5412.5,
        41,
        None,
        None,
        7,
    )
    assert known["set"]["size"] == 12
    assert known["set"]["authenticated"] is True
    assert known["phases"][0]["seconds"] == 1.5


def test_the_least_that_is_a_record() -> None:
    least = {
        "drill_id": "20261123T033012Z-a",
        "central": CENTRAL,
        "depth": "quick",
        "result": "skipped",
        "started_at": "2026-11-23T03:30:12Z",
        "finished_at": "2026-11-23T03:30:12+00:00",
        "elapsed": 0,
    }
    known = _drill_record.validated(least)
    assert known["set"]["set_id"] is known["rto"] is known["error"] is None
    assert known["phases"] == known["checks"] == []
    for name in least:
        with pytest.raises(CentralError):
            _drill_record.validated({key: value for key, value in least.items() if key != name})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"drill_id": "../../etc/passwd"}, "drill_id"),
        ({"drill_id": "20261323T033012Z-a"}, "drill_id"),
        ({"central": "../x"}, "'../x'"),
        ({"depth": "deep"}, "depth"),
        ({"result": "good"}, "result"),
        ({"result": ["passed"]}, "result"),
        ({"started_at": "yesterday"}, "started_at"),
        ({"finished_at": "2026-11-23T03:30:12+01:00"}, "finished_at"),
        ({"elapsed": -1}, "elapsed"),
        ({"elapsed": float("nan")}, "elapsed"),
        ({"rto": "soon"}, "rto"),
        ({"rto": True}, "rto"),
        ({"rpo": 1e300}, "rpo"),
        ({"set": []}, "set"),
        ({"set": {"started_at": "x"}}, "set.started_at"),
        ({"phases": {}}, "phases"),
        ({"phases": [{"name": "a", "start": 0}]}, "phases[0].seconds"),
        ({"checks": [{"name": "a", "result": "error"}]}, "checks[0].result"),
        ({"checks": ["a"]}, "checks[0]"),
        ({"figures": {"a": [1]}}, "figures.a"),
        ({"host": {1: 2}}, "host"),
        ({"error": "broken"}, "error"),
        ({"kept": 3}, "kept"),
        ({"more": object()}, "more"),
        ({"more": "\ud800"}, "more"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], named: str) -> None:
    assert named in refused(**changes)


def test_nesting_has_an_end() -> None:
    deep: Any = 1
    for _level in range(40):
        deep = [deep]
    assert "too deeply" in refused(more=deep)


@pytest.mark.parametrize(
    "changes",
    [
        {"checks": [{"name": "rows", "result": "failed"}]},
        {"checks": []},
        {"checks": [{"name": "rows", "result": "skipped"}]},
        {"error": {"message": "It broke."}},
        {"rto": None},
        {"result": "skipped", "checks": [{"name": "rows", "result": "failed"}]},
        {"result": "error", "error": {"message": "It broke."}, "checks": [{"name": "rows", "result": "failed"}]},
        {"result": "failed"},
        {"result": "error"},
    ],
)
def test_no_record_contradicts_itself(changes: dict[str, Any]) -> None:
    assert "although" in refused(**changes) or "no error that says why" in refused(**changes)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{", b"[" * 100_000, b'{"drill_id": NaN}'])
def test_damaged_files(data: bytes) -> None:
    with pytest.raises(CentralError) as caught:
        _drill_record.parse(data)
    assert caught.value.diagnosis == "bad_option"


@given(st.binary(max_size=200))
def test_any_bytes_give_a_record_or_a_diagnosis(data: bytes) -> None:
    with pytest.raises(CentralError):
        _drill_record.parse(data)


def test_ids_carry_their_time() -> None:
    expected = datetime(2026, 11, 23, 3, 30, 12, tzinfo=timezone.utc)
    assert _drill_record.drill_id_time("20261123T033012Z-7c41d2") == expected
    assert _drill_record.drill_id_time("20261123T033012.123Z-0a1b2c3d") == expected
    for wrong in ("", "20261123T033012Z", "20261123T033012Z-../x", "20261123T033012Z-7c41d2\n", "20260230T000000Z-a"):
        assert _drill_record.drill_id_time(wrong) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "\u2013"),
        (0, "0 s"),
        (0.0004, "0 s"),
        (0.012, "12 ms"),
        (0.9996, "1.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (220.55, "3 min 41 s"),
        (3599.7, "1 h 00 min"),
        (86_400, "24 h 00 min"),
        (10**9, "11,574 d 2 h"),
        (-90, "\u22121 min 30 s"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert _drill_text.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_600, "1.0 MB"),
        (573_431_808, "573 MB"),
        (10**19, "10,000 PB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert _drill_text.size(count) == text


def test_of_two_dictionaries_the_difference_is_shown() -> None:
    expected, found = _drill_text.pair_lines({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 5})
    assert (expected, found) == (["b: 2", "c: 3"], ["b: 5", "c: not there"])
    assert _drill_text.pair_lines({"a": 1}, {"a": 1})[0] == ["1 figure, all equal"]
    many = {str(index): index for index in range(100)}
    assert _drill_text.pair_lines(many, {})[1][-1] == "and 88 more"
