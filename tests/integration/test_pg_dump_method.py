# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""central_backup with method=pg_dump against the demo Central: openssl, pg_restore and SQL check the results."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import Demo, Result, run_module
from support.demo import central
from support.modules import module_command, module_environment, wire_arguments

Backup = Callable[..., Result]

OURS = "select count(*) from pg_stat_activity where application_name like 'odkops%'"
COUNTED = ("forms", "submissions", "submission_defs", "blobs", "knex_migrations", "users", "projects")


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    """Where `backup` saves; it does not exist before."""
    return tmp_path / "backups"


@pytest.fixture
def options(demo: Demo, passphrase_file: Path, dest: Path) -> dict[str, Any]:
    """What the module needs."""
    return {
        "method": "pg_dump",
        "project_directory": demo["compose_dir"],
        "project": demo["compose_project"],
        "passphrase_file": str(passphrase_file),
        "dest": str(dest),
    }


@pytest.fixture
def backup(options: dict[str, Any]) -> Backup:
    """Run central_backup."""

    def run(check: bool = False, **more: Any) -> Result:
        given = {name: value for name, value in {**options, **more}.items() if value is not None}
        return run_module("central_backup", given, check=check)

    return run


@pytest.fixture(autouse=True)
def _server_is_unharmed(demo: Demo) -> Iterator[None]:
    """Nothing that a test does makes the server think that one of its own processes has crashed."""
    started = time.time()
    yield
    command = ["docker", "logs", "--since", f"{started:.3f}", demo.container("postgres14")]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    crashes = [line for line in (said.stdout + said.stderr).splitlines() if "was terminated by" in line]
    assert crashes == []


def assert_refused(result: Result, diagnosis: str, *words: str) -> None:
    """The module failed with this diagnosis, in a clear sentence."""
    assert result.failed
    assert result.diagnosis == diagnosis, result.result or result.stderr
    for word in words:
        assert word in result["msg"]
    assert result["changed"] is False


def dumping(demo: Demo) -> list[str]:
    """The processes of our dumps in all containers of the demo."""
    found = []
    for service in ("service", "postgres14"):
        listed = subprocess.run(
            ["docker", "top", demo.container(service), "-eo", "pid,args"], capture_output=True, text=True, check=False
        ).stdout
        found += [line for line in listed.splitlines() if "pg_dump" in line or "odkops" in line]
    return found


def wait_until_nothing_is_left(demo: Demo, seconds: float = 40) -> None:
    """No pg_dump in a container, and no session in the database."""
    limit = time.monotonic() + seconds
    while dumping(demo) or demo.psql(OURS) != "0":
        assert time.monotonic() < limit, (dumping(demo), demo.psql(OURS))
        time.sleep(0.1)


def assert_holds_the_database(demo: Demo, result: Result) -> None:
    """SQL counts the same rows."""
    for table in COUNTED:
        assert result["tables"][f"public.{table}"] == int(demo.psql(f"select count(*) from {table}")), table


def restored(demo: Demo, archive: bytes) -> bytes:
    """What the server's own pg_restore makes of an archive, less the key that it makes anew each time."""
    command = ["docker", "exec", "-i", demo.container("postgres14"), "pg_restore", "--file", "-"]
    done = subprocess.run(command, input=archive, capture_output=True, check=True)
    return re.sub(rb"\\(un)?restrict \w+", b"", done.stdout)


