# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Leases on a Central: one run at a time, whatever is killed, and whoever takes them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils._channel import LocalChannel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._gate import render_gate
from ansible_collections.odkops.central.plugins.module_utils._lease import (
    break_lease,
    keep,
    release,
    renew,
    show,
    take,
)
from ansible_collections.odkops.central.plugins.module_utils._operation import Project
from ansible_collections.odkops.central.plugins.module_utils._ssh_channel import SshChannel, SshTarget

from support.gates import fake_ssh, python_for_gates, write_gate
from support.lease_host import Host, HostChannel, identity, refused, wait_for

pytest_plugins = ["support.lease_fixtures"]


# --- taking, renewing, returning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_one_run_at_a_time(host: Host, shell: str) -> None:
    host.shell = shell
    channel = host.channel
    host.date(1795400000)
    assert show(channel) is None
    lease, taken = take(channel, "run-1", "backup", "vault")
    assert taken
    assert lease.since == datetime.fromtimestamp(1795400000, timezone.utc)
    assert lease.as_dict() == {
        "run_id": "run-1",
        "purpose": "backup",
        "holder": "vault",
        "user": subprocess.run(["id", "-nu"], capture_output=True, text=True, check=True).stdout.strip(),
        "since": "2026-11-23T02:13:20.000Z",
        "expires": "2026-11-23T02:28:20.000Z",
        "expires_in": 900,
        "lifetime": 900,
    }
    assert show(channel) == lease
    error = refused(lambda: take(channel, "run-2", "restore", "here"), "lease_held")
    for told in ("run-1", "vault", lease.user, "2026-11-23T02:13:20.000Z", "2026-11-23T02:28:20.000Z", "state=broken"):
        assert told in error.message
    assert error.details["lease"] == lease.as_dict()
    assert not release(channel, "run-2")
    assert show(channel) == lease
    assert release(channel, "run-1")
    assert not release(channel, "run-1")
    assert show(channel) is None
    assert host.files == []
    assert take(channel, "run-2", "restore", "here")[1]


def test_taking_it_again_renews_it(host: Host, channel: HostChannel) -> None:
    host.date(1795400000)
    first, _taken = take(channel, "run-1", "drill", "vault", 300)
    host.up(1200)
    host.date(1795400200)
    assert show(channel) == replace(first, left=100)
    again, taken = take(channel, "run-1", "drill", "vault", 300)
    assert not taken
    assert (again.since, again.left) == (first.since, 300)


def test_renewing(host: Host, channel: HostChannel) -> None:
    first, _taken = take(channel, "run-1", "backup", "vault")
    for up in (1899, 2798, 3697):
        host.up(up)
        lease = renew(channel, "run-1")
        assert (lease.left, lease.since) == (900, first.since)
    error = refused(lambda: renew(channel, "run-2"), "lease_lost")
    assert "run-1" in error.message


def test_nothing_of_the_central_is_touched(host: Host, channel: HostChannel) -> None:
    take(channel, "run-1", "backup", "vault")
    assert list((host.folder / "central").iterdir()) == []
    assert [file.stat().st_mode & 0o777 for file in host.files] == [0o644]


def test_each_project_has_its_own(host: Host, tmp_path: Path) -> None:
    take(host.channel, "run-1", "backup", "vault")
    (host.folder / "central").rename(host.folder / "first")
    (host.folder / "central").mkdir()
    assert take(host.channel, "run-2", "backup", "vault")[1]
    (host.folder / "central").rmdir()
    (host.folder / "central").symlink_to(host.folder / "first")
    refused(lambda: take(host.channel, "run-2", "backup", "vault"), "lease_held")


# --- expiry ---------------------------------------------------------------------------------------------------------


def test_it_expires_without_renewal(host: Host, channel: HostChannel) -> None:
    take(channel, "run-1", "backup", "vault")
    host.up(1899.99)
    refused(lambda: take(channel, "run-2", "backup", "vault"), "lease_held")
    host.up(1900)
    assert show(channel) is None
    refused(lambda: renew(channel, "run-1"), "lease_lost")
    assert not release(channel, "run-1")
    assert take(channel, "run-2", "backup", "vault")[1]
    error = refused(lambda: renew(channel, "run-1"), "lease_lost")
    assert "run-2" in error.message


@pytest.mark.parametrize("date", [1, 1795400000 - 86400, 1795400000 + 86400 * 3650])
def test_the_clock_of_the_host_does_not_matter(host: Host, channel: HostChannel, date: int) -> None:
    host.date(1795400000)
    take(channel, "run-1", "backup", "vault")
    host.date(date)
    host.up(1800)
    refused(lambda: take(channel, "run-2", "backup", "vault"), "lease_held")
    lease = show(channel)
    assert lease is not None
    assert lease.left == 100
    assert lease.expires == datetime.fromtimestamp(date + 100, timezone.utc)
    host.up(1900)
    assert take(channel, "run-2", "backup", "vault")[1]


def test_a_reboot_ends_it(host: Host, channel: HostChannel) -> None:
    take(channel, "run-1", "backup", "vault")
    host.boots()
    host.up(1001)
    refused(lambda: renew(channel, "run-1"), "lease_lost")
    assert take(channel, "run-2", "backup", "vault")[1]


def test_without_a_run_lock_for_all_it_is_in_tmp(host: Host, channel: HostChannel) -> None:
    (host.folder / "lock").chmod(0o755)
    own = Path("/tmp") / f"odkops-central-{identity(host)}.{os.geteuid()}"
    try:
        take(channel, "run-1", "backup", "vault")
        assert own.exists()
        assert host.files == []
        refused(lambda: take(channel, "run-2", "backup", "vault"), "lease_held")
    finally:
        own.unlink(missing_ok=True)


