# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever happens while a Central is restored: it answers with its old data, row for row, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.demo import wait_for
from support.restore_faults import FAULTS, STAGES, Client, RunningRestore
from support.restoring import Site, answers, get, make_site
from support.snapshot import Snapshot, psql, snapshot


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A Central whose data is not that of the set: more has come since."""
    with make_site(os.environ.get("CENTRAL_FAULTY_DEMO", "odkfaulty"), tmp_path_factory.mktemp("faults")) as made:
        psql(
            made.demo,
            'INSERT INTO submissions ("formId", "instanceId", "createdAt", draft) '
            "SELECT id, 'uuid:since-the-backup-' || id, now(), false FROM forms",
        )
        # And a form has got a link, so that Enketo is not what it was either.
        made.demo.execute("enketo_redis_main", "redis-cli", "SET", "or:since/v1/projects/1,later", "laterlaterlater")
        made.demo.execute(
            "enketo_redis_main",
            "redis-cli",
            "HSET",
            "id:laterlaterlater",
            "openRosaServer",
            "https://since/v1/projects/1",
        )
        yield made


@pytest.fixture(scope="module")
def before(site: Site) -> Snapshot:
    """What has to be there after each fault."""
    return snapshot(site.demo)


def as_it_was(site: Site, before: Snapshot) -> None:
    """Everything is there, nothing else is, and Central answers."""
    # nginx may have been started, and not listen yet.
    wait_for(lambda: answers(site.demo, "/v1/projects", None) < 500)
    until = time.monotonic() + 60
    while snapshot(site.demo) != before and time.monotonic() < until:
        time.sleep(1)  # what a killed run has left in a container takes up to ten seconds to end
    assert snapshot(site.demo) == before
    assert not (Path(site.demo["compose_dir"]) / ".odkops-restore").exists()
    assert get(site.demo, site.link()) == 200


@pytest.mark.parametrize("stage", STAGES)
def test_killed(site: Site, before: Snapshot, stage: str) -> None:
    run = RunningRestore(site, path=str(site.set))
    run.wait_for(stage)
    run.kill()
    assert run.stage == stage
    site.break_lease()
    result = site.run(action="rollback")
    assert (result["changed"], result["recovered"]["outcome"], result["recovered"]["stage"]) == (
        True,
        "rolled_back",
        stage,
    )
    as_it_was(site, before)
    assert site.run(action="rollback")["changed"] is False


def test_the_next_restore_undoes_what_a_killed_one_has_left(site: Site, before: Snapshot) -> None:
    run = RunningRestore(site, path=str(site.set))
    run.wait_for("swapping")
    run.kill()
    site.break_lease()
    result = site.restore(path=str(site.set), login_email="nobody@example.org", login_password="not a password")
    assert result.diagnosis == FAULTS["login"].diagnosis
    assert result["rolled_back"] is True
    as_it_was(site, before)


@pytest.mark.parametrize("stage", ["loading", "swapping", "starting"])
def test_terminated(site: Site, before: Snapshot, stage: str) -> None:
    run = RunningRestore(site, path=str(site.set))
    run.wait_for(stage)
    result = run.terminate()
    assert (result.rc, result.stdout) == (128 + signal.SIGTERM, ""), result
    as_it_was(site, before)


def test_pg_restore_killed(site: Site, before: Snapshot) -> None:
    run = RunningRestore(site, path=str(site.set))
    run.wait_for("loading")
    until = time.monotonic() + 120
    while subprocess.run(["pkill", "-KILL", "-f", "pg_restore .*odkops_new_"], check=False).returncode:
        assert time.monotonic() < until
        time.sleep(0.01)
    result = run.finish()
    assert result.diagnosis == FAULTS["pg_restore killed"].diagnosis
    assert list(result["phases"]) == ["verify", "preflight", "load"]
    assert result["downtime"] == 0 < result["phases"]["load"] < result["elapsed"]
    assert result["rolled_back"] is True
    as_it_was(site, before)


def test_database_stops(site: Site, before: Snapshot) -> None:
    # Or each sequence that was used since the last one has skipped 32 values after a crash.
    psql(site.demo, "CHECKPOINT")
    run = RunningRestore(site, path=str(site.set))
    run.wait_for("loading")
    site.demo.compose("kill", "postgres14")  # at once: a clean stop would wait until the backup is loaded
    result = run.finish()
    assert result.diagnosis == FAULTS["database stops"].diagnosis, result.result
    assert result["rolled_back"] is True
    as_it_was(site, before)


def test_redis_refuses(site: Site, before: Snapshot) -> None:
    """Redis's directory cannot be written: what it saves goes to a temporary file there first."""
    site.demo.execute("enketo_redis_main", "sh", "-c", "chmod 0555 /data")
    try:
        result = site.restore(path=str(site.set))
    finally:
        site.demo.execute("enketo_redis_main", "sh", "-c", "chmod 0755 /data")
    assert result.diagnosis == FAULTS["redis refuses"].diagnosis, result.result
    assert result["rolled_back"] is True
    as_it_was(site, before)


def test_does_not_come_up(site: Site, before: Snapshot) -> None:
    """The backup is whole, and its database has what the service falls over: a role that may do nothing."""
    backup = site.backup_that_does_not_come_up()
    result = site.restore(path=str(backup), start_timeout=15)
    assert result.diagnosis == FAULTS["does not come up"].diagnosis
    assert result["rolled_back"] is True
    as_it_was(site, before)


def test_reboot(site: Site, before: Snapshot) -> None:
    """All containers end at once and come back as Docker brings them back: those with a restart policy, stopped or not."""
    psql(site.demo, "CHECKPOINT")
    run = RunningRestore(site, path=str(site.set))
    run.wait_for("starting")
    run.kill()
    site.demo.compose("kill")
    site.demo.compose("up", "--detach", "--no-build")
    site.break_lease()
    assert site.run(action="rollback")["recovered"]["outcome"] == "rolled_back"
    as_it_was(site, before)


def test_whatever_was_acknowledged_is_somewhere(site: Site, before: Snapshot) -> None:
    """Runs last: the Central is restored in the end."""
    with Client(site.sends()) as client:
        time.sleep(1)
        result = site.restore(path=str(site.set))
        time.sleep(1)
    assert not result.failed, result.result.get("msg")
    assert len(client.acknowledged) > 10
    assert client.refused > 0
    found = set()
    for database in ("odk", result["previous"]):
        sql = 'SELECT "instanceId" FROM submissions WHERE "instanceId" LIKE \'uuid:all-the-while-%\''
        found |= set(psql(site.demo, sql, database).splitlines())
    assert set(client.acknowledged) <= found
    site.run(action="remove_previous")