def test_a_backup_is_what_the_database_holds(demo: Demo, backup: Backup, dest: Path, passphrase_file: Path) -> None:
    audits = demo.psql("select count(*) from audits")
    result = backup()
    assert not result.failed, result.result
    assert (result["changed"], result.diagnosis, result["method"], result["method_reason"]) == (
        *(True, "ok"),
        *("pg_dump", "asked for"),
    )
    assert (result["dumped_in"], result["format"], result["encrypted"]) == ("service", "pgdump.enc", True)
    assert "warnings" not in result.result
    path = Path(result["path"])
    assert [path] == list(dest.iterdir())
    assert re.fullmatch(r"central-backup-[0-9T.-]+Z\.pgdump\.enc\.bin", path.name)
    assert path.stat().st_mode & 0o777 == 0o600
    assert hashlib.sha256(path.read_bytes()).hexdigest() == result["sha256"]
    assert_holds_the_database(demo, result)
    assert demo.psql("select count(*) from audits") == audits, "nobody has logged in"
    assert result["identity"] == {
        "domain": demo["domain"],
        "project": demo["compose_project"],
        "database_host": "postgres14",
        "database_port": "5432",
        "database": "odk",
        "database_system": demo.psql("select system_identifier from pg_control_system()"),
    }
    wait_until_nothing_is_left(demo, 2)

    # The docs' own command opens it, and pg_restore makes the same SQL of it as of pg_dump's own compressed archive.
    command = ["openssl", "enc", "-d", "-chacha20", "-pbkdf2", "-pass", f"file:{passphrase_file}", "-in", str(path)]
    plain = subprocess.run(command, capture_output=True, check=True).stdout
    dump = ["docker", "exec", demo.container("service"), "pg_dump", "--format=custom"]
    theirs = subprocess.run(dump, capture_output=True, check=True).stdout
    assert restored(demo, plain) == restored(demo, theirs)

    given = {"path": str(path), "passphrase_file": str(passphrase_file), "expected_sha256": result["sha256"]}
    again = run_module("central_backup_verify", given)
    assert (again.diagnosis, again["tables"], again["central"]) == ("ok", result["tables"], result["central"])


def test_by_both_methods_the_same(demo: Demo, backup: Backup, passphrase_file: Path, tmp_path: Path) -> None:
    given = {**demo.login, "passphrase_file": str(passphrase_file), "dest": str(tmp_path / "api")}
    api = run_module("central_backup", given)
    assert (api["method"], api["method_reason"]) == ("api", "asked for")
    dumped = backup()
    # The log-in is a row more.
    sizes = [made["central"].pop("data_size") for made in (api, dumped)]
    assert 0 <= sizes[0] - sizes[1] < 10_000
    for name in ("central", "server_version", "dump_version", "archive_version", "compression", "format", "database"):
        assert api[name] == dumped[name], name
    differing = {name for name in api["tables"] if api["tables"][name] != dumped["tables"][name]}
    assert differing <= {"public.sessions", "public.audits", "public.actees"}, "a log-in is in the API's"


def test_check_mode_makes_nothing(demo: Demo, backup: Backup, dest: Path) -> None:
    result = backup(check=True)
    assert (result.diagnosis, result["method"], result["dumped_in"]) == ("ok", "pg_dump", "service"), result.result
    assert result["identity"]["database_host"] == "postgres14"
    assert result["free"] > 0
    assert not dest.exists()
    demo.psql("CREATE ROLE poor LOGIN PASSWORD 'x'; CREATE TABLE secret (); ALTER TABLE secret OWNER TO poor")
    try:
        assert backup(check=True).diagnosis == "ok", "a superuser reads all"
    finally:
        demo.psql("DROP TABLE secret; DROP ROLE poor")


