# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A file that is read in another process while it is written."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._following import Following
from ansible_collections.odkops.central.plugins.module_utils._streams import Readable


@pytest.fixture
def file(tmp_path: Path) -> Iterator[BinaryIO]:
    with (tmp_path / "file").open("w+b", buffering=0) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _nothing_left(file: BinaryIO) -> Iterator[None]:
    """No process and no descriptor is left of any test."""
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert sorted(os.listdir("/proc/self/fd")) == before


def read_all(stream: Readable, size: int = 7) -> bytes:
    found = b""
    while data := stream.read(size):
        assert len(data) <= size
        found += data
    assert stream.read(size) == b"", "an end stays one"
    return found


def wait_for_end(process: int) -> None:
    limit = time.monotonic() + 20
    while os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        assert time.monotonic() < limit, "it does not end"
        time.sleep(0.02)


def test_what_is_written_is_read_elsewhere(file: BinaryIO) -> None:
    pieces = [b"one", b"a longer piece than is asked for", b"x", b"end" * 100_000]
    with Following(lambda stream: (os.getpid(), read_all(stream, 70_000)), file.fileno(), file.name) as following:
        size = 0
        for piece in pieces:
            size += file.write(piece) or 0
            following.grown(size)
        process, found = following.finish()
    assert found == b"".join(pieces)
    assert process != os.getpid()


def test_nothing_is_written(file: BinaryIO) -> None:
    with Following(read_all, file.fileno(), file.name) as following:
        assert following.finish() == b""


def test_it_reads_what_the_file_holds(file: BinaryIO) -> None:
    """Not what was to be written; and no more than was said to be there."""
    file.write(b"as it is, and more")
    with Following(read_all, file.fileno(), file.name) as following:
        following.grown(len(b"as it is"))
        assert following.finish() == b"as it is"


def test_a_file_that_has_less_than_was_said(file: BinaryIO) -> None:
    file.write(b"abc")
    with (
        pytest.raises(CentralError, match="shorter") as caught,
        Following(read_all, file.fileno(), file.name) as following,
    ):
        following.grown(4)
        following.finish()
    assert caught.value.diagnosis == "unreadable"


def refuse(stream: Readable) -> bytes:
    stream.read(1)
    raise CentralError("corrupt", "It is bad.", where=["here"])


def test_an_error_of_the_reader_reaches_the_writer(file: BinaryIO) -> None:
    file.write(b"xyz")
    with pytest.raises(CentralError) as caught, Following(refuse, file.fileno(), file.name) as following:
        limit = time.monotonic() + 20
        while time.monotonic() < limit:
            following.grown(3)
    assert (caught.value.diagnosis, caught.value.message) == ("corrupt", "It is bad.")
    assert caught.value.details == {"where": ["here"]}
    with pytest.raises(CentralError, match="It is bad"), Following(refuse, file.fileno(), file.name) as following:
        following.finish()


def test_a_reader_that_fails_without_a_word(file: BinaryIO, capfd: pytest.CaptureFixture[str]) -> None:
    def consume(_stream: Readable) -> bytes:
        raise ValueError("a bug")

    with pytest.raises(CentralError) as caught, Following(consume, file.fileno(), file.name) as following:
        following.finish()
    assert caught.value.diagnosis == "process_killed"
    assert "a bug" in capfd.readouterr().err


def test_a_reader_that_is_killed(file: BinaryIO) -> None:
    with pytest.raises(CentralError) as caught, Following(read_all, file.fileno(), file.name) as following:
        assert following._process is not None
        os.kill(following._process, signal.SIGKILL)
        wait_for_end(following._process)
        following.grown(0)
    assert caught.value.diagnosis == "process_killed"


def test_an_error_of_the_writer_ends_the_reader(file: BinaryIO) -> None:
    with pytest.raises(KeyError), Following(lambda _stream: time.sleep(600), file.fileno(), file.name):
        raise KeyError


def test_a_reader_that_has_enough(file: BinaryIO) -> None:
    file.write(b"xyz")
    with Following(lambda stream: stream.read(1), file.fileno(), file.name) as following:
        following.grown(3)
        assert following._process is not None
        wait_for_end(following._process)
        following.grown(3)
        following.grown(3)
        assert following.finish() == b"x"


def test_where_no_process_can_be_had(file: BinaryIO, monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    with Following(lambda stream: (os.getpid(), read_all(stream)), file.fileno(), file.name) as following:
        file.write(b"abcdefghi")
        following.grown(9)
        assert following.finish() == (os.getpid(), b"abcdefghi")
    with pytest.raises(CentralError, match="It is bad"), Following(refuse, file.fileno(), file.name) as following:
        following.finish()


def test_the_reader_holds_nothing_else_open(file: BinaryIO) -> None:
    """A pipe of this process ends when this process closes it."""
    out, into = os.pipe()
    with Following(read_all, file.fileno(), file.name) as following:
        os.close(into)
        assert select.select([out], [], [], 20)[0], "somebody else could still write"
        assert os.read(out, 1) == b""
        assert following.finish() == b""
    os.close(out)


SCRIPT = """
import sys, time
from ansible_collections.odkops.central.plugins.module_utils._following import Following
with open(sys.argv[1], "w+b", buffering=0) as file:
    with Following(lambda stream: stream.read(1), file.fileno(), file.name) as following:
        print(following._process, flush=True)
        time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_stays_of_a_writer_that_is_killed(number: int, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "other")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
        assert writer.stdout is not None
        process = int(writer.stdout.readline())
        assert Path(f"/proc/{process}").is_dir()
        writer.send_signal(number)
        # The pipe ends when the last process that has it has ended.
        assert writer.stdout.read() == b""
