# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A vault on another host, which pulls: a container of its own that comes to the gate of this machine, the Central's host.

Ansible could not connect to the Central's host if it tried.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._operation import BACKUP
from ansible_collections.odkops.central.plugins.module_utils._operations import OPERATIONS

from support import Demo, PlaybookResult, run_module, run_playbook
from support.demo import SEED, central, sole_user
from support.s3_servers import ACCESS_KEY, BUCKET, SECRET_KEY, rclone_server
from support.vault import (
    DOMAIN,
    ETC,
    GATE_USER,
    CentralHost,
    Vault,
    admit_gate_user,
    central_directory,
    command,
    free_port,
    published,
    remove_gate_user,
    sshd_of,
    vault_host,
)

NAME = "odkvault"
REPOSITORY = "/var/backups/odk-central"
CENTRAL, VAULT = "central", "vault.example.net"
OURS = "select count(*) from pg_stat_activity where application_name like 'odkops%'"

# It takes minutes, and compares all of this machine before and after a backup: nothing else may be at work here meanwhile.
pytestmark = [pytest.mark.timeout(600), pytest.mark.long]


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


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A demo Central of our own, whose attachments are in S3. Its domain is known to the vault only."""
    with sole_user(NAME), contextlib.ExitStack() as stack:
        stack.callback(central, "clean", "--name", NAME)
        central("engine")
        central("images")
        central("up", "--name", NAME, "--domain", DOMAIN)
        demo = Demo.load(NAME)
        if demo.psql("select count(*) from submissions") == "0":
            central("seed", "--name", NAME, *SEED)
        server = stack.enter_context(rclone_server(tmp_path_factory.mktemp("s3"), gateway(demo)))
        with Path(demo["compose_dir"], ".env").open("a", encoding="utf-8") as file:
            file.write(
                f"S3_SERVER={server.address}\nS3_ACCESS_KEY={ACCESS_KEY}\nS3_SECRET_KEY={SECRET_KEY}\n"
                f"S3_BUCKET_NAME={BUCKET}\n"
            )
        demo.compose("up", "-d", "--no-build", "service", timeout=300)
        # Nginx resolves service only when it starts.
        demo.compose("restart", "nginx")
        central("up", "--name", NAME)
        demo.execute("service", "node", "lib/bin/s3.js", "upload-pending")
        yield demo


def prepare_vault(folder: Path, inventory: Path) -> None:
    """Install what the modules need there."""
    role = {"ansible.builtin.include_role": {"name": "odkops.central.prepare"}}
    done = run_playbook(write_json(folder / "prepare-vault.json", play(VAULT, role)), inventory)
    assert done.rc == 0, done.output


def install_gate(folder: Path, directory: Path, public_key: str) -> PlaybookResult:
    """Install the gate on this machine, as docs/gate.md says."""
    variables = {
        "prepare_project_directory": str(directory),
        "prepare_project": json.loads((folder / "project.json").read_text("utf-8")),
        "prepare_gate_public_key": public_key,
        "prepare_gate_user": GATE_USER,
        "prepare_gate_path": str(directory.parent / "gate"),
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


@pytest.fixture(scope="module")
def site(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The two hosts, prepared by the role."""
    folder = tmp_path_factory.mktemp("vault")
    with contextlib.ExitStack() as stack:
        remove_gate_user()
        # After the vault is gone: a user with a session cannot be removed.
        stack.callback(remove_gate_user)
        vault = stack.enter_context(vault_host(folder / "ssh", demo["images"]["base"]))
        directory = stack.enter_context(central_directory(demo))
        write_json(folder / "project.json", demo["compose_project"])
        install_gate(folder, directory, vault.public_key)
        home = Path(pwd.getpwnam(GATE_USER).pw_dir)
        admit_gate_user(directory, home)
        port, known, log = stack.enter_context(sshd_of(folder / "sshd", vault.gateway))
        host = CentralHost(directory, directory.parent / "gate", home, vault.gateway, port, known, log)
        passphrase = f"of the vault alone \u00e9 {secrets.token_hex(12)}"
        vault.write(f"{ETC}/passphrase", passphrase + "\n")
        vault.write(f"{ETC}/known_hosts", known)
        closed = {"ansible_connection": "ssh", "ansible_host": vault.gateway, "ansible_port": free_port(vault.gateway)}
        variables = {
            # central_ssh_host is ansible_host by default.
            **closed,
            "ansible_ssh_common_args": "-F /dev/null",
            "central_vault": VAULT,
            "central_name": CENTRAL,
            "central_repository": REPOSITORY,
            "central_ssh_user": GATE_USER,
            "central_ssh_port": port,
            "central_ssh_key_file": f"{ETC}/ssh_key",
            "central_ssh_known_hosts_file": f"{ETC}/known_hosts",
            "central_passphrase_file": f"{ETC}/passphrase",
        }
        groups = {
            "all": {"hosts": {VAULT: vault.variables}},
            "odk_central": {"hosts": {"central.example.org": variables}},
        }
        inventory = write_json(folder / "inventory.json", groups)
        prepare_vault(folder, inventory)
        yield Site(demo, vault, host, folder, inventory, passphrase)


