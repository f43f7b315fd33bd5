# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Leases on a pool: real processes, at once and killed; clocks that are wrong; a prune in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _pool_lease
from ansible_collections.odkops.central.plugins.module_utils._directories import names_in
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pool_lease import PoolLease, PoolLeases
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository

from support.sets import everything_below

IDS = [f"20261122T02000{number}.123Z-0a1b2c3d" for number in range(10)]


class Clock:
    """The clocks of a vault."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = datetime(2026, 11, 22, 2, 0, tzinfo=timezone.utc)
        self.uptime = 1000.0
        self.boot = "boot-1"

        monkeypatch.setattr(_pool_lease, "_now", lambda: self.now)
        monkeypatch.setattr(_pool_lease, "_boot", lambda: self.boot)
        monkeypatch.setattr(_pool_lease, "_uptime", lambda: self.uptime)

    def passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.uptime += seconds


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    (path / "demo" / "sets").mkdir(parents=True)
    return path


@pytest.fixture
def leases(repository: Path) -> PoolLeases:
    return PoolLeases(Repository(str(repository)), "demo")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def refused(call: Callable[[], object], diagnosis: str) -> CentralError:
    with pytest.raises(CentralError) as caught:
        call()
    assert caught.value.diagnosis == diagnosis, caught.value.message
    return caught.value


def ids(found: list[PoolLease]) -> list[str]:
    return [lease.set_id for lease in found]


def test_any_number_of_runs(leases: PoolLeases, repository: Path) -> None:
    assert leases.live() == []
    first = leases.take(IDS[1])
    second = leases.take(IDS[0], lifetime=60)
    assert ids(leases.live()) == [second.set_id, first.set_id]
    assert [lease.lifetime for lease in leases.live()] == [60, 900]
    assert abs(leases.take(IDS[1]).since - first.since) < timedelta(milliseconds=1)
    path = repository / "demo" / "pool" / "leases" / f"{IDS[1]}.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    told = json.loads(path.read_text())
    assert set(told) == {"set_id", "holder", "since", "renewed", "lifetime", "boot", "uptime"}
    assert leases.release(IDS[1])
    assert not leases.release(IDS[1])
    assert ids(leases.live()) == [IDS[0]]


def test_nothing_is_left(leases: PoolLeases, repository: Path) -> None:
    leases.take(IDS[0])
    leases.take(IDS[1])
    leases.release(IDS[0])
    leases.release(IDS[1])
    assert everything_below(repository) == {"demo", "demo/sets"}
    with leases.closed():
        pass
    assert everything_below(repository) == {"demo", "demo/sets"}


def test_a_pool_that_is_used_is_left_alone(leases: PoolLeases, repository: Path) -> None:
    (repository / "demo" / "pool" / "unencrypted").mkdir(parents=True)
    leases.take(IDS[0])
    leases.release(IDS[0])
    assert everything_below(repository) == {"demo", "demo/sets", "demo/pool", "demo/pool/unencrypted"}


def test_expiry(leases: PoolLeases, clock: Clock) -> None:
    leases.take(IDS[0])
    clock.passes(899)
    assert ids(leases.live()) == [IDS[0]]
    leases.renew(IDS[0])
    clock.passes(899)
    assert ids(leases.live()) == [IDS[0]]
    clock.passes(1)
    assert leases.live() == []
    refused(lambda: leases.renew(IDS[0]), "lease_lost")
    refused(lambda: leases.renew(IDS[1]), "lease_lost")


def test_what_killed_runs_have_left_is_removed(leases: PoolLeases, repository: Path, clock: Clock) -> None:
    leases.take(IDS[0])
    folder = repository / "demo" / "pool" / "leases"
    (folder / f".{IDS[0]}.json.abcd.partial").touch()
    os.utime(folder / f".{IDS[0]}.json.abcd.partial", (1, 1))
    (folder / f".{IDS[1]}.json.abcd.partial").touch()  # a renewal that is under way
    clock.passes(1000)
    leases.take(IDS[2])
    assert everything_below(folder) == {f"{IDS[2]}.json", "lock", f".{IDS[1]}.json.abcd.partial"}


@pytest.mark.parametrize("seconds", [-86400 * 400, -3600, 3600, 86400 * 400])
def test_the_clock_does_not_matter_within_a_boot(leases: PoolLeases, clock: Clock, seconds: float) -> None:
    leases.take(IDS[0])
    clock.now += timedelta(seconds=seconds)
    assert ids(leases.live()) == [IDS[0]]
    leases.renew(IDS[0])
    clock.passes(899)
    assert ids(leases.live()) == [IDS[0]]
    clock.passes(1)
    assert leases.live() == []


@pytest.mark.parametrize(
    ("seconds", "lives"),
    [(0, True), (899, True), (900, False), (-899, True), (-901, False), (-86400 * 400, False), (86400, False)],
)
def test_a_lease_of_another_boot_or_host_is_judged_by_the_clock(
    leases: PoolLeases, clock: Clock, seconds: float, lives: bool
) -> None:
    leases.take(IDS[0])
    clock.boot, clock.uptime = "boot-2", 5
    clock.now += timedelta(seconds=seconds)
    assert ids(leases.live()) == ([IDS[0]] if lives else [])


@pytest.mark.parametrize("boots", [("", ""), ("", "boot-2")])
def test_where_the_kernel_tells_no_boot(leases: PoolLeases, clock: Clock, boots: tuple[str, str]) -> None:
    clock.boot = boots[0]
    leases.take(IDS[0])
    clock.boot = boots[1]
    clock.now += timedelta(seconds=899)
    assert ids(leases.live()) == [IDS[0]]
    clock.now += timedelta(seconds=1)
    assert leases.live() == []


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"set_id": 1}', "x" * 5000])
def test_a_file_that_holds_no_lease(leases: PoolLeases, repository: Path, text: str) -> None:
    leases.take(IDS[0])
    (repository / "demo" / "pool" / "leases" / f"{IDS[1]}.json").write_text(text)
    (repository / "demo" / "pool" / "leases" / "other.json").write_text(text)
    assert ids(leases.live()) == [IDS[0]]
    refused(lambda: leases.renew(IDS[1]), "lease_lost")


def test_the_lease_of_another_set_under_this_name(leases: PoolLeases, repository: Path) -> None:
    leases.take(IDS[0])
    folder = repository / "demo" / "pool" / "leases"
    (folder / f"{IDS[1]}.json").write_text((folder / f"{IDS[0]}.json").read_text())
    assert ids(leases.live()) == [IDS[0]]


def test_links_and_names(leases: PoolLeases, repository: Path, tmp_path: Path) -> None:
    for name in ("../up", "a", "", "20261122T020000.123Z-0a1b2c3d/x"):
        refused(lambda name=name: leases.take(name), "bad_name")  # type: ignore[misc]
        refused(lambda name=name: leases.release(name), "bad_name")  # type: ignore[misc]
    assert everything_below(repository) == {"demo", "demo/sets"}
    (tmp_path / "elsewhere").mkdir()
    (repository / "demo" / "pool").symlink_to(tmp_path / "elsewhere")
    refused(lambda: PoolLeases(Repository(str(repository)), "demo"), "not_a_repository")


def test_a_prune_is_told_who_is_there_and_nobody_comes_meanwhile(leases: PoolLeases, repository: Path) -> None:
    leases.take(IDS[0])
    with leases.closed() as live:
        assert ids(live) == [IDS[0]]
        refused(lambda: leases.take(IDS[1], wait=0), "pool_busy")
        leases.renew(IDS[0])  # that one it knows of
        refused(lambda: leases.closed().__enter__(), "pool_busy")
        leases.release(IDS[0])
    assert leases.take(IDS[1])


def test_a_prune_gives_those_that_have_just_expired_some_time(leases: PoolLeases, clock: Clock) -> None:
    leases.take(IDS[0])
    clock.passes(930)
    assert leases.live() == []
    with leases.closed() as live:
        assert ids(live) == [IDS[0]]
    clock.passes(31)
    with leases.closed() as live:
        assert live == []


PRUNE = """
import sys, time
from ansible_collections.odkops.central.plugins.module_utils._pool_lease import PoolLeases
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository
with PoolLeases(Repository(sys.argv[1]), "demo").closed() as live:
    print(len(live), flush=True)
    time.sleep(60)
