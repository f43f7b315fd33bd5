# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module as Ansible runs it: in a process of its own, killed at any moment, against real S3 servers."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry

from support import Result, run_module
from support.fake_docker import FakeDocker
from support.modules import module_command, module_environment, wire_arguments
from support.paths import ROOT
from support.s3_servers import (
    ACCESS_KEY,
    BUCKET,
    PASSPHRASE,
    SECRET_KEY,
    S3Server,
    clean_environment,
    content_of,
    entry_of,
    fill,
    moto_server,
    open_with_rclone,
    options_of,
    rclone_program,
    write_list,
)

Backup = Callable[..., Result]

pytest_plugins = ["support.s3_fixtures"]
pytestmark = pytest.mark.usefixtures("empty_bucket")


@pytest.fixture
def arguments(tmp_path: Path, server: S3Server) -> dict[str, Any]:
    passphrase = tmp_path / "passphrase"
    passphrase.write_text(PASSPHRASE + "\n")
    (tmp_path / "repository").mkdir(mode=0o700)
    return {
        "repository": str(tmp_path / "repository"),
        "central": "central.example.org",
        "list": str(tmp_path / "list"),
        "dest": str(tmp_path / "blobs.jsonl"),
        "passphrase_file": str(passphrase),
        "rclone_path": rclone_program(),
        **server.options,
    }


@pytest.fixture
def backup(arguments: dict[str, Any]) -> Backup:
    def run(entries: list[BlobEntry] | None = None, check: bool = False, **options: Any) -> Result:
        given = {**arguments, **options}
        if entries is not None:
            write_list(Path(given["list"]), entries)
        Path(given["dest"]).unlink(missing_ok=True)
        given = {name: value for name, value in given.items() if value is not None}
        return run_module("central_blob_backup", given, check=check)

    return run


def only_pool(repository: Path) -> Path:
    (pool,) = (repository / "central.example.org" / "pool").iterdir()
    return pool


def test_what_it_returns(backup: Backup, server: S3Server, tmp_path: Path) -> None:
    entries = fill(server, range(1, 6))
    result = backup(entries)
    assert not result.failed, result.result
    assert result["changed"] is True
    assert (result["objects"], result["fetched"], result["objects_size"]) == (5, 5, 10_000)
    assert result["format"] == "jsonl"
    assert Path(result["path"]).stat().st_size == result["size"]
    assert re.fullmatch(r"[0-9a-f]{16}", result["pool"])
    assert result["rclone_version"].count(".") == 2
    again = backup(entries)
    assert (again["fetched"], again["pool"], again["sha256"]) == (0, result["pool"], result["sha256"])
    assert "rclone_version" not in again.result


def test_nothing_secret_is_left_or_said(backup: Backup, server: S3Server, tmp_path: Path) -> None:
    entries = fill(server, range(1, 4))
    good = backup(entries)
    (server.bucket / entries[0].name).write_bytes(b"wrong")
    bad = backup([*entries, entry_of(9, b"nowhere")], central="other")
    assert bad.diagnosis == "missing_blob"
    for result in (good, bad):
        for stream in (result.stdout, result.stderr):
            # Ansible hands back what it was given, with values that are marked as secret blotted out.
            assert SECRET_KEY not in stream
            assert PASSPHRASE not in stream
    left = [path.read_bytes() for path in (tmp_path / "repository").rglob("*") if path.is_file()]
    assert left
    for data in left:
        assert SECRET_KEY.encode() not in data
        assert PASSPHRASE.encode() not in data


