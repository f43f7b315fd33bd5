# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of Enketo without containers: run on this host, by a shell, against a Redis of the test's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ansible_collections.odkops.central.plugins.module_utils._channel import LocalChannel
from ansible_collections.odkops.central.plugins.module_utils._enketo_operations import OPERATIONS, SECRETS
from ansible_collections.odkops.central.plugins.module_utils._operation import HOST, Project

from .redis_servers import Server


class ServerChannel(LocalChannel):
    """Runs them with a server's ``redis-cli``, and with secrets in a directory instead of ``/etc/secrets``."""

    def __init__(self, server: Server, secrets: Path, path: str = "") -> None:
        operations = {
            operation.name: dataclasses.replace(
                operation,
                place=HOST,
                run=False,
                script=operation.script.replace("/etc/secrets", str(secrets)),
            )
            for operation in OPERATIONS
        }
        super().__init__(Project(str(server.folder)), operations)
        self._server = server
        self._path = path

    def _environment(self) -> dict[str, str]:
        environment = {**super()._environment(), **self._server.environment}
        if self._path:
            environment["PATH"] = f"{self._path}:{environment['PATH']}"
        return environment


def write_secrets(folder: Path) -> dict[str, bytes]:
    """Write three secrets of the right sizes; returns them by name."""
    folder.mkdir(exist_ok=True)
    secrets = {name: (name.encode() * size)[:size].replace(b"-", b"Q") for name, size in SECRETS.items()}
    for name, content in secrets.items():
        (folder / name).write_bytes(content)
    return secrets
