# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""backup.yml and the lease on the Central: two runs at once, runs that fail, are killed, or lose it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._gate import render_gate
from ansible_collections.odkops.central.plugins.module_utils._operation import Project

from support import Demo, PlaybookResult, run_module, run_playbook, write_inventory
from support.gates import python_for_gates, ssh_server, write_gate
from support.paths import BIN, COLLECTION
from support.playbooks import ansible_environment
from support.sets import everything_below

WAITING = "select count(*) from pg_stat_activity where application_name like 'odkops%' and wait_event_type = 'Lock'"
OURS = "select count(*) from pg_stat_activity where application_name like 'odkops%'"
NO_LEASE = "No lease was taken"

# Each run takes seconds, and several at once take longer.
pytestmark = pytest.mark.timeout(600)


class Site:
    """One Central on this host, which is backed up without its API."""

    def __init__(self, demo: Demo, folder: Path) -> None:
        self.demo, self.folder, self.repository = demo, folder, folder / "repository"
        passphrase = folder / "passphrase"
        passphrase.touch(mode=0o600)
        passphrase.write_text("of the tests of leases 7f3a91\n", "utf-8")
        directory = str(demo["compose_dir"])
        self.place = {"project_directory": directory}
        self.inventory = write_inventory(
            folder / "inventory.json",
            {"demo": demo},
            central_repository=str(self.repository),
            central_passphrase_file=str(passphrase),
            central_project_directory=directory,
            central_project=demo["compose_project"],
            central_method="pg_dump",
            central_parts=["database", "enketo"],
        )
        found = os.stat(directory)
        lock = Path("/run/lock") if Path("/run/lock").is_dir() else Path("/tmp")
        self.file = lock / f"odkops-central-{found.st_dev}-{found.st_ino}.{os.getuid()}"

    def run(self, *arguments: str, check: bool = False, **variables: Any) -> PlaybookResult:
        extra = self.folder / f"variables-{time.monotonic_ns()}.json"
        extra.write_text(json.dumps(variables), "utf-8")
        return run_playbook("backup", self.inventory, extra, *arguments, check=check)

    def holder(self) -> str | None:
        """The run that has the lease, as its file says it."""
        with contextlib.suppress(FileNotFoundError):
            return self.file.read_text("ascii").split()[5]
        return None

    def expires(self) -> None:
        """Let fifteen minutes pass for the lease."""
        words = self.file.read_text("ascii").split()
        words[2] = str(int(words[2]) - 900)
        self.file.write_text(" ".join(words) + "\n", "ascii")

    def sets(self, central: str = "demo") -> list[Path]:
        """The sets, whole ones and others."""
        folder = self.repository / central / "sets"
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def sealed(self) -> list[Path]:
        return [path for path in self.sets() if (path / "manifest.json").exists()]


@pytest.fixture
def site(demo: Demo, tmp_path: Path) -> Iterator[Site]:
    site = Site(demo, tmp_path)
    yield site
    run_module("central_lease", {**site.place, "state": "broken"})


def failure(outcome: PlaybookResult, host: str = "demo") -> str:
    assert outcome.rc != 0, outcome.output
    return str(outcome.of("fail", host)[-1]["msg"])


def until(true: Callable[[], object], what: str, seconds: float = 90) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, what
        time.sleep(0.1)


def test_a_second_run_is_refused_and_leaves_the_first_alone(site: Site) -> None:
    with ThreadPoolExecutor(2) as threads:
        with site.demo.fault("locked-table"):
            first = threads.submit(site.run)
            until(lambda: site.demo.psql(WAITING) == "1", "no dump has begun")
            holder = site.holder()
            assert holder
            (unfinished,) = site.sets()
            for check in (True, False):
                second = site.run(check=check)
                assert "lease_held" in failure(second)
                assert holder in failure(second)
            stats = second.custom["_run"]["odkops_central_backup"]["demo"]
            assert (stats["ok"], stats["diagnosis"]) == (False, "lease_held")
            patient = threads.submit(site.run, central_lease_wait=300)
            assert site.holder() == holder
            assert site.sets() == [unfinished]
            assert site.demo.psql(WAITING) == "1"
        assert first.result().rc == 0, first.result().output
        assert patient.result().rc == 0, patient.result().output
    assert len(site.sealed()) == len(site.sets()) == 2
    assert site.holder() is None
    for path in site.sealed():
        assert NO_LEASE not in (path / "manifest.json").read_text("utf-8")


