# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A live Central in which something is wrong, or changes while it is backed up: what backup.yml makes of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import PlaybookResult, by_hand
from support.full_set import FullSite, Made, failure, warnings_of
from support.sets import everything_below

pytest_plugins = ["support.full_set_fixtures"]


def files(site: FullSite) -> dict[str, str]:
    """All that is in the repository but in pools, whose index is written by failing runs too."""
    paths = [path for path in site.repository.rglob("*") if path.is_file() and "pool" not in path.parts]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@dataclass
class Changed:
    """A backup of a Central in which a link was broken before, and from which an attachment was purged meanwhile."""

    outcome: PlaybookResult
    path: Path
    manifest: dict[str, Any]
    #: the form whose link is broken
    form: str
    #: of the object
    purged: str

    @property
    def notes(self) -> str:
        return "\n".join(self.manifest["notes"])


@contextlib.contextmanager
def link_without_its_id(site: FullSite) -> Iterator[str]:
    """Delete the ``id:`` of a form whose ``or:`` stays; gives the form's id."""
    enketo_id, form = site.psql('SELECT "enketoId", "xmlFormId" FROM forms WHERE "enketoId" IS NOT NULL LIMIT 1')[0]
    redis = ("redis-cli", "--raw")
    fields = site.demo.execute(by_hand.REDIS, *redis, "HGETALL", f"id:{enketo_id}").removesuffix("\n").split("\n")
    assert len(fields) > 4
    # --raw prints a blank line for an empty value, so that names and values stay pairs.
    site.demo.execute(by_hand.REDIS, *redis, "DEL", f"id:{enketo_id}")
    try:
        yield form
    finally:
        site.demo.execute(by_hand.REDIS, *redis, "HSET", f"id:{enketo_id}", *fields)


def attachment_in_s3(site: FullSite) -> str:
    """Give the Central an attachment that nothing refers to, in S3; returns the name of the object."""
    content = b"purged while the backup was made"
    sha, md5 = by_hand.sha1(content), hashlib.md5(content).hexdigest()
    sql = f"INSERT INTO blobs (sha, md5, s3_status) VALUES ('{sha}', '{md5}', 'uploaded') RETURNING id"
    name = f"blob-{site.demo.psql(sql)}-{sha}"
    (site.bucket / name).write_bytes(content)
    return name


def docker_that_purges(site: FullSite, name: str) -> Path:
    """A command `docker` that deletes row and object when Redis is asked for the first time: the dump is over then."""
    script = site.folder / "docker-that-purges"
    service, purge = site.demo.container("service"), "node lib/bin/purge.js"
    script.write_text(f"""#!/bin/sh
case "$*" in
*{by_hand.REDIS}*)
  if mkdir {shlex.quote(str(script))}.done 2>/dev/null; then
    docker exec {service} {purge} </dev/null >{shlex.quote(str(script))}.log 2>&1
  fi ;;
esac
exec docker "$@"
""")
    script.chmod(0o755)
    return script


@pytest.fixture(scope="module")
def changed(made: Made) -> Changed:
    """One backup for both; the keys of S3 are given as variables this time."""
    site = made.site
    purged = attachment_in_s3(site)
    before = site.sets()
    host = site.host(
        central_docker_command=[str(docker_that_purges(site, purged))],
        central_s3_server=site.s3["server"],
        central_s3_bucket=site.s3["bucket"],
        central_s3_access_key=site.s3["access_key"],
        central_s3_secret_key=site.s3["secret_key"],
    )
    with link_without_its_id(site) as form:
        outcome = site.run("backup", site.inventory("changed", {"full": host}))
    assert outcome.rc == 0, outcome.output
    assert not (site.bucket / purged).exists(), (site.folder / "docker-that-purges.log").read_text()
    (path,) = [one for one in site.sets() if one not in before]
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    return Changed(outcome, path, manifest, form, purged)


def test_a_link_without_its_id_is_a_warning_and_a_note(changed: Changed) -> None:
    assert (changed.manifest["parts"]["enketo"]["checked"]["broken"]) == 1
    assert (changed.manifest["parts"]["enketo"]["checked"]["without_id"]) == 1
    for said in (warnings_of(changed.outcome, "full"), changed.notes):
        assert f"form {changed.form!r} of project 1: its id: is missing" in said
        assert "do not work in the live Central" in said
    said = "\n".join(str(one.get("msg")) for one in changed.outcome.of("debug", "full"))
    assert "1 of them broken" in said


