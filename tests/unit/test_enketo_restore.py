# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The steps of a restore of Enketo, with real Redis of three majors and no containers. redis-cli checks the results."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._enketo_operations import SECRETS
from ansible_collections.odkops.central.plugins.module_utils._enketo_part import write_part
from ansible_collections.odkops.central.plugins.module_utils._enketo_plan import EnketoPlan
from ansible_collections.odkops.central.plugins.module_utils._enketo_restore import (
    apply,
    check,
    forget,
    keep_previous,
    undo,
    verify,
)
from ansible_collections.odkops.central.plugins.module_utils._enketo_restore_operations import SECRETS_END
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import LinkFact
from ansible_collections.odkops.central.plugins.module_utils._redis_export import Key
from ansible_collections.odkops.central.plugins.module_utils._tar_part import TarPart
from ansible_collections.odkops.central.plugins.module_utils._tar_reader import open_tar_part

from support.local_channel import ServerChannel, write_secrets
from support.paths import ROOT
from support.redis_servers import RELEASES, Redis, Server
from support.restore_channel import TAG, RestoreChannel, restoring

PASSPHRASE = "correct horse battery staple 42"
HOST = "central.example.org"
BINARY = bytes(range(256))
SOON = b"1900000000000"

FILL = [
    [b"HSET", b"id:AbC", b"openRosaServer", b"https://central.example.org/v1/projects/1", b"openRosaId", b"simple"],
    [b"SET", b"or:central.example.org/v1/projects/1,simple", b"AbC"],
    [b"SET", b"submission:counter", b"17"],
    [b"HSET", b"binary", BINARY, b"\r\n", b"\n", b""],
    [b"SET", b"a\nb\r\n\0\xff", BINARY * 300],
    [b"RPUSH", b"su:AbC", *(b"uuid:%d" % index for index in range(2500)), b"uuid:0", b""],
    [b"SADD", b"numbers", *(b"%d" % index for index in range(-5, 5))],
    [b"ZADD", b"scores", b"0.1", b"tenth", b"-inf", b"lowest", b"1e300", BINARY],
    [b"SET", b"expires", b"v"],
    [b"PEXPIREAT", b"expires", SOON],
    [b"SET", b"in:uuid", b"<xml/>"],
    [b"PEXPIREAT", b"in:uuid", SOON],
    [b"SELECT", b"3"],
    [b"SET", b"elsewhere", b"v"],
]
#: what is there before a restore
OLD = [[b"SET", b"old", b"1"], [b"HSET", b"id:Old", b"openRosaServer", b"x"], [b"SELECT", b"5"], [b"SET", b"o", b"5"]]


