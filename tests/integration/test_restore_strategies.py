# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restoring on a database server of one's own: beside, in place, and by Central's restore.js. psql, redis-cli and HTTP look."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.custom_server import MAINTENANCE, MAINTENANCE_PASSWORD, PASSWORD, ROLE, make_custom, owners
from support.demo import central
from support.modules import Result
from support.restore_faults import FAULTS, Client, RunningRestore, kill_in_containers
from support.restoring import PASSPHRASE, Site, answers, get, login, make_site
from support.secret_watch import Needles, Watch
from support.snapshot import Snapshot, psql, snapshot

LATE = "SELECT count(*) FROM submissions WHERE \"instanceId\" LIKE 'uuid:since-%'"


class Own(Site):
    """A Central with a plain role on a server of its own; what it held when the set was made, and what it holds now."""

    held: Snapshot
    owned: list[str]
    now: Snapshot

    @property
    def direct(self) -> dict[str, Any]:
        """The options of a restore without a second database."""
        return {"skip_safety_backup": False, "safety_backup": str(self.folder / "before")}

    def later(self) -> None:
        """Have more in it than in the set."""
        psql(
            self.demo,
            'INSERT INTO submissions ("formId", "instanceId", "createdAt", draft) '
            "SELECT id, 'uuid:since-' || id || clock_timestamp(), now(), false FROM forms;"
            "SELECT nextval('submissions_id_seq')",
        )
        self.demo.execute("enketo_redis_main", "redis-cli", "SET", "or:since/v1/projects/1,later", "laterlater")
        self.demo.execute("enketo_redis_main", "redis-cli", "HSET", "id:laterlater", "openRosaServer", "https://since")
        self.now = snapshot(self.demo)

    def is_as_it_was(self) -> None:
        """Everything is there, nothing else is, and Central answers."""
        until = time.monotonic() + 60
        while snapshot(self.demo) != self.now and time.monotonic() < until:
            time.sleep(1)
        assert snapshot(self.demo) == self.now
        assert owners(self.demo) == self.owned
        assert not (Path(self.demo["compose_dir"]) / ".odkops-restore").exists()
        assert get(self.demo, self.link()) == 200

    def is_as_in_the_set(self, after: Snapshot) -> None:
        """Everything is what it was when the set was made, but for what a look at it leaves, and nobody else owns it."""
        differing = {name for name in self.held.tables if after.tables.get(name) != self.held.tables[name]}
        assert differing <= {"public.audits", "public.sessions", "public.users"}
        assert after.tables.keys() == self.held.tables.keys()
        assert {name for name in self.held.sequences if after.sequences[name] != self.held.sequences[name]} <= {
            "audits_id_seq"
        }
        plain = replace(after, tables={}, sequences={}, databases=[])
        assert plain == replace(self.held, tables={}, sequences={}, databases=[])
        assert owners(self.demo) == self.owned
        assert psql(self.demo, "SELECT count(*) FROM pg_description WHERE description LIKE 'odkops%'") == "0"
        assert get(self.demo, self.link()) == 200


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    name = os.environ.get("CENTRAL_STRATEGIES_DEMO", "odkstrategies")
    with make_site(name, tmp_path_factory.mktemp("strategies"), make_custom) as made:
        own = Own(made.demo, made.folder, made.set)
        own.held, own.owned = snapshot(own.demo), owners(own.demo)
        own.later()
        yield own


@pytest.fixture
def watch(site: Own) -> Iterator[Watch]:
    """Looks for secrets in the arguments and environments of all processes."""
    secrets = {
        "passphrase": PASSPHRASE,
        "password of the database": PASSWORD,
        "password of the maintenance user": MAINTENANCE_PASSWORD,
        "password of the login": site.demo["admin"]["password"],
    }
    with Watch(Needles(secrets)) as watching:
        yield watching
    assert watching.samples > 20
    assert watching.found == set()
    # What libpq is given, it is given by root's environment, and nobody else can read that.
    assert {owner for _secret, owner in watching.environments} <= {0}
    assert {secret for secret, _owner in watching.environments} <= {
        "password of the database",
        "password of the maintenance user",
    }


def refused(site: Own, diagnosis: str, *words: str, **options: Any) -> None:
    result = site.restore(path=str(site.set), **options)
    assert result.diagnosis == diagnosis, result.result
    for word in words:
        assert word in result["msg"]
    site.is_as_it_was()


def logged_in(site: Own) -> dict[str, str]:
    return {"login_email": site.demo["admin"]["email"], "login_password": site.demo["admin"]["password"]}


