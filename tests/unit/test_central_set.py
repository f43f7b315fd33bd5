# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules central_set and central_set_info, each in a process of its own, as Ansible runs them."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from support import Result, run_module
from support.sets import ABSENT, CONTENT, HELD, PASSPHRASE, database_part, everything_below, small_disk

FILE = "database.pgdump.enc.bin"


class Sets:
    """Calls the modules on one repository and one Central."""

    def __init__(self, root: Path, central: str = "demo") -> None:
        self.root, self.central = root, central

    def set(self, state: str, check: bool = False, **options: Any) -> Result:
        common = {"state": state, "repository": str(self.root), "central": self.central}
        return run_module("central_set", {**common, **options}, check=check)

    def info(self, **options: Any) -> Result:
        return run_module("central_set_info", {"repository": str(self.root), **options})

    def open(self) -> Result:
        opened = self.set("open")
        assert not opened.failed, opened
        (Path(opened["path"]) / FILE).write_bytes(CONTENT)
        return opened

    def seal(self, set_id: str, check: bool = False, **options: Any) -> Result:
        part = {name: value for name, value in database_part().items() if name != "file"}
        given = {"parts": {"database": part}, "absent": ABSENT, "database": HELD, "passphrase": PASSPHRASE}
        chosen = {name: value for name, value in {**given, **options}.items() if value is not None}
        return self.set("sealed", check, set_id=set_id, **chosen)

    def make(self, **options: Any) -> Result:
        sealed = self.seal(self.open()["set_id"], **options)
        assert not sealed.failed, sealed
        return sealed


@pytest.fixture
def sets(tmp_path: Path) -> Sets:
    return Sets(tmp_path / "repository")


def test_open_seal_list(sets: Sets) -> None:
    opened = sets.open()
    assert opened["changed"]
    assert opened["previous_sizes"] == {}
    assert opened["removed_partials"] == opened["notes"] == []
    assert sets.info()["sets"] == []
    (partial,) = sets.info()["partials"]
    assert partial["set_id"] == opened["set_id"]
    assert partial["path"] == opened["path"]
    assert 0 <= partial["age"] < 60

    sealed = sets.seal(
        opened["set_id"], notes=["A note."], identity={"url": "https://x"}, tools={"ansible_core": "2.19"}
    )
    assert sealed["changed"]
    assert sealed["authenticated"] is True
    assert sealed["parts_size"] == len(CONTENT)
    assert 0 <= sealed["seconds"] < 60
    assert sealed["central"] == "demo"
    path = Path(sealed["path"])
    assert path == sets.root / "demo" / "sets" / opened["set_id"]
    assert sorted(entry.name for entry in path.iterdir()) == [FILE, "manifest.json"]
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest == sealed["manifest"]
    assert manifest["notes"] == ["A note."]
    assert manifest["identity"] == {"url": "https://x"}
    assert manifest["tools"]["ansible_core"] == "2.19"
    assert manifest["parts"]["database"]["method"] == "api"
    assert PASSPHRASE not in opened.stdout + sealed.stdout + sealed.stderr

    assert sets.open()["previous_sizes"] == {"database": len(CONTENT)}


def test_sealing_is_idempotent(sets: Sets) -> None:
    sealed = sets.make()
    again = sets.seal(sealed["set_id"])
    assert not again.failed
    assert again["changed"] is False
    assert again["manifest"] == sealed["manifest"]
    assert sets.seal(sealed["set_id"], check=True)["changed"] is False


def test_a_file_of_another_name_is_renamed(sets: Sets) -> None:
    opened = sets.open()
    (Path(opened["path"]) / FILE).rename(Path(opened["path"]) / "database")
    sealed = sets.seal(opened["set_id"], parts={"database": database_part(format="zip")})
    assert sorted(entry.name for entry in Path(sealed["path"]).iterdir()) == ["database.zip", "manifest.json"]


def test_discarding_is_idempotent(sets: Sets) -> None:
    opened = sets.open()
    assert sets.set("discarded", check=True, set_id=opened["set_id"])["changed"] is True
    assert Path(opened["path"]).is_dir()
    assert sets.set("discarded", set_id=opened["set_id"])["changed"] is True
    assert everything_below(sets.root) == set()
    for check in (False, True):
        assert sets.set("discarded", check, set_id=opened["set_id"])["changed"] is False


def test_check_mode_changes_nothing(sets: Sets) -> None:
    opened = sets.set("open", check=True)
    assert opened["changed"]
    assert not sets.root.exists()
    real = sets.open()
    before = everything_below(sets.root)
    assert sets.seal(real["set_id"], check=True)["changed"]
    assert everything_below(sets.root) == before
    missing = sets.seal("20260101T000000.000Z-00000000", check=True)
    assert missing.failed
    assert missing.diagnosis == "not_a_set"


