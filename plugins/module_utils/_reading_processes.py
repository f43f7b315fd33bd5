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
from collections.abc import Iterable
from typing import Callable

from ansible_collections.odkops.central.plugins.module_utils._deflate import Middle
from ansible_collections.odkops.central.plugins.module_utils._facts import BlobFact, Facts
from ansible_collections.odkops.central.plugins.module_utils._forks import end, fork, giving_way
from ansible_collections.odkops.central.plugins.module_utils._pgdump_archive import Block
from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._reading_messages import Answer, Code, answer, reporting
from ansible_collections.odkops.central.plugins.module_utils._slots import Slots
from ansible_collections.odkops.central.plugins.module_utils._stages import Decompressing, Item, TableReader, feed
from ansible_collections.odkops.central.plugins.module_utils._streams import Sum, Summing

# Who decompresses has most to do, and others give way (nice(2)): who reads the file, who reads the rows that come of it, and,
# where an archive is read in two parts, whoever has less of it.
_PUTS, _ROWS, _LESS = 5, 10, 15


class ReadingProcesses:
    """Takes blocks, their compressed pieces, and None for their ends, or reads them itself.

    To be made before there are threads, then started, and closed in any case. What goes wrong in another process is raised
    by the next :meth:`put`, or by :meth:`finish`.

    :param compression: the method, as :func:`decompressor` takes it; its libraries have been imported
    :param file: the blocks are files of the directory format
    :param entries: the entries of the blocks that will come
    :param facts: gathers what the rows say, in another process; :attr:`facts` takes its place
    :param on_blob: called with each row of ``blobs``, in a thread of this process
    :param blocks: blocks of the custom format, to be read by one process, which does all that is done with them; and what sums up
        the bytes of the file that it reads for that
    :param less: others have more to do, and go first
    :param middle: where a block may be divided whose first part is put
    :raises OSError: no process can be had
    """

    def __init__(
        self,
        compression: str,
        file: bool,
        entries: list[TocEntry],
        facts: Facts,
        on_blob: Callable[[BlobFact], None] | None,
        blocks: tuple[Iterable[Block], Summing] | None = None,
        less: bool = False,
        middle: Middle | None = None,
    ) -> None:
        self._nice = _LESS if less else 0
        self.facts = facts
        #: of what `blocks` were read from, as the file has it
        self.sum = Sum()
        self._code = Code(entries, middle)
        self._processes: list[int] = []
        with contextlib.ExitStack() as made:
            self._to, self._from, rows = (made.enter_context(contextlib.closing(Slots())) for _direction in range(3))
            made.pop_all()
        self._answer = Answer(self._from, on_blob, self._end_processes)
        self._take = self._send
        with_blobs = on_blob is not None
        try:
            if blocks is not None:
                self._fork(lambda: _read_alone(self._to, self._from, blocks, compression, facts, with_blobs), [rows])
            elif compression == "gzip":
                self._fork(lambda: _decompress(self._to, rows, self._code, compression, file), [self._from])
                self._fork(
                    lambda: _read(rows, self._from, self._code, compression, file, facts, with_blobs), [self._to], _ROWS
                )
            else:
                self._take = Decompressing(compression, file, self._send).take
                self._fork(
                    lambda: _read(self._to, self._from, self._code, compression, file, facts, with_blobs), [rows]
                )
        except OSError:
            self.close()
            raise
        finally:
            rows.close()
        self._to.sends()
        self._from.receives()

    def _send(self, item: Item) -> None:
        self._code.send(self._to, item)

    def _fork(self, work: Callable[[], None], strange: list[Slots], nice: int = 0) -> None:
        """Do `work` in a new process, which has nothing to do with the slots `strange`."""

        def apart() -> None:
            with contextlib.suppress(OSError):
                os.nice(self._nice or nice)
            for slots in strange:
                slots.close()
            work()

        self._processes.append(fork(apart))

    def start(self) -> None:
        """Begin to receive what comes back, in a thread."""
        self._answer.start()

    def giving_way(self) -> contextlib.AbstractContextManager[None]:
        """For whoever puts: let those processes go first that have more to do."""
        return giving_way(_PUTS)

    def put(self, item: Item) -> None:
        """Hand an item over; waits while no slot is free."""
        try:
            self._take(item)
        except EOFError:
            self._answer.join()
        self.check()

    def check(self) -> None:
        """Raise what has gone wrong in another process, if that is known already."""
        self._answer.check()

    def finish(self) -> None:
        """Wait until all is done; then :attr:`facts` is what the rows say, and :attr:`sum` of what they were read from.

        :raises CentralError: what is wrong; ``process_killed``
        """
        with contextlib.suppress(EOFError):
            self._code.done(self._to)
        self.facts, self.sum = self._answer.result()

    def _end_processes(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def close(self) -> None:
        """End the processes, if they have not ended yet, and give everything back."""
        for process in self._processes:
            end(process)
        self._answer.join()
        self._to.close()
        self._from.close()


def _decompress(received: Slots, sent: Slots, code: Code, compression: str, file: bool) -> None:
    """What a process does that decompresses."""
    received.receives()
    sent.sends()
    take = Decompressing(compression, file, lambda item: code.send(sent, item)).take
    reporting(sent, lambda: code.receive(received, take))


def _read(
    received: Slots, sent: Slots, code: Code, compression: str, file: bool, facts: Facts, with_blobs: bool
) -> None:
    """What a process does that reads rows."""
    received.receives()
    sent.sends()
    answer(sent, facts, with_blobs, Sum(), lambda: code.receive(received, TableReader(facts, compression, file).take))


def _read_alone(
    received: Slots,
    sent: Slots,
    blocks: tuple[Iterable[Block], Summing],
    compression: str,
    facts: Facts,
    with_blobs: bool,
) -> None:
    """What a process does that reads blocks itself, and decompresses, and reads rows."""
    received.receives()
    sent.sends()
    take = Decompressing(compression, False, TableReader(facts, compression, False).take).take

    def take_while_wanted(item: Item) -> None:
        if received.abandoned():
            raise EOFError
        take(item)

    answer(sent, facts, with_blobs, blocks[1].sum, lambda: feed(blocks[0], take_while_wanted))
