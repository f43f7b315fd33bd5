# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Exports of sets, looked at with openssl, tar, sha256sum and rclone, and made on disks and pools that fail."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _set_export
from ansible_collections.odkops.central.plugins.module_utils._blob_args import open_pool
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pool_index import PoolIndex
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository
from ansible_collections.odkops.central.plugins.module_utils._seal import SetFacts, seal_set
from ansible_collections.odkops.central.plugins.module_utils._set_export_files import ExportDirectory
from ansible_collections.odkops.central.plugins.module_utils._set_export_look import SetExport
from ansible_collections.odkops.central.plugins.module_utils._tar_part import TarPart
from ansible_collections.odkops.central.plugins.modules import central_set_export

from support import Result, call_module, run_module
from support.archives import archives, openssl
from support.modules import module_command, module_environment, wire_arguments
from support.paths import ROOT
from support.s3_servers import (
    PASSPHRASE,
    clean_environment,
    content_of,
    entry_of,
    open_with_rclone,
    rclone_program,
    write_list,
)
from support.sets import HELD, everything_below, small_disk

CENTRAL = "central.example.org"
ENKETO = {"secrets/enketo-secret": b"e" * 64, "redis.jsonl": b"{}\n" * 500}
CONFIG = {"checkout/.env": b"DOMAIN=central.example.org\n"}
# Sizes around the blocks of rclone's format, in two directories of the pool.
OBJECTS = {1: 1, 2: 65536, 3: 65537, 999: 20_000, 1000: 200_000, 1001: 2000}


@dataclass
class Source:
    """A repository with one set of one Central."""

    root: Path
    passphrase: str | None
    set_id: str
    entries: list[BlobEntry]

    @property
    def set_path(self) -> Path:
        """The directory of the set."""
        return self.root / CENTRAL / "sets" / self.set_id

    @property
    def pool(self) -> Path:
        """The only pool."""
        (found,) = (self.root / CENTRAL / "pool").iterdir()
        return found

    def object(self, number: int) -> Path:
        """The file of an object."""
        (found,) = self.pool.glob(f"objects/*/blob-{number}-*")
        return found

    def options(self, dest: Path, **others: Any) -> dict[str, Any]:
        """The options of the module."""
        given = {
            "repository": str(self.root),
            "central": CENTRAL,
            "dest": str(dest),
            "passphrase": self.passphrase,
            "rclone_path": rclone_program(),
            **others,
        }
        return {name: value for name, value in given.items() if value is not None}

    def task(self, dest: Path) -> SetExport:
        """What the engine is told."""
        return SetExport(
            Repository(str(self.root)), CENTRAL, "latest", str(dest), self.passphrase, False, rclone_program()
        )

    def copy(self, folder: Path) -> Source:
        """The same elsewhere, to be spoilt."""
        shutil.copytree(self.root, folder, symlinks=True)
        return Source(folder, self.passphrase, self.set_id, self.entries)


