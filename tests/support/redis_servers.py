# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real Redis of several majors, unpacked from Debian's packages into ``.cache/``; nothing is installed."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .paths import ROOT
from .postgresql import download

RELEASES = {6: "bullseye", 7: "bookworm", 8: "trixie"}
CACHE = ROOT / ".cache" / "redis"
PROGRAMS = ("redis-server", "redis-cli", "redis-check-rdb")

# Each program with its own release's loader and libraries. redis-cli finds the server by its socket.
_STARTER = """\
#!/bin/sh
exec {loader} --library-path {libraries} {program} {options}"$@"
"""


class Redis:
    """The programs of one major. ``bin`` is the directory for ``PATH``; ``redis-cli`` there wants ``REDIS_SOCKET``."""

    def __init__(self, major: int) -> None:
        self.major = major
        self.root = CACHE / str(major)
        self.bin = self.root / "start"
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / f"{major}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self.root / "complete").exists():
                self._unpack()

    def _unpack(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="odkops-apt-") as name:
            debs = download(Path(name), RELEASES[self.major], "redis-server")
            self.root.mkdir()
            for folder in ("bin", "sbin", "lib", "lib64"):
                (self.root / "usr" / folder).mkdir(parents=True)
                (self.root / folder).symlink_to(f"usr/{folder}")
            for deb in debs:
                with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as tar:
                    target = ["tar", "-x", "--keep-directory-symlink", "-C", str(self.root)]
                    subprocess.run(target, stdin=tar.stdout, check=True)
        self.bin.mkdir()
        loader = next(self.root.glob("usr/lib/*/ld-linux-*.so.*"))
        for name in PROGRAMS:
            starter = self.bin / name
            options = '-s "$REDIS_SOCKET" ' if name == "redis-cli" else ""
            paths = {"loader": loader, "libraries": loader.parent, "program": self.root / "usr" / "bin" / name}
            starter.write_text(_STARTER.format(options=options, **{key: shlex.quote(str(paths[key])) for key in paths}))
            starter.chmod(0o755)
        (self.root / "complete").touch()

    @contextmanager
    def server(self, *options: str, data: Path | None = None) -> Iterator[Server]:
        """A server of its own, configured as Central's Redis main, until the block ends.

        ``data`` is its directory; without it, one that is removed at the end.
        """
        with tempfile.TemporaryDirectory(prefix="redis-") as name:
            folder = data or Path(name)
            server = Server(self, folder, Path(name) / "socket")
            settings = [
                *("--port", "0", "--unixsocket", str(server.socket), "--dir", str(folder), "--save", "300 1"),
                *("--dbfilename", "enketo-main.rdb", "--appendonly", "no", "--stop-writes-on-bgsave-error", "yes"),
                *("--databases", "16", "--daemonize", "no"),
            ]
            if self.major >= 7:
                settings += ["--enable-protected-configs", "yes"]  # CONFIG SET dir
            log = Path(name) / "log"
            with log.open("w") as out:
                process = subprocess.Popen(
                    [str(self.bin / "redis-server"), *settings, *options], stdout=out, stderr=out, cwd=folder
                )
            try:
                server.wait(process, log)
                yield server
            finally:
                process.kill()
                process.wait()


class Server:
    """A running server."""

    def __init__(self, programs: Redis, folder: Path, socket: Path) -> None:
        self.programs = programs
        self.folder = folder
        self.socket = socket

    @property
    def environment(self) -> dict[str, str]:
        """What a script needs that calls ``redis-cli`` and ``redis-check-rdb``."""
        return {"PATH": f"{self.programs.bin}:{os.environ['PATH']}", "REDIS_SOCKET": str(self.socket)}

    @property
    def rdb(self) -> Path:
        """Where it saves."""
        return self.folder / "enketo-main.rdb"

    def wait(self, process: subprocess.Popen[bytes], log: Path) -> None:
        """Until it answers; RuntimeError where it never does."""
        limit = time.monotonic() + 20
        while time.monotonic() < limit and process.poll() is None:
            if self.socket.exists() and self.cli("PING").startswith((b"PONG", b"NOAUTH")):
                return
            time.sleep(0.02)
        raise RuntimeError(f"redis-server {self.programs.major} did not start: {log.read_text()[-2000:]}")

    def cli(self, *arguments: str | bytes, stdin: bytes | None = None) -> bytes:
        """Run ``redis-cli --raw`` and return what it prints."""
        done = subprocess.run(
            [str(self.programs.bin / "redis-cli"), "--raw", *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            check=False,
            env={**os.environ, **self.environment},
        )
        return done.stdout

    def pipe(self, *commands: list[bytes]) -> None:
        """Send commands, binary ones too, and see that none failed."""
        wire = b"".join(resp(command) for command in commands)
        printed = self.cli("--pipe", stdin=wire)
        if b"errors: 0" not in printed:
            raise RuntimeError(printed.decode("utf-8", "replace"))


def resp(command: list[bytes]) -> bytes:
    """A command as Redis's protocol has it."""
    return b"*%d\r\n" % len(command) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in command)
