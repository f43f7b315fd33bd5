# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A file that is read in a process of its own while it is written, so that what is proven is what was written."""

from __future__ import annotations

import os
import pickle
import struct
from types import TracebackType
from typing import Callable, Generic, TypeVar

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, reading_error
from ansible_collections.odkops.central.plugins.module_utils._forks import end, fork, let_go, was_killed
from ansible_collections.odkops.central.plugins.module_utils._memory import keep_freed_memory
from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK, Readable

Result = TypeVar("Result")

# How large the file is; a pipe never divides these few bytes (POSIX: PIPE_BUF).
_SIZE = struct.Struct("<Q")
_WHOLE = 2**64 - 1
_AT_ONCE = 256 * _SIZE.size


class _Abandoned(BaseException):
    """Nothing more will come, and nobody asks for the result. No error, so that no handler of errors takes it for one."""


class Following(Generic[Result]):
    """Calls `consume` in another process, with a stream of what the file holds so far. Use it as a context manager.

    Where no process can be had, it is called by :meth:`finish`. What `consume` raises is raised again by the next
    :meth:`grown`, or by :meth:`finish`. Leaving the context before :meth:`finish` ends the process.

    :param consume: reads the stream to its end, and returns something that can be pickled
    :param descriptor: of the file, open for reading; its position is neither used nor moved
    :param path: of the file, for messages
    """

    def __init__(self, consume: Callable[[Readable], Result], descriptor: int, path: str) -> None:
        self._consume = consume
        self._descriptor = descriptor
        self._path = path
        self._size = 0
        self._process: int | None = None
        self._tell = self._answer = -1
        self._found: Result | None = None
        self._ended = False

    def __enter__(self) -> Following[Result]:
        keep_freed_memory()
        told, self._tell = os.pipe()
        self._answer, answer = os.pipe()
        try:
            self._process = fork(lambda: self._follow(told, answer))
        except OSError:
            pass  # finish() does it.
        finally:
            os.close(told)
            os.close(answer)
        return self

    def _follow(self, told: int, answer: int) -> None:
        """What the other process does."""
        let_go((self._descriptor, told, answer))
        stream = _Growing(self._descriptor, self._path, told)
        outcome: tuple[bool, object]
        try:
            outcome = True, self._consume(stream)
        except CentralError as error:
            outcome = False, (error.diagnosis, error.message, error.details)
        except _Abandoned:
            return
        with os.fdopen(answer, "wb") as pipe:
            pickle.dump(outcome, pipe)

    def grown(self, size: int) -> None:
        """Say that the file has so many bytes now."""
        self._size = size
        if self._process is None or self._ended:
            return
        try:
            os.write(self._tell, _SIZE.pack(size))
        except BrokenPipeError:
            self._hear()

    def finish(self) -> Result:
        """Say that the file is whole, and wait for what `consume` returns.

        :raises CentralError: ``process_killed``, and what `consume` raises
        """
        if self._process is None:
            return self._consume(_Growing(self._descriptor, self._path, -1, self._size))
        self.grown(_WHOLE)
        if not self._ended:
            self._hear()
        return self._found  # type: ignore[return-value]

    def _hear(self) -> None:
        """Take the outcome, once there is one."""
        self._ended = True
        with os.fdopen(os.dup(self._answer), "rb") as pipe:
            data = pipe.read()
        if not data:
            raise was_killed()
        well, outcome = pickle.loads(data)  # noqa: S301  # of a fork of this process
        if not well:
            diagnosis, message, details = outcome
            raise CentralError(diagnosis, message, **details)
        self._found = outcome

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            end(self._process)
        for descriptor in (self._tell, self._answer):
            os.close(descriptor)


class _Growing:
    """What a file holds, up to the size that is told.

    :param told: a pipe that says sizes; -1 where the file has `size` bytes and no more come
    """

    def __init__(self, descriptor: int, path: str, told: int, size: int = 0) -> None:
        self._descriptor = descriptor
        self._path = path
        self._told = told
        self._position = 0
        self._size = size
        self._whole = told < 0

    def read(self, size: int, /) -> bytes:
        """As :meth:`Readable.read`."""
        while self._position >= self._size and not self._whole:
            self._wait()
        wanted = min(size, CHUNK, self._size - self._position)
        if not wanted:
            return b""
        try:
            data = os.pread(self._descriptor, wanted, self._position)
        except OSError as error:
            raise reading_error(error, self._path) from error
        if not data:
            raise CentralError("unreadable", f"{self._path} is shorter than what was written. Check the disk.")
        self._position += len(data)
        return data

    def _wait(self) -> None:
        said = os.read(self._told, _AT_ONCE)
        if not said:
            raise _Abandoned
        for (size,) in _SIZE.iter_unpack(said):
            if size == _WHOLE:
                self._whole = True
            else:
                self._size = size
