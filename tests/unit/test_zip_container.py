# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Zip files that are not what Central writes: damaged, dangerous, or on a disk that fails."""

from __future__ import annotations

import functools
import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, verify_stream

from support.directory_dumps import directory_dumps
from support.legacy_zip_writer import PASSPHRASE, LegacyBackup, Record, make, write_zip
from support.spoilt_zips import BIG, add, data_file, failure, local, member, quicken_keys, spoilt, unfinished


@pytest.fixture(autouse=True)
def _quick_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken_keys(monkeypatch)


# The zip itself.


def zip_of(**changes: Any) -> bytes:
    """A backup whose first file of data has another record."""
    return make(directory_dumps().read(), member(**changes))


SPOILT = {
    "crc": (member(crc=1), "corrupt"),
    "encrypted by zip": (member(flags=9), "not_a_central_backup"),
    "strong encryption": (member(flags=0x48), "not_a_central_backup"),
    "bzip2": (member(method=12), "unsupported_compression"),
    "deflate64": (member(method=9), "unsupported_compression"),
    "garbage": (member(stored=b"\xff" * 100), "corrupt"),
    "no end of deflate": (lambda b: b.change(data_file(), stored=b.record(data_file()).compressed()[:-1]), "corrupt"),
    "behind deflate": (lambda b: b.change(data_file(), stored=b.record(data_file()).compressed() + b"\0"), "corrupt"),
    "announces less": (lambda b: b.change(data_file(), size=len(b.record(data_file()).data) - 16), "unsafe_archive"),
    "announces more": (lambda b: b.change(data_file(), size=len(b.record(data_file()).data) + 16), "corrupt"),
    "announces far more": (member(size=160_000_000), "unsafe_archive"),
    "announces 4 GiB": (member(size=0xFFFFFFF0), "unsafe_archive"),
    "stored in two sizes": (member(method=0, size=16_000), "corrupt"),
    "gap": (member(gap=b"between"), "corrupt"),
    "hidden member": (lambda b: b.records.insert(1, Record(b"hidden", b"x", listed=False)), "corrupt"),
    "unlisted first member": (lambda b: b.records.insert(0, Record(b"hidden", b"x", listed=False)), "corrupt"),
    "comment": (member(comment=b"a comment"), "corrupt"),
    "another name in the directory": (member(central_name=b"9999.dat.gz"), "corrupt"),
    "extra field cut short": (member(extra=b"\1"), "corrupt"),
    "extra field too long": (member(extra=b"UT\x09\0\1"), "corrupt"),
    "two zip64 fields": (member(extra=(b"\1\0\x18\0" + bytes(24)) * 2), "corrupt"),
    "zip64 field of other sizes": (member(extra=b"\1\0\x18\0" + bytes(24)), "corrupt"),
    "empty zip64 field": (member(extra=b"\1\0\x03\0abc"), "corrupt"),
    "offset of another one": (member(offset=0), "unsafe_archive"),
    "offset beyond the end": (member(offset=0x7FFFFFFF), "corrupt"),
    "offset one too low": (lambda b: shift(b, -1), "corrupt"),
    "offset one too high": (lambda b: shift(b, 1), "corrupt"),
    "gap behind a member without descriptor": (member(flags=0, gap=bytes(30)), "corrupt"),
    "deflate without its last block": (lambda b: b.change(data_file(), stored=unfinished(b)), "corrupt"),
    "local CRC": (lambda b: local(b, 0, crc=1), "corrupt"),
    "local size": (lambda b: local(b, 0, size=1), "corrupt"),
    "local stored size": (lambda b: local(b, 0, stored=1), "corrupt"),
    "nothing in the local header nor behind the data": (lambda b: local(b, 0, crc=0, size=0, stored=0), "corrupt"),
    "local size before a descriptor": (lambda b: local(b, 8, size=1), "corrupt"),
    "local sizes of 64 bits that are not there": (lambda b: local(b, 0, size=BIG, stored=BIG), "corrupt"),
    "local sizes of 64 bits, one of them": (lambda b: local(b, 0, b"\1\0\x08\0" + bytes(8), BIG, BIG), "corrupt"),
    "local sizes of 64 bits, others": (lambda b: local(b, 0, b"\1\0\x10\0" + bytes(16), BIG, BIG), "corrupt"),
    "the same member twice": (lambda b: b.records.append(b.record(data_file())), "unsafe_archive"),
    "keys twice": (lambda b: b.records.append(Record(b"keys.json", b"{}")), "unsafe_archive"),
}


