# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Exports of sets, looked at with openssl, tar, sha256sum and rclone, killed at any stage, and made on disks that fail."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _set_export
from ansible_collections.odkops.central.plugins.module_utils._blob_args import open_pool
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pool_index import PoolIndex
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository
from ansible_collections.odkops.central.plugins.module_utils._set_export_files import ExportDirectory

from support import run_module
from support.archives import archives
from support.exports import (
    CENTRAL,
    CONFIG,
    ENKETO,
    OBJECTS,
    Source,
    assert_whole,
    damage,
    export,
    export_in_process,
    make_source,
    refused,
)
from support.modules import module_command, module_environment, wire_arguments
from support.paths import ROOT
from support.s3_servers import (
    PASSPHRASE,
    clean_environment,
    content_of,
    open_with_rclone,
    rclone_program,
)
from support.sets import everything_below, small_disk

pytest_plugins = ["support.export_fixtures"]


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
