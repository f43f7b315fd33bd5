# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A drill's Central: brought up beside whatever else runs on a host, and removed without a trace.

Nobody can be relied on to remove it: the controller may be ended at any time. So a process of its own, the warden, does
(_drill_removal.py), or after a reboot the next drill of the host.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, NoReturn

from ansible_collections.odkops.central.plugins.module_utils._atomic import make_directory
from ansible_collections.odkops.central.plugins.module_utils._channel import Channel, LocalChannel
from ansible_collections.odkops.central.plugins.module_utils._drill_compose import (
    COMPOSE,
    FIRST,
    StackPlan,
    build,
    mount_source,
    required_images,
)
from ansible_collections.odkops.central.plugins.module_utils._drill_docker import Docker, Stack
from ansible_collections.odkops.central.plugins.module_utils._drill_files import write_files
from ansible_collections.odkops.central.plugins.module_utils._drill_guard import (
    Production,
    render,
    require_apart,
    require_apart_in_docker,
)
from ansible_collections.odkops.central.plugins.module_utils._drill_removal import (
    PREFIX,
    remove,
    remove_leftovers,
    start_warden,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, writing_error
from ansible_collections.odkops.central.plugins.module_utils._lease import new_run_id, take, this_host
from ansible_collections.odkops.central.plugins.module_utils._operation import Project
from ansible_collections.odkops.central.plugins.module_utils._phases import Phases
from ansible_collections.odkops.central.plugins.module_utils._postgres_settings import read_settings
from ansible_collections.odkops.central.plugins.module_utils._under_lease import under_lease

#: seconds without a sign of life of the drill, after which the warden removes it
LIFETIME = 180
_PATIENCE = 180.0

#: bytes of memory that a small Central needs to come up
_MEMORY = 1536 * 1024**2
#: bytes on the disk that Docker needs beside the database
_DISK = 1024**3


@dataclass(frozen=True)
class DrillRequest:
    """What is to be brought up.

    :param checkout: the compose project whose images are used, and whose Central must stay untouched
    :param root: the directory of drills of this host, absolute
    :param central: name of the Central in the repository
    :param domain: DOMAIN of the set; None for that of the checkout
    :param identity: of the Central in the set's manifest
    :param objects: whether the database names objects in S3
    :param compressed_size: bytes of the set's database part
    :param data_size: bytes of the rows in it, as text; None where the set does not say so
    :param cpus: for each container; None for half of the host's
    :param rclone_path: of the rclone that will be needed for objects
    """

    checkout: Project
    root: str
    central: str = ""
    domain: str | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    objects: bool = False
    compressed_size: int = 0
    data_size: int | None = None
    cpus: float | None = None
    memory: int = 2 * 1024**3
    lifetime: int = LIFETIME
    rclone_path: str | None = None


def _impossible(why: str) -> NoReturn:
    raise CentralError("drill_impossible", f"There can be no drill: {why}")


class Preparation:
    """All that is known before anything is made. Nothing is changed by it."""

    def __init__(self, request: DrillRequest, drill_id: str) -> None:
        self.request = request
        self.docker = Docker(request.checkout.docker)
        text = self.docker.compose(request.checkout, "config", "--format", "json")
        self.source: dict[str, Any] = json.loads(text)
        self.production = Production.of(self.source, request.identity, self.docker)
        images = {}
        for service, names in required_images(self.source).items():
            found = self.docker.image(names)
            if found is None:
                _impossible(
                    f"the image of {service} is not on this host ({names[0]}). Make the images in {request.checkout.directory} "
                    "(docker compose build, docker compose pull); a drill makes none."
                )
            images[service] = found
        service = self.source["services"]["service"]
        domain = request.domain or str((service.get("environment") or {}).get("DOMAIN") or "")
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", domain):
            _impossible(f"the DOMAIN {domain[:80]!r} is none.")
        slug = re.sub(r"[^a-z0-9]+", "-", request.central.lower()).strip("-")[:30] or "central"
        project = f"{PREFIX}{slug}-{drill_id.rpartition('-')[2]}"
        self.plan = StackPlan(
            drill_id=drill_id,
            project=project,
            directory=os.path.join(os.path.realpath(request.root), project.removeprefix(PREFIX)),
            domain=domain,
            images=images,
            password=secrets.token_hex(24),
            s3=(secrets.token_hex(12), secrets.token_hex(24)) if request.objects else None,
            cpus=request.cpus or max(1.0, (os.cpu_count() or 2) / 2),
            memory=request.memory,
        )
        self.document = build(self.source, self.plan)
        require_apart(self.document, self.production, self.plan.directory, self._files())
        self._require_room()

    def _files(self) -> set[str]:
        """Files of the checkout that stock binds, and nothing else that anybody may have bound."""
        root = os.path.realpath(self.request.checkout.directory)
        found = set()
        for service in self.source["services"].values():
            for mount in service.get("volumes") or ():
                path = mount_source(mount)
                if mount.get("type") == "bind" and os.path.realpath(path).startswith(f"{root}/files/"):
                    found.add(path)
        return found

    def _require_room(self) -> None:
        memory = available_memory()
        if memory is not None and memory < _MEMORY:
            _impossible(
                f"{memory // 1024**2} MiB of memory are available on this host, and a second Central needs "
                f"{_MEMORY // 1024**2}. Drill on another host, or at another time."
            )
        place = self.docker.run("info", "--format", "{{.DockerRootDir}}").strip()
        # With indexes a database takes up to twice its rows as text. Older sets do not say how much those are.
        rows, compressed = self.request.data_size, self.request.compressed_size
        needed = (8 * compressed if rows is None else 2 * rows) + _DISK
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(place).free
            if free < needed:
                _impossible(
                    f"{free // 1024**2} MiB are free in {place}, and the drill may need {needed // 1024**2}. Make room there."
                )


def available_memory() -> int | None:
    """Bytes that processes can still have, or None where that is not known."""
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def new_drill_id() -> str:
    """An id by the clock of this host, such as ``20261123T101112Z-ab12cd``."""
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


# --- up -------------------------------------------------------------------------------------------------------------


def bring_up(prepared: Preparation, phases: Phases) -> dict[str, Any]:
    """Make the stack, and start what a restore needs. On any failure nothing is left of it.

    :returns: ``project``, ``directory``, ``domain``, ``lease`` (the run that holds the lease), ``guard`` (what was compared),
        ``removed`` (stacks of earlier drills that had been left)
    :raises CentralError: ``drill_not_isolated``, ``drill_impossible``, ``database_unreachable``, ...
    """
    plan, docker, lifetime = prepared.plan, prepared.docker, prepared.request.lifetime
    removed = remove_leftovers(docker, prepared.request.root)
    # By its name: the environment may name the files of another project (COMPOSE_FILE).
    project = Project(plan.directory, plan.project, (COMPOSE,), docker.command)
    channel = LocalChannel(project)
    lease = new_run_id()
    try:
        with phases.phase("files"):
            _make_directory(prepared.request.root, plan.directory)
            take(channel, lease, "drill", this_host(), lifetime)
            start_warden(docker, Stack(plan.project, plan.directory))
            write_files(plan.directory, plan.domain, render(prepared.document))
        with under_lease(channel, lease):
            with phases.phase("stack"):
                docker.compose(project, "up", "--no-start", "--no-build", "--quiet-pull")
                guard = require_apart_in_docker(docker, plan.project, prepared.production)
                _say_that_there_is_nothing_to_upgrade(docker, project)
                first = [name for name in FIRST if name in plan.images]
                docker.compose(project, "up", "--detach", "--no-build", "--no-deps", "--no-recreate", *first)
            with phases.phase("postgresql"):
                _wait_for_database(channel)
    except BaseException:
        remove(docker, Stack(plan.project, plan.directory))
        raise
    return {
        "project": plan.project,
        "directory": plan.directory,
        "domain": plan.domain,
        "lease": lease,
        "guard": guard,
        "removed": removed,
    }


def _make_directory(root: str, directory: str) -> None:
    make_directory(root)
    try:
        os.mkdir(directory, 0o700)
    except OSError as error:
        raise writing_error(error, directory) from error


# It is looked for by way of the directory of the data, which has to be there.
_NOTHING_TO_UPGRADE = """\
data=${PGDATA:-/var/lib/odk/postgresql/14/data}
mkdir -p "$data" && touch "$data/../.postgres14-upgrade-successful"
"""


def _say_that_there_is_nothing_to_upgrade(docker: Docker, project: Project) -> None:
    """postgres14 waits for a file of the service `postgres`, which upgrades from PostgreSQL 9.6, and is not in a drill."""
    once = ("run", "--rm", "-T", "--no-deps", "--entrypoint", "sh", "postgres14", "-c", _NOTHING_TO_UPGRADE)
    docker.compose(project, *once)


def _wait_for_database(channel: Channel) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        settings = read_settings(channel, "database-check-once")
        if settings.server is not None:
            return
        if time.monotonic() > until:
            settings.require_server()
        time.sleep(0.5)
