# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A vault on another host, which pulls: a container of its own that comes to the gate of this machine, the Central's host.

Ansible could not connect to the Central's host if it tried. Fixtures: vault_fixtures.py.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .demo import Demo
from .playbooks import PlaybookResult, run_playbook
from .vault import (
    ETC,
    GATE_USER,
    CentralHost,
    Vault,
    command,
)

NAME = "odkvault"
REPOSITORY = "/var/backups/odk-central"
CENTRAL, VAULT = "central", "vault.example.net"
OURS = "select count(*) from pg_stat_activity where application_name like 'odkops%'"


def write_json(path: Path, content: Any) -> Path:
    """Write a file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_text(json.dumps(content, indent=1), "utf-8")
    return path


@dataclass
class Site:
    """Both hosts, and the inventory that names them."""

    demo: Demo
    vault: Vault
    host: CentralHost
    folder: Path
    inventory: Path
    passphrase: str

    def run(
        self, playbook: str, *arguments: str, env: dict[str, str] | None = None, **variables: Any
    ) -> PlaybookResult:
        """Run a playbook of the collection from this machine."""
        extra = write_json(self.folder / f"variables-{secrets.token_hex(4)}.json", variables)
        return run_playbook(playbook, self.inventory, extra, *arguments, env=env)

    def sets(self, name: str = CENTRAL) -> list[str]:
        """What is in the directory of the sets in the vault, hidden ones included."""
        there = self.vault.below(f"{REPOSITORY}/{name}/sets")
        return [path for path in there if "/" not in path]

    def manifest(self, name: str = CENTRAL) -> dict[str, Any]:
        """That of the newest set."""
        newest = [path for path in self.sets(name) if not path.startswith(".")][-1]
        found: dict[str, Any] = json.loads(self.vault.read(f"{REPOSITORY}/{name}/sets/{newest}/manifest.json"))
        return found

    def ssh(self, *words: str, key: str = "ssh_key") -> subprocess.CompletedProcess[bytes]:
        """Come to the Central's host from the vault with nothing but OpenSSH."""
        options = ("-T", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={ETC}/known_hosts", "-i", f"{ETC}/{key}")
        where = ("-p", str(self.host.port), "-l", GATE_USER, self.host.address)
        return self.vault.attempt("ssh", *options, *where, *words)


# --- the two hosts ----------------------------------------------------------------------------------------------


def gateway(demo: Demo) -> str:
    """The address of this machine as the demo's containers see it."""
    network = "{{range .NetworkSettings.Networks}}{{.Gateway}} {{end}}"
    return command("docker", "inspect", "--format", network, demo.container("service")).split()[0]


def play(hosts: str, *tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """A playbook."""
    return [{"name": "Prepare", "hosts": hosts, "gather_facts": False, "tasks": list(tasks)}]


def prepare_vault(folder: Path, inventory: Path) -> None:
    """Install what the modules need there."""
    role = {"ansible.builtin.include_role": {"name": "odkops.central.prepare"}}
    done = run_playbook(write_json(folder / "prepare-vault.json", play(VAULT, role)), inventory, timeout=1200)
    assert done.rc == 0, done.output


def install_gate(folder: Path, directory: Path, public_key: str, *purposes: str) -> PlaybookResult:
    """Install the gate on this machine, as docs/gate.md says.

    :param purposes: what the vault may do; only back up if none are given
    """
    variables = {
        "prepare_project_directory": str(directory),
        "prepare_project": json.loads((folder / "project.json").read_text("utf-8")),
        "prepare_gate_public_key": public_key,
        "prepare_gate_user": GATE_USER,
        "prepare_gate_path": str(directory.parent / "gate"),
        **({"prepare_gate_purposes": list(purposes)} if purposes else {}),
    }
    role = {"ansible.builtin.include_role": {"name": "odkops.central.prepare", "tasks_from": "gate"}}
    inventory = write_json(
        folder / "here.json",
        {"all": {"hosts": {"here": {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}}}},
    )
    playbook = write_json(folder / "gate.json", play("all", {**role, "vars": variables}))
    done = run_playbook(playbook, inventory)
    assert done.rc == 0, done.output
    return done


# --- what a backup might leave ----------------------------------------------------------------------------------


def files_of_gate_user() -> list[str]:
    """Files of the gate's user outside of its home."""
    places = ("/tmp", "/var/tmp", "/run", "/dev/shm", "/var/log", "/var/spool")
    found = subprocess.run(
        ["find", *places, "-user", GATE_USER, "-printf", "%p\n"], capture_output=True, text=True, check=False
    )
    return sorted(found.stdout.splitlines())


def processes_of_gate() -> list[str]:
    """What runs for the vault: what the gate's user has, sessions of sshd for it, and Docker's clients for this project."""
    listed = command("ps", "-eo", "user:32,args").splitlines()[1:]
    return sorted(line for line in listed if line.startswith(GATE_USER) or f"sshd: {GATE_USER}" in line)


def listing(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, size and time of change of all that is in a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        found[str(path.relative_to(folder))] = (about.st_mode, about.st_size, about.st_mtime_ns)
    return found


def traces(site: Site) -> dict[str, Any]:
    """What there is on the Central's host and in its containers: files, processes, sessions, containers, volumes."""
    demo = site.demo
    project = f"label=com.docker.compose.project={demo['compose_project']}"
    containers = command("docker", "ps", "--all", "--filter", project, "--format", "{{.Names}}").split()
    volumes = command("docker", "volume", "ls", "--filter", project, "--format", "{{.Name}}").split()
    running = command("docker", "ps", "--filter", project, "--format", "{{.Names}}").split()
    processes = set()
    for name in running:
        for line in command("docker", "top", name, "-eo", "pid,args").splitlines()[1:]:
            words = line.split(maxsplit=1)[1]
            # PostgreSQL's own, which come and go: its sessions are counted below.
            processes.add(f"{name} {re.sub(r'^postgres: .*', 'postgres: ...', words)}")
    found: dict[str, Any] = {
        "containers": sorted(containers),
        "volumes": sorted(volumes),
        "processes": processes,
        "project": listing(site.host.project_directory),
        "home": listing(site.host.home),
        "gate's folder": sorted(path.name for path in site.host.gate.parent.iterdir()),
        "files of the gate's user": files_of_gate_user(),
        "processes of the gate's user": processes_of_gate(),
        "sessions": demo.psql(OURS),
        "audits": demo.psql("select count(*) from audits"),
        "api sessions": demo.psql("select count(*) from sessions"),
    }
    for name in containers:
        found[f"written in {name}"] = sorted(command("docker", "diff", name).splitlines())
    for name in volumes:
        if not name.endswith("_postgres14"):
            place = Path(command("docker", "volume", "inspect", "-f", "{{.Mountpoint}}", name).strip())
            # Redis writes its own file when it is asked to save.
            found[f"in {name}"] = sorted(path for path in listing(place) if not path.endswith(".rdb") or "temp" in path)
    return found


def left_behind(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What is different afterwards. Of processes, those that are new: checks of health come and go."""
    return {
        name: (found - before[name] if isinstance(found, set) else (before.get(name), found))
        for name, found in after.items()
        if (found - before[name] if isinstance(found, set) else found != before.get(name))
    }


def settled(site: Site, before: dict[str, Any], seconds: float = 15) -> dict[str, Any]:
    """The traces as soon as nothing is left, or as they are after that time."""
    limit = time.monotonic() + seconds
    while left_behind(before, now := traces(site)) and time.monotonic() < limit:
        time.sleep(0.5)
    return now


def controllers(mark: str) -> list[int]:
    """The processes of ansible-playbook that have a mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (
                mark.encode() in (path / "environ").read_bytes()
                and b"ansible-playbook" in (path / "cmdline").read_bytes()
            ):
                found.append(int(path.name))
    assert found
    return found


def failure(outcome: PlaybookResult) -> str:
    """What the playbook says at its end."""
    assert outcome.rc != 0, outcome.output
    return str(outcome.of("fail")[-1]["msg"])


Made = tuple[dict[str, Any], dict[str, Any], PlaybookResult]
