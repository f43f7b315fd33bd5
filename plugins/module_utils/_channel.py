# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Channels: how operations are executed at a Central, on this host or on another."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from ansible_collections.odkops.central.plugins.module_utils._channel_errors import failure
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._operation import Operation, Project
from ansible_collections.odkops.central.plugins.module_utils._operation_stream import OperationStream
from ansible_collections.odkops.central.plugins.module_utils._operations import OPERATIONS
from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK, Readable

#: what :meth:`Channel.run` takes at most, in bytes
LIMIT = 16 * 1024 * 1024

#: how long an operation may give no output, in seconds
IDLE_TIMEOUT = 900.0

_NO_LIMIT = 7 * 24 * 3600.0

# Languages and hints only make messages harder to read.
_ENVIRONMENT = {"LC_ALL": "C", "DOCKER_CLI_HINTS": "false", "COMPOSE_IGNORE_ORPHANS": "true"}


class Channel(Protocol):
    """Executes operations at a Central."""

    def run(
        self, operation: str, *arguments: str, stdin: bytes | None = None, timeout: float = 60, limit: int = LIMIT
    ) -> bytes:
        """Execute an operation whose output is small.

        :param operation: its name
        :param stdin: what it reads; else its stdin stays open and empty until it has ended
        :param timeout: seconds until it must have ended
        :param limit: bytes of output that are too many
        :returns: its output
        :raises CentralError: where it did not end well, see _channel_errors; ``timeout``, ``operation_refused``
        """

    def stream(
        self, operation: str, *arguments: str, stdin: Readable | None = None, idle_timeout: float = IDLE_TIMEOUT
    ) -> AbstractContextManager[OperationStream]:
        """Execute an operation and read its output as it comes. It starts when the context is entered.

        :param stdin: what it reads; else its stdin stays open and empty until it has ended
        :param idle_timeout: seconds without output until it is given up
        :raises CentralError: as :meth:`run`, from the context's start and from ``read``
        """


class ProcessChannel:
    """What channels have in common: an operation is a process of this host."""

    def __init__(self, operations: Mapping[str, Operation] | None = None) -> None:
        self._operations = OPERATIONS if operations is None else operations

    def _command(self, operation: Operation, arguments: Sequence[str]) -> tuple[list[str], str | None]:
        """Return the process's arguments and directory."""
        raise NotImplementedError

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **_ENVIRONMENT}

    def _failure(self, operation: Operation, status: int, said: str) -> CentralError:
        """Return what it means that the process has ended with `status`, and said `said` last."""
        return failure(operation, status, said)

    def _stream(self, name: str, arguments: Sequence[str], stdin: Readable | None, timeout: float) -> OperationStream:
        operation = self._operations.get(name)
        if operation is None:
            raise ValueError(f"there is no operation {name!r}")
        operation.check(arguments)
        command, directory = self._command(operation, arguments)
        return OperationStream(
            operation=name,
            command=command,
            directory=directory,
            environment=self._environment(),
            stdin=stdin,
            idle_timeout=timeout,
            failed=lambda status, said: self._failure(operation, status, said),
        )

    def stream(
        self, operation: str, *arguments: str, stdin: Readable | None = None, idle_timeout: float = IDLE_TIMEOUT
    ) -> AbstractContextManager[OperationStream]:
        """As :meth:`Channel.stream`."""
        return self._stream(operation, arguments, stdin, idle_timeout)

    def run(
        self, operation: str, *arguments: str, stdin: bytes | None = None, timeout: float = 60, limit: int = LIMIT
    ) -> bytes:
        """As :meth:`Channel.run`."""
        pieces: list[bytes] = []
        size = 0
        stream = self._stream(operation, arguments, None if stdin is None else _Bytes(stdin), _NO_LIMIT)
        stream.end_within(timeout)
        with stream:
            while data := stream.read(CHUNK):
                size += len(data)
                if size > limit:
                    raise CentralError(
                        "operation_failed",
                        f"The operation {operation} gives more than the {limit} bytes that it may.",
                        operation=operation,
                    )
                pieces.append(data)
        return b"".join(pieces)


class _Bytes:
    """Bytes as a stream."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def read(self, size: int, /) -> bytes:
        """As :meth:`Readable.read`."""
        data, self._data = bytes(self._data[:size]), self._data[size:]
        return data


class LocalChannel(ProcessChannel):
    """Executes operations on this host, where the Central runs.

    :param project: the Central's compose project
    :param operations: those that there are, by name; all of the collection's unless given
    """

    def __init__(self, project: Project, operations: Mapping[str, Operation] | None = None) -> None:
        super().__init__(operations)
        self._project = project

    def _command(self, operation: Operation, arguments: Sequence[str]) -> tuple[list[str], str | None]:
        directory = self._project.directory
        if not os.path.isdir(directory):
            raise CentralError(
                "bad_option",
                f"project_directory: there is no directory {directory} on this host. "
                "Give the one that holds the Central's docker-compose.yml.",
            )
        return [*self._project.command(operation), *arguments], directory