def shift(backup: LegacyBackup, by: int) -> None:
    """Makes the central directory believe that a member begins elsewhere."""
    index = backup.records.index(backup.record(data_file()))
    offset = sum(30 + len(r.name) + len(r.compressed()) + 16 for r in backup.records[:index])
    backup.change(data_file(), offset=offset + by)


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_member(name: str) -> None:
    change, diagnosis = SPOILT[name]

    assert spoilt(change) == diagnosis


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/../../evil",
        "..",
        "/etc/cron.d/evil",
        "//host/share",
        "\\windows\\evil",
        "..\\evil",
        "C:evil",
        "c:/evil",
    ]
    + ["toc.dat\0.txt", "\0", "dir/.."],
)
@pytest.mark.parametrize("iv", [False, True])
def test_a_name_that_leads_elsewhere(name: str, iv: bool) -> None:
    error = failure(make(directory_dumps().read(), add(name, iv)))

    assert error.diagnosis == "unsafe_archive"
    assert error.message.isprintable()


def test_a_name_that_leads_elsewhere_is_told_even_without_keys() -> None:
    backup = LegacyBackup(directory_dumps().read())
    add("../../evil")(backup)

    assert failure(backup.build(keys=False)).diagnosis == "unsafe_archive"


def test_members_that_overlap() -> None:
    """A member that lies inside the stored bytes of another one, as in overlapping zip bombs."""
    inner = write_zip([Record(b"9999.dat.gz", b"x" * 32)])
    inner = inner[: inner.index(b"PK\1\2")]
    backup = LegacyBackup(directory_dumps().read())
    record = Record(b"9998.dat.gz", inner + bytes(16), method=0, flags=0)
    start = 30 + len(record.name)
    central = Record(b"9999.dat.gz", b"x" * 32, offset=start)
    data = write_zip([record, *backup.records])
    # The same directory, with one more entry for the member inside the first one.
    directory = write_zip([central])
    entry = directory[directory.index(b"PK\1\2") : directory.index(b"PK\5\6")]
    where = data.rindex(b"PK\5\6")
    *_start, here, count, size, offset, _comment = struct.unpack("<4s4H2LH", data[where:])
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, here + 1, count + 1, size + len(entry), offset, 0)

    assert failure(data[:where] + entry + end).diagnosis == "unsafe_archive"


@pytest.mark.parametrize("addition", [b"\0", b"appended", b"PK\5\6", bytes(70_000)])
def test_something_follows(addition: bytes) -> None:
    data = make(directory_dumps().read())

    assert failure(data + addition).diagnosis in (("corrupt",) if len(addition) < 65_000 else ("truncated",))


def test_a_cut_file_in_which_there_is_what_looks_like_an_end() -> None:
    """Four bytes of encrypted data can be anything."""
    data = make(directory_dumps().read())

    for tail in (bytes(17), bytes(100), b"\xff" * 18, b"\x10" * 40):
        assert failure(data[:10_000] + b"PK\5\6" + tail).diagnosis == "truncated"


def test_two_backups_in_one_file() -> None:
    data = make(directory_dumps().read())

    assert failure(data + data).diagnosis == "corrupt"


def test_a_comment_at_the_end() -> None:
    assert failure(LegacyBackup(directory_dumps().read()).build(comment=b"a comment")).diagnosis == "corrupt"


def test_something_stands_before() -> None:
    backup = LegacyBackup(directory_dumps().read())
    first = Record(b"zero", b"")

    data = write_zip([first, *backup.records])

    assert failure(data).diagnosis == "keys_missing"
    assert failure(backup.build(before=b"PK\3\4 something else")).diagnosis == "corrupt"


def ended(change: Callable[[list[int]], None], zip64: bool = False) -> str:
    """The diagnosis where the numbers at the end of the file are others.

    They are: disk, first disk, members here, members, size, offset (zip64: after size of the record and two versions).
    """
    data = LegacyBackup(directory_dumps().read()).build(zip64=zip64)
    form, magic = ("<4sQ2H2L4Q", b"PK\6\6") if zip64 else ("<4s4H2LH", b"PK\5\6")
    where = data.rindex(magic)
    found = list(struct.unpack_from(form, data, where))
    numbers = found[1:]
    change(numbers)
    packed = struct.pack(form, magic, *numbers)
    return failure(data[:where] + packed + data[where + len(packed) :]).diagnosis


def plus(index: int, by: int) -> Callable[[list[int]], None]:
    """Raises one number."""

    def change(numbers: list[int]) -> None:
        numbers[index] += by

    return change


