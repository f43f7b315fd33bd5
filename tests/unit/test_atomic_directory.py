# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Directories that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _atomic_directory
from ansible_collections.odkops.central.plugins.module_utils._atomic_directory import AtomicDirectory
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError

from support.paths import ROOT


def names(path: Path) -> list[str]:
    """What is in a directory."""
    return sorted(os.listdir(path))


def test_it_appears_with_commit_and_is_for_its_owner_only(tmp_path: Path) -> None:
    old = os.umask(0o777)
    try:
        with AtomicDirectory(str(tmp_path / "final")) as directory:
            directory.write("one", b"")
            directory.write("one", b"content")
            directory.write("two", b"")
            assert not (tmp_path / "final").exists()
            directory.commit()
    finally:
        os.umask(old)

    assert names(tmp_path) == ["final"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "final").iterdir()} == {"one": b"content", "two": b""}
    assert stat.S_IMODE((tmp_path / "final").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "final").iterdir()} == {0o600}


def test_without_commit_nothing_is_left(tmp_path: Path) -> None:
    with AtomicDirectory(str(tmp_path / "final")) as directory:
        directory.write("one", b"content")
        assert len(names(tmp_path)) == 1

    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), AtomicDirectory(str(tmp_path / "final")) as directory:
        directory.write("one", b"content")
        raise error

    assert names(tmp_path) == []


def existing(path: Path, kind: str) -> None:
    """Something that has the name already."""
    if kind == "file":
        path.write_bytes(b"precious")
    elif kind == "directory":
        path.mkdir()
    elif kind == "full directory":
        path.mkdir()
        (path / "file").write_bytes(b"precious")
    else:
        path.symlink_to("nowhere")


@pytest.mark.parametrize("kind", ["file", "directory", "full directory", "dangling link"])
def test_what_exists_is_never_replaced(tmp_path: Path, kind: str) -> None:
    existing(tmp_path / "final", kind)
    before = os.lstat(tmp_path / "final")

    with pytest.raises(CentralError) as caught:
        AtomicDirectory(str(tmp_path / "final"))

    assert caught.value.diagnosis == "destination_exists"
    assert (os.lstat(tmp_path / "final").st_ino, names(tmp_path)) == (before.st_ino, ["final"])


@pytest.mark.parametrize("kind", ["file", "directory", "full directory", "dangling link"])
@pytest.mark.parametrize("late", [False, True])
def test_what_appears_meanwhile_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, late: bool
) -> None:
    """`late`: it appears between the last look and the renaming, where only an empty directory may go."""
    final = tmp_path / "final"
    with pytest.raises(CentralError) as caught, AtomicDirectory(str(final)) as directory:
        directory.write("one", b"content")
        if late and kind == "directory":
            raise CentralError("destination_exists", "an empty directory is nothing that could be lost")
        existing(final, kind)
        if late:
            monkeypatch.setattr(os.path, "lexists", lambda _path: False)
        directory.commit()

    monkeypatch.undo()
    assert caught.value.diagnosis == "destination_exists"
    assert names(tmp_path) in ([], ["final"])
    if "full" in kind:
        assert (final / "file").read_bytes() == b"precious"
    if kind == "file":
        assert final.read_bytes() == b"precious"


def test_there_is_no_directory_above(tmp_path: Path) -> None:
    with pytest.raises(CentralError) as caught:
        AtomicDirectory(str(tmp_path / "none" / "final"))

    assert caught.value.diagnosis == "destination_not_writable"


@pytest.mark.parametrize("step", ["mkdir", "chmod", "open", "fchmod", "write", "fsync", "rename"])
@pytest.mark.parametrize(
    ("number", "diagnosis"), [(errno.ENOSPC, "disk_full"), (errno.EIO, "destination_not_writable")]
)
def test_a_step_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int, diagnosis: str
) -> None:
    real = getattr(os, step)
    failed: list[int] = []

    def fail_once(*arguments: Any, **options: Any) -> Any:
        if failed:
            return real(*arguments, **options)
        failed.append(number)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, step, fail_once)
    with pytest.raises(CentralError) as caught, AtomicDirectory(str(tmp_path / "final")) as directory:
        directory.write("one", b"content")
        directory.commit()

    monkeypatch.undo()
    assert caught.value.diagnosis == diagnosis
    assert names(tmp_path) == []


def test_a_signal_while_it_is_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_descriptor: int) -> bool:
        raise SystemExit(143)

    monkeypatch.setattr(_atomic_directory, "_locked", stop)
    with pytest.raises(SystemExit):
        AtomicDirectory(str(tmp_path / "final"))

    assert names(tmp_path) == []


