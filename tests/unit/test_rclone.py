# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What rclone is told, and what is made of what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _rclone, _rclone_run
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._rclone import (
    Rclone,
    S3Settings,
    base_environment,
    crypt_environment,
    find_rclone,
    obscure,
)
from ansible_collections.odkops.central.plugins.module_utils._rclone_run import (
    RcloneJob,
    classify,
    parse_line,
    shortened,
)

from support.s3_servers import clean_environment, rclone_program

# What rclone has said, by version. Objects are shortened.
SAID: dict[str, list[tuple[str, str]]] = {
    "1.75.2": [
        ("missing", "Failed to copy: failed to open source object: object not found"),
        (
            "credentials",
            (
                "Failed to copy: failed to open source object: operation error S3: GetObject, https response error StatusCode: "
                "403, RequestID: , HostID: , api error SignatureDoesNotMatch: The request signature we calculated does not match "
                "the signature you provided. Check your key and signing method."
            ),
        ),
        (
            "unreachable",
            (
                "Failed to copy: failed to open source object: operation error S3: GetObject, exceeded maximum number of "
                'attempts, 2, https response error StatusCode: 0, RequestID: , HostID: , request send failed, Get "http://'
                '127.0.0.1:9/odk/blob-3?x-id=GetObject": dial tcp 127.0.0.1:9: connect: connection refused'
            ),
        ),
        ("disk_full", "Failed to copy: preallocate: file too big for remaining disk space"),
        ("other", "failed to copy file to hasher: failed to authenticate decrypted block - bad password?"),
    ],
    "1.60.1": [
        (
            "missing",
            (
                "Failed to copy: failed to open source object: NoSuchKey: \n\tstatus code: 404, request id: 2E1D86D1D2E3DEAA, "
                "host id: MkUxRDg2RDFEMkUzREVBQTJFMUQ4Ng=="
            ),
        ),
        (
            "credentials",
            (
                "Failed to copy: failed to open source object: SignatureDoesNotMatch: The request signature we calculated does "
                "not match the signature you provided.\n\tstatus code: 403, request id: , host id: "
            ),
        ),
        (
            "bucket",
            (
                "Failed to copy: failed to open source object: NoSuchBucket: The specified bucket does not exist\n\tstatus "
                "code: 404, request id: 2E1D86D1D2E3DEB4, host id: MkUxRDg2RDFEMkUzREVCND"
            ),
        ),
        (
            "unreachable",
            (
                'Failed to copy: failed to open source object: RequestError: send request failed\ncaused by: Get "http://'
                '127.0.0.1:9/odk/blob-99": dial tcp 127.0.0.1:9: connect: connection refused'
            ),
        ),
    ],
}


@pytest.mark.parametrize(
    ("kind", "message"), [pytest.param(*said, id=f"{version}-{said[0]}") for version in SAID for said in SAID[version]]
)
def test_what_it_says_is_understood(kind: str, message: str) -> None:
    assert classify(message) == kind


def test_lines_of_the_log() -> None:
    line = parse_line('{"level":"error","msg":"Failed to copy: x","object":"blob-1","source":"a.go:1"}')
    assert (line.level, line.message, line.object) == ("error", "Failed to copy: x", "blob-1")
    assert parse_line("2026/11/23 03:20:34 Failed to copy: y").message.endswith("y")
    assert parse_line("{broken").object is None


def test_a_message_is_one_line_without_secrets() -> None:
    text = shortened(
        "a\n\tb: my-secret-key, request id: ABC, host id: DEF= x" + "y" * 500, ["my-secret", "my-secret-key"]
    )
    assert text.startswith("a b: *** x")
    assert len(text) < 310


@pytest.mark.parametrize("text", ["a good long passphrase", "ünïcödé ☃ passphrase", "x", " blanks ", "'\"$`\\" * 40])
def test_rclone_understands_what_we_obscure(text: str) -> None:
    environment = {**clean_environment(), "RCLONE_CONFIG": "/dev/null"}
    done = subprocess.run(
        [rclone_program(), "reveal", "--", obscure(text)], capture_output=True, env=environment, check=True
    )
    assert done.stdout.decode() == text + "\n"


def test_nothing_of_our_environment_gets_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RCLONE_DRY_RUN", "RCLONE_CONFIG_SOURCE_TYPE", "AWS_PROFILE", "AWS_CA_BUNDLE", "ANSIBLE_X", "HOME"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    environment = base_environment()
    assert set(environment) <= {*_rclone._KEPT, "LC_ALL", "HOME", "RCLONE_CONFIG"}
    assert environment["HOME"] != "x"
    assert environment["HTTPS_PROXY"] == "http://proxy:3128"


