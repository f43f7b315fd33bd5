# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A set with all four parts, made by backup.yml: each member opened by hand and held against the live Central."""

from __future__ import annotations

import hashlib
import json
import re
import stat
import subprocess
from pathlib import Path

from support import by_hand
from support.full_set import KEPT, PARTS, FullSite, Made, enketo_secrets
from support.paths import ROOT

pytest_plugins = ["support.full_set_fixtures"]


def summary(made: Made, host: str) -> str:
    """What backup.yml has printed for people."""
    said = [one["msg"] for one in made.backup.of("debug", host) if isinstance(one.get("msg"), list)]
    return "\n".join(said[-1])


# --- the set ----------------------------------------------------------------------------------------------------


def test_a_set_has_all_four_parts(made: Made) -> None:
    assert sorted(path.name for path in made.path.iterdir()) == sorted([*PARTS.values(), "manifest.json"])
    assert set(made.manifest["parts"]) == set(PARTS)
    assert made.manifest["absent"] == {}
    assert made.manifest["authenticated"] is True
    for name, file in PARTS.items():
        part, content = made.manifest["parts"][name], made.part(name).read_bytes()
        assert (part["file"], part["size"]) == (file, len(content))
        assert part["sha256"] == hashlib.sha256(content).hexdigest()
        assert part["encrypted"] is True or name == "blobs"
        assert f"{name} " in summary(made, "full")
    assert "Absent:" not in summary(made, "full")
    assert made.manifest["parts"]["database"]["method"] == "pg_dump"
    for entry in made.site.repository.rglob("*"):
        assert stat.S_IMODE(entry.stat().st_mode) == (0o700 if entry.is_dir() else 0o600), entry


