# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The primitive values of a pg_dump archive, read from a stream.

Source of the format: PostgreSQL, src/bin/pg_dump/pg_backup_archiver.c (ReadInt, ReadStr) and
pg_backup_custom.c (_CustomReadFunc, _readBlockHeader).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Generator, Iterator
from typing import Callable

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK, Readable


def corrupt(what: str) -> CentralError:
    """A ``corrupt`` diagnosis: `what` is a clause that says what is wrong and where."""
    return CentralError("corrupt", f"The backup is damaged: {what}. Use another backup; this one cannot be trusted.")


def truncated(where: str) -> CentralError:
    """A ``truncated`` diagnosis: `where` is a clause that says where the archive ends."""
    return CentralError(
        "truncated",
        f"The backup was cut short: it ends {where}. The download or the dump stopped before its end; "
        "make another backup.",
    )


# So many chunks are looked at together: more than the buffer has of those that pg_dump writes, and few enough for it to cost
# nothing where they are tiny.
_ALIKE = 256


@functools.lru_cache(maxsize=64)
def _headers(head: int, length: int, count: int) -> struct.Struct:
    """What stands in front of so many chunks of one size."""
    return struct.Struct(f"{head}s{length}x" * count)


class ArchiveInput:
    """A buffered stream with the archive's own integers and strings.

    :param source: the decrypted archive; one that has ``readinto(memoryview) -> int`` is read without a copy
    :param offset: where in the archive it begins
    """

    def __init__(self, source: Readable, offset: int = 0) -> None:
        self._source = source
        self._read_into: Callable[[memoryview], int] | None = getattr(source, "readinto", None)
        self._buffer = bytearray(2 * CHUNK)
        self._view = memoryview(self._buffer)
        self._position = 0
        self._end = 0
        self._consumed = offset
        self.integer_size = 4
        self.offset_size = 8
        #: Python's name of the encoding of the archive's strings; None where PostgreSQL's is not one of Python's
        self.encoding: str | None = None
        #: what is being read, for messages
        self.where = "in its header"

    @property
    def offset(self) -> int:
        """Bytes of the archive that have been taken, and the offset where it began."""
        return self._consumed + self._position

    def _read(self, view: memoryview) -> int:
        if self._read_into is not None:
            return self._read_into(view)
        data = self._source.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _fill(self, size: int) -> bool:
        """Gather at least `size` bytes in the buffer, however small the pieces of the source are."""
        view, left = self._view, self._end - self._position
        view[:left] = view[self._position : self._end]
        self._consumed += self._position
        self._position, self._end = 0, left
        while self._end < size:
            if len(view) - self._end < CHUNK:
                # Only for a long string: what it claims to have is not believed before it is there.
                grown = bytearray(2 * len(view))
                grown[: self._end] = view[: self._end]
                self._buffer, self._view = grown, memoryview(grown)
                view = self._view
            read = self._read(view[self._end : self._end + CHUNK])
            if not read:
                return False
            self._end += read
        return True

    def at_end(self) -> bool:
        """Whether not one byte is left."""
        return self._position >= self._end and not self._fill(1)

    def take(self, size: int) -> bytes:
        """The next `size` bytes.

        :raises CentralError: ``truncated``
        """
        if self._end - self._position < size and not self._fill(size):
            raise truncated(self.where)
        start = self._position
        self._position = start + size
        return bytes(self._view[start : start + size])

    def byte(self) -> int:
        """The next byte, 0 to 255."""
        return self.take(1)[0]

    def integer(self) -> int:
        """A signed integer: a byte of sign, then ``integer_size`` bytes, the least significant first.

        :raises CentralError: ``truncated``, ``corrupt``
        """
        data = self.take(1 + self.integer_size)
        value = int.from_bytes(data[1:], "little")
        if data[0] == 0:
            return value
        if data[0] == 1 and value:
            return -value
        raise corrupt(f"an integer at byte {self.offset - len(data)} has the sign {data[0]}")

    def string(self, limit: int) -> str | None:
        """A string: its length, then its bytes; the length -1 is None.

        :param limit: the longest that is taken for genuine, in bytes
        :raises CentralError: ``truncated``, ``corrupt``
        """
        length = self.integer()
        if length == -1:
            return None
        if not 0 <= length <= limit:
            raise corrupt(f"a string at byte {self.offset} claims {length} bytes")
        data = self.take(length)
        if b"\0" in data:
            raise corrupt(f"the string at byte {self.offset - length} has a NUL character in it")
        if self.encoding is None:
            return data.decode("utf-8", "backslashreplace")
        try:
            return data.decode(self.encoding)
        except UnicodeDecodeError as error:
            raise corrupt(f"the string at byte {self.offset - length} is no text in {self.encoding}") from error

    def data_offset(self) -> tuple[int, int]:
        """The position of an entry's data: a byte of state, then ``offset_size`` bytes.

        pg_dump writes the position only where it could go back in its output; else it is zero.

        :returns: the state (1 position unknown, 2 position known, 3 no data) and the position
        :raises CentralError: ``truncated``, ``corrupt``
        """
        state = self.byte()
        position = int.from_bytes(self.take(self.offset_size), "little")
        if state not in (1, 2, 3) or (position and state != 2):
            raise corrupt(f"the state of an entry's data is {state}, its position {position}, at byte {self.offset}")
        return state, position

    def chunks(self, stop: int = -1) -> Generator[bytes, None, bool]:
        """The data of one block: chunks of a length and so many bytes, the last of length zero.

        :param stop: stop there, if a chunk begins there: an offset in the archive
        :returns: the bytes, in pieces of 128 KiB or more, but for the last ones, whatever the sizes of the chunks were; in the
            end whether it has stopped
        :raises CentralError: ``truncated``, ``corrupt``
        """
        head = 1 + self.integer_size
        pieces: list[memoryview] = []
        waiting: list[bytes] = []
        gathered = 0
        while True:
            limit = stop - self._consumed
            size, found = self._alike(head, limit)
            if size:
                pieces += found
                gathered += size
            buffer, view, position, end = self._buffer, self._view, self._position, self._end
            length = -1
            while end - position >= head and position != limit:
                if buffer[position]:
                    break
                length = int.from_bytes(view[position + 1 : position + head], "little")
                following = position + head + length
                if length == 0 or following > end:
                    break
                pieces.append(view[position + head : following])
                gathered += length
                position = following
                length = -1
            self._position = position
            if pieces:
                # A copy, since the buffer is filled anew before more is there.
                waiting.append(b"".join(pieces))
                pieces = []
            stopped = position == limit
            negative = not stopped and end - position >= head and buffer[position] != 0
            if gathered >= CHUNK // 2 or (gathered and (stopped or negative or length == 0 or length >= CHUNK)):
                yield waiting[0] if len(waiting) == 1 else b"".join(waiting)
                waiting, gathered = [], 0
            if stopped:
                return True
            if negative:
                raise corrupt(f"a chunk at byte {self._consumed + position} has a negative length")
            if length == 0:
                self._position = position + head
                return False
            if length < CHUNK:
                if not self._fill(head + max(length, 0)):
                    if waiting:
                        yield b"".join(waiting)
                    raise truncated(self.where)
                continue
            # A chunk larger than the buffer, as pg_dump without compression writes for a long row.
            self._position = position + head
            yield from self._long_chunk(length)

    def _alike(self, head: int, limit: int) -> tuple[int, list[memoryview]]:
        """Take chunks of the buffer that have all the same size, as pg_dump writes them of its own buffer.

        :param limit: take none behind it: a place in the buffer, or in front of what is left in it
        :returns: how many bytes they have, and the bytes
        """
        begin, view = self._position, self._view
        if self._end - begin < head or self._buffer[begin]:
            return 0, []
        header = bytes(view[begin : begin + head])
        length = int.from_bytes(header[1:], "little")
        step = head + length
        count = min(((self._end if limit < begin else min(limit, self._end)) - begin) // step, _ALIKE)
        if length == 0 or count < 2:
            return 0, []
        headers = _headers(head, length, count).unpack_from(view, begin)
        same = count if headers.count(header) == count else next(n for n, one in enumerate(headers) if one != header)
        self._position = stop = begin + same * step
        return same * length, [view[start : start + length] for start in range(begin + head, stop, step)]

    def _long_chunk(self, length: int) -> Iterator[bytes]:
        while length > 0:
            if self._position >= self._end and not self._fill(1):
                raise truncated(self.where)
            piece = bytes(self._view[self._position : min(self._position + length, self._end)])
            self._position += len(piece)
            length -= len(piece)
            yield piece