def test_a_file_is_not_begun_twice(tmp_path: Path) -> None:
    with pytest.raises(CentralError), AtomicDirectory(str(tmp_path / "final")) as directory:
        for name in ("one", "two", "one"):
            directory.write(name, b"x")

    assert names(tmp_path) == []


KILLED = """
import os, sys, time
from ansible_collections.odkops.central.plugins.module_utils._atomic_directory import AtomicDirectory
directory = AtomicDirectory(sys.argv[1])
directory.write("one", b"content")
print("ready", flush=True)
time.sleep(60)
"""


def begin(final: Path) -> subprocess.Popen[str]:
    """Another process that is in the middle of writing."""
    command = [sys.executable, "-c", KILLED, str(final)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str], number: int) -> None:
    """Send a signal, and wait until the process is gone."""
    process.send_signal(number)
    process.communicate()


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    end(begin(tmp_path / "final"), signal.SIGKILL)
    assert len(names(tmp_path)) == 1

    with AtomicDirectory(str(tmp_path / "final")) as directory:
        directory.write("one", b"other")
        directory.commit()

    assert names(tmp_path) == ["final"]


def test_what_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    process = begin(tmp_path / "final")
    try:
        with AtomicDirectory(str(tmp_path / "final")) as directory:
            assert len(names(tmp_path)) == 2
            directory.write("one", b"other")
            directory.commit()
        assert len(names(tmp_path)) == 2
    finally:
        end(process, signal.SIGKILL)


def test_nothing_else_is_removed(tmp_path: Path) -> None:
    kept = [".final.partial", ".final.0123456.partial", ".final.0123456g.partial", ".other.01234567.partial"]
    for name in kept:
        (tmp_path / name).mkdir()
    (tmp_path / ".final.aaaaaaaa.partial").write_bytes(b"a file")
    (tmp_path / ".final.bbbbbbbb.partial").symlink_to(tmp_path / ".other.01234567.partial")
    strange = tmp_path / ".final.cccccccc.partial"
    strange.mkdir()
    os.chown(strange, 12345, 12345)
    before = names(tmp_path)

    with AtomicDirectory(str(tmp_path / "final")):
        pass

    assert names(tmp_path) == before


def test_without_locks_nothing_is_taken_for_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have no flock(2)."""
    (tmp_path / ".final.01234567.partial").mkdir()

    def fail(*_arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with AtomicDirectory(str(tmp_path / "final")) as directory:
        directory.write("one", b"content")
        directory.commit()

    assert names(tmp_path) == [".final.01234567.partial", "final"]


def test_another_process_takes_the_new_directory_for_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making it and locking it: then another one is made."""
    taken: list[str] = []
    real = os.open

    def steal(path: Any, *arguments: Any, **options: Any) -> int:
        if not taken and str(path).endswith(".partial"):
            os.rmdir(path)
            taken.append(path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", steal)
    with AtomicDirectory(str(tmp_path / "final")) as directory:
        directory.write("one", b"content")
        directory.commit()

    assert len(taken) == 1
    assert names(tmp_path) == ["final"]


def test_it_gives_up_where_every_new_directory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_atomic_directory, "_locked", lambda _descriptor: False)

    with pytest.raises(CentralError) as caught:
        AtomicDirectory(str(tmp_path / "final"))

    assert caught.value.diagnosis == "destination_not_writable"
    assert names(tmp_path) == []


def test_a_name_as_long_as_can_be(tmp_path: Path) -> None:
    final = tmp_path / ("ä" * 127)
    with AtomicDirectory(str(final)) as directory:
        directory.write("one", b"content")
        directory.commit()

    assert names(tmp_path) == [final.name]


def test_all_is_durable_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file, then the directory, then the name, then the directory above, so that a power cut leaves all or nothing."""
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(descriptor: int) -> None:
        done.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def note_rename(source: str, target: str) -> None:
        done.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    with AtomicDirectory(str(tmp_path / "final")) as directory:
        partial = names(tmp_path)[0]
        for name in ("one", "two", "three"):
            directory.write(name, b"content")
        directory.commit()

    assert done == ["one", "two", "three", partial, "rename", tmp_path.name]


@pytest.mark.parametrize("committed", [False, True])
def test_no_descriptor_is_left_open(tmp_path: Path, committed: bool) -> None:
    end(begin(tmp_path / "final"), signal.SIGKILL)
    before = os.listdir("/proc/self/fd")
    with AtomicDirectory(str(tmp_path / "final")) as directory:
        directory.write("one", b"content")
        directory.write("two", b"content")
        if committed:
            directory.commit()

    assert len(os.listdir("/proc/self/fd")) == len(before)