def succeeded(result: Result) -> Result:
    assert not result.failed, result.result.get("msg")
    assert result["changed"] is True
    return result


# --- a second database ----------------------------------------------------------------------------------------------


def test_a_plain_role_needs_somebody_who_makes_the_database(site: Own) -> None:
    refused(site, "restore_impossible", ROLE, "maintenance_user", "strategy=in_place")
    wrong = {"maintenance_user": MAINTENANCE, "maintenance_password": "not the password"}
    refused(site, "restore_impossible", "maintenance_password", **wrong)


def test_a_maintenance_user_makes_it(site: Own, watch: Watch) -> None:
    who = {"maintenance_user": MAINTENANCE, "maintenance_password": MAINTENANCE_PASSWORD}
    result = succeeded(site.restore(path=str(site.set), **who, **logged_in(site)))
    after = snapshot(site.demo)
    assert [line for line in after.databases if line.startswith("odk\t")] == [
        line for line in site.held.databases if line.startswith("odk\t")
    ]
    assert (result["grants_failed"], result["target"]["administrator"]) == ([], MAINTENANCE)
    assert psql(site.demo, LATE, result["previous"]) != "0"
    site.run(action="remove_previous", **who)
    after = snapshot(site.demo)
    assert after.databases == site.held.databases
    # The extensions of a database that was made anew are those of who made it.
    site.owned, before = owners(site.demo), site.owned
    assert [line.split("\t")[0] for line in site.owned] == [line.split("\t")[0] for line in before]
    site.is_as_in_the_set(after)
    site.later()