# --- at once, and killed --------------------------------------------------------------------------------------------


def test_two_takers_at_once(host: Host) -> None:
    """Many rounds; exactly one has it after each."""
    for number in range(25):
        outcomes: dict[str, str] = {}
        barrier = threading.Barrier(3)

        def attempt(  # pylint: disable=dangerous-default-value
            run: str, outcomes: dict[str, str] = outcomes, barrier: threading.Barrier = barrier
        ) -> None:
            channel = host.channel
            barrier.wait()
            try:
                take(channel, run, "backup", "vault")
                outcomes[run] = "taken"
            except CentralError as error:
                outcomes[run] = error.diagnosis

        runs = [f"run-{number}-{index}" for index in range(3)]
        threads = [threading.Thread(target=attempt, args=(run,)) for run in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes.values()) == ["lease_held", "lease_held", "taken"]
        winner = next(run for run, outcome in outcomes.items() if outcome == "taken")
        lease = show(host.channel)
        assert lease is not None
        assert lease.run_id == winner
        if number % 2:
            host.boots()  # what has expired is fought for, too
        else:
            assert release(host.channel, winner)


def test_takers_that_are_killed_at_any_moment(host: Host) -> None:
    """Whatever a killed taker leaves, the lease is either whole or not there, and the next one gets an answer."""
    operation = host.operations()["lease-take"]
    command = Project(str(host.folder / "central")).command(operation)
    for number in range(25):
        process = subprocess.Popen(
            [*command, f"run-{number}", "backup", "vault", "900"],
            cwd=host.folder / "central",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(number * 0.0015)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        lease = show(host.channel)
        assert lease is None or re.fullmatch(r"run-\d+", lease.run_id)
        if lease is not None:
            assert release(host.channel, lease.run_id)
        assert take(host.channel, "next", "backup", "vault")[1]
        assert release(host.channel, "next")


HOLDER = """
import sys, time
from pathlib import Path
from test_lease import Host
from ansible_collections.odkops.central.plugins.module_utils._lease import keep, take
channel = Host(Path(sys.argv[1])).channel
take(channel, "dies", "backup", "vault")
with keep(channel, "dies", 0.2):
    print("holds", flush=True)
    time.sleep(300)
"""


def test_a_killed_holder_blocks_for_its_lifetime_only(host: Host, channel: HostChannel) -> None:
    def left() -> int:
        lease = show(channel)
        assert lease is not None
        assert lease.run_id == "dies"
        return lease.left

    here = Path(__file__).resolve()
    environment = {**os.environ, "PYTHONPATH": f"{here.parent}:{here.parents[1]}"}
    command = [sys.executable, "-c", HOLDER, str(host.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"holds\n"
            for up in (1800, 2600):  # longer than its lifetime: it is renewed
                host.up(up)
                wait_for(lambda: left() == 900, 30)
        finally:
            process.kill()
    host.up(3499)
    assert left() == 1
    refused(lambda: take(channel, "next", "backup", "vault"), "lease_held")
    host.up(3500)
    assert take(channel, "next", "backup", "vault")[1]


def test_on_this_host_as_it_is(tmp_path: Path) -> None:
    channel = LocalChannel(Project(str(tmp_path)))
    lease, taken = take(channel, "run-1", "backup", "vault", 120)
    try:
        assert taken
        assert abs((lease.since - datetime.now(timezone.utc)).total_seconds()) < 60
        refused(lambda: take(channel, "run-2", "backup", "vault"), "lease_held")
        assert renew(channel, "run-1").left == 120
    finally:
        assert release(channel, "run-1")


def test_waiting(host: Host, channel: HostChannel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible_collections.odkops.central.plugins.module_utils._lease._POLL", 0.1)
    take(channel, "run-1", "backup", "vault")
    refused(lambda: take(host.channel, "run-2", "backup", "vault", wait=0.5), "lease_held")
    timer = threading.Timer(0.5, lambda: release(host.channel, "run-1"))
    timer.start()
    assert take(channel, "run-2", "backup", "vault", wait=20)[1]
    timer.join()


# --- breaking -------------------------------------------------------------------------------------------------------


def test_breaking(host: Host, channel: HostChannel) -> None:
    assert break_lease(channel) is None
    take(channel, "run-1", "backup", "vault")
    error = refused(lambda: break_lease(channel, "run-0"), "lease_held")
    assert "not that of the run run-0" in error.message
    rehearsed = break_lease(channel, "run-1", rehearse=True)
    assert rehearsed is not None
    assert rehearsed.run_id == "run-1"
    kept = show(channel)
    assert kept is not None
    assert kept.run_id == "run-1"
    assert break_lease(channel, "run-1") is not None
    assert show(channel) is None
    refused(lambda: renew(channel, "run-1"), "lease_lost")


# --- over SSH, through a gate ---------------------------------------------------------------------------------------


def test_through_a_gate(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ssh").mkdir()
    fake_ssh(tmp_path / "ssh")
    project = Project(str(host.folder / "central"))
    operations = host.operations()
    write_gate(tmp_path / "ssh" / "gate", render_gate(project, python=python_for_gates(), operations=operations))
    monkeypatch.setenv("PATH", f"{tmp_path / 'ssh'}:{os.environ['PATH']}")
    vault = SshChannel(SshTarget("central.example.org"), operations)
    take(vault, "by-vault", "backup", "vault")
    assert [file.stat().st_mode & 0o777 for file in host.files] == [0o644]  # the gate's umask is 077
    refused(lambda: take(host.channel, "here", "backup", "here"), "lease_held")
    with keep(vault, "by-vault", 0.1):
        time.sleep(0.5)
    assert release(vault, "by-vault")
    assert take(host.channel, "here", "backup", "here")[1]
