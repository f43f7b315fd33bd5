# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What inflates, piece by piece in bounded memory: ``isal`` where it is installed, else the standard library."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Callable

from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt

#: the largest piece that a decompressor gives, in bytes; small enough for a processor's cache
PIECE = 256 * 1024

# So much is given to isal at a time: what comes of it mostly fits into a piece.
_STEP = 128 * 1024


class Bounded:
    """What zlib, isal and lz4 have in common: `decompress` with a limit, and an end that they know."""

    errors: tuple[type[Exception], ...] = ()
    checksum: int | None = None

    def __init__(self, where: str) -> None:
        self._where = where
        self._engine = self._make()
        #: takes what follows the stream's end, where something may
        self.behind: Callable[[bytes], None] | None = None

    def _make(self) -> Any:
        raise NotImplementedError

    def _pending(self, produced: int) -> bytes | None:
        """Input to decompress next, or None where more has to be fed."""
        raise NotImplementedError

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """As :meth:`Decompressor.feed`."""
        yield from self._feed(bytes(data))

    def _feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        pending: bytes | memoryview | None = data
        while pending is not None:
            if self._engine.eof:
                self._follow(bytes(pending))
                return
            try:
                piece = self._engine.decompress(pending, PIECE)
            except self.errors as error:
                raise corrupt(f"the compressed data of {self._where} is wrong ({error})") from error
            if piece:
                yield piece
            if self._engine.eof:
                self._follow(self._engine.unused_data)
                return
            pending = self._pending(len(piece))

    def _follow(self, rest: bytes) -> None:
        if rest and self.behind is not None:
            self.behind(rest)
        elif rest:
            raise corrupt(f"something follows the compressed data of {self._where}")

    @property
    def ended(self) -> bool:
        """Whether the stream has come to its end."""
        return bool(self._engine.eof)

    def finish(self) -> None:
        """As :meth:`Decompressor.finish`."""
        if not self.ended:
            raise corrupt(f"the compressed data of {self._where} stops before its end")


class _Zlib(Bounded):
    """zlib streams (in the custom format), gzip files (in the directory format) and raw ones, by the standard library."""

    errors = (zlib.error,)

    def __init__(self, where: str, window: int) -> None:
        self._window = window
        super().__init__(where)

    def _make(self) -> Any:
        return zlib.decompressobj(self._window)

    def _pending(self, produced: int) -> bytes | None:
        tail: bytes = self._engine.unconsumed_tail
        # A full piece may leave output behind although all input is taken.
        return tail if tail or produced >= PIECE else None


class _Isal(Bounded):
    """The same by ``isal``.

    :param engine: its module ``igzip_lib``
    """

    def __init__(self, where: str, window: int, engine: Any) -> None:
        self._library = engine
        self._form = (
            engine.DECOMP_DEFLATE
            if window < 0
            else engine.DECOMP_GZIP
            if window > zlib.MAX_WBITS
            else engine.DECOMP_ZLIB
        )
        self.errors = (engine.error,)
        super().__init__(where)

    def _make(self) -> Any:
        return self._library.IgzipDecompressor(self._form)

    def _pending(self, produced: int) -> bytes | None:
        return b"" if produced >= PIECE or not self._engine.needs_input else None

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        # What a piece does not need at once would be copied.
        view = memoryview(data)
        for start in range(0, len(view), _STEP):
            yield from self._feed(view[start : start + _STEP])


def gzip_engine(where: str, window: int) -> Bounded:
    """What inflates fastest here.

    :param where: what is being decompressed, for messages
    :param window: as :func:`zlib.decompressobj` takes it
    """
    try:
        from isal import igzip_lib
    except ImportError:
        return _Zlib(where, window)
    return _Isal(where, window, igzip_lib)


def inflating(where: str) -> Bounded:
    """A deflate stream (RFC 1951), without anything around it."""
    return gzip_engine(where, -zlib.MAX_WBITS)