@pytest.fixture(scope="module")
def made(site: Site) -> tuple[dict[str, Any], dict[str, Any], PlaybookResult]:
    """A set, and what could be seen of it on the Central's host before and after."""
    before = traces(site)
    outcome = site.run("backup", "-vvv")
    return before, settled(site, before), outcome


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


# --- a backup ---------------------------------------------------------------------------------------------------


def failure(outcome: PlaybookResult) -> str:
    """What the playbook says at its end."""
    assert outcome.rc != 0, outcome.output
    return str(outcome.of("fail")[-1]["msg"])


Made = tuple[dict[str, Any], dict[str, Any], PlaybookResult]


def test_a_full_set_is_pulled(site: Site, made: Made) -> None:
    _before, _after, outcome = made
    assert outcome.rc == 0, outcome.output
    manifest = site.manifest()
    assert sorted(manifest["parts"]) == ["blobs", "config", "database", "enketo"]
    assert manifest["parts"]["database"]["method"] == "pg_dump"
    assert all(part["encrypted"] for part in manifest["parts"].values())
    assert manifest["identity"]["domain"] == DOMAIN
    assert not [note for note in manifest["notes"] if "off-site" in note or "lease" in note]
    taken = {result["lease"]["user"] for result in outcome.of("central_lease") if result["lease"] is not None}
    assert taken == {GATE_USER}
    assert run_module("central_lease", {"project_directory": str(site.host.project_directory)})["lease"] is None
    submissions = int(site.demo.psql("select count(*) from submissions"))
    assert manifest["database"]["tables"]["public.submissions"] == submissions > 0
    uploaded = int(site.demo.psql("select count(*) from blobs where s3_status = 'uploaded'"))
    assert manifest["parts"]["blobs"]["objects"] == uploaded > 0
    assert "unreachable=0" in outcome.output
    # Nothing was asked of this machine: neither by Ansible's connection to the Central's host, nor on the controller.
    assert not (site.folder / "repository").exists()
    assert not Path(REPOSITORY, CENTRAL).exists()


def test_the_set_is_whole_and_opens_with_openssl(site: Site, made: Made) -> None:
    assert made[2].rc == 0
    verified = site.run("verify")
    assert verified.rc == 0, verified.output
    assert verified.custom["_run"]["odkops_central_verify"][CENTRAL]["authenticated"] is True
    (name,) = site.sets()
    part = f"{REPOSITORY}/{CENTRAL}/sets/{name}/database.pgdump.enc.bin"
    opened = ["openssl", "enc", "-d", "-chacha20", "-pbkdf2", "-pass", f"file:{ETC}/passphrase", "-in", part]
    plain = subprocess.run(["docker", "exec", site.vault.name, *opened], capture_output=True, check=True).stdout
    restore = ["docker", "exec", "-i", site.demo.container("postgres14"), "pg_restore", "--list"]
    assert (
        b"TABLE DATA public submissions" in subprocess.run(restore, input=plain, capture_output=True, check=True).stdout
    )


