# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Byte streams: the one interface that every reader of a backup stands on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from types import TracebackType
from typing import Callable, Protocol

from ansible_collections.odkops.central.plugins.module_utils._checksums import crc32
from ansible_collections.odkops.central.plugins.module_utils._pipeline import Worker

#: how much is asked of a source at a time, in bytes
CHUNK = 256 * 1024


class Readable(Protocol):
    """Anything that gives bytes in order."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, at least one of them unless the stream has ended."""


@dataclass
class Sum:
    """Size and CRC-32 of some bytes: enough to see that two have read the same."""

    size: int = 0
    crc32: int = 0

    def add(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        self.size += len(data)
        self.crc32 = crc32()(data, self.crc32)


class Summing:
    """Passes a stream on, and sums it up.

    :param offset: where in a file it begins
    """

    def __init__(self, source: Readable, offset: int) -> None:
        self._source = source
        self.offset = offset
        #: of what has been read
        self.sum = Sum()

    def read(self, size: int, /) -> bytes:
        """As :meth:`Readable.read`."""
        data = self._source.read(size)
        self.sum.add(data)
        return data


class Digesting:
    """Passes a stream on, counts and hashes it, and hands each piece to `copy` first.

    As a context manager it hashes in a thread of its own, until the context is left.

    :param source: the stream
    :param copy: called with every piece, for example to write it to a file
    """

    def __init__(self, source: Readable, copy: Callable[[bytes], object] | None = None) -> None:
        self._source = source
        self._copy = copy
        self._hash = hashlib.sha256()
        self._worker: Worker[bytes] | None = None
        #: bytes read so far
        self.size = 0
        self._sum_from: int | None = None
        #: of the bytes behind the place that :meth:`sum_up` was told
        self.sum = Sum()

    def sum_up(self, offset: int) -> None:
        """Sum up what is read from an offset on, which has not been reached yet."""
        self._sum_from = offset

    def read(self, size: int, /) -> bytes:
        """As :meth:`Readable.read`."""
        data = self._source.read(size)
        if data:
            if self._copy is not None:
                self._copy(data)
            if self._worker is None:
                self._hash.update(data)
            else:
                self._worker.put(data)
            if self._sum_from is not None and self.size + len(data) > self._sum_from:
                self.sum.add(memoryview(data)[max(0, self._sum_from - self.size) :])
            self.size += len(data)
        return data

    def drain(self) -> None:
        """Read what is left of the stream."""
        while self.read(CHUNK):
            pass

    def __enter__(self) -> Digesting:
        self._worker = Worker(self._hash.update)
        self._worker.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # After an error, too: what was read so far is hashed, and the rest may follow.
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.finish()

    @property
    def sha256(self) -> str:
        """SHA-256 of what was read so far, outside of the context, in lower-case hexadecimal digits."""
        return self._hash.hexdigest()


class Prefixed:
    """A stream whose first bytes, read already, are put back in front of it."""

    def __init__(self, prefix: bytes, source: Readable) -> None:
        self._prefix = prefix
        self._source = source

    def read(self, size: int, /) -> bytes:
        """As :meth:`Readable.read`."""
        if self._prefix:
            data, self._prefix = self._prefix[:size], self._prefix[size:]
            return data
        return self._source.read(size)


def read_exactly(source: Readable, size: int) -> bytes:
    """Read `size` bytes, or fewer where the stream ends before."""
    pieces = []
    missing = size
    while missing > 0:
        data = source.read(missing)
        if not data:
            break
        pieces.append(data)
        missing -= len(data)
    return b"".join(pieces)