def settings(**more: Any) -> S3Settings:
    given = {"server": "https://s3.example.org", "bucket": "odk", "access_key": "ak", "secret_key": "sk-1234"}
    return S3Settings(**{**given, **more})


@pytest.mark.parametrize(
    ("server", "region", "expected"),
    [
        ("https://s3.eu-west-1.amazonaws.com", "", ("AWS", "eu-west-1")),
        ("https://s3.amazonaws.com", "", ("AWS", "us-east-1")),
        ("https://s3.dualstack.eu-central-1.amazonaws.com/", "", ("AWS", "eu-central-1")),
        ("https://s3.cn-north-1.amazonaws.com.cn", "", ("AWS", "cn-north-1")),
        ("https://s3.eu-west-1.amazonaws.com", "eu-west-3", ("AWS", "eu-west-3")),
        ("https://nyc3.digitaloceanspaces.com", "", ("Other", "us-east-1")),
        ("http://minio:9000", "home", ("Other", "home")),
    ],
)
def test_the_region(server: str, region: str, expected: tuple[str, str]) -> None:
    environment = settings(server=server, region=region).environment()
    assert (environment["RCLONE_CONFIG_SOURCE_PROVIDER"], environment["RCLONE_CONFIG_SOURCE_REGION"]) == expected


@pytest.mark.parametrize(
    ("prefix", "location", "stem"),
    [("", "source:odk", ""), ("x-", "source:odk", "x-"), ("a/b/", "source:odk/a/b", ""), ("a/b", "source:odk/a", "b")],
)
def test_the_prefix(prefix: str, location: str, stem: str) -> None:
    found = settings(prefix=prefix)
    assert (found.location, found.stem) == (location, stem)


def test_secrets_do_not_show() -> None:
    assert "sk-1234" not in repr(settings())
    assert "ak" not in repr(settings())


def test_certificates() -> None:
    environment = settings(ca_path="/etc/ca.pem", validate_certs=False).environment()
    assert environment["RCLONE_CA_CERT"] == "/etc/ca.pem"
    assert environment["RCLONE_NO_CHECK_CERTIFICATE"] == "true"


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_it_is_found() -> None:
    found = find_rclone(rclone_program())
    assert tuple(map(int, found.version.split(".")[:2])) >= _rclone.MINIMUM


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo 'rclone v1.53.3-DEV'", "too old"),
        ("echo hello", "not rclone"),
        ("exit 1", "not rclone"),
        (None, "cannot be"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, text: str | None, words: str) -> None:
    path = str(tmp_path / "none") if text is None else script(tmp_path / "rclone", text)
    with pytest.raises(CentralError) as caught:
        find_rclone(path)
    assert caught.value.diagnosis == "missing_rclone"
    assert words in caught.value.message


def test_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rclone.shutil, "which", lambda *_a, **_k: None)
    with pytest.raises(CentralError) as caught:
        find_rclone()
    assert caught.value.diagnosis == "missing_rclone"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


def gone(pid: int, within: float = 5) -> bool:
    until = time.monotonic() + within
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(pid)


def wait_for(path: Path) -> int:
    until = time.monotonic() + 10
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return int(path.read_text())


def test_it_ends_when_the_job_is_left(tmp_path: Path) -> None:
    program = script(tmp_path / "rclone", f"echo $$ >{tmp_path}/pid; exec sleep 60")
    with RcloneJob(Rclone(program, "1.75.2"), [], {}):
        pid = wait_for(tmp_path / "pid")
        assert alive(pid)
    assert gone(pid)


def test_it_ends_when_we_are_killed(tmp_path: Path) -> None:
    program = script(tmp_path / "rclone", f"echo $$ >{tmp_path}/pid; exec sleep 60")
    code = (
        "from ansible_collections.odkops.central.plugins.module_utils import _rclone, _rclone_run\n"
        f"_rclone_run.RcloneJob(_rclone.Rclone({program!r}, '1.75.2'), [], {{}}).wait()"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        pid = wait_for(tmp_path / "pid")
        process.send_signal(signal.SIGKILL)
    assert gone(pid)


def test_secrets_are_in_no_arguments(tmp_path: Path) -> None:
    program = script(tmp_path / "rclone", f"tr '\\0' '\\n' </proc/$$/cmdline >{tmp_path}/argv; env >{tmp_path}/env")
    environment = {**settings().environment(), **crypt_environment("the passphrase", "/pool")}
    with RcloneJob(Rclone(program, "1.75.2"), ["copy", settings().location, "pool:"], environment) as job:
        assert job.wait() == 0
    assert "sk-1234" not in (tmp_path / "argv").read_text()
    given = (tmp_path / "env").read_text()
    assert "sk-1234" in given
    assert "the passphrase" not in given
    assert _rclone_run.MISSING == "missing"
