# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that are whole or not there: kills at every step, full disks, file systems without the newer calls.

Some of these mount file systems, so they need root; they fail, and do not skip, without it.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _atomic
from ansible_collections.odkops.central.plugins.module_utils._atomic import AtomicFile, make_directory
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError

from support.paths import ROOT

CONTENT = b"0123456789" * 100_000

# A process that is killed before the system call number N of those that AtomicFile makes. 0: it is not killed.
KILLED = """
import os, signal, sys
from ansible_collections.odkops.central.plugins.module_utils._atomic import AtomicFile
final, stop, nameless = sys.argv[1], int(sys.argv[2]), sys.argv[3]
calls = 0
def counted(real):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call
for name in ("open", "fchmod", "fsync", "link", "unlink", "close", "replace", "rename"):
    setattr(os, name, counted(getattr(os, name)))
if nameless == "no":
    os.O_TMPFILE = 0o40000000  # flags that no file system takes
with AtomicFile(final) as file:
    for start in range(0, 1_000_000, 250_000):
        counted(file.write)(b"0123456789" * 25_000)
    file.commit()
print(calls)
"""


def killed_at(directory: Path, step: int, nameless: str = "yes") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", KILLED, str(directory / "final.bin"), str(step), nameless]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "collections")}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def exfat(tmp_path: Path) -> Iterator[Path]:
    """A file system that has neither nameless files nor hard links, as on a USB disk."""
    if not shutil.which("mkfs.exfat") or not shutil.which("mount.exfat-fuse"):
        install = ["apt-get", "-qq", "-y", "--no-install-recommends", "install", "exfat-fuse", "exfatprogs"]
        subprocess.run(install, check=True, capture_output=True)
    image, folder = tmp_path / "image", tmp_path / "exfat"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(16 * 1024 * 1024)
    subprocess.run(["mkfs.exfat", str(image)], check=True, capture_output=True)
    device = subprocess.run(["losetup", "-f", "--show", str(image)], check=True, capture_output=True, text=True).stdout
    try:
        subprocess.run(["mount.exfat-fuse", device.strip(), str(folder)], check=True, capture_output=True)
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
    finally:
        subprocess.run(["losetup", "-d", device.strip()], check=True)


def refuse(monkeypatch: pytest.MonkeyPatch, call: str, number: int, when: Any = lambda *_args, **_kwargs: True) -> None:
    """Make a system call fail."""
    real = getattr(os, call)

    def refusing(*args: Any, **kwargs: Any) -> Any:
        if when(*args, **kwargs):
            raise OSError(number, os.strerror(number))
        return real(*args, **kwargs)

    monkeypatch.setattr(os, call, refusing)


def without_tmpfile(monkeypatch: pytest.MonkeyPatch, number: int = errno.EOPNOTSUPP) -> None:
    refuse(monkeypatch, "open", number, lambda _path, flags=0, *_args, **_kw: flags & os.O_TMPFILE == os.O_TMPFILE)


def test_a_name_that_could_not_be_made_durable_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "fsync", errno.EIO, lambda descriptor: stat.S_ISDIR(os.fstat(descriptor).st_mode))
    with AtomicFile(str(tmp_path / "final")) as file:
        file.write(CONTENT)
        with pytest.raises(CentralError) as caught:
            file.commit()
        assert not file.committed
    assert caught.value.diagnosis == "destination_not_writable"
    assert list(tmp_path.iterdir()) == []


def test_a_committed_file_is_whole_and_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with AtomicFile(str(tmp_path / "final")) as file:
            assert file.write(CONTENT) == len(CONTENT)
            assert file.write(memoryview(b"more")) == 4
            assert os.listdir(tmp_path) == []
            file.commit()
            assert file.committed
    finally:
        os.umask(old)
    assert (tmp_path / "final").read_bytes() == CONTENT + b"more"
    assert stat.S_IMODE((tmp_path / "final").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["final"]


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o777)
    try:
        with AtomicFile(str(tmp_path / "final"), mode=0o640) as file:
            file.commit()
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "final").stat().st_mode) == 0o640


@pytest.mark.parametrize("clobber", [True, False])
def test_what_is_not_committed_is_gone(tmp_path: Path, clobber: bool) -> None:
    with AtomicFile(str(tmp_path / "final"), clobber=clobber) as file:
        file.write(CONTENT)
    with pytest.raises(KeyboardInterrupt), AtomicFile(str(tmp_path / "final"), clobber=clobber) as file:
        file.write(CONTENT)
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_name_that_is_taken_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "final").write_bytes(b"other")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("final", "link"):
        with pytest.raises(CentralError) as caught:
            AtomicFile(str(tmp_path / name))
        assert caught.value.diagnosis == "destination_exists"
    assert (tmp_path / "final").read_bytes() == b"other"


