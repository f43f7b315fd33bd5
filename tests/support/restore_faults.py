# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What goes wrong while a Central is restored, each by real means, and what is left afterwards: docs/restore.md has the table."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .demo import Demo
from .modules import Result, module_command, module_environment, parse_answer, wire_arguments
from .restoring import Site
from .snapshot import litter

#: stages of the journal, in their order
STAGES = ("loading", "stopping", "swapping", "enketo", "starting", "opening")

BY_ITSELF = "The run puts everything back by itself."
NEXT_RUN = "The next run puts everything back."
FROM_BACKUP = "The run puts everything back by itself, from the backup that it has made just before."
GOES_ON = "Nobody has to: the restore goes on to its end."
NOTHING = "Nothing was begun."


@dataclass(frozen=True)
class Fault:
    """A row of the table: what happens, the diagnosis of the run (empty where it cannot say anything), and who mends it."""

    what: str
    diagnosis: str
    mended: str


#: by the name of its test
FAULTS: dict[str, Fault] = {
    "wrong passphrase": Fault("The passphrase is wrong.", "wrong_passphrase", NOTHING),
    "cut": Fault(
        "The backup is cut short, in its header, its table of contents, its data, or at its end.", "truncated", NOTHING
    ),
    "changed": Fault("A byte of a part of the set was changed.", "tampered", NOTHING),
    "newer": Fault("The backup is of a newer Central.", "newer_central", NOTHING),
    "two": Fault("Another run is at work on the Central.", "lease_held", NOTHING),
    "s3 down": Fault("S3 does not answer, and the backup names objects there.", "s3_failed", NOTHING),
    "pg_restore killed": Fault("`pg_restore` is killed.", "restore_failed", BY_ITSELF),
    "database stops": Fault(
        "The container of PostgreSQL ends while the backup is loaded.", "restore_failed", BY_ITSELF
    ),
    "redis refuses": Fault("Redis cannot write to its disk.", "redis_save_failed", BY_ITSELF),
    "login": Fault("The restored Central comes up, and nobody can log in.", "not_healthy", BY_ITSELF),
    "does not come up": Fault("`service` does not come up with the restored database.", "not_healthy", BY_ITSELF),
    "terminated": Fault("The module is ended by SIGTERM, as by Ctrl-C or `kill`.", "", BY_ITSELF),
    "killed": Fault(
        "The module is killed by SIGKILL, at each stage; so is what it has started on the host.", "", NEXT_RUN
    ),
    "disk full": Fault("The disk of the database server is full.", "central_disk_full", BY_ITSELF),
    "in place, disk full": Fault(
        "`in_place`: there is no room for the backup that is the way back.", "disk_full", BY_ITSELF
    ),
    "in place, killed": Fault("`in_place`: `pg_restore` is killed in the transaction.", "restore_failed", BY_ITSELF),
    "in place, locked": Fault("`in_place`: somebody keeps a table locked.", "restore_failed", BY_ITSELF),
    "in place, committed": Fault(
        "`in_place`: `service` does not come up with the restored database.", "not_healthy", FROM_BACKUP
    ),
    "restore.js": Fault(
        "`restore_js`: it fails, and commits that everything is dropped.", "restore_failed", FROM_BACKUP
    ),
    "connection cut": Fault(
        "From a vault: the SSH connection to the Central's host is cut.", "connection_failed", BY_ITSELF
    ),
    "controller killed": Fault(
        "The controller is killed, or its connection to the host that does the work is cut.", "", GOES_ON
    ),
    "reboot": Fault("The host is started anew in the middle.", "", NEXT_RUN),
}


def fault_table() -> str:
    """The table as docs/restore.md has it."""
    rows = []
    for fault in FAULTS.values():
        says = f"`{fault.diagnosis}`" if fault.diagnosis else "none: it cannot say anything any more"
        rows.append(f"| {fault.what} | {says} | {fault.mended} |")
    return "\n".join(["| What happens | What the run says | Who puts everything back |", "|---|---|---|", *rows])


class RunningRestore:
    """central_restore in a process of its own, at which something happens at a stage."""

    def __init__(self, site: Site, **options: Any) -> None:
        self._journal = Path(site.demo["compose_dir"]) / ".odkops-restore" / "journal.json"
        self.process = subprocess.Popen(
            module_command("central_restore"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=module_environment(),
            start_new_session=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(wire_arguments(site.options(**options)))
        self.process.stdin.close()
        self.process.stdin = None

    @property
    def stage(self) -> str:
        """How far the journal says it has come; empty where there is none."""
        try:
            return str(json.loads(self._journal.read_text())["stage"])
        except (OSError, ValueError):
            return ""

    def wait_for(self, stage: str, timeout: float = 300) -> None:
        """Wait until the restore has come to a stage."""
        until = time.monotonic() + timeout
        while self.stage != stage:
            assert self.process.poll() is None, self.process.communicate()[0].decode()[-2000:]
            assert time.monotonic() < until, f"it has come to {self.stage!r} only"
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill it and all that it has started on this host, as a crash would."""
        children = _descendants(self.process.pid)
        for pid in (self.process.pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()

    def terminate(self) -> Result:
        """End it as a person does."""
        self.process.terminate()
        return self.finish()

    def finish(self) -> Result:
        """Wait for its end."""
        stdout, stderr = (text.decode("utf-8", "replace") for text in self.process.communicate(timeout=600))
        return Result(self.process.returncode, parse_answer(stdout), stdout, stderr)


def kill_in_containers(demo: Demo, program: str, timeout: float = 60) -> None:
    """Kill a program in the containers of one-off commands of a demo, as soon as it runs there."""
    until = time.monotonic() + timeout
    while True:
        for container in (line.split()[0] for line in litter(demo)):
            listed = subprocess.run(
                ["docker", "top", container, "-eo", "pid,comm"], capture_output=True, text=True, check=False
            )
            found = [int(line.split()[0]) for line in listed.stdout.splitlines() if line.split()[1] == program]
            for pid in found:
                os.kill(pid, signal.SIGKILL)
            if found:
                return
        assert time.monotonic() < until, f"no {program} runs"
        time.sleep(0.05)


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found.append(child)
            waiting.append(child)
    return found


class Client(threading.Thread):
    """Sends submissions all the while, and remembers those that were acknowledged."""

    def __init__(self, send: Callable[[str], int]) -> None:
        super().__init__(daemon=True)
        self._send = send
        self._ended = threading.Event()
        #: ids that the Central has accepted
        self.acknowledged: list[str] = []
        self.refused = 0

    def run(self) -> None:
        number = 0
        while not self._ended.is_set():
            number += 1
            instance = f"uuid:all-the-while-{os.getpid()}-{number}"
            try:
                status = self._send(instance)
            except OSError:
                status = 0
            if status in (200, 201):
                self.acknowledged.append(instance)
            else:
                self.refused += 1
            self._ended.wait(0.05)

    def __enter__(self) -> Client:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ended.set()
        self.join(60)
