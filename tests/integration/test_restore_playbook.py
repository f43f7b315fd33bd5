# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""restore.yml on a Central of its own, which may be destroyed. What there is is asked by SQL, redis-cli and HTTP."""

from __future__ import annotations

import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import Demo, PlaybookResult, run_playbook
from support.archives import openssl
from support.by_hand import everything, in_container
from support.demo import central, ensure_demo, sole_user
from support.full_set import enketo_secrets
from support.sets import everything_below

NAME = os.environ.get("CENTRAL_RESTORE_PLAYBOOK_DEMO", "odkback")
PASSPHRASE = "correct horse battery staple 42"
LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}

# Of each table all rows, as text. Logins end with a restore.
TABLES = """
SELECT json_object_agg(relname, (xpath('/row/d/text()', query_to_xml(format(
    'SELECT count(*) || '' '' || coalesce(md5(string_agg(t::text, chr(10) ORDER BY t::text)), ''-'') AS d FROM public.%I t',
    relname), false, true, '')))[1]::text)
FROM pg_stat_user_tables WHERE schemaname = 'public' AND relname <> 'sessions'
"""
TOKENS = """
SELECT string_agg(s.token, ' ' ORDER BY s.token) FROM sessions s JOIN actors a ON a.id = s."actorId" WHERE a.type <> 'user'
"""
DATABASES = "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE NOT datistemplate"

pytestmark = [pytest.mark.timeout(3600), pytest.mark.demo]


