# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The gate by which a vault comes to a Central's host, and what goes wrong on the way: no way in, or a vault that is killed."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._operation import BACKUP
from ansible_collections.odkops.central.plugins.module_utils._operations import OPERATIONS

from support import Demo, PlaybookResult, run_module
from support.vault import (
    ETC,
    command,
)
from support.vault_site import (
    CENTRAL,
    OURS,
    REPOSITORY,
    Made,
    Site,
    controllers,
    failure,
    install_gate,
    processes_of_gate,
)

pytest_plugins = ["support.vault_fixtures"]

# It takes minutes, and compares all of this machine before and after a backup: nothing else may be at work here meanwhile.
pytestmark = [pytest.mark.timeout(600), pytest.mark.long, pytest.mark.demo]


# --- the gate ---------------------------------------------------------------------------------------------------


def test_the_gate_executes_nothing_else(site: Site) -> None:
    for asked in (
        "id",
        "sh -i",
        "config-version; id",
        "",
        "/usr/lib/openssh/sftp-server",
        f"cat {ETC}/passphrase",
        "restore",
    ):
        done = site.ssh(asked) if asked else site.ssh()
        assert (done.returncode, done.stdout) == (126, b""), asked
        assert done.stderr.startswith(b"odkops-gate: "), done.stderr
    forward = site.ssh("-N", "-o", "ExitOnForwardFailure=yes", "-R", "127.0.0.1:0:127.0.0.1:22", "config-version")
    assert forward.returncode not in (0, 126)
    assert b"odkops-gate" not in forward.stderr


def test_the_gate_refuses_what_changes_a_central(site: Site) -> None:
    permitted = re.findall(
        r"""^TABLE\["operations"\]\['([a-z0-9-]+)'\]""", site.host.gate.read_text("utf-8"), re.MULTILINE
    )
    backup = {name for name, operation in OPERATIONS.items() if operation.purpose == BACKUP}
    # Paths outside of the project are permitted only where the role is told some.
    assert set(permitted) == backup - {"config-extra"}
    for operation in OPERATIONS.values():
        if operation.name not in permitted:
            done = site.ssh(f"{operation.name}/{operation.digest}")
            assert done.returncode == 126
            assert b"no such operation, or not for this key" in done.stderr


def test_the_gate_is_what_it_was_when_it_is_installed_again(site: Site) -> None:
    again = install_gate(site.folder, site.host.project_directory, site.vault.public_key)
    assert again.hosts["here"]["changed"] == 0, again.output


# --- what goes wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"central_ssh_known_hosts_file": f"{ETC}/other_key.pub"}, "host_key_unknown"),
        ({"central_ssh_key_file": f"{ETC}/other_key"}, "ssh_refused"),
        ({"central_ssh_user": "root"}, "ssh_refused"),
        ({"central_ssh_port": 1}, "connection_failed"),
    ],
)
def test_no_way_to_the_gate(site: Site, variables: dict[str, Any], expected: str) -> None:
    before = site.vault.below(REPOSITORY)
    outcome = site.run("backup", **variables)
    assert f"was made. {expected}: " in failure(outcome)
    assert set(site.vault.below(REPOSITORY)) - set(before) <= {CENTRAL, f"{CENTRAL}/sets"}


def wait_until(condition: Callable[[], bool], what: str, seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.1)


def dumping(demo: Demo) -> list[str]:
    """The processes of dumps in the demo's containers."""
    found = []
    for service in ("service", "postgres14"):
        listed = command("docker", "top", demo.container(service), "-eo", "pid,args")
        found += [line for line in listed.splitlines() if "pg_dump" in line or "odkops" in line]
    return found


@pytest.mark.parametrize("whole", [False, True], ids=["the module", "the controller too"])
def test_a_vault_that_is_killed_leaves_nothing(site: Site, made: Made, whole: bool) -> None:
    """In the middle of the dump. If nobody is left to remove the unfinished set, it is at least not taken for one."""
    demo, before = site.demo, site.sets()
    place = {"project_directory": str(site.host.project_directory)}
    outcomes: list[PlaybookResult] = []
    marked = {"ODKOPS_TEST_MARK": secrets.token_hex(8)}
    with demo.fault("dump-slow", "--rate", "20000"):
        thread = threading.Thread(target=lambda: outcomes.append(site.run("backup", env=marked)))
        thread.start()
        wait_until(lambda: demo.psql(OURS) != "0", "no dump has begun", 120)
        time.sleep(1)
        assert dumping(demo)
        if whole:
            for process in controllers(marked["ODKOPS_TEST_MARK"]):
                os.kill(process, signal.SIGKILL)
        # Not the shell that waits for it: Ansible would call the vault unreachable.
        shells = set(site.vault.processes("/bin/sh -c", "AnsiballZ_central_backup"))
        processes = set(site.vault.processes("AnsiballZ_central_backup")) - shells
        assert processes
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        wait_until(lambda: not dumping(demo) and demo.psql(OURS) == "0", "the dump goes on", 30)
        wait_until(lambda: not processes_of_gate(), "the gate goes on", 30)
        thread.join()
    assert outcomes[0].rc != 0
    left = [name for name in site.sets() if name not in before]
    if whole:
        (partial,) = left
        assert partial.startswith(".")
        assert partial.endswith(".partial")
        assert site.run("verify", central_set="all").rc == 0
        # Its lease is there for another quarter of an hour, unless somebody breaks it.
        assert "lease_held" in failure(site.run("backup"))
        assert run_module("central_lease", {**place, "state": "broken"})["broken"]["holder"] == "vault"
    else:
        assert left == []
        assert "No backup set of central was made." in failure(outcomes[0])
        assert run_module("central_lease", place)["lease"] is None