@pytest.mark.parametrize("index", range(6))
@pytest.mark.parametrize("by", [1, -1, 1000])
def test_the_end_says_something_else(index: int, by: int) -> None:
    if index < 2 and by < 0:
        by = 2
    if index == 2 and by < 0:
        by = 3

    assert ended(plus(index, by)) == "corrupt"


@pytest.mark.parametrize("index", [0, 3, 4, 5, 6, 7, 8])
def test_the_end_of_64_bits_says_something_else(index: int) -> None:
    assert ended(plus(index, 1), zip64=True) == "corrupt"


def test_the_two_ends_contradict_each_other() -> None:
    data = bytearray(LegacyBackup(directory_dumps().read()).build(zip64=True))

    for place, value in ((10, b"\7\0"), (12, b"\7\0\0\0"), (16, b"\7\0\0\0")):
        changed = bytearray(data)
        changed[len(data) - 22 + place : len(data) - 22 + place + len(value)] = value
        assert failure(bytes(changed)).diagnosis == "corrupt"


def test_the_end_of_64_bits_is_missing() -> None:
    data = make(directory_dumps().read())
    end = data[:-22] + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)

    assert failure(end).diagnosis == "corrupt"
    assert failure(b"PK\3\4" + end[-22:]).diagnosis == "corrupt"


def test_members_without_end() -> None:
    """A central directory that claims more than any backup has."""
    entries = write_zip([Record(b"%d.dat" % n, b"") for n in range(60_001)])

    assert failure(entries).diagnosis == "unsafe_archive"


def test_no_members() -> None:
    assert failure(b"PK\3\4" + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 0, 4, 0)).diagnosis == "corrupt"


# Bombs: refused, and before they take memory.


@functools.cache
def bomb(size: int) -> bytes:
    """Deflate that unpacks to `size` zeros."""
    engine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    pieces = [engine.compress(bytes(1_000_000)) for _count in range(size // 1_000_000)]
    return b"".join([*pieces, engine.flush()])


@pytest.mark.parametrize("announced", [1000, 400_000_000])
@pytest.mark.parametrize("which", ["keys.json", "toc.dat", "data"])
def test_a_bomb(announced: int, which: str) -> None:
    backup = LegacyBackup(directory_dumps().read())
    content = bomb(400_000_000)
    announced -= announced % 16
    if which == "keys.json":
        data = write_zip([*backup.records, Record(b"keys.json", b"", stored=content, size=announced, crc=0)])
    else:
        name = data_file() if which == "data" else which
        data = backup.change(name, stored=content, size=announced, crc=0).build()
    tracemalloc.start()
    try:
        error = failure(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert error.diagnosis == "unsafe_archive"
    assert peak < 20_000_000


def test_a_bomb_inside_the_encryption_takes_no_memory() -> None:
    """What has the right passphrase is trusted with processor time, but not with memory."""
    files = directory_dumps().read()
    engine = zlib.compressobj(9, zlib.DEFLATED, 31)
    content = b"".join([*(engine.compress(bytes(1_000_000)) for _count in range(300)), engine.flush()])
    data = make({**files, data_file(): content})
    tracemalloc.start()
    try:
        error = failure(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert error.diagnosis == "corrupt"
    assert peak < 50_000_000


# The file.


class Failing(io.BytesIO):
    """A file whose disk fails at an offset."""

    def __init__(self, data: bytes, at: int) -> None:
        super().__init__(data)
        self.at = at

    def read(self, size: int | None = -1, /) -> bytes:
        """Fails where the read would touch the offset."""
        if size and self.tell() <= self.at < self.tell() + size:
            raise OSError(5, "Input/output error")
        return super().read(size)


def test_the_disk_fails() -> None:
    data = make(directory_dumps().read())
    for at in (0, 40_000, len(data) - 2000, len(data) - 1):
        assert failure(data, file=Failing(data, at)).diagnosis in ("unreadable", "corrupt")
    assert failure(data, file=Failing(data, len(data) - 1)).diagnosis == "unreadable"


def test_the_file_cannot_be_searched() -> None:
    class Pipe(io.BytesIO):
        def seek(self, *_arguments: Any) -> int:
            raise OSError(29, "Illegal seek")

    assert failure(make(directory_dumps().read()), file=Pipe()).diagnosis == "unreadable"


def test_the_file_becomes_shorter_meanwhile() -> None:
    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(size) if self.tell() > len(data) - 5000 else b""

    data = make(directory_dumps().read())

    assert failure(data, file=Shrinking(data)).diagnosis == "truncated"


def test_the_file_gives_single_bytes() -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 1))

    data = make(directory_dumps().read())

    assert verify_stream(io.BytesIO(data), Expectation(PASSPHRASE), stored=Slow(data)).diagnosis == "ok"
