# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The output of an operation as a stream, which ends only where the operation has ended well."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Callable

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._operation import END
from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK, Readable
from ansible_collections.odkops.central.plugins.module_utils._termination import undivided

_F_SETPIPE_SZ = 1031  # fcntl.F_SETPIPE_SZ from Python 3.10 on
_PIPE = 1024 * 1024
#: Larger pieces of memory come from the system each time, page by page, and cost three times as much.
_PIECE = CHUNK
#: of what the operation says on stderr, in bytes: the last that is kept
_SAID = 16 * 1024
#: seconds that an operation has to end: by itself when its stdin has ended, and after each signal
_GRACE = 5.0
_SIGNALLED = 5.0
#: seconds that a process may go on after it has closed its output
_AFTER_OUTPUT = 60.0


class OperationStream:
    """An operation that runs. Use it as a context manager: entering it starts the operation.

    :meth:`read` gives its output, and an empty result only when the operation has ended with 0 and said so.
    Leaving the context earlier ends the operation, its process group, and, by the end of its stdin, what it has
    started in a container.

    :param operation: its name, for messages
    :param command: the process's arguments
    :param directory: in which it is run
    :param environment: all of it
    :param stdin: what it reads; else its stdin stays open and empty
    :param idle_timeout: seconds without output until it is given up
    :param failed: makes an error of an exit status and the end of what was said on stderr
    """

    def __init__(
        self,
        operation: str,
        command: Sequence[str],
        directory: str | None,
        environment: Mapping[str, str],
        stdin: Readable | None,
        idle_timeout: float,
        failed: Callable[[int, str], CentralError],
    ) -> None:
        self._operation = operation
        self._command = list(command)
        self._directory = directory
        self._environment = dict(environment)
        self._source = stdin
        self._idle_timeout = idle_timeout
        self._failed = failed
        self._within: float | None = None
        self._deadline: float | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._poll = select.poll()
        self._ready = b""
        self._held = b""
        self._said = b""
        self._threads: list[threading.Thread] = []
        self._feeding_error: BaseException | None = None
        self._outcome: CentralError | bool | None = None  # True: ended well

    def end_within(self, seconds: float) -> None:
        """Give the operation up when it has not ended so many seconds after its start. To be called before that."""
        self._within = seconds

    def __enter__(self) -> OperationStream:
        try:
            with undivided():
                self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def _begin(self) -> None:
        try:
            process = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise CentralError(
                "command_not_found",
                f"{self._command[0]} could not be run on this host: {error.strerror or error}. "
                "Install it, check the PATH and the permissions of this user, or name the right command.",
                operation=self._operation,
            ) from error
        self._process = process
        if self._within is not None:
            self._deadline = time.monotonic() + self._within
        stdout = _piped(process.stdout)
        with contextlib.suppress(OSError):
            fcntl.fcntl(stdout, _F_SETPIPE_SZ, _PIPE)
        self._poll.register(stdout, select.POLLIN)
        self._start(self._listen)
        if self._source is not None:
            self._start(self._feed)

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ValueError("an operation is read inside of its context only")
        return self._process

    # --- threads ------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Keep the end of what the operation says on stderr, and let it say as much as it likes."""
        stderr = _piped(self._running().stderr)
        while data := os.read(stderr, CHUNK):
            self._said = (self._said + data)[-_SAID:]

    def _feed(self) -> None:
        """Hand `stdin` on; an operation that does not want all of it is free to end."""
        process = self._running()
        source, stdin = self._source, process.stdin
        if source is None or stdin is None:
            return
        with contextlib.suppress(OSError):
            fcntl.fcntl(stdin, _F_SETPIPE_SZ, _PIPE)
        try:
            while data := source.read(CHUNK):
                view = memoryview(data)
                while view:
                    view = view[stdin.write(view) or 0 :]
        except BrokenPipeError:
            pass  # its exit status tells why
        except BaseException as error:  # noqa: BLE001  # raised again by read()
            self._feeding_error = error
            if process.poll() is None:
                _signal_group(process, signal.SIGKILL)
        with contextlib.suppress(OSError):
            stdin.close()

    # --- reading ------------------------------------------------------------------------------------------------

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes of output, at least one of them unless the operation has ended well.

        :raises CentralError: ``timeout``, or what `failed` makes of its end
        """
        size = max(size, 1)
        while not self._ready and self._outcome is None:
            data = self._next(size)
            if not data:
                self._finish()
                break
            data = self._held + data
            # What may be the end mark, or the start of it, is held back until more comes.
            start = data.rfind(END[:1], -len(END))
            split = start if start >= 0 and END.startswith(data[start:]) else len(data)
            self._ready, self._held = data[:split], data[split:]
        if self._ready:
            given, self._ready = self._ready[:size], self._ready[size:]
            return given
        if isinstance(self._outcome, CentralError):
            raise self._outcome
        return b""

    def _next(self, size: int) -> bytes:
        patience = self._idle_timeout
        if self._deadline is not None:
            patience = min(patience, self._deadline - time.monotonic())
        if patience <= 0 or not self._poll.poll(patience * 1000):
            raise self._give_up()
        return os.read(_piped(self._running().stdout), min(size, _PIECE))

    def _give_up(self) -> CentralError:
        waited = self._idle_timeout if self._within is None else self._within
        what = "gave no output for" if self._within is None else "did not end within"
        self._outcome = CentralError(
            "timeout",
            f"The operation {self._operation} {what} {waited:g} seconds and was ended. "
            "Look at the load of the Central's host, and for locks in its database.",
            operation=self._operation,
        )
        return self._outcome

    def _finish(self) -> None:
        """The output has ended: see how the operation has."""
        process = self._running()
        patience = _AFTER_OUTPUT
        if self._deadline is not None:
            patience = max(0.0, min(patience, self._deadline - time.monotonic()))
        if self._source is None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        try:
            status = process.wait(patience)
        except subprocess.TimeoutExpired:
            raise self._give_up() from None
        for thread in self._threads:
            thread.join(_SIGNALLED)
        if self._feeding_error is not None:
            raise self._feeding_error
        if status == 0 and self._held == END:
            self._outcome = True
            return
        said = self._said.decode("utf-8", "replace")
        if status == 0:
            self._outcome = CentralError(
                "operation_failed",
                f"The output of the operation {self._operation} is cut short, although no failure was reported: the "
                "connection to it broke, or it was killed. Try again, and look at the logs of Docker and of the host.",
                operation=self._operation,
            )
        else:
            self._outcome = self._failed(status, said)

    # --- ending -------------------------------------------------------------------------------------------------

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what still runs. It does not matter how often this is called."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            self._end(process)
        for thread in self._threads:
            thread.join(_SIGNALLED)
        # What has left the process group may still hold stderr, on which a thread waits then.
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None and not (pipe is process.stderr and self._threads and self._threads[0].is_alive()):
                with contextlib.suppress(OSError):
                    pipe.close()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        # Where data is sent, its end would look as if all of it had come: no such chance is given.
        if self._source is None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
            self._drain(process)
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                _signal_group(process, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_SIGNALLED)
        _signal_group(process, signal.SIGKILL)

    def _drain(self, process: subprocess.Popen[bytes]) -> None:
        """Give the operation time to end by itself, so that it is known to have ended in its container, too."""
        limit = time.monotonic() + _GRACE
        stdout = _piped(process.stdout)
        open_still = True
        while process.poll() is None and (left := limit - time.monotonic()) > 0:
            if not open_still:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(left)
            elif self._poll.poll(min(left, 0.2) * 1000):
                open_still = bool(os.read(stdout, CHUNK))


def _piped(pipe: IO[bytes] | None) -> int:
    if pipe is None:
        raise AssertionError("the process was started without this pipe")
    return pipe.fileno()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to the process and all it has started, less what has left its process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