@contextlib.contextmanager
def reader(site: Site) -> Iterator[None]:
    """Somebody reads submissions in a transaction that does not end: pg_dump does not mind, but nobody can drop the table."""
    name = "a-report-of-the-administrator"
    holder = ["exec", "--detach", "-e", f"PGAPPNAME={name}", site.demo.container("postgres14")]
    sql = "BEGIN; LOCK TABLE submissions IN ACCESS SHARE MODE; SELECT pg_sleep(600)"
    site.demo.docker(*holder, "psql", "-U", "odk", "-d", "odk", "-c", sql)
    try:
        yield
    finally:
        psql(site.demo, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'")


def waits(site: Site) -> None:
    """Wait until the transaction of a restore waits for that lock."""
    sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'odkops-restore-%' AND wait_event_type = 'Lock'"
    until = time.monotonic() + 60
    while psql(site.demo, sql) == "0":
        assert time.monotonic() < until
        time.sleep(0.2)


# --- in place -------------------------------------------------------------------------------------------------------


#: things that go when others go, more than PostgreSQL looks for at a time
_MANY = f"""
SET ROLE {ROLE};
DO $$ BEGIN FOR i IN 1..70 LOOP
  EXECUTE format('CREATE TABLE many_%1$s (x integer)', i);
  EXECUTE format('CREATE FUNCTION of_many_%1$s(one many_%1$s) RETURNS integer LANGUAGE sql AS $f$ SELECT 1 $f$', i);
END LOOP; END $$
"""
_NO_MORE = "DO $$ BEGIN FOR i IN 1..70 LOOP EXECUTE format('DROP TABLE many_%s CASCADE', i); END LOOP; END $$"
_HOW_MANY = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'of_many_%'"


def test_in_place(site: Own, watch: Watch) -> None:
    psql(site.demo, _MANY)
    token = login(site.demo)
    result = succeeded(site.restore(path=str(site.set), strategy="in_place", **site.direct, **logged_in(site)))
    site.is_as_in_the_set(snapshot(site.demo))
    assert (result["previous"], result["only_previous"], result["grants_failed"]) == (None, None, [])
    assert answers(site.demo, "/v1/users/current", token) == 401
    assert psql(site.demo, _HOW_MANY) == "0"
    site.later()


def test_in_place_is_impossible(site: Own) -> None:
    psql(site.demo, f"ALTER TABLE comments OWNER TO odk; GRANT ALL ON comments TO {ROLE}")
    try:
        result = site.restore(path=str(site.set), strategy="in_place", check=True, **site.direct)
        assert result.diagnosis == "restore_impossible", result.result
        assert "public.comments" in result["msg"]
    finally:
        psql(site.demo, f"REVOKE ALL ON comments FROM {ROLE}; ALTER TABLE comments OWNER TO {ROLE}")
    refused(site, "bad_option", "safety_backup", strategy="in_place")


def test_in_place_pg_restore_killed(site: Own) -> None:
    """In the middle of the transaction, which waits for a lock."""
    with reader(site):
        run = RunningRestore(site, path=str(site.set), strategy="in_place", **site.direct)
        waits(site)
        kill_in_containers(site.demo, "pg_restore")
    result = run.finish()
    assert (result.diagnosis, result["rolled_back"]) == (FAULTS["in place, killed"].diagnosis, True), result.result
    assert "put_back_from" not in result.result
    site.is_as_it_was()


@pytest.mark.long
def test_in_place_locked(site: Own) -> None:
    """Somebody does not let go of a table. After a minute the restore gives up."""
    with reader(site):
        result = site.restore(path=str(site.set), strategy="in_place", **site.direct)
    assert (result.diagnosis, result["rolled_back"]) == (FAULTS["in place, locked"].diagnosis, True), result.result
    assert "lock timeout" in result["msg"]
    site.is_as_it_was()


def test_in_place_does_not_come_up(site: Own) -> None:
    """The transaction was committed: there is no other way back than the backup that was made before."""
    backup = site.backup_that_does_not_come_up()
    site.now = snapshot(site.demo)
    result = site.restore(path=str(backup), strategy="in_place", start_timeout=15, **site.direct)
    assert (result.diagnosis, result["rolled_back"]) == (FAULTS["in place, committed"].diagnosis, True), result.result
    assert result["put_back_from"].startswith(site.direct["safety_backup"])
    assert f"put back from the backup that was made before, {result['put_back_from']}" in result["msg"]
    site.is_as_it_was()


@pytest.mark.parametrize("stage", ["replacing", "starting"])
def test_in_place_killed(site: Own, stage: str) -> None:
    """In the transaction, and after it."""
    options = {"path": str(site.set), "strategy": "in_place", **site.direct}
    if stage == "replacing":
        with reader(site):
            run = RunningRestore(site, **options)
            waits(site)
            run.kill()
    else:
        run = RunningRestore(site, **options)
        run.wait_for(stage)
        run.kill()
    assert run.stage == stage
    site.break_lease()
    recovered = site.run(action="rollback", passphrase=PASSPHRASE)["recovered"]
    assert (recovered["outcome"], recovered["stage"]) == ("rolled_back", stage)
    assert ("put_back_from" in recovered) == (stage == "starting")
    site.is_as_it_was()


def test_in_place_disk_full(site: Own, tmp_path: Path) -> None:
    """There is no room for the backup that is the way back: Central is stopped already, and comes up again."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=True)
    try:
        options = {"skip_safety_backup": False, "safety_backup": str(tmp_path)}
        result = site.restore(path=str(site.set), strategy="in_place", **options)
        assert (result.diagnosis, result["rolled_back"]) == (FAULTS["in place, disk full"].diagnosis, True), (
            result.result
        )
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    site.is_as_it_was()


def test_in_place_whatever_was_acknowledged_is_somewhere(site: Own) -> None:
    """In the database, or in the backup that is the way back, which restores as any other."""
    token = login(site.demo)
    with Client(site.sends()) as client:
        time.sleep(1)
        result = succeeded(site.restore(path=str(site.set), strategy="in_place", **site.direct))
        time.sleep(1)
    assert len(client.acknowledged) > 10
    assert client.refused > 0
    assert answers(site.demo, "/v1/users/current", token) == 401
    sql = 'SELECT "instanceId" FROM submissions WHERE "instanceId" LIKE \'uuid:all-the-while-%\''
    found = set(psql(site.demo, sql).splitlines())
    back = {"path": result["safety"], "strategy": "in_place", "end_sessions": False, "enketo": "none"}
    assert succeeded(site.restore(**back, **site.direct))["sessions_ended"] == 0
    assert set(client.acknowledged) <= found | set(psql(site.demo, sql).splitlines())
    assert answers(site.demo, "/v1/users/current", token) == 200
    assert psql(site.demo, LATE) != "0"
    site.later()


# --- by Central's own restore.js -------------------------------------------------------------------------------------


def test_restore_js_needs_a_superuser(site: Own) -> None:
    """With a plain role it ends with `must be owner of extension citext`."""
    refused(site, "restore_impossible", "restore.js", "citext", "in_place", strategy="restore_js", **site.direct)


@pytest.fixture
def superuser(site: Own) -> Iterator[None]:
    psql(site.demo, f"ALTER ROLE {ROLE} SUPERUSER")
    yield
    psql(site.demo, f"ALTER ROLE {ROLE} NOSUPERUSER")


@contextlib.contextmanager
def in_the_way(site: Site, script: str) -> Iterator[None]:
    """Have a script where the service looks for pg_restore first."""
    path = "/usr/local/bin/pg_restore"
    command = f"cat >{path}; chmod 755 {path}"
    site.demo.execute("service", "sh", "-c", command, stdin=f"#!/bin/sh\n{script}\n")
    try:
        yield
    finally:
        site.demo.execute("service", "rm", "-f", path)


@pytest.mark.usefixtures("superuser")
def test_restore_js_that_empties_the_database(site: Own) -> None:
    """Its pg_restore fails before it says anything, and it commits that everything was dropped."""
    with in_the_way(site, "exit 1"):
        result = site.restore(path=str(site.set), strategy="restore_js", **site.direct)
    assert (result.diagnosis, result["rolled_back"]) == (FAULTS["restore.js"].diagnosis, True), result.result
    assert result["put_back_from"] in result["msg"]
    site.is_as_it_was()


@pytest.mark.usefixtures("superuser")
def test_restore_js_killed(site: Own) -> None:
    """In its transaction: what it has read so far is given to nobody."""
    with in_the_way(site, 'sleep 8; exec /usr/bin/pg_restore "$@"'):
        run = RunningRestore(site, path=str(site.set), strategy="restore_js", **site.direct)
        run.wait_for("replacing")
        time.sleep(4)
        run.kill()
        site.break_lease()
        recovered = site.run(action="rollback", passphrase=PASSPHRASE)["recovered"]
    assert (recovered["outcome"], recovered["stage"], "put_back_from" in recovered) == (
        "rolled_back",
        "replacing",
        False,
    )
    site.is_as_it_was()


@pytest.mark.usefixtures("superuser")
def test_restore_js(site: Own, watch: Watch) -> None:
    token = login(site.demo)
    result = succeeded(site.restore(path=str(site.set), strategy="restore_js", **site.direct, **logged_in(site)))
    # What it makes anew belongs to the role that makes it, extensions too where they were its own.
    site.owned, before = owners(site.demo), site.owned
    assert [line.split("\t")[0] for line in site.owned] == [line.split("\t")[0] for line in before]
    site.is_as_in_the_set(snapshot(site.demo))
    assert (result["previous"], result["grants_failed"]) == (None, [])
    assert answers(site.demo, "/v1/users/current", token) == 401


# --- the server's disk ----------------------------------------------------------------------------------------------


@pytest.fixture
def small(site: Own) -> Iterator[None]:
    """The database is on a disk of its own, with hardly more room than it takes."""
    demo = site.demo
    mountpoint = demo.docker(
        "volume", "inspect", "-f", "{{.Mountpoint}}", f"{demo['compose_project']}_postgres14"
    ).strip()
    place = Path(mountpoint, "small")
    place.mkdir()
    size = int(psql(demo, "SELECT pg_database_size('odk')")) + 4_000_000
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "tmpfs", str(place)], check=True)

    def move(tablespace: str, before: str = "", after: str = "") -> None:
        demo.compose("stop", "nginx", "service")
        # A container sees what is mounted before it starts.
        demo.compose("restart", "postgres14")
        demo.execute("postgres14", "sh", "-c", "until psql -U odk -c '' postgres >/dev/null 2>&1; do sleep 0.2; done")
        psql(demo, f"{before} ALTER DATABASE odk SET TABLESPACE {tablespace}; {after}", "postgres")
        demo.compose("start", "service", "nginx")
        central("up", "--name", demo.name)

    there = "/var/lib/odk/postgresql/14/small"
    try:
        demo.compose("restart", "postgres14")
        demo.execute("postgres14", "sh", "-c", f"chown postgres {there}")
        move("small", f"CREATE TABLESPACE small LOCATION '{there}'; GRANT CREATE ON TABLESPACE small TO {MAINTENANCE};")
        yield
        move("pg_default", after="DROP TABLESPACE small;")
    finally:
        demo.compose("stop", "postgres14")
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()


@pytest.mark.usefixtures("small")
def test_disk_full(site: Own) -> None:
    """Of the database server. Nothing could be seen of it before. Runs last: the server is restarted for it."""
    site.now = snapshot(site.demo)
    who = {"maintenance_user": MAINTENANCE, "maintenance_password": MAINTENANCE_PASSWORD}
    result = site.restore(path=str(site.set), **who)
    assert (result.diagnosis, result["rolled_back"]) == (FAULTS["disk full"].diagnosis, True), result["msg"]
    site.is_as_it_was()
