# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restoring a demo Central: all of it comes back, or everything stays as it was. Seen by psql, redis-cli and HTTP."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.modules import Result, run_module
from support.restore_faults import FAULTS
from support.restoring import PASSPHRASE, Site, answers, get, login, make_site
from support.snapshot import psql, snapshot, tables_of


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A Central of this file's own, and a set of it."""
    with make_site(os.environ.get("CENTRAL_RESTORE_DEMO", "odkrestored"), tmp_path_factory.mktemp("restore")) as made:
        yield made


def test_all_of_it_comes_back_after_everything_was_destroyed(site: Site) -> None:
    demo = site.demo
    before = snapshot(demo)
    link = site.link()
    assert get(demo, link) == 200
    site.destroy()
    assert get(demo, link) == 404
    result = site.restore(
        path=str(site.set), login_email=demo["admin"]["email"], login_password=demo["admin"]["password"]
    )
    assert not result.failed, result.result.get("msg")
    assert result["changed"] is True
    after = snapshot(demo)
    assert after.tables.keys() == before.tables.keys()
    differing = {name for name in before.tables if after.tables[name] != before.tables[name]}
    # The login that ended the restore has left its traces.
    assert differing <= {"public.audits", "public.sessions", "public.users"}
    assert (
        after.sequences.items()
        >= {name: value for name, value in before.sequences.items() if "audits" not in name}.items()
    )
    assert after.redis == before.redis
    assert after.secrets == before.secrets
    assert (after.files, after.litter, after.sessions) == (before.files, [], [])
    kept = [line for line in after.databases if line.startswith("odkops_previous_")]
    assert [line.split("\t")[0] for line in kept] == [result["previous"]]
    assert [line for line in after.databases if line not in kept] == before.databases
    assert get(demo, link) == 200
    assert get(demo, "/enketo-passthrough/xform/" + "x" * 31) == 404
    assert set(result["phases"]) >= {"verify", "load", "swap", "enketo", "start", "open"}
    assert 0 < result["downtime"] < result["elapsed"]
    removed = site.run(action="remove_previous")
    assert (removed["changed"], removed["removed"]) == (True, [result["previous"]])
    assert site.run(action="remove_previous")["changed"] is False
    assert psql(demo, "SELECT count(*) FROM pg_database WHERE datname LIKE 'odkops%'", "postgres") == "0"


def test_what_arrived_since_is_in_the_old_database(site: Site) -> None:
    demo = site.demo
    psql(
        demo,
        'INSERT INTO submissions ("formId", "instanceId", "createdAt", draft) '
        "SELECT id, 'uuid:late-' || id, now(), false FROM forms",
    )
    late = int(psql(demo, "SELECT count(*) FROM submissions WHERE \"instanceId\" LIKE 'uuid:late-%'"))
    old = tables_of(demo)
    result = site.restore(path=str(site.set))
    assert not result.failed, result.result.get("msg")
    assert result["only_previous"] == late > 0
    assert psql(demo, "SELECT count(*) FROM submissions WHERE \"instanceId\" LIKE 'uuid:late-%'") == "0"
    assert tables_of(demo, result["previous"]) == old
    site.run(action="remove_previous")


def test_sessions_of_people_end_and_those_of_phones_live(site: Site) -> None:
    demo = site.demo
    devices = {kind: site.sends_as(kind) for kind in ("field_key", "public_link")}
    token = login(demo)
    backup = site.direct_backup("with-a-session")
    result = site.restore(path=str(backup))
    assert not result.failed, result.result.get("msg")
    assert result["sessions_ended"] >= 1
    assert answers(demo, "/v1/users/current", token) == 401
    for kind, sends in devices.items():
        assert sends(f"uuid:by-{kind}") in (200, 201)
        sql = f'SELECT a.type FROM submissions s JOIN actors a ON a.id = s."submitterId" WHERE "instanceId" = \'uuid:by-{kind}\''
        assert psql(demo, sql) == kind
    site.run(action="remove_previous")


def test_a_bare_direct_backup_brings_the_links_back(site: Site) -> None:
    demo = site.demo
    link = site.link()
    demo.execute("enketo_redis_main", "redis-cli", "FLUSHALL")
    assert get(demo, link) == 404
    result = site.restore(path=str(site.direct_backup("bare")))
    assert not result.failed, result.result.get("msg")
    assert result["enketo"]["source"] == "database"
    assert get(demo, link) == 200
    site.run(action="remove_previous")


def test_settings_and_grants_are_there_again(site: Site) -> None:
    demo = site.demo
    psql(demo, "CREATE ROLE reader; GRANT SELECT ON forms TO reader; GRANT CONNECT ON DATABASE odk TO reader", "odk")
    try:
        psql(
            demo,
            "ALTER DATABASE odk SET work_mem = '7MB'; ALTER ROLE reader IN DATABASE odk SET search_path = public, x",
        )
        databases = snapshot(demo).databases
        result = site.restore(path=str(site.direct_backup("granted")))
        assert not result.failed, result.result.get("msg")
        assert result["grants_failed"] == []
        site.run(action="remove_previous")
        assert snapshot(demo).databases == databases
        assert psql(demo, "SELECT has_table_privilege('reader', 'forms', 'SELECT')") == "t"
        assert psql(demo, "SHOW work_mem") == "7MB"
    finally:
        psql(demo, "DROP OWNED BY reader; ALTER DATABASE odk RESET work_mem; DROP ROLE reader")


