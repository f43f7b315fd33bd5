# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host of unit tests that leases are taken on, and the channel to it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils._channel import ProcessChannel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._lease_operations import OPERATIONS
from ansible_collections.odkops.central.plugins.module_utils._operation import Operation, Project

NOBODY = 65534
ROOT_ONLY = "takes the part of two users, which only root can"


@dataclass
class Host:
    """A Central's host, as far as leases are concerned: a project directory, and a clock, a boot and a /run/lock of its own."""

    folder: Path
    shell: str = "sh"
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path) -> Host:
        for name in ("central", "bin", "lock"):
            (folder / name).mkdir(parents=True)
        (folder / "lock").chmod(0o1777)
        host = cls(folder)
        host.boots()
        host.up(1000)
        return host

    def up(self, seconds: float) -> None:
        """Let the host be up for so long."""
        (self.folder / "uptime").write_text(f"{seconds} 1.0\n")

    def boots(self) -> None:
        """Start it anew, with a /run/lock that forgets nothing."""
        (self.folder / "boot").write_text(os.urandom(8).hex() + "\n")

    def date(self, epoch: int) -> None:
        """Set the clock."""
        (self.folder / "bin" / "date").write_text(f"#!/bin/sh\necho {epoch}\n")
        (self.folder / "bin" / "date").chmod(0o755)

    @property
    def files(self) -> list[Path]:
        return sorted((self.folder / "lock").iterdir())

    def operations(self) -> dict[str, Operation]:
        places = {
            "/run/lock": self.folder / "lock",
            "/proc/uptime": self.folder / "uptime",
            "/proc/sys/kernel/random/boot_id": self.folder / "boot",
        }
        made = {}
        for operation in OPERATIONS:
            script = operation.script
            for place, instead in places.items():
                assert place in script
                script = script.replace(place, str(instead))
            made[operation.name] = replace(operation, script=script)
        return made

    @property
    def channel(self) -> HostChannel:
        return HostChannel(self)


class HostChannel(ProcessChannel):
    """A channel to such a host, perhaps as another user."""

    def __init__(self, host: Host, uid: int | None = None) -> None:
        super().__init__(host.operations())
        self._host, self._uid = host, uid
        self.broken: CentralError | None = None
        self.asked: list[str] = []

    def _command(self, operation: Operation, arguments: Sequence[str]) -> tuple[list[str], str | None]:
        self.asked.append(operation.name)
        if self.broken is not None:
            raise self.broken
        directory = str(self._host.folder / "central")
        command = [self._host.shell, *Project(directory).command(operation)[1:], *arguments]
        if self._uid is not None:
            command = ["setpriv", f"--reuid={self._uid}", "--clear-groups", f"--regid={self._uid}", *command]
        return command, directory

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self._host.folder / 'bin'}:{os.environ['PATH']}", **self._host.environment}


def refused(call: Callable[[], object], diagnosis: str) -> CentralError:
    with pytest.raises(CentralError) as caught:
        call()
    assert caught.value.diagnosis == diagnosis, caught.value.message
    return caught.value


def identity(host: Host) -> str:
    found = (host.folder / "central").stat()
    return f"{found.st_dev}-{found.st_ino}"


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it does not come"
        time.sleep(0.02)
