# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work under the lease on a Central, on this host's own /run/lock: it is broken off when the lease is lost."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._channel import LocalChannel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._lease import break_lease, show, take
from ansible_collections.odkops.central.plugins.module_utils._operation import Project
from ansible_collections.odkops.central.plugins.module_utils._under_lease import under_lease

from support import run_module
from support.sets import ABSENT, CONTENT, PASSPHRASE, database_part

BEAT = 0.1


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "central"
    path.mkdir()
    yield path
    break_lease(LocalChannel(Project(str(path))))


@pytest.fixture
def channel(project: Path) -> LocalChannel:
    return LocalChannel(Project(str(project)))


def held(channel: LocalChannel) -> str | None:
    lease = show(channel)
    return None if lease is None else lease.run_id


@pytest.fixture(autouse=True)
def _signals_are_as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    yield
    assert signal.getsignal(signal.SIGUSR1) is before


def test_the_lease_is_kept_and_left_to_whoever_took_it(channel: LocalChannel) -> None:
    take(channel, "ours", "backup", "here")
    with under_lease(channel, "ours", BEAT):
        time.sleep(0.5)
    assert held(channel) == "ours"


@pytest.mark.parametrize("after", ["broken", "another's"])
def test_work_is_broken_off_when_the_lease_is_lost(channel: LocalChannel, after: str) -> None:
    take(channel, "ours", "backup", "here")
    undone, begun = [], time.monotonic()
    with pytest.raises(CentralError) as error, under_lease(channel, "ours", 3):
        break_lease(channel)
        if after == "another's":
            take(channel, "theirs", "restore", "there")
        try:
            # It waits in the kernel, as for what a dump sends.
            subprocess.run(["sleep", "30"], check=True)
        except Exception:  # noqa: BLE001  # as one that goes on with another way does
            undone.append("not this one")
        finally:
            undone.append("undone")
    assert time.monotonic() - begun < 20
    assert error.value.diagnosis == "lease_lost"
    assert ("restore theirs" in error.value.message) == (after == "another's")
    assert undone == ["undone"]
    assert held(channel) == ("theirs" if after == "another's" else None)


def test_a_loss_just_before_the_end_is_seen(channel: LocalChannel) -> None:
    take(channel, "ours", "backup", "here")
    with pytest.raises(CentralError) as error, under_lease(channel, "ours", 3600):
        break_lease(channel)
    assert error.value.diagnosis == "lease_lost"


def test_nothing_begins_without_the_lease(channel: LocalChannel) -> None:
    take(channel, "theirs", "backup", "there")
    done = []
    with pytest.raises(CentralError) as error, under_lease(channel, "ours", BEAT):
        done.append("something")
    assert (error.value.diagnosis, done) == ("lease_lost", [])
    assert held(channel) == "theirs"


def test_why_the_work_has_failed_comes_first(channel: LocalChannel) -> None:
    take(channel, "ours", "backup", "here")
    with pytest.raises(CentralError) as error, under_lease(channel, "ours", 3600):
        break_lease(channel)
        raise CentralError("disk_full", "There is no room.")
    assert error.value.diagnosis == "disk_full"


def test_no_connection_at_the_end_is_no_loss(channel: LocalChannel, project: Path) -> None:
    take(channel, "ours", "backup", "here")
    with under_lease(channel, "ours", 3600):
        project.rename(project.with_name("away"))
    project.with_name("away").rename(project)
    assert held(channel) == "ours"


# --- the option of the modules ----------------------------------------------------------------------------------


@pytest.fixture
def options(tmp_path: Path, project: Path) -> dict[str, Any]:
    """Of a module that reads back a set."""
    repository = {"repository": str(tmp_path / "repository"), "central": "demo"}
    opened = run_module("central_set", {"state": "open", **repository})
    Path(opened["path"], "database").write_bytes(CONTENT)
    sealed = run_module(
        "central_set",
        {
            "state": "sealed",
            **repository,
            "set_id": opened["set_id"],
            "parts": {"database": database_part()},
            "absent": ABSENT,
            "passphrase": PASSPHRASE,
        },
    )
    return {"set": sealed["path"], "passphrase": PASSPHRASE, "project_directory": str(project)}


def test_a_module_without_the_lease_does_nothing(options: dict[str, Any], channel: LocalChannel) -> None:
    lost = run_module("central_backup_verify", {**options, "lease": "ours"})
    assert lost.diagnosis == "lease_lost"
    take(channel, "ours", "backup", "here", lifetime=60)
    # What it reads is none, which it has to have looked at to know.
    assert run_module("central_backup_verify", {**options, "lease": "ours"}).diagnosis == "wrong_passphrase"
    assert held(channel) == "ours"
    break_lease(channel)
    assert run_module("central_backup_verify", options).diagnosis == "wrong_passphrase"


def test_in_check_mode_nobody_has_taken_one(options: dict[str, Any]) -> None:
    assert run_module("central_backup_verify", {**options, "lease": "ours"}, check=True).diagnosis == "wrong_passphrase"


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("changed", [{"lease": "a b"}, {"lease": "ours", "project_directory": None}])
def test_a_lease_that_cannot_be(options: dict[str, Any], changed: dict[str, Any], check: bool) -> None:
    given = {name: value for name, value in {**options, **changed}.items() if value is not None}
    assert run_module("central_backup_verify", given, check).diagnosis == "bad_option"
