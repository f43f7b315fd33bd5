# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sealing a set: whole or not at all, whenever it fails and whenever its process is killed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _atomic, _manifest, _repository, _seal
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository
from ansible_collections.odkops.central.plugins.module_utils._seal import SealedSet, SetFacts

from support.sets import ABSENT, CONTENT, HELD, PASSPHRASE, database_part, everything_below, small_disk

FILE = "database.pgdump.enc.bin"


class Making:
    """A set that was opened and has its database part."""

    def __init__(self, root: Path, content: bytes = CONTENT) -> None:
        self.repository = Repository(str(root))
        self.opened = self.repository.open_set("demo")
        self.content = content
        self.partial = Path(self.opened.path)
        self.final = self.partial.with_name(self.opened.set_id)
        (self.partial / "database").write_bytes(content)

    def seal(self, passphrase: str | None = PASSPHRASE, check_mode: bool = False, **changes: Any) -> SealedSet:
        arguments = {
            "parts": {"database": database_part(self.content)},
            "facts": SetFacts(ABSENT, {}, HELD, {}, []),
            **changes,
        }
        return _seal.seal_set(
            self.repository, "demo", self.opened.set_id, passphrase=passphrase, check_mode=check_mode, **arguments
        )

    def diagnosis(self, **changes: Any) -> str:
        with pytest.raises(CentralError) as caught:
            self.seal(**changes)
        assert not self.final.exists()
        return caught.value.diagnosis

    def assert_sealed(self) -> None:
        """Look at the disk with nothing of the code under test."""
        assert not self.partial.exists()
        assert sorted(os.listdir(self.final)) == [FILE, "manifest.json"]
        assert (self.final / FILE).read_bytes() == self.content
        manifest = json.loads((self.final / "manifest.json").read_text())
        assert manifest["parts"]["database"]["sha256"] == hashlib.sha256(self.content).hexdigest()
        assert manifest["parts"]["database"]["file"] == FILE
        assert manifest["set_id"] == self.opened.set_id
        assert manifest["central"] == "demo"
        assert manifest["absent"] == ABSENT

    def assert_not_sealed(self) -> None:
        """No set, and what there is can be discarded without a trace."""
        assert not self.final.exists()
        assert Repository(self.repository.path).sets("demo") == []
        assert self.repository.discard("demo", self.opened.set_id)
        assert everything_below(Path(self.repository.path)) == set()


@pytest.fixture
def making(tmp_path: Path) -> Making:
    return Making(tmp_path / "repository")


# --- as it should be --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passphrase", [PASSPHRASE, None])
def test_sealing(making: Making, passphrase: str | None) -> None:
    os.chmod(making.partial / "database", 0o644)
    sealed = making.seal(passphrase)
    assert sealed.changed
    assert sealed.path == str(making.final)
    making.assert_sealed()
    assert json.loads((making.final / "manifest.json").read_text()) == sealed.manifest
    assert stat.S_IMODE(making.final.stat().st_mode) == 0o700
    for path in making.final.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    entry = making.repository.find("demo", "latest")
    found = _seal.inspect_set(entry, passphrase)
    assert found == {"authenticated": passphrase is not None, "manifest": sealed.manifest}
    names = everything_below(Path(making.repository.path))
    assert ("demo/key-id.salt" in names) is (passphrase is not None)


def test_times_and_tools(making: Making) -> None:
    manifest = making.seal().manifest
    assert manifest["started"] <= manifest["finished"] <= manifest["sealed"]
    stamp = making.opened.set_id
    assert manifest["started"] == f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:11]}:{stamp[11:13]}:{stamp[13:20]}"
    assert manifest["tools"]["collection"] == _manifest.COLLECTION_VERSION
    assert set(manifest["tools"]) == {"collection", "python", "cryptography", "requests", "isal", "zstandard", "lz4"}


def test_sealing_again_changes_nothing(making: Making) -> None:
    making.seal()
    before = (making.final / "manifest.json").read_bytes()
    again = making.seal()
    assert not again.changed
    assert again.manifest == json.loads(before)
    assert (making.final / "manifest.json").read_bytes() == before
    with pytest.raises(CentralError) as caught:
        making.seal(parts={"database": {**database_part(), "sha256": "00" * 32}})
    assert caught.value.diagnosis == "set_sealed"


def test_check_mode_reads_and_changes_nothing(making: Making) -> None:
    before = everything_below(Path(making.repository.path))
    assert making.seal(check_mode=True).changed
    assert everything_below(Path(making.repository.path)) == before
    (making.partial / "database").write_bytes(CONTENT[:-1] + b"x")
    assert making.diagnosis(check_mode=True) == "corrupt"


