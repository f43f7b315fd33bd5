# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A Central without containers: its operations run on this host, with real PostgreSQL in their PATH.

Each service has an environment and a folder of programs of its own.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ansible_collections.odkops.central.plugins.module_utils._channel import ProcessChannel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._operation import HOST, Operation, Project
from ansible_collections.odkops.central.plugins.module_utils._pg_dump_operations import OPERATIONS

from .postgresql import PostgreSQL

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_DOCKER = """\
#!/bin/sh
case "$*" in
  *" config") printf 'name: {project}\\nservices:\\n' ;;
  *" ps --all --quiet service") cat "${{0%/*}}/made" 2>/dev/null ;;
esac
exit 0
"""


@dataclass
class Service:
    """What a service's container has."""

    programs: Path
    environment: dict[str, str] = field(default_factory=dict)
    running: bool = True


class BareCentral(ProcessChannel):
    """A channel to it.

    :param folder: for the programs; a file ``made`` in it says that there is a container of ``service``
    :param project: what Docker Compose calls it
    """

    def __init__(self, folder: Path, project: str = "bare") -> None:
        super().__init__({operation.name: operation for operation in OPERATIONS})
        self._folder = folder
        self._place = ""
        #: the operations that were executed, in order
        self.executed: list[str] = []
        self.services: dict[str, Service] = {}
        docker = folder / "docker"
        docker.write_text(_DOCKER.format(project=project))
        docker.chmod(0o755)

    def add(self, name: str, postgresql: PostgreSQL | None, environment: dict[str, str]) -> Service:
        """Add a service with the programs of a PostgreSQL."""
        programs = self._folder / name
        programs.mkdir()
        for program in ("pg_dump", "psql") if postgresql is not None else ():
            path = programs / program
            assert postgresql is not None
            path.write_text(f'#!/bin/sh\nexec {shlex.join(postgresql.command(program))} "$@"\n')
            path.chmod(0o755)
        self.services[name] = Service(programs, environment)
        if name == "service":
            (self._folder / "made").write_text("0123456789ab\n")
        return self.services[name]

    def _command(self, operation: Operation, arguments: Sequence[str]) -> tuple[list[str], str | None]:
        self.executed.append(operation.name)
        self._place = operation.place
        project = Project(str(self._folder), docker=(str(self._folder / "docker"),))
        if operation.place != HOST:
            service = self.services.get(operation.place)
            if service is None or not (service.running or operation.run):
                raise CentralError("service_not_running", f"The service {operation.place} does not run.")
        command = project.command(replace(operation, place=HOST, run=False))
        return [*command, *arguments], str(self._folder)

    def _environment(self) -> dict[str, str]:
        service = self.services.get(self._place)
        if service is None:
            return {"PATH": _PATH}
        return {"PATH": f"{service.programs}:{_PATH}", **service.environment}
