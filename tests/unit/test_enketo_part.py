# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Enketo part, made through a channel that is not one, and read back; spoilt in every way."""

from __future__ import annotations

import io
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._backup_terms import Terms
from ansible_collections.odkops.central.plugins.module_utils._enketo_backup import Request, backup, rehearse
from ansible_collections.odkops.central.plugins.module_utils._enketo_part import read_part
from ansible_collections.odkops.central.plugins.module_utils._enketo_rdb import CheckedRdb, read_header
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._redis_export import Key, line_of
from ansible_collections.odkops.central.plugins.module_utils._tar_part import TarPart
from ansible_collections.odkops.central.plugins.module_utils._tar_reader import open_tar_part

from support.rdb_writer import aux, key, sealed, text

PASSPHRASE = "correct horse battery staple 42"
NAME = "enketo.tar.enc.bin"
SECRETS = {"enketo-secret": b"a" * 64, "enketo-less-secret": b"b" * 32, "enketo-api-key": b"c" * 128}

RDB = sealed(
    aux(b"redis-ver", b"7.0.15")
    + aux(b"ctime", b"1795404482")
    + b"\xfe\x00"
    + key(b"or:central/v1/projects/1,f", 0, text(b"AbC"))
    + key(b"id:AbC", 16, text(b"x"))
)
AGELESS = sealed(aux(b"ctime", b"999999999999999"))
HEADER = {
    "redis_version": "7.0.15",
    "memory": "1000000",
    "method": "save",
    "before": "1795404482",
    "saved": "1795404482",
    "check": "ok",
    "size": str(len(RDB)),
}


def header(**changes: str) -> bytes:
    lines = {**HEADER, **changes}
    return "".join(f"{name} {value}\n" for name, value in lines.items()).encode() + b"\n"


def netstrings(*texts: bytes) -> bytes:
    return b"".join(b"%d:%b" % (len(each), each) for each in texts)


OR = netstrings(b"string", b"or:central/v1/projects/1,f", b"", b"1", b"AbC")
ID = netstrings(b"hash", b"id:AbC", b"", b"4", b"openRosaServer", b"https://Central/v1/projects/1", b"openRosaId", b"f")
START, END = netstrings(b"database", b"0"), netstrings(b"end")


def secrets_output(**changes: bytes) -> bytes:
    secrets = {**SECRETS, **{name.replace("_", "-"): content for name, content in changes.items()}}
    return b"".join(b"%b %d\n%b" % (name.encode(), len(content), content) for name, content in secrets.items())


class Stream:
    """An operation's output; an error at its end where there is one."""

    def __init__(self, data: bytes, error: CentralError | None) -> None:
        self._data, self._error = io.BytesIO(data), error

    def read(self, size: int, /) -> bytes:
        data = self._data.read(min(size, 10))
        if not data and self._error is not None:
            raise self._error
        return data


class FakeChannel:
    """Answers that are known beforehand, by operation. What was asked for is in ``asked``."""

    def __init__(self, **answers: bytes | CentralError | tuple[bytes, CentralError]) -> None:
        whole: dict[str, Any] = {
            "enketo_secrets": secrets_output(),
            "enketo_rdb": header() + RDB,
            "enketo_export": START + OR + b"\n" + ID + b"\n" + OR + END + b"\n",
            "enketo_info": b"redis_version 7.0.15\nmemory 1000000\nfree 5000000\nsaving 0\nkeys 2 \nsize 200\n\n",
        }
        self._answers = {name.replace("_", "-"): answer for name, answer in {**whole, **answers}.items()}
        self.asked: list[tuple[str, ...]] = []

    @contextmanager
    def stream(
        self, operation: str, *arguments: str, stdin: object = None, idle_timeout: float = 1
    ) -> Iterator[Stream]:
        self.asked.append((operation, *arguments))
        answer = self._answers[operation]
        if isinstance(answer, CentralError):
            raise answer
        yield Stream(*answer) if isinstance(answer, tuple) else Stream(answer, None)

    def run(
        self, operation: str, *arguments: str, stdin: bytes | None = None, timeout: float = 60, limit: int = 1
    ) -> bytes:
        with self.stream(operation, *arguments) as stream:
            data = b""
            while piece := stream.read(100):
                data += piece
        return data


def request(channel: FakeChannel, dest: Path, passphrase: str | None = PASSPHRASE, **terms: Any) -> Request:
    return Request(channel, Terms(dest=str(dest), passphrase=passphrase, **terms))  # type: ignore[arg-type]