class Running:
    """The module in a process that a test can kill."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            module_command("central_backup"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=module_environment(),
            cwd="/",
            start_new_session=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(wire_arguments(options))
        self.process.stdin.close()
        self.process.stdin = None

    def end(self, number: int) -> None:
        """Send a signal to this process only, as the kernel does when memory runs out."""
        self.process.send_signal(number)
        self.process.communicate(timeout=30)


def wait_for_session(demo: Demo, more: str = "") -> None:
    limit = time.monotonic() + 20
    while demo.psql(OURS + more) == "0":
        assert time.monotonic() < limit, "no dump has begun"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_killed_run_leaves_nothing(demo: Demo, options: dict[str, Any], dest: Path, number: int) -> None:
    """In the middle of the data."""
    with demo.fault("dump-slow", "--rate", "50000"):
        running = Running(options)
        wait_for_session(demo)
        time.sleep(1.5)
        assert dumping(demo)
        running.end(number)
        wait_until_nothing_is_left(demo)
    assert not dest.exists() or list(dest.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_killed_while_it_waits_for_a_lock(
    demo: Demo, options: dict[str, Any], dest: Path, number: int
) -> None:
    with demo.fault("locked-table"):
        running = Running(options)
        wait_for_session(demo, " and wait_event_type = 'Lock'")
        running.end(number)
        wait_until_nothing_is_left(demo)
    assert not dest.exists() or list(dest.iterdir()) == []


def test_a_session_whose_pg_dump_was_killed_is_ended_by_the_next_run(demo: Demo, backup: Backup) -> None:
    with demo.fault("locked-table"):
        results: list[Result] = []
        thread = threading.Thread(target=lambda: results.append(backup()))
        thread.start()
        wait_for_session(demo, " and wait_event_type = 'Lock'")
        demo.execute("service", "pkill", "-KILL", "-x", "pg_dump")
        thread.join()
        assert_refused(results[0], "dump_failed", "killed")
        assert demo.psql(OURS) == "1", "the server does not notice while it waits"
        assert_refused(backup(lock_wait_timeout=0.5), "table_locked")
        wait_until_nothing_is_left(demo, 2)
    assert backup().diagnosis == "ok"


def test_a_locked_table(demo: Demo, backup: Backup, dest: Path) -> None:
    with demo.fault("locked-table"):
        started = time.monotonic()
        result = backup(lock_wait_timeout=1)
        assert time.monotonic() - started < 20
        wait_until_nothing_is_left(demo, 2)
    assert_refused(result, "table_locked", "1 seconds", "blobs", "pg_locks")
    assert not dest.exists()


def test_openid_connect(demo: Demo, backup: Backup) -> None:
    with demo.fault("oidc"):
        for method in ("session", "basic"):
            result = backup(**{**demo.login, "method": "auto", "auth_method": method})
            assert result.diagnosis == "ok", result.result or result.stderr
            assert result["method"] == "pg_dump"
            assert "OpenID Connect" in result["method_reason"]
        assert backup(**{**demo.login, "method": "auto"}, check=True)["method"] == "pg_dump"
        assert_holds_the_database(demo, result)
    assert backup(**{**demo.login, "method": "auto"})["method"] == "api"


def test_an_older_service_that_does_not_start(demo: Demo, backup: Backup) -> None:
    """As after a failed upgrade: service starts again and again."""
    with demo.fault("old-version"):
        for method in ("pg_dump", "auto"):
            more = demo.login if method == "auto" else {}
            result = backup(**{**more, "method": method})
            assert result.diagnosis == "ok", result.result or result.stderr
            assert result["method"] == "pg_dump"
            # It may happen to run when it is asked.
            assert result["dumped_in"] in ("service-once", "service")
            assert_holds_the_database(demo, result)


def test_service_does_not_run(demo: Demo, backup: Backup) -> None:
    with demo.fault("service-stopped"):
        result = backup()
        assert result.diagnosis == "ok", result.result or result.stderr
        assert result["dumped_in"] == "service-once"
        assert "service does not run" in str(result["warnings"])
        assert result["identity"]["database_host"] == "postgres14"
        assert result["identity"]["domain"] == demo["domain"]
        assert_holds_the_database(demo, result)
        checked = backup(check=True)
        assert (checked.diagnosis, checked["dumped_in"]) == ("ok", "service-once")
        containers = demo.compose("ps", "--all", "--format", "{{.Name}}").split()
    assert not [name for name in containers if "-run-" in name], "the container that was asked for the settings is gone"


@pytest.fixture
def elsewhere(demo: Demo) -> Iterator[None]:
    """The database has another name, so that it counts as a server of one's own; service is stopped."""
    folder = Path(demo["compose_dir"])
    override, environment = folder / "docker-compose.override.yml", folder / ".env"
    before = environment.read_text("utf-8")
    text = "services:\n  postgres14:\n    networks:\n      default:\n        aliases: [database.example.org]\n"
    try:
        override.write_text(text, "utf-8")
        environment.write_text(before + "\nPGHOST=database.example.org\n", "utf-8")
        demo.compose("up", "--detach", "--no-build", timeout=180)
        demo.compose("stop", "service")
        yield
    finally:
        override.unlink()
        environment.write_text(before, "utf-8")
        demo.compose("up", "--detach", "--no-build", timeout=180)
        # Nginx resolves service only when it starts.
        demo.compose("restart", "nginx")
        central("up", "--name", demo.name)


@pytest.mark.usefixtures("elsewhere")
def test_service_does_not_run_and_has_a_server_of_its_own(
    demo: Demo, backup: Backup, options: dict[str, Any], dest: Path
) -> None:
    result = backup()
    assert result.diagnosis == "ok", result.result or result.stderr
    assert result["dumped_in"] == "service-once"
    assert result["identity"]["database_host"] == "database.example.org"
    assert_holds_the_database(demo, result)
    with demo.fault("locked-table"):
        running = Running(options)
        wait_for_session(demo, " and wait_event_type = 'Lock'")
        running.end(signal.SIGTERM)
        wait_until_nothing_is_left(demo)
    wait_until_nothing_is_left(demo)
    limit = time.monotonic() + 15
    while re.search("-run-", demo.compose("ps", "--format", "{{.Name}}")):
        assert time.monotonic() < limit, "the container goes on"
        time.sleep(0.2)
    assert len(list(dest.iterdir())) == 1
    # Its database can be dumped in service, too.
    demo.compose("start", "service")
    again = backup()
    assert again.diagnosis == "ok", again.result or again.stderr
    assert (again["dumped_in"], again["identity"]) == ("service", result["identity"])


