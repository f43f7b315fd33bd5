# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What processes that read an archive say to each other, in slots."""

from __future__ import annotations

import contextlib
import json
import pickle
import threading
from typing import Callable

from ansible_collections.odkops.central.plugins.module_utils._deflate import Middle
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import BlobFact, Facts
from ansible_collections.odkops.central.plugins.module_utils._forks import was_killed
from ansible_collections.odkops.central.plugins.module_utils._pgdump_archive import Block
from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._slots import SLOT, Slots
from ansible_collections.odkops.central.plugins.module_utils._stages import Checksum, Item
from ansible_collections.odkops.central.plugins.module_utils._streams import Sum
from ansible_collections.odkops.central.plugins.module_utils._zlib_stream import WRONG_DIVISION, WrongDivisionError

_BLOCK, _DATA, _MIDDLE, _SUM, _END, _DONE, _FAILED, _BLOBS, _FACTS, _MORE = range(10)

# So many rows of blobs are sent back at a time.
_BATCH = 2000


class Code:
    """Items as messages: a block is the number of its entry.

    :param middle: where a block may be divided, the only such place; both sides know it
    """

    def __init__(self, entries: list[TocEntry], middle: Middle | None = None) -> None:
        self._entries = entries
        self._middle = middle
        self._numbers = {entry.dump_id: number for number, entry in enumerate(entries)}

    def send(self, slots: Slots, item: Item) -> None:
        """Send an item."""
        if isinstance(item, Block):
            number = (item.large_object or 0) * len(self._entries) + self._numbers[item.entry.dump_id]
            slots.send_number(_BLOCK, number)
        elif item is None:
            slots.send_number(_END)
        elif isinstance(item, Middle):
            slots.send_number(_MIDDLE)
        elif isinstance(item, Checksum):
            slots.send_number(_SUM, item.value)
        else:
            slots.send(_DATA, item)

    def done(self, slots: Slots) -> None:
        """Say that there are no more items.

        :raises EOFError: the other side has ended
        """
        slots.send_number(_DONE)
        slots.flush()

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
            elif kind == _MIDDLE and self._middle is not None:
                take(self._middle)
            elif kind == _SUM:
                take(Checksum(number))
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
    if failure["diagnosis"] == WRONG_DIVISION:
        return WrongDivisionError()
    return CentralError(failure["diagnosis"], failure["message"], **failure["details"])


def reporting(slots: Slots, work: Callable[[], None]) -> None:
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


def answer(slots: Slots, facts: Facts, with_blobs: bool, of: Sum, work: Callable[[], None]) -> None:
    """Do `work`, which gives rows to `facts`; then send what they say, or what was wrong.

    :param with_blobs: send each row of ``blobs``, too
    :param of: what they were read from, once `work` is done
    """
    blobs: list[BlobFact] = []

    def send_blobs() -> None:
        if blobs:
            _send_whole(slots, _BLOBS, pickle.dumps(blobs))
            slots.flush()
            blobs.clear()

    def take_blob(blob: BlobFact) -> None:
        blobs.append(blob)
        if len(blobs) >= _BATCH:
            send_blobs()

    def all_of_it() -> None:
        facts.on_blob = take_blob if with_blobs else None
        work()
        send_blobs()
        facts.on_blob = None
        _send_whole(slots, _FACTS, pickle.dumps((facts, of)))

    reporting(slots, all_of_it)


class Answer:
    """Receives what another process sends by :func:`answer`, in a thread.

    :param slots: where it comes from
    :param on_blob: called with each row of ``blobs``, in that thread
    :param give_up: called when `on_blob` has raised something: nobody needs the rest
    """

    def __init__(self, slots: Slots, on_blob: Callable[[BlobFact], None] | None, give_up: Callable[[], None]) -> None:
        self._slots = slots
        self._on_blob = on_blob
        self._give_up = give_up
        self._error: BaseException | None = None
        self._pickled = b""
        self._thread = threading.Thread(target=self._receive, daemon=True)

    def start(self) -> None:
        """Begin to receive."""
        self._thread.start()

    def join(self) -> None:
        """Wait until all has been received, or the other process has ended."""
        if self._thread.ident is not None:
            self._thread.join()

    def check(self) -> None:
        """Raise what was wrong, if that is known already."""
        if self._error is not None:
            raise self._error

    def result(self) -> tuple[Facts, Sum]:
        """What the rows say, and of what they were read from.

        :raises CentralError: what the other process has raised; ``process_killed``
        """
        self.join()
        self.check()
        result: tuple[Facts, Sum] = pickle.loads(self._pickled)  # noqa: S301  # of a fork of this process
        return result

    def _receive(self) -> None:
        try:
            while True:
                kind, data = _receive(self._slots)
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
        except BaseException as error:  # noqa: BLE001  # what on_blob raises is raised again in check()
            self._error = error
            self._give_up()
