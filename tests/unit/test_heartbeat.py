# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The heartbeat that keeps a lease while something runs."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _heartbeat
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._heartbeat import Heartbeat
from ansible_collections.odkops.central.plugins.module_utils._lease import (
    Lease,
    break_lease,
    keep,
    new_run_id,
    show,
    take,
    this_host,
)

from support.lease_host import Host, HostChannel, refused, wait_for

pytest_plugins = ["support.lease_fixtures"]


# --- heartbeat ------------------------------------------------------------------------------------------------------


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
