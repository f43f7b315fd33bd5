# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""restore.yml from a vault, through the gate of the Central's host; and connections and controllers that end in the middle."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import PlaybookResult, run_module
from support.restore_faults import FAULTS
from support.secret_watch import Needles, Watch
from support.snapshot import Snapshot, psql, snapshot
from support.vault import DOMAIN, GATE_USER, command
from support.vault_site import Site, controllers, failure, install_gate, processes_of_gate

pytest_plugins = ["support.vault_fixtures"]

# It takes minutes.
pytestmark = [pytest.mark.timeout(900), pytest.mark.long, pytest.mark.demo]

#: its sets are not those of the other tests of the vault
NAME = "put-back"
LATE = "SELECT count(*) FROM submissions WHERE \"instanceId\" LIKE 'uuid:since-%'"
OPTIONS = {
    "central_name": NAME,
    "central_restore_confirm": DOMAIN,
    "central_restore_safety": False,
    "central_restore_keep_previous": False,
}


@dataclass
class Restorable:
    """Both hosts, what the Central held when its set was made, and what it holds now."""

    site: Site
    held: Snapshot
    now: Snapshot

    @property
    def stage(self) -> str:
        try:
            path = self.site.host.project_directory / ".odkops-restore/journal.json"
            return str(json.loads(path.read_text("utf-8"))["stage"])
        except (OSError, ValueError):
            return ""

    def wait_for(self, condition: Callable[[], bool], what: str, run: Running | None = None) -> None:
        until = time.monotonic() + 240
        while not condition():
            assert run is None or run.is_alive(), run.outcome.output
            assert time.monotonic() < until, f"{what}: {self.stage}"
            time.sleep(0.05)

    def later(self) -> None:
        """Have more in it than in the set."""
        psql(
            self.site.demo,
            'INSERT INTO submissions ("formId", "instanceId", "createdAt", draft) '
            "SELECT id, 'uuid:since-' || id || clock_timestamp(), now(), false FROM forms",
        )
        self.now = snapshot(self.site.demo)

    def is_as_in_the_set(self) -> None:
        after = snapshot(self.site.demo)
        differing = {name for name in self.held.tables if after.tables[name] != self.held.tables[name]}
        assert differing <= {"public.audits", "public.sessions", "public.users"}
        assert (after.redis, after.secrets, after.databases) == (
            self.held.redis,
            self.held.secrets,
            self.held.databases,
        )
        assert (after.files, after.litter, after.sessions) == (self.held.files, [], [])
        assert self.stage == ""


@pytest.fixture(scope="module")
def central(vault_site: Site) -> Iterator[Restorable]:
    """The gate lets the vault restore, and its user may write the journal."""
    site = vault_site
    directory, key = site.host.project_directory, site.vault.public_key
    mode = directory.stat().st_mode & 0o7777
    outcome = site.run("backup", central_name=NAME)
    assert outcome.rc == 0, outcome.output
    install_gate(site.folder, directory, key, "backup", "restore")
    command("chmod", "g+w", directory)
    try:
        yield Restorable(site, snapshot(site.demo), snapshot(site.demo))
    finally:
        directory.chmod(mode)
        install_gate(site.folder, directory, key)


class Running(threading.Thread):
    """restore.yml, at which something happens."""

    def __init__(self, site: Site, **more: Any) -> None:
        super().__init__()
        self._variables = {**OPTIONS, **more}
        self._site, self.mark = site, secrets.token_hex(8)
        self.outcome: PlaybookResult
        self.start()

    def run(self) -> None:
        self.outcome = self._site.run("restore", env={"ODKOPS_TEST_MARK": self.mark}, **self._variables)


def kill(processes: list[int]) -> None:
    assert processes
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def cut(operation: str) -> bool:
    """End all connections of the gate's user while an operation is executed for it. Whether there was one."""
    listed = [line.split(maxsplit=2) for line in command("ps", "-ww", "-eo", "pid,user:32,args").splitlines()[1:]]
    ours = [(int(pid), arguments) for pid, user, arguments in listed if user == GATE_USER]
    if not any(f" {operation} " in arguments for _pid, arguments in ours):
        return False
    kill([pid for pid, arguments in ours if arguments.startswith("sshd")])
    return True


