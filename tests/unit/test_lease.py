# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lease on a Central: real processes, at once, killed, and of several users."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _heartbeat
from ansible_collections.odkops.central.plugins.module_utils._channel import LocalChannel, ProcessChannel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._gate import render_gate
from ansible_collections.odkops.central.plugins.module_utils._heartbeat import Heartbeat
from ansible_collections.odkops.central.plugins.module_utils._lease import (
    Lease,
    break_lease,
    keep,
    new_run_id,
    release,
    renew,
    show,
    take,
    this_host,
)
from ansible_collections.odkops.central.plugins.module_utils._lease_operations import OPERATIONS
from ansible_collections.odkops.central.plugins.module_utils._operation import Operation, Project
from ansible_collections.odkops.central.plugins.module_utils._ssh_channel import SshChannel, SshTarget

from support.gates import fake_ssh, python_for_gates, write_gate

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


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host.make(tmp_path / "host")


@pytest.fixture
def channel(host: Host) -> HostChannel:
    return host.channel


@pytest.fixture
def open_host() -> Iterator[Host]:
    """One that other users can enter."""
    if os.geteuid() != 0:
        pytest.fail(ROOT_ONLY)
    folder = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    folder.chmod(0o755)
    try:
        yield Host.make(folder / "host")
    finally:
        shutil.rmtree(folder)


def refused(call: Callable[[], object], diagnosis: str) -> CentralError:
    with pytest.raises(CentralError) as caught:
        call()
    assert caught.value.diagnosis == diagnosis, caught.value.message
    return caught.value


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
    own = Path("/tmp") / f"odkops-central-{_identity(host)}.{os.geteuid()}"
    try:
        take(channel, "run-1", "backup", "vault")
        assert own.exists()
        assert host.files == []
        refused(lambda: take(channel, "run-2", "backup", "vault"), "lease_held")
    finally:
        own.unlink(missing_ok=True)


def _identity(host: Host) -> str:
    found = (host.folder / "central").stat()
    return f"{found.st_dev}-{found.st_ino}"


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


# --- several users --------------------------------------------------------------------------------------------------


def test_root_and_the_user_of_a_gate_see_each_other(open_host: Host) -> None:
    root, vault = HostChannel(open_host), HostChannel(open_host, NOBODY)
    take(root, "by-root", "restore", "here")
    error = refused(lambda: take(vault, "by-vault", "backup", "vault"), "lease_held")
    assert "user root" in error.message
    refused(lambda: renew(vault, "by-root"), "lease_lost")
    assert not release(vault, "by-root")
    error = refused(lambda: break_lease(vault), "lease_held")
    assert "root" in error.message
    refused(lambda: break_lease(vault, rehearse=True), "lease_held")
    assert show(vault) == show(root) != None  # noqa: E711
    assert release(root, "by-root")
    take(vault, "by-vault", "backup", "vault")
    refused(lambda: take(root, "by-root", "restore", "here"), "lease_held")
    broken = break_lease(root)
    assert broken is not None
    assert broken.run_id == "by-vault"
    refused(lambda: renew(vault, "by-vault"), "lease_lost")
    assert take(root, "by-root", "restore", "here")[1]


def test_what_root_has_left_does_not_stop_the_user_of_a_gate(open_host: Host) -> None:
    root, vault = HostChannel(open_host), HostChannel(open_host, NOBODY)
    take(root, "by-root", "backup", "here")
    open_host.up(1900)
    assert take(vault, "by-vault", "backup", "vault")[1]
    refused(lambda: renew(root, "by-root"), "lease_lost")
    refused(lambda: take(root, "by-root", "backup", "here"), "lease_held")


