# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a large archive can be divided, so that two readers have about half of it each.

A block says nowhere how long it is, and pg_dump into a pipe notes no positions, so that the next one is found by going
from chunk to chunk. Only the few bytes in front of each chunk are looked at here, and where pg_dump has made one chunk
as long as the other, as its compression by gzip does, only some of these.

Where no place between two blocks is good, as where most of an archive are the blobs, a place inside a block of gzip may do.

What is found is a guess. The reader of the first part comes to the end of its last block by reading every byte of it,
and either that is where the second part was said to begin, or the guess was wrong.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Callable

from ansible_collections.odkops.central.plugins.module_utils._deflate import Middle
from ansible_collections.odkops.central.plugins.module_utils._deflate_search import find_middle
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import ArchiveInput
from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK

#: each part has so many bytes at least, or dividing is not worth while
WORTH = 4 * 1024 * 1024

# One look takes as long as reading so many bytes; more looks than the archive has such pieces, and they are no gain.
_LOOK = 128 * 1024


# A place inside a block has so many parts of the archive in front of it, of 100: who reads what stands behind it does nothing
# else, and those who read the first part hash the file, too.
_INSIDE = 42

# A place between two blocks that is so many parts of 100 away from the middle is good enough.
_NEAR = 12

#: gives so many bytes at an offset of an archive, fewer at its end
ReadAt = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Division:
    """A place in an archive where one reader ends and another one begins, between two blocks or inside one."""

    #: how many entries with data stand in front of it, as a whole
    number: int
    #: bytes of the archive in front of what the second reader reads
    offset: int
    #: where inside a block, as seen from that offset; None between two blocks
    middle: Middle | None = None
    #: bytes of the archive in front of what the first reader needs not read, inside a block
    until: int = 0


class _LostError(Exception):
    """What is there is not what stands between chunks, or there are too many of them."""


class _Looking:
    """Goes from chunk to chunk.

    :param read_at: gives so many bytes at an offset of the archive, fewer at its end
    :param size: bytes of the archive
    :param integer_size: bytes of its integers
    :param wanted: an offset: :attr:`place` is where the chunk begins that stands there, once it has been passed
    """

    def __init__(self, read_at: ReadAt, size: int, integer_size: int, wanted: int) -> None:
        self._read_at = read_at
        self._wanted = wanted
        self.place: Division | None = None
        self._size = size
        self._head = 1 + integer_size
        self._left = size // _LOOK

    def _integer(self, offset: int) -> int:
        """A number that is not negative."""
        self._left -= 1
        if self._left < 0 or offset >= self._size:
            raise _LostError
        data = self._read_at(offset, self._head)
        if len(data) < self._head or data[0]:
            raise _LostError
        return int.from_bytes(data[1:], "little")

    def end_of(self, number: int, entry: TocEntry, begin: int) -> int:
        """Where the block of an entry ends that begins at an offset.

        :param number: how many blocks stand in front of it
        :raises _LostError: no such block is there
        """
        if entry.description == "BLOBS" or self._integer(begin + 1) != entry.dump_id:
            raise _LostError
        position = begin + 1 + self._head
        while True:
            length = self._integer(position)
            step = self._head + length
            if length == 0:
                return position + step
            end = position + step + step * self._alike(position + step, length)
            if position <= self._wanted < end and length < CHUNK:
                self.place = Division(number, position + (self._wanted - position) // step * step)
            position = end

    def _alike(self, position: int, length: int) -> int:
        """How many chunks of a length stand at a position, found in steps that grow and shrink."""
        step = self._head + length

        def one_more(number: int) -> bool:
            try:
                return self._integer(position + number * step) == length
            except _LostError:
                if self._left < 0:
                    raise
                return False

        found, stride = 0, 1
        while one_more(found + stride - 1):
            found += stride
            stride *= 2
        while stride > 1:
            stride //= 2
            if one_more(found + stride - 1):
                found += stride
        return found


def divide(
    entries: list[TocEntry], begin: int, size: int, integer_size: int, read_at: ReadAt, inside: bool
) -> Division | None:
    """Find where to divide an archive: between two blocks, as near to its middle as there is such a place, or inside one.

    :param entries: its table of contents
    :param begin: where its first block begins
    :param size: bytes of the archive
    :param integer_size: bytes of its integers
    :param read_at: gives so many bytes at an offset of the archive, fewer at its end
    :param inside: its blocks are zlib streams, and may be divided
    :returns: None where it is not worth while, or no place was found
    """
    if size - begin < 2 * WORTH:
        return None
    percent = (size - begin) // 100
    looking = _Looking(read_at, size, integer_size, begin + _INSIDE * percent)
    middle = begin + (size - begin) // 2
    best = Division(0, begin)
    position = begin
    # What is found in front of a place where nothing is found remains good.
    with contextlib.suppress(_LostError):
        for number, entry in enumerate([entry for entry in entries if entry.has_data], 1):
            position = looking.end_of(number - 1, entry, position)
            if abs(position - middle) < abs(best.offset - middle):
                best = Division(number, position)
            if position >= middle:
                break
    if inside and looking.place is not None and abs(best.offset - middle) > _NEAR * percent:
        best = _inside(looking.place, integer_size, read_at) or best
    return best if min(best.offset - begin, size - best.offset) >= WORTH else None


class _From:
    """An archive from an offset on."""

    def __init__(self, read_at: ReadAt, offset: int) -> None:
        self._read_at = read_at
        self._offset = offset

    def read(self, size: int, /) -> bytes:
        """As :meth:`Readable.read`."""
        data = self._read_at(self._offset, size)
        self._offset += len(data)
        return data


def _inside(chunk: Division, integer_size: int, read_at: ReadAt) -> Division | None:
    """A place inside a block, behind where one of its chunks begins."""
    source = ArchiveInput(_From(read_at, chunk.offset), chunk.offset)
    source.integer_size = integer_size
    with contextlib.suppress(CentralError):
        middle = find_middle(source.chunks())
        if middle is not None:
            return Division(chunk.number, chunk.offset, middle, source.offset)
    return None
