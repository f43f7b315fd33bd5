# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Large files are read by several processes: they find what threads find, and nothing of them stays behind."""

from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import (
    _pgdump_division,
    _pgdump_input,
    _reading_processes,
    _walk,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import BlobFact
from ansible_collections.odkops.central.plugins.module_utils._pgdump_archive import Block, CustomArchive
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import ArchiveInput
from ansible_collections.odkops.central.plugins.module_utils._slots import SLOT
from ansible_collections.odkops.central.plugins.module_utils._streams import Readable
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, Verification, verify_file

from support.archives import PASSPHRASE, archives, methods, openssl
from support.directory_dumps import directory_dumps
from support.legacy_zip_writer import make
from support.pgdump_writer import Entry, Writer, central, table
from support.reading import change_between_readings
from support.verifying import flips

OPENED = Expectation(passphrase=PASSPHRASE)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[_reading_processes.ReadingProcesses]:
    """Every file is large enough for processes; the list has what was made, those of a second part first."""
    made: list[_reading_processes.ReadingProcesses] = []

    class Noted(_reading_processes.ReadingProcesses):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(_walk, "LARGE", 0)
    monkeypatch.setattr(_walk, "ReadingProcesses", Noted)
    return made


@pytest.fixture
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """In how many parts an archive is read."""
    number: int = request.param
    if number == 2:
        divide_anything(monkeypatch)
    return number


def divide_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small archives are divided, too. What has been read ahead never is, so little is."""
    monkeypatch.setattr(_pgdump_division, "WORTH", 1)
    monkeypatch.setattr(_pgdump_division, "_LOOK", 1)
    monkeypatch.setattr(_pgdump_input, "CHUNK", 4096)


ONE_AND_TWO = pytest.mark.parametrize("parts", [1, 2], indirect=True)


@pytest.fixture(autouse=True)
def _nothing_left() -> object:
    """No process and no descriptor is left of any test."""
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert sorted(os.listdir("/proc/self/fd")) == before


def both(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Verification | str, list[BlobFact]]]:
    """What processes and what threads say of a file, and the blobs that they name."""
    results: list[tuple[Verification | str, list[BlobFact]]] = []
    for large in (0, 1 << 60):
        monkeypatch.setattr(_walk, "LARGE", large)
        blobs: list[BlobFact] = []
        try:
            results.append((verify_file(str(path), OPENED, blobs.append), blobs))
        except CentralError as error:
            results.append((f"{error.diagnosis}: {error.message} {error.details}", []))
    return results


@pytest.mark.parametrize(
    ("major", "method"), [(major, method) for major in (15, 17) for method in methods(major) if "9" not in method]
)
@ONE_AND_TWO
def test_the_same_as_threads(
    parts: int,
    major: int,
    method: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    processes: list[_reading_processes.ReadingProcesses],
) -> None:
    path = tmp_path / "backup"
    path.write_bytes(openssl(archives(major).read("nasty", method)))
    first, second = both(path, monkeypatch)
    assert first == second
    assert isinstance(first[0], Verification)
    assert first[1], "the database of this test has blobs"
    assert len(processes) == parts, "only one of the two readings was to be by processes"


def test_the_same_of_a_zip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[_reading_processes.ReadingProcesses]
) -> None:
    path = tmp_path / "backup.zip"
    path.write_bytes(make(directory_dumps().read("small")))
    first, second = both(path, monkeypatch)
    assert first == second
    assert isinstance(first[0], Verification)
    assert len(processes) == 1


@pytest.mark.parametrize("method", ["gzip", "none"])
@ONE_AND_TWO
def test_the_same_of_damaged_files(
    parts: int, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[object]
) -> None:
    whole = openssl(archives(15).read("nasty", method))
    path = tmp_path / "backup"
    rng = random.Random(7)
    damaged = [whole[: rng.randrange(len(whole) // 4, len(whole))] for _cut in range(6)]
    for position, bit in flips(rng, len(whole) // 4, len(whole), 12):
        damaged.append(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
    found = 0
    for number, data in enumerate([*damaged, whole + b"x"]):
        path.write_bytes(data)
        first, second = both(path, monkeypatch)
        assert first[0] == second[0], number
        found += isinstance(first[0], str)
    assert len(damaged) + 1 <= len(processes) <= parts * (len(damaged) + 1)
    assert parts == 1 or len(processes) > len(damaged) * 1.5, "most were to be read in two parts"
    assert found > len(damaged) // 2, "some flips are seen by nobody where nothing is compressed, but not that many"


@ONE_AND_TWO
def test_rows_of_any_length(
    parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[_reading_processes.ReadingProcesses]
) -> None:
    rows = [
        f"{number}\t{'z' * size}" for number, size in enumerate((0, 1, SLOT - 3, SLOT, SLOT + 1, 5 * SLOT, 20 * SLOT))
    ]
    path = tmp_path / "backup"
    path.write_bytes(openssl(Writer().archive([*central(), table(900, "long", "a, b", *rows)])))
    first, second = both(path, monkeypatch)
    assert first == second
    assert isinstance(first[0], Verification)
    assert (first[0].tables or {})["public.long"] == len(rows)


@ONE_AND_TWO
def test_rows_of_blobs_of_any_length(
    parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[_reading_processes.ReadingProcesses]
) -> None:
    """What a hostile dump has in its columns is sent back, too, even where it does not fit into a slot."""
    rows = [f"{number}\t{'0' * 5000}\t\\N" for number in range(1, 700)]
    entries = [entry for entry in central() if entry.tag != "blobs"]
    path = tmp_path / "backup"
    entries.append(table(900, "long", "a, b", *(f"{number}\t{'z' * 1000}" for number in range(3000))))
    archive = Writer().archive([*entries, table(14, "blobs", "id, sha, content", *rows)], compression=0)
    path.write_bytes(openssl(archive))
    first, second = both(path, monkeypatch)
    assert first == second
    assert len(first[1]) == len(rows)
    assert len(processes) == parts


def test_a_long_message_of_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[_reading_processes.ReadingProcesses]
) -> None:
    said = "é" * SLOT

    def refuse(_facts: object, _item: object) -> None:
        raise CentralError("corrupt", said)

    monkeypatch.setattr(_reading_processes.TableReader, "take", refuse)
    path = tmp_path / "backup"
    path.write_bytes(openssl(archives(15).read("nasty")))
    with pytest.raises(CentralError) as caught:
        verify_file(str(path), OPENED)
    assert caught.value.message == said
    assert len(processes) == 1


@ONE_AND_TWO
def test_what_on_blob_raises_is_raised(parts: int, tmp_path: Path, processes: list[object]) -> None:
    def refuse(blob: BlobFact) -> None:
        raise CentralError("corrupt", f"no blob {blob.id}")

    path = tmp_path / "backup"
    path.write_bytes(openssl(archives(15).read("nasty")))
    with pytest.raises(CentralError, match="no blob"):
        verify_file(str(path), OPENED, refuse)
    assert len(processes) == parts


@pytest.mark.parametrize(
    ("parts", "reader", "victim"), [(1, 0, 0), (1, 0, 1), (2, 0, 1), (2, 1, 0)], indirect=["parts"]
)
def test_a_process_that_is_killed(
    parts: int,
    reader: int,
    victim: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    processes: list[_reading_processes.ReadingProcesses],
) -> None:
    path = tmp_path / "backup"
    path.write_bytes(openssl(archives(15).read("nasty")))
    start = _reading_processes.ReadingProcesses.start

    def kill_then_start(self: _reading_processes.ReadingProcesses) -> None:
        if self is processes[0 if reader == 1 else -1]:
            os.kill(self._processes[victim], signal.SIGKILL)
            time.sleep(0.1)
        start(self)

    # The second reader has done its work by then, unless it is made to wait.
    alone = _reading_processes._read_alone

    def late(*args: Any) -> None:
        time.sleep(5)
        alone(*args)

    monkeypatch.setattr(_reading_processes, "_read_alone", late if reader == 1 else alone)
    monkeypatch.setattr(_reading_processes.ReadingProcesses, "start", kill_then_start)
    with pytest.raises(CentralError) as caught:
        verify_file(str(path), OPENED)
    assert caught.value.diagnosis == "process_killed"


@pytest.mark.parametrize(("parts", "possible"), [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)], indirect=["parts"])
def test_where_no_process_can_be_had_threads_do_it(
    parts: int, possible: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fork
    forks: list[int] = []

    def fork() -> int:
        if len(forks) == possible:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        forks.append(1)
        return real()

    path = tmp_path / "backup"
    path.write_bytes(openssl(archives(15).read("nasty")))
    expected = verify_file(str(path), OPENED)
    monkeypatch.setattr(_walk, "LARGE", 0)
    monkeypatch.setattr(os, "fork", fork)
    assert verify_file(str(path), OPENED) == expected
    assert len(forks) == possible


def test_damage_in_the_second_part_is_found_by_its_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[_reading_processes.ReadingProcesses]
) -> None:
    """The first reader does not look at it: it reads what is left for the digest only."""
    divide_anything(monkeypatch)
    whole = openssl(archives(15).read("nasty"))
    path = tmp_path / "backup"
    path.write_bytes(whole)
    made: list[_walk.Division] = []

    def noted(archive: CustomArchive, division: _walk.Division, source: Readable) -> Iterator[Block]:
        made.append(division)
        return behind(archive, division, source)

    behind = CustomArchive.blocks_behind
    monkeypatch.setattr(CustomArchive, "blocks_behind", noted)
    found = verify_file(str(path), OPENED)
    assert (found.sha256, found.size) == (hashlib.sha256(whole).hexdigest(), len(whole))
    position = 16 + made[0].offset + 40
    path.write_bytes(whole[:position] + bytes([whole[position] ^ 16]) + whole[position + 1 :])
    with pytest.raises(CentralError) as caught:
        verify_file(str(path), OPENED)
    assert caught.value.diagnosis == "corrupt"
    with pytest.raises(CentralError) as caught:
        verify_file(str(path), Expectation(passphrase=PASSPHRASE, sha256=found.sha256))
    assert caught.value.diagnosis == "tampered"
    assert len(processes) == 6


@pytest.mark.parametrize("off", [-1, 1])
def test_a_wrong_division_changes_nothing(
    off: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[_reading_processes.ReadingProcesses]
) -> None:
    """It is a guess: where it is no place between two blocks, the first reader reads all, and nobody asks the second."""
    path = tmp_path / "backup"
    path.write_bytes(openssl(archives(15).read("nasty")))
    expected, blobs = both(path, monkeypatch)[1]
    monkeypatch.setattr(_walk, "LARGE", 0)
    monkeypatch.setattr(_pgdump_input, "CHUNK", 4096)
    wrong = _walk.Division(3, len(archives(15).read("nasty")) // 2 + off)
    monkeypatch.setattr(CustomArchive, "division", lambda *_args: wrong)
    processes.clear()
    seen: list[BlobFact] = []
    assert verify_file(str(path), OPENED, seen.append) == expected
    assert seen == blobs
    assert len(processes) == 2


def two_tables(seed: int) -> list[Entry]:
    """Central's least, and two more tables of a size that can be divided."""
    rng = random.Random(seed)
    rows = [f"{number}\t{rng.randbytes(8000).hex()}" for number in range(60)]
    return [*central(), table(900, "a", "a, b", *rows), table(901, "b", "a, b", *rows)]


@pytest.mark.parametrize("change", ["cut", "grown", "other"])
def test_a_file_that_is_changed_while_it_is_read_is_not_taken_for_whole(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[object]
) -> None:
    """What is hashed has to be what was verified, also where two have read it."""
    divide_anything(monkeypatch)
    path = tmp_path / "backup"
    path.write_bytes(openssl(Writer().archive(two_tables(1), compression=0)))
    change_between_readings(monkeypatch, path, change)
    with pytest.raises(CentralError) as caught:
        verify_file(str(path), OPENED)
    assert caught.value.diagnosis == "unreadable"
    assert "changed while it was read" in caught.value.message


def test_names_are_limited_over_both_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[object]
) -> None:
    divide_anything(monkeypatch)
    name = "x" * 1000
    forms = [f"{number}\t1\t{name}\t{name}" for number in range(1, 2500)]
    columns = {
        "forms": 'id, "projectId", "xmlFormId", "enketoId"',
        "form_defs": 'id, "formId", "enketoId", "draftToken"',
    }
    entries = [entry for entry in central() if entry.tag != "forms"]
    entries += [table(12, "forms", columns["forms"], *forms), table(902, "form_defs", columns["form_defs"], *forms)]
    path = tmp_path / "backup"
    path.write_bytes(openssl(Writer().archive(entries, compression=0)))
    first, second = both(path, monkeypatch)
    assert first == second
    assert "longer than are taken for genuine" in str(first[0])
    assert len(processes) == 2


