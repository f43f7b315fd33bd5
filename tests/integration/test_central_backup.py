# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""central_backup and central_backup_verify against the demo Central; openssl, pg_restore and SQL check the results."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import select
import shutil
import socket
import socketserver
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import Demo, Result, run_module
from support.fake_central import Handler, fake_central

Backup = Callable[..., Result]

SESSIONS = "select count(*) from sessions s join actors a on a.id = s.\"actorId\" where a.type = 'user'"


@pytest.fixture
def backup(demo: Demo, passphrase_file: Path, tmp_path: Path) -> Backup:
    """Run central_backup against the demo Central, through nginx unless told otherwise."""

    def run(check: bool = False, env: Any = None, **options: Any) -> Result:
        given = {**demo.login, "passphrase_file": str(passphrase_file), "dest": str(tmp_path / "backups"), **options}
        if given["url"].startswith("http:"):
            given["ca_path"] = None
        given = {name: value for name, value in given.items() if value is not None}
        return run_module("central_backup", given, check=check, env=env)

    return run


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    """Where `backup` saves; it does not exist before."""
    return tmp_path / "backups"


def assert_refused(result: Result, diagnosis: str, *words: str) -> None:
    """The module failed with this diagnosis, in a clear sentence."""
    assert result.failed
    assert result.diagnosis == diagnosis, result.result or result.stderr
    for word in words:
        assert word in result["msg"]
    assert result["changed"] is False


def decrypt(path: str, passphrase_file: Path) -> bytes:
    """What the ODK docs' command gives."""
    with open(path, "rb") as file:
        return subprocess.run(
            ["openssl", "enc", "-d", "-chacha20", "-pbkdf2", "-pass", f"file:{passphrase_file}"],
            stdin=file,
            capture_output=True,
            check=True,
        ).stdout