def test_the_manifest_is_checked_by_hand(made: Made) -> None:
    script = str(ROOT / "docs" / "check-manifest.sh")
    command = ["bash", script, str(made.path / "manifest.json"), str(made.site.passphrase_file)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_it_is_verified(made: Made) -> None:
    for host in ("full", "plain"):
        assert made.verify.hosts[host]["failures"] == made.verify.hosts[host]["changed"] == 0
        assert made.verify.custom["_run"]["odkops_central_verify"][host]["diagnosis"] == "ok"
    (found,) = made.verify.of("central_backup_verify", "full")
    assert set(found["parts"]) == set(PARTS)
    drafts = 'SELECT count(*) FROM form_defs d JOIN forms f ON f.id = d."formId" WHERE d."enketoId" IS NOT NULL'
    links = made.site.psql(f'SELECT (SELECT count(*) FROM forms WHERE "enketoId" IS NOT NULL) + ({drafts})')
    assert found["links"]["checked"] == int(links[0][0]) > 0
    assert (found["links"]["broken"], found["links"]["without_id"]) == (0, 0)
    assert found["links"]["once_opened"] == found["links"]["once_ids"] > 0
    uploaded = made.manifest["database"]["central"]["blobs"]["uploaded"]
    assert (found["objects"]["checked"], found["objects"]["absent"]) == (uploaded, 0)


def test_a_central_beside_it_has_a_database_only(made: Made) -> None:
    (path,) = made.site.sets("plain")
    assert sorted(one.name for one in path.iterdir()) == [PARTS["database"], "manifest.json"]
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    assert list(manifest["parts"]) == ["database"]
    assert manifest["parts"]["database"]["method"] == "api"
    assert set(manifest["absent"]) == {"enketo", "config", "blobs"}
    assert "central_project_directory" in manifest["absent"]["enketo"]
    assert "central_project_directory" in manifest["absent"]["config"]
    assert "names no objects in S3" in manifest["absent"]["blobs"]
    for part in manifest["absent"]:
        assert f"Absent: {part}. {manifest['absent'][part]}" in summary(made, "plain")
    assert not (made.site.repository / "plain" / "pool").exists()
    stats = made.backup.custom["_run"]["odkops_central_backup"]
    assert {host: one["parts"] for host, one in stats.items()} == {
        "full": "blobs,config,database,enketo",
        "plain": "database",
    }


# --- each member ------------------------------------------------------------------------------------------------


def test_the_database_by_hand(made: Made) -> None:
    plain = by_hand.decrypted(made.part("database"), made.site.passphrase_file)
    listed = by_hand.in_container(made.site.demo, "service", "pg_restore --list", plain).decode()
    assert "TABLE DATA public submissions" in listed
    try:
        by_hand.load(made.site.demo, plain, "by_hand")
        assert by_hand.counts(made.site.demo, "by_hand") == made.counts
        assert by_hand.digest_of_submissions(made.site.demo, "by_hand") == made.submissions
    finally:
        by_hand.in_container(made.site.demo, "postgres14", "dropdb -U odk --if-exists by_hand")
    assert made.manifest["database"]["tables"] == made.counts
    assert made.counts["public.submissions"] > 0
    status = {
        status: int(count) for status, count in made.site.psql("SELECT s3_status, count(*) FROM blobs GROUP BY 1")
    }
    assert made.manifest["database"]["central"]["blobs"] == status
    # Some are in S3, some in the database, unless the Central's own cron has just moved those (05:00 UTC).
    assert status["uploaded"] > KEPT


def test_enketo_by_hand(made: Made) -> None:
    folder = made.site.folder / "by hand" / "enketo"
    members = by_hand.unpacked(made.part("enketo"), made.site.passphrase_file, folder)
    assert {name.removeprefix("secrets/"): content for name, content in members.items() if "secrets/" in name} == (
        enketo_secrets(made.site.demo)
    )
    assert any(key.startswith("id:") for key in made.redis)
    assert any(key.startswith("or:") for key in made.redis)
    assert by_hand.everything_in(members["redis.jsonl"]) == made.redis
    assert by_hand.everything_in_rdb(made.site.demo, members["enketo-main.rdb"]) == made.redis


def test_the_configuration_by_hand(made: Made) -> None:
    folder = made.site.folder / "by hand" / "config"
    members = by_hand.unpacked(made.part("config"), made.site.passphrase_file, folder)
    checkout = Path(made.site.demo["compose_dir"])
    wanted = [".env", "docker-compose.yml", "files/nginx/odk.conf.template", "files/nginx/client-config.json.template"]
    wanted += [str(path.relative_to(checkout)) for path in (checkout / "files/local/customssl").glob("*.pem")]
    assert len(wanted) > 4
    for name in wanted:
        assert members[f"checkout/{name}"] == (checkout / name).read_bytes(), name
    assert made.site.s3["secret_key"].encode() in members["checkout/.env"]
    index = json.loads(members["config.json"])
    assert index["project"] == made.site.demo["compose_project"]


def test_the_objects_by_hand(made: Made) -> None:
    rows = made.site.psql("SELECT id, sha, md5 FROM blobs WHERE s3_status = 'uploaded' ORDER BY id")
    stored = {path.name: path.read_bytes() for path in made.site.bucket.iterdir()}
    named = {f"blob-{number}-{sha}": md5 for number, sha, md5 in rows}
    assert set(stored) == set(named)
    listed = [json.loads(line) for line in made.part("blobs").read_text().splitlines()]
    assert len(listed) == len(rows)
    for entry in listed:
        assert entry == {
            "key": entry["key"],
            "md5": named[entry["key"]],
            "sha1": entry["key"].rpartition("-")[2],
            "size": len(stored[entry["key"]]),
        }
    opened = by_hand.open_pool(made.pool, made.site.passphrase_file, made.site.folder / "by hand" / "pool")
    assert set(opened) == set(named)
    for name, content in opened.items():
        assert by_hand.sha1(content) == name.rpartition("-")[2]
        assert content == stored[name]
    kept = made.pool / "objects"
    assert not any(content[:64] in path.read_bytes() for path in kept.rglob("*.bin") for content in opened.values())


def test_the_role_exports_it_as_documented(made: Made) -> None:
    """With the very playbook of docs/export.md."""
    site, shelf = made.site, made.site.folder / "shelf"
    shelf.mkdir()
    (playbook,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "export.md").read_text("utf-8"), re.DOTALL)
    path = site.folder / "export.yml"
    path.write_text(playbook.replace("/mnt/disk", str(shelf)), "utf-8")
    inventory = site.inventory("export", {"full": site.host()})
    checked = site.run(str(path), inventory, check=True)
    assert checked.rc == 0, checked.output
    assert list(shelf.iterdir()) == []
    exported = site.run(str(path), inventory)
    assert exported.rc == 0, exported.output
    command = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    summed = subprocess.run(command, cwd=shelf / "full", capture_output=True, text=True, check=False)
    assert (summed.returncode, summed.stdout) == (0, ""), summed.stderr
    place = shelf / "full" / "full" / "sets" / made.path.name
    assert {one.name: one.read_bytes() for one in place.iterdir()} == {
        one.name: one.read_bytes() for one in made.path.iterdir()
    }
    pool = shelf / "full" / made.pool.relative_to(site.repository)
    opened = by_hand.open_pool(pool, site.passphrase_file, site.folder / "by hand" / "exported pool")
    assert len(opened) == made.manifest["parts"]["blobs"]["objects"] > 0


