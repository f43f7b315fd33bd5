# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backups of another age than the Central: of a newer one, of an older one, and the zips of each era. SQL compares."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import Demo, run_module
from support.demo import central
from support.legacy_zip_writer import ERAS, make
from support.modules import Result
from support.restoring import PASSPHRASE, Site, answers, get, make_site
from support.snapshot import psql, snapshot, tables_of

OLDER, NEWER = "v2026.1.0", "v2026.2.0"
#: what the migrations between the two change, and what each start of the newer one adds a line to
MIGRATED = {"public.blobs", "public.roles", "public.knex_migrations", "public.audits"}
#: without what the migrations add
BLOBS = "SELECT count(*), md5(string_agg(concat_ws(' ', id, sha, \"contentType\", md5(content)), ',' ORDER BY id)) FROM blobs"
COUNT = "SELECT count(*) FROM knex_migrations"

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An older Central, and a set of it."""
    name = os.environ.get("CENTRAL_ERAS_DEMO", "odkeras")
    with make_site(name, tmp_path_factory.mktemp("eras"), version=OLDER) as made:
        yield made


@pytest.fixture(scope="module")
def older(site: Site) -> dict[str, str]:
    """The tables of the older Central, and all that it has of blobs."""
    return {**tables_of(site.demo), "blobs": psql(site.demo, BLOBS)}


@pytest.fixture(scope="module")
def dumped(site: Site, older: dict[str, str]) -> dict[str, bytes]:
    """The older Central's database in the directory format, by pg_dump itself as Central ran it."""
    assert older
    site.demo.execute("service", "pg_dump", "-j", "4", "-F", "d", "-f", "/tmp/dumped")
    there = site.demo.container("service")
    names = site.demo.execute("service", "ls", "/tmp/dumped").split()
    try:
        return {
            name: subprocess.run(
                ["docker", "exec", there, "cat", f"/tmp/dumped/{name}"], capture_output=True, check=True
            ).stdout
            for name in names
        }
    finally:
        site.demo.execute("service", "rm", "-r", "/tmp/dumped")


@pytest.fixture(scope="module")
def newer(site: Site, older: dict[str, str], dumped: dict[str, bytes]) -> Site:
    """The same Central after its update."""
    assert older
    assert dumped
    central("up", "--name", site.demo.name, "--central-version", NEWER)
    assert psql(site.demo, COUNT) == "214"
    return site


def restored(site: Site, path: Path, older: dict[str, str], **options: Any) -> Result:
    """Restore after all rows are gone, and compare."""
    psql(site.demo, "TRUNCATE submissions, blobs, forms, form_defs, projects CASCADE")
    result = site.restore(path=str(path), keep_previous=False, **options)
    assert not result.failed, result.result.get("msg")
    after = {**tables_of(site.demo), "blobs": psql(site.demo, BLOBS)}
    assert {name for name in older if after[name] != older[name]} <= MIGRATED
    assert psql(site.demo, COUNT) == "214"
    assert answers(site.demo, "/v1/projects", None) == 401
    return result


def test_a_newer_one_is_refused(site: Site, older: dict[str, str], demo: Demo, tmp_path: Path) -> None:
    """A real one, of the newer Central that the other tests use."""
    backup = {"method": "pg_dump", "project_directory": demo["compose_dir"], "project": demo["compose_project"]}
    made = run_module("central_backup", {**backup, "dest": str(tmp_path), "passphrase": PASSPHRASE})
    assert not made.failed, made.result.get("msg")
    before = snapshot(site.demo)
    for options in ({}, {"strategy": "in_place", "safety_backup": str(tmp_path / "safe"), "skip_safety_backup": False}):
        result = site.restore(path=made["path"], **options)
        assert (result.diagnosis, result["changed"]) == ("newer_central", False), result.result
        assert "20260717-01-add-blob-size.js" in result["unknown_migrations"]
    assert snapshot(site.demo) == before
    assert before.tables.items() <= older.items()


def test_an_older_one_is_migrated(newer: Site, older: dict[str, str]) -> None:
    result = restored(newer, newer.set, older)
    assert (result["previous"], get(newer.demo, newer.link())) == (None, 200)
    said = "SELECT count(*) FROM audits WHERE action = 'upgrade.server' AND details::text LIKE '%2026.2%'"
    assert psql(newer.demo, said) == "1"


@pytest.mark.parametrize("era", ERAS)
def test_a_legacy_zip(newer: Site, older: dict[str, str], dumped: dict[str, bytes], tmp_path: Path, era: str) -> None:
    path = tmp_path / "central-backup.zip"
    path.write_bytes(make(dumped, passphrase=PASSPHRASE, era=ERAS[era]))
    result = restored(newer, path, older, enketo="none")
    assert result["backup"]["format"] == "zip"


def test_restore_js_takes_no_zip(newer: Site, dumped: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "central-backup.zip"
    path.write_bytes(make(dumped, passphrase=PASSPHRASE))
    options = {"strategy": "restore_js", "safety_backup": str(tmp_path / "safe"), "skip_safety_backup": False}
    result = newer.restore(check=True, path=str(path), **options)
    assert (result.diagnosis, result["changed"]) == ("bad_option", False), result.result
    assert "takes no zip" in result["msg"]
