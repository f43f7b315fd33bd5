# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The demo Central as the tests see it: its state file, its containers, its faults."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .paths import CENTRAL, ROOT, STATE

# Not that of `make demo`, which has its attachments in S3.
DEFAULT_NAME = "odktest"
SEED = ("--projects", "1", "--forms", "3", "--submissions", "200", "--attachments", "60", "--attachment-size", "20000")


class DemoError(RuntimeError):
    """The demo Central could not be brought up, or a command in it failed."""


def central(*arguments: str, timeout: float = 1800) -> str:
    """Run ``tests/central/central``; returns what it printed, raises :class:`DemoError` with all of it on failure."""
    return _run([sys.executable, str(CENTRAL), *arguments], timeout)


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until `condition` is true; what it raises counts as no."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        with contextlib.suppress(Exception):  # it is not up yet
            if condition():
                return
        time.sleep(0.3)
    raise AssertionError("it did not come up")


def _run(command: Sequence[str], timeout: float, stdin: str | None = None) -> str:
    done = subprocess.run(
        list(command),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        said = f"{done.stdout}\n{done.stderr}".strip()[-4000:]
        raise DemoError(f"{' '.join(command)} exited {done.returncode}\n{said}")
    return done.stdout


@dataclass(frozen=True)
class Demo:
    """A demo Central that is up. ``state`` is its state file's content (see ``tests/central/README.md``)."""

    name: str
    state: dict[str, Any]

    @classmethod
    def load(cls, name: str = DEFAULT_NAME) -> Demo:
        """Read the state file of a demo; :class:`DemoError` when there is none."""
        path = STATE / f"{name}.json"
        try:
            return cls(name, json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            raise DemoError(f"no demo Central named {name}: {path} does not exist. `make demo` makes one.") from None

    def __getitem__(self, key: str) -> Any:
        return self.state[key]

    @property
    def url(self) -> str:
        """Through nginx, by TLS."""
        return str(self.state["url"])

    @property
    def service_url(self) -> str:
        """Directly to the service, without TLS, on loopback."""
        return str(self.state["service_url"])

    @property
    def ca_path(self) -> str:
        """The certificate of the authority that signed nginx's."""
        return str(self.state["ca_path"])

    @property
    def login(self) -> dict[str, Any]:
        """Options that any module needs to log in as the administrator, through nginx."""
        return {
            "url": self.url,
            "email": self.state["admin"]["email"],
            "password": self.state["admin"]["password"],
            "ca_path": self.ca_path,
        }

    def compose(self, *arguments: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Run ``docker compose`` on this demo's project and return what it printed."""
        project, folder = str(self.state["compose_project"]), str(self.state["compose_dir"])
        return _run(["docker", "compose", "-p", project, "--project-directory", folder, *arguments], timeout, stdin)

    def start_again(self, *services: str) -> None:
        """Restart services that run or do not, and nginx after them: they may have got other addresses."""
        self.compose("restart", *services)
        self.compose("restart", "nginx")

    def docker(self, *arguments: str, timeout: float = 120) -> str:
        """Run ``docker`` and return what it printed."""
        return _run(["docker", *arguments], timeout)

    def container(self, service: str) -> str:
        """The name of a service's container."""
        return f"{self.state['compose_project']}-{service}-1"

    def execute(self, service: str, *command: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Run a command in a service's container and return what it printed."""
        return _run(["docker", "exec", "-i", self.container(service), *command], timeout, stdin)

    def psql(self, sql: str, timeout: float = 120) -> str:
        """Run SQL as the database's owner; returns unaligned tuples, tab between columns, without the last newline."""
        command = ("psql", "-XqAt", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-U", "odk", "-d", "odk", "-f", "-")
        return self.execute("postgres14", *command, stdin=sql, timeout=timeout).rstrip("\n")

    @contextlib.contextmanager
    def fault(self, name: str, *arguments: str) -> Iterator[None]:
        """Switch a fault of ``tests/central/README.md`` on for a block, and off again whatever happens."""
        central("fault", "--name", self.name, name, "on", *arguments)
        try:
            yield
        finally:
            central("fault", "--name", self.name, name, "off")


@contextlib.contextmanager
def sole_user(name: str) -> Iterator[None]:
    """Hold a demo for this process alone: faults of one test run must not meet another's tests."""
    folder = ROOT / ".cache"
    folder.mkdir(exist_ok=True)
    with (folder / f"demo-{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another test run that uses the demo Central {name}", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ensure_demo(name: str | None = None) -> Demo:
    """Bring the demo Central up (engine and images first, where they are missing) and seed it if it is empty."""
    chosen = name or os.environ.get("CENTRAL_DEMO", DEFAULT_NAME)
    central("engine")
    central("images")
    central("up", "--name", chosen)
    demo = Demo.load(chosen)
    if demo.psql("select count(*) from submissions") == "0":
        central("seed", "--name", chosen, *SEED)
    return demo