def test_two_users_at_once(open_host: Host) -> None:
    for number in range(15):
        outcomes: list[str] = []
        barrier = threading.Barrier(2)

        def attempt(  # pylint: disable=dangerous-default-value
            uid: int | None, number: int = number, outcomes: list[str] = outcomes, barrier: threading.Barrier = barrier
        ) -> None:
            channel = HostChannel(open_host, uid)
            barrier.wait()
            try:
                take(channel, f"run-{number}-{uid}", "backup", "vault")
                outcomes.append("taken")
            except CentralError as error:
                outcomes.append(error.diagnosis)

        threads = [threading.Thread(target=attempt, args=(uid,)) for uid in (None, NOBODY)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["lease_held", "taken"]
        open_host.boots()


def test_a_file_in_anothers_name_is_no_lease(open_host: Host) -> None:
    """A user of the host can only take leases for himself."""
    vault, root = HostChannel(open_host, NOBODY), HostChannel(open_host)
    take(vault, "by-vault", "backup", "vault")
    own = next(file for file in open_host.files if file.name.endswith(f".{NOBODY}"))
    own.rename(own.with_suffix(".0"))
    assert show(root) is None
    assert take(root, "by-root", "backup", "here")[1]


def test_a_directory_that_may_not_be_read(open_host: Host) -> None:
    (open_host.folder / "central").chmod(0o711)
    error = refused(lambda: take(HostChannel(open_host, NOBODY), "run", "backup", "vault"), "operation_failed")
    assert "cannot be read by this user" in error.message


# --- what others have put there -------------------------------------------------------------------------------------

MARK = "MARK"
LINE = "1 {boot} 1000 900 1795400000 run-1 backup vault"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\0\0\0\0",
        "x" * 10000,
        "2 {boot} 1000 900 1795400000 run-1 backup vault",
        "1 {boot} 1000 900 1795400000 run-1 backup",
        "1 {boot} 1000 900 1795400000 run-1 backup vault more",
        "1 {boot} 01000 900 1795400000 run-1 backup vault",
        "1 {boot} 1000 9999999999999999999999 1795400000 run-1 backup vault",
        "1 {boot} -1000 900 1795400000 run-1 backup vault",
        "1 {boot} 9000 900 1795400000 run-1 backup vault",
        "1 {boot} a[$(touch${{IFS}}{mark})] 900 1795400000 run-1 backup vault",
        "1 {boot} 1000 a[$(touch${{IFS}}{mark})] 1795400000 run-1 backup vault",
        "1 {boot} 1000 900 1795400000 $(touch${{IFS}}{mark}) backup vault",
        "1 {boot} 1000 900 1795400000 run-1 \x1b[2J vault",
    ],
)
@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_lines_that_are_no_lease(host: Host, line: str, shell: str) -> None:
    host.shell = shell
    boot = (host.folder / "boot").read_text().strip()
    path = host.folder / "lock" / f"odkops-central-{_identity(host)}.{os.geteuid()}"
    path.write_text(LINE.format(boot=boot) + "\n")
    assert show(host.channel) is not None
    path.write_text(line.format(boot=boot, mark=host.folder / MARK) + "\n")
    assert show(host.channel) is None
    refused(lambda: renew(host.channel, "run-1"), "lease_lost")
    assert take(host.channel, "run-2", "backup", "vault")[1]
    assert not (host.folder / MARK).exists()


def test_things_that_are_no_files(host: Host, tmp_path: Path) -> None:
    path = host.folder / "lock" / f"odkops-central-{_identity(host)}.{os.geteuid()}"
    boot = (host.folder / "boot").read_text().strip()
    (tmp_path / "elsewhere").write_text(LINE.format(boot=boot) + "\n")
    path.symlink_to(tmp_path / "elsewhere")
    assert show(host.channel) is None
    path.unlink()
    os.mkfifo(path)
    assert show(host.channel) is None
    assert take(host.channel, "run-2", "backup", "vault")[1]


def test_a_host_without_flock(host: Host, channel: HostChannel) -> None:
    for name in ("sh", "id", "stat", "date", "rm", "mv"):
        (host.folder / "bin" / name).symlink_to(str(shutil.which(name)))
    host.environment["PATH"] = str(host.folder / "bin")
    assert "install util-linux" in refused(lambda: show(channel), "operation_failed").message


def test_a_full_disk_takes_nothing(host: Host, channel: HostChannel) -> None:
    (host.folder / "bin" / "mv").write_text("#!/bin/sh\necho 'No space left on device' >&2\nexit 1\n")
    (host.folder / "bin" / "mv").chmod(0o755)
    refused(lambda: take(channel, "run-1", "backup", "vault"), "operation_failed")
    (host.folder / "bin" / "mv").unlink()
    assert show(channel) is None
    assert take(channel, "run-2", "backup", "vault")[1]


@pytest.mark.parametrize(
    "answer", ["", "taken", "held a b c d e f g h i", "held a b c 1 2 3", "held a b c 9e9 1 2 3 4 5"]
)
def test_an_answer_that_is_not_understood(answer: str) -> None:
    class Odd(ProcessChannel):
        def run(self, operation: str, *arguments: str, **options: object) -> bytes:
            return answer.encode()

    refused(lambda: show(Odd()), "operation_failed")


@pytest.mark.parametrize(
    "arguments",
    [
        ("run 1", "backup", "vault", "900"),
        ("-", "backup", "vault", "900"),
        ("run", "Backup now", "vault", "900"),
        ("run", "backup", "$(id)", "900"),
        ("run", "backup", "vault", "0"),
        ("run", "backup", "vault", "86401"),
        ("run", "backup", "vault", "0x10"),
    ],
)
def test_arguments_that_a_gate_refuses(channel: HostChannel, arguments: tuple[str, ...]) -> None:
    refused(lambda: channel.run("lease-take", *arguments), "operation_refused")


