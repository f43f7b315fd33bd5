# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A zlib stream (RFC 1950), as pg_dump writes one for each table, that one reader reads, or two have a part of each.

Its Adler-32 is left to whoever takes its data: it is a pass over all of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from ansible_collections.odkops.central.plugins.module_utils._deflate import (
    LAST,
    WINDOW,
    Middle,
    begun,
    ended,
    last_block,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._inflating import inflating
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt

#: What a reader of a second part takes for what it lacks. Nothing of it is to be seen in what it gives; were it, it would
#: be found out, since COPY never writes a NUL.
LACKING = bytes(WINDOW)

_HEAD, _TAIL = 2, 4
_ADLER_BASE = 65521

# From where the second reader begins to read to the block where its part begins, the data has so many bytes at most.
_BEFORE = 16 * 1024 * 1024

#: stands where a diagnosis does; never told to anybody
WRONG_DIVISION = "wrong division"


class WrongDivisionError(CentralError):
    """A stream cannot be read from where it was to be: no block begins there. Nothing is wrong with it for all that is known."""

    def __init__(self) -> None:
        super().__init__(WRONG_DIVISION, "The backup has to be read once more, in one part.")


class ZlibStream:
    """A stream from its beginning on, to its end or to one of its blocks.

    :param where: what is being decompressed, for messages
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._head = self._tail = b""
        self._engine = inflating(where)
        self._engine.behind = self._follow
        self._latest: deque[bytes] = deque()
        self._latest_size = 0
        #: as of :class:`Decompressor`
        self.checksum: int | None = None

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """As :meth:`Decompressor.feed`."""
        view = memoryview(data)
        missing = _HEAD - len(self._head)
        if missing:
            self._head += bytes(view[:missing])
            view = view[missing:]
            if len(self._head) == _HEAD:
                self._check_head()
        for piece in self._engine.feed(view):
            self._keep(piece)
            yield piece

    def _check_head(self) -> None:
        """Deflate, a window of 32 KiB at most, no dictionary, and a remainder of none by 31."""
        method, flags = self._head
        if method & 15 != 8 or method >> 4 > 7 or flags & 32 or int.from_bytes(self._head, "big") % 31:
            raise corrupt(f"the compressed data of {self._where} does not begin as zlib does")

    def _keep(self, piece: bytes) -> None:
        """Keep what the stream has given last."""
        self._latest.append(piece)
        self._latest_size += len(piece)
        while self._latest_size - len(self._latest[0]) >= WINDOW + LAST:
            self._latest_size -= len(self._latest.popleft())

    def _follow(self, rest: bytes) -> None:
        self._tail += rest
        if len(self._tail) > _TAIL:
            raise corrupt(f"something follows the compressed data of {self._where}")

    def finish(self) -> None:
        """As :meth:`Decompressor.finish`."""
        self._engine.finish()
        if len(self._tail) < _TAIL:
            raise corrupt(f"the compressed data of {self._where} stops before its end")
        self.checksum = int.from_bytes(self._tail, "big")

    def end_at(self, middle: Middle, data: bytes) -> Iterator[bytes]:
        """Take the last of what there is for this reader, and give what it has for it.

        That a block begins there is seen by putting a last block of our own there: only from its first bit on can be read what it
        gives. What the second reader lacks is known here.

        :param data: the stream from where it has been fed to
        :raises WrongDivisionError: no block begins there, or something is wrong with `data`
        """
        last = last_block()
        try:
            given = b""
            for piece in self.feed(ended(data, middle.bit, last)):
                given += piece
                if len(given) > _BEFORE:
                    raise WrongDivisionError
            if not self._engine.ended or self._tail not in (b"", b"\0") or given[-LAST:] != last.gives:
                raise WrongDivisionError
            yield given[:-LAST]
            window = b"".join(self._latest)[:-LAST][-WINDOW:]
            yield from _limited(inflating(self._where).feed(begun(window, data, middle.bit)), len(window), middle.size)
        except CentralError as error:
            raise WrongDivisionError from error


def _limited(pieces: Iterator[bytes], skipped: int, size: int) -> Iterator[bytes]:
    """So many bytes, and not those in front of them."""
    for piece in pieces:
        part = piece[skipped : skipped + size]
        skipped -= min(skipped, len(piece))
        size -= len(part)
        if part:
            yield part
        if not size:
            return
    raise WrongDivisionError


class ZlibStreamBehind(ZlibStream):
    """The second part of a stream.

    :param middle: where it begins, as seen from the first byte that will be fed
    """

    def __init__(self, where: str, middle: Middle) -> None:
        super().__init__(where)
        self._middle = middle
        self._waiting: bytes | None = b""
        self._skipped = len(LACKING) + middle.size

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """As :meth:`Decompressor.feed`."""
        if self._waiting is not None:
            self._waiting += bytes(data)
            if len(self._waiting) <= self._middle.bit // 8:
                return
            data, self._waiting = begun(LACKING, self._waiting, self._middle.bit), None
        for piece in self._engine.feed(data):
            if not self._skipped:
                yield piece
                continue
            part = piece[self._skipped :]
            self._skipped -= len(piece) - len(part)
            if part:
                yield part


def wrong_checksum(where: str) -> CentralError:
    """What is said of a stream whose data has another Adler-32 than its end says."""
    return corrupt(f"the compressed data of {where} does not have the checksum that stands behind it")


def adler32_of_both(first: int, second: int, size: int) -> int:
    """The Adler-32 (RFC 1950) of data in two parts, from that of each, and the bytes that the second one has."""
    one = ((first & 0xFFFF) + (second & 0xFFFF) - 1) % _ADLER_BASE
    two = ((first >> 16) + (second >> 16) + size * ((first & 0xFFFF) - 1)) % _ADLER_BASE
    return two << 16 | one
