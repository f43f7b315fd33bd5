# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The drills of a repository: written by central_drill_report, listed by central_drill_info, in processes of their own."""

from __future__ import annotations

import json
import os
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _drill_history
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository

from support import Result, run_module
from support.drills import BEGAN, CENTRAL, make_record
from support.sets import everything_below, small_disk


def report(root: Path, record: dict[str, Any], check: bool = False, central: str = CENTRAL) -> Result:
    return run_module(
        "central_drill_report", {"repository": str(root), "central": central, "record": record}, check=check
    )


def info(root: Path, **options: Any) -> Result:
    return run_module("central_drill_info", {"repository": str(root), **options})


def make_set(root: Path, central: str) -> str:
    set_id = "20261122T020000.123Z-0a1b2c3d"
    path = root / central / "sets" / set_id
    path.mkdir(parents=True)
    (path / "manifest.json").write_text("{}")
    return set_id


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir(mode=0o700)
    return path


def test_three_files_for_their_owner_alone(root: Path) -> None:
    record = make_record(failing=("rows",), kept="odkdrill-x")
    written = report(root, record)
    assert not written.failed, written
    assert written["changed"]
    folder = root / CENTRAL / "drills"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.suffix for path in folder.iterdir()} == {".json", ".xml", ".html"}
    for kind, path in written["paths"].items():
        file = Path(path)
        assert file == folder / f"{record['drill_id']}.{kind}"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(Path(written["paths"]["json"]).read_text()) == record
    assert Path(written["paths"]["html"]).read_text().startswith("<!DOCTYPE html>")
    summary = written["summary"]
    assert summary["result"] == "failed"
    assert summary["set_id"] == record["set"]["set_id"]
    assert (summary["rto"], summary["rpo"], summary["rto_text"]) == (record["rto"], record["rpo"], "3 min 41 s")
    assert (summary["failed_checks"], summary["checks"]) == (["rows"], {"passed": 10, "failed": 1, "skipped": 0})
    assert (summary["kept"], summary["report"]) == ("odkdrill-x", written["paths"]["html"])
    assert len(json.dumps(summary)) < 2000
    assert written["history"]["count"] == 1


def test_a_second_time_changes_nothing_and_another_record_replaces(root: Path) -> None:
    report(root, make_record(kept="odkdrill-x"))
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert report(root, make_record(kept="odkdrill-x"))["changed"] is False
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    again = report(root, make_record())
    assert again["changed"]
    assert json.loads(Path(again["paths"]["json"]).read_text())["kept"] is None
    assert again["history"]["count"] == 1
    assert len(list((root / CENTRAL / "drills").iterdir())) == 3


def test_check_mode_says_what_would_be_and_writes_nothing(root: Path) -> None:
    before = everything_below(root)
    checked = report(root, make_record(), check=True)
    assert checked["changed"]
    assert everything_below(root) == before
    written = report(root, make_record())
    for name in ("paths", "summary", "history"):
        assert written[name] == checked[name]
    assert report(root, make_record(), check=True)["changed"] is False
    content = {path: path.read_bytes() for path in root.rglob("*.*") if path.is_file()}
    assert report(root, make_record(kept="odkdrill-x"), check=True)["changed"]
    later = make_record(when=BEGAN + timedelta(days=1))
    assert report(root, later, check=True)["history"]["count"] == 2
    assert {path: path.read_bytes() for path in root.rglob("*.*") if path.is_file()} == content
    wrong = report(root, {**make_record(), "result": "failed"}, check=True)
    assert wrong.diagnosis == "bad_option"


def test_the_page_looks_back_and_not_forward(root: Path) -> None:
    records = [make_record(when=BEGAN + timedelta(days=days)) for days in range(3)]
    for record in records:
        written = report(root, record)
    assert [one["drill_id"] for one in written["history"]["last"]] == [one["drill_id"] for one in records[::-1]]
    page = Path(written["paths"]["html"]).read_text()
    assert f'href="{records[0]["drill_id"]}.html"' in page
    first = report(root, records[0])
    assert first["changed"] is False
    assert [one["drill_id"] for one in first["history"]["last"]] == [records[0]["drill_id"]]
    assert first["history"]["count"] == 3


@pytest.mark.parametrize("damage", ["", "{", '{"drill_id": 1}', "other", "link", "directory", "fifo"])
def test_a_damaged_record_is_named_and_fatal_to_nothing(root: Path, damage: str) -> None:
    old = make_record(when=BEGAN - timedelta(days=1))
    file = Path(report(root, old)["paths"]["json"])
    if damage == "link":
        file.rename(root / "elsewhere")
        file.symlink_to(root / "elsewhere")
    elif damage in ("directory", "fifo"):
        file.unlink()
        file.mkdir() if damage == "directory" else os.mkfifo(file)
    else:
        file.write_text(json.dumps(make_record()) if damage == "other" else damage)
    written = report(root, make_record())
    assert not written.failed, written
    (warning,) = written["warnings"]
    assert old["drill_id"] in str(warning)
    assert [one["drill_id"] for one in written["history"]["last"]] == [make_record()["drill_id"]]
    assert "1 record of earlier drills could not be read" in Path(written["paths"]["html"]).read_text()
    listed = info(root)
    assert not listed.failed
    assert len(listed["drills"]) == 1
    assert len(listed["warnings"]) == 1