def test_the_documentation_opens_the_pool(backup: Backup, server: S3Server, tmp_path: Path) -> None:
    """The commands of docs/pool.md, with the paths of this test."""
    entries = fill(server, [7, 4711])
    backup(entries)
    text = (ROOT / "docs" / "pool.md").read_text("utf-8")
    blocks = re.findall(r"```\n(export RCLONE.*?)```.*?```\n(rclone hashsum.*?)```", text, re.DOTALL)
    commands = "\n".join(blocks[0])
    for before, after in (
        (r"/var/backups/\S+/objects", str(only_pool(tmp_path / "repository") / "objects")),
        (r"/etc/odk-central-backup/passphrase", str(tmp_path / "passphrase")),
        (r"/srv/opened", str(tmp_path / "opened")),
        (r"blob-7-[0-9a-f]{40}", entries[0].name),
    ):
        commands = re.sub(before, after, commands)
    environment = clean_environment()
    environment.update(RCLONE_CONFIG="/dev/null", PATH=f"{Path(rclone_program()).parent}:{environment['PATH']}")
    done = subprocess.run(["bash", "-euc", commands], capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert content_of(7) in done.stdout
    assert (tmp_path / "opened" / "4" / entries[1].name).read_bytes() == content_of(4711)
    assert b"\n/" not in done.stdout


# --- the list ---------------------------------------------------------------------------------------------------


def test_the_list_is_read_from_a_backup(backup: Backup, tmp_path: Path, samples: Path) -> None:
    given = {"list": None, "passphrase_file": None, "passphrase": "correct horse", "allow_weak_passphrase": True}
    nothing = backup(backup=str(samples / "new-blobs-pg14-gzip-pass.pgdump.enc.bin"), **given)
    assert (nothing["objects"], nothing["changed"]) == (0, False)
    assert "path" not in nothing.result
    assert list((tmp_path / "repository").iterdir()) == []
    in_s3 = str(samples / "new-pg14-gzip-pass.pgdump.enc.bin")
    for check in (True, False):
        failed = backup(backup=in_s3, check=check, **given)
        assert (failed.diagnosis, failed["missing"]) == ("missing_blob", 148)
    assert backup(backup=in_s3, **{**given, "passphrase": "another passphrase"}).diagnosis == "wrong_passphrase"


def test_an_empty_draft_is_removed(backup: Backup, arguments: dict[str, Any], tmp_path: Path) -> None:
    draft = write_list(tmp_path / "draft.jsonl", [])
    result = run_module("central_blob_backup", {**arguments, "list": str(draft), "dest": str(draft)})
    assert (result["objects"], result["changed"]) == (0, True)
    assert not draft.exists()


@pytest.mark.parametrize(
    ("options", "diagnosis"),
    [
        ({"passphrase_file": None}, "no_passphrase"),
        ({"passphrase_file": None, "passphrase": "short"}, "weak_passphrase"),
        ({"repository": "/nonexistent/odk"}, "not_a_repository"),
        ({"central": "../x"}, "bad_name"),
        ({"rclone_path": "/nonexistent/rclone"}, "missing_rclone"),
        ({"transfers": 0}, "bad_option"),
        ({"reread_days": -1}, "bad_option"),
        ({"bandwidth_limit": "fast"}, "bad_option"),
        ({"s3_server": None}, "bad_option"),
        ({"s3_bucket": "a/b"}, "bad_option"),
        ({"list": "/nonexistent/list"}, "unreadable"),
    ],
)
def test_what_is_refused(
    backup: Backup, server: S3Server, tmp_path: Path, options: dict[str, Any], diagnosis: str
) -> None:
    entries = None if "list" in options else fill(server, [1])
    result = backup(entries, **options)
    assert result.failed
    assert result.diagnosis == diagnosis, result.result
    assert not (tmp_path / "blobs.jsonl").exists()


def test_a_list_or_a_backup_is_needed(backup: Backup) -> None:
    assert "one of the following is required: list, backup" in backup(list=None)["msg"]


# --- a Central to ask -------------------------------------------------------------------------------------------


@pytest.fixture
def docker(tmp_path: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The options of a Central on this host whose ``psql`` still has the rows 1 to 3."""
    fake = FakeDocker.make(tmp_path / "docker", "service")
    project = tmp_path / "project"
    project.mkdir()
    (project / "docker-compose.yml").write_text("services: {}\n")
    (fake.path / "psql").write_text("#!/bin/sh\necho 1; echo 2; echo 3\n")
    (fake.path / "psql").chmod(0o755)
    for name, value in (
        *(("S3_SERVER", server.address), ("S3_BUCKET_NAME", BUCKET)),
        *(("S3_ACCESS_KEY", ACCESS_KEY), ("S3_SECRET_KEY", SECRET_KEY), ("PATH", fake.environment["PATH"])),
    ):
        monkeypatch.setenv(name, value)
    return {
        "project_directory": str(project),
        "docker_command": [fake.command],
        **{f"s3_{name}": None for name in ("server", "bucket", "access_key", "secret_key")},
    }


#: as COPY writes what is not known
NULL = "\\N"


def calls(tmp_path: Path) -> list[str]:
    return re.findall(r"\t(s3-settings|blobs-in-database)\t", (tmp_path / "docker" / "calls").read_text())


def test_the_central_says_where_its_objects_are(
    backup: Backup, server: S3Server, docker: dict[str, Any], tmp_path: Path
) -> None:
    entries = fill(server, range(1, 5))
    result = backup(entries, **docker)
    assert not result.failed, result.result
    assert SECRET_KEY not in result.stdout
    assert calls(tmp_path) == ["s3-settings"]
    assert SECRET_KEY not in (tmp_path / "docker" / "calls").read_text()
    assert backup(entries, **docker)["fetched"] == 0
    # Asked again although nothing is fetched: where the objects are is in the manifest of each set.
    assert calls(tmp_path) == ["s3-settings", "s3-settings"]


def test_the_central_says_what_was_purged(
    backup: Backup, server: S3Server, docker: dict[str, Any], tmp_path: Path
) -> None:
    entries = fill(server, range(1, 5))
    (server.bucket / entries[3].name).unlink()
    result = backup(entries, **docker)
    assert result["purged"] == 1
    assert calls(tmp_path) == ["s3-settings", "blobs-in-database"]
    (server.bucket / entries[2].name).unlink()
    failed = backup(entries, **docker, central="other")
    assert failed["missing_objects"] == [entries[2].name]


# --- check mode -------------------------------------------------------------------------------------------------


def test_check_mode(backup: Backup, server: S3Server, tmp_path: Path) -> None:
    entries = fill(server, range(1, 5))
    result = backup(entries, check=True)
    assert (result["objects"], result["would_fetch"], result["would_fetch_size"]) == (4, 4, 8000)
    assert list((tmp_path / "repository").iterdir()) == []
    assert not (tmp_path / "blobs.jsonl").exists()
    assert backup(entries, check=True, rclone_path="/nonexistent").diagnosis == "missing_rclone"
    assert backup(entries, check=True, s3_server="nowhere").diagnosis == "bad_option"
    backup(entries)
    assert backup(entries, check=True)["would_fetch"] == 0


@pytest.mark.parametrize("source", [{}, {"list": None, "backup": "/nonexistent/database.pgdump.enc.bin"}])
def test_check_mode_without_a_list(backup: Backup, source: dict[str, Any]) -> None:
    result = backup(check=True, **source)
    assert not result.failed
    assert "no list" in str(result["warnings"])


def test_check_mode_asks_the_live_database(
    backup: Backup, server: S3Server, docker: dict[str, Any], tmp_path: Path
) -> None:
    """Where nothing has written a list: there is no dump in check mode, and perhaps no repository."""
    entries = fill(server, range(1, 5))
    rows = "".join(f"{one.id}\t{one.sha1}\t{one.md5 if one.id != 2 else NULL}\t{one.size}\n" for one in entries)
    (tmp_path / "rows").write_text(rows)
    psql = tmp_path / "docker" / "psql"
    answers = f'*COPY*) cat {tmp_path}/rows ;; *"count("*) echo 1 ;; *) seq 4 ;;'
    psql.write_text(f'#!/bin/sh\ncase "$*" in {answers} esac\n')
    missing = {"list": None, "backup": "/nonexistent/database.pgdump.enc.bin"}
    for source in ({"list": str(tmp_path / "no list")}, missing, {**missing, "repository": str(tmp_path / "none")}):
        result = backup(check=True, **docker, **source)
        assert not result.failed, result.result
        assert (result["objects"], result["would_fetch"], result["asked_for"]) == (4, 4, 4)
        assert result["would_fetch_size"] == 8000
    assert not (tmp_path / "none").exists()
    (server.bucket / entries[0].name).unlink()
    assert backup(check=True, **docker, **missing)["missing_objects"] == [entries[0].name]
    (tmp_path / "rows").write_text(rows + "5\tnonsense\n")
    assert backup(check=True, **docker, **missing).diagnosis == "operation_failed"
    psql.write_text("#!/bin/sh\necho 0\n")
    assert backup(check=True, **docker, **missing)["objects"] == 0


# --- killed -----------------------------------------------------------------------------------------------------


def started(arguments: dict[str, Any]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        module_command("central_blob_backup"),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=module_environment(),
        cwd=tempfile.gettempdir(),
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(wire_arguments(arguments))
    process.stdin.close()
    return process


def rclones_of(repository: Path) -> list[int]:
    """Processes of rclone that work for a repository."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with contextlib.suppress(OSError):
                command = (path / "cmdline").read_bytes()
                if str(repository).encode() in command and b"rclone" in command.split(b"\0")[0]:
                    found.append(int(path.name))
    return found


def stage(repository: Path) -> str:
    """How far a run has come, as can be seen from outside."""
    if any(repository.glob("*/pool/*/objects/*/*")):
        return "admitting"
    if any(repository.glob("*/pool/*/staging/*/objects/*")):
        return "copying"
    return "starting" if any(repository.glob("*/pool/*/lock")) else "nothing"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("wanted", ["starting", "copying", "admitting", "random"])
def test_killed_at_any_moment(
    backup: Backup,
    arguments: dict[str, Any],
    server: S3Server,
    tmp_path: Path,
    wanted: str,
    number: signal.Signals,
) -> None:
    entries = fill(server, range(1, 301), size=20_000)
    repository = tmp_path / "repository"
    write_list(tmp_path / "list", entries)
    process = started({**arguments, "bandwidth_limit": "8M" if wanted == "copying" else "100M"})
    until = time.monotonic() + 20
    pause = random.Random().uniform(0, 2)
    if wanted == "random":
        time.sleep(pause)
    while wanted != "random" and stage(repository) != wanted and time.monotonic() < until:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(number)
    process.wait(20)
    until = time.monotonic() + 10
    while rclones_of(repository) and time.monotonic() < until:
        time.sleep(0.05)
    assert rclones_of(repository) == []
    done = (tmp_path / "blobs.jsonl").exists()
    assert done in ((False,) if wanted in ("starting", "copying") else (False, True)), pause
    # Whatever has a name in the pool is whole.
    there = list(repository.glob("*/pool/*/objects/*/*.bin"))
    if there:
        open_with_rclone(only_pool(repository), PASSPHRASE, tmp_path / "opened")
        opened = {path.name: path.read_bytes() for path in (tmp_path / "opened").rglob("blob-*")}
        assert opened == {entry.name: content_of(entry.id, 20_000) for entry in entries if entry.name in opened}
        assert len(opened) == len(there)
    result = backup()
    assert not result.failed, result.result
    assert (result["objects"], result["pool_objects"]) == (300, 300)
    assert result["fetched"] == 300 - len(there)
    assert sorted(path.name for path in only_pool(repository).iterdir()) == ["index.sqlite", "lock", "objects"]


# --- another S3 server ------------------------------------------------------------------------------------------


def test_with_a_server_that_knows_parts(backup: Backup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """moto: objects that were uploaded in parts have an ETag that is no MD5, and keys with a prefix."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    import boto3

    with moto_server() as address:
        client = boto3.client(
            "s3",
            endpoint_url=address,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=BUCKET)
        entries = []
        for number, size in ((1, 1000), (2, 6 * 1024 * 1024), (3, 1)):
            content = content_of(number, size)
            entries.append(entry_of(number, content))
            key = f"prefix/x-{entries[-1].name}"
            if size > 5 * 1024 * 1024:
                upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
                parts = []
                for part, start in enumerate(range(0, size, 5 * 1024 * 1024), 1):
                    body = content[start : start + 5 * 1024 * 1024]
                    etag = client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=part, Body=body)[
                        "ETag"
                    ]
                    parts.append({"PartNumber": part, "ETag": etag})
                client.complete_multipart_upload(
                    Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
                )
                assert "-2" in client.head_object(Bucket=BUCKET, Key=key)["ETag"]
            else:
                client.put_object(Bucket=BUCKET, Key=key, Body=content)
        options = {**options_of(address), "s3_prefix": "prefix/x-"}
        result = backup(entries, **options)
        assert not result.failed, result.result
        assert result["fetched"] == 3
        open_with_rclone(only_pool(tmp_path / "repository"), PASSPHRASE, tmp_path / "opened")
        assert (tmp_path / "opened" / "0" / entries[1].name).read_bytes() == content_of(2, 6 * 1024 * 1024)
        failed = backup([entry_of(4, b"x")], central="other", **options)
        assert failed.diagnosis == "missing_blob"
        failed = backup([entry_of(4, b"x")], central="other", **{**options, "s3_bucket": "elsewhere"})
        assert failed.diagnosis in ("missing_blob", "s3_failed")