@pytest.mark.parametrize("size", [100, 4096, 150_000])
@pytest.mark.parametrize("wrong", ["negative", "cut in a header", "cut in a chunk"])
def test_all_in_front_of_damage_is_given_before_it_is_told(wrong: str, size: int) -> None:
    """Wherever the reader's buffer happens to end: what stands there may be damaged, too, and was so earlier in the file."""
    chunks, writer = 700_000 // size, Writer()
    data = b"".join(writer.integer(size) + bytes(size) for _chunk in range(chunks))
    data += {"negative": b"\1", "cut in a header": b"\0\1", "cut in a chunk": b""}[wrong]
    data += {"negative": bytes(100), "cut in a header": b"", "cut in a chunk": writer.integer(size) + bytes(size - 1)}[
        wrong
    ]
    for before in (0, 1, 1000, 131_072, 262_143, 262_144):
        source = ArchiveInput(io.BytesIO(bytes(before) + data))
        source.take(before)
        given = 0
        with pytest.raises(CentralError) as caught:
            for piece in source.chunks():
                given += len(piece)
        assert given == chunks * size, before
        assert caught.value.diagnosis == ("corrupt" if wrong == "negative" else "truncated")


@ONE_AND_TWO
def test_checksums_are_compared_whoever_reads(
    parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[object]
) -> None:
    """Those of tables by who reads their rows, those of large objects by who decompresses them."""
    writer = Writer()
    entries = [*two_tables(4), Entry(99, "BLOBS", "BLOBS", None, copy=None, data=b"")]
    data = writer.header() + writer.contents(entries)
    ends = []
    for entry in entries:
        if entry.data is not None and entry.description == "TABLE DATA":
            data += writer.block(entry.dump_id, zlib.compress(entry.data))
            ends.append(len(data) - 5)
    data += writer.large_objects(99, [(7, zlib.compress(b"large"))])
    ends.append(len(data) - 10)
    path = tmp_path / "backup"
    path.write_bytes(openssl(data))
    verify_file(str(path), OPENED)
    assert len(processes) == parts
    for end in (ends[0], *ends[-3:]):
        for back in (1, 4):
            damaged = bytearray(data)
            damaged[end - back] ^= 1
            path.write_bytes(openssl(bytes(damaged)))
            for large in (0, 1 << 60):
                monkeypatch.setattr(_walk, "LARGE", large)
                with pytest.raises(CentralError, match="checksum") as caught:
                    verify_file(str(path), OPENED)
                assert caught.value.diagnosis == "corrupt"