def test_through_a_gate_that_lets_nobody_restore(central: Restorable) -> None:
    site = central.site
    install_gate(site.folder, site.host.project_directory, site.vault.public_key)
    try:
        outcome = site.run("restore", **OPTIONS)
    finally:
        install_gate(site.folder, site.host.project_directory, site.vault.public_key, "backup", "restore")
    assert "operation_refused: The gate on the Central's host refuses the operation restore-survey" in failure(outcome)
    assert snapshot(site.demo) == central.now


def test_the_connection_of_the_controller_is_cut(central: Restorable) -> None:
    """It goes on, and the playbook asks again. So this is a restore from a vault that succeeds, too."""
    central.later()
    site = central.site
    account = site.demo["admin"]
    login = {"central_restore_login_email": account["email"], "central_restore_login_password": account["password"]}
    with Watch(Needles({"passphrase": site.passphrase, "password of the login": account["password"]})) as watch:
        run = Running(site, **login)
        central.wait_for(lambda: central.stage != "", "it does not begin", run)
        # It is there while the playbook asks, and some seconds longer.
        central.wait_for(lambda: bool(site.vault.processes("sshd", "root@")), "nobody asks", run)
        assert central.stage != ""
        kill(site.vault.processes("sshd", "root@"))
        run.join()
    assert (watch.found, watch.environments) == (set(), set())
    assert watch.samples > 50
    assert run.outcome.rc == 0, run.outcome.output
    assert psql(site.demo, LATE) == "0"
    central.is_as_in_the_set()
    assert processes_of_gate() == []
    found = run.outcome.custom["_run"]["odkops_central_restore"][NAME]
    assert (found["ok"], found["domain"], found["previous"]) == (True, DOMAIN, "")


@pytest.mark.parametrize("operation", ["restore-load", "services-start"])
def test_connection_cut(central: Restorable, operation: str) -> None:
    """The vault's own, to the gate."""
    central.later()
    run = Running(central.site)
    central.wait_for(lambda: cut(operation), f"{operation} is not executed", run)
    run.join()
    said = failure(run.outcome)
    assert f"{FAULTS['connection cut'].diagnosis}: " in said
    assert "Everything is as it was before" in said
    assert snapshot(central.site.demo) == central.now
    assert central.stage == ""


@contextlib.contextmanager
def closed(site: Site) -> Iterator[None]:
    """Nobody gets an answer from the S3 server any more."""
    settings = Path(site.demo["compose_dir"], ".env").read_text("utf-8")
    port = re.findall(r"^S3_SERVER=.*:(\d+)$", settings, re.MULTILINE)[-1]
    rule = ["INPUT", "-p", "tcp", "--dport", port, "-j", "REJECT", "--reject-with", "tcp-reset"]
    command("iptables", "-I", *rule)
    try:
        yield
    finally:
        command("iptables", "-D", *rule)


def test_s_down(central: Restorable) -> None:
    central.later()
    with closed(central.site):
        outcome = central.site.run("restore", **OPTIONS)
    assert f"{FAULTS['s3 down'].diagnosis}: " in failure(outcome)
    assert snapshot(central.site.demo) == central.now
    assert central.stage == ""


def test_controller_killed(central: Restorable) -> None:
    """What has begun goes on to its end."""
    central.later()
    site = central.site
    run = Running(site)
    central.wait_for(lambda: central.stage == "loading", "it is not loaded", run)
    kill(controllers(run.mark))
    run.join()
    assert run.outcome.rc != 0
    central.wait_for(lambda: not site.vault.processes("AnsiballZ_central_restore"), "it does not end")
    assert psql(site.demo, LATE) == "0"
    central.is_as_in_the_set()
    broken = {"project_directory": str(site.host.project_directory), "state": "broken"}
    assert run_module("central_lease", broken)["broken"]["purpose"] == "restore"
    outcome = site.run("restore", central_name=NAME, central_restore_action="rollback")
    assert outcome.custom["_run"]["odkops_central_restore"][NAME]["changed"] is False