@pytest.mark.parametrize("way", ["nameless", "named", "no link"])
def test_a_name_that_is_taken_meanwhile_is_an_error_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way != "nameless":
        without_tmpfile(monkeypatch)
    if way == "no link":
        refuse(monkeypatch, "link", errno.EPERM)
    with pytest.raises(CentralError) as caught, AtomicFile(str(tmp_path / "final")) as file:
        file.write(CONTENT)
        (tmp_path / "final").write_bytes(b"other")
        file.commit()
    assert caught.value.diagnosis == "destination_exists"
    assert (tmp_path / "final").read_bytes() == b"other"
    assert os.listdir(tmp_path) == ["final"]


def test_replacing(tmp_path: Path) -> None:
    (tmp_path / "final").write_bytes(b"old")
    with AtomicFile(str(tmp_path / "final"), clobber=True) as file:
        file.write(b"new")
        assert (tmp_path / "final").read_bytes() == b"old"
        file.commit()
    assert (tmp_path / "final").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["final"]


@pytest.mark.parametrize("number", sorted(_atomic._NO_TMPFILE))
def test_without_nameless_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    without_tmpfile(monkeypatch, number)
    with AtomicFile(str(tmp_path / "final")) as file:
        file.write(CONTENT)
        (name,) = os.listdir(tmp_path)
        assert name.startswith(".final.")
        assert name.endswith(".partial")
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        file.commit()
    assert (tmp_path / "final").read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["final"]


@pytest.mark.parametrize("number", sorted(_atomic._NO_LINK))
@pytest.mark.parametrize("nameless", [True, False])
def test_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool, number: int) -> None:
    """A kernel that makes nameless files but names none, and one that has no hard links at all."""
    if not nameless:
        without_tmpfile(monkeypatch)
    refuse(monkeypatch, "link", number)
    with AtomicFile(str(tmp_path / "final")) as file:
        for start in range(0, len(CONTENT), 300_000):
            file.write(CONTENT[start : start + 300_000])
        file.commit()
    assert (tmp_path / "final").read_bytes() == CONTENT
    assert stat.S_IMODE((tmp_path / "final").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["final"]


def test_a_copy_for_want_of_links_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "link", errno.EXDEV)
    refuse(monkeypatch, "pread", errno.EIO)
    with pytest.raises(CentralError) as caught, AtomicFile(str(tmp_path / "final")) as file:
        file.write(CONTENT)
        file.commit()
    assert caught.value.diagnosis == "destination_not_writable"
    assert os.listdir(tmp_path) == []


def test_a_file_system_of_a_usb_disk(exfat: Path) -> None:
    with AtomicFile(str(exfat / "final")) as file:
        file.write(CONTENT)
        assert len(os.listdir(exfat)) == 1
        file.commit()
    assert (exfat / "final").read_bytes() == CONTENT
    assert os.listdir(exfat) == ["final"]
    with pytest.raises(CentralError) as caught:
        AtomicFile(str(exfat / "final"))
    assert caught.value.diagnosis == "destination_exists"
    with AtomicFile(str(exfat / "gone")) as file:
        file.write(CONTENT)
    assert os.listdir(exfat) == ["final"]


@pytest.mark.parametrize("nameless", [True, False])
def test_a_full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool) -> None:
    if not nameless:
        without_tmpfile(monkeypatch)
    with pytest.raises(CentralError) as caught, AtomicFile(str(small_disk / "final")) as file:
        for _count in range(3):
            file.write(CONTENT)
    assert caught.value.diagnosis == "disk_full"
    assert "final" in str(caught.value)
    assert os.listdir(small_disk) == []
    with AtomicFile(str(small_disk / "final")) as file:
        file.write(CONTENT[:500_000])
        file.commit()
    assert os.listdir(small_disk) == ["final"]


@pytest.mark.parametrize("call", ["fsync", "link"])
@pytest.mark.parametrize(
    ("number", "diagnosis"),
    [(errno.ENOSPC, "disk_full"), (errno.EDQUOT, "disk_full"), (errno.EIO, "destination_not_writable")],
)
def test_what_fails_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, diagnosis: str
) -> None:
    refuse(monkeypatch, call, number)
    with pytest.raises(CentralError) as caught, AtomicFile(str(tmp_path / "final")) as file:
        file.write(CONTENT)
        file.commit()
    assert caught.value.diagnosis == diagnosis
    assert os.listdir(tmp_path) == []


def test_what_fails_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("absent/final", "file/final"):
        (tmp_path / "file").touch()
        with pytest.raises(CentralError) as caught:
            AtomicFile(str(tmp_path / name))
        assert caught.value.diagnosis == "destination_not_writable"
    without_tmpfile(monkeypatch)
    refuse(monkeypatch, "fchmod", errno.EPERM)
    with pytest.raises(CentralError):
        AtomicFile(str(tmp_path / "final"))
    assert os.listdir(tmp_path) == ["file"]


