# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the record of a drill says that did not come to its end, wherever that was."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._drill_progress import (
    begin,
    break_off,
    require_begun,
    take_phases,
)
from ansible_collections.odkops.central.plugins.module_utils._drill_record import validated
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError

PATH = "/srv/backups/central.example.org/sets/20261122T020000.123Z-3f9a1c07"
PASSED = {"name": "set", "title": "The set is what was sealed", "result": "passed", "message": "Four parts."}


def record(**changes: Any) -> dict[str, Any]:
    return {**begin("central.example.org", "quick", PATH, "2026-11-22T03:00:00.123Z"), **changes}


def test_a_record_of_which_nothing_is_known_but_the_set() -> None:
    found = record()
    assert found["set"]["set_id"] == "20261122T020000.123Z-3f9a1c07"
    assert found["rpo"] == 3600.0


def test_a_record_without_a_set_is_one() -> None:
    ended = validated(break_off(begin("central.example.org", "full"), "set_not_found", "There is none."))
    assert (ended["result"], ended["set"]["set_id"], ended["rpo"], ended["rto"]) == ("error", None, None, None)
    assert ended["error"] == {"diagnosis": "set_not_found", "message": "There is none."}


@pytest.mark.parametrize("diagnosis", ["tampered", "missing_part", "corrupt", "truncated", "not_a_set"])
@pytest.mark.parametrize("checks", [[], [PASSED]], ids=["not-read", "read"])
def test_a_set_that_cannot_be_restored_from_has_failed(diagnosis: str, checks: list[dict[str, Any]]) -> None:
    given = record(checks=checks)
    ended = validated(break_off(given, diagnosis, "It is damaged."))
    assert ended["result"] == "failed"
    assert [(each["name"], each["result"], each["message"]) for each in ended["checks"]] == [
        ("set", "failed", "It is damaged.")
    ]
    assert given["checks"] == checks


def test_what_says_nothing_of_the_set_is_an_error_unless_a_check_had_failed() -> None:
    assert validated(break_off(record(checks=[PASSED]), "docker_unavailable", "No Docker."))["result"] == "error"
    failed = {**PASSED, "name": "rows", "result": "failed"}
    assert validated(break_off(record(checks=[PASSED, failed]), "timeout", "It took long."))["result"] == "failed"


def test_phases_of_a_restore_that_failed_come_after_those_before() -> None:
    given = record()
    take_phases(given, {"set": 2.0, "stack": 10.0})
    ended = validated(break_off(given, "restore_failed", "PostgreSQL says no.", {"phases": {"verify": 3, "load": 4.5}}))
    assert [(each["name"], each["start"], each["seconds"]) for each in ended["phases"]] == [
        ("set", 0.0, 2.0),
        ("stack", 2.0, 10.0),
        ("restore_verify", 12.0, 3.0),
        ("restore_load", 15.0, 4.5),
    ]
    # The module that checks has them already.
    again = break_off(ended, "timeout", "It took long.", {"phases": {"verify": 3}})
    assert again["phases"] == ended["phases"]


def test_where_only_the_restore_was_told_its_end_is_when_it_answered() -> None:
    restored = {"phases": {"load": 4.0, "open": 1.5}, "diagnosis": "ok"}
    given = record()
    take_phases(given, {"stack": 10.0})
    assert validated(break_off(given, "host_unreachable", "It is gone.", restored))["rto"] == 15.5
    assert validated(break_off(given, "restore_failed", "No.", {**restored, "diagnosis": "x"}))["rto"] is None


@pytest.mark.parametrize(
    "wrong",
    [{"phases": {}}, {"checks": ["set"]}, {"set": None}, {"drill_id": 7}, {"started_at": None}, {"figures": []}],
)
def test_what_is_no_beginning_of_a_record(wrong: dict[str, Any]) -> None:
    with pytest.raises(CentralError) as caught:
        require_begun(record(**wrong))
    assert caught.value.diagnosis == "bad_option"
    assert next(iter(wrong)) in caught.value.message


def test_a_record_that_goes_on_is_another_one() -> None:
    given = record(checks=[PASSED])
    require_begun(given)["checks"].append(PASSED)
    assert given["checks"] == [PASSED]


@pytest.mark.parametrize(
    ("given", "diagnosis"),
    [
        ({"central": "../../x"}, "bad_name"),
        ({"started_at": "yesterday"}, "bad_option"),
    ],
)
def test_what_no_record_can_begin_with(given: dict[str, str], diagnosis: str) -> None:
    with pytest.raises(CentralError) as caught:
        begin(**{"central": "central.example.org", "depth": "quick", **given})
    assert caught.value.diagnosis == diagnosis


def test_phases_that_are_none() -> None:
    for phases in (["load"], {"load": "long"}, "load"):
        with pytest.raises(CentralError) as caught:
            break_off(record(), "timeout", "It took long.", {"phases": phases})
        assert caught.value.diagnosis == "bad_option"


def test_how_long_it_took_stays_when_the_checks_break_off() -> None:
    ended = validated(break_off(record(rto=41.5), "docker_unavailable", "No Docker."))
    assert (ended["result"], ended["rto"]) == ("error", 41.5)
