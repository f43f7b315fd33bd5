# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which method a backup is made by, and why; and the options of the module that say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ansible.module_utils import basic
from ansible_collections.odkops.central.plugins.module_utils import _backup_method
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._postgres_settings import parse_settings
from ansible_collections.odkops.central.plugins.modules import central_backup

from support import Result, call_module

SERVER = (
    '{"host": "postgres14", "port": "5432", "database": "odk", "user": "odk", "version": "14.22 (Debian 14.22-1)", '
    '"number": "140022", "identifier": "7446", "size": 12345, "unreadable": null}'
)
API = {"url": "https://central.example.org", "email": "a@example.org", "password": "x"}


class Made:
    """What the engine was asked for, in place of it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.api: CentralError | None = None
        self.given: Any = None

    def make(self, name: str) -> Any:
        def call(*given: Any) -> dict[str, Any]:
            self.calls.append(name)
            self.given = given
            if self.api is not None and name in ("download", "rehearse"):
                raise self.api  # pylint: disable=raising-bad-type
            return {"warnings": []}

        return call


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    found = Made()
    for name in ("download", "rehearse", "dump", "rehearse_dump"):
        monkeypatch.setattr(_backup_method, name, found.make(name))
    return found


@pytest.fixture
def run(tmp_path: Path) -> Any:
    def call(check: bool = False, **options: Any) -> Result:
        given = {"dest": str(tmp_path), "passphrase": "correct horse battery staple 42", **options}
        return call_module(central_backup.main, given, check=check)

    return call


@pytest.mark.parametrize(
    ("options", "call", "method", "reason"),
    [
        (API, "download", "api", "asked for"),
        ({**API, "project_directory": "/c"}, "download", "api", "asked for"),
        ({"method": "pg_dump", "project_directory": "/c"}, "dump", "pg_dump", "asked for"),
        ({"method": "pg_dump", "ssh_host": "h", **API}, "dump", "pg_dump", "asked for"),
        ({"method": "auto", **API}, "download", "api", "url and credentials were given"),
        ({"method": "auto", "project_directory": "/c", **API}, "download", "api", "url and credentials were given"),
        ({"method": "auto", "project_directory": "/c"}, "dump", "pg_dump", "url was not given"),
        ({"method": "auto", "project_directory": "/c", "url": API["url"]}, "dump", "pg_dump", "missing: email"),
        (
            {"method": "auto", "project_directory": "/c", "url": API["url"], "auth_method": "token"},
            *("dump", "pg_dump", "missing: token"),
        ),
    ],
)
def test_methods(made: Made, run: Any, options: dict[str, Any], call: str, method: str, reason: str) -> None:
    result = run(**options)
    assert made.calls == [call]
    assert (result["method"], result["changed"], result["diagnosis"]) == (method, True, "ok")
    assert reason in result["method_reason"]
    made.calls.clear()
    assert run(check=True, **options)["method"] == method
    assert made.calls == [{"download": "rehearse", "dump": "rehearse_dump"}[call]]


@pytest.mark.parametrize("diagnosis", ["oidc_enabled", "connection_failed", "server_error"])
def test_auto_where_the_api_cannot_be_used(made: Made, run: Any, diagnosis: str) -> None:
    made.api = CentralError(diagnosis, "It cannot.")
    with mock.patch.object(basic.AnsibleModule, "warn") as warn:
        result = run(method="auto", project_directory="/c", **API)
    assert made.calls == ["download", "dump"]
    assert result["method"] == "pg_dump"
    if diagnosis == "oidc_enabled":
        assert "OpenID Connect" in result["method_reason"]
        assert not warn.called
    else:
        assert "It cannot." in warn.call_args[0][0]
    made.calls.clear()
    assert run(method="auto", **API).diagnosis == diagnosis, "there is no other way"
    assert run(method="api", project_directory="/c", **API).diagnosis == diagnosis
    assert made.calls == ["download", "download"]


@pytest.mark.parametrize("diagnosis", ["authentication_failed", "tls_not_trusted", "truncated", "disk_full", "timeout"])
def test_auto_hides_nothing(made: Made, run: Any, diagnosis: str) -> None:
    made.api = CentralError(diagnosis, "It failed.")
    assert run(method="auto", project_directory="/c", **API).diagnosis == diagnosis
    assert made.calls == ["download"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({}, "url"),
        ({"method": "pg_dump"}, "project_directory"),
        ({"method": "pg_dump", **API}, "project_directory"),
        ({"method": "auto"}, "project_directory"),
        ({"url": API["url"]}, "email"),
        ({"url": API["url"], "auth_method": "token"}, "token"),
        ({"method": "pg_dump", "project_directory": "c"}, "project_directory"),
    ],
)
def test_what_is_missing(made: Made, run: Any, options: dict[str, Any], word: str) -> None:
    result = run(**options)
    assert result.failed
    assert word in result["msg"]
    assert made.calls == []


def test_options_reach_the_dump(made: Made, run: Any) -> None:
    run(method="pg_dump", project_directory="/c", nice=5, rate_limit=5000, lock_wait_timeout=7, read_timeout=11)
    _channel, terms, options = made.given
    assert (options.nice, options.lock_wait_timeout, options.read_timeout) == (5, 7, 11)
    assert options.idle_timeout == 18
    assert terms.rate_limit == 5000


@pytest.mark.parametrize("options", [{"nice": 20}, {"lock_wait_timeout": -1}, {"rate_limit": 10}])
def test_impossible_options(run: Any, options: dict[str, Any]) -> None:
    result = run(method="pg_dump", project_directory="/c", **options)
    assert result.diagnosis == "bad_option", result.result
    assert next(iter(options)) in result["msg"]


def fields(**given: str) -> bytes:
    return "".join(f"{name}={value}\0" for name, value in given.items()).encode()


def test_what_a_central_says_of_its_database() -> None:
    given = {"DOMAIN": "d", "PGHOST": "postgres14", "PGUSER": "odk", "PGDATABASE": "odk"}
    found = parse_settings(fields(**given, pg_dump="pg_dump (PostgreSQL) 14.22 (Debian 14.22-1)", server=SERVER))
    assert (found.domain, found.client, found.in_postgres14, found.error) == ("d", 14, True, "")
    server = found.require_server()
    assert (server.version, server.major, server.size, server.unreadable) == ("14.22", 14, 12345, ())
    assert found.given == given


@pytest.mark.parametrize(
    ("given", "there"),
    [
        ({"PGHOST": "postgres14", "PGUSER": "odk", "PGDATABASE": "odk"}, True),
        ({"PGHOST": "postgres14", "PGUSER": "odk", "PGDATABASE": "odk", "PGPORT": "5432", "PGSERVICE": ""}, True),
        ({"PGHOST": "postgres14", "PGUSER": "odk", "PGDATABASE": "odk", "PGPORT": "5433"}, False),
        ({"PGHOST": "postgres14", "PGUSER": "odk", "PGDATABASE": "odk", "PGSERVICE": "other"}, False),
        ({"PGHOST": "postgres14", "PGUSER": "odk", "PGDATABASE": "odk", "PGHOSTADDR": "192.0.2.1"}, False),
        ({"PGHOST": "db.example.org", "PGUSER": "odk", "PGDATABASE": "odk"}, False),
        ({"PGHOST": "postgres14", "PGUSER": "odk"}, False),
        ({"PGHOST": "postgres14,other", "PGUSER": "odk", "PGDATABASE": "odk"}, False),
        ({}, False),
    ],
)
def test_whether_the_database_is_the_one_in_postgres14(given: dict[str, str], there: bool) -> None:
    assert parse_settings(fields(**given)).in_postgres14 is there


@pytest.mark.parametrize("server", ["{", "{}", "[]", SERVER.replace("140022", "x")])
def test_an_answer_that_is_none(server: str) -> None:
    with pytest.raises(CentralError) as caught:
        parse_settings(fields(server=server))
    assert caught.value.diagnosis == "operation_failed"


def test_a_database_that_does_not_answer() -> None:
    found = parse_settings(fields(PGHOST="h", PGDATABASE="d", error='psql: error: x\n\tIs the server "h" running?'))
    with pytest.raises(CentralError, match='database d at h does not answer: psql: error: x Is the server "h" running'):
        found.require_server()
    assert parse_settings(b"").error
