# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""central_backup_decrypt leaves nothing when it fails, and never replaces anything."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.modules import central_backup_decrypt

from support import call_module, run_module
from support.archives import archives, openssl
from support.decrypting import MODULE, left, options
from support.directory_dumps import directory_dumps
from support.legacy_zip_writer import PASSPHRASE, LegacyBackup, make, write_large
from support.modules import module_command, module_environment, wire_arguments

pytest_plugins = ["support.decrypt_fixtures"]


def damage(path: Path, at: int) -> None:
    """Flip a bit."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("check", [False, True])
def test_damage_leaves_nothing(tmp_path: Path, backup: Path, check: bool) -> None:
    """In the middle of the data, when much has been written."""
    damage(backup, backup.stat().st_size * 3 // 4)

    done = run_module(MODULE, options(backup, tmp_path / "dump"), check=check)

    assert (done.failed, done.diagnosis, done["changed"]) == (True, "corrupt", False)
    assert (done["path"], done["dest"]) == (str(backup), str(tmp_path / "dump"))
    assert left(tmp_path) == []


def test_a_cut_leaves_nothing(tmp_path: Path, backup: Path) -> None:
    os.truncate(backup, backup.stat().st_size - 40)

    done = run_module(MODULE, options(backup, tmp_path / "dump"))

    assert done.diagnosis == "truncated"
    assert left(tmp_path) == []


def test_a_wrong_passphrase_leaves_nothing(tmp_path: Path, backup: Path) -> None:
    done = run_module(MODULE, options(backup, tmp_path / "dump", passphrase="something else"))

    assert done.diagnosis == "wrong_passphrase"
    assert left(tmp_path) == []


def test_a_file_that_is_not_the_recorded_one_leaves_nothing(tmp_path: Path, backup: Path) -> None:
    """Found at the end only, when all is written but has no name."""
    done = run_module(MODULE, options(backup, tmp_path / "dump", expected_sha256="0" * 64))

    assert done.diagnosis == "tampered"
    assert left(tmp_path) == []


def test_the_recorded_file(tmp_path: Path, backup: Path) -> None:
    digest = hashlib.sha256(backup.read_bytes()).hexdigest()

    assert run_module(MODULE, options(backup, tmp_path / "dump", expected_sha256=digest.upper())).rc == 0


@pytest.mark.parametrize("value", ["", "abc", "g" * 64, "0" * 63])
def test_a_digest_that_is_none(tmp_path: Path, backup: Path, value: str) -> None:
    done = call_module(central_backup_decrypt.main, options(backup, tmp_path / "dump", expected_sha256=value))

    assert done.diagnosis == "bad_option"


def test_a_dump_of_another_database_leaves_nothing(tmp_path: Path) -> None:
    files = directory_dumps().read()
    toc = files["toc.dat"].replace(b"knex_migrations", b"knex_migrationz")
    src = tmp_path / "old.zip"
    src.write_bytes(make({**files, "toc.dat": toc}))

    done = run_module(MODULE, options(src, tmp_path / "dump"))

    assert done.diagnosis in ("not_a_central_backup", "corrupt")
    assert left(tmp_path) == []


def test_an_archive_that_is_not_encrypted(tmp_path: Path) -> None:
    src = tmp_path / "plain.bin"
    src.write_bytes(archives(15).read())

    done = run_module(MODULE, options(src, tmp_path / "dump"))

    assert done.diagnosis == "unencrypted"
    assert left(tmp_path) == []


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
def test_what_exists_is_never_replaced(tmp_path: Path, backup: Path, kind: str, check: bool) -> None:
    dest = tmp_path / "dump"
    if kind == "file":
        dest.write_bytes(b"precious")
    elif kind == "directory":
        dest.mkdir()
    else:
        dest.symlink_to(tmp_path / "nowhere")
    before = os.lstat(dest)

    done = run_module(MODULE, options(backup, dest), check=check)

    assert done.diagnosis == "destination_exists"
    assert os.lstat(dest).st_ino == before.st_ino
    assert left(tmp_path) == ["dump"]


@pytest.mark.parametrize("check", [False, True])
def test_a_second_run_fails(tmp_path: Path, backup: Path, check: bool) -> None:
    assert run_module(MODULE, options(backup, tmp_path / "dump")).rc == 0

    assert run_module(MODULE, options(backup, tmp_path / "dump"), check=check).diagnosis == "destination_exists"


def test_the_backup_is_not_its_own_destination(backup: Path) -> None:
    before = backup.read_bytes()

    assert run_module(MODULE, options(backup, backup)).diagnosis == "destination_exists"
    assert backup.read_bytes() == before


@pytest.mark.parametrize("check", [False, True])
def test_there_is_no_directory_above(tmp_path: Path, backup: Path, check: bool) -> None:
    done = run_module(MODULE, options(backup, tmp_path / "none" / "dump"), check=check)

    assert done.diagnosis == "destination_not_writable"
    assert left(tmp_path) == []


@pytest.mark.parametrize("src", ["none.zip", "."])
def test_the_backup_cannot_be_read(tmp_path: Path, src: str) -> None:
    done = run_module(MODULE, options(tmp_path / src, tmp_path / "dump"))

    assert done.diagnosis == "unreadable"
    assert left(tmp_path) == []


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("check", [False, True])
def test_there_is_too_little_room(tmp_path: Path, backup: Path, check: bool) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        done = run_module(MODULE, options(backup, disk / "dump"), check=check)

        assert done.diagnosis == "disk_full"
        assert (done["free"], done["needed"]) == (65536, backup.stat().st_size)
        assert os.listdir(disk) == []


def test_the_room_is_gone_while_it_is_written(tmp_path: Path, backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others write too: the look at the free space is no promise."""
    plenty = SimpleNamespace(f_bavail=10**9, f_frsize=4096, f_flag=0)
    with small_disk(tmp_path / "disk", "64k") as disk:
        monkeypatch.setattr(os, "statvfs", lambda _path: plenty)
        done = call_module(central_backup_decrypt.main, options(backup, disk / "dump"))

        assert done.diagnosis == "disk_full"
        assert os.listdir(disk) == []


