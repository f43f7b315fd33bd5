# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""central_config_restore as Ansible runs it: a sealed set onto a fresh checkout, seen by git and sha256sum, and killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._gate import render_gate
from ansible_collections.odkops.central.plugins.module_utils._operation import BACKUP, RESTORE, Project
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository
from ansible_collections.odkops.central.plugins.module_utils._seal import SetFacts, seal_set

from support import Result, run_module, run_playbook
from support.fake_docker import FakeDocker
from support.gates import python_for_gates, ssh_server, write_gate
from support.modules import module_command, module_environment, wire_arguments
from support.secret_watch import Needles, Watch
from support.sets import HELD, database_part

CENTRAL = "central.example.org"
PASSPHRASE = "correct horse battery staple 42"
SECRET = "hunter2-of-the-old-host"
STOCK = {
    "docker-compose.yml": "services: {}\n",
    ".gitignore": "/.env\n/docker-compose.override.yml\n/files/local/customssl/*.pem\n/files/mail/rsa.private\n",
    "files/nginx/odk.conf.template": "server {}\n",
    "files/nginx/client-config.json.template": "{}\n",
    "files/local/customssl/.gitkeep": "",
}
OWN = {
    ".env": f"DOMAIN={CENTRAL}\nDB_PASSWORD={SECRET}\n",
    "files/nginx/odk.conf.template": "server { # mine\n}\n",
    "files/local/customssl/fullchain.pem": "certificate " * 50_000,
    "files/local/customssl/privkey.pem": "-----BEGIN PRIVATE KEY-----",
    "files/mail/rsa.private": "dkim",
    "files/allow-postgres14-upgrade": "",
}
WANTED = ["tls", "dkim", "templates", "files/allow-postgres14-upgrade"]


def write(directory: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=directory, capture_output=True, text=True, check=True
    ).stdout


def digests(directory: Path) -> dict[str, str]:
    """What sha256sum says of every file but git's own."""
    script = "find . -path ./.git -prune -o -type f -print0 | sort -z | xargs -0 sha256sum"
    lines = subprocess.run(["sh", "-c", script], cwd=directory, capture_output=True, text=True, check=True).stdout
    return {line[66:]: line[:64] for line in lines.splitlines()}


class Site:
    """An old host with a set in a repository, and a fresh checkout on a new one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.docker = FakeDocker.make(folder / "docker")
        self.docker.prints("config", "", "name: odk\n")
        self.docker.prints("config", "--format", json.dumps({"name": "odk", "services": {}}))
        self.passphrase_file = folder / "passphrase"
        self.passphrase_file.write_text(PASSPHRASE + "\n")
        self.old, self.new, self.proxy = folder / "old", folder / "new", folder / "proxy.cfg"
        write(self.old, STOCK)
        git(self.old, "init", "-q")
        git(self.old, "add", ".")
        git(self.old, "commit", "-q", "-m", "stock")
        git(self.folder, "clone", "-q", str(self.old), str(self.new))
        write(self.old, OWN)
        write(self.new, {".env": "DOMAIN=new.example.org\nDB_PASSWORD=of-the-new-host\n"})
        self.proxy.write_text("proxy of the old host")
        opened = Repository(str(folder / "repository")).open_set(CENTRAL)
        partial = Path(opened.path)
        self.set = partial.with_name(opened.set_id)
        (partial / "database").write_bytes(b"Salted__" + bytes(range(256)) * 40)
        made = run_module(
            "central_config_backup",
            {**self.common, "project_directory": str(self.old), "dest": str(partial), "extra_paths": [str(self.proxy)]},
        )
        assert not made.failed, made
        self.proxy.write_text("proxy of the new host")
        part = {name: made[name] for name in ("format", "size", "sha256", "encrypted")}
        absent = {"enketo": "Not wanted.", "blobs": "Not wanted."}
        facts = SetFacts(absent, {"domain": CENTRAL}, HELD, {}, [])
        parts = {"database": database_part(), "config": part}
        seal_set(Repository(str(folder / "repository")), CENTRAL, opened.set_id, parts, facts, PASSPHRASE)

    @property
    def common(self) -> dict[str, Any]:
        return {"passphrase_file": str(self.passphrase_file), "docker_command": [self.docker.command]}

    def options(self, **more: Any) -> dict[str, Any]:
        given = {**self.common, "project_directory": str(self.new), "set": str(self.set), **more}
        return {name: value for name, value in given.items() if value is not None}

    def restore(self, check: bool = False, **more: Any) -> Result:
        return run_module("central_config_restore", self.options(**more), check)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def expected(site: Site) -> dict[str, str]:
    """The old host's files, with the ``.env`` of the new one."""
    env = digests(site.new)["./.env"]
    return {**digests(site.old), "./.env": env}