def test_the_vault_alone_has_it(site: Site, made: Made) -> None:
    below = site.vault.below(f"{REPOSITORY}/{CENTRAL}")
    assert any(path.startswith("pool/") for path in below) or any("objects/" in path for path in below)
    modes = site.vault.execute("find", REPOSITORY, "-perm", "/077", "-not", "-type", "l").splitlines()
    assert modes in ([], [REPOSITORY])
    litter = site.vault.execute("sh", "-c", "find /tmp /var/tmp /root/.ansible/tmp -mindepth 1 | head").splitlines()
    assert litter == []
    assert site.vault.processes("Ansi") == site.vault.processes("ssh -T") == []


def test_nothing_is_left_on_the_centrals_host(made: Made) -> None:
    before, after, outcome = made
    assert outcome.rc == 0
    assert before.keys() == after.keys()
    assert left_behind(before, after) == {}
    assert after["processes of the gate's user"] == []
    assert after["files of the gate's user"] == []


def test_the_centrals_host_has_no_credential_of_the_vault(site: Site, made: Made) -> None:
    """Nor has what -vvv prints, on the controller."""
    private = [site.vault.read(f"{ETC}/{name}").decode().splitlines()[2] for name in ("ssh_key", "other_key")]
    needles = [site.passphrase, site.passphrase[-24:], *private]
    for needle in needles:
        assert needle not in made[2].output
        assert needle not in json.dumps(made[2].results, ensure_ascii=False)
    patterns = site.folder / "patterns"
    patterns.write_text("\n".join(needles) + "\n", "utf-8")
    project = f"label=com.docker.compose.project={site.demo['compose_project']}"
    volumes = command("docker", "volume", "ls", "--filter", project, "--format", "{{.Mountpoint}}").split()
    places = [str(path) for path in (site.host.project_directory, site.host.gate, site.host.home, site.host.log)]
    grep = ["grep", "--recursive", "--files-with-matches", "--fixed-strings", "--text", f"--file={patterns}", "--"]
    done = subprocess.run([*grep, *places, *volumes], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    # So is what is looked for found where it is.
    assert command("docker", "exec", "-i", site.vault.name, *grep[:-2], "--file=-", "--", ETC, stdin="\n".join(needles))


def test_check_mode_makes_nothing(site: Site, made: Made) -> None:
    before = site.vault.below(REPOSITORY)
    outcome = site.run("backup", "--check")
    assert outcome.rc == 0, outcome.output
    assert site.vault.below(REPOSITORY) == before


# --- the gate ---------------------------------------------------------------------------------------------------


def test_the_gate_executes_nothing_else(site: Site) -> None:
    for asked in (
        "id",
        "sh -i",
        "config-version; id",
        "",
        "/usr/lib/openssh/sftp-server",
        f"cat {ETC}/passphrase",
        "restore",
    ):
        done = site.ssh(asked) if asked else site.ssh()
        assert (done.returncode, done.stdout) == (126, b""), asked
        assert done.stderr.startswith(b"odkops-gate: "), done.stderr
    forward = site.ssh("-N", "-o", "ExitOnForwardFailure=yes", "-R", "127.0.0.1:0:127.0.0.1:22", "config-version")
    assert forward.returncode not in (0, 126)
    assert b"odkops-gate" not in forward.stderr


def test_the_gate_refuses_what_changes_a_central(site: Site) -> None:
    permitted = re.findall(
        r"""^TABLE\["operations"\]\['([a-z0-9-]+)'\]""", site.host.gate.read_text("utf-8"), re.MULTILINE
    )
    backup = {name for name, operation in OPERATIONS.items() if operation.purpose == BACKUP}
    # Paths outside of the project are permitted only where the role is told some.
    assert set(permitted) == backup - {"config-extra"}
    for operation in OPERATIONS.values():
        if operation.name not in permitted:
            done = site.ssh(f"{operation.name}/{operation.digest}")
            assert done.returncode == 126
            assert b"no such operation, or not for this key" in done.stderr


def test_the_gate_is_what_it_was_when_it_is_installed_again(site: Site) -> None:
    again = install_gate(site.folder, site.host.project_directory, site.vault.public_key)
    assert again.hosts["here"]["changed"] == 0, again.output


# --- what goes wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"central_ssh_known_hosts_file": f"{ETC}/other_key.pub"}, "host_key_unknown"),
        ({"central_ssh_key_file": f"{ETC}/other_key"}, "ssh_refused"),
        ({"central_ssh_user": "root"}, "ssh_refused"),
        ({"central_ssh_port": 1}, "connection_failed"),
    ],
)
def test_no_way_to_the_gate(site: Site, variables: dict[str, Any], expected: str) -> None:
    before = site.vault.below(REPOSITORY)
    outcome = site.run("backup", **variables)
    assert f"was made. {expected}: " in failure(outcome)
    assert set(site.vault.below(REPOSITORY)) - set(before) <= {CENTRAL, f"{CENTRAL}/sets"}


