# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the objects are: given, or asked of a Central; and which objects its database still has."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._s3_operations import OPERATIONS
from ansible_collections.odkops.central.plugins.module_utils._s3_settings import (
    GivenS3,
    in_clear,
    secret_of,
    settings_of,
    still_in_database,
)

BY_NAME = {operation.name: operation for operation in OPERATIONS}
OWN = {
    "server": "https://s3.eu-west-1.amazonaws.com",
    "bucket": "odk-files",
    "access_key": "AKIA1",
    "secret_key": "very-secret-1",
    "prefix": "",
}


class FakeChannel:
    """Answers what it was given, and notes what it was asked."""

    def __init__(self, **answers: bytes) -> None:
        self._answers = {name.replace("_", "-"): answer for name, answer in answers.items()}
        self.calls: list[tuple[str, ...]] = []

    def run(self, operation: str, *arguments: str, **_options: Any) -> bytes:
        BY_NAME[operation].check(arguments)
        self.calls.append((operation, *arguments))
        return self._answers[operation]

    def stream(self, *_arguments: Any, **_options: Any) -> Any:
        raise AssertionError


def channel(own: dict[str, str] | None = None, **answers: bytes) -> Channel:
    return FakeChannel(s3_settings=json.dumps(OWN if own is None else own).encode(), **answers)


def refused(given: GivenS3, asked: Channel | None) -> CentralError:
    with pytest.raises(CentralError) as caught:
        settings_of(given, asked)
    assert "very-secret" not in caught.value.message
    return caught.value


def test_a_central_says_all_of_it() -> None:
    found = settings_of(GivenS3(), channel())
    assert (found.server, found.bucket, found.access_key) == (OWN["server"], OWN["bucket"], OWN["access_key"])
    assert found.secret_key == OWN["secret_key"]


def test_what_is_given_comes_first() -> None:
    found = settings_of(GivenS3(access_key="reader", secret_key="very-secret-2", prefix="x-", region="r"), channel())
    assert (found.bucket, found.access_key, found.secret_key) == (OWN["bucket"], "reader", "very-secret-2")
    assert (found.prefix, found.region) == ("x-", "r")


def test_a_central_is_not_asked_for_what_is_known() -> None:
    asked = FakeChannel()
    settings_of(GivenS3("http://minio:9000", "b", "a", "very-secret"), asked)
    assert asked.calls == []


@pytest.mark.parametrize("asked", [None, channel({})])
def test_what_nobody_knows_is_named(asked: Channel | None) -> None:
    error = refused(GivenS3(server="https://s3.example.org", bucket="b"), asked)
    assert error.diagnosis == "bad_option"
    assert "s3_access_key, s3_secret_key" in error.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("server", "s3.example.org"),
        ("server", "ftp://s3.example.org"),
        ("server", "https://user:very-secret@s3.example.org"),
        ("bucket", "a/b"),
        ("bucket", "-b"),
        ("prefix", "/x"),
        ("prefix", "a//b"),
        ("prefix", "../x"),
        ("prefix", "a\nb"),
        ("secret_key", "very-secret\nx"),
    ],
)
def test_what_cannot_be_is_refused(name: str, value: str) -> None:
    assert refused(GivenS3(**{**OWN, name: value}), None).diagnosis == "bad_option"


@pytest.mark.parametrize("answer", [b"", b"[]", b"no json very-secret"])
def test_a_strange_answer(answer: bytes) -> None:
    assert refused(GivenS3(), FakeChannel(s3_settings=answer)).diagnosis == "operation_failed"


def test_a_secret_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("very-secret-3\n")
    assert secret_of(None, str(path), "secret key") == "very-secret-3"
    assert secret_of("x", None, "secret key") == "x"
    path.write_text("\n")
    with pytest.raises(CentralError):
        secret_of(None, str(path), "secret key")


@pytest.mark.parametrize(
    ("server", "clear"),
    [("https://x", False), ("http://127.0.0.1:9000", False), ("http://localhost", False), ("http://minio:9000", True)],
)
def test_in_clear(server: str, clear: bool) -> None:
    assert in_clear(settings_of(GivenS3(server, "b", "a", "s"), None)) is clear


def test_the_database_is_asked_in_portions() -> None:
    asked = FakeChannel(blobs_in_database=b"3\n999\n77777\n")
    assert still_in_database(asked, list(range(1, 1201))) == {3, 999}
    assert [len(arguments[1].split(",")) for arguments in asked.calls] == [500, 500, 200]


