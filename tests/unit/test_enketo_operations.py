# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is executed at a Central for Enketo, with real Redis of three majors and no containers."""

from __future__ import annotations

import io
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils._enketo_operations import MAXIMUM_BYTES, MAXIMUM_ELEMENTS
from ansible_collections.odkops.central.plugins.module_utils._enketo_part import read_part, read_secrets, write_part
from ansible_collections.odkops.central.plugins.module_utils._enketo_rdb import (
    Saved,
    parse_lines,
    read_header,
    require_recent,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._rdb import check_rdb
from ansible_collections.odkops.central.plugins.module_utils._redis_export import Key, key_of, line_of, read_netstrings
from ansible_collections.odkops.central.plugins.module_utils._tar_reader import open_tar_part

from support.local_channel import ServerChannel, write_secrets
from support.redis_servers import RELEASES, Redis, Server, resp

PASSPHRASE = "correct horse battery staple 42"
BINARY = bytes(range(256))

FILL = [
    [b"HSET", b"id:AbC", b"openRosaServer", b"https://central.example.org/v1/projects/1", b"openRosaId", b"simple"],
    [b"SET", b"or:central.example.org/v1/projects/1,simple", b"AbC"],
    [b"HSET", b"id:" + BINARY, BINARY, b"\r\n", b"\n", b""],
    [b"SET", b"a\nb\r\n\0\xff", BINARY * 300],
    [b"SET", b"number", b"12345"],
    [b"SET", b"compressible" * 20, b"a" * 5000],
    [b"RPUSH", b"su:AbC", *(b"uuid:%d" % index for index in range(100)), b"uuid:0", b""],
    [b"RPUSH", b"long", *(b"x" * 40 + b"%d" % index for index in range(3000))],
    [b"SADD", b"numbers", *(b"%d" % index for index in range(-5, 5))],
    [b"SADD", b"texts", BINARY, b"", b"b"],
    [b"SADD", b"many", *(b"m%d" % index for index in range(2000))],
    [b"ZADD", b"scores", b"0.1", b"tenth", b"-inf", b"lowest", b"1e300", BINARY, b"3", b"three"],
    [b"ZADD", b"many scores", *(word for index in range(500) for word in (b"%d.5" % index, b"m%d" % index))],
    [b"HSET", b"large", *(word for index in range(1000) for word in (b"f%d" % index, b"v" * 80))],
    [b"SET", b"in:uuid", b"<xml/>"],
    [b"PEXPIREAT", b"in:uuid", b"1900000000000"],
    [b"SELECT", b"3"],
    [b"SET", b"elsewhere", b"v"],
]


def commands(key: Key) -> Iterator[list[bytes]]:
    """What makes a key anew."""
    value = key.value
    yield [b"SELECT", b"%d" % key.db]
    yield [b"DEL", key.key]
    if isinstance(value, bytes):
        yield [b"SET", key.key, value]
    else:
        pairs = [item[::-1] if key.type == "zset" else item for item in value if isinstance(item, tuple)]
        flat = [part for pair in pairs for part in pair] or [item for item in value if isinstance(item, bytes)]
        add = {"list": b"RPUSH", "set": b"SADD", "zset": b"ZADD", "hash": b"HSET"}[key.type]
        yield [add, key.key, *flat]
    if key.expires_at is not None:
        yield [b"PEXPIREAT", key.key, b"%d" % key.expires_at]


def export(channel: ServerChannel) -> list[Key]:
    """Every key, sorted."""
    with channel.stream("enketo-export") as stream:
        return sorted(read_netstrings(stream), key=lambda key: (key.db, key.key))


def snapshot(channel: ServerChannel, seconds: str = "60", method: str = "auto") -> tuple[Saved, bytes]:
    """A saved file and what was said of it."""
    with channel.stream("enketo-rdb", seconds, method) as stream:
        saved, source = read_header(stream)
        data = b""
        while piece := source.read(1 << 16):
            data += piece
    return saved, data


def settled(keys: list[Key]) -> list[Key]:
    """With expiries to a tenth of a second: before Redis 7 they are known to some milliseconds only."""
    return [replace(key, expires_at=key.expires_at and round(key.expires_at, -2)) for key in keys]


@pytest.fixture(params=RELEASES, ids=lambda major: f"redis{major}")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Redis(request.param).server() as running:
        yield running


@pytest.fixture
def server7() -> Iterator[Server]:
    """Where the version does not matter."""
    with Redis(7).server() as running:
        yield running


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, bytes]:
    return write_secrets(tmp_path / "secrets")


