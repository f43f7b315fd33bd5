# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""central_blob_restore as Ansible runs it: from a sealed set into real S3 servers, looked at by boto3 and on the disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository
from ansible_collections.odkops.central.plugins.module_utils._seal import SetFacts, seal_set

from support import Result, run_module
from support.fake_docker import FakeDocker
from support.modules import module_command, module_environment, wire_arguments
from support.s3_servers import (
    ACCESS_KEY,
    BUCKET,
    PASSPHRASE,
    SECRET_KEY,
    S3Server,
    content_of,
    fill,
    moto_server,
    options_of,
    rclone_program,
    rclone_server,
    write_list,
)
from support.secret_watch import Needles, Watch, files_with
from support.sets import HELD, database_part

CENTRAL = DOMAIN = "central.example.org"
OBJECTS = range(997, 1007)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


class Backup:
    """A sealed set of objects that are in the bucket of `server`, and the pool, as the collection's modules make them."""

    def __init__(self, folder: Path, server: S3Server) -> None:
        self.folder, self.server = folder, server
        self.repository = folder / "repository"
        opened = Repository(str(self.repository)).open_set(CENTRAL)
        partial = Path(opened.path)
        self.set = partial.with_name(opened.set_id)
        self.entries = fill(server, OBJECTS)
        self.passphrase_file = folder / "passphrase"
        self.passphrase_file.write_text(PASSPHRASE + "\n")
        made = run_module(
            "central_blob_backup",
            {
                "repository": str(self.repository),
                "central": CENTRAL,
                "list": str(write_list(folder / "list", self.entries)),
                "dest": str(partial / "blobs.jsonl"),
                **self.common,
                **server.options,
            },
        )
        assert not made.failed, made
        self.s3 = made["s3"]
        names = ("format", "size", "sha256", "encrypted", "pool", "s3")
        database = database_part()
        (partial / "database").write_bytes(b"Salted__" + bytes(range(256)) * 40)
        absent = {"enketo": "Not wanted.", "config": "Not wanted."}
        seal_set(
            Repository(str(self.repository)),
            CENTRAL,
            opened.set_id,
            {"database": database, "blobs": {name: made[name] for name in names}},
            SetFacts(absent, {"domain": DOMAIN}, HELD, {}, []),
            PASSPHRASE,
        )

    @property
    def common(self) -> dict[str, Any]:
        return {"passphrase_file": str(self.passphrase_file), "rclone_path": rclone_program()}

    def options(self, **more: Any) -> dict[str, Any]:
        given = {"set": str(self.set), "domain": DOMAIN, **self.common, **self.server.options, **more}
        return {name: value for name, value in given.items() if value is not None}

    def restore(self, check: bool = False, **more: Any) -> Result:
        return run_module("central_blob_restore", self.options(**more), check)

    def lose(self) -> None:
        for path in self.server.bucket.iterdir():
            path.unlink()

    def assert_all_there(self) -> None:
        """The names say which SHA-1 each file must have."""
        found = {path.name: hashlib.sha1(path.read_bytes()).hexdigest() for path in self.server.bucket.iterdir()}
        assert found == {entry.name: entry.sha1 for entry in self.entries}
        assert all(name.endswith(sha1) for name, sha1 in found.items())


@pytest.fixture(scope="module")
def backup(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Backup:
    return Backup(tmp_path_factory.mktemp("backup"), server)


@pytest.fixture(autouse=True)
def _lost(backup: Backup) -> None:
    backup.lose()


def test_the_manifest_says_where_the_objects_were(backup: Backup) -> None:
    assert backup.s3 == {"server": backup.server.address, "bucket": BUCKET, "prefix": ""}
    assert SECRET_KEY not in (backup.set / "manifest.json").read_text()


def test_there_and_back(backup: Backup) -> None:
    rehearsed = backup.restore(check=True)
    assert (rehearsed["changed"], rehearsed["would_send"]) == (True, len(OBJECTS))
    assert list(backup.server.bucket.iterdir()) == []
    with Watch(Needles({"passphrase": PASSPHRASE, "secret key": SECRET_KEY})) as watch:
        done = backup.restore()
    assert not done.failed, done
    assert (done["changed"], done["sent"], done["missing"]) == (True, len(OBJECTS), 0)
    # The server of the tests has its keys in its arguments.
    assert {one for one in watch.found if "--auth-key" not in one} == set()
    assert SECRET_KEY not in done.stdout + done.stderr
    assert PASSPHRASE not in done.stdout + done.stderr
    backup.assert_all_there()
    assert backup.restore()["changed"] is False


def test_another_server(backup: Backup) -> None:
    """moto knows more of S3 than rclone's server; boto3 looks at what is in it."""
    with moto_server() as address:
        keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY, "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=address, **keys)
        assert backup.restore(**options_of(address), domain="new.example.org").diagnosis == "s3_failed"
        client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="odk/other", Body=b"mine")
        options = {**options_of(address), "s3_prefix": "odk/", "domain": "new.example.org"}
        done = backup.restore(**options)
        assert not done.failed, done
        listed = [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET)["Contents"]]
        assert sorted(listed) == sorted(["odk/other", *(f"odk/{entry.name}" for entry in backup.entries)])
        for entry in backup.entries:
            body = client.get_object(Bucket=BUCKET, Key=f"odk/{entry.name}")["Body"].read()
            assert hashlib.sha1(body).hexdigest() == entry.sha1
        assert backup.restore(**options)["changed"] is False
        client.put_object(Bucket=BUCKET, Key=f"odk/{backup.entries[0].name}", Body=b"x" * 2000)
        assert backup.restore(**options).diagnosis == "blob_differs"
        client.close()