def failure(channel: FakeChannel, dest: Path) -> CentralError:
    """How a backup fails. It leaves nothing, no thread either."""
    with pytest.raises(CentralError) as raised:
        backup(request(channel, dest / "new" / NAME))
    assert os.listdir(dest) == []
    assert threading.active_count() == 1
    return raised.value


def rewritten(path: Path, **changes: bytes | None) -> Path:
    """A part with members exchanged (``__`` is a slash, ``_`` a dot), or removed where None."""
    wanted = {name.replace("__", "/").replace("_", "."): content for name, content in changes.items()}
    spoilt = path.with_name("spoilt.tar.enc.bin")
    with open_tar_part(str(path), PASSPHRASE) as reader, TarPart(str(spoilt), PASSPHRASE) as part:
        for member in reader:
            content = b""
            while piece := member.read(1 << 20):
                content += piece
            exchanged = wanted.pop(member.name, content)
            if exchanged is not None:
                part.add(member.name, exchanged)
        for name, content in wanted.items():  # type: ignore[assignment]
            part.add(name, content)
        part.commit()
    return spoilt


@pytest.fixture
def made(tmp_path: Path) -> Path:
    backup(request(FakeChannel(), tmp_path / NAME))
    return tmp_path / NAME


def test_a_part_is_made_and_read(tmp_path: Path) -> None:
    channel = FakeChannel()
    result = backup(request(channel, tmp_path))
    path = tmp_path / NAME
    assert result["path"] == str(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [member["name"] for member in result["members"]] == [
        *(f"secrets/{name}" for name in SECRETS),
        "enketo-main.rdb",
        "redis.jsonl",
        "index.json",
    ]
    assert result["warnings"] == []
    index = result["enketo"]
    assert index["export"] | {"started": "", "finished": ""} == {
        "keys": 2,  # one came twice
        "expiring": 0,
        "types": {"hash": 1, "string": 1},
        "gone": 0,
        "started": "",
        "finished": "",
    }
    assert index["rdb"]["created"] == "2026-11-23T03:28:02.000Z"
    assert index["links"] == {"ids": 1, "forms": 1, "broken": 0, "hosts": {"central": 1}}
    part = read_part(str(path), PASSPHRASE)
    assert part.index == index
    assert part.links.surveys["AbC"].name == "central/v1/projects/1,f"
    assert channel.asked == [("enketo-secrets", "contents"), ("enketo-rdb", "300", "auto"), ("enketo-export",)]
    for secret in (*SECRETS.values(), b"AbC"):
        assert secret.decode() not in json.dumps(result)


def test_a_part_opens_by_hand(made: Path) -> None:
    script = (
        f'openssl enc -d -chacha20 -pbkdf2 -pass env:P -in "{made}" | tar -x && sha256sum --check --quiet SHA256SUMS'
    )
    folder = made.with_name("by hand")
    folder.mkdir()
    environment = {**os.environ, "P": PASSPHRASE}
    subprocess.run(["bash", "-c", f"set -o pipefail; {script}"], cwd=folder, env=environment, check=True)
    assert (folder / "enketo-main.rdb").read_bytes() == RDB
    assert {name: (folder / "secrets" / name).read_bytes() for name in SECRETS} == SECRETS
    lines = (folder / "redis.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["or:central/v1/projects/1,f", "id:AbC"]


def test_secrets_come_from_elsewhere_where_enketo_does_not_run(tmp_path: Path) -> None:
    stopped = CentralError("service_not_running", "it is not")
    channel = FakeChannel(enketo_secrets=stopped, enketo_secrets_apart=secrets_output())
    backup(request(channel, tmp_path / NAME))
    assert ("enketo-secrets-apart", "contents") in channel.asked


def test_warnings(tmp_path: Path) -> None:
    rdb = sealed(aux(b"ctime", b"1795404482") + key(b"lost", 0, text(b"v")) + key(b"strange", 99, b"?"))
    odd = FakeChannel(enketo_rdb=header(check="absent", size=str(len(rdb))) + rdb, enketo_export=START + OR + END)
    warnings = " ".join(backup(request(odd, tmp_path / "a.bin"))["warnings"])
    assert "1 Web Forms link(s) that cannot work" in warnings
    assert "form 'f' of project 1: its id: is missing" in warnings
    assert "type 99" in warnings
    assert "no redis-check-rdb" in warnings
    gone = FakeChannel(enketo_export=START + END)
    assert "2 key(s) of the snapshot" in backup(request(gone, tmp_path / "b.bin"))["warnings"][0]


FAILED = CentralError("operation_failed", "it ended with status 137")


@pytest.mark.parametrize(
    ("answers", "diagnosis"),
    [
        ({"enketo_secrets": FAILED}, "operation_failed"),
        ({"enketo_secrets": secrets_output(enketo_secret=b"x" * 63)}, "bad_secret"),
        ({"enketo_secrets": secrets_output(enketo_api_key=b"x" * 127 + b"\n")}, "bad_secret"),
        ({"enketo_secrets": b"enketo-secret absent\n"}, "bad_secret"),
        ({"enketo_secrets": b"garbage"}, "corrupt"),
        ({"enketo_rdb": FAILED}, "operation_failed"),
        ({"enketo_rdb": (header() + RDB[:50], FAILED)}, "operation_failed"),
        ({"enketo_rdb": (header() + RDB, FAILED)}, "operation_failed"),
        ({"enketo_rdb": (header()[:30], FAILED)}, "operation_failed"),
        ({"enketo_rdb": header()[:-5]}, "truncated"),
        ({"enketo_rdb": b"x" * 100_000}, "corrupt"),
        ({"enketo_rdb": header(size="many") + RDB}, "corrupt"),
        ({"enketo_rdb": header() + RDB[:-1]}, "truncated"),
        ({"enketo_rdb": header() + RDB + b"x"}, "operation_failed"),
        ({"enketo_rdb": header() + RDB[:60] + b"X" + RDB[61:]}, "corrupt"),
        ({"enketo_rdb": header(before="1795404483") + RDB}, "redis_save_failed"),
        ({"enketo_rdb": header(size=str(len(AGELESS))) + AGELESS}, "redis_save_failed"),
        ({"enketo_rdb": header(check="failed [offset 5] bad") + RDB}, "redis_check_failed"),
        ({"enketo_rdb": b"failed save\nanswer ERR\nfree 5\n\n"}, "redis_save_failed"),
        ({"enketo_rdb": b"memory 9999\nfailed save\nanswer ERR\nfree 5\n\n"}, "central_disk_full"),
        ({"enketo_rdb": b"memory 9999\nfailed save\nanswer ERR\nfree 10\n\n"}, "redis_save_failed"),
        ({"enketo_rdb": b"failed busy\nanswer ERR\nfree 5\n\n"}, "redis_save_failed"),
        ({"enketo_rdb": b"failed missing\nanswer /data/x\nfree 5\n\n"}, "redis_save_failed"),
        ({"enketo_rdb": b"no_value\n\n"}, "corrupt"),
        ({"enketo_export": FAILED}, "operation_failed"),
        ({"enketo_export": (START + OR, FAILED)}, "operation_failed"),
        ({"enketo_export": (START + OR + END, FAILED)}, "operation_failed"),
        ({"enketo_export": START + OR}, "truncated"),
        ({"enketo_export": START + OR + END + b"x"}, "corrupt"),
        ({"enketo_export": START + netstrings(b"refused", b"k", b"", b"1", b"too large")}, "unsupported_key"),
    ],
)
def test_whatever_goes_wrong_leaves_nothing(tmp_path: Path, answers: dict[str, Any], diagnosis: str) -> None:
    assert failure(FakeChannel(**answers), tmp_path).diagnosis == diagnosis


def test_the_passphrase_is_looked_at_first(tmp_path: Path) -> None:
    channel = FakeChannel()
    for passphrase, diagnosis in ((None, "no_passphrase"), ("short", "weak_passphrase")):
        with pytest.raises(CentralError) as raised:
            backup(request(channel, tmp_path / NAME, passphrase))
        assert raised.value.diagnosis == diagnosis
    assert channel.asked == []
    result = backup(request(channel, tmp_path / NAME, None, allow_unencrypted=True))
    assert not result["encrypted"]
    assert read_part(str(tmp_path / NAME), None).index == result["enketo"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"precious")
    channel = FakeChannel()
    for dest in (tmp_path, tmp_path / NAME):
        for act in (backup, rehearse):
            with pytest.raises(CentralError) as raised:
                act(request(channel, dest))
            assert raised.value.diagnosis == "destination_exists"
    assert channel.asked == []
    assert (tmp_path / NAME).read_bytes() == b"precious"


def test_a_rehearsal_reads_no_secret_and_writes_nothing(tmp_path: Path) -> None:
    sizes = b"".join(b"%b %d\n" % (name.encode(), len(content)) for name, content in SECRETS.items())
    channel = FakeChannel(enketo_secrets=sizes)
    result = rehearse(request(channel, tmp_path / "new" / NAME))
    assert (result["redis_version"], result["keys"], result["warnings"]) == ("7.0.15", 2, [])
    assert channel.asked == [("enketo-info", "10"), ("enketo-secrets", "sizes")]
    assert os.listdir(tmp_path) == []
    small = FakeChannel(enketo_secrets=sizes, enketo_info=b"redis_version 7\nmemory 99999\nfree 5\nkeys \n\n")
    assert "Make room" in rehearse(request(small, tmp_path / NAME))["warnings"][0]
    wrong = FakeChannel(enketo_secrets=sizes.replace(b"32", b"33"))
    with pytest.raises(CentralError) as raised:
        rehearse(request(wrong, tmp_path / NAME))
    assert raised.value.diagnosis == "bad_secret"


def test_save_timeout_has_limits(tmp_path: Path) -> None:
    for seconds in (0, -1, 100_000):
        with pytest.raises(CentralError) as raised:
            backup(Request(FakeChannel(), Terms(str(tmp_path), PASSPHRASE), seconds))
        assert raised.value.diagnosis == "bad_option"


LINE = line_of(Key(0, b"more", "string", None, b"v"))


@pytest.mark.parametrize(
    ("changes", "diagnosis"),
    [
        ({"secrets__enketo-secret": b"x" * 63}, "bad_secret"),
        ({"secrets__enketo-secret": b"x" * 100_000}, "bad_secret"),
        ({"secrets__enketo-less-secret": b"x" * 31 + b"\n"}, "bad_secret"),
        ({"secrets__enketo-api-key": None}, "corrupt"),
        ({"enketo-main_rdb": RDB[:-1]}, "truncated"),
        ({"enketo-main_rdb": b""}, "truncated"),
        ({"enketo-main_rdb": None}, "corrupt"),
        ({"enketo-main_rdb": sealed(key(b"k", 0, text(b"v")))}, "corrupt"),
        ({"redis_jsonl": b""}, "corrupt"),
        ({"redis_jsonl": LINE}, "corrupt"),
        ({"redis_jsonl": LINE[:-1]}, "truncated"),
        ({"redis_jsonl": b"{}\n"}, "corrupt"),
        ({"index_json": None}, "corrupt"),
        ({"index_json": b"{}"}, "corrupt"),
        ({"index_json": b"\xff"}, "corrupt"),
        ({"index_json": b'{"type": "odk-central-enketo", "schema": 1}'}, "corrupt"),
        ({"index_json": b'{"type": "odk-central-enketo", "schema": true}'}, "corrupt"),
        ({"index_json": b'{"type": "odk-central-enketo", "schema": 2}'}, "manifest_too_new"),
        ({"index_json": b" " * (5 << 20)}, "corrupt"),
        ({"more": b"x"}, "not_a_central_backup"),
        ({"secrets__more": b"x"}, "not_a_central_backup"),
    ],
)
def test_a_part_with_another_member_is_refused(made: Path, changes: dict[str, bytes | None], diagnosis: str) -> None:
    with pytest.raises(CentralError) as raised:
        read_part(str(rewritten(made, **changes)), PASSPHRASE)
    assert raised.value.diagnosis == diagnosis


def test_every_changed_byte_of_a_part_is_found(made: Path) -> None:
    """All but its first 16 bytes, which are salt, change what is decrypted."""
    whole = made.read_bytes()
    for index in range(0, len(whole), 61):
        made.write_bytes(whole[:index] + bytes([whole[index] ^ 0x40]) + whole[index + 1 :])
        with pytest.raises(CentralError):
            read_part(str(made), PASSPHRASE)


def test_a_checked_snapshot_that_is_abandoned_leaves_no_thread() -> None:
    with CheckedRdb(io.BytesIO(RDB)) as checked:
        checked.read(10)
    assert threading.active_count() == 1
    with CheckedRdb(io.BytesIO(RDB)):
        pass
    assert threading.active_count() == 1


def test_a_header_may_come_in_any_pieces() -> None:
    saved, source = read_header(Stream(header() + RDB, None))
    assert saved.size == len(RDB)
    data = b""
    while piece := source.read(7):
        data += piece
    assert data == RDB
