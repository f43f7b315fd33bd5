# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a large archive can be divided, so that two readers have about half of it each.

A block says nowhere how long it is, and pg_dump into a pipe notes no positions, so that the next one is found by going
from chunk to chunk. Only the few bytes in front of each chunk are looked at here, and where pg_dump has made one chunk
as long as the other, as its compression by gzip does, only some of these.

What is found is a guess. The reader of the first part comes to the end of its last block by reading every byte of it,
and either that is where the second part was said to begin, or the guess was wrong.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Callable

from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry

#: each part has so many bytes at least, or dividing is not worth while
WORTH = 4 * 1024 * 1024

# One look takes as long as reading so many bytes; more looks than the archive has such pieces, and they are no gain.
_LOOK = 128 * 1024


@dataclass(frozen=True)
class Division:
    """A place between two blocks of an archive."""

    #: how many entries with data stand in front of it
    number: int
    #: bytes of the archive in front of it
    offset: int


class _LostError(Exception):
    """What is there is not what stands between chunks, or there are too many of them."""


class _Looking:
    """Goes from chunk to chunk.

    :param read_at: gives so many bytes at an offset of the archive, fewer at its end
    :param size: bytes of the archive
    :param integer_size: bytes of its integers
    """

    def __init__(self, read_at: Callable[[int, int], bytes], size: int, integer_size: int) -> None:
        self._read_at = read_at
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

    def end_of(self, entry: TocEntry, begin: int) -> int:
        """Where the block of an entry ends that begins at an offset.

        :raises _LostError: no such block is there
        """
        if entry.description == "BLOBS" or self._integer(begin + 1) != entry.dump_id:
            raise _LostError
        position = begin + 1 + self._head
        while True:
            length = self._integer(position)
            position += self._head + length
            if length == 0:
                return position
            position += (self._head + length) * self._alike(position, length)

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
    entries: list[TocEntry], begin: int, size: int, integer_size: int, read_at: Callable[[int, int], bytes]
) -> Division | None:
    """Find where to divide an archive: between two blocks, and as near to its middle as there is such a place.

    :param entries: its table of contents
    :param begin: where its first block begins
    :param size: bytes of the archive
    :param integer_size: bytes of its integers
    :param read_at: gives so many bytes at an offset of the archive, fewer at its end
    :returns: None where it is not worth while, or no place was found
    """
    looking = _Looking(read_at, size, integer_size)
    middle = begin + (size - begin) // 2
    best = Division(0, begin)
    position = begin
    # What is found in front of a place where nothing is found remains good.
    with contextlib.suppress(_LostError):
        for number, entry in enumerate([entry for entry in entries if entry.has_data], 1):
            position = looking.end_of(entry, position)
            if abs(position - middle) < abs(best.offset - middle):
                best = Division(number, position)
            if position >= middle:
                break
    return best if min(best.offset - begin, size - best.offset) >= WORTH else None
