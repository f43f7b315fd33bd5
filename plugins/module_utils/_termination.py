# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signals that end what is being done: an exception of the main thread, that comes at no moment at which it would be lost.

Python runs the handler of a signal wherever the main thread happens to be. Two places are bad: between the start of a process
and the moment when somebody answers for it (:func:`undivided`), and a finalizer, whose exceptions Python only prints (see
``sys.unraisablehook`` in its documentation): there the signal is sent again.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Callable, Optional

_AGAIN = 0.02


class _State:
    """Of the main thread, in which handlers run."""

    undivided = 0
    waiting: Optional[BaseException] = None
    raised: Optional[BaseException] = None
    number = 0


def raises(error: Callable[[int], BaseException]) -> Callable[[int, Optional[FrameType]], None]:
    """Return a handler of signals, to be given to ``signal.signal``.

    :param error: makes what is raised of the number of the signal
    """

    def handle(number: int, _frame: Optional[FrameType]) -> None:
        raised = error(number)
        _State.raised, _State.number = raised, number
        if not _State.undivided:
            _State.waiting = None
            raise raised
        _State.waiting = raised

    return handle


@contextlib.contextmanager
def undivided() -> Iterator[None]:
    """Return a context in which no handler of :func:`raises` raises; what came meanwhile is raised at its end.

    For what takes no time to speak of. In another thread than the main one, where no handler runs, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.undivided += 1
    try:
        yield
    finally:
        _State.undivided -= 1
        waiting = None if _State.undivided else _State.waiting
        if waiting is not None:
            _State.waiting = None
            raise waiting


def install() -> None:
    """Make SIGTERM and SIGHUP end this process as ``SystemExit`` does, with 128 and the number of the signal as status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, raises(lambda number: SystemExit(128 + number)))
    before = sys.unraisablehook

    def lost(unraisable: Any) -> None:
        if unraisable.exc_value is None or unraisable.exc_value is not _State.raised:
            before(unraisable)
            return
        handler = signal.getsignal(_State.number)
        again = threading.Timer(_AGAIN, _send, (_State.number, handler))
        again.daemon = True
        again.start()

    sys.unraisablehook = lost


def _send(number: int, handler: object) -> None:
    """Send a signal to the main thread, unless nobody is interested in it any more."""
    main = threading.main_thread().ident
    if main is not None and signal.getsignal(number) is handler:
        signal.pthread_kill(main, number)
