# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A restore of Enketo without containers: a Redis that can be stopped and started, and secrets in a directory."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.odkops.central.plugins.module_utils import _enketo_restore_operations
from ansible_collections.odkops.central.plugins.module_utils._operation import HOST

from .local_channel import ServerChannel
from .redis_servers import Redis, Server

TAG = "0123456789ab"


class RestoreChannel(ServerChannel):
    """Executes the operations of a restore on this host. Use it as a context manager: Redis runs inside of it.

    :param folder: where Redis has its directory ``data``, and the secrets are in ``secrets``
    """

    def __init__(self, redis: Redis, folder: Path, *options: str) -> None:
        self.data, self.secrets = folder / "data", folder / "secrets"
        for path in (self.data, self.secrets):
            path.mkdir(parents=True, exist_ok=True)
        self.server = Server(redis, self.data, folder / "socket")
        super().__init__(self.server, self.secrets)
        for operation in _enketo_restore_operations.OPERATIONS:
            script = operation.script.replace("/etc/secrets", str(self.secrets))
            self._operations = {
                **self._operations,
                operation.name: dataclasses.replace(operation, place=HOST, run=False, script=script),
            }
        self._options = options
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        #: what was asked for, services too
        self.asked: list[str] = []
        #: services that run, beside Redis
        self.running = {"service", "enketo", "nginx"}

    def start(self) -> None:
        """Start Redis, and wait until it answers."""
        settings = [
            *("--port", "0", "--unixsocket", str(self.server.socket), "--dir", str(self.data), "--save", "300 1"),
            *("--dbfilename", "enketo-main.rdb", "--appendonly", "no", *self._options),
        ]
        command = [str(self.server.programs.bin / "redis-server"), *settings]
        with self._log.open("w") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out, cwd=self.data)
        self.server.wait(self._process, self._log)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop it as Docker does, so that it saves."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def __enter__(self) -> RestoreChannel:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.stop(signal.SIGKILL)

    def run(
        self, operation: str, *arguments: str, stdin: bytes | None = None, timeout: float = 60, limit: int = 1 << 24
    ) -> bytes:
        self.asked.append(" ".join((operation, *arguments[:1])) if operation.startswith("services") else operation)
        if operation == "services-running":
            return "\n".join([*self.running, *(["enketo_redis_main"] if self._process else [])]).encode()
        if operation.startswith("services-"):
            for name in arguments[0].split():
                if name == "enketo_redis_main":
                    (self.stop if operation == "services-stop" else self.start)()
                elif operation == "services-stop":
                    self.running.discard(name)
                else:
                    self.running.add(name)
            return b""
        return super().run(operation, *arguments, stdin=stdin, timeout=timeout, limit=limit)

    def with_program(self, name: str, script: str) -> None:
        """Put a program of ours before the real one."""
        folder = self.data.parent / "programs"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
        self._path = str(folder)

    def without(self, program: str) -> None:
        """Let the scripts not find a program."""
        self._operations = {
            name: dataclasses.replace(operation, script=operation.script.replace(program, f"no-{program}"))
            for name, operation in self._operations.items()
        }

    def left(self) -> list[str]:
        """What a restore has left in either volume."""
        return sorted(
            path.name for folder in (self.data, self.secrets) for path in folder.iterdir() if "odkops" in path.name
        )


@contextlib.contextmanager
def restoring(major: int, folder: Path, *options: str) -> Iterator[RestoreChannel]:
    """A Redis of a major in a folder of its own."""
    with RestoreChannel(Redis(major), folder, *options) as channel:
        yield channel
