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
import os
import signal
from types import TracebackType
from typing import Callable

from ansible_collections.odkops.central.plugins.module_utils._compression import decompressor
from ansible_collections.odkops.central.plugins.module_utils._facts import BlobFact, Facts
from ansible_collections.odkops.central.plugins.module_utils._forks import end, fork
from ansible_collections.odkops.central.plugins.module_utils._memory import keep_freed_memory
from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._reading_messages import Answer, Code, answer, reporting
from ansible_collections.odkops.central.plugins.module_utils._slots import Slots
from ansible_collections.odkops.central.plugins.module_utils._stages import Decompressing, Item, TableReader


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
        self._code = Code(entries)
        self.facts = facts
        self._processes: list[int] = []
        self._to, self._from = Slots(), Slots()
        self._answer = Answer(self._from, on_blob, self._end_processes)
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

    def put(self, item: Item) -> None:
        """Hand an item over; waits while no slot is free."""
        try:
            self._take(item)
        except EOFError:
            self._answer.join()
        self._answer.check()

    def finish(self) -> None:
        """Wait until all is done; then :attr:`facts` is what the rows say."""
        with contextlib.suppress(EOFError):
            self._code.done(self._to)
        self.facts = self._answer.facts()

    def _end_processes(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _end(self) -> None:
        for process in self._processes:
            end(process)
        self._answer.join()
        self._to.close()
        self._from.close()

    def __enter__(self) -> ReadingProcesses:
        self._answer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()


def _decompress(received: Slots, sent: Slots, code: Code, compression: str, file: bool) -> None:
    """What the second process does."""
    received.receives()
    sent.sends()
    decompressing = Decompressing(compression, file, lambda item: code.send(sent, item))
    reporting(sent, lambda: code.receive(received, decompressing.take))


def _read(received: Slots, sent: Slots, code: Code, facts: Facts, with_blobs: bool) -> None:
    """What the third process does."""
    received.receives()
    sent.sends()
    answer(sent, facts, with_blobs, lambda: code.receive(received, TableReader(facts).take))
