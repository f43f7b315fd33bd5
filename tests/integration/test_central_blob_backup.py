# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""central_blob_backup against a demo Central that has moved its attachments to S3 by itself."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import Demo, Result, ensure_demo, run_module
from support.demo import central, sole_user
from support.s3_servers import (
    ACCESS_KEY,
    BUCKET,
    SECRET_KEY,
    S3Server,
    open_with_rclone,
    rclone_program,
    rclone_server,
)

NAME = "odkblobs"


def gateway(demo: Demo) -> str:
    """The address of this host as the demo's containers see it."""
    network = "{{range .NetworkSettings.Networks}}{{.Gateway}} {{end}}"
    command = ["docker", "inspect", "--format", network, demo.container("service")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


@pytest.fixture(scope="module")
def s3_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Demo, S3Server]]:
    """A demo Central of our own, whose blobs are in S3 afterwards, and the server."""
    with sole_user(NAME):
        demo = ensure_demo(NAME)
        try:
            with rclone_server(tmp_path_factory.mktemp("s3"), gateway(demo)) as server:
                with Path(demo["compose_dir"], ".env").open("a", encoding="utf-8") as file:
                    file.write(
                        f"S3_SERVER={server.address}\nS3_ACCESS_KEY={ACCESS_KEY}\nS3_SECRET_KEY={SECRET_KEY}\n"
                        f"S3_BUCKET_NAME={BUCKET}\n"
                    )
                demo.compose("up", "-d", "--no-build", "service", timeout=300)
                central("up", "--name", NAME)
                demo.execute("service", "node", "lib/bin/s3.js", "upload-pending")
                yield demo, server
        finally:
            central("clean", "--name", NAME)


def run(demo: Demo, work: Path, **options: Any) -> Result:
    """Dump the database, and back its objects up."""
    passphrase = work / "passphrase"
    if not passphrase.exists():
        passphrase.write_text("correct horse battery staple 42\n")
        (work / "repository").mkdir()
        dump = run_module(
            "central_backup",
            {**demo.login, "dest": str(work / "database.pgdump.enc.bin"), "passphrase_file": str(passphrase)},
        )
        assert not dump.failed, dump.result
    (work / "blobs.jsonl").unlink(missing_ok=True)
    given = {
        "repository": str(work / "repository"),
        "central": "demo",
        "backup": str(work / "database.pgdump.enc.bin"),
        "dest": str(work / "blobs.jsonl"),
        "passphrase_file": str(passphrase),
        "rclone_path": rclone_program(),
        "project_directory": demo["compose_dir"],
        "project": demo["compose_project"],
        **options,
    }
    return run_module("central_blob_backup", given)


def test_the_objects_of_a_central(s3_demo: tuple[Demo, S3Server], tmp_path: Path) -> None:
    demo, _server = s3_demo
    uploaded = int(demo.psql("select count(*) from blobs where s3_status = 'uploaded'"))
    assert uploaded > 0
    result = run(demo, tmp_path)
    assert not result.failed, result.result
    assert (result["objects"], result["fetched"]) == (uploaded, uploaded)
    assert SECRET_KEY not in result.stdout + result.stderr
    assert "unencrypted" in str(result["notes"])
    open_with_rclone(Path(result["pool_path"]), "correct horse battery staple 42", tmp_path / "opened")
    opened = {path.name: path.read_bytes() for path in (tmp_path / "opened").rglob("blob-*")}
    rows = demo.psql("select id, sha, md5 from blobs where s3_status = 'uploaded'").splitlines()
    for number, sha, md5 in (row.split("\t") for row in rows):
        content = opened.pop(f"blob-{number}-{sha}")
        assert (hashlib.sha1(content).hexdigest(), hashlib.md5(content).hexdigest()) == (sha, md5)
    assert opened == {}
    assert run(demo, tmp_path)["fetched"] == 0


def test_put_back_into_the_bucket_of_the_central(s3_demo: tuple[Demo, S3Server], tmp_path: Path) -> None:
    """Where it is and whose it is, is asked of the Central."""
    demo, server = s3_demo
    made = run(demo, tmp_path)
    assert made["s3"] == {"server": server.address, "bucket": BUCKET, "prefix": ""}
    before = {path.name: path.read_bytes() for path in server.bucket.iterdir()}
    lost = sorted(before)[1:]
    for name in lost:
        (server.bucket / name).unlink()
    options = {
        "repository": str(tmp_path / "repository"),
        "central": "demo",
        "list": made["path"],
        "passphrase_file": str(tmp_path / "passphrase"),
        "rclone_path": rclone_program(),
        "project_directory": demo["compose_dir"],
        "project": demo["compose_project"],
    }
    assert run_module("central_blob_restore", options).diagnosis == "shared_bucket"  # no set says whose the objects are
    options["source_retired"] = True
    assert run_module("central_blob_restore", options, check=True)["would_send"] == len(lost)
    done = run_module("central_blob_restore", options)
    assert not done.failed, done.result
    assert (done["present"], done["sent"]) == (1, len(lost))
    assert {path.name: path.read_bytes() for path in server.bucket.iterdir()} == before
    assert run_module("central_blob_restore", options)["changed"] is False


def test_purged_is_told_from_lost(s3_demo: tuple[Demo, S3Server], tmp_path: Path) -> None:
    """A row that is gone from the live database is a note; a row that is there and has no object is a failure."""
    demo, server = s3_demo
    run(demo, tmp_path, central="before")
    purged, lost = demo.psql(
        'select id, sha from blobs where id in (select "blobId" from submission_attachments) '
        "and s3_status = 'uploaded' order by id limit 2"
    ).splitlines()
    number, sha = purged.split("\t")
    demo.psql(
        f'update submission_attachments set "blobId" = null where "blobId" = {number}; delete from blobs where id = {number}'
    )
    (server.bucket / f"blob-{number}-{sha}").unlink()
    result = run(demo, tmp_path)
    assert not result.failed, result.result
    assert result["purged"] == 1
    name = "blob-{}-{}".format(*lost.split("\t"))
    content = (server.bucket / name).read_bytes()
    (server.bucket / name).unlink()
    failed = run(demo, tmp_path, central="after")
    assert (failed.diagnosis, failed["missing_objects"]) == ("missing_blob", [name])
    (server.bucket / name).write_bytes(content)
