# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytes that are put in on one side, and read as a stream in a thread on the other."""

from __future__ import annotations

import queue
import threading
from types import TracebackType
from typing import Callable, Generic, TypeVar

from ansible_collections.odkops.central.plugins.module_utils._streams import Readable

Result = TypeVar("Result")

_PATIENCE = 0.2


class _Abandoned(BaseException):
    """Nothing more will come, and nobody asks for the result. No error, so that no handler of errors takes it for one."""


class Funnel(Generic[Result]):
    """Calls `consume` in a thread, with a stream of what is :meth:`put` in. Use it as a context manager.

    What `consume` raises is raised again by the next :meth:`put`, or by :meth:`finish`.
    Leaving the context before :meth:`finish` ends the thread.

    :param consume: reads the stream to its end, and returns something
    :param depth: how many pieces may wait
    """

    def __init__(self, consume: Callable[[Readable], Result], depth: int = 8) -> None:
        self._consume = consume
        self._queue: queue.Queue[bytes | None] = queue.Queue(depth)
        self._abandoned = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._results: list[Result] = []
        self._error: BaseException | None = None

    def _run(self) -> None:
        try:
            self._results.append(self._consume(_Outlet(self._queue, self._abandoned)))
        except BaseException as error:  # noqa: BLE001  # raised again in put() and finish()
            self._error = error
        self._ended.set()

    def put(self, data: bytes) -> None:
        """Hand over the next bytes; waits while too many are there. After the end of `consume` they are dropped."""
        if data:
            self._put(data)

    def _put(self, item: bytes | None) -> None:
        while not self._ended.is_set():
            try:
                self._queue.put(item, timeout=_PATIENCE)
            except queue.Full:
                continue
            return
        if self._error is not None:
            raise self._error

    def finish(self) -> Result:
        """Say that no more comes, and wait for what `consume` returns."""
        self._put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._results[0]

    def __enter__(self) -> Funnel[Result]:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._abandoned.set()
        self._thread.join()


class _Outlet:
    """The stream that comes out."""

    def __init__(self, source: queue.Queue[bytes | None], abandoned: threading.Event) -> None:
        self._queue = source
        self._abandoned = abandoned
        self._piece: bytes | None = b""

    def read(self, size: int, /) -> bytes:
        """As :meth:`Readable.read`."""
        while self._piece is not None and not self._piece:
            try:
                self._piece = self._queue.get(timeout=_PATIENCE)
            except queue.Empty:
                if self._abandoned.is_set():
                    raise _Abandoned from None
        if self._piece is None:
            return b""
        data, self._piece = self._piece[:size], self._piece[size:]
        return data
