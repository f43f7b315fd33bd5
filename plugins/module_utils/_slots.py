# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Large pieces of data from one process to another that was forked from it, in memory that both share.

The memory has slots that are used in turn. One pipe carries messages, which say what is in the next slot; another one says
when a slot is free again. Each message has the same few bytes, which a pipe never divides (POSIX: PIPE_BUF). Either side
notices when the other one ends, since its pipes end then.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import struct
from collections.abc import Iterator

#: bytes of a slot
SLOT = 256 * 1024

_SLOTS = 32
_MESSAGE = struct.Struct("<BQ")
_FREE = b"."

# So many slots are said to be filled, or free again, at a time: each word wakes the other side, which takes longer than a copy.
_AT_ONCE = 4

# A pipe divides nothing up to 4096 bytes, and gives it as a whole if nothing shorter is asked for.
_WORDS = 64 * _MESSAGE.size


class Slots:
    """One direction between two processes. Made before the fork; each process then says which side it is.

    :raises OSError: no more descriptors or no memory can be had
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SLOTS * SLOT)
        self._view = memoryview(self._memory)
        self._message_out = self._message_in = self._free_out = self._free_in = -1
        try:
            self._message_out, self._message_in = os.pipe()
            self._free_out, self._free_in = os.pipe()
        except OSError:
            self.close()
            raise
        self._free = _SLOTS
        self._next = 0
        self._unsaid = b""
        self._filled = 0
        self._freed = 0
        self._heard = b""
        self._heard_to = 0

    def sends(self) -> None:
        """This process sends."""
        os.close(self._message_out)
        os.close(self._free_in)
        self._message_out = self._free_in = -1

    def receives(self) -> None:
        """This process receives."""
        os.close(self._message_in)
        os.close(self._free_out)
        self._message_in = self._free_out = -1

    def send_number(self, kind: int, number: int = 0) -> None:
        """Send a message without data, together with later ones unless :meth:`flush` is called.

        :param kind: 0 to 255
        :param number: 0 to 2**64 - 1
        :raises EOFError: the other side has ended
        """
        self._unsaid += _MESSAGE.pack(kind, number)
        if len(self._unsaid) >= _WORDS:
            self.flush()

    def flush(self) -> None:
        """Let the other side have all that was sent.

        :raises EOFError: the other side has ended
        """
        unsaid, self._unsaid, self._filled = self._unsaid, b"", 0
        try:
            os.write(self._message_in, unsaid)
        except BrokenPipeError as error:
            raise EOFError from error

    def send(self, kind: int, data: bytes | memoryview) -> None:
        """Send data, in as many messages as it needs; waits while no slot is free.

        :raises EOFError: the other side has ended
        """
        for start in range(0, len(data), SLOT):
            part = data if len(data) <= SLOT else data[start : start + SLOT]
            if self._free == 0:
                self.flush()
                self._free = len(os.read(self._free_out, _SLOTS))
                if self._free == 0:
                    raise EOFError
            begin = self._next * SLOT
            self._view[begin : begin + len(part)] = part
            self._free -= 1
            self._next = (self._next + 1) % _SLOTS
            self.send_number(kind, len(part))
            self._filled += 1
            if self._filled >= _AT_ONCE:
                self.flush()

    def receive(self) -> tuple[int, int]:
        """Kind and number of the next message. Where it has data, :meth:`data` has to follow.

        :raises EOFError: the other side has ended
        """
        if self._heard_to >= len(self._heard):
            self._heard = os.read(self._message_out, _WORDS)
            self._heard_to = 0
            if not self._heard:
                raise EOFError
        kind, number = _MESSAGE.unpack_from(self._heard, self._heard_to)
        self._heard_to += _MESSAGE.size
        return kind, number

    def abandoned(self) -> bool:
        """Whether the other side has ended, for a receiver that does not wait for anything."""
        look = select.poll()
        look.register(self._message_out, 0)
        return bool(look.poll(0))

    @contextlib.contextmanager
    def lent(self, size: int) -> Iterator[memoryview]:
        """The data of the message that was just received, so many bytes, until the context is left; its slot is free then."""
        begin = self._next * SLOT
        with self._view[begin : begin + size] as data:
            yield data
        self._next = (self._next + 1) % _SLOTS
        self._freed += 1
        if self._freed >= _AT_ONCE:
            freed, self._freed = self._freed, 0
            with contextlib.suppress(BrokenPipeError):  # The other side has sent its last, and has ended.
                os.write(self._free_in, _FREE * freed)

    def data(self, size: int) -> bytes:
        """As :meth:`lent`, copied."""
        with self.lent(size) as data:
            return bytes(data)

    def close(self) -> None:
        """Give everything back, or say that this process is neither side."""
        for descriptor in (self._message_out, self._message_in, self._free_out, self._free_in):
            if descriptor >= 0:
                os.close(descriptor)
        self._message_out = self._message_in = self._free_out = self._free_in = -1
        self._view.release()
        self._memory.close()