# --- secrets ----------------------------------------------------------------------------------------------------


def test_no_secret_is_left_anywhere(made: Made) -> None:
    """Each run is watched and its output searched by :meth:`FullSite.run`; here is what was left on disks."""
    site = made.site
    assert site.samples > 50
    assert site.leaks() == {}
    assert site.needles.within(site.container_logs()) == set()
    assert made.after == made.before
    logged = (site.state / "log").read_text("utf-8")
    assert "central_enketo_backup" in logged  # it is not empty because nobody logs
    # What is in clear, and what is not: nothing that is searched is merely unreadable.
    for path in (made.path / "manifest.json", made.part("blobs")):
        assert site.needles.within(path.read_bytes()) == set()
    config = by_hand.decrypted(made.part("config"), site.passphrase_file)
    assert site.needles.within(config) >= {"S3 secret key", "database password"}
    enketo = by_hand.decrypted(made.part("enketo"), site.passphrase_file)
    assert site.needles.within(enketo) >= {"enketo-secret", "enketo-less-secret", "enketo-api-key"}


def test_check_mode_makes_nothing(full_site: FullSite, made: Made) -> None:
    site, elsewhere = full_site, full_site.folder / "checked"
    hosts = {
        "full": site.host(central_repository=str(elsewhere)),
        "plain": site.host_without_project(central_repository=str(elsewhere)),
        "again": site.host(central_name="full"),
    }
    before = {path: path.stat().st_mtime_ns for path in site.repository.rglob("*")}
    outcome = site.run("backup", site.inventory("check", hosts), check=True)
    assert outcome.rc == 0, outcome.output
    assert not elsewhere.exists()
    assert {path: path.stat().st_mtime_ns for path in site.repository.rglob("*")} == before
    for host in hosts:
        assert outcome.hosts[host]["failures"] == 0
        assert any("Nothing was made" in str(one.get("msg")) for one in outcome.of("debug", host))
    assert "odkops_central_backup" not in outcome.custom.get("_run", {})
    # What a backup would fetch, said by the live database, the pool and the S3 server.
    uploaded = int(site.psql("SELECT count(*) FROM blobs WHERE s3_status = 'uploaded'")[0][0])
    said = {host: str(outcome.of("debug", host)[-1]["msg"]) for host in hosts}
    assert f" {uploaded} objects, " in said["full"]
    assert f"has the {uploaded} of them that it was asked for" in said["full"]
    assert "Objects in S3 were not looked at." in said["plain"]
    assert "No objects would be fetched from S3." in said["again"]