def make_part(path: Path, major: int, fill: list[list[bytes]], folder: Path) -> dict[str, bytes]:
    """A part of a Redis of its own; returns its secrets."""
    secrets = write_secrets(folder)
    with Redis(major).server() as server:
        server.pipe(*fill)
        write_part(ServerChannel(server, folder), str(path), PASSPHRASE, 60)
    return secrets


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A part by the major of the Redis that made it."""
    folder = tmp_path_factory.mktemp("parts")
    for major in RELEASES:
        make_part(folder / f"{major}.bin", major, FILL, folder / f"secrets{major}")
    return {major: folder / f"{major}.bin" for major in RELEASES}


def plan_of(path: Path, **more: Any) -> EnketoPlan:
    return EnketoPlan(HOST, path=str(path), passphrase=PASSPHRASE, **more)


READ_ALL = b"""
local made = {}
for _, key in ipairs(redis.call("KEYS", "*")) do
  local kind = redis.call("TYPE", key).ok
  local read = {string = {"GET"}, hash = {"HGETALL"}, list = {"LRANGE", "0", "-1"}, set = {"SMEMBERS"},
    zset = {"ZRANGE", "0", "-1"}}
  local value = redis.call(read[kind][1], key, unpack(read[kind], 2))
  if kind == "string" then value = {value} end
  if kind == "hash" then
    local pairs_ = {}
    for index = 1, #value, 2 do pairs_[#pairs_ + 1] = value[index] .. "=" .. value[index + 1] end
    value = pairs_
  end
  if kind == "zset" then
    for index, each in ipairs(value) do value[index] = each .. "=" .. tostring(redis.call("ZSCORE", key, each) + 0) end
  end
  if kind ~= "list" then table.sort(value) end
  local hex = key:gsub(".", function(each) return string.format("%02x", each:byte()) end)
  made[#made + 1] = hex .. " " .. kind .. " " .. redis.sha1hex(table.concat(value, "|"))
end
return table.concat(made, "\\n")
"""


def everything(server: Server) -> dict[tuple[int, bytes], bytes]:
    """Type and digest of each key, by a script of the test's own; sets and the like sorted."""
    held = {}
    for db in (0, 3, 5):
        for line in server.cli("-n", str(db), "EVAL", READ_ALL, "0").split(b"\n"):
            if line and b"out of range" not in line:
                key, _space, rest = line.partition(b" ")
                held[db, bytes.fromhex(key.decode())] = rest
    return held


def secrets_of(channel: RestoreChannel) -> dict[str, tuple[bytes, int]]:
    files = [path for path in channel.secrets.iterdir() if path.is_file()]
    return {path.name: (path.read_bytes(), path.stat().st_mode & 0o777) for path in files}


@contextlib.contextmanager
def target(tmp_path: Path, major: int = 7, *options: str) -> Iterator[RestoreChannel]:
    """A Redis with old keys, and old secrets, one of which only its owner can read."""
    with restoring(major, tmp_path / "target", *options) as channel:
        channel.server.pipe(*OLD)
        for name, size in SECRETS.items():
            path = channel.secrets / name
            path.write_bytes((b"old" * size)[:size])
            path.chmod(0o600 if name == "enketo-api-key" else 0o644)
        yield channel


@contextlib.contextmanager
def unchanged(channel: RestoreChannel, diagnosis: str) -> Iterator[pytest.ExceptionInfo[CentralError]]:
    """Something fails, and leaves everything as it was."""
    before = everything(channel.server), secrets_of(channel)
    with pytest.raises(CentralError) as caught:
        yield caught
    assert caught.value.diagnosis == diagnosis
    assert (everything(channel.server), secrets_of(channel)) == before


@pytest.mark.parametrize(("made_by", "major"), [(8, 6), (6, 7), (7, 8)])
def test_a_part_fills_a_redis_of_any_version_and_back(
    parts: dict[int, Path], tmp_path: Path, made_by: int, major: int
) -> None:
    with Redis(major).server() as other:
        other.pipe(*(command for command in FILL if b"in:uuid" not in command))
        wanted = everything(other)
    with target(tmp_path, major) as channel:
        before = everything(channel.server), secrets_of(channel)
        plan = plan_of(parts[made_by])
        found = check(channel, plan)
        assert found["change"]
        assert found["secrets"] == list(SECRETS)
        assert found["wanted"] == len(wanted)
        keep_previous(channel, TAG)
        assert apply(channel, plan, TAG)["keys"] == len(wanted)
        assert verify(channel, plan)["keys"] == len(wanted)
        assert everything(channel.server) == wanted
        left = int(channel.server.cli("PTTL", "expires"))
        assert abs(left / 1000 + time.time() - int(SOON) / 1000) < 5
        after = secrets_of(channel)
        assert {name: mode for name, (_content, mode) in after.items()} == {n: m for n, (_c, m) in before[1].items()}
        assert all(len(content) == SECRETS[name] for name, (content, _mode) in after.items())
        assert not check(channel, plan)["change"]
        # What was put in is on the disk: a Redis that dies now has it.
        channel.stop(9)
        channel.start()
        assert everything(channel.server) == wanted
        assert undo(channel, TAG)
        assert (everything(channel.server), secrets_of(channel)) == before
        assert channel.left() == []
        assert not undo(channel, TAG)
        assert (everything(channel.server), secrets_of(channel)) == before


def test_what_is_kept_first_stays_and_is_forgotten_at_the_end(parts: dict[int, Path], tmp_path: Path) -> None:
    with target(tmp_path) as channel:
        before = everything(channel.server), secrets_of(channel)
        keep_previous(channel, TAG)
        apply(channel, plan_of(parts[7]), TAG)
        keep_previous(channel, TAG)
        undo(channel, TAG)
        assert (everything(channel.server), secrets_of(channel)) == before
        keep_previous(channel, TAG)
        assert len(channel.left()) == 3
        forget(channel, TAG)
        assert channel.left() == []


def test_a_copy_that_was_cut_short_is_no_copy(tmp_path: Path) -> None:
    """Nothing was changed then; Redis is not even started anew."""
    with target(tmp_path) as channel:
        (channel.data / f"odkops-before-{TAG}.rdb.new").write_bytes(b"REDIS")
        (channel.data / f"odkops-before-{TAG}.name").write_bytes(b"enketo-main.rdb\n")
        (channel.secrets / f".odkops-before-{TAG}.new").mkdir()
        before = everything(channel.server), secrets_of(channel)
        assert not undo(channel, TAG)
        assert (everything(channel.server), secrets_of(channel)) == before
        assert channel.left() == []
        assert not [asked for asked in channel.asked if asked.startswith("services")]


def test_secrets_that_were_not_there_are_gone_again(parts: dict[int, Path], tmp_path: Path) -> None:
    with target(tmp_path) as channel:
        for path in channel.secrets.iterdir():
            path.unlink()
        plan = plan_of(parts[7])
        assert check(channel, plan)["secrets"] == list(SECRETS)
        keep_previous(channel, TAG)
        apply(channel, plan, TAG)
        assert {mode for _content, mode in secrets_of(channel).values()} == {0o644}
        undo(channel, TAG)
        assert secrets_of(channel) == {}


def test_a_source_that_breaks_changes_nothing(
    parts: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_plan: EnketoPlan) -> Iterator[Key]:
        for number in range(100_000):
            yield Key(0, b"k%d" % number, "string", None, b"v" * 100)
        raise CentralError("corrupt", "its end is damaged")

    with target(tmp_path) as channel:
        plan = plan_of(parts[7])
        monkeypatch.setattr(EnketoPlan, "_of_part", broken)
        with unchanged(channel, "corrupt"):
            apply(channel, plan, TAG)


def test_a_transaction_that_redis_refuses_changes_nothing(parts: dict[int, Path], tmp_path: Path) -> None:
    with target(tmp_path) as channel:
        channel.server.cli("CONFIG", "SET", "maxmemory", "1")
        with unchanged(channel, "redis_load_failed") as caught:
            apply(channel, plan_of(parts[7]), TAG)
        assert "OOM" in caught.value.message


def test_a_database_that_redis_does_not_have_is_noticed(parts: dict[int, Path], tmp_path: Path) -> None:
    """Redis finds that out while it executes the transaction."""
    with restoring(7, tmp_path / "target", "--databases", "2") as channel:
        write_secrets(channel.secrets)
        channel.server.pipe(*OLD[:2])
        plan = plan_of(parts[7])
        keep_previous(channel, TAG)
        before = everything(channel.server)
        apply(channel, plan, TAG)
        with pytest.raises(CentralError) as caught:
            verify(channel, plan)
        assert caught.value.diagnosis == "restore_differs"
        undo(channel, TAG)
        assert everything(channel.server) == before


@pytest.mark.parametrize("major", RELEASES)
def test_the_file_of_redis_is_loaded(parts: dict[int, Path], tmp_path: Path, major: int) -> None:
    with target(tmp_path, major) as channel:
        before = everything(channel.server), secrets_of(channel)
        (channel.data / "enketo-main.rdb").touch(0o640)
        (channel.data / "enketo-main.rdb").chmod(0o640)
        plan = plan_of(parts[6], mode="rdb")
        assert check(channel, plan)["change"]
        keep_previous(channel, TAG)
        apply(channel, plan, TAG)
        verify(channel, plan)
        with Redis(6).server() as other:
            other.pipe(*FILL)
            assert everything(channel.server).keys() == everything(other).keys()
        undo(channel, TAG)
        assert (everything(channel.server), secrets_of(channel)) == before
        assert channel.left() == []


@pytest.mark.parametrize(("made_by", "major"), [(8, 7), (7, 6)])
@pytest.mark.parametrize("program", [True, False])
def test_a_file_of_a_later_redis_is_refused_before_anything_is_stopped(
    parts: dict[int, Path], tmp_path: Path, made_by: int, major: int, program: bool
) -> None:
    """By the target's own redis-check-rdb, and by the versions where there is none."""
    with target(tmp_path, major) as channel:
        if not program:
            channel.without("redis-check-rdb")
        with unchanged(channel, "rdb_too_new"):
            check(channel, plan_of(parts[made_by], mode="rdb"))
        check(channel, plan_of(parts[made_by]))
        assert not [asked for asked in channel.asked if asked.startswith("services")]


def test_a_redis_that_would_load_something_else_is_refused(parts: dict[int, Path], tmp_path: Path) -> None:
    with target(tmp_path, 7, "--appendonly", "yes") as channel, unchanged(channel, "redis_not_supported"):
        check(channel, plan_of(parts[7]))


@pytest.mark.parametrize(
    "spoil", [lambda d: d[:-1], lambda d: d[1:], lambda d: d + b"x", lambda d: d[:100], lambda _d: b""]
)
def test_secrets_that_do_not_come_whole_are_refused(tmp_path: Path, spoil: Any) -> None:
    with target(tmp_path) as channel:
        data = b"s" * sum(SECRETS.values()) + SECRETS_END
        with unchanged(channel, "operation_failed"):
            channel.run("enketo-secrets-put", TAG, stdin=spoil(data))
        assert channel.left() == []
        assert channel.run("enketo-secrets-put", TAG, stdin=data).split() == [name.encode() for name in SECRETS]


@pytest.mark.parametrize("content", [b"x" * 33, b"x" * 31, b"x" * 31 + b"\n", b""])
def test_a_part_with_a_secret_of_a_wrong_size_is_refused(
    parts: dict[int, Path], tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "spoilt.bin"
    with TarPart(str(path), PASSPHRASE) as part, open_tar_part(str(parts[7]), PASSPHRASE) as members:
        for member in members:
            held = member.read(member.size) if member.size else b""
            part.add(member.name, content if member.name == "secrets/enketo-less-secret" else held)
        part.commit()
    with target(tmp_path) as channel, unchanged(channel, "bad_secret"):
        check(channel, plan_of(path))


def test_a_full_disk_is_noticed_before_anything_is_done(parts: dict[int, Path], tmp_path: Path) -> None:
    with target(tmp_path) as channel:
        channel.with_program("df", "echo Filesystem; echo x 100 100 3 97% /")
        with unchanged(channel, "central_disk_full"):
            check(channel, plan_of(parts[7]))


def test_a_restore_to_another_address(parts: dict[int, Path], tmp_path: Path) -> None:
    with target(tmp_path) as channel:
        plan = EnketoPlan("www.new.example.org", 8443, path=str(parts[7]), passphrase=PASSPHRASE)
        assert check(channel, plan)["rekeyed"] == {"from": [HOST], "links": 1, "dropped": 0, "conflicts": 0}
        keep_previous(channel, TAG)
        apply(channel, plan, TAG)
        verify(channel, plan)
        cli = channel.server.cli
        assert cli("KEYS", "or:*").split() == [b"or:new.example.org:8443/v1/projects/1,simple"]
        assert cli("GET", "or:new.example.org:8443/v1/projects/1,simple") == b"AbC\n"
        server = b"https://www.new.example.org:8443/v1/projects/1\n"
        assert cli("HGET", "id:AbC", "openRosaServer") == server
        with pytest.raises(CentralError) as caught:
            check(channel, EnketoPlan("new.example.org", path=str(parts[7]), passphrase=PASSPHRASE, mode="rdb"))
        assert caught.value.diagnosis == "bad_option"


def test_links_from_a_database_leave_the_rest_alone(tmp_path: Path) -> None:
    links = [LinkFact("Ab1", "00", 1, "simple", None, 1), LinkFact("Dr1", None, 1, "simple", "ToK", 1, False, True)]
    with target(tmp_path) as channel:
        before, secrets = everything(channel.server), secrets_of(channel)
        plan = EnketoPlan(HOST, links=links)
        found = check(channel, plan)
        assert found["once_links"] == {"total": 1, "opened": 0, "lost": 1}
        assert any("1 single-submission link" in warning for warning in found["warnings"])
        keep_previous(channel, TAG)
        assert apply(channel, plan, TAG) == {"keys": 4, "secrets": []}
        verify(channel, plan)
        after = everything(channel.server)
        assert {name: after[name] for name in before} == before
        assert len(after) == len(before) + 4
        assert after[0, b"or:central.example.org/v1/test/tok/projects/1/forms/simple/draft,simple"] == (
            b"string " + hashlib.sha1(b"Dr1").hexdigest().encode()
        )
        assert secrets_of(channel) == secrets
        assert not check(channel, plan)["change"]
        undo(channel, TAG)
        assert everything(channel.server) == before


def test_what_somebody_else_writes_is_noticed(parts: dict[int, Path], tmp_path: Path) -> None:
    with target(tmp_path) as channel:
        plan = plan_of(parts[7])
        keep_previous(channel, TAG)
        apply(channel, plan, TAG)
        verify(channel, plan)
        channel.server.cli("SET", "submission:counter", "18")
        with pytest.raises(CentralError) as caught:
            verify(channel, plan)
        assert caught.value.diagnosis == "restore_differs"
        channel.server.cli("SET", "submission:counter", "17")
        (channel.secrets / "enketo-secret").write_bytes(b"x" * 64)
        with pytest.raises(CentralError) as caught:
            verify(channel, plan)
        assert caught.value.diagnosis == "restore_differs"


def test_a_key_that_has_expired_does_not_come_back(tmp_path: Path) -> None:
    fill = [
        [b"SET", b"short", b"v"],
        [b"PEXPIREAT", b"short", b"%d" % ((time.time() + 6) * 1000)],
        [b"SET", b"k", b"v"],
    ]
    make_part(tmp_path / "part.bin", 7, fill, tmp_path / "source")
    with target(tmp_path) as channel:
        plan = plan_of(tmp_path / "part.bin")
        assert check(channel, plan)["wanted"] == 2
        time.sleep(6)
        keep_previous(channel, TAG)
        apply(channel, plan, TAG)
        verify(channel, plan)
        assert channel.server.cli("KEYS", "*").split() == [b"k"]


def test_another_address_by_hand_as_documented(tmp_path: Path) -> None:
    """docs/enketo.md: what it puts in is what the module puts in."""
    fill = [
        [
            b"HSET",
            b"id:AbC",
            b"openRosaServer",
            b"https://old.example.org/v1/projects/1",
            b"openRosaId",
            b'a "b" \\ \xc3\xa9',
        ],
        [b"SET", b'or:old.example.org/v1/projects/1,a "b" \\ \xc3\xa9', b"AbC"],
    ]
    make_part(tmp_path / "part.bin", 7, fill, tmp_path / "source")
    with open_tar_part(str(tmp_path / "part.bin"), PASSPHRASE) as members:
        for member in members:
            data = member.read(member.size)
            if member.name == "redis.jsonl":
                (tmp_path / "redis.jsonl").write_bytes(data)
    page = (ROOT / "docs" / "enketo.md").read_text("utf-8")
    script = page.split("if `sed` is told so:\n\n", 1)[1].split("\n\n", 1)[0]
    script = textwrap.dedent(script).replace("docker compose exec -T enketo_redis_main redis-cli", "redis-cli")
    with Redis(7).server() as server:
        environment = {**os.environ, **server.environment}
        subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=environment, check=True, capture_output=True)
        by_hand = everything(server)
    with target(tmp_path) as channel:
        plan = EnketoPlan("new.example.org", path=str(tmp_path / "part.bin"), passphrase=PASSPHRASE)
        apply(channel, plan, TAG)
        assert everything(channel.server) == by_hand