@contextmanager
def path_with(tmp_path: Path, **programs: str) -> Iterator[str]:
    """A directory for PATH with programs of ours; an underscore in a name is a hyphen."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, script in programs.items():
        program = folder / name.replace("_", "-")
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    yield str(folder)


# --- the export -------------------------------------------------------------------------------------------------


def test_an_export_fills_a_redis_of_any_version(server: Server, tmp_path: Path) -> None:
    """In one MULTI/EXEC; what the other Redis then exports is the same."""
    server.pipe(*FILL)
    keys = export(ServerChannel(server, tmp_path))
    assert len(keys) == len(FILL) - 2
    assert [key_of(line_of(key)) for key in keys] == keys
    for major in RELEASES:
        with Redis(major).server() as other:
            made = [command for key in keys for command in commands(key)]
            wire = b"".join(resp(command) for command in [[b"MULTI"], *made, [b"EXEC"]])
            assert b"errors: 0" in other.cli("--pipe", stdin=wire)
            again = export(ServerChannel(other, tmp_path))
            assert [key.key for key in again] == [key.key for key in keys]
            for ours, theirs in zip(settled(keys), settled(again)):
                if ours.type == "zset":  # 0.1 is 0.10000000000000001 before Redis 7.2
                    assert [(m, float(s)) for m, s in ours.value] == [(m, float(s)) for m, s in theirs.value]  # type: ignore[misc]
                else:
                    assert ours == theirs


def test_an_export_of_nothing(server: Server, tmp_path: Path) -> None:
    assert export(ServerChannel(server, tmp_path)) == []


def test_expiry_is_absolute(server: Server, tmp_path: Path) -> None:
    server.pipe(
        [b"SET", b"soon", b"v", b"PX", b"600000"], [b"SET", b"gone", b"v", b"PX", b"1"], [b"SET", b"never", b"v"]
    )
    time.sleep(0.05)
    keys = {key.key: key.expires_at for key in export(ServerChannel(server, tmp_path))}
    assert set(keys) == {b"soon", b"never"}
    assert keys[b"never"] is None
    assert abs((keys[b"soon"] or 0) - (time.time() * 1000 + 600_000)) < 5000


def test_each_key_is_of_one_moment(server: Server, tmp_path: Path) -> None:
    """While a writer changes all of them, no key is half old and half new, and none is missing."""
    names = [b"id:%d" % index for index in range(2000)]
    server.pipe(*([b"HSET", name, b"a", b"0", b"b", b"0"] for name in names))
    done = threading.Event()

    def write() -> None:
        turn = 0
        while not done.is_set():
            turn += 1
            value = b"%d" % turn
            both = ([b"HSET", name, b"a", value, b"b", value] for name in names[turn % 7 :: 7])
            server.pipe(*both, [b"SET", b"new:%d" % turn, b"v"], [b"DEL", b"new:%d" % (turn - 3)])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _turn in range(3):
            with ServerChannel(server, tmp_path).stream("enketo-export") as stream:
                keys = {key.key: key for key in read_netstrings(stream)}
            assert set(names) <= set(keys)
            for name in names:
                assert len({item[1] for item in keys[name].value}) == 1, keys[name]
    finally:
        done.set()
        writer.join()


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ([b"XADD", b"or:host/v1/test/TOKEN", b"*", b"f", b"v"], "of type stream"),
        ([b"SETRANGE", b"or:host/v1/test/TOKEN", b"%d" % MAXIMUM_BYTES, b"v"], "too large"),
        ([b"RPUSH", b"or:host/v1/test/TOKEN", *[b"1"] * (MAXIMUM_ELEMENTS + 1)], "too large"),
    ],
    ids=["stream", "string", "list"],
)
def test_what_enketo_does_not_write_is_refused_by_name(
    server7: Server, tmp_path: Path, command: list[bytes], problem: str
) -> None:
    server7.pipe(command)
    with pytest.raises(CentralError, match=f"a key \\(or:...\\) that is {problem}") as raised:
        export(ServerChannel(server7, tmp_path))
    assert raised.value.diagnosis == "unsupported_key"
    assert "TOKEN" not in str(raised.value)


def test_fields_that_expire_are_refused(tmp_path: Path) -> None:
    with Redis(8).server() as server:
        fields = [word for index in range(1500) for word in (b"f%d" % index, b"v")]
        server.pipe([b"HSET", b"id:x", *fields])
        channel = ServerChannel(server, tmp_path)
        assert len(export(channel)[0].value) == 1500
        server.pipe([b"HPEXPIRE", b"id:x", b"1000000", b"FIELDS", b"1", b"f1400"])
        with pytest.raises(CentralError, match="of type hash with fields that expire"):
            export(channel)


def test_a_redis_with_a_password_says_so(tmp_path: Path) -> None:
    with Redis(7).server("--requirepass", "x") as server:
        channel = ServerChannel(server, tmp_path)
        for operation, arguments in (("enketo-export", []), ("enketo-rdb", ["9", "auto"]), ("enketo-info", ["9"])):
            with pytest.raises(CentralError, match="NOAUTH") as raised:
                channel.run(operation, *arguments)
            assert raised.value.diagnosis == "operation_failed"


def test_a_redis_that_is_not_there_says_so(server7: Server, tmp_path: Path) -> None:
    server7.cli("SHUTDOWN", "NOSAVE")
    channel = ServerChannel(server7, tmp_path)
    for operation, arguments in (("enketo-export", []), ("enketo-rdb", ["9", "auto"]), ("enketo-info", ["9"])):
        with pytest.raises(CentralError, match="Could not connect") as raised:
            channel.run(operation, *arguments)
        assert raised.value.diagnosis == "operation_failed"


def test_a_redis_that_dies_during_the_export_does_not_look_whole(server7: Server, tmp_path: Path) -> None:
    for start in range(0, 40_000, 1000):
        server7.pipe(*([b"SET", b"k%d" % index, b"v" * 100] for index in range(start, start + 1000)))
    with pytest.raises(CentralError) as raised, ServerChannel(server7, tmp_path).stream("enketo-export") as stream:
        for count, _key in enumerate(read_netstrings(stream)):
            if count == 10:
                server7.cli("SHUTDOWN", "NOSAVE")
    assert raised.value.diagnosis == "operation_failed"


# --- the snapshot -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["auto", "save", "bgsave"])
def test_a_snapshot_loads(server: Server, tmp_path: Path, method: str) -> None:
    server.pipe(*FILL)
    channel = ServerChannel(server, tmp_path)
    began = int(time.time())
    saved, data = snapshot(channel, method=method)
    facts = check_rdb(io.BytesIO(data))
    require_recent(facts, saved)
    assert facts.unknown is None
    assert facts.checksum
    assert saved.checked
    assert saved.method == ("bgsave" if method == "bgsave" else "save")
    assert saved.size == len(data) == facts.size
    assert facts.redis_version == saved.redis_version
    assert began <= saved.before <= (facts.created or 0) <= time.time()
    keys = export(channel)
    assert facts.databases == {0: len(keys) - 1, 3: 1}
    data_directory = tmp_path / "data"
    data_directory.mkdir()
    (data_directory / "enketo-main.rdb").write_bytes(data)
    with server.programs.server(data=data_directory) as other:
        assert settled(export(ServerChannel(other, tmp_path))) == settled(keys)
    assert set(os.listdir(server.folder)) == {"enketo-main.rdb", "socket", "log"}


def test_the_walk_agrees_with_redis_about_every_key(server: Server, tmp_path: Path) -> None:
    server.pipe(*FILL)
    channel = ServerChannel(server, tmp_path)
    seen: list[tuple[int, bytes, str, bool]] = []
    check_rdb(io.BytesIO(snapshot(channel)[1]), lambda *key: seen.append(key))
    assert sorted(seen) == [(key.db, key.key, key.type, key.expires_at is not None) for key in export(channel)]


def test_every_damage_to_a_genuine_file_is_found(server: Server, tmp_path: Path) -> None:
    server.pipe(FILL[0], FILL[1], FILL[2], FILL[8], FILL[11])
    _saved, data = snapshot(ServerChannel(server, tmp_path))
    for index in range(len(data)):
        spoilt = data[:index] + bytes([data[index] ^ 0x41]) + data[index + 1 :]
        for damaged in (spoilt, data[:index], data[:index] + data[index + 1 :], data + data[index : index + 1]):
            with pytest.raises(CentralError) as raised:
                check_rdb(io.BytesIO(damaged))
            assert raised.value.diagnosis in ("corrupt", "truncated")


@pytest.mark.parametrize("method", ["save", "bgsave"])
def test_a_save_in_progress_is_waited_for(server: Server, tmp_path: Path, method: str) -> None:
    """And the file is not that save's, but a later one with what was written meanwhile."""
    server.pipe(*([b"SET", b"k%d" % index, b"v"] for index in range(10)))
    assert server.cli("CONFIG", "SET", "rdb-key-save-delay", "150000").strip() == b"OK"
    assert b"started" in server.cli("BGSAVE")
    server.cli("CONFIG", "SET", "rdb-key-save-delay", "0")
    server.pipe([b"SET", b"later", b"v"])
    keys: list[bytes] = []
    saved, data = snapshot(ServerChannel(server, tmp_path), method=method)
    require_recent(check_rdb(io.BytesIO(data), lambda _db, key, _type, _expires: keys.append(key)), saved)
    assert b"later" in keys


