# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker on the host of a drill: what there is of a drill, and its end.

These commands are not operations of a Central (_operation.py): they are about containers of drills, on the drill's own host,
and never go through a gate. What is executed inside a drill's Central is an operation as everywhere.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._channel_errors import last_line
from ansible_collections.odkops.central.plugins.module_utils._drill_compose import DIRECTORY_LABEL, LABEL
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._operation import Project

#: label that Docker Compose puts on all that it makes
COMPOSE_LABEL = "com.docker.compose.project"

_TIMEOUT = 300.0
_ATTEMPTS = 5


@dataclass(frozen=True)
class Docker:
    """The command ``docker`` of this host.

    :param command: such as ``("docker",)`` or ``("sudo", "-n", "docker")``
    """

    command: tuple[str, ...] = ("docker",)

    def run(self, *arguments: str, timeout: float = _TIMEOUT, directory: str | None = None) -> str:
        """Run ``docker`` and return what it prints.

        :raises CentralError: ``docker_unavailable``, ``operation_failed``, ``timeout``
        """
        return self.execute([*self.command, *arguments], timeout, directory)

    def compose(self, project: Project, *arguments: str, timeout: float = _TIMEOUT) -> str:
        """Run ``docker compose`` for a project, as :meth:`run`."""
        return self.execute([*project.compose(), *arguments], timeout, project.directory)

    def execute(self, command: Sequence[str], timeout: float, directory: str | None) -> str:
        """Run a command whose end is waited for."""
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=directory,
                env={**os.environ, "LC_ALL": "C", "DOCKER_CLI_HINTS": "false", "COMPOSE_IGNORE_ORPHANS": "true"},
                timeout=timeout,
                check=False,
            )
        except OSError as error:
            raise CentralError(
                "docker_unavailable", f"{command[0]} cannot be run on the host of the drill: {error.strerror}."
            ) from error
        except subprocess.TimeoutExpired as error:
            raise CentralError("timeout", f"docker {command[-1]} has not ended within {timeout:g} seconds.") from error
        if done.returncode:
            said = last_line(done.stderr.decode("utf-8", "replace"))
            code = "docker_unavailable" if "docker daemon" in said.lower() else "operation_failed"
            raise CentralError(code, f"Docker on the host of the drill says: {said}")
        return done.stdout.decode("utf-8", "replace")

    def inspect(self, kind: str, *names: str) -> list[dict[str, Any]]:
        """What Docker knows of containers, networks, volumes or images; nothing of nothing."""
        if not names:
            return []
        found: list[dict[str, Any]] = json.loads(self.run(kind, "inspect", *names))
        return found

    def image(self, names: Sequence[str]) -> str | None:
        """The id of the first image that is there."""
        for name in names:
            try:
                return str(self.inspect("image", name)[0]["Id"])
            except CentralError as error:
                if error.diagnosis != "operation_failed":
                    raise
        return None

    def labelled(self, kind: str, label: str) -> list[str]:
        """Ids of containers, names of volumes, ids of networks with a label."""
        if kind == "container":
            return self.run("ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={label}").split()
        return self.run(kind, "ls", "--quiet", "--filter", f"label={label}").split()


@dataclass(frozen=True)
class Stack:
    """A drill's Central, as its labels tell it.

    :param project: its compose project
    :param directory: its working directory
    """

    project: str
    directory: str


def stacks(docker: Docker) -> list[Stack]:
    """All of which anything is left on this host, whoever has made them, by name."""
    found: dict[str, str] = {}
    for kind in ("container", "volume", "network"):
        for each in docker.inspect(kind, *docker.labelled(kind, LABEL)):
            labels = (each["Config"] if kind == "container" else each).get("Labels") or {}
            if labels.get(COMPOSE_LABEL):
                found[labels[COMPOSE_LABEL]] = labels.get(DIRECTORY_LABEL, "")
    return [Stack(project, directory) for project, directory in sorted(found.items())]


def remove_stack(docker: Docker, project: str) -> list[str]:
    """Remove the containers, volumes and networks of a drill, one-off containers too. Can be done again.

    :returns: what was removed, such as ``container 0a1b...``
    :raises CentralError: ``drill_not_removed``, and as :meth:`Docker.run`
    """
    removed: list[str] = []
    label = f"{COMPOSE_LABEL}={project}"
    problem: CentralError | None = None
    for _attempt in range(_ATTEMPTS):
        left = False
        for kind, command in (
            ("container", ("rm", "--force", "--volumes")),
            ("network", ("network", "rm")),
            ("volume", ("volume", "rm", "--force")),
        ):
            names = docker.labelled(kind, label)
            if not names:
                continue
            left = True
            try:
                docker.run(*command, *names)
                removed += [f"{kind} {name[:40]}" for name in names]
            except CentralError as error:
                if error.diagnosis == "docker_unavailable":
                    raise
                problem = error
        if not left:
            return removed
    if any(docker.labelled(kind, label) for kind in ("container", "network", "volume")):
        raise CentralError(
            "drill_not_removed",
            f"What is left of the drill {project} could not be removed: {problem.message if problem else 'it comes again'} "
            f"See `docker ps -a --filter label={label}`.",
        )
    return removed
