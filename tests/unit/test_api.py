# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""central_backup against servers that answer in every wrong way. What a real Central answers is tested in integration."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _api
from ansible_collections.odkops.central.plugins.module_utils._api_url import Transport, check_url
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError

from support import run_module
from support.fake_central import TOKEN, Handler, Reply, Server, as_json, fake_central, problem
from support.modules import Result, module_command, module_environment, wire_arguments

PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def server() -> Iterator[Server]:
    with fake_central() as running:
        yield running


def backup(server: Server | str, dest: Path, /, *, check: bool = False, env: Any = None, **options: Any) -> Result:
    """Run central_backup as Ansible does."""
    url = server if isinstance(server, str) else server.url
    given: dict[str, Any] = {
        "url": url,
        "email": "a@example.org",
        "password": "secret",
        "passphrase": PASSPHRASE,
        "dest": str(dest),
    }
    given |= options
    return run_module("central_backup", {k: v for k, v in given.items() if v is not None}, check=check, env=env)


def stream(data: bytes, *, chunked: bool = True, whole: bool = True) -> Any:
    """An answer that streams, and ends as it should or not."""

    def send(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/octet-stream")
        handler.send_header("Content-Disposition", 'attachment; filename="b.pgdump.enc.bin"')
        if chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
        if chunked and whole:
            handler.wfile.write(b"0\r\n\r\n")

    return send


def assert_nothing_left(dest: Path) -> None:
    assert not dest.exists() or not list(dest.iterdir())


@pytest.mark.parametrize(
    ("path", "answer", "diagnosis", "words"),
    [
        ("POST /v1/sessions", problem(401.2), "authentication_failed", "401"),
        ("POST /v1/sessions", problem(404.1), "oidc_enabled", "pg_dump"),
        ("POST /v1/sessions", Reply(404, b"<html>"), "not_a_central", "404"),
        ("POST /v1/sessions", Reply(401, b"", {"WWW-Authenticate": "Basic"}), "not_a_central", "log-in of its own"),
        ("POST /v1/sessions", Reply(200, b"<html>hi</html>"), "not_a_central", "not JSON"),
        ("POST /v1/sessions", as_json([1]), "not_a_central", "JSON object"),
        ("POST /v1/sessions", as_json({"token": "a\nb"}), "not_a_central", "token"),
        ("POST /v1/sessions", as_json({}), "not_a_central", "token"),
        (
            "POST /v1/sessions",
            Reply(301, b"", {"Location": "https://elsewhere/"}),
            "not_a_central",
            "https://elsewhere/",
        ),
        ("POST /v1/sessions", Reply(421, b""), "not_a_central", "DOMAIN"),
        ("POST /v1/sessions", Reply(502, b"<html>bad gateway"), "server_error", "502"),
        ("POST /v1/sessions", problem(400.3, "Required parameters missing."), "server_error", "Required parameters"),
        ("POST /v1/backup", problem(403.1), "permission_denied", "backup.run"),
        ("POST /v1/backup", problem(500.1, "Completely unhandled exception"), "server_error", "unhandled"),
        ("POST /v1/backup", Reply(504, b"<html>"), "timeout", "504"),
        ("POST /v1/backup", Reply(404, b"gone"), "not_a_central", "404"),
        ("POST /v1/backup", Reply(200, b"<html>", {"Content-Type": "text/html"}), "not_a_central", "text/html"),
        ("POST /v1/backup", Reply(200, b"<html>oops", {"Content-Type": "text/plain"}), "error_page", "<html>oops"),
        ("POST /v1/backup", Reply(200, b"Salted__12345678"), "dump_failed", "16 bytes"),
        ("POST /v1/backup", Reply(200, b""), "truncated", "empty"),
        ("POST /v1/backup", stream(b"Salted__1234", whole=False), "truncated", "broke after 12 bytes"),
        ("POST /v1/backup", stream(b"Salted__12345678", whole=False), "dump_failed", "docker compose logs service"),
        ("POST /v1/backup", stream(b"Salted__1234"), "truncated", "first header"),
        ("POST /v1/backup", stream(b"x" * 1000, chunked=False), "not_a_central_backup", "bad magic number"),
        ("POST /v1/backup", stream(b"Salted__12345678" + b"x" * 1000), "wrong_passphrase", "does not open"),
    ],
)
def test_what_a_server_may_answer(
    server: Server, tmp_path: Path, path: str, answer: Any, diagnosis: str, words: str
) -> None:
    server.answers[path] = answer
    dest = tmp_path / "new"
    result = backup(server, dest)
    assert result.failed
    assert result.diagnosis == diagnosis, result["msg"]
    assert words in result["msg"]
    assert not dest.exists(), "a directory that was made for nothing is removed again"
    # A session that was opened is closed, whatever happened.
    assert ("DELETE /v1/sessions/current" in server.asked) == (path != "POST /v1/sessions")


def test_the_request_is_what_central_needs(server: Server, tmp_path: Path) -> None:
    server.answers["POST /v1/backup"] = Reply(200, b"Salted__12345678")
    backup(server, tmp_path)
    login, asked, logout = server.requests
    assert json.loads(login.body) == {"email": "a@example.org", "password": "secret"}
    assert "authorization" not in login.headers
    assert asked.headers["content-type"] == "application/json", "Central ignores a body of any other type"
    assert json.loads(asked.body) == {"passphrase": PASSPHRASE}
    assert asked.headers["authorization"] == logout.headers["authorization"] == f"Bearer {TOKEN}"
    assert asked.headers["x-forwarded-proto"] == "https"


def test_an_old_central_whose_download_fails_leaves_something_on_the_server(server: Server, tmp_path: Path) -> None:
    headers = {"Content-Type": "application/zip", "Content-Disposition": "attachment; filename=b.zip"}
    server.answers["POST /v1/backup"] = Reply(200, b"PK\x03\x04" + bytes(100), headers)
    result = backup(server, tmp_path / "new")
    assert result.failed
    assert any("/tmp/tmp-*" in str(warning) for warning in result["warnings"])
    assert not (tmp_path / "new").exists()


def test_no_passphrase_is_asked_for_without_one(server: Server, tmp_path: Path) -> None:
    server.answers["POST /v1/backup"] = Reply(200, b"Salted__12345678")
    refused = backup(server, tmp_path, passphrase="")
    assert refused.diagnosis == "no_passphrase"
    assert server.requests == [], "nothing is asked before the passphrase is known to be good"
    backup(server, tmp_path, passphrase="", allow_unencrypted=True)
    assert json.loads(server.requests[1].body) == {}


def test_basic_opens_no_session(server: Server, tmp_path: Path) -> None:
    server.answers["POST /v1/backup"] = problem(401.5)
    result = backup(server, tmp_path, auth_method="basic", password="p:ä")
    assert result.diagnosis == "oidc_enabled"
    assert server.asked == ["POST /v1/backup"]
    kind, value = server.requests[0].headers["authorization"].split()
    assert (kind, base64.b64decode(value).decode()) == ("Basic", "a@example.org:p:ä")


def test_a_given_token_is_used_and_left_alone(server: Server, tmp_path: Path) -> None:
    server.answers["POST /v1/backup"] = problem(401.2)
    result = backup(server, tmp_path, auth_method="token", token="given", email=None, password=None)
    assert result.diagnosis == "authentication_failed"
    assert server.asked == ["POST /v1/backup"]
    assert server.requests[0].headers["authorization"] == "Bearer given"


def test_a_netrc_file_changes_nothing(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login other password other\n", "utf-8")
    (tmp_path / ".netrc").chmod(0o600)
    backup(server, tmp_path / "d", env={"HOME": str(tmp_path)})
    assert "authorization" not in server.requests[0].headers
    assert server.requests[1].headers["authorization"] == f"Bearer {TOKEN}"


def test_a_log_out_that_fails_is_a_warning(server: Server, tmp_path: Path) -> None:
    server.answers["DELETE /v1/sessions/current"] = Reply(500)
    result = backup(server, tmp_path, check=True)
    assert not result.failed
    assert any("could not be closed" in str(warning) for warning in result["warnings"])
    server.answers["POST /v1/backup"] = problem(500.1)
    failed = backup(server, tmp_path / "new")
    assert failed.diagnosis == "server_error"
    assert any("could not be closed" in str(warning) for warning in failed["warnings"]), "said after a failure too"


@pytest.mark.parametrize("option", ["password", "passphrase"])
def test_secrets_from_files(server: Server, tmp_path: Path, option: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("another secret of good length\r\n", "utf-8")
    server.answers["POST /v1/backup"] = Reply(200, b"Salted__12345678")
    backup(server, tmp_path / "d", **{option: None, f"{option}_file": str(secret)})
    body = json.loads(server.requests[0 if option == "password" else 1].body)
    assert body[option] == "another secret of good length"


@pytest.mark.parametrize(
    ("options", "diagnosis"),
    [
        ({"url": "http://central.example.org"}, "insecure_http"),
        ({"url": "ftp://central.example.org"}, "bad_option"),
        ({"url": "https://"}, "bad_option"),
        ({"url": "https://x:99999"}, "bad_option"),
        ({"url": "https://user:pass@central.example.org"}, "bad_option"),
        ({"url": "https://central.example.org/v1/backup"}, "bad_option"),
        ({"connect_timeout": 0}, "bad_option"),
        ({"read_timeout": -1}, "bad_option"),
        ({"ca_path": "/nonexistent/ca.pem"}, "unreadable"),
        ({"dest": ""}, "bad_option"),
        ({"dest": "/tmp/" + "x" * 252 + ".bin"}, "bad_option"),
        ({"expected_size": -1}, "bad_option"),
        ({"passphrase": 1234567890123456}, "bad_passphrase"),
        ({"passphrase": True}, "bad_passphrase"),
        ({"passphrase": "short"}, "weak_passphrase"),
        ({"passphrase": "a" * 40}, "weak_passphrase"),
        ({"passphrase": "two\nlines of sixteen"}, "bad_passphrase"),
        ({"passphrase": None, "passphrase_file": "/nonexistent/passphrase"}, "unreadable"),
        ({"password": ""}, "bad_option"),
        ({"auth_method": "token", "token": "a b"}, "bad_option"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: dict[str, Any], diagnosis: str) -> None:
    result = backup("http://127.0.0.1:9", tmp_path / "new", **options)
    assert result.diagnosis == diagnosis, result["msg"]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("missing", [{"email": None}, {"password": None}, {"auth_method": "token"}, {"url": None}])
def test_options_that_are_missing(tmp_path: Path, missing: dict[str, Any]) -> None:
    result = backup("http://127.0.0.1:9", tmp_path, **missing)
    assert result.failed
    assert next(iter(missing)) in result["msg"] or "token" in result["msg"]


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://central.example.org/", "https://central.example.org"),
        ("https://Central.example.org:8443", "https://central.example.org:8443"),
        ("http://[::1]:8383/", "http://[::1]:8383"),
        ("http://127.0.0.2", "http://127.0.0.2"),
    ],
)
def test_addresses(url: str, base: str) -> None:
    assert check_url(Transport(url))[0] == base


def test_plain_http_is_permitted_on_request() -> None:
    assert check_url(Transport("http://central.example.org", allow_http=True)) == ("http://central.example.org", True)
    with pytest.raises(CentralError) as caught:
        check_url(Transport("http://127.0.0.1.example.org"))
    assert caught.value.diagnosis == "insecure_http"


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = backup(f"http://127.0.0.1:{unused.getsockname()[1]}", tmp_path / "new")
    assert (result.diagnosis, "refused" in result["msg"]) == ("connection_failed", True)
    assert not (tmp_path / "new").exists()


def test_a_name_that_does_not_exist(tmp_path: Path) -> None:
    result = backup("https://no-such-host.invalid", tmp_path / "new")
    assert (result.diagnosis, "resolved" in result["msg"]) == ("connection_failed", True)


def test_a_server_that_speaks_no_tls(server: Server, tmp_path: Path) -> None:
    result = backup(server.url.replace("http://", "https://"), tmp_path / "new")
    assert (result.diagnosis, "TLS" in result["msg"]) == ("connection_failed", True)


def test_a_connection_that_nobody_takes(tmp_path: Path) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _count in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        result = backup(f"http://127.0.0.1:{port}", tmp_path / "new", connect_timeout=0.3, read_timeout=0.3)
        for one in waiting:
            one.close()
    assert result.diagnosis == "timeout"
    assert "did not take the connection" in result["msg"]


@pytest.mark.parametrize("sent", [b"", b"Salted__12345678" + b"x" * 100])
def test_a_server_that_stops_sending(server: Server, tmp_path: Path, sent: bytes) -> None:
    def hang(handler: Handler) -> None:
        if sent:
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.write(sent)
        time.sleep(1.5)

    server.answers["POST /v1/backup"] = hang
    result = backup(server, tmp_path / "new", read_timeout=0.4)
    assert result.diagnosis == "timeout", result["msg"]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("answer", "diagnosis"),
    [
        (as_json({"verbs": ["config.read"]}), "permission_denied"),
        (problem(404.1), "permission_denied"),
        (problem(401.2), "authentication_failed"),
        (as_json({"id": 5, "verbs": ["backup.run"]}), "ok"),
        (as_json({"id": 5}), "ok"),
    ],
)
def test_check_mode_looks_at_the_rights(server: Server, tmp_path: Path, answer: Reply, diagnosis: str) -> None:
    server.answers["GET /v1/users/current"] = answer
    result = backup(server, tmp_path / "new", check=True)
    assert result.diagnosis == diagnosis
    assert server.asked == ["POST /v1/sessions", "GET /v1/users/current", "DELETE /v1/sessions/current"]
    assert server.requests[1].headers["x-extended-metadata"] == "true"
    assert not (tmp_path / "new").exists()
    assert result.failed == (diagnosis != "ok")
    if not result.failed:
        assert result["changed"] is True
        assert result["free"] > 0
        assert bool(result.result.get("warnings")) == (b"verbs" not in answer.body)


def interrupt(server: Server, dest: Path, number: signal.Signals) -> None:
    """Send a signal to central_backup while the server is sending."""

    def hang(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"Salted__12345678" + b"x" * 100)
        flowing.set()
        over.wait(20)

    flowing, over = threading.Event(), threading.Event()
    server.answers["POST /v1/backup"] = hang
    options = {"url": server.url, "email": "a", "password": "b", "passphrase": PASSPHRASE, "dest": str(dest)}
    with subprocess.Popen(
        module_command("central_backup", sys.executable),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=module_environment(),
    ) as process:
        assert process.stdin is not None
        process.stdin.write(wire_arguments(options))
        process.stdin.close()
        assert flowing.wait(20)
        time.sleep(0.3)
        process.send_signal(number)
        assert process.wait(20) != 0
    over.set()


def test_a_termination_closes_the_session_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    interrupt(server, tmp_path / "new", signal.SIGTERM)
    assert server.asked[-1] == "DELETE /v1/sessions/current"
    assert not (tmp_path / "new").exists()


def test_a_killed_run_leaves_no_file(server: Server, tmp_path: Path) -> None:
    interrupt(server, tmp_path / "new", signal.SIGKILL)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "requests.py").write_text("raise ImportError('no requests here')\n", "utf-8")
    result = backup("http://127.0.0.1:9", tmp_path / "new", env={"PYTHONPATH": str(shadow)})
    assert result.diagnosis == "missing_required_lib"
    assert result["library"] == "requests"
    assert "python3-requests" in result["msg"]


def test_the_system_s_certificates_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(Path(__file__)))
    assert Transport("https://x").verify() == os.fspath(Path(__file__))
    assert Transport("https://x", validate_certs=False).verify() is False
    assert Transport("https://x", ca_path="/ca").verify() == "/ca"
    assert _api.BACKUP_RIGHT == "backup.run"