def test_a_save_that_takes_too_long_is_a_failure(server: Server, tmp_path: Path) -> None:
    server.pipe(*([b"SET", b"k%d" % index, b"v"] for index in range(30)))
    server.cli("CONFIG", "SET", "rdb-key-save-delay", "200000")
    for method in ("bgsave", "save"):  # the second meets the first, which still runs
        with pytest.raises(CentralError, match="busy with another save for too long") as raised:
            snapshot(ServerChannel(server, tmp_path), "1", method)
        assert raised.value.diagnosis == "redis_save_failed"


@pytest.mark.parametrize("method", ["save", "bgsave"])
def test_a_save_that_fails_is_a_failure(server: Server, tmp_path: Path, method: str) -> None:
    """Redis cannot write any more; the older file, which is whole, is not taken for the new one."""
    folder = tmp_path / "there"
    folder.mkdir()
    server.cli("CONFIG", "SET", "dir", str(folder))
    server.pipe([b"SET", b"k", b"v"])
    channel = ServerChannel(server, tmp_path)
    snapshot(channel)
    assert (folder / "enketo-main.rdb").exists()
    shutil.rmtree(folder)
    with pytest.raises(CentralError, match="could not save") as raised:
        snapshot(channel, method=method)
    assert raised.value.diagnosis == "redis_save_failed"