def wait_until(condition: Callable[[], bool], what: str, seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.1)


def dumping(demo: Demo) -> list[str]:
    """The processes of dumps in the demo's containers."""
    found = []
    for service in ("service", "postgres14"):
        listed = command("docker", "top", demo.container(service), "-eo", "pid,args")
        found += [line for line in listed.splitlines() if "pg_dump" in line or "odkops" in line]
    return found


@pytest.mark.parametrize("whole", [False, True], ids=["the module", "the controller too"])
def test_a_vault_that_is_killed_leaves_nothing(site: Site, made: Made, whole: bool) -> None:
    """In the middle of the dump. If nobody is left to remove the unfinished set, it is at least not taken for one."""
    demo, before = site.demo, site.sets()
    place = {"project_directory": str(site.host.project_directory)}
    outcomes: list[PlaybookResult] = []
    marked = {"ODKOPS_TEST_MARK": secrets.token_hex(8)}
    with demo.fault("dump-slow", "--rate", "20000"):
        thread = threading.Thread(target=lambda: outcomes.append(site.run("backup", env=marked)))
        thread.start()
        wait_until(lambda: demo.psql(OURS) != "0", "no dump has begun", 120)
        time.sleep(1)
        assert dumping(demo)
        if whole:
            for process in controllers(marked["ODKOPS_TEST_MARK"]):
                os.kill(process, signal.SIGKILL)
        # Not the shell that waits for it: Ansible would call the vault unreachable.
        shells = set(site.vault.processes("/bin/sh -c", "AnsiballZ_central_backup"))
        processes = set(site.vault.processes("AnsiballZ_central_backup")) - shells
        assert processes
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        wait_until(lambda: not dumping(demo) and demo.psql(OURS) == "0", "the dump goes on", 30)
        wait_until(lambda: not processes_of_gate(), "the gate goes on", 30)
        thread.join()
    assert outcomes[0].rc != 0
    left = [name for name in site.sets() if name not in before]
    if whole:
        (partial,) = left
        assert partial.startswith(".")
        assert partial.endswith(".partial")
        assert site.run("verify", central_set="all").rc == 0
        # Its lease is there for another quarter of an hour, unless somebody breaks it.
        assert "lease_held" in failure(site.run("backup"))
        assert run_module("central_lease", {**place, "state": "broken"})["broken"]["holder"] == "vault"
    else:
        assert left == []
        assert "No backup set of central was made." in failure(outcomes[0])
        assert run_module("central_lease", place)["lease"] is None


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


# --- over HTTPS -------------------------------------------------------------------------------------------------


def test_the_database_over_https(site: Site) -> None:
    """By the API, with an account of Central; what is not in the API comes through the gate as before."""
    demo = site.demo
    site.vault.write(f"{ETC}/ca.pem", Path(demo.ca_path).read_text("utf-8"))
    site.vault.write(f"{ETC}/password", demo["admin"]["password"] + "\n")
    with published(site.host.address, demo["https_port"]):
        outcome = site.run(
            "backup",
            central_name="by-api",
            central_method="api",
            central_url=demo.url,
            central_email=demo["admin"]["email"],
            central_password_file=f"{ETC}/password",
            central_ca_path=f"{ETC}/ca.pem",
            central_parts=["database", "enketo"],
        )
    assert outcome.rc == 0, outcome.output
    manifest = site.manifest("by-api")
    assert sorted(manifest["parts"]) == ["database", "enketo"]
    assert manifest["parts"]["database"]["method"] == "api"
    assert sorted(manifest["absent"]) == ["blobs", "config"]