@ONE_AND_TWO
def test_where_priorities_may_not_be_changed_all_have_the_same(
    parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[object]
) -> None:
    path = tmp_path / "backup"
    path.write_bytes(openssl(Writer().archive(two_tables(5), compression=0)))
    expected = verify_file(str(path), OPENED)
    before = os.getpriority(os.PRIO_PROCESS, 0)

    def forbidden(*_args: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "nice", forbidden)
    monkeypatch.setattr(os, "setpriority", forbidden)
    assert verify_file(str(path), OPENED) == expected
    monkeypatch.undo()
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
    assert len(processes) == 2 * parts


@pytest.mark.parametrize("parts", [1, 2], indirect=True)
def test_where_descriptors_run_out_threads_do_it_and_none_is_left(
    parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "backup"
    path.write_bytes(openssl(Writer().archive(two_tables(3), compression=0)))
    expected = verify_file(str(path), OPENED)
    monkeypatch.setattr(_walk, "LARGE", 0)
    pipe = os.pipe
    for possible in range(12 * parts):
        left = iter(range(possible))

        def limited(left: Iterator[int] = left) -> tuple[int, int]:
            if next(left, None) is None:
                raise OSError(24, "Too many open files")
            return pipe()

        before = sorted(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(os, "pipe", limited)
        assert verify_file(str(path), OPENED) == expected
        assert sorted(os.listdir("/proc/self/fd")) == before, possible


SCRIPT = """
import os, sys, time
from ansible_collections.odkops.central.plugins.module_utils import _pgdump_division, _pgdump_input
from ansible_collections.odkops.central.plugins.module_utils import _reading_processes, _stages, _walk
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, verify_file
_walk.LARGE = 0
if sys.argv[3] == "2":
    _pgdump_division.WORTH = _pgdump_division._LOOK = 1
    _pgdump_input.CHUNK = 4096
feed = _stages.feed
def slowly(blocks, put):
    def wait(item):
        put(item)
        time.sleep(0.05)
    os.write(1, b"begun" + bytes([10]))
    feed(blocks, wait)
_walk.feed = _reading_processes.feed = slowly
verify_file(sys.argv[1], Expectation(passphrase=sys.argv[2]))
"""


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_stays_of_a_reader_that_is_killed(number: int, parts: int, tmp_path: Path) -> None:
    path = tmp_path / "backup"
    path.write_bytes(openssl(archives(15).read("nasty")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT, str(path), PASSPHRASE, str(parts)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as reader:
        assert reader.stdout is not None
        for _part in range(parts):
            assert reader.stdout.readline() == b"begun\n"
        children = Path(f"/proc/{reader.pid}/task/{reader.pid}/children").read_text("ascii").split()
        assert len(children) == parts + 1
        reader.send_signal(number)
        # The pipe ends when the last process that has it has ended.
        assert reader.stdout.read() == b""
    deadline = time.monotonic() + 20
    while any(_runs(child) for child in children):
        assert time.monotonic() < deadline, "a process outlives the one that it worked for"
        time.sleep(0.05)


def _runs(process: str) -> bool:
    try:
        return "\tZ" not in Path(f"/proc/{process}/status").read_text("ascii")
    except OSError:
        return False