def test_a_full_disk_has_a_name(server7: Server, tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    server7.cli("CONFIG", "SET", "dir", str(folder))
    shutil.rmtree(folder)
    df = "printf 'Filesystem 1024-blocks Used Available Capacity Mounted on\\n/dev/x 100 88 12 88%% /data\\n'"
    with path_with(tmp_path, df=df) as path, pytest.raises(CentralError, match="12288 bytes free") as raised:
        snapshot(ServerChannel(server7, tmp_path, path))
    assert raised.value.diagnosis == "central_disk_full"
    assert raised.value.details["free"] == 12288


def test_what_redis_check_rdb_says_counts(server7: Server, tmp_path: Path) -> None:
    complaint = (
        "echo '[offset 5] something about or:TOKEN'; echo '[offset 77] Unexpected EOF'; echo 'key or:TOKEN'; exit 1"
    )
    with path_with(tmp_path, redis_check_rdb=complaint) as path, pytest.raises(CentralError) as raised:
        snapshot(ServerChannel(server7, tmp_path, path))
    assert raised.value.diagnosis == "redis_check_failed"
    assert "Unexpected EOF" in str(raised.value)
    assert "TOKEN" not in str(raised.value)


def test_a_file_that_redis_does_not_write_is_not_taken(server7: Server, tmp_path: Path) -> None:
    """CONFIG says one directory, and saves go elsewhere."""
    server7.pipe([b"SET", b"k", b"v"])
    saved, data = snapshot(ServerChannel(server7, tmp_path))
    facts = check_rdb(io.BytesIO(data))
    require_recent(facts, saved)
    with pytest.raises(CentralError, match="older than the save") as raised:
        require_recent(facts, Saved("7", "save", (facts.created or 0) + 1, saved.size, True))
    assert raised.value.diagnosis == "redis_save_failed"


def test_information_changes_nothing(server: Server, tmp_path: Path) -> None:
    server.pipe([b"SET", b"k", b"v"], [b"SELECT", b"2"], [b"SET", b"k", b"v"])
    lines = parse_lines(ServerChannel(server, tmp_path).run("enketo-info", "9").split(b"\n\n")[0])
    assert lines["redis_version"].startswith(f"{server.programs.major}.")
    assert lines["keys"] == "1 1"
    assert int(lines["free"]) > 0
    assert not server.rdb.exists()


def test_an_abandoned_snapshot_leaves_nothing_running(server7: Server, tmp_path: Path) -> None:
    server7.pipe(*([b"SET", b"k%d" % index, os.urandom(1 << 20)] for index in range(8)))
    with ServerChannel(server7, tmp_path).stream("enketo-rdb", "60", "auto") as stream:
        stream.read(10)
    assert str(server7.rdb) not in "".join(open_files())


def open_files() -> Iterator[str]:
    """What processes have open, as far as that can be seen."""
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            yield os.readlink(descriptor) + "\n"
        except OSError:
            continue


# --- the secrets and the whole ----------------------------------------------------------------------------------


def test_secrets(server7: Server, tmp_path: Path, secrets: dict[str, bytes]) -> None:
    channel = ServerChannel(server7, tmp_path / "secrets")
    assert read_secrets(channel) == secrets
    sizes = channel.run("enketo-secrets", "sizes")
    assert sizes == b"enketo-secret 64\nenketo-less-secret 32\nenketo-api-key 128\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("enketo-secret", b"x" * 63, "has 63 bytes"),
        ("enketo-less-secret", b"x" * 32 + b"\n", "has 33 bytes"),
        ("enketo-less-secret", b"x" * 31 + b"\n", "ends with a line break"),
        ("enketo-api-key", b"", "has 0 bytes"),
        ("enketo-api-key", b"x" * 1_000_000, "has 1000000 bytes"),
        ("enketo-api-key", None, "is not there"),
    ],
)
def test_a_secret_that_is_wrong(
    server7: Server, tmp_path: Path, secrets: dict[str, bytes], name: str, content: bytes | None, said: str
) -> None:
    path = tmp_path / "secrets" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CentralError, match=said) as raised:
        read_secrets(ServerChannel(server7, tmp_path / "secrets"))
    assert raised.value.diagnosis == "bad_secret"
    assert raised.value.details["secret"] == name