"""

BACKUP = """
import sys, time
from ansible_collections.odkops.central.plugins.module_utils._pool_lease import PoolLeases
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository
leases = PoolLeases(Repository(sys.argv[1]), "demo")
leases.take(sys.argv[2], lifetime=4)
with leases.keep(sys.argv[2], 0.2):
    print("holds", flush=True)
    time.sleep(60)
"""


def test_a_prune_that_is_killed_stops_nobody(leases: PoolLeases, repository: Path) -> None:
    leases.take(IDS[0])
    with subprocess.Popen([sys.executable, "-c", PRUNE, str(repository)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        refused(lambda: leases.take(IDS[1], wait=0), "pool_busy")
        process.kill()
    assert leases.take(IDS[1], wait=0)


def test_a_backup_that_is_killed_blocks_for_its_lifetime_only(leases: PoolLeases, repository: Path) -> None:
    command = [sys.executable, "-c", BACKUP, str(repository), IDS[0]]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holds\n"
        time.sleep(5)  # longer than its lifetime: it is renewed
        assert ids(leases.live()) == [IDS[0]]
        process.kill()
    limit = time.monotonic() + 10
    while leases.live():
        assert time.monotonic() < limit
        time.sleep(0.05)
    refused(lambda: leases.renew(IDS[0]), "lease_lost")


def test_a_wait_for_a_prune(leases: PoolLeases) -> None:
    context = leases.closed()
    context.__enter__()
    timer = threading.Timer(0.5, lambda: context.__exit__(None, None, None))
    timer.start()
    assert leases.take(IDS[0], wait=20)
    timer.join()


def test_many_at_once(repository: Path) -> None:
    """Runs come and go, and directories with them, while prunes look: none of them fails, and no prune misses a lease."""
    problems: list[BaseException | str] = []
    held: set[str] = set()
    stop = threading.Event()

    def comes_and_goes(set_id: str) -> None:
        try:
            leases = PoolLeases(Repository(str(repository)), "demo")
            for _round in range(60):
                leases.take(set_id)
                held.add(set_id)
                leases.renew(set_id)
                held.discard(set_id)
                if not leases.release(set_id):
                    problems.append(f"the lease of {set_id} was gone")
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    def prunes() -> None:
        try:
            leases = PoolLeases(Repository(str(repository)), "demo")
            while not stop.is_set():
                with leases.closed(wait=20) as live:
                    # Nobody comes while it is closed, so whoever is there now was there then.
                    now = set(held)
                    if now - set(ids(live)):
                        problems.append(f"{now} hold it, and the prune was told {ids(live)}")
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    runs = [threading.Thread(target=comes_and_goes, args=(set_id,)) for set_id in IDS[:4]]
    pruner = threading.Thread(target=prunes)
    for thread in [*runs, pruner]:
        thread.start()
    for thread in runs:
        thread.join()
    stop.set()
    pruner.join()
    assert problems == []
    assert everything_below(repository) == {"demo", "demo/sets"}


def test_the_heartbeat_tells_a_loss(leases: PoolLeases) -> None:
    leases.take(IDS[0])

    def work() -> None:
        with leases.keep(IDS[0], 0.05) as heartbeat:
            leases.release(IDS[0])
            limit = time.monotonic() + 5
            while heartbeat.loss is None and time.monotonic() < limit:
                time.sleep(0.02)

    refused(work, "lease_lost")


def test_a_disk_that_is_full(leases: PoolLeases, repository: Path) -> None:
    with pytest.MonkeyPatch.context() as patches:

        def full(*_arguments: object, **_options: object) -> None:
            raise CentralError("disk_full", "The disk is full.")

        patches.setattr(_pool_lease, "AtomicFile", full)
        refused(lambda: leases.take(IDS[0]), "disk_full")
    assert leases.live() == []
    assert leases.take(IDS[0])


def test_a_directory_that_is_removed_this_very_moment_has_no_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else tidies up between two looks at it."""

    def removed(path: str) -> list[str]:
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr(os, "listdir", removed)
    assert names_in(str(tmp_path)) == []
