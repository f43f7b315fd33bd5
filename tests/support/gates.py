# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An SSH server on loopback, and a stand-in for one: both start a gate as their forced command."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# What sshd does for a key with a forced command, as far as it matters: the client's words are data.
FAKE_SSH = r"""#!/bin/sh
for word in "$@"; do asked=$word; done
here=$(dirname "$0")
if [ -e "$here/ssh-broken" ]; then cat "$here/ssh-broken" >&2; exit 255; fi
cd / && exec env -i HOME="$HOME" USER=backup SSH_CONNECTION="192.0.2.7 1 192.0.2.1 22" LC_ALL=de_DE.UTF-8 \
  SSH_ORIGINAL_COMMAND="$asked" /bin/sh -c "$here/gate"
"""


def write_gate(path: Path, text: str) -> Path:
    """Put a gate into a file that can be executed."""
    path.write_text(text, "utf-8")
    path.chmod(0o755)
    return path


def fake_ssh(folder: Path) -> None:
    """Put an `ssh` into `folder` that runs the ``gate`` beside it, or fails with what is in ``ssh-broken``."""
    script = folder / "ssh"
    script.write_text(FAKE_SSH)
    script.chmod(0o755)


def python_for_gates() -> str:
    """A path of this Python that can stand in the first line of a script."""
    return os.path.realpath(sys.executable)


@dataclass(frozen=True)
class SshServer:
    """A real sshd of this user on loopback."""

    port: int
    user: str
    key: Path
    other_key: Path
    known_hosts: Path
    process: subprocess.Popen[bytes]


def sshd() -> str | None:
    """The path of an sshd, if there is one."""
    return shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def ssh_server(folder: Path, gate: Path) -> Iterator[SshServer]:
    """Start an sshd whose only accepted key can do nothing but start `gate`."""
    program = sshd()
    if program is None:
        raise FileNotFoundError("there is no sshd")
    folder.mkdir(mode=0o700)
    for name in ("host_key", "key", "other_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    public = (folder / "key.pub").read_text()
    (folder / "authorized_keys").write_text(f'restrict,command="{gate}" {public}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host_key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
    settings = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": folder / "host_key",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "LogLevel": "ERROR",
    }
    (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    command = [program, "-D", "-E", str(folder / "log"), "-f", str(folder / "sshd_config")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(f"sshd does not start: {(folder / 'log').read_text()}")
            time.sleep(0.05)
        yield SshServer(port, getpass.getuser(), folder / "key", folder / "other_key", folder / "known_hosts", process)
    finally:
        process.terminate()
        process.wait(10)