def test_the_whole_part(server: Server, tmp_path: Path, secrets: dict[str, bytes]) -> None:
    server.pipe(*FILL)
    channel = ServerChannel(server, tmp_path / "secrets")
    path = str(tmp_path / "enketo.tar.enc.bin")
    made = write_part(channel, path, PASSPHRASE, 60)
    keys = len(FILL) - 2
    assert made["enketo"]["export"]["keys"] == made["enketo"]["rdb"]["keys"] == keys
    assert made["enketo"]["export"]["gone"] == 0
    assert made["enketo"]["export"]["types"] == made["enketo"]["rdb"]["types"]
    part = read_part(path, PASSPHRASE)
    assert part.index == made["enketo"]
    assert part.less_secret == secrets["enketo-less-secret"]
    assert part.links.ids == {"central.example.org/v1/projects/1,simple": "AbC"}
    members = {}
    with open_tar_part(path, PASSPHRASE) as reader:
        for member in reader:
            content = b""
            while piece := member.read(1 << 20):
                content += piece
            members[member.name] = content
    assert {name: members[f"secrets/{name}"] for name in secrets} == secrets
    assert check_rdb(io.BytesIO(members["enketo-main.rdb"])).keys == keys
    assert members["redis.jsonl"].count(b"\n") == keys