@pytest.mark.parametrize("check", [False, True])
def test_another_user_may_not_write_there(backup: Path, check: bool) -> None:
    # Not in tmp_path, whose directories above are closed to others.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        src = folder / backup.name
        shutil.copyfile(backup, src)
        src.chmod(0o644)

        answer = as_another_user(lambda: call_module(central_backup_decrypt.main, options(src, folder / "dump"), check))

        assert answer == "destination_not_writable"
        assert left(folder) == []


def as_another_user(action: Callable[[], Any]) -> str:
    """The diagnosis of a module that a user without rights runs, in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        os.write(writing, str(action().diagnosis).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, "rb") as pipe:
        return pipe.read().decode()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Backups that take long enough for a signal to arrive in their middle."""
    folder = tmp_path_factory.mktemp("large")
    rows = b"".join(b"%d\tuuid:%s\t1\n" % (n, os.urandom(24).hex().encode()) for n in range(16_000))
    files = directory_dumps().read(method="none")
    name = next((name for name, content in files.items() if b"uuid:" in content), "")
    pieces: dict[str, Any] = {key: (lambda content=content: [content]) for key, content in files.items()}
    pieces[name] = lambda: [*([rows] * 150), b"\\.\n\n\n"]
    with (folder / "old.zip").open("wb") as file:
        write_large(file, pieces)
    plain = archives(15).read(method="none")
    # Not a whole archive: the end is not reached.
    (folder / "new.pgdump.enc.bin").write_bytes(openssl(plain + rows * 150, passphrase=PASSPHRASE))
    yield {"old": folder / "old.zip", "new": folder / "new.pgdump.enc.bin"}
    shutil.rmtree(folder)


def interrupted(src: Path, dest: Path, number: int) -> int:
    """Run the module, and send it a signal as soon as it writes."""
    process = subprocess.Popen(
        module_command(MODULE),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=module_environment(None),
        # What is started in the background of a script ignores SIGINT, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # there is one thread
    )
    assert process.stdin is not None
    process.stdin.write(wire_arguments(options(src, dest), False, str(dest.parent)))
    process.stdin.close()
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and not _writes(process.pid, dest):
        time.sleep(0.001)
    process.send_signal(number)
    return process.wait(60)


def _writes(pid: int, dest: Path) -> bool:
    """Whether a process has a file or directory of a destination open, named or not."""
    with contextlib.suppress(OSError):
        for link in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                opened = os.readlink(f"/proc/{pid}/fd/{link}")
                if opened.startswith((f"{dest.parent}/#", f"{dest.parent}/.{dest.name}.")):
                    return True
    return False


@pytest.mark.parametrize("which", ["old", "new"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_nothing(tmp_path: Path, large: dict[str, Path], which: str, number: int) -> None:
    # On a busy machine the module may be done before the signal arrives: then it is tried again.
    for attempt in range(10):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        code = interrupted(large[which], folder / "dump", number)
        if code:
            break

    assert code in (128 + number, 1, -number)
    assert left(folder) == []


def test_a_kill_leaves_nothing_that_the_next_run_does_not_remove(tmp_path: Path, large: dict[str, Path]) -> None:
    assert interrupted(large["old"], tmp_path / "dump", signal.SIGKILL) == -signal.SIGKILL
    remains = left(tmp_path)
    assert len(remains) == 1
    assert remains[0].startswith(".dump.")
    assert stat.S_IMODE((tmp_path / remains[0]).stat().st_mode) == 0o700

    small = tmp_path / "old.zip"
    small.write_bytes(LegacyBackup(directory_dumps().read()).build())
    assert run_module(MODULE, options(small, tmp_path / "dump")).rc == 0
    assert left(tmp_path) == ["dump"]