def status(demo: Demo, path: str, patience: float = 30) -> int:
    """What nginx answers in the end."""
    context = ssl.create_default_context(cafile=demo.ca_path)
    until = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(demo.url + path, context=context, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


@dataclass
class State:
    """All that a restore is to bring back, or to leave alone."""

    tables: dict[str, str]
    tokens: str
    redis: dict[str, Any]
    secrets: dict[str, bytes]

    @classmethod
    def of(cls, demo: Demo) -> State:
        command = "psql -XqAt -v ON_ERROR_STOP=1 -U odk -d odk"
        tables = json.loads(in_container(demo, "postgres14", command, TABLES.encode()))
        redis = {key: value for key, value in everything(demo).items() if key.startswith(("id:", "or:"))}
        for _kind, value, _expiry in redis.values():
            if isinstance(value, dict):
                value.pop("lastAccessed", None)
        return cls(tables, demo.psql(TOKENS), redis, enketo_secrets(demo))


@dataclass
class Site:
    """A Central whose name in the inventory is ``back``, and what it held when it was backed up."""

    demo: Demo
    folder: Path
    held: State
    set: Path

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    def run(self, *arguments: str, check: bool = False, playbook: str = "restore", **variables: Any) -> PlaybookResult:
        return _run(self.demo, self.folder, playbook, *arguments, check=check, **variables)

    def restore(self, **variables: Any) -> PlaybookResult:
        return self.run(central_restore_confirm=self.demo["domain"], **variables)

    def links(self) -> set[int]:
        """What the links of all forms answer."""
        ids = [key.removeprefix("id:") for key in everything(self.demo) if key.startswith("id:")]
        assert ids
        return {status(self.demo, f"/enketo-passthrough/{each}") for each in ids}

    def destroy(self) -> None:
        """Remove containers, volumes and all that is in them; the checkout is as a stock one after ``git clone``."""
        self.demo.compose("down", "--volumes", "--timeout", "5", timeout=300)
        (Path(self.demo["compose_dir"]) / "files/allow-postgres14-upgrade").unlink()

    def litter(self) -> list[str]:
        """What a restore might leave beside the old databases: in the checkout, in Redis' volume, in that of the secrets."""
        there = [str(path) for path in Path(self.demo["compose_dir"]).glob(".odkops*/*")]
        there += in_container(self.demo, "enketo_redis_main", "ls -A /data").decode().split()
        there += in_container(self.demo, "enketo", "ls -A /etc/secrets").decode().split()
        return [name for name in there if "odkops" in name]


def _run(
    demo: Demo, folder: Path, playbook: str, *arguments: str, check: bool = False, **variables: Any
) -> PlaybookResult:
    host = {
        **LOCAL,
        "central_project_directory": demo["compose_dir"],
        "central_project": demo["compose_project"],
        "central_repository": str(folder / "repository"),
        "central_method": "pg_dump",
    }
    hosts = {variables.pop("host", "back"): host}
    inventory, extra = folder / "inventory.json", folder / "variables.json"
    inventory.write_text(json.dumps({"odk_central": {"hosts": hosts}}), "utf-8")
    extra.touch(mode=0o600)
    extra.write_text(json.dumps({"central_passphrase": PASSPHRASE, **variables}), "utf-8")
    return run_playbook(playbook, inventory, extra, *arguments, check=check, timeout=1800)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("back")
    with sole_user(NAME):
        try:
            if not os.environ.get("CENTRAL_KEEP"):
                central("clean", "--name", NAME)
            demo = ensure_demo(NAME)
            backup = _run(demo, folder, "backup")
            assert backup.rc == 0, backup.output
            (made,) = (folder / "repository/back/sets").iterdir()
            yield Site(demo, folder, State.of(demo), made)
        finally:
            if not os.environ.get("CENTRAL_KEEP"):
                central("clean", "--name", NAME)


def failure(outcome: PlaybookResult) -> str:
    assert outcome.rc != 0, outcome.output
    return str(outcome.of("fail")[-1]["msg"])


def report(outcome: PlaybookResult) -> str:
    assert outcome.rc == 0, outcome.output
    found = [result["msg"] for result in outcome.of("debug") if isinstance(result.get("msg"), list)]
    return "\n".join(found[-1])


def stats(outcome: PlaybookResult) -> dict[str, Any]:
    return dict(outcome.custom["_run"]["odkops_central_restore"]["back"])


def test_without_the_domain_nothing_is_touched(site: Site) -> None:
    before, databases = everything_below(site.repository), site.demo.psql(DATABASES)
    for variables, said in (
        ({}, "-e central_restore_confirm=DOMAIN"),
        ({"central_restore_confirm": ""}, "-e central_restore_confirm=DOMAIN"),
        ({"central_restore_confirm": "other.example.org"}, f"has the DOMAIN '{site.demo['domain']}'"),
    ):
        refused = site.run(**variables)
        assert said in failure(refused)
        assert stats(refused)["diagnosis"] == "wrong_confirmation"
    assert everything_below(site.repository) == before
    assert (State.of(site.demo), site.demo.psql(DATABASES)) == (site.held, databases)


def test_several_centrals_at_once_are_refused(site: Site, tmp_path: Path) -> None:
    inventory = tmp_path / "inventory.json"
    hosts = {name: {**LOCAL, "central_project_directory": site.demo["compose_dir"]} for name in ("one", "two")}
    inventory.write_text(json.dumps({"odk_central": {"hosts": hosts}}), "utf-8")
    outcome = run_playbook("restore", inventory, None, "-e", f"central_restore_confirm={site.demo['domain']}")
    assert "--limit" in failure(outcome)
    assert outcome.of("central_lease") == []


def test_a_rollback_with_nothing_to_do_changes_nothing(site: Site) -> None:
    for action in ("rollback", "remove_previous"):
        for check in (True, False):
            outcome = site.run(check=check, central_restore_action=action)
            assert outcome.rc == 0, outcome.output
            changed = [entry for entry in outcome.results if entry["result"].get("changed")]
            # The lease is taken and returned.
            assert {entry["action"].rpartition(".")[2] for entry in changed} <= {"central_lease"}
            if not check:
                assert stats(outcome)["changed"] is False


def test_check_mode_does_the_preflight_and_changes_nothing(site: Site) -> None:
    before, databases = everything_below(site.repository), site.demo.psql(DATABASES)
    outcome = site.run(check=True, central_restore_confirm=site.demo["domain"])
    assert outcome.rc == 0, outcome.output
    (said,) = [result["msg"] for result in outcome.of("debug") if "msg" in result]
    assert f"{site.set} would be restored into back ({site.demo['domain']})" in said
    assert everything_below(site.repository) == before
    assert (State.of(site.demo), site.demo.psql(DATABASES)) == (site.held, databases)
    too_new = site.run(
        check=True, central_restore_confirm=site.demo["domain"], central_restore_set="20200101T000000.000Z-00000000"
    )
    assert "set_not_found" in failure(too_new)


def test_everything_comes_back_after_everything_was_destroyed(site: Site) -> None:
    site.destroy()
    outcome = site.restore(central_restore_bring_up=True)
    said = report(outcome)
    assert State.of(site.demo) == site.held
    assert site.links() == {200}
    assert status(site.demo, "/v1/config/public") == 200
    assert site.litter() == []
    # There was nothing to be saved, and the old database is empty.
    assert not list((site.repository / "back-before-restore/sets").glob("*"))
    (previous,) = set(site.demo.psql(DATABASES).split()) - {"odk", "postgres"}
    assert previous in said
    assert "200 submissions" in said
    assert stats(outcome)["set_id"] == site.set.name
    assert (Path(site.demo["compose_dir"]) / "files/allow-postgres14-upgrade").exists()
    removed = site.run(central_restore_action="remove_previous")
    assert stats(removed)["changed"] is True
    assert site.demo.psql(DATABASES) == "odk postgres"


def test_what_was_there_before_is_in_a_set_and_comes_back(site: Site) -> None:
    site.demo.psql("DELETE FROM submissions WHERE id <= 20; UPDATE projects SET name = 'since'")
    since = State.of(site.demo)
    outcome = site.restore(central_restore_keep_previous=False)
    assert State.of(site.demo) == site.held
    (safety,) = (site.repository / "back-before-restore/sets").iterdir()
    assert str(safety) in report(outcome)
    # It is not the newest set of the Central, and it restores.
    assert [path.name for path in (site.repository / "back/sets").iterdir()] == [site.set.name]
    again = site.restore(
        central_restore_from="back-before-restore", central_restore_safety=False, central_restore_keep_previous=False
    )
    assert again.rc == 0, again.output
    assert State.of(site.demo) == since
    assert site.demo.psql(DATABASES) == "odk postgres"


def test_a_restore_that_fails_says_at_what_and_leaves_everything_as_it_was(site: Site) -> None:
    before = State.of(site.demo)
    outcome = site.restore(
        central_restore_safety=False,
        central_restore_login_email=site.demo["admin"]["email"],
        central_restore_login_password="not the password",
    )
    said = failure(outcome)
    assert "not_healthy" in said
    assert "cannot log in" in said
    assert "Everything is as it was" in said
    assert stats(outcome)["rolled_back"] is True
    assert State.of(site.demo) == before
    assert site.links() == {200}
    assert site.demo.psql(DATABASES) == "odk postgres"
    assert site.litter() == []


def test_a_direct_backup_comes_back_with_its_links(site: Site, tmp_path: Path) -> None:
    backup = tmp_path / "central-backup.pgdump.enc.bin"
    opened = openssl((site.set / "database.pgdump.enc.bin").read_bytes(), "-d", passphrase=PASSPHRASE)
    backup.write_bytes(openssl(opened, passphrase="a passphrase of its own"))
    in_container(site.demo, "enketo_redis_main", "redis-cli FLUSHALL")
    outcome = site.restore(
        central_restore_file=str(backup),
        central_restore_passphrase="a passphrase of its own",
        central_restore_keep_previous=False,
    )
    assert outcome.rc == 0, outcome.output
    # What was there is kept with the passphrase of all backups.
    safety = max((site.repository / "back-before-restore/sets").iterdir())
    assert openssl((safety / "database.pgdump.enc.bin").read_bytes(), "-d", passphrase=PASSPHRASE)[:5] == b"PGDMP"
    found = State.of(site.demo)
    assert (found.tables, found.tokens, found.secrets) == (site.held.tables, site.held.tokens, site.held.secrets)
    assert {key: value[1] for key, value in found.redis.items() if key.startswith("or:")} == {
        key: value[1] for key, value in site.held.redis.items() if key.startswith("or:")
    }
    assert site.links() == {200}


def test_the_set_of_another_central_is_restored_at_this_address(site: Site, demo: Demo) -> None:
    backup = _run(demo, site.folder, "backup", host="other")
    assert backup.rc == 0, backup.output
    other = State.of(demo)
    outcome = site.restore(
        central_restore_from="other", central_restore_safety=False, central_restore_keep_previous=False
    )
    assert outcome.rc == 0, outcome.output
    found = State.of(site.demo)
    assert (found.tables, found.tokens, found.secrets) == (other.tables, other.tokens, other.secrets)
    host, theirs = f":{site.demo['https_port']}/", f":{demo['https_port']}/"
    assert set(found.redis) == {key.replace(theirs, host) for key in other.redis}
    assert site.links() == {200}