def test_onto_a_fresh_checkout(site: Site) -> None:
    before, wanted = digests(site.new), expected(site)
    compared = site.restore()
    assert (compared["changed"], digests(site.new)) == (False, before)
    assert site.restore(check=True, files=WANTED)["changed"] is True
    assert digests(site.new) == before
    with Watch(Needles({"passphrase": PASSPHRASE, "secret of .env": SECRET})) as watch:
        done = site.restore(files=WANTED)
    assert done["changed"] is True, done
    assert watch.found == set()
    for said in (compared, done):
        assert SECRET not in said.stdout + said.stderr
        assert "of-the-new-host" not in said.stdout + said.stderr
    assert digests(site.new) == wanted
    assert git(site.new, "status", "--porcelain") == git(site.old, "status", "--porcelain")
    assert site.restore(files=WANTED)["changed"] is False
    assert done["saved"]["commit"] == git(site.old, "rev-parse", "HEAD").strip()


def test_a_set_that_was_changed(site: Site) -> None:
    before = digests(site.new)
    part = site.set / "config.tar.enc.bin"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    assert site.restore(files=WANTED).diagnosis == "tampered"
    assert (
        site.restore(files=WANTED, passphrase_file=None, passphrase="another one, quite long").diagnosis
        == "wrong_passphrase"
    )
    assert digests(site.new) == before


def test_over_ssh(site: Site) -> None:
    """Through a gate that permits restores, which lets one extra path be written and no other."""
    project = Project(str(site.new), docker=(site.docker.command,))
    text = render_gate(project, (BACKUP, RESTORE), [str(site.proxy)], python=python_for_gates())
    gate = write_gate(site.folder / "gate", text)
    wanted = expected(site)
    with ssh_server(site.folder / "ssh", gate) as server:
        ssh = {
            "ssh_host": "127.0.0.1",
            "ssh_user": server.user,
            "ssh_port": server.port,
            "ssh_key_file": str(server.key),
            "ssh_known_hosts_file": str(server.known_hosts),
            "project_directory": None,
            "docker_command": None,
        }
        done = site.restore(files=[*WANTED, str(site.proxy)], **ssh)
        assert done["changed"] is True, done
        assert site.restore(files=[*WANTED, str(site.proxy)], **ssh)["changed"] is False
    assert digests(site.new) == wanted
    assert site.proxy.read_text() == "proxy of the old host"


def test_a_full_disk(site: Site) -> None:
    """A file system that takes the first files and not all: nothing is changed."""
    target = site.folder / "small"
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(target)], check=True)
    try:
        shutil.copytree(site.new, target, dirs_exist_ok=True)
        before = digests(target)
        failed = site.restore(files=WANTED, project_directory=str(target))
        assert (failed.diagnosis, "disk is full" in failed["msg"]) == ("operation_failed", True)
        assert digests(target) == before
        assert git(target, "status", "--porcelain") == ""
    finally:
        subprocess.run(["umount", str(target)], check=True)


def test_killed_at_any_moment(site: Site) -> None:
    """After a kill, the next run that is asked for nothing leaves the files of before, or all that was asked for."""
    before, wanted = digests(site.new), expected(site)
    started = time.monotonic()
    site.restore(check=True, files=WANTED)
    whole = time.monotonic() - started
    for step in range(6):
        with tempfile.TemporaryDirectory() as work:
            process = subprocess.Popen(
                module_command("central_config_restore"),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=module_environment(),
            )
            with process:
                assert process.stdin
                process.stdin.write(wire_arguments(site.options(files=WANTED), tmpdir=work))
                process.stdin.close()
                journal = site.new / ".odkops-restore/journal.json"
                until = time.monotonic() + 60
                while not journal.exists() and process.poll() is None and time.monotonic() < until:
                    time.sleep(0.005)
                time.sleep(whole * step / 12)
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.5)  # what it had started at the Central ends by itself
        recovered = site.restore()
        assert not recovered.failed, recovered
        found = digests(site.new)
        assert found in (before, wanted), step
        if found == wanted:
            git(site.new, "checkout", "-q", ".")
            git(site.new, "clean", "-q", "-f", "-d", "-x", "-e", ".env")
            assert digests(site.new) == before
    assert site.restore(files=WANTED)["changed"] is True
    assert digests(site.new) == wanted


def test_the_role(site: Site) -> None:
    """With --diff, what is shown has no secret."""
    wanted = expected(site)
    task = {
        "name": "Include",
        "ansible.builtin.include_role": {"name": "odkops.central.config", "tasks_from": "restore"},
    }
    playbook = site.folder / "playbook.yml"
    playbook.write_text(json.dumps([{"name": "Test", "hosts": "all", "gather_facts": False, "tasks": [task]}]))
    given = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "central_project_directory": str(site.new),
        "central_docker_command": [site.docker.command],
        "central_passphrase_file": str(site.passphrase_file),
        "central_config_files": WANTED,
        "config_set": str(site.set),
    }
    inventory = site.folder / "inventory.json"
    inventory.write_text(json.dumps({"all": {"hosts": {"central": given}}}))
    done = run_playbook(playbook, inventory, None, "--diff")
    assert done.rc == 0, done.output
    assert digests(site.new) == wanted
    assert "not asked for" in done.output
    assert SECRET not in done.output
    assert "of-the-new-host" not in done.output
