# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The state file of a demo: what it is, where it answers, who may log in."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .paths import STATE, make_state_folder
from .run import DemoError, say


def path_of(name: str) -> Path:
    """The state file of a demo."""
    return STATE / f"{name}.json"


def folder_of(name: str) -> Path:
    """The folder of a demo: its checkout, its certificate authority."""
    return STATE / name


def names() -> list[str]:
    """The demos that have a state file or a folder."""
    if not STATE.is_dir():
        return []
    found = {path.stem for path in STATE.glob("*.json")}
    return sorted(found | {path.parent.name for path in STATE.glob("*/central")})


def load(name: str) -> dict[str, Any]:
    """Read a state file; empty when there is none."""
    try:
        state = json.loads(path_of(name).read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        say(f"{path_of(name)} is damaged and is made anew")
        return {}
    return state if isinstance(state, dict) else {}


def require(name: str) -> dict[str, Any]:
    """Read the state file of a demo that is up; :class:`DemoError` when there is none."""
    state = load(name)
    if "url" not in state:
        raise DemoError(f"there is no demo Central named {name}: `central up --name {name}` makes one")
    return state


def save(name: str, state: dict[str, Any]) -> None:
    """Write a state file: 0600, and never half of it."""
    make_state_folder()
    final = path_of(name)
    partial = final.with_suffix(f".{secrets.token_hex(4)}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(state, file, indent=2, sort_keys=True)
        file.write("\n")
    partial.rename(final)


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold a demo (or ``images``) against other processes of this command."""
    make_state_folder()
    with (STATE / f".{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run that uses {name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(int(probe.getsockname()[1]))
        return ports


def is_free(port: int) -> bool:
    """Whether a loopback port can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
