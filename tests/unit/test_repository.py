# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The repository: names, opening, listing, finding, discarding."""

from __future__ import annotations

import os
import re
import stat
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _directories, _repository, _set_names
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository
from hypothesis import given
from hypothesis import strategies as st

from support.sets import everything_below, small_disk

SET_ID = "20261122T020000.123Z-0a1b2c3d"
OTHER_ID = "20261123T020000.000Z-0a1b2c3d"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repository"


def failure(function: Any, *args: Any, **more: Any) -> CentralError:
    with pytest.raises(CentralError) as caught:
        function(*args, **more)
    return caught.value


def make_set(root: Path, set_id: str, central: str = "demo") -> Path:
    path = root / central / "sets" / set_id
    path.mkdir(parents=True)
    (path / "manifest.json").write_text("{}")
    return path


# --- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "central.example.org", "A-1_b", "_x", "-x", "x" * 128])
def test_names_of_centrals(name: str) -> None:
    assert _set_names.check_central_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "../a", "a b", "a\n", "a\0b", "\u00e9", "\u0661", "x" * 129]
)
def test_names_that_no_central_has(root: Path, name: str) -> None:
    repository = Repository(str(root))
    for function in (repository.open_set, repository.sets, repository.partials):
        assert failure(function, name).diagnosis == "bad_name"
    assert not root.exists()


@pytest.mark.parametrize(
    "set_id",
    [
        "",
        "..",
        "latest/..",
        "20261122T020000.123Z",
        "20261122T020000.123Z-0A1B2C3D",
        "20261322T020000.123Z-0a1b2c3d",
        "20261122T020000.123Z-0a1b2c3d/x",
        "20261122T020000.123Z-0a1b2c3d\n",
        "\u0662\u0660261122T020000.123Z-0a1b2c3d",
    ],
)
def test_ids_that_no_set_has(root: Path, set_id: str) -> None:
    root.mkdir()
    repository = Repository(str(root))
    for function in (repository.discard, repository.find, repository.set_path, repository.partial_path):
        assert failure(function, "demo", set_id).diagnosis == "bad_name"


