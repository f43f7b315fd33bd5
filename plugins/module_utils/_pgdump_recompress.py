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
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt
from ansible_collections.odkops.central.plugins.module_utils._pgdump_toc import Version
from ansible_collections.odkops.central.plugins.module_utils._pgdump_writing import (
    COMPRESSION,
    INTEGER_SIZE,
    Frame,
    Recording,
    integer,
)
from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK, Readable

#: the level of compression, and what the header of an archive before version 1.15 says
LEVEL = 1

_GZIP = 1


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
    recording = Recording(source)
    archive = CustomArchive(recording)
    head = recording.stop(archive.size)
    if archive.header.compression != "none":
        raise corrupt(f"its data should not be compressed, and is, by {archive.header.compression}")
    if any(entry.position for entry in archive.entries):
        raise corrupt("it says where its data is, as pg_dump does not in a pipe")
    yield _with_gzip(head, archive.header.version)
    yield from _Rewriting(archive.blocks(), Frame(archive.entries, head[INTEGER_SIZE])).pieces()


def _with_gzip(head: bytes, version: Version) -> bytes:
    """The header and table of contents of an archive, with another compression."""
    field = integer(LEVEL, head[INTEGER_SIZE]) if version < (1, 15) else bytes([_GZIP])
    return head[:COMPRESSION] + field + head[COMPRESSION + len(field) :]


class _Rewriting:
    """Writes blocks again, their data compressed.

    :param blocks: the blocks of the archive
    :param frame: what stands around their data
    """

    def __init__(self, blocks: Iterator[Block], frame: Frame) -> None:
        self._blocks = blocks
        self._frame = frame
        self._compressor = _compressors()

    def pieces(self) -> Iterator[bytes]:
        """The bytes behind the table of contents, in pieces of about 256 KiB at most."""
        frame = self._frame
        gathered: list[bytes] = []
        size = 0
        for block in self._blocks:
            gathered.append(frame.before(block))
            for data in self._compressed(block.pieces):
                gathered += (frame.chunk(len(data)), data)
                size += len(data)
                if size >= CHUNK:
                    yield b"".join(gathered)
                    gathered, size = [], 0
            gathered.append(frame.end)
        gathered.append(frame.finish())
        yield b"".join(gathered)

    def _compressed(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        compressor = self._compressor()
        for piece in pieces:
            data = compressor.compress(piece)
            if data:
                yield data
        yield compressor.flush()