def test_a_strange_answer_of_the_database() -> None:
    with pytest.raises(CentralError) as caught:
        still_in_database(FakeChannel(blobs_in_database=b"ERROR: relation\n"), [1])
    assert caught.value.diagnosis == "operation_failed"


@pytest.mark.parametrize("argument", ["", "1,", "1;2", "1) OR (1=1", "$(id)", "1,2\n3", ",".join(["1"] * 501)])
def test_only_ids_are_asked_for(argument: str) -> None:
    with pytest.raises(CentralError):
        BY_NAME["blobs-in-database"].check([argument])


# --- the scripts themselves -------------------------------------------------------------------------------------


def execute(name: str, *arguments: str, folder: Path, env: dict[str, str] | None = None) -> tuple[int, str]:
    operation = BY_NAME[name]
    operation.check(arguments)
    text = operation.script.replace("/usr/odk/config/local.json", str(folder / "local.json"))
    done = subprocess.run(
        ["sh", "-c", text, name, *arguments],
        capture_output=True,
        check=False,
        text=True,
        env={"PATH": f"{folder}:{os.environ['PATH']}", **(env or {})},
    )
    assert "very-secret" not in done.stderr
    return done.returncode, done.stdout


def test_the_configuration_of_a_central_is_read(tmp_path: Path) -> None:
    store = {
        "server": "https://s3.example.org",
        "accessKey": "AKIA2",
        "secretKey": 'very-secret"\\4',
        "bucketName": "b",
        "objectPrefix": "p-",
        "requestTimeout": 60000,
    }
    config = {"default": {"database": {"password": "other"}, "external": {"s3blobStore": store}}}
    (tmp_path / "local.json").write_text(json.dumps(config))
    status, output = execute("s3-settings", folder=tmp_path)
    assert status == 0
    assert "other" not in output
    found = settings_of(GivenS3(), FakeChannel(s3_settings=output.encode()))
    assert (found.secret_key, found.prefix, found.bucket) == ('very-secret"\\4', "p-", "b")


def test_the_environment_says_what_the_configuration_does_not(tmp_path: Path) -> None:
    environment = {"S3_SERVER": "http://minio:9000", "S3_BUCKET_NAME": "c", "S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "s"}
    status, output = execute("s3-settings", folder=tmp_path, env=environment)
    assert status == 0
    assert json.loads(output) == {
        "server": "http://minio:9000",
        "bucket": "c",
        "access_key": "a",
        "secret_key": "s",
        "prefix": "",
    }


@pytest.mark.parametrize("config", ["{}", '{"default":{}}', '{"default":{"external":{}}}'])
def test_a_central_from_before_s3(tmp_path: Path, config: str) -> None:
    (tmp_path / "local.json").write_text(config)
    status, output = execute("s3-settings", folder=tmp_path)
    assert status == 0
    assert set(json.loads(output).values()) == {""}


def test_a_damaged_configuration(tmp_path: Path) -> None:
    (tmp_path / "local.json").write_text('{"very-secret')
    status, output = execute("s3-settings", folder=tmp_path)
    assert (status != 0, output) == (True, "")


def psql(folder: Path, answer: str) -> None:
    path = folder / "psql"
    path.write_text(f'#!/bin/sh\necho "$PGHOST $*" >>{folder}/asked\n{answer}\n')
    path.chmod(0o755)


def words(folder: Path) -> Sequence[str]:
    return (folder / "asked").read_text().split()


def test_the_question_to_the_database(tmp_path: Path) -> None:
    psql(tmp_path, "echo 5; echo 7")
    status, output = execute("blobs-in-database", "5,6,7", folder=tmp_path, env={"PGHOST": "database"})
    assert (status, output.split()) == (0, ["5", "7"])
    assert words(tmp_path)[0] == "database"
    assert re.search(r"WHERE id IN \(5,6,7\)", " ".join(words(tmp_path)))


def test_an_older_central_has_other_settings(tmp_path: Path) -> None:
    psql(tmp_path, ":")
    environment = {"DB_SSL": "false", "DB_HOST": "older", "DB_NAME": "odk", "DB_USER": "odk", "DB_PASSWORD": "x"}
    assert execute("blobs-in-database", "1", folder=tmp_path, env=environment) == (0, "")
    assert words(tmp_path)[0] == "older"


def test_a_database_that_does_not_answer(tmp_path: Path) -> None:
    psql(tmp_path, "exit 2")
    assert execute("blobs-in-database", "1", folder=tmp_path)[0] == 2