def test_lifetimes_up_to_a_day_are_accepted() -> None:
    pattern = next(operation for operation in OPERATIONS if operation.name == "lease-take").parameters[3]
    accepted = [number for number in range(100_000) if re.fullmatch(pattern, str(number))]
    assert accepted == list(range(1, 86401))


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


# --- heartbeat ------------------------------------------------------------------------------------------------------


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it does not come"
        time.sleep(0.02)


def test_it_is_renewed_while_something_runs(host: Host, channel: HostChannel) -> None:
    take(channel, "run-1", "backup", "vault")
    with keep(channel, "run-1", 0.05) as heartbeat:
        for up in (1800, 2600, 3400):
            host.up(up)
            asked = len(channel.asked)
            wait_for(lambda asked=asked: len(channel.asked) >= asked + 3)  # type: ignore[misc]
        assert heartbeat is not None
        heartbeat.check()
    asked = len(channel.asked)
    time.sleep(0.3)
    assert len(channel.asked) == asked
    lease = show(channel)
    assert lease is not None
    assert lease.left == 900


def test_nothing_begins_without_the_lease(channel: HostChannel) -> None:
    begun = False

    def work() -> None:
        nonlocal begun
        with keep(channel, "run-1", 0.05):
            begun = True

    refused(work, "lease_lost")
    assert not begun
    assert threading.active_count() == 1 or all(thread.name != "lease" for thread in threading.enumerate())


def test_a_loss_is_told_at_once_and_at_the_end(host: Host, channel: HostChannel) -> None:
    take(channel, "run-1", "backup", "vault")
    told: list[CentralError] = []

    def work() -> None:
        with keep(channel, "run-1", 0.05, told.append) as heartbeat:
            channel.broken = CentralError("connection_failed", "The connection broke.")  # no beat in between
            break_lease(host.channel)
            take(host.channel, "run-2", "restore", "here")
            channel.broken = None
            wait_for(lambda: told)
            assert heartbeat is not None
            refused(heartbeat.check, "lease_lost")

    error = refused(work, "lease_lost")
    assert "run-2" in error.message
    assert told == [error]
    lease = show(host.channel)
    assert lease is not None
    assert lease.run_id == "run-2"


def test_the_failure_of_the_work_comes_first(host: Host, channel: HostChannel) -> None:
    take(channel, "run-1", "backup", "vault")

    def work() -> None:
        with keep(channel, "run-1", 0.05) as heartbeat:
            break_lease(host.channel)
            assert heartbeat is not None
            wait_for(lambda: heartbeat.loss)
            raise CentralError("disk_full", "The disk is full.")

    refused(work, "disk_full")


def test_a_connection_that_breaks_for_a_while_is_no_loss(channel: HostChannel) -> None:
    take(channel, "run-1", "backup", "vault")
    with keep(channel, "run-1", 0.05) as heartbeat:
        channel.broken = CentralError("connection_failed", "The connection broke.")
        asked = len(channel.asked)
        wait_for(lambda: len(channel.asked) >= asked + 3)
        channel.broken = None
        asked = len(channel.asked)
        wait_for(lambda: len(channel.asked) >= asked + 3)
        assert heartbeat is not None
        assert heartbeat.loss is None


def test_a_connection_that_stays_broken_is_a_loss_when_the_lease_must_have_expired() -> None:
    answers = iter([None])

    def renewal() -> None:
        if next(answers, "broken") is not None:
            raise CentralError("connection_failed", "The connection broke.")

    def work() -> None:
        begun = time.monotonic()
        with Heartbeat(renewal, lifetime=0.6, interval=30) as heartbeat:
            wait_for(lambda: heartbeat.loss)
            assert 0.6 <= time.monotonic() - begun < 10

    error = refused(work, "lease_lost")
    assert "The connection broke." in error.message


def test_the_end_does_not_wait_for_a_renewal_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_heartbeat, "_LAST", 0.2)
    hangs, first = threading.Event(), [True]

    def renewal() -> None:
        if not first:
            hangs.wait(20)
        first.clear()

    with Heartbeat(renewal, interval=0.05):
        time.sleep(0.2)
        begun = time.monotonic()
    assert time.monotonic() - begun < 2
    hangs.set()


def test_without_a_run_there_is_no_heartbeat(channel: HostChannel) -> None:
    with keep(channel, None) as heartbeat:
        assert heartbeat is None
    assert channel.asked == []


def test_names() -> None:
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{8}", new_run_id())
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]*", this_host())


def test_it_says_nothing_secret(channel: HostChannel) -> None:
    lease, _taken = take(channel, "run-1", "backup", "vault")
    known: Mapping[str, object] = lease.as_dict()
    assert set(known) == {"run_id", "purpose", "holder", "user", "since", "expires", "expires_in", "lifetime"}
    assert isinstance(lease, Lease)
