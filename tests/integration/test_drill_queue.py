# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""drill.yml where no drill comes to be: each Central has its turn, and its report wherever one can be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support import PlaybookResult
from support.playbooks import run_playbook

PASSPHRASE = "correct horse battery staple 42"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    for name in ("lost", "empty", "other"):
        (path / name / "sets").mkdir(parents=True)
    return path


def host(repository: Path, **variables: Any) -> dict[str, Any]:
    return {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "central_project_directory": str(repository.parent),
        "central_repository": str(repository),
        "central_drill_root": str(repository.parent / "drills"),
        **variables,
    }


def drill(folder: Path, hosts: dict[str, Any], check: bool = False) -> PlaybookResult:
    inventory, extra = folder / "inventory.json", folder / "variables.json"
    inventory.write_text(json.dumps({"odk_central": {"hosts": hosts}}), "utf-8")
    extra.touch(mode=0o600)
    extra.write_text(json.dumps({"central_passphrase": PASSPHRASE}), "utf-8")
    return run_playbook("drill", inventory, extra, check=check, timeout=300)


def lost_once(variable: str) -> dict[str, Any]:
    """Variables of a host that cannot be reached any more once `variable` is defined."""
    connection = f"{{{{ 'ssh' if {variable} is defined else 'local' }}}}"
    return {"ansible_connection": connection, "ansible_host": "127.0.0.1", "ansible_port": 1}


def records(repository: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text("utf-8")) for path in (repository / name / "drills").glob("*.json")]


def test_a_host_lost_in_the_queue_keeps_none_of_the_others_from_its_turn(tmp_path: Path, repository: Path) -> None:
    # It answers until its place in the queue is known. Nothing listens on that port.
    gone = lost_once("drill_begun")
    hosts = {"empty": host(repository), "lost": host(repository, **gone), "other": host(repository)}
    # The one that is lost comes first.
    for name in ("empty", "other"):
        assert drill(tmp_path, {name: hosts[name]}).rc != 0
    outcome = drill(tmp_path, hosts)
    assert outcome.rc != 0
    stats = outcome.custom["_run"]["odkops_central_drill"]
    assert {name: found["diagnosis"] for name, found in stats.items()} == {
        "lost": "host_unreachable",
        "empty": "set_not_found",
        "other": "set_not_found",
    }
    assert "127.0.0.1" in stats["lost"]["message"]
    assert not [found for found in stats.values() if found["ok"]]
    assert [len(records(repository, name)) for name in ("lost", "empty", "other")] == [0, 2, 2]


def test_a_wrong_variable_of_one_host_keeps_none_of_the_others_from_its_turn(tmp_path: Path, repository: Path) -> None:
    hosts = {"empty": host(repository, central_drill_sample="many"), "other": host(repository)}
    outcome = drill(tmp_path, hosts)
    assert outcome.rc != 0
    stats = outcome.custom["_run"]["odkops_central_drill"]
    assert {name: found["diagnosis"] for name, found in stats.items()} == {
        "empty": "bad_option",
        "other": "set_not_found",
    }
    assert "many" in stats["empty"]["message"]
    assert len(records(repository, "other")) == 1


def test_in_check_mode_a_host_that_is_lost_is_said(tmp_path: Path, repository: Path) -> None:
    gone = lost_once("drill_began")
    outcome = drill(tmp_path, {"lost": host(repository, **gone)}, check=True)
    assert outcome.rc != 0
    assert "host_unreachable" in outcome.output


def test_when_the_budget_is_used_up_no_other_is_begun_with(tmp_path: Path, repository: Path) -> None:
    # The first one takes longer than there is time for all.
    slow = "{{ lookup('ansible.builtin.pipe', 'sleep %d; echo latest' | format(20 if drill_began is defined else 0)) }}"
    hosts = {"empty": host(repository, central_set=slow), "other": host(repository)}
    for variables in hosts.values():
        variables["central_drill_budget"] = 0.3
    outcome = drill(tmp_path, hosts)
    assert outcome.rc != 0
    stats = outcome.custom["_run"]["odkops_central_drill"]
    assert stats["empty"]["diagnosis"] == "set_not_found"
    assert stats["other"] == {"ok": True, "result": "skipped"}
    assert [len(records(repository, name)) for name in ("empty", "other")] == [1, 0]
    # It comes first the next time.
    hosts = {name: host(repository) for name in ("empty", "other")}
    again = drill(tmp_path, hosts)
    ids = {name: max(record["drill_id"] for record in records(repository, name)) for name in hosts}
    assert ids["other"] < ids["empty"], again.output


def test_a_drill_without_a_set_has_a_report(tmp_path: Path, repository: Path) -> None:
    outcome = drill(tmp_path, {"empty": host(repository, central_drill_depth="full")})
    assert outcome.rc != 0
    (record,) = records(repository, "empty")
    assert (record["result"], record["depth"], record["set"]["set_id"]) == ("error", "full", None)
    assert record["error"]["diagnosis"] == "set_not_found"
    assert 0 < record["elapsed"] < 300
    assert "Drill of empty: ERROR, full, without a set." in outcome.output
    assert "No RPO. No RTO" in outcome.output
    (page,) = (repository / "empty" / "drills").glob("*.html")
    assert "set_not_found" in page.read_text("utf-8")
    (junit,) = (repository / "empty" / "drills").glob("*.xml")
    assert 'errors="1"' in junit.read_text("utf-8")
    assert outcome.custom["_run"]["odkops_central_drill"]["empty"]["report"] == str(page)
    assert not list((tmp_path / "drills").glob("*"))


def test_without_a_repository_the_reason_is_still_said(tmp_path: Path, repository: Path) -> None:
    outcome = drill(tmp_path, {"empty": host(repository, central_repository=str(tmp_path / "none"))})
    assert outcome.rc != 0
    assert "none" in outcome.output
    assert not (tmp_path / "none").exists()