def test_long_texts_and_large_files(site: Site) -> None:
    """Texts are compressed as is fastest, those that come later as ever; a file larger than what is gathered arrives whole."""
    demo = site.demo
    file = bytes.fromhex("00ff0a095c") * 1_300_000
    digests = (
        hashlib.sha1(file, usedforsecurity=False).hexdigest(),
        hashlib.md5(file, usedforsecurity=False).hexdigest(),
    )
    psql(
        demo,
        "CREATE TABLE long AS SELECT n, repeat(md5(n::text), 1000) AS text FROM generate_series(1, 5) n; "
        'INSERT INTO blobs (sha, md5, content, "contentType") '
        f"VALUES ('{digests[0]}', '{digests[1]}', decode(repeat('00ff0a095c', 1300000), 'hex'), 'large')",
    )
    method = "SELECT string_agg(DISTINCT pg_column_compression(text), ' ') FROM long"
    try:
        assert psql(demo, method) == "pglz"
        result = site.restore(path=str(site.direct_backup("long")))
        assert not result.failed, result.result.get("msg")
        site.run(action="remove_previous")
        assert psql(demo, method) == "lz4"
        assert psql(demo, "SELECT count(*) FROM long WHERE text = repeat(md5(n::text), 1000)") == "5"
        assert psql(demo, "SHOW default_toast_compression") == "pglz"
        found = psql(demo, "SELECT sha, md5, md5(content), length(content) FROM blobs WHERE \"contentType\" = 'large'")
        assert found.split("\t") == [*digests, digests[1], str(len(file))]
    finally:
        psql(demo, "DROP TABLE long; DELETE FROM blobs WHERE \"contentType\" = 'large'")


def test_check_mode_does_everything_that_changes_nothing(site: Site) -> None:
    before = snapshot(site.demo)
    result = site.restore(check=True, path=str(site.set))
    assert not result.failed, result.result.get("msg")
    assert result["changed"] is True
    assert result["target"]["identity"]["domain"] == site.demo["domain"]
    assert result["unfinished"] is None
    assert snapshot(site.demo) == before


# --- refused, and nothing touched -----------------------------------------------------------------------------------


def refused(site: Site, **options: Any) -> Result:
    before = snapshot(site.demo)
    result = site.restore(**options)
    assert result.failed
    assert result["changed"] is False
    assert snapshot(site.demo) == before
    assert not (Path(site.demo["compose_dir"]) / ".odkops-restore").exists()
    return result


def test_another_domain(site: Site) -> None:
    assert refused(site, path=str(site.set), confirm_domain="central.example.org").diagnosis == "wrong_confirmation"


def test_a_wrong_passphrase(site: Site) -> None:
    backup = str(site.direct_backup("locked"))
    assert refused(site, path=backup, passphrase="another passphrase altogether").diagnosis == "wrong_passphrase"
    assert refused(site, path=str(site.set), passphrase="another passphrase altogether").diagnosis == "wrong_passphrase"


@pytest.mark.parametrize("share", [0.0001, 0.02, 0.5, 0.9999])
def test_a_backup_that_is_cut_short(site: Site, tmp_path: Path, share: float) -> None:
    whole = site.direct_backup("whole").read_bytes()
    cut = tmp_path / "cut.pgdump.enc.bin"
    cut.write_bytes(whole[: max(20, int(len(whole) * share))])
    assert refused(site, path=str(cut)).diagnosis == "truncated"


def test_a_set_with_a_changed_byte(site: Site, tmp_path: Path) -> None:
    copy = site.copy_of_set(tmp_path)
    for part in ("database.pgdump.enc.bin", "enketo.tar.enc.bin"):
        data = bytearray((copy / part).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / part).write_bytes(data)
        assert refused(site, path=str(copy)).diagnosis == FAULTS["changed"].diagnosis
        data[len(data) // 2] ^= 1
        (copy / part).write_bytes(data)


def test_a_backup_of_a_newer_central(site: Site) -> None:
    demo = site.demo
    psql(
        demo,
        "INSERT INTO knex_migrations (name, batch, migration_time) VALUES ('99991231-01-from-the-future.js', 99, now())",
    )
    try:
        backup = site.direct_backup("newer")
    finally:
        psql(demo, "DELETE FROM knex_migrations WHERE name LIKE '9999%'")
    result = refused(site, path=str(backup))
    assert result.diagnosis == "newer_central"
    assert result["unknown_migrations"] == ["99991231-01-from-the-future.js"]


def test_restore_js_on_a_stock_server(site: Site, tmp_path: Path) -> None:
    """It would end with `cannot drop objects owned by role odk because they are required by the database system`."""
    result = refused(
        site, path=str(site.set), strategy="restore_js", skip_safety_backup=False, safety_backup=str(tmp_path)
    )
    assert result.diagnosis == "restore_impossible"
    assert "Use swap" in result["msg"]


def test_two_at_once(site: Site) -> None:
    taken = run_module("central_lease", {**site.project, "state": "held", "purpose": "backup"})
    assert not taken.failed, taken.result.get("msg")
    run_id = taken["lease"]["run_id"]
    try:
        assert refused(site, path=str(site.set)).diagnosis == "lease_held"
    finally:
        assert not run_module("central_lease", {**site.project, "state": "released", "run_id": run_id}).failed


def test_neither_or_both_ways_of_a_safety_backup(site: Site, tmp_path: Path) -> None:
    for options in ({}, {"safety_backup": str(tmp_path), "skip_safety_backup": True}):
        result = run_module(
            "central_restore",
            {
                **site.project,
                "path": str(site.set),
                "confirm_domain": site.demo["domain"],
                "passphrase": PASSPHRASE,
                **options,
            },
        )
        assert result.failed
        assert result.diagnosis == "bad_option"
