# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work in another process that was forked from this one, and so knows all that it knows."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator
from typing import Callable

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError


def fork(work: Callable[[], None]) -> int:
    """Do `work` in a new process, which ends then. What it raises goes to stderr.

    :returns: the process's id; :func:`end` has to be called for it
    :raises OSError: no process can be had
    """
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        work()
        status = 0
    except BaseException:  # noqa: BLE001  # whatever it is, this process ends here
        with contextlib.suppress(OSError):
            os.write(2, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        os._exit(status)


def end(process: int) -> None:
    """End a process if it has not ended yet, and see it off."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


@contextlib.contextmanager
def giving_way(by: int) -> Iterator[None]:
    """Run at a lower priority, this thread and those that it starts. Nothing happens where it could not be undone."""
    thread = threading.get_native_id()
    before = os.getpriority(os.PRIO_PROCESS, thread)
    if os.geteuid() != 0:
        yield
        return
    # Linux has a priority for each thread (sched(7)). A host that forbids to change it has the right to.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, before + by)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, before)


def let_go(kept: Iterable[int]) -> None:
    """Give up all descriptors but the first three and those `kept`, so that whatever they belong to ends with its owner.

    Their numbers stay taken, since objects that came along may close them.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    mine = {0, 1, 2, nothing, *kept}
    for descriptor in [int(name) for name in os.listdir("/proc/self/fd")]:
        if descriptor not in mine:
            with contextlib.suppress(OSError):  # that of listdir itself
                os.fstat(descriptor)
                os.dup2(nothing, descriptor, inheritable=False)


def was_killed() -> CentralError:
    """A process has ended without a word."""
    return CentralError(
        "process_killed",
        "A process that reads the backup was ended from outside, perhaps because memory was short. "
        "Nothing is known of the backup; verify it again.",
    )