def test_a_directory_that_is_not_writable(tmp_path: Path) -> None:
    """As another user, since root may write everywhere."""
    folder = tmp_path / "foreign"
    folder.mkdir(mode=0o755)
    program = (
        "import os, sys\n"
        "from ansible_collections.odkops.central.plugins.module_utils._atomic import AtomicFile\n"
        "from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n    AtomicFile('final')\n"
        "except CentralError as error:\n    print(error.diagnosis)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "collections")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=folder)
    assert done.stdout.strip() == "destination_not_writable"
    assert os.listdir(folder) == []


@pytest.mark.parametrize("nameless", [True, False])
@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "🦀" * 63 + "abc"])
def test_the_longest_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, nameless: bool) -> None:
    if not nameless:
        without_tmpfile(monkeypatch)
    with AtomicFile(str(tmp_path / name)) as file:
        file.write(b"x")
        file.commit()
    assert os.listdir(tmp_path) == [name]
    with pytest.raises(CentralError), AtomicFile(str(tmp_path / (name + "yy"))) as file:
        file.commit()
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("way", ["nameless", "named", "copied", "replacing"])
def test_the_content_is_durable_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """What a power cut leaves depends on the order of these calls."""
    if way == "named":
        without_tmpfile(monkeypatch)
    calls: list[str] = []
    real_fsync, real_link, real_rename, real_replace = os.fsync, os.link, os.rename, os.replace

    def fsync(descriptor: int) -> None:
        kind = "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else f"content {os.fstat(descriptor).st_size}"
        calls.append(f"fsync {kind}")
        real_fsync(descriptor)

    def link(*args: Any, **kwargs: Any) -> None:
        if way == "copied":
            raise OSError(errno.EXDEV, "no")
        real_link(*args, **kwargs)
        calls.append("name")

    def named(real: Any) -> Any:
        return lambda *args: (real(*args), calls.append("name"))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "rename", named(real_rename))
    monkeypatch.setattr(os, "replace", named(real_replace))
    with AtomicFile(str(tmp_path / "final"), clobber=way == "replacing") as file:
        file.write(CONTENT)
        file.commit()
    written = f"fsync content {len(CONTENT)}"
    assert calls == [*([written] * (2 if way == "copied" else 1)), "name", "fsync directory"]


def test_killed_at_each_step_nothing_is_left_but_a_whole_file(tmp_path: Path) -> None:
    steps = int(killed_at(tmp_path, 0).stdout)
    assert (tmp_path / "final.bin").read_bytes() == CONTENT
    assert steps >= 8
    unnamed = 0
    for step in range(1, steps + 1):
        folder = tmp_path / str(step)
        folder.mkdir()
        assert killed_at(folder, step).returncode == -signal.SIGKILL
        left = os.listdir(folder)
        assert left in ([], ["final.bin"]), f"step {step}"
        if left:
            assert (folder / "final.bin").read_bytes() == CONTENT
        else:
            unnamed += 1
    assert unnamed >= 6


def test_killed_at_each_step_with_a_named_file_the_final_name_is_whole(tmp_path: Path) -> None:
    steps = int(killed_at(tmp_path, 0, "no").stdout)
    for step in range(1, steps + 1):
        folder = tmp_path / str(step)
        folder.mkdir()
        assert killed_at(folder, step, "no").returncode == -signal.SIGKILL
        for name in os.listdir(folder):
            assert name == "final.bin" or name.startswith(".final.bin.")
        if (folder / "final.bin").exists():
            assert (folder / "final.bin").read_bytes() == CONTENT


def test_directories_are_made_private(tmp_path: Path) -> None:
    made = make_directory(str(tmp_path / "a" / "b" / "c"))
    assert made == [str(tmp_path / part) for part in ("a", "a/b", "a/b/c")]
    assert all(stat.S_IMODE(os.stat(path).st_mode) == 0o700 for path in made)
    assert make_directory(str(tmp_path / "a" / "b" / "c")) == []
    (tmp_path / "file").touch()
    for path in ("file", "file/below"):
        with pytest.raises(CentralError) as caught:
            make_directory(str(tmp_path / path))
        assert caught.value.diagnosis == "destination_not_writable"


def test_directories_on_a_full_or_refusing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "mkdir", errno.ENOSPC)
    with pytest.raises(CentralError) as caught:
        make_directory(str(tmp_path / "a"))
    assert caught.value.diagnosis == "disk_full"


def test_a_directory_that_another_process_makes_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.mkdir

    def raced(path: str, mode: int = 0o777) -> None:
        real(path, mode)
        real(path, mode)

    monkeypatch.setattr(os, "mkdir", raced)
    assert make_directory(str(tmp_path / "a")) == []
    assert (tmp_path / "a").is_dir()
