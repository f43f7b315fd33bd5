# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Leases where several users take them, and where others have put things in their way."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils._channel import ProcessChannel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._lease import (
    break_lease,
    release,
    renew,
    show,
    take,
)
from ansible_collections.odkops.central.plugins.module_utils._lease_operations import OPERATIONS

from support.lease_host import NOBODY, ROOT_ONLY, Host, HostChannel, identity, refused

pytest_plugins = ["support.lease_fixtures"]


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
    path = host.folder / "lock" / f"odkops-central-{identity(host)}.{os.geteuid()}"
    path.write_text(LINE.format(boot=boot) + "\n")
    assert show(host.channel) is not None
    path.write_text(line.format(boot=boot, mark=host.folder / MARK) + "\n")
    assert show(host.channel) is None
    refused(lambda: renew(host.channel, "run-1"), "lease_lost")
    assert take(host.channel, "run-2", "backup", "vault")[1]
    assert not (host.folder / MARK).exists()


def test_things_that_are_no_files(host: Host, tmp_path: Path) -> None:
    path = host.folder / "lock" / f"odkops-central-{identity(host)}.{os.geteuid()}"
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
