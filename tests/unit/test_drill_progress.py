# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the record of a drill says that did not come to its end, wherever that was."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._drill_progress import begin, break_off, take_phases
from ansible_collections.odkops.central.plugins.module_utils._drill_record import validated

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


@pytest.mark.parametrize("diagnosis", ["tampered", "missing_part", "corrupt", "truncated"])
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


def test_how_long_it_took_stays_when_the_checks_break_off() -> None:
    ended = validated(break_off(record(rto=41.5), "docker_unavailable", "No Docker."))
    assert (ended["result"], ended["rto"]) == ("error", 41.5)
