# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A second thread that takes work in order, or makes it, so that reading and what is done with it go on at once.

Decryption, decompression and hashing release Python's interpreter lock, so two threads use two cores.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Callable, Generic, TypeVar

Item = TypeVar("Item")


class Worker(Generic[Item]):
    """Calls `handle` for each item in order, in a thread of its own. Use it as a context manager.

    What `handle` raises is raised again by the next :meth:`put`, or by :meth:`finish`.

    :param handle: takes one item
    :param depth: how many items may wait
    """

    def __init__(self, handle: Callable[[Item], None], depth: int = 8) -> None:
        self._handle = handle
        self._queue: queue.Queue[tuple[Item] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while True:
            waiting = self._queue.get()
            if waiting is None:
                return
            if self._error is None and not self._stopped:
                try:
                    self._handle(waiting[0])
                except BaseException as error:  # noqa: BLE001  # raised again in put() and finish()
                    self._error = error

    def put(self, item: Item) -> None:
        """Hand an item over; waits while the queue is full."""
        self._queue.put((item,))
        self._raise()

    def finish(self) -> None:
        """Wait until all is done."""
        self._queue.put(None)
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Worker[Item]:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped = True
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()


def ahead(items: Iterator[Item], depth: int = 8) -> Generator[Item, None, None]:
    """The same items, made by a thread of its own before they are asked for. Close it where it is not read to its end.

    What making them raises is raised where they are read.

    :param items: is not to be used by anybody else from then on; it is closed where it can be
    :param depth: how many items may wait
    """
    made: queue.Queue[tuple[Item] | BaseException | None] = queue.Queue(depth)
    stopped = threading.Event()

    def make() -> None:
        end: BaseException | None = None
        try:
            for item in items:
                made.put((item,))
                if stopped.is_set():
                    break
        except BaseException as error:  # noqa: BLE001  # raised again where they are read
            end = error
        try:
            with contextlib.suppress(AttributeError):
                items.close()  # type: ignore[attr-defined]
        except BaseException as error:  # noqa: BLE001
            end = end or error
        made.put(end)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    ended = False
    try:
        while not ended:
            waiting = made.get()
            if isinstance(waiting, tuple):
                yield waiting[0]
            else:
                ended = True
                if waiting is not None:
                    raise waiting
    finally:
        stopped.set()
        while not ended:
            ended = not isinstance(made.get(), tuple)
        thread.join()
