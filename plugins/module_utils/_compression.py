# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The compression methods of pg_dump, decompressed piece by piece in bounded memory.

gzip needs only the standard library, and is faster where ``isal`` is installed.
zstd and lz4 need ``zstandard`` (or Python 3.14) and ``lz4``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Callable, Protocol

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, MissingLibraryError
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt
from ansible_collections.odkops.central.plugins.module_utils._zstd_frames import ZstdFrames

#: the largest piece that a decompressor gives, in bytes; small enough for a processor's cache
PIECE = 256 * 1024

# So much is given to isal at a time: what comes of it mostly fits into a piece.
_STEP = 128 * 1024


class Decompressor(Protocol):
    """One compressed stream."""

    #: the Adler-32 (RFC 1950) that its data has to have, after :meth:`finish`; None where it has been compared already
    checksum: int | None

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Decompress `data`, in pieces of at most about :data:`PIECE` bytes.

        :raises CentralError: ``corrupt``
        """

    def finish(self) -> None:
        """Say that no more comes.

        :raises CentralError: ``corrupt`` where the stream has not ended
        """


class _Plain:
    """No compression."""

    checksum: int | None = None

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        yield bytes(data)

    def finish(self) -> None:
        pass


class _Bounded:
    """What zlib, isal and lz4 have in common: `decompress` with a limit, and an end that they know."""

    errors: tuple[type[Exception], ...] = ()
    checksum: int | None = None

    def __init__(self, where: str) -> None:
        self._where = where
        self._engine = self._make()

    def _make(self) -> Any:
        raise NotImplementedError

    def _pending(self, produced: int) -> bytes | None:
        """Input to decompress next, or None where more has to be fed."""
        raise NotImplementedError

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
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
        """Take what follows the stream's end."""
        if rest:
            raise corrupt(f"something follows the compressed data of {self._where}")

    def finish(self) -> None:
        if not self._engine.eof:
            raise corrupt(f"the compressed data of {self._where} stops before its end")


class _Zlib(_Bounded):
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


class _Isal(_Bounded):
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


class _IsalApart(_Isal):
    """A zlib stream (RFC 1950) by ``isal``, but for its Adler-32, which is left to whoever takes its data."""

    _HEAD, _TAIL = 2, 4

    def __init__(self, where: str, engine: Any) -> None:
        self._head = self._tail = b""
        super().__init__(where, -zlib.MAX_WBITS, engine)

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        view = memoryview(data)
        missing = self._HEAD - len(self._head)
        if missing:
            self._head += bytes(view[:missing])
            view = view[missing:]
            if len(self._head) == self._HEAD:
                self._check_head()
        yield from super().feed(view)

    def _check_head(self) -> None:
        """Deflate, a window of 32 KiB at most, no dictionary, and a remainder of none by 31."""
        method, flags = self._head
        if method & 15 != 8 or method >> 4 > 7 or flags & 32 or int.from_bytes(self._head, "big") % 31:
            raise corrupt(f"the compressed data of {self._where} does not begin as zlib does")

    def _follow(self, rest: bytes) -> None:
        self._tail += rest
        super()._follow(self._tail[self._TAIL :])

    def finish(self) -> None:
        super().finish()
        if len(self._tail) < self._TAIL:
            raise corrupt(f"the compressed data of {self._where} stops before its end")
        self.checksum = int.from_bytes(self._tail, "big")


def _gzip(where: str, window: int, apart: bool = False) -> Decompressor:
    try:
        from isal import igzip_lib
    except ImportError:
        return _Zlib(where, window)
    return _IsalApart(where, igzip_lib) if apart else _Isal(where, window, igzip_lib)


def adler32_of(method: str, file: bool) -> Callable[[bytes | memoryview, int], int] | None:
    """Who computes the checksums that :func:`decompressor` leaves apart, if told to; None where it compares them itself."""
    if method != "gzip" or file:
        return None
    try:
        from isal import isal_zlib
    except ImportError:
        return None
    adler32: Callable[[bytes | memoryview, int], int] = isal_zlib.adler32
    return adler32


class _Lz4(_Bounded):
    def _make(self) -> Any:
        try:
            from lz4 import frame
        except ImportError as error:
            raise _missing("lz4", "python3-lz4", error) from error
        self.errors = (RuntimeError, ValueError, EOFError)
        return frame.LZ4FrameDecompressor()

    def _pending(self, produced: int) -> bytes | None:
        return None if self._engine.needs_input else b""


class _Zstd:
    checksum: int | None = None

    def __init__(self, where: str) -> None:
        self._where = where
        self._frames = ZstdFrames(where)
        self._engine = self._make()

    def _make(self) -> Any:
        """An engine whose `decompress` takes one block of a frame at a time."""
        try:
            from zstandard import ZstdDecompressor, ZstdError
        except ImportError as error:
            try:
                from compression import zstd  # type: ignore[import-not-found]  # Python 3.14
            except ImportError:
                raise _missing("zstandard", "python3-zstandard", error) from error
            self._errors: tuple[type[Exception], ...] = (zstd.ZstdError, EOFError)
            return zstd.ZstdDecompressor()
        self._errors = (ZstdError,)
        return ZstdDecompressor().decompressobj()

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        for block in self._frames.feed(bytes(data)):
            try:
                piece = self._engine.decompress(block)
            except self._errors as error:
                raise corrupt(f"the compressed data of {self._where} is wrong ({error})") from error
            if piece:
                yield piece

    def finish(self) -> None:
        self._frames.finish()


def _missing(library: str, package: str, error: ImportError) -> MissingLibraryError:
    return MissingLibraryError(
        library,
        f"This backup is compressed by {library}, and the Python library '{library}' is not installed. "
        f"Install it for the Python that runs this module (Debian and Ubuntu: {package}).",
        str(error),
    )


def decompressor(method: str, where: str, file: bool = False, apart: bool = False) -> Decompressor:
    """A decompressor for one stream.

    :param method: ``none``, ``gzip``, ``lz4``, ``zstd``, or ``deflate`` for a member of a zip file
    :param where: what is being decompressed, for messages
    :param file: the stream is a file of the directory format, not a block of the custom format
    :param apart: leave it to the caller to compare :attr:`Decompressor.checksum`, where :func:`adler32_of` says who computes it
    :raises CentralError: ``missing_required_lib``, ``unsupported_compression``
    """
    if method == "none":
        return _Plain()
    if method == "gzip":
        return _gzip(where, zlib.MAX_WBITS + (16 if file else 0), apart and not file)
    if method == "deflate":
        return _gzip(where, -zlib.MAX_WBITS)
    if method == "lz4":
        return _Lz4(where)
    if method == "zstd":
        return _Zstd(where)
    raise CentralError("unsupported_compression", f"The compression method {method} is not known to this collection.")
