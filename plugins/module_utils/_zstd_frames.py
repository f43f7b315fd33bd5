# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Zstandard frame, cut into its blocks (RFC 8878, section 3.1.1).

A decompressor that is fed whole pieces of a hostile stream can give gigabytes at once, and does not
say when a stream has stopped too early. A block decompresses to 128 KiB at most, and one is the last.
"""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt

_MAGIC = b"\x28\xb5\x2f\xfd"
_BLOCK_MAXIMUM = 128 * 1024

# Blocks are given together that become so much at most, and one block more.
_GROUP = 256 * 1024

#: The largest window that is accepted, in bytes: what level 21 of zstd uses; Central uses level 1.
WINDOW_MAXIMUM = 64 * 1024 * 1024


class ZstdFrames:
    """Cuts one frame into pieces of a few blocks each, the first with the frame's header.

    :param where: what is being decompressed, for messages
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._buffer = b""
        self._header: bytes | None = None
        self._checksum = False
        self._last = False
        self._ended = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The blocks that `data` completes, in pieces that decompress to 384 KiB at most.

        :raises CentralError: ``corrupt``, ``unsupported_compression``
        """
        self._buffer += data
        if self._header is None and not self._read_header():
            return
        buffer = self._buffer
        start = position = produced = 0
        while not self._last:
            if len(buffer) - position < 3:
                break
            head = int.from_bytes(buffer[position : position + 3], "little")
            last, kind, size = head & 1, head >> 1 & 3, head >> 3
            if kind == 3 or size > _BLOCK_MAXIMUM:
                raise corrupt(f"the compressed data of {self._where} has an impossible block")
            end = position + 3 + (1 if kind == 1 else size)
            if len(buffer) < end:
                break
            position = end
            self._last = bool(last)
            # A compressed block does not say how much it becomes.
            produced += _BLOCK_MAXIMUM if kind == 2 else size
            if produced >= _GROUP:
                yield self._group(buffer[start:position])
                start, produced = position, 0
        if position > start:
            yield self._group(buffer[start:position])
        self._buffer = buffer[position:]
        if self._last:
            yield from self._end()

    def _group(self, blocks: bytes) -> bytes:
        header, self._header = self._header or b"", b""
        return header + blocks if header else blocks

    def _read_header(self) -> bool:
        """Magic, descriptor, window, dictionary, content size."""
        buffer = self._buffer
        if not buffer.startswith(_MAGIC[: len(buffer)]):
            raise corrupt(f"the compressed data of {self._where} does not begin as zstd does")
        if len(buffer) < 5:
            return False
        descriptor = buffer[4]
        single = descriptor >> 5 & 1
        content_size = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
        dictionary_size = (0, 1, 2, 4)[descriptor & 3]
        size = 5 + (0 if single else 1) + dictionary_size + content_size
        if len(buffer) < size:
            return False
        if descriptor & 0x08:
            raise corrupt(f"the compressed data of {self._where} sets a reserved bit")
        if single:
            window = int.from_bytes(buffer[size - content_size : size], "little")
        else:
            exponent, mantissa = buffer[5] >> 3, buffer[5] & 7
            window = (1 << 10 + exponent) * (8 + mantissa) // 8
        if window > WINDOW_MAXIMUM:
            raise CentralError(
                "unsupported_compression",
                f"The data of {self._where} is compressed with a window of {window} bytes, more than the "
                f"{WINDOW_MAXIMUM} that this collection grants. Central never does that; the file is damaged or not its.",
            )
        self._checksum = bool(descriptor & 0x04)
        self._header, self._buffer = buffer[:size], buffer[size:]
        return True

    def _end(self) -> Iterator[bytes]:
        size = 4 if self._checksum else 0
        if not self._ended and len(self._buffer) >= size:
            self._ended = True
            if size:
                yield self._buffer[:size]
            self._buffer = self._buffer[size:]
        if self._ended and self._buffer:
            raise corrupt(f"something follows the compressed data of {self._where}")

    def finish(self) -> None:
        """Say that no more comes.

        :raises CentralError: ``corrupt`` where the frame has not ended
        """
        if not self._ended:
            raise corrupt(f"the compressed data of {self._where} stops before its end")
