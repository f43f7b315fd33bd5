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
from typing import Any, Protocol

from ansible_collections.odkops.central.plugins.module_utils._deflate import Middle
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, MissingLibraryError
from ansible_collections.odkops.central.plugins.module_utils._inflating import Bounded, gzip_engine
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt
from ansible_collections.odkops.central.plugins.module_utils._zlib_stream import ZlibStream, ZlibStreamBehind
from ansible_collections.odkops.central.plugins.module_utils._zstd_frames import ZstdFrames


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


class _Lz4(Bounded):
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


def decompressor(
    method: str, where: str, file: bool = False, apart: bool = False, middle: Middle | None = None
) -> Decompressor:
    """A decompressor for one stream.

    :param method: ``none``, ``gzip``, ``lz4``, ``zstd``, or ``deflate`` for a member of a zip file
    :param where: what is being decompressed, for messages
    :param file: the stream is a file of the directory format, not a block of the custom format
    :param apart: leave it to the caller to compare :attr:`Decompressor.checksum`, where :func:`sums_apart` says so
    :param middle: the second part of a stream is fed, from there on
    :raises CentralError: ``missing_required_lib``, ``unsupported_compression``
    """
    if method == "none":
        return _Plain()
    if method == "gzip":
        if middle is not None:
            return ZlibStreamBehind(where, middle)
        if apart and sums_apart(method, file):
            return ZlibStream(where)
        return gzip_engine(where, zlib.MAX_WBITS + (16 if file else 0))
    if method == "deflate":
        return gzip_engine(where, -zlib.MAX_WBITS)
    if method == "lz4":
        return _Lz4(where)
    if method == "zstd":
        return _Zstd(where)
    raise CentralError("unsupported_compression", f"The compression method {method} is not known to this collection.")


def sums_apart(method: str, file: bool) -> bool:
    """Whether :func:`decompressor` leaves checksums to the caller, if told to."""
    return method == "gzip" and not file
