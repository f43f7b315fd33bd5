# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A backup by pg_dump, from real PostgreSQL without containers: the operations' scripts run on this host."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import signal
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _pg_dump, _pgdump_recompress
from ansible_collections.odkops.central.plugins.module_utils._backup_terms import Terms
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pg_dump import DumpOptions, dump, rehearse_dump
from ansible_collections.odkops.central.plugins.module_utils._pg_dump_operations import OPERATIONS
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, verify_file

from support.archives import PASSPHRASE, archives, openssl
from support.bare_central import BareCentral
from support.postgresql import PostgreSQL, Server

OURS = "select count(*) from pg_stat_activity where application_name like 'odkops%'"
Query = Callable[[str], str]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """PostgreSQL 15 with the small database."""
    made = archives(15)
    with made.postgresql.server() as running:
        socket = running._connection[1]
        running.sql("postgres", "CREATE ROLE reader")
        restore = ("--host", socket, "--username", "odk", "--dbname", "postgres", "--create", "--no-comments")
        made.postgresql.run("pg_restore", *restore, stdin=made.read("small"))
        yield running


@pytest.fixture
def settings(server: Server) -> dict[str, str]:
    """How to reach it."""
    return {
        "DOMAIN": "central.example.org",
        "PGHOST": server._connection[1],
        "PGDATABASE": "small",
        "PGUSER": "odk",
        "PGPASSWORD": "odk",
        "PGAPPNAME": "odkcentral",
    }


@pytest.fixture
def central(server: Server, settings: dict[str, str], tmp_path: Path) -> BareCentral:
    """A Central of v2026.1 with that database."""
    folder = tmp_path / "central"
    folder.mkdir()
    channel = BareCentral(folder)
    channel.add("service", server.programs, settings)
    return channel


@pytest.fixture
def terms(tmp_path: Path) -> Terms:
    return Terms(dest=str(tmp_path / "backups"), passphrase=PASSPHRASE, allow_weak_passphrase=True)


@contextlib.contextmanager
def refused(diagnosis: str, *words: str) -> Iterator[None]:
    """What is raised in the block."""
    with pytest.raises(CentralError) as caught:
        yield
    assert caught.value.diagnosis == diagnosis, caught.value.message
    for word in words:
        assert word in caught.value.message


def wait_for(condition: Callable[[], bool], seconds: float = 15) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it does not come"
        time.sleep(0.05)


def test_a_backup(server: Server, central: BareCentral, terms: Terms) -> None:
    result = dump(central, terms, DumpOptions())
    path = Path(result["path"])
    assert path.parent == Path(terms.dest)
    assert path.name.startswith("central-backup-")
    assert path.name.endswith("Z.pgdump.enc.bin")
    assert path.stat().st_mode & 0o777 == 0o600
    assert (result["size"], result["sha256"]) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    assert (result["format"], result["encrypted"], result["compression"]) == ("pgdump.enc", True, "gzip")
    assert result["tables"] == archives(15).truth("small").tables
    assert (result["dumped_in"], result["warnings"]) == ("service", [])
    assert result["identity"] == {
        "domain": "central.example.org",
        "project": "bare",
        "database_host": server._connection[1],
        "database_port": "5432",
        "database": "small",
        "database_system": server.sql("postgres", "select system_identifier from pg_control_system()"),
    }
    assert verify_file(str(path), Expectation(PASSPHRASE)).sha256 == result["sha256"]
    plain = openssl(path.read_bytes(), "-d")

    def restored(archive: bytes) -> bytes:
        # It makes a new key for psql's \\restrict each time.
        return re.sub(rb"\\(un)?restrict \w+", b"", server.programs.run("pg_restore", "--file", "-", stdin=archive))

    assert restored(plain) == restored(server.dump("small"))
    assert server.sql("postgres", OURS) == "0"