@pytest.mark.parametrize(
    ("record", "central", "diagnosis"),
    [
        (make_record(), "other", "bad_option"),
        (make_record(central="../x"), "../x", "bad_name"),
        ({}, CENTRAL, "bad_option"),
        (make_record(drill_id="../../x"), CENTRAL, "bad_option"),
    ],
)
def test_failures_have_a_diagnosis_and_leave_nothing(
    root: Path, record: dict[str, Any], central: str, diagnosis: str
) -> None:
    failed = report(root, record, central=central)
    assert failed.diagnosis == diagnosis
    assert everything_below(root) == set()


def test_without_a_repository(tmp_path: Path) -> None:
    assert report(tmp_path / "none", make_record()).diagnosis == "not_a_repository"
    assert info(tmp_path / "none").diagnosis == "not_a_repository"
    assert everything_below(tmp_path) == set()


def test_nothing_is_written_through_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (root / CENTRAL).mkdir()
    (root / CENTRAL / "drills").symlink_to(tmp_path / "elsewhere")
    assert report(root, make_record()).diagnosis == "not_a_repository"
    assert everything_below(tmp_path / "elsewhere") == set()


def test_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="16k") as disk:
        result = report(disk, make_record())
        assert result.diagnosis == "disk_full"
        assert not [name for name in everything_below(disk) if "partial" in name]


def test_sets_and_drills_do_not_mind_each_other(root: Path) -> None:
    set_id = make_set(root, CENTRAL)
    report(root, make_record())
    repository = Repository(str(root))
    assert [entry.set_id for entry in repository.sets(CENTRAL)] == [set_id]
    assert repository.partials(CENTRAL) == []
    listed = run_module("central_set_info", {"repository": str(root)})
    assert [entry["set_id"] for entry in listed["sets"]] == [set_id]


def test_who_has_waited_longest_comes_first(root: Path) -> None:
    for central in ("new", "b", "a", "skipped", "broken"):
        make_set(root, central)
    for central, days, result in (
        ("a", 5, "passed"),
        ("b", 9, "passed"),
        ("skipped", 7, "passed"),
        ("skipped", 0, "skipped"),
        ("broken", 20, "passed"),
        ("broken", 1, "error"),
        ("retired", 30, "passed"),
    ):
        report(root, make_record(result, BEGAN - timedelta(days=days), central=central), central=central)
    listed = info(root)
    assert listed["changed"] is False
    assert [one["central"] for one in listed["centrals"]] == ["new", "retired", "b", "skipped", "a", "broken"]
    by_name = {one["central"]: one for one in listed["centrals"]}
    assert by_name["new"] == {
        "central": "new",
        "last_drilled": None,
        "last_drill_id": None,
        "last_result": None,
        "last_set_id": None,
        "last_passed": None,
        "count": 0,
        "newest_set": "20261122T020000.123Z-0a1b2c3d",
    }
    assert by_name["retired"]["newest_set"] is None
    assert by_name["skipped"]["last_drilled"] == "2026-11-16T03:30:12.000Z"
    assert by_name["skipped"]["count"] == 2
    assert by_name["broken"]["last_result"] == "error"
    assert by_name["broken"]["last_passed"] == "2026-11-03T03:30:12.000Z"
    skipped = info(root, central="skipped", last=1)
    assert [drill["result"] for drill in skipped["drills"]] == ["skipped"]
    assert skipped["centrals"][0]["last_drilled"] == "2026-11-16T03:30:12.000Z"
    one = info(root, central="broken", last=1)
    assert [drill["result"] for drill in one["drills"]] == ["error"]
    assert one["drills"][0]["diagnosis"] == "disk_full"
    assert Path(one["drills"][0]["path"]).is_file()
    assert one["centrals"][0]["count"] == 2
    assert len(info(root, central="broken", last=0)["drills"]) == 2
    assert info(root, central="broken", last=-1).diagnosis == "bad_option"


def test_other_files_are_no_drills(root: Path) -> None:
    folder = root / CENTRAL / "drills"
    folder.mkdir(parents=True)
    for name in ("index.html", "x.json", ".20261123T033012Z-7c41d2.json.1234.partial", "20261123T033012Z-7c41d2.xml"):
        (folder / name).write_text("{}")
    assert _drill_history.drill_ids(Repository(str(root)), CENTRAL) == []
    assert info(root)["drills"] == []