def digest_of(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def fill_pool(pool: Path, passphrase: str | None, contents: dict[BlobEntry, bytes], folder: Path) -> None:
    """Encrypt objects with rclone, told as its documentation says."""
    for entry, content in contents.items():
        path = folder / str(entry.id // 1000) / entry.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (pool / "objects").mkdir(parents=True)
    environment = {**clean_environment(), "RCLONE_CONFIG": "/dev/null"}
    target = str(pool / "objects")
    if passphrase is not None:
        hidden = subprocess.run([rclone_program(), "obscure", passphrase], capture_output=True, text=True, check=True)
        environment.update(
            RCLONE_CONFIG_P_TYPE="crypt",
            RCLONE_CONFIG_P_REMOTE=target,
            RCLONE_CONFIG_P_FILENAME_ENCRYPTION="off",
            RCLONE_CONFIG_P_DIRECTORY_NAME_ENCRYPTION="false",
            RCLONE_CONFIG_P_PASSWORD=hidden.stdout.strip(),
        )
        target = "p:"
    subprocess.run([rclone_program(), "copy", str(folder), target], env=environment, check=True, capture_output=True)
    (pool / "lock").touch()
    PoolIndex(str(pool / "index.sqlite")).close()


def make_source(
    folder: Path,
    passphrase: str | None = PASSPHRASE,
    sizes: dict[int, int] | None = None,
    absent: Iterable[BlobEntry] = (),
    only: Iterable[str] = ("database", "enketo", "config", "blobs"),
    **facts: Any,
) -> Source:
    """A repository with a sealed set. The database is real, and openssl has encrypted it."""
    root = folder / "repository"
    contents = {entry_of(n, content_of(n, size)): content_of(n, size) for n, size in (sizes or OBJECTS).items()}
    repository = Repository(str(root))
    opened = repository.open_set(CENTRAL)
    partial, encrypted = Path(opened.path), {"encrypted": passphrase is not None}
    database = partial / "database.pgdump.enc.bin"
    database.write_bytes(openssl(archives(13).read(), passphrase=passphrase or ""))
    parts: dict[str, dict[str, Any]] = {
        "database": {"format": "pgdump.enc", "dump_version": "13.1", **digest_of(database), **encrypted}
    }
    for name, members in (("enketo", ENKETO), ("config", CONFIG)):
        if name in only:
            with TarPart(str(partial / f"{name}.tar.enc.bin"), passphrase) as part:
                for member, content in members.items():
                    part.add(member, content)
                part.commit()
            parts[name] = {"format": "tar.enc", **digest_of(partial / f"{name}.tar.enc.bin"), **encrypted}
    if "blobs" in only:
        pool = open_pool(repository, CENTRAL, passphrase)
        fill_pool(Path(pool.path), passphrase, contents, folder / "plain")
        blobs = write_list(partial / "blobs.jsonl", [*contents, *absent])
        parts["blobs"] = {"format": "jsonl", "pool": pool.name, **digest_of(blobs), **encrypted, **facts}
        parts["blobs"] = {name: value for name, value in parts["blobs"].items() if value is not None}
    missing = {
        name: "Not backed up,\x1b[2J\nin this test." for name in ("enketo", "config", "blobs") if name not in parts
    }
    held = SetFacts(missing, {"url": f"https://{CENTRAL}"}, HELD, {}, ["A note."])
    sealed = seal_set(repository, CENTRAL, opened.set_id, parts, held, passphrase)
    assert sealed.changed
    return Source(root, passphrase, opened.set_id, list(contents))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Source:
    purged = entry_of(77, b"purged")._replace(absent="purged")
    return make_source(tmp_path_factory.mktemp("source"), absent=[purged])


@pytest.fixture(scope="module")
def open_original(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """One without a passphrase."""
    return make_source(tmp_path_factory.mktemp("open"), passphrase=None)


@pytest.fixture
def source(original: Source, tmp_path: Path) -> Source:
    """One that may be spoilt."""
    return original.copy(tmp_path / "repository")


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Where exports go."""
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


def export(source: Source, dest: Path, check: bool = False, **options: Any) -> Result:
    return call_module(central_set_export.main, source.options(dest, **options), check=check)


def export_in_process(source: Source, dest: Path, check: bool = False, **options: Any) -> Result:
    """As Ansible does it, with warnings in the result."""
    return run_module("central_set_export", source.options(dest, **options), check=check)


def refused(source: Source, shelf: Path, **options: Any) -> Result:
    """An export that must fail and leave nothing."""
    before = everything_below(source.root)
    result = export(source, shelf / "export", **options)
    assert result.failed
    assert everything_below(shelf) == set(), result.result
    assert everything_below(source.root) == before
    return result


def assert_whole(dest: Path, source: Source) -> None:
    """Look at an export with nothing of the code under test."""
    sums = (dest / "SHA256SUMS").read_text()
    files = {name for name in everything_below(dest) if (dest / name).is_file()}
    assert {line[66:] for line in sums.splitlines()} == files - {"SHA256SUMS"}
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=dest, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout) == (0, b"")
    expected = {
        str(path.relative_to(source.root))
        for path in [*source.set_path.iterdir(), *source.pool.glob("objects/*/*"), *source.root.glob("*/key-id.salt")]
    }
    assert files == expected | {"README.txt", "SHA256SUMS"}
    for name in expected:
        assert (dest / name).read_bytes() == (source.root / name).read_bytes()
    for path in [dest, *dest.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


# --- as it should be --------------------------------------------------------------------------------------------


def test_everything_is_exported(original: Source, shelf: Path) -> None:
    before = everything_below(original.root)
    result = export_in_process(original, shelf / "export", set=original.set_id)
    assert not result.failed, result.result
    assert_whole(shelf / "export", original)
    files = [path for path in (shelf / "export").rglob("*") if path.is_file()]
    assert result["files"] == len(files) == 6 + 5 + 1 + 2
    assert result["total_size"] == sum(path.stat().st_size for path in files)
    assert (result["path"], result["set_id"]) == (str(shelf / "export"), original.set_id)
    assert (result["objects"], result["objects_absent"], result["authenticated"]) == (6, 1, True)
    assert (result["diagnosis"], result["changed"]) == ("ok", True)
    assert result.result.get("warnings", []) == []
    assert everything_below(original.root) == before
    assert [path.name for path in shelf.iterdir()] == ["export"]
    for text in (result.stdout, result.stderr, *(path.read_bytes().decode("latin-1") for path in files)):
        assert PASSPHRASE not in text


def test_an_export_is_a_repository(original: Source, shelf: Path) -> None:
    dest = shelf / "export"
    export(original, dest)
    common = {"repository": str(dest), "central": CENTRAL, "passphrase": PASSPHRASE}
    (found,) = run_module("central_set_info", {**common, "set": "latest"})["sets"]
    assert (found["diagnosis"], found["authenticated"], found["set_id"]) == ("ok", True, original.set_id)
    verified = run_module(
        "central_backup_verify", {"path": found["parts"]["database"]["path"], "passphrase": PASSPHRASE}
    )
    assert verified["diagnosis"] == "ok"
    pool = open_pool(Repository(str(dest)), CENTRAL, PASSPHRASE, check_mode=True)
    assert Path(pool.path).name == original.pool.name
    with PoolIndex(None) as index:
        difference = pool.compare(index)
    assert (difference.unknown, difference.foreign, difference.lost) == (6, [], [])
    open_with_rclone(Path(pool.path), PASSPHRASE, shelf / "opened")
    opened = {path.name: path.read_bytes() for path in (shelf / "opened").rglob("blob-*")}
    assert opened == {entry.name: content_of(entry.id, OBJECTS[entry.id]) for entry in original.entries}
    again = run_module("central_set_export", {**original.options(shelf / "again"), "repository": str(dest)})
    assert not again.failed, again.result
    assert everything_below(shelf / "again") == everything_below(dest)


def commands_of(readme: str) -> str:
    """The indented lines of README.txt."""
    return "\n".join(line[4:] for line in readme.splitlines() if line.startswith("    "))


@pytest.mark.parametrize("encrypted", [True, False])
def test_its_readme_opens_everything(original: Source, open_original: Source, shelf: Path, encrypted: bool) -> None:
    source, dest = original if encrypted else open_original, shelf / "a place with spaces"
    assert not export(source, dest).failed
    readme = (dest / "README.txt").read_text("utf-8")
    assert max(map(len, readme.splitlines())) <= 120
    assert ("NOT encrypted" in " ".join(readme.split())) != encrypted
    commands = commands_of(readme).replace("/path/to/an/empty/directory", str(shelf / "opened"))
    (shelf / "opened").mkdir()
    (shelf / "passphrase").write_text(PASSPHRASE + "\n")
    commands = commands.replace("/path/to/passphrase", str(shelf / "passphrase"))
    if shutil.which("pg_restore") is None:
        commands = re.sub(r"^pg_restore.*$", "", commands, flags=re.MULTILINE)
    environment = {**clean_environment(), "RCLONE_CONFIG": "/dev/null"}
    environment["PATH"] = f"{Path(rclone_program()).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands], cwd=dest, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if shutil.which("pg_restore") is not None:
        assert b"TABLE DATA" in done.stdout
    assert not re.search(rb"blob-", done.stdout)
    opened = shelf / "opened"
    assert (opened / "database.pgdump").read_bytes() == archives(13).read()
    for name, members in (("enketo", ENKETO), ("config", CONFIG)):
        for member, content in members.items():
            assert (opened / name / member).read_bytes() == content
    found = {path.name: path.read_bytes() for path in (opened / "objects").rglob("blob-*")}
    assert found == {entry.name: content_of(entry.id, OBJECTS[entry.id]) for entry in source.entries}
    assert stat.S_IMODE((opened / "database.pgdump").stat().st_mode) == 0o600


def test_the_readme_says_what_there_is_and_what_not(tmp_path: Path, shelf: Path) -> None:
    source = make_source(tmp_path, only=["database"])
    assert refused(source, shelf, passphrase=None).diagnosis == "wrong_passphrase"
    assert not export(source, shelf / "export", rclone_path="/nonexistent").failed
    text = (shelf / "export" / "README.txt").read_text("utf-8")
    assert "\x1b" not in text
    assert "- enketo: Not backed up, [2J in this test." in text
    assert "A note." in text
    assert f"https://{CENTRAL}" in text
    assert source.set_id in text
    assert "rclone" not in text
    assert everything_below(shelf / "export" / CENTRAL / "pool") == set()


def test_what_the_result_does_not_hide(open_original: Source, tmp_path: Path, shelf: Path) -> None:
    """A set without a passphrase, with a file that is none of it."""
    source = open_original.copy(tmp_path / "repository")
    (source.set_path / "notes.txt").write_text("mine")
    result = export_in_process(source, shelf / "export", rclone_path="/nonexistent")
    assert not result.failed, result.result
    assert result["authenticated"] is False
    assert len(result["warnings"]) == 2
    assert "notes.txt" in str(result["warnings"])
    (source.set_path / "notes.txt").unlink()
    assert_whole(shelf / "export", source)


def test_a_pool_that_the_manifest_does_not_name(tmp_path: Path, shelf: Path) -> None:
    source = make_source(tmp_path, sizes={5: 100}, pool=None)
    assert export(source, shelf / "export")["objects"] == 1
    odd = make_source(tmp_path / "odd", sizes={5: 100}, pool="../../../etc")
    failed = export(odd, shelf / "other")
    assert failed.diagnosis == "not_a_set"


def test_in_many_batches(original: Source, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_set_export, "BATCH", 2)
    (shelf / "link").symlink_to(shelf)
    _set_export.export_set(original.task(shelf / "link" / "export"))
    assert_whole(shelf / "export", original)


def test_a_backup_may_be_at_work_in_the_pool(source: Source, shelf: Path) -> None:
    pool = open_pool(Repository(str(source.root)), CENTRAL, PASSPHRASE)
    pool.prepare()
    try:
        assert not export(source, shelf / "export").failed
    finally:
        pool.release()


# --- check mode -------------------------------------------------------------------------------------------------


def test_check_mode(original: Source, shelf: Path) -> None:
    before = everything_below(original.root)
    result = export(original, shelf / "export", check=True)
    assert not result.failed, result.result
    assert everything_below(shelf) == set()
    assert everything_below(original.root) == before
    done = export(original, shelf / "export")
    for name in ("path", "set_id", "files", "objects", "objects_absent", "authenticated", "changed"):
        assert result[name] == done[name]
    used = sum(path.lstat().st_blocks * 512 for path in (shelf / "export").rglob("*"))
    assert used <= result["needed"] <= used + 2 * 1024 * 1024
    assert result["free"] > result["needed"]


# --- what is wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [False, True])
def test_missing_objects_are_named(source: Source, shelf: Path, check: bool) -> None:
    names = [source.object(number).name.removesuffix(".bin") for number in (2, 1000)]
    source.object(2).unlink()
    elsewhere = source.object(1000).rename(shelf.parent / "elsewhere")
    (source.pool / "objects" / "1" / f"{names[1]}.bin").symlink_to(elsewhere)
    result = refused(source, shelf, check=check)
    assert (result.diagnosis, result["missing"], result["wrong"]) == ("missing_blob", 2, 0)
    assert result["missing_objects"] == names
    assert all(name in result["msg"] for name in names)


def test_a_pool_that_is_gone(source: Source, shelf: Path) -> None:
    shutil.rmtree(source.pool)
    assert refused(source, shelf)["missing"] == 6


def damage(path: Path, how: str, other: Path) -> None:
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[-1] ^= 1
    elif how == "zeroed":
        data[100:4196] = bytes(4096)
    elif how == "nonce":
        data[20] ^= 1
    elif how == "replaced":
        data[:] = other.read_bytes()
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["flipped", "zeroed", "nonce", "replaced"])
def test_damaged_objects_are_named(tmp_path: Path, shelf: Path, how: str) -> None:
    source = make_source(tmp_path, sizes=dict.fromkeys(range(1, 9), 70000))
    for number in (3, 7):
        damage(source.object(number), how, source.object(1))
    assert not export(source, shelf / "export", check=True).failed
    result = refused(source, shelf)
    assert (result.diagnosis, result["missing"], result["wrong"]) == ("corrupt", 0, 2)
    assert result["wrong_objects"] == [source.object(number).name.removesuffix(".bin") for number in (3, 7)]


@pytest.mark.parametrize("check", [False, True])
def test_a_truncated_object_is_seen_without_reading(source: Source, shelf: Path, check: bool) -> None:
    with source.object(3).open("r+b") as file:
        file.truncate(65536)
    result = refused(source, shelf, check=check)
    assert (result.diagnosis, result["wrong"]) == ("corrupt", 1)


def test_a_damaged_object_that_is_not_encrypted(open_original: Source, tmp_path: Path, shelf: Path) -> None:
    source = open_original.copy(tmp_path / "repository")
    damage(source.object(3), "flipped", source.object(3))
    assert refused(source, shelf).diagnosis == "corrupt"


def test_an_object_that_goes_meanwhile(source: Source, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, gone = ExportDirectory.copy, source.object(999)

    def copy(self: ExportDirectory, path: str, name: str, durable: bool = False) -> Any:
        gone.unlink(missing_ok=True)
        return real(self, path, name, durable)

    monkeypatch.setattr(ExportDirectory, "copy", copy)
    with pytest.raises(CentralError) as caught:
        _set_export.export_set(source.task(shelf / "export"))
    assert caught.value.diagnosis == "missing_blob"
    assert everything_below(shelf) == set()


@pytest.mark.parametrize("file", ["database.pgdump.enc.bin", "config.tar.enc.bin", "blobs.jsonl"])
@pytest.mark.parametrize("check", [False, True])
def test_a_damaged_part(source: Source, shelf: Path, file: str, check: bool) -> None:
    path = source.set_path / file
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    assert refused(source, shelf, check=check).diagnosis == "corrupt"
    path.unlink()
    assert refused(source, shelf, check=check).diagnosis == "missing_part"


@pytest.mark.parametrize("check", [False, True])
def test_a_manifest_that_was_changed(source: Source, shelf: Path, check: bool) -> None:
    path = source.set_path / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "notes": ["All is well."]}))
    assert refused(source, shelf, check=check).diagnosis == "tampered"
    path.write_text(json.dumps({**manifest, "authenticated": False, "authentication": None}))
    assert refused(source, shelf, check=check).diagnosis == "unauthenticated"
    allowed = export_in_process(source, shelf / "export", allow_unauthenticated=True, check=check)
    assert allowed["authenticated"] is False
    assert "no HMAC" in str(allowed["warnings"])
    if not check:
        assert (shelf / "export" / CENTRAL / "key-id.salt").exists()


def test_a_manifest_that_is_replaced_meanwhile(source: Source, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = source.set_path / "manifest.json"

    def room(*_arguments: Any) -> int:
        path.write_text(path.read_text().replace("A note.", "Another."))
        return 0

    monkeypatch.setattr(_set_export, "check_room", room)
    with pytest.raises(CentralError) as caught:
        _set_export.export_set(source.task(shelf / "export"))
    assert caught.value.diagnosis == "tampered"
    assert everything_below(shelf) == set()


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize(
    ("options", "diagnosis"),
    [
        ({"passphrase": "another passphrase"}, "wrong_passphrase"),
        ({"passphrase": None}, "wrong_passphrase"),
        ({"passphrase": None, "allow_unauthenticated": True}, "wrong_passphrase"),
        ({"passphrase": 4711}, "bad_passphrase"),
        ({"set": "20261122T020000.123Z-0a1b2c3d"}, "set_not_found"),
        ({"set": "../x"}, "bad_name"),
        ({"central": "another"}, "set_not_found"),
        ({"central": "../x"}, "bad_name"),
        ({"repository": "/nonexistent/odk"}, "not_a_repository"),
        ({"rclone_path": "/nonexistent/rclone"}, "missing_rclone"),
    ],
)
def test_what_is_refused(original: Source, shelf: Path, options: dict[str, Any], diagnosis: str, check: bool) -> None:
    result = refused(original, shelf, check=check, **options)
    assert result.diagnosis == diagnosis, result.result


def test_encrypted_objects_of_a_set_without_hmac_need_the_passphrase(source: Source, shelf: Path) -> None:
    path = source.set_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "authenticated": False, "authentication": None}))
    assert refused(source, shelf, passphrase=None).diagnosis == "wrong_passphrase"


@pytest.mark.parametrize("check", [False, True])
def test_destinations(source: Source, shelf: Path, check: bool) -> None:
    (shelf / "file").write_text("x")
    (shelf / "empty").mkdir()
    (shelf / "dangling").symlink_to("nowhere")
    before = everything_below(shelf)
    for name, diagnosis in (
        ("file", "destination_exists"),
        ("empty", "destination_exists"),
        ("dangling", "destination_exists"),
        ("file/x", "destination_not_writable"),
        ("nowhere/x", "destination_not_writable"),
        (f"{source.root}/x", "bad_option"),
        (f"{source.root}/{CENTRAL}/x", "bad_option"),
    ):
        assert export(source, shelf / name, check=check).diagnosis == diagnosis, name
    assert everything_below(shelf) == before
    assert not (source.root / "x").exists()


# --- disks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [False, True])
def test_a_disk_without_room(original: Source, tmp_path: Path, check: bool) -> None:
    with small_disk(tmp_path / "disk", "512k") as disk:
        result = refused(original, disk, check=check)
        assert result.diagnosis == "disk_full"
        assert result["needed"] > result["free"] > 0
    with small_disk(tmp_path / "files", "16m", "nr_inodes=12") as disk:
        result = refused(original, disk, check=check)
        assert result.diagnosis == "disk_full"
        assert "df -i" in result["msg"]


@pytest.mark.parametrize(
    ("size", "options"), [(8, ""), (200, ""), (400, ""), (4096, "nr_inodes=9"), (4096, "nr_inodes=14")]
)
def test_a_disk_that_fills(
    original: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, options: str
) -> None:
    """Somebody else writes there at the same time, so that what was free is not."""
    monkeypatch.setattr(_set_export, "check_room", lambda *_arguments: 0)
    with small_disk(tmp_path / "disk", f"{size}k", options) as disk:
        with pytest.raises(CentralError) as caught:
            _set_export.export_set(original.task(disk / "export"))
        assert caught.value.diagnosis == "disk_full"
        assert everything_below(disk) == set()


def test_what_comes_back_changed(original: Source, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ExportDirectory.copy
    spoilt = "database"

    def copy(self: ExportDirectory, source: str, name: str, durable: bool = False) -> Any:
        done = real(self, source, name, durable)
        if spoilt in name:
            damage(Path(self.path_of(name)), "flipped", Path())
        return done

    monkeypatch.setattr(ExportDirectory, "copy", copy)
    with pytest.raises(CentralError, match="came back changed") as caught:
        _set_export.export_set(original.task(shelf / "export"))
    assert caught.value.diagnosis == "corrupt"
    spoilt = "blob-1000-"
    with pytest.raises(CentralError, match="blob-1000-") as caught:
        _set_export.export_set(original.task(shelf / "export"))
    assert caught.value.diagnosis == "corrupt"
    assert everything_below(shelf) == set()


def test_the_manifest_comes_last(original: Source, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After everything else is durable."""
    events: list[str] = []
    real_sync, real_write = ExportDirectory.sync, ExportDirectory.write

    def sync(self: ExportDirectory) -> None:
        events.append(f"sync {len(everything_below(Path(self.path)))}")
        real_sync(self)

    def write(self: ExportDirectory, name: str, data: Any) -> None:
        events.append(Path(name).name)
        real_write(self, name, data)

    monkeypatch.setattr(ExportDirectory, "sync", sync)
    monkeypatch.setattr(ExportDirectory, "write", write)
    _set_export.export_set(original.task(shelf / "export"))
    total = len(everything_below(shelf / "export"))
    assert events[-2:] == [f"sync {total - 1}", "manifest.json"]


# --- killed -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return make_source(tmp_path_factory.mktemp("large"), sizes=dict.fromkeys(range(1, 501), 20_000))


def stage(shelf: Path) -> str:
    """How far an export has come, as can be seen from outside."""
    if (shelf / "export").exists():
        return "done"
    for name, pattern in (
        ("sealing", f"{CENTRAL}/sets/*/manifest.json"),
        ("reading", ".names"),
        ("objects", f"{CENTRAL}/pool/*/objects/*"),
        ("parts", f"{CENTRAL}/sets/*/*"),
    ):
        if any(shelf.glob(f".export.*.partial/{pattern}")):
            return name
    return "begun" if any(shelf.glob(".export.*.partial")) else "nothing"


def rclones_of(folder: Path) -> list[str]:
    """Processes of rclone that read below a folder."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with contextlib.suppress(OSError):
                command = (path / "cmdline").read_bytes()
                if str(folder).encode() in command and b"rclone" in command.split(b"\0")[0]:
                    found.append(path.name)
    return found


@contextlib.contextmanager
def started(arguments: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        module_command("central_set_export"),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=module_environment(),
        cwd=tempfile.gettempdir(),
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(wire_arguments(arguments))
        process.stdin.close()
        yield process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("wanted", ["begun", "parts", "objects", "reading", "sealing"])
def test_killed_at_any_stage(large: Source, shelf: Path, wanted: str, number: signal.Signals) -> None:
    order = ["nothing", "begun", "parts", "objects", "reading", "sealing", "done"]
    with started(large.options(shelf / "export")) as process:
        until = time.monotonic() + 60
        while order.index(stage(shelf)) < order.index(wanted) and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.0005)
        process.send_signal(number)
        process.wait(20)
    if (shelf / "export").exists():
        # It was killed too late. Then all of it is there.
        assert wanted == "sealing"
        assert_whole(shelf / "export", large)
        return
    until = time.monotonic() + 15
    while rclones_of(shelf) and time.monotonic() < until:
        time.sleep(0.05)
    assert rclones_of(shelf) == []
    left = list(shelf.iterdir())
    assert len(left) == (number == signal.SIGKILL)
    assert all(re.fullmatch(r"\.export\.[0-9a-f]{8}\.partial", path.name) for path in left)
    if wanted != "sealing":
        assert not any(path.name == "manifest.json" for path in shelf.rglob("*"))
    assert run_module("central_set_info", {"repository": str(shelf)})["sets"] == []
    again = export(large, shelf / "export")
    assert not again.failed, again.result
    assert [path.name for path in shelf.iterdir()] == ["export"]
    assert_whole(shelf / "export", large)


def test_another_export_of_the_same_name_is_left_alone(original: Source, shelf: Path) -> None:
    with ExportDirectory(str(shelf / "export")) as other:
        assert not export(original, shelf / "export").failed
        assert os.path.isdir(other.path)
        other.make("a")
        with pytest.raises(CentralError) as caught:
            other.finish("a/x", b"x")
        assert caught.value.diagnosis == "destination_exists"
    assert [path.name for path in shelf.iterdir()] == ["export"]
    assert_whole(shelf / "export", original)


def test_the_documentation_has_what_the_readme_has() -> None:
    text = (ROOT / "docs" / "export.md").read_text("utf-8")
    for word in ("central_set_export", "README.txt", "SHA256SUMS", "sha256sum --check"):
        assert word in text
