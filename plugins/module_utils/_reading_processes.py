# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the data of a large archive in processes, so that all cores work on it: threads of Python wait for each other.

This process reads and decrypts. For gzip, which takes most of the time, a second one decompresses; what is faster is
decompressed here. The last one reads the rows and sends back what they say:

    blocks -> put() =slots=> Decompressing =slots=> TableReader, Facts =slots=> facts

They are forks of this one, so they know all that it knows. A process that ends ends the others: its pipes end.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import threading
from types import TracebackType
from typing import Callable

from ansible_collections.odkops.central.plugins.module_utils._compression import decompressor
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import BlobFact, Facts
from ansible_collections.odkops.central.plugins.module_utils._forks import end, fork, was_killed
from ansible_collections.odkops.central.plugins.module_utils._memory import keep_freed_memory
from ansible_collections.odkops.central.plugins.module_utils._pgdump_archive import Block
from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._slots import SLOT, Slots
from ansible_collections.odkops.central.plugins.module_utils._stages import Decompressing, Item, TableReader

_BLOCK, _DATA, _END, _DONE, _FAILED, _BLOBS, _FACTS, _MORE = range(8)

# So many rows of blobs are sent back at a time.
_BATCH = 500


class ReadingProcesses:
    """Takes blocks, their compressed pieces, and None for their ends. Use it as a context manager.

    What goes wrong in another process is raised by the next :meth:`put`, or by :meth:`finish`.

    :param compression: the method, as :func:`decompressor` takes it
    :param file: the blocks are files of the directory format
    :param entries: the entries of the blocks that will come
    :param facts: gathers what the rows say; :attr:`facts` takes its place
    :param on_blob: called with each row of ``blobs``, in a thread of this process
    :raises CentralError: ``missing_required_lib``, ``unsupported_compression``
    :raises OSError: no process can be had
    """

    def __init__(
        self,
        compression: str,
        file: bool,
        entries: list[TocEntry],
        facts: Facts,
        on_blob: Callable[[BlobFact], None] | None,
    ) -> None:
        decompressor(compression, "", file)  # Its libraries are imported here, before the fork.
        keep_freed_memory()
        self._code = _Code(entries)
        self._on_blob = on_blob
        self._error: BaseException | None = None
        self.facts = facts
        self._pickled = b""
        self._processes: list[int] = []
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._to, self._from = Slots(), Slots()
        rows = Slots() if compression == "gzip" else self._to
        try:
            if rows is self._to:
                self._take = Decompressing(compression, file, self._send).take
            else:
                self._take = self._send
                self._fork(lambda: _decompress(self._to, rows, self._code, compression, file), [self._from])
            strange = [] if rows is self._to else [self._to]
            self._fork(lambda: _read(rows, self._from, self._code, facts, on_blob is not None), strange)
        except OSError:
            self._end()
            raise
        finally:
            if rows is not self._to:
                rows.close()
        self._to.sends()
        self._from.receives()

    def _send(self, item: Item) -> None:
        self._code.send(self._to, item)

    def _fork(self, work: Callable[[], None], strange: list[Slots]) -> None:
        """Do `work` in a new process, which has nothing to do with the slots `strange`."""

        def apart() -> None:
            for slots in strange:
                slots.close()
            work()

        self._processes.append(fork(apart))

    def _receive(self) -> None:
        """Take what comes back, in a thread."""
        try:
            while True:
                kind, data = _receive(self._from)
                if kind == _DONE:
                    return
                if kind == _FACTS:
                    self._pickled = data
                elif kind == _FAILED:
                    self._error = _failure(data)
                elif self._error is None and self._on_blob is not None:
                    for blob in pickle.loads(data):  # noqa: S301  # of a fork of this process
                        self._on_blob(blob)
        except EOFError:
            self._error = self._error or was_killed()
        except BaseException as error:  # noqa: BLE001  # what on_blob raises is raised again in put() and finish()
            self._error = error
            self._end_processes()

    def put(self, item: Item) -> None:
        """Hand an item over; waits while no slot is free."""
        try:
            self._take(item)
        except EOFError:
            self._thread.join()
        self._raise()

    def finish(self) -> None:
        """Wait until all is done; then :attr:`facts` is what the rows say."""
        with contextlib.suppress(EOFError):
            self._to.send_number(_DONE)
            self._to.flush()
        self._thread.join()
        self._raise()
        self.facts = pickle.loads(self._pickled)  # noqa: S301  # of a fork of this process

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _end_processes(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _end(self) -> None:
        for process in self._processes:
            end(process)
        if self._thread.ident is not None:
            self._thread.join()
        self._to.close()
        self._from.close()

    def __enter__(self) -> ReadingProcesses:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()


class _Code:
    """Items as messages: a block is the number of its entry."""

    def __init__(self, entries: list[TocEntry]) -> None:
        self._entries = entries
        self._numbers = {entry.dump_id: number for number, entry in enumerate(entries)}

    def send(self, slots: Slots, item: Item) -> None:
        """Send an item."""
        if isinstance(item, Block):
            number = (item.large_object or 0) * len(self._entries) + self._numbers[item.entry.dump_id]
            slots.send_number(_BLOCK, number)
        elif item is None:
            slots.send_number(_END)
        else:
            slots.send(_DATA, item)

    def receive(self, slots: Slots, take: Callable[[Item], None]) -> None:
        """Receive items and give them to `take`, until there are no more.

        :raises CentralError: what the other process has raised
        """
        while True:
            kind, number = slots.receive()
            if kind == _DATA:
                with slots.lent(number) as data:
                    take(data)
            elif kind == _BLOCK:
                large_object, index = divmod(number, len(self._entries))
                take(Block(self._entries[index], large_object or None, iter(())))
            elif kind == _END:
                take(None)
            elif kind == _DONE:
                return
            else:
                raise _failure(_rest(slots, kind, number)[1])


def _send_whole(slots: Slots, kind: int, data: bytes) -> None:
    """Send data that belongs together, in as many messages as it needs."""
    for start in range(0, len(data), SLOT):
        slots.send(kind if start + SLOT >= len(data) else _MORE, data[start : start + SLOT])


def _receive(slots: Slots) -> tuple[int, bytes]:
    """Receive a message, put together where it was sent in several: its kind, and its data."""
    kind, number = slots.receive()
    return (kind, b"") if kind == _DONE else _rest(slots, kind, number)


def _rest(slots: Slots, kind: int, size: int) -> tuple[int, bytes]:
    """As :func:`_receive`, for a message that begins with data of this kind and size."""
    pieces = [slots.data(size)]
    while kind == _MORE:
        kind, size = slots.receive()
        pieces.append(slots.data(size))
    return kind, b"".join(pieces)


def _failure(data: bytes) -> CentralError:
    """The error that another process has sent."""
    failure = json.loads(data)
    return CentralError(failure["diagnosis"], failure["message"], **failure["details"])


def _reporting(slots: Slots, work: Callable[[], None]) -> None:
    """Do `work`, then say in `slots` that it is done, or what was wrong."""
    with contextlib.suppress(EOFError):
        try:
            work()
        except CentralError as error:
            failure = {"diagnosis": error.diagnosis, "message": error.message, "details": error.details}
            _send_whole(slots, _FAILED, json.dumps(failure).encode())
        else:
            slots.send_number(_DONE)
        slots.flush()


def _decompress(received: Slots, sent: Slots, code: _Code, compression: str, file: bool) -> None:
    """What the second process does."""
    received.receives()
    sent.sends()
    decompressing = Decompressing(compression, file, lambda item: code.send(sent, item))
    _reporting(sent, lambda: code.receive(received, decompressing.take))


def _read(received: Slots, sent: Slots, code: _Code, facts: Facts, with_blobs: bool) -> None:
    """What the third process does."""
    received.receives()
    sent.sends()
    blobs: list[BlobFact] = []

    def send_blobs() -> None:
        if blobs:
            _send_whole(sent, _BLOBS, pickle.dumps(blobs))
            blobs.clear()

    def take_blob(blob: BlobFact) -> None:
        blobs.append(blob)
        if len(blobs) >= _BATCH:
            send_blobs()

    def work() -> None:
        facts.on_blob = take_blob if with_blobs else None
        code.receive(received, TableReader(facts).take)
        send_blobs()
        facts.on_blob = None
        _send_whole(sent, _FACTS, pickle.dumps(facts))

    _reporting(sent, work)