def test_passphrase_file(sets: Sets, tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_text(PASSPHRASE + "\n", "utf-8")
    sets.make(passphrase=None, passphrase_file=str(file))
    (found,) = sets.info(passphrase=PASSPHRASE)["sets"]
    assert found["authenticated"] is True


@pytest.mark.parametrize(
    ("state", "options", "diagnosis"),
    [
        ("open", {"central": "../x"}, "bad_name"),
        ("open", {"create_repository": False}, "not_a_repository"),
        ("discarded", {"set_id": "../x"}, "bad_name"),
        ("sealed", {"set_id": "20260101T000000.000Z-00000000", "parts": {"database": 1}}, "bad_manifest"),
        ("sealed", {"set_id": "20260101T000000.000Z-00000000", "parts": {"database": {}}}, "not_a_repository"),
        ("sealed", {"set_id": "x", "parts": {"a": {}}, "passphrase_file": "/nonexistent"}, "unreadable"),
    ],
)
def test_failures_have_a_diagnosis(sets: Sets, state: str, options: dict[str, Any], diagnosis: str) -> None:
    result = sets.set(state, **options)
    assert result.failed
    assert result.diagnosis == diagnosis
    assert len(result["msg"]) > 30
    assert not sets.root.exists()


@pytest.mark.parametrize(
    "options",
    [
        {"state": "sealed", "parts": {}},
        {"state": "discarded"},
        {"state": "gone"},
        {"state": "open", "passphrase": "a", "passphrase_file": "b"},
    ],
)
def test_options_that_do_not_go_together(sets: Sets, options: dict[str, Any]) -> None:
    assert sets.set(**options).failed


def test_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", options="nr_inodes=6") as disk:
        sets = Sets(disk / "repository")
        opened = sets.open()
        result = sets.seal(opened["set_id"])
        assert result.failed
        assert result.diagnosis == "disk_full"
        assert sets.info()["sets"] == []
        assert sets.set("discarded", set_id=opened["set_id"])["changed"]
        assert everything_below(sets.root) == set()


# --- central_set_info -------------------------------------------------------------------------------------------


def test_describing(sets: Sets) -> None:
    older, newer = sets.make(), sets.make(passphrase=None)
    other = Sets(sets.root, "other").make()
    listed = sets.info(passphrase=PASSPHRASE)
    assert listed["changed"] is False
    assert [entry["set_id"] for entry in listed["sets"]] == [newer["set_id"], older["set_id"], other["set_id"]]
    unsealed, good = listed["sets"][:2]
    assert good["diagnosis"] == "ok"
    assert good["authenticated"] is True
    assert good["key_id"] == older["manifest"]["authentication"]["key_id"]
    assert good["parts_size"] == len(CONTENT)
    assert good["absent"] == ABSENT
    assert good["parts"]["database"]["path"] == f"{older['path']}/{FILE}"
    assert good["started"] == older["manifest"]["started"]
    assert "manifest" not in good
    assert (unsealed["diagnosis"], unsealed["authenticated"]) == ("unauthenticated", False)
    assert "without one" in unsealed["problem"]

    unchecked = sets.info(central="demo")["sets"]
    assert [entry["authenticated"] for entry in unchecked] == [False, None]
    assert [entry["diagnosis"] for entry in unchecked] == ["ok", "ok"]
    assert unchecked[0]["key_id"] is None

    wrong = sets.info(central="demo", passphrase="another one")["sets"][1]
    assert (wrong["diagnosis"], wrong["authenticated"]) == ("wrong_passphrase", None)

    one = sets.info(central="demo", set=older["set_id"], passphrase=PASSPHRASE)["sets"]
    assert one[0]["manifest"] == older["manifest"]
    assert sets.info(central="demo", set="latest")["sets"][0]["set_id"] == newer["set_id"]
    latest = sets.info(central="demo", set="latest", passphrase=PASSPHRASE)
    assert latest.failed
    assert latest.diagnosis == "unauthenticated"
    allowed = sets.info(central="demo", set="latest", passphrase=PASSPHRASE, allow_unauthenticated=True)
    assert allowed["sets"][0]["authenticated"] is False


def test_set_that_was_tampered_with(sets: Sets) -> None:
    sealed = sets.make()
    file = Path(sealed["path"]) / "manifest.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text(file.read_text().replace('"public.submissions": 200', '"public.submissions": 201'))
    (entry,) = sets.info(passphrase=PASSPHRASE)["sets"]
    assert (entry["diagnosis"], entry["authenticated"]) == ("tampered", False)
    result = sets.info(central="demo", set="latest", passphrase=PASSPHRASE)
    assert result.failed
    assert result.diagnosis == "tampered"
    assert sets.info()["sets"][0]["authenticated"] is None


def test_part_that_is_missing(sets: Sets) -> None:
    sealed = sets.make()
    (Path(sealed["path"]) / FILE).unlink()
    (entry,) = sets.info()["sets"]
    assert entry["diagnosis"] == "missing_part"
    assert FILE in entry["problem"]


def test_nothing_to_find(sets: Sets) -> None:
    assert sets.info().diagnosis == "not_a_repository"
    sets.root.mkdir()
    assert sets.info()["sets"] == []
    assert sets.info(central="demo", set="latest").diagnosis == "set_not_found"
    assert sets.info(set="latest").failed  # of which Central?