def test_an_object_purged_after_the_dump_is_a_note(changed: Changed, made: Made) -> None:
    part = changed.manifest["parts"]["blobs"]
    assert (part["purged"], part["known_missing"]) == (1, 0)
    assert "1 object(s) were purged from the Central after the dump" in changed.notes
    listed = [json.loads(line) for line in (changed.path / "blobs.jsonl").read_text().splitlines()]
    assert [entry["key"] for entry in listed if entry.get("absent") == "purged"] == [changed.purged]
    assert len(listed) == made.manifest["parts"]["blobs"]["objects"] + 1
    assert not list(made.pool.rglob(f"{changed.purged}*"))


def test_all_sets_are_verified(changed: Changed, made: Made) -> None:
    """The one with a broken link and a purged object is as good as it could be."""
    site = made.site
    outcome = site.run("verify", site.inventory("all", {"full": site.host(central_set="all")}))
    assert outcome.rc == 0, outcome.output
    found = {one["set_id"]: one for one in outcome.of("central_backup_verify", "full")}
    assert set(found) == {path.name for path in site.sets()} >= {made.path.name, changed.path.name}
    assert found[changed.path.name]["links"]["broken"] == 1
    assert found[changed.path.name]["objects"]["absent"] == 1
    assert found[made.path.name]["links"]["broken"] == 0
    stats = outcome.custom["_run"]["odkops_central_verify"]["full"]
    assert (stats["ok"], stats["sets"], stats["set_id"]) == (True, len(found), changed.path.name)


# --- what no backup can be made of --------------------------------------------------------------------------------


def refused(site: FullSite, diagnosis: str, **variables: Any) -> str:
    """A backup that has to fail and to leave nothing; returns what the playbook says."""
    before = files(site)
    hidden = everything_below(site.repository / "full" / "sets")
    outcome = site.run("backup", site.inventory("refused", {"full": site.host(**variables)}))
    assert outcome.rc != 0
    assert f"No backup set of full was made. {diagnosis}: " in failure(outcome, "full")
    assert files(site) == before
    assert everything_below(site.repository / "full" / "sets") == hidden
    stats = outcome.custom["_run"]["odkops_central_backup"]["full"]
    assert (stats["ok"], stats["diagnosis"]) == (False, diagnosis)
    return failure(outcome, "full")


def test_a_secret_of_the_wrong_size(made: Made) -> None:
    site, name = made.site, "enketo-less-secret"
    path = f"/etc/secrets/{name}"
    content = by_hand.in_container(site.demo, "enketo", f"cat {path}")
    by_hand.in_container(site.demo, "enketo", f"cat >{path}", content + b"\n")
    try:
        said = refused(site, "bad_secret")
    finally:
        by_hand.in_container(site.demo, "enketo", f"cat >{path}", content)
    assert f"/etc/secrets/{name} has {len(content) + 1} bytes" in said


def test_an_object_that_is_lost_in_s3(made: Made) -> None:
    """It is not in the pool of a new repository, and its row is still there."""
    site = made.site
    number, sha = site.psql("SELECT id, sha FROM blobs WHERE s3_status = 'uploaded' ORDER BY id LIMIT 1")[0]
    lost = site.bucket / f"blob-{number}-{sha}"
    content = lost.read_bytes()
    lost.unlink()
    elsewhere = site.folder / "lost"
    variables = {"central_repository": str(elsewhere), "central_parts": ["database", "blobs"]}
    try:
        said = refused(site, "missing_blob", **variables)
    finally:
        lost.write_bytes(content)
    assert lost.name in said
    assert site.sets(repository=elsewhere) == []
    # What was fetched is kept, whole, for the next run.
    kept = {path.name for path in (elsewhere / "full").rglob("blob-*.bin")}
    assert kept == {f"{path.name}.bin" for path in site.bucket.iterdir()} - {f"{lost.name}.bin"}


def test_no_secret_is_left_by_any_of_these_runs(made: Made, changed: Changed) -> None:
    assert made.site.leaks() == {}
    assert made.site.needles.within(made.site.container_logs()) == set()
