# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An uncompressed archive of pg_dump made an ordinary gzip one while it streams by.

pg_dump spends most of its time in zlib, on the server. ``pg_dump --compress=0`` does not, and
``isal`` compresses many times as fast as zlib, here. The archive that comes out is what ``pg_dump --compress=1``
would have written into a pipe: header and table of contents are copied byte by byte but for the field
that names the compression, and each block is one zlib stream.

Source of the format: see ``_pgdump_toc.py`` and ``_pgdump_archive.py``; for the field of the
compression, WriteHead and ReadHead of PostgreSQL's src/bin/pg_dump/pg_backup_archiver.c (a level before
version 1.15, then a byte that names the algorithm).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Callable, Protocol

from ansible_collections.odkops.central.plugins.module_utils._pgdump_archive import Block, CustomArchive
from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt
from ansible_collections.odkops.central.plugins.module_utils._pgdump_toc import Version
from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK, Readable

#: the level of compression, and what the header of an archive before version 1.15 says
LEVEL = 1

# Where the size of an integer and the compression stand in the header: behind the magic word, three bytes of version, the
# sizes of integers and offsets, and the format.
_INTEGER_SIZE = 8
_COMPRESSION = 11

_GZIP = 1
_DATA = b"\1"
_LARGE_OBJECTS = b"\3"


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def _compressors() -> Callable[[], _Compressor]:
    """What makes a compressor of zlib streams: that of ``isal`` where it is installed."""
    try:
        from isal import isal_zlib
    except ImportError:
        return lambda: zlib.compressobj(LEVEL)
    return lambda: isal_zlib.compressobj(LEVEL)


def recompress(source: Readable) -> Iterator[bytes]:
    """The archive `source`, made by ``pg_dump --format=custom --compress=0`` into a pipe, as a gzip one, in pieces.

    Memory is bounded, but for the table of contents.

    :param source: the archive, of versions 1.12 to 1.16
    :raises CentralError: ``truncated``, ``corrupt`` and what else :class:`CustomArchive` says of an archive that is not whole
    """
    recording = _Recording(source)
    archive = CustomArchive(recording)
    head = recording.stop(archive.size)
    if archive.header.compression != "none":
        raise corrupt(f"its data should not be compressed, and is, by {archive.header.compression}")
    if any(entry.position for entry in archive.entries):
        raise corrupt("it says where its data is, as pg_dump does not in a pipe")
    yield _with_gzip(head, archive.header.version)
    yield from _Rewriting(archive.blocks(), archive.entries, head[_INTEGER_SIZE]).pieces()


class _Recording:
    """Passes a stream on and keeps what has been read of it, until it is stopped."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._kept: list[bytes] | None = []

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        if self._kept is not None:
            self._kept.append(data)
        return data

    def stop(self, size: int) -> bytes:
        """Keep no more, and return the first `size` bytes."""
        kept = b"".join(self._kept or ())[:size]
        self._kept = None
        return kept


def _with_gzip(head: bytes, version: Version) -> bytes:
    """The header and table of contents of an archive, with another compression."""
    field = _integer(LEVEL, head[_INTEGER_SIZE]) if version < (1, 15) else bytes([_GZIP])
    return head[:_COMPRESSION] + field + head[_COMPRESSION + len(field) :]


def _integer(value: int, size: int) -> bytes:
    """A signed integer as archives have it: a byte of sign, then `size` bytes, the least significant first."""
    return bytes([value < 0]) + abs(value).to_bytes(size, "little")


class _Rewriting:
    """Writes blocks again, their data compressed.

    :param blocks: the blocks of the archive
    :param entries: its table of contents
    :param integer_size: bytes of an integer in it
    """

    def __init__(self, blocks: Iterator[Block], entries: list[TocEntry], integer_size: int) -> None:
        self._blocks = blocks
        self._entries = iter([entry for entry in entries if entry.has_data])
        self._size = integer_size
        self._end = _integer(0, integer_size)
        self._compressor = _compressors()

    def pieces(self) -> Iterator[bytes]:
        """The bytes behind the table of contents, in pieces of about 256 KiB at most."""
        entry: TocEntry | None = None
        gathered: list[bytes] = []
        size = 0
        for block in self._blocks:
            if block.entry is not entry:
                gathered.append(self._between(entry, block.entry))
                entry = block.entry
            if block.large_object is not None:
                gathered.append(self._object_id(block.large_object))
            for data in self._compressed(block.pieces):
                gathered += (_integer(len(data), self._size), data)
                size += len(data)
                if size >= CHUNK:
                    yield b"".join(gathered)
                    gathered, size = [], 0
            gathered.append(self._end)
        gathered.append(self._between(entry, None))
        yield b"".join(gathered)

    def _compressed(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        compressor = self._compressor()
        for piece in pieces:
            data = compressor.compress(piece)
            if data:
                yield data
        yield compressor.flush()

    def _between(self, latest: TocEntry | None, following: TocEntry | None) -> bytes:
        """What stands between the data of two entries: the end of large objects, and the beginning of a block.

        An entry of large objects without any is among them.
        """
        out = self._end if latest is not None and latest.description == "BLOBS" else b""
        for entry in self._entries:
            objects = entry.description == "BLOBS"
            out += (_LARGE_OBJECTS if objects else _DATA) + _integer(entry.dump_id, self._size)
            if entry is following:
                return out
            out += self._end
        return out

    def _object_id(self, oid: int) -> bytes:
        """The id of a large object, which pg_dump writes as if it were a signed number of 32 bits."""
        return _integer(oid - 2**32 if oid >= 2**31 else oid, self._size)