@pytest.mark.parametrize("check", [False, True])
def test_the_database_is_down(demo: Demo, backup: Backup, dest: Path, check: bool) -> None:
    with demo.fault("database-stopped"):
        result = backup(check=check)
    assert_refused(result, "database_unreachable", "postgres14")
    assert not dest.exists()


def test_the_database_vanishes(demo: Demo, backup: Backup, dest: Path) -> None:
    with demo.fault("database-frozen"):
        started = time.monotonic()
        result = backup()
        assert time.monotonic() - started < 60
    assert_refused(result, "database_unreachable", "timeout")
    assert not dest.exists()


def test_pg_dump_dies(demo: Demo, backup: Backup, dest: Path) -> None:
    with demo.fault("dump-dies", "--after", "60000"):
        result = backup()
    assert_refused(result, "dump_failed", "database odk at postgres14", "killed")
    assert not dest.exists()
    assert backup().diagnosis == "ok", "and the next one is whole"


def test_the_connection_is_ended_in_the_middle(demo: Demo, options: dict[str, Any], dest: Path) -> None:
    with demo.fault("dump-slow", "--rate", "50000"):
        running = Running(options)
        wait_for_session(demo)
        time.sleep(1)
        demo.psql("select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'odkops%'")
        stdout, _stderr = running.process.communicate(timeout=60)
        assert b'"diagnosis": "dump_failed"' in stdout
        wait_until_nothing_is_left(demo)
    assert not dest.exists()


def test_the_disk_is_full(demo: Demo, backup: Backup, tmp_path: Path) -> None:
    point = tmp_path / "small"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(point)], check=True)
    try:
        result = backup(dest=str(point))
        assert_refused(result, "disk_full", str(point))
        assert list(point.iterdir()) == []
    finally:
        subprocess.run(["umount", str(point)], check=True)
    wait_until_nothing_is_left(demo)


def test_a_rate_is_kept(demo: Demo, backup: Backup) -> None:
    command = ["docker", "exec", demo.container("service"), "pg_dump", "--format=custom", "--compress=0"]
    size = len(subprocess.run(command, capture_output=True, check=True).stdout)
    result = backup(rate_limit=size // 3)
    assert 2.5 < result["elapsed"] < 20


def test_secrets_are_nowhere_to_be_seen(demo: Demo, backup: Backup, passphrase: str, dest: Path) -> None:
    """Neither in the arguments nor in the environment of any process, nor in the result, nor in a file."""
    seen: list[str] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                if process.name == str(os.getpid()):
                    continue
                for name in ("cmdline", "environ"):
                    try:
                        data = (process / name).read_bytes()
                    except OSError:
                        continue
                    if passphrase.encode() in data or (name == "cmdline" and b"PGPASSWORD=odk" in data):
                        seen.append(f"{process.name}/{name}: {data[:200]!r}")

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = backup(passphrase=passphrase, passphrase_file=None)
    stop.set()
    watcher.join()
    assert result.diagnosis == "ok"
    assert seen == []
    assert passphrase not in result.stdout + result.stderr
    for file in dest.rglob("*"):
        assert passphrase.encode() not in file.read_bytes()


@pytest.mark.parametrize(
    ("changed", "diagnosis"),
    [
        ({"project_directory": "/nonexistent"}, "bad_option"),
        ({"project_directory": "/", "project": None}, "not_a_compose_project"),
        ({"docker_command": ["/nonexistent/docker"]}, "command_not_found"),
        ({"project": "no-such-project"}, "service_not_running"),
    ],
)
def test_the_central_is_not_there(backup: Backup, dest: Path, changed: dict[str, Any], diagnosis: str) -> None:
    before = _networks_and_volumes()
    assert_refused(backup(**changed), diagnosis)
    assert not dest.exists()
    assert _networks_and_volumes() == before


def _networks_and_volumes() -> set[str]:
    return {
        name
        for kind in ("network", "volume")
        for name in subprocess.run(
            ["docker", kind, "ls", "--format", "{{.Name}}", "--filter", "name=no-such-project"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
    }