@given(st.datetimes(datetime(2000, 1, 1), datetime(2200, 1, 1)))  # noqa: DTZ001
def test_ids_carry_their_time_and_sort_by_it(moment: datetime) -> None:
    first = moment.replace(tzinfo=timezone.utc)
    later = first + timedelta(milliseconds=1)
    set_id = _set_names.new_set_id(first)
    assert _set_names.set_id_time(set_id) == first.replace(microsecond=first.microsecond // 1000 * 1000)
    assert set_id < _set_names.new_set_id(later)
    assert _set_names.partial_id(_set_names.partial_name(set_id)) == set_id
    assert _set_names.utc_from_text(_set_names.utc_text(first)) == _set_names.set_id_time(set_id)


def test_id_is_in_utc() -> None:
    moment = datetime(2026, 11, 22, 4, 0, 0, 123999, timezone(timedelta(hours=2)))
    assert re.fullmatch(r"20261122T020000\.123Z-[0-9a-f]{8}", _set_names.new_set_id(moment))


# --- opening ----------------------------------------------------------------------------------------------------


def test_opening(root: Path) -> None:
    os.umask(0o022)
    before = datetime.now(timezone.utc) - timedelta(milliseconds=1)
    opened = Repository(str(root)).open_set("demo")
    moment = _set_names.set_id_time(opened.set_id)
    assert moment is not None
    assert before <= moment <= datetime.now(timezone.utc)
    assert opened.path == f"{root}/demo/sets/.{opened.set_id}.partial"
    assert everything_below(root) == {"demo", "demo/sets", f"demo/sets/.{opened.set_id}.partial"}
    for path in (root, *root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    again = Repository(str(root)).open_set("demo")
    assert again.set_id != opened.set_id
    assert again.removed_partials == []
    assert Path(opened.path).is_dir()


def test_opening_in_check_mode_makes_nothing(root: Path) -> None:
    opened = Repository(str(root)).open_set("demo", check_mode=True)
    assert not root.exists()
    assert opened.path.endswith(".partial")


def test_repository_is_not_made_unless_wanted(root: Path) -> None:
    for check_mode in (False, True):
        error = failure(Repository(str(root)).open_set, "demo", create=False, check_mode=check_mode)
        assert error.diagnosis == "not_a_repository"
        assert not root.exists()
    root.mkdir()
    assert Repository(str(root)).open_set("demo", create=False).path


def test_relative_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert failure(Repository, "repository").diagnosis == "not_a_repository"


@pytest.mark.parametrize("place", ["", "demo", "demo/sets"])
@pytest.mark.parametrize("what", ["file", "link", "dangling"])
@pytest.mark.parametrize("check_mode", [False, True])
def test_something_else_in_place_of_a_directory(tmp_path: Path, place: str, what: str, check_mode: bool) -> None:
    root = tmp_path / "repository"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = root / place if place else root
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "file":
        path.write_text("x")
    else:
        path.symlink_to(elsewhere if what == "link" else tmp_path / "absent")

    def use() -> None:
        Repository(str(root)).open_set("demo", check_mode=check_mode)

    if not place and what != "file":
        # The administrator may say where the repository is by a link; nothing below it may be one.
        use()
        return
    before = everything_below(tmp_path)
    assert failure(use).diagnosis == "not_a_repository"
    assert everything_below(tmp_path) == before
    if place:
        repository = Repository(str(root))
        for function in (repository.discard, repository.find):
            assert failure(function, "demo", SET_ID).diagnosis == "not_a_repository"


def test_set_and_partial_that_are_links(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "repository", tmp_path / "elsewhere"
    sets = root / "demo" / "sets"
    sets.mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "manifest.json").write_text("{}")
    (sets / SET_ID).symlink_to(elsewhere)
    (sets / f".{OTHER_ID}.partial").symlink_to(elsewhere)
    repository = Repository(str(root))
    assert repository.sets("demo") == []
    assert repository.partials("demo") == []
    assert failure(repository.find, "demo", SET_ID).diagnosis == "not_a_repository"
    assert failure(repository.discard, "demo", OTHER_ID).diagnosis == "not_a_repository"
    assert (elsewhere / "manifest.json").exists()


def test_repository_that_others_may_write_in(root: Path) -> None:
    root.mkdir()
    root.chmod(0o770)
    notes = Repository(str(root)).open_set("demo").notes
    assert len(notes) == 1
    assert "Other users can write" in notes[0]


def test_set_from_the_future(root: Path) -> None:
    make_set(root, "20991231T000000.000Z-00000000")
    notes = Repository(str(root)).open_set("demo").notes
    assert any("from the future" in note for note in notes)


def unprivileged(function: Any) -> int:
    """Run `function` in a process that is not root; return its exit code (0 where it returned, 1 where it raised)."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            function()
            code = 0
        except CentralError as error:
            code = 10 if error.diagnosis == "destination_not_writable" else 11
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("check_mode", [False, True])
def test_repository_that_this_user_may_not_write_in(tmp_path: Path, check_mode: bool) -> None:
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    root = tmp_path / "repository"
    root.mkdir(mode=0o555)
    root.chmod(0o555)
    assert unprivileged(lambda: Repository(str(root)).open_set("demo", check_mode=check_mode)) == 10
    assert everything_below(root) == set()


def test_disk_without_room_for_a_directory(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", options="nr_inodes=4") as disk:
        root = disk / "repository"
        error = failure(Repository(str(root)).open_set, "demo")
        assert error.diagnosis == "disk_full"
        assert everything_below(disk) == set()


@pytest.mark.parametrize("fail_at", range(4))
def test_nothing_is_left_when_a_directory_cannot_be_made_durable(
    root: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    calls = []

    def fsync(path: str) -> None:
        calls.append(path)
        if len(calls) > fail_at:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(_directories, "fsync_directory", fsync)
    assert failure(Repository(str(root)).open_set, "demo").diagnosis == "destination_not_writable"
    assert not root.exists()


def test_empty_directories_that_another_run_takes_away_meanwhile(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.mkdir
    taken = []

    def mkdir(path: Any, mode: int = 0o777) -> None:
        if str(path).endswith(".partial") and not taken:
            taken.append(path)
            (root / "demo" / "sets").rmdir()
            (root / "demo").rmdir()
        real(path, mode)

    monkeypatch.setattr(_directories.os, "mkdir", mkdir)
    assert Path(Repository(str(root)).open_set("demo").path).is_dir()
    assert taken


# --- what killed runs have left ---------------------------------------------------------------------------------


def age(path: Path, hours: float) -> None:
    moment = time.time() - hours * 3600
    for each in (*path.rglob("*"), path):
        os.utime(each, (moment, moment), follow_symlinks=False)


def test_stale_partials(root: Path) -> None:
    sets = root / "demo" / "sets"
    names = {
        "left": "20200101T000000.000Z-00000001",
        "active": "20200101T000000.000Z-00000002",
        "young": _set_names.new_set_id(datetime.now(timezone.utc) - timedelta(hours=2)),
    }
    for set_id in names.values():
        (sets / f".{set_id}.partial").mkdir(parents=True)
        (sets / f".{set_id}.partial" / "database").write_text("x")
        age(sets / f".{set_id}.partial", 30)
    (sets / f".{names['active']}.partial" / "database").touch()
    age(sets / f".{names['young']}.partial", 40)  # its clock says otherwise: the id counts too
    (sets / ".something.partial").mkdir()
    (sets / ".20200101T000000.000Z-00000004.partial").write_text("a file")
    repository = Repository(str(root))
    assert [partial.set_id for partial in repository.partials("demo")] == sorted(names.values(), reverse=True)
    assert repository.open_set("demo", check_mode=True).removed_partials == [names["left"]]
    assert (sets / f".{names['left']}.partial").is_dir()
    assert repository.open_set("demo").removed_partials == [names["left"]]
    assert not (sets / f".{names['left']}.partial").exists()
    assert (sets / f".{names['active']}.partial" / "database").exists()
    assert repository.open_set("demo", stale_after=timedelta(hours=1)).removed_partials == [names["young"]]
    assert (sets / ".something.partial").is_dir()


def test_stale_partials_of_another_central_are_left(root: Path) -> None:
    left = root / "other" / "sets" / f".{SET_ID}.partial"
    left.mkdir(parents=True)
    age(left, 1000)
    assert Repository(str(root)).open_set("demo").removed_partials == []
    assert left.is_dir()


# --- listing and finding ----------------------------------------------------------------------------------------


def test_listing_and_finding(root: Path) -> None:
    ids = ["20261122T020000.123Z-ffffffff", "20261123T020000.000Z-00000000", "20261122T020000.123Z-00000000"]
    for set_id in ids:
        make_set(root, set_id)
    make_set(root, OTHER_ID, central="other")
    sets = root / "demo" / "sets"
    (sets / "20270101T000000.000Z-00000000").mkdir()  # never sealed
    (sets / ".20270101T000000.000Z-00000000.partial").mkdir()
    (sets / "lost+found").mkdir()
    (root / "lost+found").mkdir()
    (root / ".hidden" / "sets").mkdir(parents=True)
    (root / "a file").write_text("x")
    repository = Repository(str(root))
    assert repository.centrals() == ["demo", "other"]
    assert [entry.set_id for entry in repository.sets("demo")] == [ids[1], ids[0], ids[2]]
    assert repository.sets("absent") == []
    assert repository.find("demo", "latest") == ("demo", ids[1], str(sets / ids[1]))
    assert repository.find("demo", ids[2]).set_id == ids[2]
    assert failure(repository.find, "demo", SET_ID).diagnosis == "set_not_found"
    assert failure(repository.find, "absent", "latest").diagnosis == "set_not_found"
    assert failure(repository.find, "demo", "20270101T000000.000Z-00000000").diagnosis == "not_a_set"


def test_finding_without_a_repository(root: Path) -> None:
    repository = Repository(str(root))
    assert failure(repository.find, "demo", "latest").diagnosis == "not_a_repository"
    assert repository.sets("demo") == []


# --- discarding -------------------------------------------------------------------------------------------------


def test_discarding(root: Path) -> None:
    repository = Repository(str(root))
    opened = repository.open_set("demo")
    (Path(opened.path) / "database").write_text("x")
    (Path(opened.path) / "deeper").mkdir()
    (Path(opened.path) / "deeper" / "x").write_text("x")
    assert repository.discard("demo", opened.set_id, check_mode=True) is True
    assert Path(opened.path).is_dir()
    assert repository.discard("demo", opened.set_id) is True
    assert everything_below(root) == set()
    assert repository.discard("demo", opened.set_id) is False
    assert root.is_dir()


def test_discarding_leaves_the_other_runs_alone(root: Path) -> None:
    repository = Repository(str(root))
    first, second = repository.open_set("demo"), repository.open_set("demo")
    repository.discard("demo", first.set_id)
    assert Path(second.path).is_dir()


def test_a_sealed_set_is_not_discarded(root: Path) -> None:
    path = make_set(root, SET_ID)
    for check_mode in (False, True):
        error = failure(Repository(str(root)).discard, "demo", SET_ID, check_mode=check_mode)
        assert error.diagnosis == "set_sealed"
    assert (path / "manifest.json").exists()


def test_discarding_what_cannot_be_removed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository(str(root))
    opened = repository.open_set("demo")

    def rmtree(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(_directories.shutil, "rmtree", rmtree)
    error = failure(repository.discard, "demo", opened.set_id)
    assert error.diagnosis == "destination_not_writable"
    assert opened.path in error.message


# --- the salt of the key ids ------------------------------------------------------------------------------------


def test_key_id_salt(root: Path) -> None:
    repository = Repository(str(root))
    (root / "demo").mkdir(parents=True)
    assert repository.key_id_salt("demo") is None
    salt = repository.make_key_id_salt("demo")
    assert len(salt) == 16
    assert repository.key_id_salt("demo") == salt
    file = root / "demo" / _repository.KEY_ID_SALT_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == salt.hex() + "\n"
    assert repository.make_key_id_salt("demo") == salt  # the one that is there stays
    for content in ("", "zz", salt.hex()[:-2], salt.hex() + "00", "\xff"):
        file.write_bytes(content.encode("latin-1"))
        assert failure(repository.key_id_salt, "demo").diagnosis == "not_a_repository"