def test_a_backup_is_what_the_database_holds(
    demo: Demo, backup: Backup, dest: Path, passphrase_file: Path, tmp_path: Path
) -> None:
    sessions = demo.psql(SESSIONS)
    result = backup()
    assert not result.failed, result.result
    assert result["changed"] is True
    assert result.diagnosis == "ok"

    path = Path(result["path"])
    assert [path] == list(dest.iterdir())
    assert re.fullmatch(r"central-backup-[0-9T.-]+Z\.pgdump\.enc\.bin", path.name), "no colon: any file system takes it"
    assert path.stat().st_mode & 0o777 == 0o600
    assert dest.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_size == result["size"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == result["sha256"]
    assert demo.psql(SESSIONS) == sessions, "the session is closed again"

    # openssl and the server's own pg_restore read it.
    dump = tmp_path / "dump"
    dump.write_bytes(decrypt(str(path), passphrase_file))
    assert dump.read_bytes().startswith(b"PGDMP")
    container = demo.compose("ps", "-q", "postgres14").strip()
    subprocess.run(["docker", "cp", str(dump), f"{container}:/tmp/dump"], check=True, capture_output=True)
    try:
        listed = demo.execute("postgres14", "pg_restore", "--list", "/tmp/dump")
        demo.execute("postgres14", "pg_restore", "--file", "/dev/null", "/tmp/dump")
    finally:
        demo.execute("postgres14", "rm", "/tmp/dump")
    names = set(re.findall(r"TABLE DATA (\w+) (\w+) ", listed))
    assert {f"{schema}.{table}" for schema, table in names} == set(result["tables"])

    # SQL counts the same rows.
    for table in ("forms", "submissions", "submission_defs", "blobs", "knex_migrations", "users", "projects"):
        assert result["tables"][f"public.{table}"] == int(demo.psql(f"select count(*) from {table}")), table
    central = result["central"]
    assert central["migration"] == demo.psql("select max(name) from knex_migrations")
    by_status = demo.psql("select s3_status, count(*) from blobs group by 1")
    assert central["blobs"] == {name: int(n) for name, n in (line.split("\t") for line in by_status.splitlines())}
    assert central["blobs_in_database"] == int(demo.psql("select count(*) from blobs where content is not null"))
    assert central["enketo_ids"] == int(demo.psql('select count("enketoId") from forms'))
    assert central["enketo_once_ids"] == int(demo.psql('select count("enketoOnceId") from forms'))
    newest = "select details->>'version' from audits where action = 'upgrade.server' order by id desc limit 1"
    assert central["version"] == demo.psql(newest)
    assert result["server_version"].split(" ")[0] == demo.psql("show server_version").split(" ")[0]

    # A second, independent run says the same.
    again = run_module(
        "central_backup_verify",
        {"path": str(path), "passphrase_file": str(passphrase_file), "expected_sha256": result["sha256"]},
    )
    assert again.diagnosis == "ok"
    assert (again["tables"], again["central"], again["changed"]) == (result["tables"], central, False)


@pytest.mark.parametrize("way", ["basic", "token", "direct"])
def test_other_ways_in(demo: Demo, backup: Backup, way: str) -> None:
    sessions = demo.psql(SESSIONS)
    if way == "basic":
        result = backup(auth_method="basic")
        assert demo.psql(SESSIONS) == sessions
    elif way == "direct":
        result = backup(url=demo.service_url, auth_method="basic")
    else:
        token = "T" * 64
        demo.psql(
            'insert into sessions ("actorId", token, csrf, "createdAt", "expiresAt") select u."actorId", '
            f"'{token}', 'c', now(), now() + interval '1 hour' from users u where email = '{demo['admin']['email']}'"
        )
        try:
            result = backup(auth_method="token", token=token, email=None, password=None)
            assert demo.psql(f"select count(*) from sessions where token = '{token}'") == "1", "not ours to close"
        finally:
            demo.psql(f"delete from sessions where token = '{token}'")
    assert result.diagnosis == "ok", result.result


def test_two_backups_lie_side_by_side(backup: Backup, dest: Path) -> None:
    assert backup()["path"] != backup()["path"]
    assert len(list(dest.iterdir())) == 2


def test_a_full_path_is_never_overwritten(backup: Backup, dest: Path) -> None:
    target = dest / "deep" / "mine.pgdump.enc.bin"
    assert backup(dest=str(target))["path"] == str(target)
    before = target.read_bytes()
    assert_refused(backup(dest=str(target)), "destination_exists", str(target))
    assert_refused(backup(dest=str(target), check=True), "destination_exists")
    assert target.read_bytes() == before
    assert list(target.parent.iterdir()) == [target]


def test_check_mode_checks_and_makes_nothing(demo: Demo, backup: Backup, dest: Path) -> None:
    sessions = demo.psql(SESSIONS)
    dumps = demo.psql("select count(*) from audits where action like 'backup%'")
    result = backup(check=True)
    assert (result.failed, result["changed"], result.diagnosis) == (False, True, "ok")
    assert not dest.exists()
    assert demo.psql(SESSIONS) == sessions
    assert demo.psql("select count(*) from audits where action like 'backup%'") == dumps


@contextlib.contextmanager
def forwarder(address: str, port: int) -> Iterator[int]:
    """The demo Central under an address that its certificate does not name; yields the port."""

    class Forward(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", port)) as onward:
                while True:
                    for ready in select.select([self.request, onward], [], [], 5)[0]:
                        data = ready.recv(65536)
                        if not data:
                            return
                        (onward if ready is self.request else self.request).sendall(data)

    with socketserver.ThreadingTCPServer((address, 0), Forward) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("check", [False, True])
class TestRefusedByTheServer:
    """What Central itself says no to; check mode finds it too."""

    def test_wrong_password(self, backup: Backup, dest: Path, check: bool) -> None:
        assert_refused(backup(password="wrong", check=check), "authentication_failed", "401")
        assert not dest.exists()

    def test_wrong_password_by_basic(self, backup: Backup, dest: Path, check: bool) -> None:
        assert_refused(backup(password="wrong", auth_method="basic", check=check), "authentication_failed")
        assert not dest.exists()

    def test_an_account_without_the_right(self, demo: Demo, backup: Backup, dest: Path, check: bool) -> None:
        sessions = demo.psql(SESSIONS)
        result = backup(**{name: demo["user"][name] for name in ("email", "password")}, check=check)
        assert_refused(result, "permission_denied", "backup.run")
        assert not dest.exists()
        assert demo.psql(SESSIONS) == sessions

    def test_tls_not_trusted(self, backup: Backup, dest: Path, check: bool) -> None:
        assert_refused(backup(ca_path=None, check=check), "tls_not_trusted", "ca_path")
        assert not dest.exists()

    def test_certificate_for_another_name(self, demo: Demo, backup: Backup, check: bool) -> None:
        with forwarder("127.0.0.3", demo["https_port"]) as port:
            result = backup(url=f"https://127.0.0.3:{port}", check=check)
        assert_refused(result, "tls_not_trusted", "127.0.0.3")


@pytest.fixture
def oidc(demo: Demo) -> Iterator[None]:
    """The demo Central logs people in through OpenID Connect."""
    with demo.fault("oidc"):
        yield


@pytest.mark.usefixtures("oidc")
def test_openid_connect(demo: Demo, backup: Backup, dest: Path) -> None:
    for method in ("session", "basic"):
        assert_refused(backup(auth_method=method), "oidc_enabled", "pg_dump")
    assert_refused(backup(check=True), "oidc_enabled", "pg_dump")
    assert not dest.exists()


def test_without_checking_certificates(backup: Backup) -> None:
    assert backup(ca_path=None, validate_certs=False, check=True).diagnosis == "ok"


def test_plain_http_to_another_host(demo: Demo, backup: Backup, dest: Path) -> None:
    assert_refused(backup(url="http://192.0.2.1"), "insecure_http", "allow_http")
    assert not dest.exists()


@pytest.mark.parametrize("through", ["nginx", "directly"])
def test_the_dump_dies_midway(demo: Demo, backup: Backup, dest: Path, through: str) -> None:
    """Behind nginx HTTP says that all went well; the archive says that it did not."""
    address = {} if through == "nginx" else {"url": demo.service_url, "auth_method": "basic"}
    with demo.fault("dump-dies", "--after", "60000"):
        result = backup(**address)
    assert_refused(result, "truncated")
    assert not dest.exists()
    assert backup(**address).diagnosis == "ok", "and the next one is whole"


def test_the_dump_fails_at_once(demo: Demo, backup: Backup, dest: Path) -> None:
    with demo.fault("dump-fails"):
        result = backup()
    assert_refused(result, "dump_failed", "16 bytes", "logs service")
    assert not dest.exists()


def test_a_lock_holds_the_dump_up(demo: Demo, backup: Backup, dest: Path) -> None:
    with demo.fault("locked-table"):
        started = time.monotonic()
        result = backup(read_timeout=2)
        assert time.monotonic() - started < 30
    assert_refused(result, "timeout", "2 seconds", "locks")
    assert not dest.exists()


def test_the_service_is_down(demo: Demo, backup: Backup, dest: Path) -> None:
    with demo.fault("service-stopped"):
        result = backup(read_timeout=10)
    assert result.failed
    assert result.diagnosis in ("server_error", "timeout"), result.result
    assert not dest.exists()


@pytest.mark.parametrize("given", [None, ""])
def test_no_passphrase(backup: Backup, dest: Path, given: str | None) -> None:
    assert_refused(backup(passphrase_file=None, passphrase=given), "no_passphrase", "allow_unencrypted")
    result = backup(passphrase_file=None, passphrase=given, allow_unencrypted=True)
    assert (result.diagnosis, result["encrypted"]) == ("ok", False)
    verified = run_module("central_backup_verify", {"path": result["path"]})
    assert (verified.diagnosis, verified["encrypted"]) == ("ok", False)


@pytest.fixture
def careless_proxy(demo: Demo) -> Iterator[str]:
    """A proxy before the demo Central that changes the type of a request's body, so that Central ignores it."""

    def forward(handler: Handler) -> None:
        asked = handler.server.requests[-1]
        headers = {name: asked.headers[name] for name in ("authorization", "x-forwarded-proto")}
        headers["content-type"] = "text/plain"
        request = urllib.request.Request(demo.service_url + "/v1/backup", asked.body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            handler.send_response(answer.status)
            handler.send_header("Content-Disposition", answer.headers["Content-Disposition"])
            handler.end_headers()
            shutil.copyfileobj(answer, handler.wfile)

    with fake_central() as server:
        server.answers["POST /v1/backup"] = forward
        yield server.url


def test_a_passphrase_that_is_lost_on_its_way(backup: Backup, dest: Path, careless_proxy: str) -> None:
    assert_refused(backup(url=careless_proxy, auth_method="basic"), "empty_passphrase", "anybody can read it")
    assert not dest.exists()
    result = backup(url=careless_proxy, auth_method="basic", allow_unencrypted=True)
    assert (result.diagnosis, result["encrypted"]) == ("ok", False), result.result


def test_passphrases_that_are_not_words(demo: Demo, backup: Backup, tmp_path: Path) -> None:
    """A number, JSON, quotes, blanks and letters beyond ASCII arrive as they are."""
    for text in (
        "1234567890123456",
        "null and nothing else",
        ' "two words" \\ $HOME `id` ',
        "пароль с пробелом – 密码密码",
    ):
        file = tmp_path / "secret"
        file.write_text(text + "\n", "utf-8")
        result = backup(passphrase_file=str(file), dest=str(tmp_path / hashlib.md5(text.encode()).hexdigest()))
        assert result.diagnosis == "ok", result.result
        assert decrypt(result["path"], file).startswith(b"PGDMP")


def test_wrong_passphrase(backup: Backup, tmp_path: Path) -> None:
    path = backup()["path"]
    for depth in ("passphrase", "full"):
        result = run_module("central_backup_verify", {"path": path, "passphrase": "not the right one", "depth": depth})
        assert_refused(result, "wrong_passphrase")
        result = run_module("central_backup_verify", {"path": path, "depth": depth})
        assert_refused(result, "wrong_passphrase", "none was given")


def obey_permissions() -> None:
    """Take from root the right to write anywhere (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH; capabilities(7), prctl(2))."""
    drop_from_bounding_set = 24
    for capability in (1, 2):
        if ctypes.CDLL(None, use_errno=True).prctl(drop_from_bounding_set, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


@pytest.mark.parametrize("check", [False, True])
def test_a_directory_that_cannot_be_written(demo: Demo, passphrase: str, tmp_path: Path, check: bool) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o755)
    os.chown(closed, 65534, 65534)
    options = {**demo.login, "passphrase": passphrase}
    for dest in (closed, closed / "new" / "er"):
        given = {**options, "dest": str(dest)}
        result = run_module("central_backup", given, check=check, preexec=obey_permissions)
        assert_refused(result, "destination_not_writable", str(closed))
    assert list(closed.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    point = tmp_path / "small"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)


def test_the_disk_is_full(backup: Backup, small_disk: Path) -> None:
    (small_disk / "other").write_bytes(b"x" * 60_000)
    result = backup(dest=str(small_disk))
    assert_refused(result, "disk_full", str(small_disk))
    assert [entry.name for entry in small_disk.iterdir()] == ["other"]


@pytest.mark.parametrize("check", [False, True])
def test_there_is_no_room_for_what_the_last_one_needed(
    demo: Demo, backup: Backup, small_disk: Path, check: bool
) -> None:
    last = small_disk / "central-backup-1.pgdump.enc.bin"
    last.write_bytes(b"x" * 100_000)
    audits = demo.psql("select count(*) from audits")
    assert_refused(backup(dest=str(small_disk), check=check), "disk_full", "100000")
    assert demo.psql("select count(*) from audits") == audits, "found out before anybody logs in"
    assert backup(dest=str(small_disk), expected_size=10, check=True).diagnosis == "ok"
    assert list(small_disk.iterdir()) == [last]


def test_secrets_are_nowhere_to_be_seen(demo: Demo, backup: Backup, passphrase: str, dest: Path) -> None:
    """Neither in the arguments nor in the environment of any process, nor in the result, nor in a file."""
    seen: list[str] = []
    stop = threading.Event()

    def watch() -> None:
        secrets = [passphrase.encode(), demo["admin"]["password"].encode()]
        while not stop.is_set():
            for process in Path("/proc").iterdir():
                if not process.name.isdigit() or process.name == str(os.getpid()):
                    continue
                for name in ("cmdline", "environ"):
                    try:
                        data = (process / name).read_bytes()
                    except OSError:
                        continue
                    # Central itself hands the passphrase to bash and openssl by environment, inside its container.
                    inside = b"ODK_BACKUP_PASSPHRASE" in data
                    if any(secret in data for secret in secrets) and not (inside and name == "environ"):
                        seen.append(f"{process.name}/{name}: {data[:200]!r}")

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = backup(passphrase=passphrase, passphrase_file=None)
    stop.set()
    watcher.join()
    assert result.diagnosis == "ok"
    assert seen == []
    for secret in (passphrase, demo["admin"]["password"]):
        assert secret not in result.stdout + result.stderr
        for file in dest.rglob("*"):
            assert secret.encode() not in file.read_bytes()
            assert secret not in file.name