def test_a_vault_and_the_host_itself_see_the_same_lease(site: Site, demo: Demo) -> None:
    """Over a real SSH connection, through the gate."""
    project = Project(str(demo["compose_dir"]), str(demo["compose_project"]))
    gate = write_gate(site.folder / "gate", render_gate(project, python=python_for_gates()))
    with ssh_server(site.folder / "sshd", gate) as server, ThreadPoolExecutor(1) as threads:
        over_ssh = {
            "central_project_directory": "",
            "central_ssh_host": "127.0.0.1",
            "central_ssh_user": server.user,
            "central_ssh_port": server.port,
            "central_ssh_key_file": str(server.key),
            "central_ssh_known_hosts_file": str(server.known_hosts),
        }
        with demo.fault("locked-table"):
            first = threads.submit(site.run, **over_ssh)
            until(lambda: demo.psql(WAITING) == "1", "no dump has begun")
            holder = site.holder()
            assert holder
            refused = failure(site.run())
            assert "lease_held" in refused
            assert holder in refused
        assert first.result().rc == 0, first.result().output
    assert len(site.sealed()) == 1
    assert site.holder() is None


def test_it_is_returned_after_a_failure(site: Site, demo: Demo) -> None:
    """Of one of two hosts; the other one is known by its address only, and has no place for a lease."""
    inventory = json.loads(site.inventory.read_text("utf-8"))
    hosts = inventory["odk_central"]["hosts"]
    hosts["plain"] = {**hosts["demo"], "central_project_directory": "", "central_method": "api"}
    hosts["demo"]["central_docker_command"] = ["false"]
    site.inventory.write_text(json.dumps(inventory), "utf-8")
    outcome = site.run()
    assert "lease" not in failure(outcome)
    assert (outcome.hosts["demo"]["failures"], outcome.hosts["plain"]["failures"]) == (1, 0)
    assert [result["changed"] for result in outcome.of("central_lease", "demo")] == [True, True]
    assert outcome.of("central_lease", "plain") == []
    assert site.holder() is None
    assert not (site.repository / "demo").exists()
    (path,) = site.sets("plain")
    assert NO_LEASE in (path / "manifest.json").read_text("utf-8")
    assert outcome.stdout.count(NO_LEASE) == 1


def test_check_mode_takes_none(site: Site) -> None:
    outcome = site.run(check=True)
    assert outcome.rc == 0, outcome.output
    assert site.holder() is None
    assert not site.repository.exists()


def test_a_lease_that_is_lost_in_the_middle(site: Site, demo: Demo) -> None:
    with ThreadPoolExecutor(1) as threads, demo.fault("locked-table"):
        running = threads.submit(site.run)
        until(lambda: demo.psql(WAITING) == "1", "no dump has begun")
        assert run_module("central_lease", {**site.place, "state": "broken"})["broken"]["run_id"]
        lost = time.monotonic()
        theirs = run_module("central_lease", {**site.place, "state": "held", "purpose": "restore", "run_id": "theirs"})
        assert theirs["changed"]
        outcome = running.result()
        # A beat is half a minute. The table is still locked.
        assert time.monotonic() - lost < 75
        assert "lease_lost" in failure(outcome)
        assert "restore theirs" in failure(outcome)
        until(lambda: demo.psql(OURS) == "0", "a session was left in the database")
    assert site.holder() == "theirs"
    assert everything_below(site.repository) == set()


def children(process: int) -> set[int]:
    """A process and all that it has started."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text("ascii", "replace").rpartition(")")[2].split()[1])
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def test_the_lease_of_a_run_that_was_killed_expires(site: Site, demo: Demo) -> None:
    work = site.folder / "work"
    work.mkdir()
    with demo.fault("locked-table"):
        process = subprocess.Popen(
            [BIN / "ansible-playbook", "-i", site.inventory, f"{COLLECTION}.backup"],
            env=ansible_environment(work),
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: demo.psql(WAITING) == "1", "no dump has begun")
        for number in sorted(children(process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.wait()
        until(lambda: demo.psql(OURS) == "0", "the dump has not ended")
    killed = site.holder()
    assert killed
    refused = failure(site.run())
    assert "lease_held" in refused
    assert killed in refused
    site.expires()
    assert site.run().rc == 0
    assert len(site.sealed()) == 1
    assert site.holder() is None