class Wrong:
    """A compressor that loses a byte, or makes another one of it."""

    def __init__(self, spoil: Callable[[bytes], bytes]) -> None:
        self._compressor = zlib.compressobj(1)
        self._spoil = spoil

    def compress(self, data: bytes) -> bytes:
        return self._compressor.compress(data)

    def flush(self) -> bytes:
        return self._spoil(self._compressor.flush())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
        lambda data: data[:-1] + bytes([data[-1] ^ 128]),
        lambda data: data + b"\0",
        lambda _data: zlib.compress(b""),
    ],
    ids=["short", "other", "checksum", "long", "empty"],
)
def test_what_is_written_is_what_is_proven(
    central: BareCentral, terms: Terms, spoil: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compressor that is not to be trusted makes no backup."""
    monkeypatch.setattr(_pgdump_recompress, "_compressors", lambda: lambda: Wrong(spoil))
    with refused("corrupt"):
        dump(central, terms, DumpOptions())
    assert not Path(terms.dest).exists()


def test_a_disk_that_fails_later(central: BareCentral, terms: Terms, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written meanwhile is made durable meanwhile, and what goes wrong with that is not passed over."""
    reasons: list[OSError] = []

    def sync(_descriptor: int) -> None:
        reasons.append(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        raise reasons[-1]

    monkeypatch.setattr(_pg_dump, "_SYNC_EVERY", 1)
    monkeypatch.setattr(os, "fdatasync", sync)
    with refused("disk_full"):
        dump(central, terms, DumpOptions())
    assert reasons
    assert not Path(terms.dest).exists()


def test_it_is_restored(server: Server, central: BareCentral, terms: Terms) -> None:
    """By several processes, which look for the data that the archive does not say the place of."""
    plain = openssl(Path(dump(central, terms, DumpOptions())["path"]).read_bytes(), "-d")
    archive = server.programs.root / "tmp" / "rewritten"
    archive.write_bytes(plain)
    server.sql("postgres", "CREATE DATABASE copy TEMPLATE template0")
    try:
        options = ("--jobs", "3", "--exit-on-error", "--dbname", "copy", f"/tmp/{archive.name}")
        server.programs.run("pg_restore", *server._connection, *options)
        sql = "select sha, md5(content), size, s3_status from blobs order by id"
        assert server.sql("copy", sql) == server.sql("small", sql)
        for table in archives(15).truth("small").tables:
            count = f"select count(*) from {table}"
            assert server.sql("copy", count) == server.sql("small", count), table
    finally:
        archive.unlink()
        server.sql("postgres", "DROP DATABASE copy")


def test_without_a_passphrase(central: BareCentral, terms: Terms) -> None:
    with refused("no_passphrase"):
        dump(central, Terms(terms.dest, None), DumpOptions())
    result = dump(central, Terms(terms.dest, None, allow_unencrypted=True), DumpOptions())
    assert result["encrypted"] is False
    assert openssl(Path(result["path"]).read_bytes(), "-d", passphrase="").startswith(b"PGDMP")


def test_the_rehearsal_makes_nothing(central: BareCentral, terms: Terms) -> None:
    result = rehearse_dump(central, terms, DumpOptions())
    assert result["dumped_in"] == "service"
    assert result["free"] > 0
    assert not Path(terms.dest).exists()
    assert "pg-dump" not in central.executed


@pytest.mark.parametrize(
    "environment",
    [
        {"DB_HOST": "@PGHOST", "DB_NAME": "small", "DB_USER": "odk", "DB_PASSWORD": "odk", "DB_SSL": "null"},
        # What is in .env but not Central's own reaches the container, and meant nothing to Centrals of that time.
        {
            "DB_HOST": "@PGHOST",
            "DB_NAME": "small",
            "DB_USER": "odk",
            "DB_PASSWORD": "odk",
            "DB_SSL": "null",
            "PGHOST": "nowhere.invalid",
            "PGDATABASE": "other",
            "PGSERVICE": "other",
            "PGAPPNAME": "odkcentral",
        },
        # libpq's own come first where Central uses them.
        {"PGHOST": "@PGHOST", "PGUSER": "odk", "PGDATABASE": "small", "DB_HOST": "nowhere.invalid", "DB_NAME": "other"},
        {"PGHOST": "@PGHOST", "DB_USER": "odk", "DB_NAME": "small"},
    ],
    ids=["v2025", "v2025-with-others", "v2026-with-others", "mixed"],
)
def test_settings_of_all_versions(
    server: Server, central: BareCentral, terms: Terms, settings: dict[str, str], environment: dict[str, str]
) -> None:
    given = {name: settings.get(value.lstrip("@"), value) for name, value in environment.items()}
    central.services["service"].environment = given
    result = dump(central, terms, DumpOptions())
    assert (result["database"], result["identity"]["database_host"]) == ("small", settings["PGHOST"])


def test_a_connection_service_file(
    server: Server, central: BareCentral, terms: Terms, settings: dict[str, str]
) -> None:
    inside = Path("/tmp/pg_service.conf")
    outside = server.programs.root / "tmp" / inside.name
    outside.write_text(f"[central]\nhost={settings['PGHOST']}\ndbname=small\nuser=odk\napplication_name=central\n")
    try:
        central.services["service"].environment = {
            "DOMAIN": "d",
            "PGHOST": "postgres14",
            "PGUSER": "x",
            "PGDATABASE": "x",
            "PGSERVICE": "central",
            "PGSERVICEFILE": str(inside),
        }
        result = dump(central, terms, DumpOptions())
    finally:
        outside.unlink()
    assert result["database"] == "small"
    assert result["identity"]["database_host"] == settings["PGHOST"], "not the one that the environment names"


def test_a_database_that_does_not_answer(central: BareCentral, terms: Terms) -> None:
    central.services["service"].environment["PGHOST"] = "/nowhere"
    for action in (dump, rehearse_dump):
        with refused("database_unreachable", "/nowhere", "small"):
            action(central, terms, DumpOptions())
    assert not Path(terms.dest).exists()


def test_a_user_who_may_not_read_all(server: Server, central: BareCentral, terms: Terms) -> None:
    server.sql("small", "CREATE ROLE poor LOGIN; GRANT SELECT ON forms TO poor")
    try:
        central.services["service"].environment["PGUSER"] = "poor"
        with refused("dump_failed", "poor may not read", "public."):
            rehearse_dump(central, terms, DumpOptions())
        with refused("dump_failed", "permission denied for"):
            dump(central, terms, DumpOptions())
        assert not Path(terms.dest).exists()
    finally:
        server.sql("small", "REVOKE ALL ON forms FROM poor; DROP ROLE poor")


class Lock:
    """Another session that holds a table."""

    def __init__(self, server: Server, table: str) -> None:
        self._server = server
        options = (*server._connection, "--dbname", "small", "-XqAt")
        self._psql = subprocess.Popen(
            server.programs.command("psql", *options), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._psql.stdin is not None
        assert self._psql.stdout is not None
        self._psql.stdin.write(f"BEGIN; LOCK TABLE {table}; SELECT 1;\n".encode())
        self._psql.stdin.flush()
        self._psql.stdout.readline()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_given: object) -> None:
        self._psql.communicate()


def test_a_locked_table(server: Server, central: BareCentral, terms: Terms) -> None:
    started = time.monotonic()
    with Lock(server, "blobs"), refused("table_locked", "0.5 seconds", "blobs"):
        dump(central, terms, DumpOptions(lock_wait_timeout=0.5))
    assert time.monotonic() - started < 10
    assert server.sql("postgres", OURS) == "0"
    assert not Path(terms.dest).exists()


def test_a_run_that_is_stopped_leaves_nothing(server: Server, central: BareCentral, terms: Terms) -> None:
    """As SIGTERM does: an exception in the thread that reads."""
    with Lock(server, "blobs"):
        timer = threading.Timer(1.5, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1))

        def stop(*_given: Any) -> None:
            raise SystemExit(1)

        before = signal.signal(signal.SIGUSR1, stop)
        timer.start()
        try:
            with pytest.raises(SystemExit):
                dump(central, terms, DumpOptions())
        finally:
            signal.signal(signal.SIGUSR1, before)
            timer.join()
        wait_for(lambda: server.sql("postgres", OURS) == "0")
    assert not Path(terms.dest).exists()
    assert not dumps()


def dumps() -> list[int]:
    """Processes of pg_dump that are ours."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.startswith(b"--dbname=application_name=odkops-dump-") for word in line):
            found.append(int(path.parent.name))
    return found


def test_pg_dump_is_killed(server: Server, central: BareCentral, terms: Terms) -> None:
    def kill() -> None:
        wait_for(lambda: server.sql("postgres", OURS + " and wait_event_type = 'Lock'") == "1")
        for process in dumps():
            os.kill(process, signal.SIGKILL)

    with Lock(server, "blobs"):
        thread = threading.Thread(target=kill)
        thread.start()
        with refused("dump_failed"):
            dump(central, terms, DumpOptions())
        thread.join()
        assert not Path(terms.dest).exists()
        assert server.sql("postgres", OURS) == "1", (
            "the server waits for the lock, and does not see that nobody waits for it"
        )
        with refused("table_locked"):
            dump(central, terms, DumpOptions(lock_wait_timeout=0.3))
        wait_for(lambda: server.sql("postgres", OURS) == "0")
    assert central.executed.count("pg-dump") == 2


def test_a_dump_that_runs_is_not_ended_by_another(server: Server, central: BareCentral, terms: Terms) -> None:
    results: list[Any] = []
    with Lock(server, "blobs"):
        thread = threading.Thread(target=lambda: results.append(dump(central, terms, DumpOptions())))
        thread.start()
        wait_for(lambda: server.sql("postgres", OURS) == "1")
        with refused("table_locked"):
            dump(central, terms, DumpOptions(lock_wait_timeout=0.3))
    thread.join()
    assert results[0]["diagnosis"] == "ok"


def test_niceness_and_rate(server: Server, central: BareCentral, terms: Terms) -> None:
    size = len(server.dump("small", "--compress=0"))
    limited = Terms(terms.dest, PASSPHRASE, allow_weak_passphrase=True, rate_limit=size)
    seen: list[int] = []

    def look() -> None:
        wait_for(lambda: bool(dumps()))
        for process in dumps():
            seen.append(os.getpriority(os.PRIO_PROCESS, process))

    with Lock(server, "blobs"):
        thread = threading.Thread(target=look)
        thread.start()
        with refused("table_locked"):
            dump(central, terms, DumpOptions(lock_wait_timeout=1, nice=7))
        thread.join()
    assert seen == [7]
    assert 0.8 < dump(central, limited, DumpOptions())["elapsed"] < 4


@pytest.mark.parametrize(
    "options",
    [DumpOptions(nice=20), DumpOptions(nice=-1), DumpOptions(lock_wait_timeout=-1), DumpOptions(lock_wait_timeout=1e6)],
)
def test_impossible_options(central: BareCentral, terms: Terms, options: DumpOptions) -> None:
    with refused("bad_option"):
        dump(central, terms, options)
    assert central.executed == []


class Fallback:
    """A Central whose database is in postgres14.

    There is no host of that name here, so its programs are told where it is.
    """

    def __init__(self, central: BareCentral, server: Server, settings: dict[str, str]) -> None:
        self.central = central
        self.host = settings["PGHOST"]
        self.service = central.services["service"]
        self.service.environment = {**settings, "PGHOST": "postgres14"}
        self.postgres14 = central.add("postgres14", server.programs, {"POSTGRES_PASSWORD": "odk"})
        self.postgres14.running = False  # nothing is ever executed in that container
        for service in (self.service, self.postgres14):
            for program in service.programs.iterdir():
                program.write_text(program.read_text().replace("exec ", f"PGHOST={self.host} exec "))

    def replace_pg_dump(self, script: str) -> None:
        """Put a program in the place of service's pg_dump."""
        (self.service.programs / "pg_dump").write_text("#!/bin/sh\n" + script + "\n")


@pytest.fixture
def fallback(central: BareCentral, server: Server, settings: dict[str, str]) -> Fallback:
    return Fallback(central, server, settings)


def test_service_does_not_run(fallback: Fallback, terms: Terms) -> None:
    fallback.service.running = False
    result = dump(fallback.central, terms, DumpOptions())
    assert result["dumped_in"] == "service-once"
    assert "service does not run" in result["warnings"][0]
    assert fallback.central.executed == [
        *("database-check", "service-container", "database-check-once"),
        *("compose-project", "pg-dump-once"),
    ]


def test_service_starts_again_and_again(fallback: Fallback, terms: Terms) -> None:
    """It runs whenever it is asked, but never for long."""
    real = fallback.service.programs / "real"
    (fallback.service.programs / "pg_dump").rename(real)
    cat = fallback.service.programs / "cat"
    cat.write_text(
        '#!/bin/sh\n[ "$1" = /proc/1/stat ] && echo "1 (a) b) S $(seq -s" " 4 21) $$ 0 0" && exit\nexec /bin/cat "$@"\n'
    )
    cat.chmod(0o755)
    fallback.replace_pg_dump(
        f'if [ "$1" = --version ] || [ -e "$0.ran" ]; then exec {real} "$@"; fi\ntouch "$0.ran"\nexit 137'
    )
    (fallback.service.programs / "pg_dump").chmod(0o755)
    result = dump(fallback.central, terms, DumpOptions())
    assert result["dumped_in"] == "service-once"
    assert "does not stay up" in result["warnings"][0]


def test_service_stops_while_it_is_asked(fallback: Fallback, terms: Terms) -> None:
    run = fallback.central._command

    def command(operation: Any, arguments: Any) -> Any:
        if operation.name == "database-check":
            raise CentralError("operation_failed", "It was killed.", operation=operation.name, exit_status=137)
        return run(operation, arguments)

    fallback.central._command = command  # type: ignore[method-assign]
    assert dump(fallback.central, terms, DumpOptions())["dumped_in"] == "service-once"


def test_service_was_never_made(fallback: Fallback, terms: Terms, tmp_path: Path) -> None:
    fallback.service.running = False
    (tmp_path / "central" / "made").unlink()
    with refused("service_not_running", "no container of it"):
        dump(fallback.central, terms, DumpOptions())
    assert fallback.central.executed == ["database-check", "service-container"]


def test_service_stops_in_the_middle(fallback: Fallback, terms: Terms) -> None:
    real = (fallback.service.programs / "pg_dump").read_text()
    # It says its version, and is killed with its container.
    fallback.replace_pg_dump(
        '[ "$1" = --version ] && echo "pg_dump (PostgreSQL) 15.1" && exit\ntouch "$0.ran"\nexit 137'
    )
    with refused("dump_failed", "killed"):
        dump(fallback.central, terms, DumpOptions())
    run, ran = fallback.central._command, fallback.service.programs / "pg_dump.ran"
    ran.unlink()

    def command(operation: Any, arguments: Any) -> Any:
        if ran.exists():
            fallback.service.running = False
            (fallback.service.programs / "pg_dump").write_text(real)
        return run(operation, arguments)

    fallback.central._command = command  # type: ignore[method-assign]
    assert dump(fallback.central, terms, DumpOptions())["dumped_in"] == "service-once"
    assert len(os.listdir(terms.dest)) == 1


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'pg_dump (PostgreSQL) 13.4 (Debian 13.4-1)'", "(13) is older than the server (15)"),
        ("exit 127", "has no pg_dump"),
    ],
)
def test_a_pg_dump_that_is_not_good_for_the_server(
    fallback: Fallback, terms: Terms, running: bool, script: str, why: str
) -> None:
    fallback.replace_pg_dump(script)
    fallback.service.running = running
    result = dump(fallback.central, terms, DumpOptions())
    assert result["dumped_in"] == "postgres14"
    assert why in result["warnings"][0]
    assert result["tables"] == archives(15).truth("small").tables
    # The settings do not mean postgres14, which is left alone.
    fallback.service.environment["PGHOST"] = "db.example.org"
    fallback.central.executed.clear()
    with refused("no_pg_dump", why):
        dump(fallback.central, terms, DumpOptions())
    assert not [name for name in fallback.central.executed if "postgres14" in name]


def test_postgres14_is_another_server(fallback: Fallback, terms: Terms) -> None:
    fallback.replace_pg_dump("exit 127")
    with PostgreSQL(15).server() as other:
        other.sql("postgres", "CREATE DATABASE small")
        for program in fallback.postgres14.programs.iterdir():
            program.write_text(program.read_text().replace(fallback.host, other._connection[1]))
        with refused("no_pg_dump", "is another one"):
            dump(fallback.central, terms, DumpOptions())


def test_postgres14_has_no_pg_dump_either(fallback: Fallback, terms: Terms) -> None:
    fallback.replace_pg_dump("exit 127")
    (fallback.postgres14.programs / "pg_dump").write_text("#!/bin/sh\nexit 127\n")
    with refused("no_pg_dump", "none that is good for it"):
        dump(fallback.central, terms, DumpOptions())


def test_nothing_is_executed_in_the_container_of_the_database() -> None:
    """What is left there becomes a child of the server, and its end a crash."""
    assert all(operation.run for operation in OPERATIONS if operation.place == "postgres14")
