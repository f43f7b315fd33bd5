# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two hosts: a vault, which is a container that has sshd, and a Central's host, which is this machine with an sshd of the tests.

The container is in a network of its own. All that it sees of this machine is the address of that network's gateway.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import select
import shutil
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .demo import Demo

#: the demo's domain: a name that only the vault's /etc/hosts knows
DOMAIN = "central.example.org"
#: where the vault keeps its key, its passphrase and the like
ETC = "/etc/odk-central-backup"
#: the user of the gate on this machine; made by the role, removed afterwards
GATE_USER = "odk-vault-test"

# What a host needs to be one of Ansible's, and the list of packages as it was then. The rest is up to the role.
_DOCKERFILE = """\
FROM {base}
RUN apt-get update && apt-get install -y --no-install-recommends openssh-server python3 python3-apt && mkdir -p /run/sshd
CMD ["/usr/sbin/sshd", "-D", "-e"]
"""


def command(*words: str | Path, stdin: str | None = None, timeout: float = 300) -> str:
    """Run a command and return what it printed; raises with all of it on failure."""
    done = subprocess.run(
        [str(word) for word in words],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{words} exited {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def make_key(path: Path) -> str:
    """Make a key of SSH without a passphrase; returns its public half, one line."""
    command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "odkops-test", "-f", path)
    return path.with_name(path.name + ".pub").read_text("utf-8").strip()


def wait_for_port(address: str, port: int, seconds: float = 20) -> None:
    """Wait until somebody listens."""
    limit = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
            return
        if time.monotonic() > limit:
            raise RuntimeError(f"nobody listens on {address}:{port}")
        time.sleep(0.1)


def free_port(address: str) -> int:
    """A port of an address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Vault:
    """The container."""

    name: str
    address: str
    #: the address of this machine as the vault sees it
    gateway: str
    #: the key with which Ansible logs in, as root
    key: Path
    known_hosts: Path
    #: the key of the vault, which never leaves it
    public_key: str

    def execute(self, *words: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Run a command in the vault and return what it printed."""
        return command("docker", "exec", "-i", self.name, *words, stdin=stdin, timeout=timeout)

    def attempt(self, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[bytes]:
        """Run a command in the vault that may fail."""
        return subprocess.run(
            ["docker", "exec", "-i", self.name, *words], input=b"", capture_output=True, timeout=timeout, check=False
        )

    def read(self, path: str) -> bytes:
        """The content of a file of the vault."""
        return subprocess.run(["docker", "exec", self.name, "cat", path], capture_output=True, check=True).stdout

    def write(self, path: str, content: str) -> None:
        """Write a file of the vault that only root can read."""
        self.execute("sh", "-c", 'umask 077; mkdir -p "$(dirname "$0")"; cat >"$0"', path, stdin=content)

    def below(self, path: str) -> list[str]:
        """All that is below a directory, relative to it; nothing if it is not there."""
        script = 'if [ -d "$0" ]; then cd "$0" && find . -mindepth 1 -printf "%P\\n" | sort; fi'
        return self.execute("sh", "-c", script, path).splitlines()

    def processes(self, *words: str) -> list[int]:
        """The process ids, as this machine counts them, of those that have all these words in their arguments."""
        listed = command("docker", "top", self.name, "-eo", "pid,args").splitlines()[1:]
        return [int(line.split()[0]) for line in listed if all(word in line for word in words)]

    @property
    def variables(self) -> dict[str, str]:
        """What Ansible has to know of it."""
        return {
            "ansible_connection": "ssh",
            "ansible_host": self.address,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": (
                f"-o UserKnownHostsFile={self.known_hosts} -o GlobalKnownHostsFile=/dev/null "
                "-o StrictHostKeyChecking=yes -o IdentitiesOnly=yes -o IdentityAgent=none -F /dev/null"
            ),
            "ansible_ssh_args": "-o ControlMaster=auto -o ControlPersist=10s",
            "ansible_python_interpreter": "/usr/bin/python3",
        }


def _image(base: str) -> str:
    """Build the image, if it is not there; ``make clean`` removes it with the demo's."""
    text = _DOCKERFILE.format(base=base)
    tag = f"odkdemo/vault:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if not command("docker", "image", "ls", "--quiet", tag):
        environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
        build = ["docker", "build", "--quiet", "-t", tag, "-"]
        done = subprocess.run(build, input=text.encode(), capture_output=True, env=environment, check=False)
        if done.returncode:
            raise RuntimeError(done.stdout.decode() + done.stderr.decode())
    return tag


@contextlib.contextmanager
def vault_host(folder: Path, base: str) -> Iterator[Vault]:
    """Start a vault.

    :param folder: for the key of Ansible; it must not be there yet
    :param base: the image of a Debian
    """
    folder.mkdir(mode=0o700)
    name = f"odk-vault-{secrets.token_hex(4)}"
    image = _image(base)
    command("docker", "network", "create", name)
    try:
        gateway = command("docker", "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", name).strip()
        options = ("--network", name, "--add-host", f"{DOMAIN}:{gateway}", "--hostname", "vault")
        command("docker", "run", "--detach", "--init", "--name", name, *options, image)
        try:
            address = command(
                "docker", "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name
            )
            key = folder / "ansible_key"
            allowed = make_key(key)
            known_hosts = folder / "known_hosts"
            vault = Vault(name, address.strip(), gateway, key, known_hosts, "")
            vault.write("/root/.ssh/authorized_keys", allowed + "\n")
            host_key = vault.read("/etc/ssh/ssh_host_ed25519_key.pub").decode().split()
            known_hosts.write_text(f"{vault.address} {host_key[0]} {host_key[1]}\n", "utf-8")
            vault.execute("sh", "-c", f"umask 077; mkdir {ETC}")
            for name_of_key in ("ssh_key", "other_key"):
                vault.execute("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{ETC}/{name_of_key}")
            wait_for_port(vault.address, 22)
            public = vault.read(f"{ETC}/ssh_key.pub").decode().strip()
            yield Vault(name, vault.address, gateway, key, known_hosts, public)
        finally:
            command("docker", "rm", "--force", "--volumes", name)
    finally:
        command("docker", "network", "rm", name)


@dataclass(frozen=True)
class CentralHost:
    """This machine, as the vault sees it."""

    #: the checkout of the Central, where the gate's user can enter
    project_directory: Path
    gate: Path
    home: Path
    address: str
    port: int
    #: the line for a file of known hosts
    known: str
    log: Path


@contextlib.contextmanager
def central_directory(demo: Demo) -> Iterator[Path]:
    """The demo's checkout where a user who is not root can enter, as a Central's is: in a directory of the system."""
    # Not below pytest's directories, which are closed to others.
    folder = Path(tempfile.mkdtemp(prefix="odk-vault-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    place = folder / "central"
    place.mkdir()
    try:
        command("mount", "--bind", demo["compose_dir"], place)
        try:
            yield place
        finally:
            command("umount", place)
    finally:
        place.rmdir()
        shutil.rmtree(folder)


def remove_gate_user(seconds: float = 15) -> None:
    """Remove the user of the gate, its home and its group, if they are there. Its last session may still be ending.

    What it has left in /run, such as the lease of a run that was killed, would be the next one's.
    """
    subprocess.run(["find", "/run/lock", "/tmp", "-user", GATE_USER, "-delete"], capture_output=True, check=False)
    limit = time.monotonic() + seconds
    while subprocess.run(["getent", "passwd", GATE_USER], capture_output=True, check=False).returncode == 0:
        done = subprocess.run(["userdel", "--remove", GATE_USER], capture_output=True, text=True, check=False)
        if done.returncode and time.monotonic() > limit:
            raise RuntimeError(done.stderr)
        time.sleep(0.2)
    subprocess.run(["groupdel", GATE_USER], capture_output=True, check=False)


def admit_gate_user(directory: Path, home: Path) -> None:
    """Do what docs/gate.md leaves to the administrator: the user may read the checkout, and finds ``docker compose``."""
    command("chgrp", "-R", GATE_USER, directory)
    command("chmod", "-R", "g+rX", directory)
    plugins = command("docker", "info", "--format", "{{range .ClientInfo.Plugins}}{{.Path}}\n{{end}}").split()
    for plugin in plugins:
        # Where it is root's own and not the system's.
        if Path(plugin).name == "docker-compose" and Path.home() in Path(plugin).parents:
            place = home / ".docker" / "cli-plugins"
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(plugin, place)


@contextlib.contextmanager
def sshd_of(folder: Path, address: str) -> Iterator[tuple[int, str, Path]]:
    """Start an sshd on an address of this machine, with a host key of its own.

    :returns: its port, its line for a file of known hosts, and its log
    """
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise FileNotFoundError("there is no sshd (Debian and Ubuntu: openssh-server)")
    folder.mkdir(mode=0o700)
    port, log = free_port(address), folder / "log"
    host_key = make_key(folder / "host_key").split()
    settings = {
        "ListenAddress": f"{address}:{port}",
        "HostKey": folder / "host_key",
        "PidFile": "none",
        "UsePAM": "yes",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PermitRootLogin": "no",
        "AllowUsers": GATE_USER,
        "LogLevel": "VERBOSE",
    }
    (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    start = [program, "-D", "-E", str(log), "-f", str(folder / "sshd_config")]
    process = subprocess.Popen(start, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(address, port)
        yield port, f"[{address}]:{port} {host_key[0]} {host_key[1]}\n", log
    finally:
        process.terminate()
        process.wait(10)


class _Relay(socketserver.BaseRequestHandler):
    target = ("127.0.0.1", 0)

    def handle(self) -> None:
        with socket.create_connection(self.target, 10) as other:
            pair: Sequence[socket.socket] = (self.request, other)
            while True:
                ready = select.select(pair, [], [], 120)[0]
                for source in ready:
                    data = source.recv(65536)
                    if not data:
                        return
                    (other if source is self.request else self.request).sendall(data)
                if not ready:
                    return


@contextlib.contextmanager
def published(address: str, port: int) -> Iterator[None]:
    """Let a port that is open on loopback only be reached by another address of this machine, too."""
    handler = type("Relay", (_Relay,), {"target": ("127.0.0.1", port)})

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server((address, port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
