# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Uncompressed archives made gzip ones: PostgreSQL's own pg_restore makes the same of both."""

from __future__ import annotations

import io
import re
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pgdump_archive import CustomArchive
from ansible_collections.odkops.central.plugins.module_utils._pgdump_recompress import recompress

from support.archives import archives
from support.pgdump_writer import COPY_END, Entry, Writer, central, encoding
from support.verifying import diagnosis, read_plain

MAJORS = [15, 17, pytest.param(13, marks=pytest.mark.long), pytest.param(18, marks=pytest.mark.long)]
VERSIONS = [(1, minor) for minor in range(12, 17)]


class Drops:
    """A stream that gives few bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        self._file = io.BytesIO(data)
        self._size = size

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, self._size))


def rewritten(data: bytes, size: int = 1 << 20) -> bytes:
    return b"".join(recompress(Drops(data, size)))


def blocks(data: bytes) -> list[tuple[int, int | None, bytes]]:
    """Entry, large object and data of each block."""
    archive = CustomArchive(io.BytesIO(data))
    plain = archive.header.compression == "none"
    found = []
    for block in archive.blocks():
        content = b"".join(block.pieces)
        found.append((block.entry.dump_id, block.large_object, content if plain else zlib.decompress(content)))
    return found


@pytest.mark.parametrize("database", ["small", "nasty", "latin1"])
@pytest.mark.parametrize("major", MAJORS)
def test_pg_restore_makes_the_same_of_it(major: int, database: str) -> None:
    made = archives(major)
    data = made.read(database, "none")
    result = rewritten(data)
    assert len(result) < len(data)

    def restored(archive: bytes, *options: str) -> bytes:
        # It makes a new key for psql's \restrict each time.
        printed = made.postgresql.run("pg_restore", *options, stdin=archive)
        return re.sub(rb"\\(un)?restrict \w+", b"", printed)

    assert restored(result, "--file", "-") == restored(data, "--file", "-")
    listed = re.sub(
        rb"Compression: (none|0)", rb"Compression: " + (b"gzip" if major >= 16 else b"1"), restored(data, "--list")
    )
    assert restored(result, "--list") == listed
    found = read_plain(result)
    assert found["tables"] == made.truth(database).tables
    assert found["compression"] == "gzip"


@pytest.mark.parametrize("major", [15, 17])
def test_nothing_but_the_compression_differs(major: int) -> None:
    data = archives(major).read("nasty", "none")
    result = rewritten(data)
    assert blocks(result) == blocks(data)
    end, ours = CustomArchive(io.BytesIO(data)).size, CustomArchive(io.BytesIO(result)).size
    assert end == ours
    different = [at for at in range(end) if data[at] != result[at]]
    # The level is an integer: a sign, then four bytes. The algorithm is a byte.
    assert different == ([12] if major < 16 else [11])
    assert not any(entry.position for entry in CustomArchive(io.BytesIO(result)).entries)


@pytest.mark.parametrize("size", [1, 7, 4096])
@pytest.mark.parametrize("integer_size", [2, 4, 8])
@pytest.mark.parametrize("version", VERSIONS)
def test_all_versions_and_sizes(version: tuple[int, int], integer_size: int, size: int) -> None:
    data = Writer(version, integer_size).archive(central(), compression=0, algorithm=0)
    result = rewritten(data, size)
    assert diagnosis(result) == "ok"
    assert blocks(result) == blocks(data)
    header = CustomArchive(io.BytesIO(result)).header
    assert (header.compression, header.version) == ("gzip", version)


def test_large_objects() -> None:
    writer = Writer()
    objects = [(1, b"one"), (2, b""), (2**31, b"beyond the sign bit"), (2**32 - 1, b"the last")]
    entries = [
        encoding(),
        Entry(5, "BLOBS", "BLOBS", None, copy=None, data=b""),
        Entry(6, "BLOBS", "BLOBS", None, copy=None, data=b""),
        Entry(7, "BLOBS", "BLOBS", None, copy=None, data=b""),
        Entry(8, "t", copy="COPY public.t (a) FROM stdin;\n", data=COPY_END),
        Entry(9, "BLOBS", "BLOBS", None, copy=None, data=b""),
    ]
    signed = [(oid - 2**32 if oid >= 2**31 else oid, content) for oid, content in objects]
    data = writer.header(compression=0) + writer.contents(entries)
    data += writer.large_objects(5, []) + writer.large_objects(6, signed) + writer.large_objects(7, [])
    data += writer.block(8, COPY_END) + writer.large_objects(9, [])
    result = rewritten(data)
    assert blocks(result) == [*((6, oid, content) for oid, content in objects), (8, None, COPY_END)] == blocks(data)
    # Those without any are still there: a reader that goes by the table of contents looks for them.
    start = CustomArchive(io.BytesIO(result)).size
    assert result[start:].startswith(writer.large_objects(5, []))
    assert writer.large_objects(7, []) + bytes([1]) + writer.integer(8) in result
    assert result.endswith(writer.large_objects(9, []))


def test_no_data_at_all() -> None:
    data = Writer().archive([encoding()], compression=0)
    assert rewritten(data) == Writer().archive([encoding()], compression=1)


@pytest.mark.parametrize("version", [(1, 14), (1, 16)])
def test_a_cut_is_found_wherever_it_is(version: tuple[int, int]) -> None:
    data = Writer(version).archive(central(), compression=0, algorithm=0)
    for size in range(len(data)):
        with pytest.raises(CentralError) as caught:
            rewritten(data[:size])
        assert caught.value.diagnosis == "truncated", size
    with pytest.raises(CentralError) as caught:
        rewritten(data + b"\0")
    assert caught.value.diagnosis == "corrupt"


@pytest.mark.parametrize("version", [(1, 14), (1, 16)])
def test_what_pg_dump_was_not_asked_for_is_refused(version: tuple[int, int]) -> None:
    writer = Writer(version)
    compressed = writer.archive(central())
    entries = [encoding(), Entry(5, "t", copy="COPY public.t (a) FROM stdin;\n", data=COPY_END, state=2, position=1)]
    placed = writer.archive(entries, compression=0, algorithm=0)
    for data, words in ((compressed, "compressed"), (placed, "where its data is")):
        with pytest.raises(CentralError, match=words) as caught:
            rewritten(data)
        assert caught.value.diagnosis == "corrupt"


def test_without_isal(monkeypatch: pytest.MonkeyPatch) -> None:
    data = archives(15).read("small", "none")
    fast = rewritten(data)
    monkeypatch.setitem(sys.modules, "isal", None)
    slow = rewritten(data)
    assert blocks(slow) == blocks(fast) == blocks(data)


class Long:
    """An archive of one table with rows of 40,000 bytes, made as it is read."""

    def __init__(self, rows: int) -> None:
        writer = Writer()
        entries = [encoding(), Entry(5, "t", copy="COPY public.t (a) FROM stdin;\n", data=b"")]
        self._pieces = self._make(writer, entries, rows)
        self._rest = b""

    @staticmethod
    def _make(writer: Writer, entries: list[Entry], rows: int) -> Iterator[bytes]:
        yield writer.header(compression=0) + writer.contents(entries) + bytes([1]) + writer.integer(5)
        row = bytes(range(97, 123)) * 1538 + b"\n"
        for _row in range(rows):
            yield writer.integer(len(row)) + row
        yield writer.integer(len(COPY_END)) + COPY_END + writer.integer(0)

    def read(self, size: int, /) -> bytes:
        while len(self._rest) < size and (piece := next(self._pieces, b"")):
            self._rest += piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def test_memory_is_bounded() -> None:
    def peak(rows: int) -> Any:
        tracemalloc.start()
        try:
            for _piece in recompress(Long(rows)):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    assert peak(3000) < peak(1500) * 1.2 + 100_000
    assert peak(150) < 4_000_000