def test_another_central_in_the_same_bucket(backup: Backup) -> None:
    refused = backup.restore(domain="copy.example.org")
    assert (refused.diagnosis, refused["source_domain"]) == ("shared_bucket", DOMAIN)
    assert backup.restore(domain=None).diagnosis == "shared_bucket"
    assert list(backup.server.bucket.iterdir()) == []
    assert backup.restore(check=True, domain="copy.example.org", s3_prefix="copy/")["would_send"] == len(OBJECTS)
    assert backup.restore(domain="copy.example.org", source_retired=True)["sent"] == len(OBJECTS)
    backup.assert_all_there()


def test_asked_of_the_central(backup: Backup, tmp_path: Path) -> None:
    """Which Central it is, and where it has its objects, where nothing is given."""
    docker = FakeDocker.make(tmp_path / "docker", "service")
    (tmp_path / "docker-compose.yml").write_text("services: {}\n")
    for name, text in {
        "node": 'printf \'{"server":"%s","bucket":"%s","access_key":"%s","secret_key":"%s","prefix":""}\' '
        f"{backup.server.address} {BUCKET} {ACCESS_KEY} {SECRET_KEY}",
        "psql": "exit 2",
        "pg_dump": "exit 1",
    }.items():
        (docker.path / name).write_text(f"#!/bin/sh\n{text}\n")
        (docker.path / name).chmod(0o755)
    none = dict.fromkeys((*options_of(""), "domain"))
    options = backup.options(**none, project_directory=str(tmp_path), docker_command=[docker.command])
    path = docker.environment["PATH"]
    refused = run_module("central_blob_restore", options, env={"PATH": path, "DOMAIN": "copy.example.org"})
    assert (refused.diagnosis, refused["target_domain"]) == ("shared_bucket", "copy.example.org")
    done = run_module("central_blob_restore", options, env={"PATH": path, "DOMAIN": DOMAIN})
    assert not done.failed, done
    backup.assert_all_there()


def test_by_a_list(backup: Backup) -> None:
    """Without a set, the newest sets of the Central say whose the objects are."""
    options = {
        "set": None,
        "repository": str(backup.repository),
        "central": CENTRAL,
        "list": str(backup.folder / "list"),
    }
    assert backup.restore(**options, domain="copy.example.org").diagnosis == "shared_bucket"
    assert backup.restore(**options)["sent"] == len(OBJECTS)
    backup.assert_all_there()


def test_a_set_that_was_changed(backup: Backup) -> None:
    path = backup.set / "blobs.jsonl"
    before = path.read_bytes()
    path.write_bytes(before[::-1])
    try:
        assert backup.restore().diagnosis == "corrupt"
    finally:
        path.write_bytes(before)
    assert backup.restore(passphrase_file=None, passphrase="another one, quite long").diagnosis == "wrong_passphrase"
    assert backup.restore(passphrase_file=None).diagnosis == "no_passphrase"
    assert list(backup.server.bucket.iterdir()) == []


def whole(backup: Backup) -> list[Path]:
    """What has arrived; the server begins files before it has all of them."""
    return [path for path in backup.server.bucket.iterdir() if path.stat().st_size == 2000]


def test_killed(backup: Backup, tmp_path: Path) -> None:
    """What a killed run has sent is whole, it leaves no process, and the next one goes on."""
    options = backup.options(bandwidth_limit="2K", transfers=2)
    with tempfile.TemporaryDirectory() as work:
        process = subprocess.Popen(
            module_command("central_blob_restore"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=module_environment(),
        )
        with process:
            assert process.stdin
            process.stdin.write(wire_arguments(options, tmpdir=work))
            process.stdin.close()
            until = time.monotonic() + 60
            while len(whole(backup)) < 2 and time.monotonic() < until:
                assert process.poll() is None
                time.sleep(0.02)
            os.kill(process.pid, signal.SIGKILL)
        until = time.monotonic() + 30
        while _running(work) and time.monotonic() < until:
            time.sleep(0.1)
        assert _running(work) == []
        assert files_with(Needles({"secret key": SECRET_KEY, "passphrase": PASSPHRASE}), [Path(work)], []) == {}
    sent = {path.name: path.read_bytes() for path in whole(backup)}
    assert 0 < len(sent) < len(OBJECTS)
    assert sent == {entry.name: content_of(entry.id) for entry in backup.entries if entry.name in sent}
    done = backup.restore()
    assert (done["present"], done["sent"]) == (len(sent), len(OBJECTS) - len(sent))
    backup.assert_all_there()


def _running(work: str) -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            arguments = path.read_bytes()
            if work.encode() in arguments:
                found.append(arguments)
    return found


def test_a_server_that_is_away(backup: Backup) -> None:
    """Nothing is said to be there, and nothing is changed; when it is back all of it goes there."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = {"s3_server": f"http://127.0.0.1:{nobody.getsockname()[1]}"}
        before = {path: path.stat().st_mtime_ns for path in backup.folder.rglob("*")}
        failed = backup.restore(**away)
        rehearsed = backup.restore(check=True, **away)
    for found in (failed, rehearsed):
        assert (found.failed, found.diagnosis, found["changed"]) == (True, "s3_failed", False), found
        assert SECRET_KEY not in found.stdout + found.stderr
    assert {path: path.stat().st_mtime_ns for path in backup.folder.rglob("*")} == before
    assert list(backup.server.bucket.iterdir()) == []
    assert not backup.restore().failed
    backup.assert_all_there()
