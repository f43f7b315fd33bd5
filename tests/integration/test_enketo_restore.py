# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Enketo's links and secrets put back into the demo Central; redis-cli, docker and HTTP check the results."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._enketo_part import write_part

from support import Demo, Result, run_module, run_playbook
from support.demo import wait_for
from support.local_channel import ServerChannel, write_secrets
from support.modules import module_command, wire_arguments
from support.redis_servers import Redis

REDIS = "enketo_redis_main"
NAMES = ("enketo-secret", "enketo-less-secret", "enketo-api-key")
PASSPHRASE = "correct horse battery staple 42"


class Site:
    """A Central with links of each kind, a part, and a Direct Backup of it."""

    def __init__(self, demo: Demo, folder: Path) -> None:
        self.demo, self.folder = demo, folder
        self.part, self.backup = folder / "enketo.tar.enc.bin", folder / "backup.pgdump.enc.bin"
        self.options = {
            "project_directory": demo["compose_dir"],
            "project": demo["compose_project"],
            "passphrase": PASSPHRASE,
        }
        form = demo.psql(
            """SELECT "enketoId", "enketoOnceId" FROM forms WHERE "enketoOnceId" IS NOT NULL ORDER BY id"""
        )
        draft = demo.psql("""SELECT "enketoId" FROM form_defs WHERE "enketoId" IS NOT NULL ORDER BY id""")
        self.once_total = len(form.splitlines())
        self.form, self.once = form.splitlines()[0].split("\t")
        self.draft = draft.splitlines()[0]

    def save(self, path: Path | None = None) -> None:
        made = run_module("central_enketo_backup", {**self.options, "dest": str(path or self.part)})
        assert not made.failed, made.result

    def restore(self, check: bool = False, **options: Any) -> Result:
        source = {} if "backup" in options else {"path": str(self.part)}
        given = {**self.options, **source, "confirm_domain": "localhost", **options}
        return run_module("central_enketo_restore", given, check=check, timeout=400)

    def cli(self, *words: str) -> str:
        return self.demo.execute(REDIS, "redis-cli", "--raw", *words).removesuffix("\n")

    def keys(self) -> dict[str, object]:
        """What Redis holds, less when somebody has last opened a form."""
        held: dict[str, object] = {}
        for key in sorted(self.cli("KEYS", "*").split()):
            if self.cli("TYPE", key) == "hash":
                lines = self.cli("HGETALL", key).split("\n")
                fields = dict(zip(lines[::2], lines[1::2]))
                fields.pop("lastAccessed", None)
                held[key] = fields
            else:
                held[key] = self.cli("GET", key)
        return held

    def secrets(self) -> list[str]:
        """The secrets, their owners and modes, as a container of its own sees them; and all else that is there."""
        script = "cd /etc/secrets && ls -A && for n in enketo-*; do stat -c '%u %g %a %s' $n; cat $n; echo; done"
        return self.demo.compose(
            "run", "--rm", "-T", "--no-deps", "--entrypoint", "sh", "secrets", "-c", script
        ).splitlines()

    def destroy(self) -> None:
        """All keys, and all secrets, which Central then makes anew."""
        self.cli("FLUSHALL")
        self.demo.execute("enketo", "sh", "-c", "rm /etc/secrets/enketo-*")
        self.demo.compose("run", "--rm", "-T", "--no-deps", "secrets")

    def answers(self, *links: str) -> list[int]:
        """What nginx and Enketo say to links."""
        found = []
        for link in links:
            address = f"{self.demo.url}/enketo-passthrough/{link}"
            command = ["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", address]
            found.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        return found

    def of_each_kind(self) -> list[int]:
        """A form, a single submission, a draft, and one that is made up."""
        return self.answers(f"xform/{self.form}", f"single/{self.once}", f"xform/{self.draft}", f"xform/{'x' * 31}")

    def litter(self) -> list[str]:
        """What a restore has left in the volumes and in the project's directory."""
        listed = self.demo.execute(REDIS, "ls", "-A", "/data").split()
        found = [name for name in listed if name != "enketo-main.rdb"]
        found += [line for line in self.secrets() if "odkops" in line]
        journal = Path(self.demo["compose_dir"]) / ".odkops-restore"
        return found + ([path.name for path in journal.iterdir()] if journal.exists() else [])

    def started(self, service: str) -> str:
        command = ["docker", "inspect", "-f", "{{.State.StartedAt}}", self.demo.container(service)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def saved(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The site, backed up; put back at the end, whatever the tests have left of it."""
    site = Site(demo, tmp_path_factory.mktemp("site"))
    site.save()
    done = run_module("central_backup", {**demo.login, "passphrase": PASSPHRASE, "dest": str(site.backup)})
    assert not done.failed, done.result
    yield site
    assert not site.restore().failed


@pytest.fixture
def site(saved: Site) -> Site:
    """The same, as it was."""
    result = saved.restore()
    assert not result.failed, result.result
    return saved


def test_round_trip_after_everything_was_lost(site: Site) -> None:
    keys, secrets = site.keys(), site.secrets()
    assert site.of_each_kind() == [200, 200, 200, 404]
    again = site.restore()
    assert not again["changed"], again.result
    site.destroy()
    # Enketo goes on with the secrets that it has read when it started: the page of a single submission still opens.
    assert [site.of_each_kind()[kind] for kind in (0, 2, 3)] == [404, 404, 404]
    lost, other = site.keys(), site.secrets()
    assert lost == {}
    assert other != secrets
    rehearsed = site.restore(check=True)
    assert rehearsed["changed"]
    assert rehearsed["secrets"] == list(NAMES)
    assert (site.keys(), site.secrets()) == (lost, other)
    result = site.restore()
    assert not result.failed, result.result
    assert result["changed"]
    assert result["put"] == result["keys_after"] == len(keys)
    assert result["answers"]["asked"] == result["answers"]["opened"] >= 3
    assert (site.keys(), site.secrets()) == (keys, secrets)
    wait_for(lambda: site.of_each_kind() == [200, 200, 200, 404])
    assert site.litter() == []
    shown = result.stdout + result.stderr
    assert [each for each in (PASSPHRASE, site.form, site.draft, *secrets[4::2]) if each in shown] == []
    # The service knows Enketo by the restored key again.
    site.demo.execute("service", "node", "lib/bin/enketo-ids.js")
    print(f"central_enketo_restore: {result['elapsed']} s, {result['phases']}")


def test_links_from_a_bare_direct_backup(site: Site) -> None:
    """The ODK documentation calls them lost."""
    before = site.keys()
    site.cli("FLUSHALL")
    site.cli("SET", "or:elsewhere,kept", "Kept")
    try:
        result = site.restore(backup=str(site.backup))
        assert not result.failed, result.result
        assert result["rebuilt"]["added"] == len([key for key in before if key.startswith("id:")])
        assert result["once_links"] == {"total": site.once_total, "opened": site.once_total, "lost": 0}
        wait_for(lambda: site.of_each_kind() == [200, 200, 200, 404])
        made = site.keys()
        assert made.pop("or:elsewhere,kept") == "Kept"
        assert set(made) == set(before)
        assert {key: value for key, value in made.items() if key.startswith("or:")} == {
            key: value for key, value in before.items() if key.startswith("or:")
        }
        assert not site.restore(backup=str(site.backup))["changed"]
        site.destroy()
        lost = site.restore(backup=str(site.backup), check=True)
        assert lost["once_links"] == {"total": site.once_total, "opened": 0, "lost": site.once_total}
        assert f"{site.once_total} single-submission link(s)" in json.dumps(lost["warnings"])
    finally:
        assert not site.restore().failed


def test_links_of_another_domain(site: Site, tmp_path: Path) -> None:
    """A part of a Central that was at another address."""
    keys = site.keys()
    host = f"localhost:{site.demo['https_port']}"
    move = """
      for _, key in ipairs(redis.call("KEYS", "or:*")) do
        redis.call("RENAME", key, (key:gsub(ARGV[1], "old.example.org", 1)))
      end
      for _, key in ipairs(redis.call("KEYS", "id:*")) do
        local server = redis.call("HGET", key, "openRosaServer")
        redis.call("HSET", key, "openRosaServer", (server:gsub(ARGV[1], "www.Old.example.org", 1)))
      end
      return redis.status_reply("moved")"""
    assert site.cli("EVAL", move, "0", host) == "moved"
    site.save(tmp_path / "old.bin")
    assert not site.keys().keys() & {key for key in keys if key.startswith("or:")}
    refused = site.restore(path=str(tmp_path / "old.bin"), mode="rdb")
    assert refused.diagnosis == "bad_option"
    result = site.restore(path=str(tmp_path / "old.bin"))
    assert not result.failed, result.result
    assert result["rekeyed"]["from"] == ["old.example.org"]
    assert site.keys() == keys
    wait_for(lambda: site.of_each_kind() == [200, 200, 200, 404])


def test_the_file_of_redis(site: Site, tmp_path: Path) -> None:
    keys = site.keys()
    with Redis(8).server() as newer:
        newer.pipe([b"SET", b"submission:counter", b"1"])
        write_secrets(tmp_path / "secrets")
        write_part(ServerChannel(newer, tmp_path / "secrets"), str(tmp_path / "newer.bin"), PASSPHRASE, 60)
    running = {service: site.started(service) for service in (REDIS, "enketo", "service", "nginx")}
    if site.cli("INFO", "server").split("redis_version:")[1].startswith("7"):
        refused = site.restore(path=str(tmp_path / "newer.bin"), mode="rdb")
        assert refused.diagnosis == "rdb_too_new", refused.result
    assert {service: site.started(service) for service in running} == running
    site.cli("FLUSHALL")
    result = site.restore(mode="rdb")
    assert not result.failed, result.result
    assert site.keys() == keys
    assert site.demo.execute(REDIS, "stat", "-c", "%U", "/data/enketo-main.rdb") == "redis\n"
    wait_for(lambda: site.of_each_kind() == [200, 200, 200, 404])
    assert site.litter() == []


@contextlib.contextmanager
def docker_that(folder: Path, script: str) -> Iterator[str]:
    """A `docker` that does something else where `script` says so."""
    program = folder / "docker"
    program.write_text(f'#!/bin/sh\n{script}\nexec docker "$@"\n', "utf-8")
    program.chmod(0o755)
    yield str(program)


def test_whatever_fails_everything_is_as_it_was(site: Site, tmp_path: Path) -> None:
    """Before Redis is changed, and after that."""
    site.destroy()
    site.cli("SET", "before", "1")
    keys, secrets = site.keys(), site.secrets()
    assert site.restore(confirm_domain="other.example.org").diagnosis == "wrong_confirmation"
    site.cli("CONFIG", "SET", "maxmemory", "1")
    assert site.restore().diagnosis == "redis_load_failed"
    wait_for(lambda: site.cli("CONFIG", "SET", "maxmemory", "0") == "OK")
    assert (site.keys(), site.secrets(), site.litter()) == (keys, secrets, [])
    script = 'case "$*" in *enketo-secrets-put*) echo broken >&2; exit 1 ;; esac'
    with docker_that(tmp_path, script) as docker:
        result = site.restore(docker_command=[docker])
    assert result.diagnosis == "operation_failed", result.result
    assert (site.keys(), site.secrets(), site.litter()) == (keys, secrets, [])
    running = site.demo.compose("ps", "--services", "--filter", "status=running").split()
    assert {"service", "enketo", "nginx", REDIS} <= set(running)


def test_a_killed_run_is_undone_by_the_next(site: Site, tmp_path: Path) -> None:
    site.destroy()
    site.cli("SET", "before", "1")
    keys, secrets = site.keys(), site.secrets()
    mark = tmp_path / "reached"
    # The secrets are in, too, when it stops.
    script = f'case "$*" in *enketo-secrets-put*) docker "$@"; echo $$ >{mark}.new; mv {mark}.new {mark}; exec sleep 600 ;; esac'
    with docker_that(tmp_path, script) as docker:
        given = {**site.options, "path": str(site.part), "confirm_domain": "localhost", "docker_command": [docker]}
        module = subprocess.Popen(
            module_command("central_enketo_restore"), stdin=subprocess.PIPE, start_new_session=True
        )
        assert module.stdin is not None
        module.stdin.write(wire_arguments(given))
        module.stdin.close()
        wait_for(mark.exists, 120)
        os.kill(module.pid, signal.SIGKILL)
        module.wait()
        os.kill(int(mark.read_text()), signal.SIGKILL)
    assert site.keys() != keys
    assert site.secrets() != secrets
    assert site.restore().diagnosis == "lease_held"
    broken = run_module(
        "central_lease", {**{k: v for k, v in site.options.items() if k != "passphrase"}, "state": "broken"}
    )
    assert not broken.failed, broken.result
    rehearsed = site.restore(check=True)
    assert (rehearsed["changed"], rehearsed["undone"]) == (True, True)
    # It begins with that, whatever becomes of itself.
    assert site.restore(path="/nonexistent").diagnosis == "unreadable"
    assert (site.keys(), site.secrets(), site.litter()) == (keys, secrets, [])
    running = site.demo.compose("ps", "--services", "--filter", "status=running").split()
    assert {"service", "enketo", "nginx", REDIS} <= set(running)


def test_the_role_restores(site: Site, tmp_path: Path) -> None:
    site.cli("FLUSHALL")
    playbook, inventory = tmp_path / "play.json", tmp_path / "inventory.json"
    task = {
        "ansible.builtin.include_role": {"name": "odkops.central.enketo", "tasks_from": "restore"},
        "vars": {"enketo_path": str(site.part), "enketo_confirm_domain": "localhost"},
    }
    show = {"ansible.builtin.debug": {"var": "enketo_restored"}}
    playbook.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [task, show]}]), "utf-8")
    (tmp_path / "passphrase").write_text(PASSPHRASE + "\n", "utf-8")
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "central_project_directory": site.demo["compose_dir"],
        "central_project": site.demo["compose_project"],
        "central_passphrase_file": str(tmp_path / "passphrase"),
    }
    inventory.write_text(json.dumps({"all": {"hosts": {"demo": variables}}}), "utf-8")
    done = run_playbook(playbook, inventory)
    assert done.rc == 0, done.output
    assert done.of("debug")[-1]["enketo_restored"]["changed"] is True
    wait_for(lambda: site.of_each_kind() == [200, 200, 200, 404])
