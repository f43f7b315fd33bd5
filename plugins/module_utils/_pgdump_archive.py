# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The custom format of pg_dump, walked from its first byte to its last.

Source of the format: PostgreSQL, src/bin/pg_dump/pg_backup_custom.c. Behind the table of contents
stands one block for each entry with data: a byte (1 data, 3 large objects), the entry's id, then
chunks. A block of large objects repeats an object's id and its chunks, and ends with the id zero.
The file ends with its last block.

The walk is complete: every entry that has data has its block exactly once, in the order of the table
of contents, and nothing follows.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

from ansible_collections.odkops.central.plugins.module_utils._deflate import Middle
from ansible_collections.odkops.central.plugins.module_utils._pgdump_division import Division, ReadAt, divide
from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import ArchiveInput, corrupt, truncated
from ansible_collections.odkops.central.plugins.module_utils._pgdump_toc import (
    Header,
    read_header,
    read_toc,
)
from ansible_collections.odkops.central.plugins.module_utils._streams import Readable
from ansible_collections.odkops.central.plugins.module_utils._zlib_stream import WrongDivisionError

_DATA = 1
_LARGE_OBJECTS = 3


class FirstPart:
    """The data of a block as far as the first of two readers reads it, if a chunk begins where the second one does."""

    def __init__(self, source: ArchiveInput, division: Division, middle: Middle) -> None:
        self._source = source
        self._division = division
        #: where it ends, as seen from the first byte of :meth:`behind`
        self.middle = middle
        #: once the pieces have been read: whether they ended where :meth:`behind` goes on, and not with the block
        self.stopped = False
        #: whether all of :meth:`behind` has been read
        self.ended = False

    def pieces(self) -> Iterator[bytes]:
        """What stands in front of the place where the second reader begins, or all of the block."""
        self.stopped = yield from self._source.chunks(self._division.offset)

    def behind(self) -> Iterator[bytes]:
        """What follows there, and both read.

        :raises WrongDivisionError: it is not what was found there before
        """
        self.ended = yield from self._source.chunks(self._division.until)
        if not self.ended:
            raise WrongDivisionError


@dataclass(frozen=True)
class Block:
    """The data of one entry, or of one large object of an entry: read `pieces` to their end."""

    entry: TocEntry
    #: the id of the large object, or None for the data of a table
    large_object: int | None
    #: compressed bytes, in pieces of about 256 KiB
    pieces: Iterator[bytes]
    #: where the block may end for the first of two readers, who then has to read what is behind that, too
    first: FirstPart | None = None
    #: where it begins for the second one, as seen from the first byte of its pieces
    middle: Middle | None = None


class CustomArchive:
    """Reads an archive in the custom format.

    :param source: the decrypted archive
    :raises CentralError: as :func:`read_header` and :func:`read_toc` do
    """

    def __init__(self, source: Readable) -> None:
        self._input = ArchiveInput(source)
        self.header: Header = read_header(self._input)
        self.entries: list[TocEntry] = read_toc(self._input, self.header)
        #: whether the walk has stopped where it was to be divided
        self.divided = False

    @property
    def size(self) -> int:
        """Bytes read so far; after the walk, the size of the archive."""
        return self._input.offset

    def division(self, size: int, read_at: ReadAt) -> Division | None:
        """Where a second reader may begin. To be asked for before the walk.

        :param size: bytes of the archive, or a few more
        :param read_at: gives so many bytes at an offset of the archive, fewer at its end
        """
        inside = self.header.compression == "gzip"
        return divide(self.entries, self.size, size, self._input.integer_size, read_at, inside)

    def blocks(self, division: Division | None = None) -> Iterator[Block]:
        """The blocks in the order of the file. Each one's pieces must be read before the next one.

        :param division: stop there, if that is such a place: :attr:`divided` says so then. Else go on
        :raises CentralError: ``truncated``, ``corrupt``
        """
        self.divided = yield from _blocks(self._input, self._waiting, division)

    def blocks_behind(self, division: Division, source: Readable) -> Iterator[Block]:
        """The blocks from a division to the end of the archive, for a second reader.

        :param source: the archive, from the division's offset on
        :raises CentralError: ``truncated``, ``corrupt``
        """
        behind = ArchiveInput(source, division.offset)
        behind.integer_size, behind.offset_size = self._input.integer_size, self._input.offset_size
        waiting = self._waiting[division.number :]
        if division.middle is not None:
            behind.where = f"inside the data of {waiting[0].name}"
            yield Block(waiting.pop(0), None, behind.chunks(), middle=division.middle)
        yield from _blocks(behind, waiting, None)

    @property
    def _waiting(self) -> list[TocEntry]:
        # pg_dump writes them in the order of the table of contents (WriteDataChunks), and a pg_restore that
        # reads from a pipe needs that order.
        return [entry for entry in self.entries if entry.has_data]


def _blocks(source: ArchiveInput, waiting: list[TocEntry], division: Division | None) -> Generator[Block, None, bool]:
    """The blocks of the entries `waiting`, and that nothing follows them; returns whether it has stopped at the division."""
    for number, entry in enumerate(waiting):
        if division == Division(number, source.offset):
            return True
        if source.at_end():
            raise truncated(f"before the data of {_names(waiting[number:])}")
        begin = source.offset
        source.where = f"at the beginning of the data of {entry.name}"
        kind, dump_id = source.byte(), source.integer()
        if dump_id != entry.dump_id or entry.position not in (0, begin):
            raise corrupt(f"at byte {begin} stands not the data of {entry.name} but that of an entry {dump_id}")
        if kind != (_LARGE_OBJECTS if entry.description == "BLOBS" else _DATA):
            raise corrupt(f"the data of {entry.name} is of a kind {kind}")
        source.where = f"inside the data of {entry.name}"
        if kind == _DATA and division is not None and division.number == number and division.middle is not None:
            first = FirstPart(source, division, division.middle)
            yield Block(entry, None, first.pieces(), first)
            if first.ended:
                return True
        elif kind == _DATA:
            yield Block(entry, None, source.chunks())
        else:
            yield from _large_objects(source, entry)
    source.where = "behind its last block"
    if not source.at_end():
        raise corrupt(f"something follows its last block, at byte {source.offset}")
    return False


def _large_objects(source: ArchiveInput, entry: TocEntry) -> Iterator[Block]:
    latest = 0
    while True:
        # pg_dump writes an unsigned number of 32 bits as if it were a signed one.
        oid = source.integer()
        if not -(2**31) <= oid < 2**31:
            raise corrupt(f"the large object {oid} cannot be")
        oid %= 2**32
        if oid == 0:
            return
        # In the order of their ids: dumpLOs, and getLOs since PostgreSQL 17.
        if oid <= latest:
            raise corrupt(f"the large object {oid} is there twice, or not in its place")
        latest = oid
        yield Block(entry, oid, source.chunks())


def _names(missing: list[TocEntry]) -> str:
    names = [entry.name for entry in missing]
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more tables"