def test_same_passphrase_same_key_id_also_when_the_salt_is_lost(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    ids = []
    for lose in (False, False, True):
        if lose:
            (root / "demo" / "key-id.salt").unlink()
        ids.append(Making(root).seal().manifest["authentication"]["key_id"])
    assert len(set(ids)) == 1
    assert Making(root).seal("another passphrase").manifest["authentication"]["key_id"] not in ids
    assert Making(tmp_path / "another").seal().manifest["authentication"]["key_id"] not in ids


# --- what is refused --------------------------------------------------------------------------------------------


def changed_part(**changes: Any) -> dict[str, Any]:
    return {"parts": {"database": {**database_part(), **changes}}}


@pytest.mark.parametrize(
    ("changes", "diagnosis"),
    [
        (changed_part(size=1), "corrupt"),
        (changed_part(sha256="00" * 32), "corrupt"),
        (changed_part(file="absent"), "missing_part"),
        (changed_part(file="../database"), "bad_name"),
        (changed_part(file=".."), "bad_name"),
        (changed_part(file=""), "bad_name"),
        (changed_part(format="exe"), "bad_name"),
        (changed_part(size="many"), "bad_manifest"),
        (changed_part(ratio=0.5), "bad_manifest"),
        ({"parts": {"database": {"file": "database"}}}, "bad_manifest"),
        ({"parts": {"mail": database_part()}}, "bad_manifest"),
        ({"parts": {}}, "bad_manifest"),
        ({"facts": SetFacts({}, {}, {}, {}, [])}, "bad_manifest"),
        ({"facts": SetFacts(ABSENT, {}, {"x": 1.5}, {}, [])}, "bad_manifest"),
    ],
)
def test_what_is_refused(making: Making, changes: dict[str, Any], diagnosis: str) -> None:
    assert making.diagnosis(**changes) == diagnosis
    making.assert_not_sealed()


def test_link_in_place_of_a_part(making: Making, tmp_path: Path) -> None:
    (making.partial / "database").unlink()
    (tmp_path / "elsewhere").write_bytes(CONTENT)
    (making.partial / "database").symlink_to(tmp_path / "elsewhere")
    assert making.diagnosis() == "missing_part"


def test_pipe_in_place_of_a_part(making: Making) -> None:
    (making.partial / "database").unlink()
    os.mkfifo(making.partial / "database")
    assert making.diagnosis() == "missing_part"


@pytest.mark.parametrize("name", ["stray", ".database.12345678.partial", "database.zip"])
def test_file_that_is_no_part(making: Making, name: str) -> None:
    (making.partial / name).write_text("x")
    assert making.diagnosis() == "unexpected_file"
    making.assert_not_sealed()


def test_nothing_opened(making: Making) -> None:
    making.repository.discard("demo", making.opened.set_id)
    assert making.diagnosis() == "not_a_set"


def test_part_name_is_taken(making: Making) -> None:
    (making.partial / FILE).write_text("x")
    assert making.diagnosis() == "unexpected_file"


# --- it fails, or is killed, at each step -----------------------------------------------------------------------

STEPS: list[tuple[Any, str]] = [
    (_seal.os, "fchmod"),
    (_seal.os, "fsync"),
    (_seal.os, "rename"),
    (_atomic.os, "link"),
    (_seal, "fsync_directory"),
    (_atomic, "fsync_directory"),
]


@pytest.fixture
def cheap_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive keys at no cost, where a test seals a hundred times. scrypt is tested in test_manifest.py."""
    monkeypatch.setattr(
        _manifest, "derive_key", lambda passphrase, salt: hashlib.sha256(passphrase.encode() + salt).digest()
    )


class Break:
    """Stands for a function; at its `nth` call it does something else, before or after it has done its work."""

    def __init__(self, real: Callable[..., Any], nth: int, after: bool, instead: Callable[[], None]) -> None:
        self.real, self.nth, self.after, self.instead, self.calls = real, nth, after, instead, 0

    def __call__(self, *args: Any, **more: Any) -> Any:
        self.calls += 1
        if self.calls != self.nth:
            return self.real(*args, **more)
        if not self.after:
            self.instead()
        result = self.real(*args, **more)
        self.instead()
        return result


def full() -> None:
    raise OSError(28, "No space left on device")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("cheap_keys")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("nth", [1, 2, 3, 4])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[0].__name__.rpartition('.')[2]}.{step[1]}")
def test_an_error_at_each_step(
    making: Making, monkeypatch: pytest.MonkeyPatch, step: tuple[Any, str], nth: int, after: bool
) -> None:
    broken = Break(getattr(*step), nth, after, full)
    with monkeypatch.context() as patch:
        patch.setattr(*step, broken)
        failed = None
        try:
            making.seal()
        except CentralError as error:
            failed = error.diagnosis
    if failed is None:
        assert broken.calls < nth, "an error was swallowed"
        making.assert_sealed()
    else:
        assert failed == "disk_full"
        making.assert_not_sealed()


@pytest.mark.usefixtures("cheap_keys")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[0].__name__.rpartition('.')[2]}.{step[1]}")
def test_killed_at_each_step(
    making: Making, monkeypatch: pytest.MonkeyPatch, step: tuple[Any, str], nth: int, after: bool
) -> None:
    """Afterwards there is a whole set or none, and sealing again makes it whole."""
    child = os.fork()
    if child == 0:
        try:
            setattr(step[0], step[1], Break(getattr(*step), nth, after, kill))
            making.seal()
        finally:
            os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    entries = Repository(making.repository.path).sets("demo")
    if making.final.exists():
        making.assert_sealed()
        assert [entry.set_id for entry in entries] == [making.opened.set_id]
        assert _seal.inspect_set(entries[0], PASSPHRASE)["authenticated"]
    else:
        assert killed
        assert entries == []
        assert making.seal().changed
        making.assert_sealed()
        assert _seal.inspect_set(making.repository.find("demo", "latest"), PASSPHRASE)["authenticated"]


def test_killed_and_discarded(making: Making) -> None:
    child = os.fork()
    if child == 0:
        _seal.os.rename = Break(os.rename, 2, False, kill)  # type: ignore[assignment]
        try:
            making.seal(None)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert sorted(os.listdir(making.partial)) == [FILE, "manifest.json"]
    making.assert_not_sealed()


def test_full_disk(tmp_path: Path) -> None:
    """A real one: what is left of it does not hold the manifest."""
    with small_disk(tmp_path / "disk", size="64k") as disk:
        making = Making(disk / "repository", CONTENT)
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))
        assert making.diagnosis() == "disk_full"
        filler.unlink()
        making.assert_not_sealed()


def test_part_changed_on_the_disk_while_it_was_made(making: Making) -> None:
    content = bytearray(CONTENT)
    content[5000] ^= 1
    (making.partial / "database").write_bytes(content)
    assert making.diagnosis() == "corrupt"


# --- looking at sealed sets -------------------------------------------------------------------------------------


def inspect(making: Making, passphrase: str | None = PASSPHRASE) -> str:
    with pytest.raises(CentralError) as caught:
        _seal.inspect_set(making.repository.find("demo", "latest"), passphrase)
    return caught.value.diagnosis


def test_part_missing_or_of_another_size(making: Making) -> None:
    making.seal()
    part = making.final / FILE
    part.write_bytes(CONTENT + b"x")
    assert inspect(making) == "corrupt"
    part.unlink()
    assert inspect(making) == "missing_part"
    part.symlink_to("/etc/hostname")
    assert inspect(making) == "missing_part"


def test_renamed_set(making: Making) -> None:
    making.seal()
    making.final.rename(making.final.with_name("20991231T000000.000Z-00000000"))
    assert inspect(making) == "tampered"
    assert inspect(making, None) == "tampered"


def test_set_of_another_central(making: Making) -> None:
    making.seal()
    root = Path(making.repository.path)
    (root / "demo").rename(root / "other")
    with pytest.raises(CentralError) as caught:
        _seal.inspect_set(making.repository.find("other", "latest"), None)
    assert caught.value.diagnosis == "tampered"


def test_sizes_of_newest(making: Making) -> None:
    assert _seal.sizes_of_newest(making.repository, "demo") == {}
    making.seal()
    assert _seal.sizes_of_newest(making.repository, "demo") == {"database": len(CONTENT)}
    newer = Path(making.repository.sets_path("demo")) / "20991231T000000.000Z-00000000"
    newer.mkdir()
    (newer / "manifest.json").write_text("{}")
    assert _seal.sizes_of_newest(making.repository, "demo") == {"database": len(CONTENT)}


def test_salt_file_that_is_damaged_stops_the_run(making: Making) -> None:
    (Path(making.repository.central_path("demo")) / _repository.KEY_ID_SALT_FILE).write_text("x")
    assert making.diagnosis() == "not_a_repository"
