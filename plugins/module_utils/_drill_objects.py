# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of a pool, served to a drill's Central as from S3.

rclone runs in a container of its own, of the image of ``service``, in the network namespace of that container: it listens on the
loopback address there, and nobody else can reach it. It reads the pool, which it cannot write to. What it is told comes on
its stdin: neither the passphrase nor the keys are in arguments, or in what Docker keeps of a container.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ansible_collections.odkops.central.plugins.module_utils import _drill_operations as operations
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry
from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._channel_errors import last_line
from ansible_collections.odkops.central.plugins.module_utils._drill_compose import S3_BUCKET, S3_PORT
from ansible_collections.odkops.central.plugins.module_utils._drill_docker import COMPOSE_LABEL, Docker
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, writing_error
from ansible_collections.odkops.central.plugins.module_utils._pool import Pool
from ansible_collections.odkops.central.plugins.module_utils._rclone import POOL, Rclone, crypt_environment

#: the first version that can serve S3
SERVES = (1, 65)

_PLACE = "/odkops"
_PATIENCE = 30.0

# Variables come first, a line each, and an empty line ends them. It ends when stdin does.
_SERVE = f"""\
while IFS= read -r line && [ -n "$line" ]; do export "$line"; done
{_PLACE}/rclone serve s3 {POOL}: &
child=$!
cat >/dev/null
kill "$child"
wait "$child"
"""


@dataclass(frozen=True)
class Serving:
    """How objects are served.

    :param project: the drill's compose project
    :param directory: its working directory
    :param keys: access key and secret key that its ``service`` has
    """

    docker: Docker
    channel: Channel
    project: str
    directory: str
    pool: Pool
    rclone: Rclone
    passphrase: str | None = field(repr=False)
    keys: tuple[str, str] = field(repr=False)


def can_serve(rclone: Rclone) -> bool:
    """Whether this rclone has an S3 server."""
    major, minor = (int(piece) for piece in rclone.version.split(".")[:2])
    return (major, minor) >= SERVES


@contextlib.contextmanager
def serving(how: Serving, entries: Iterable[BlobEntry]) -> Iterator[None]:
    """Return a context in which the drill's Central finds these objects in its bucket.

    :raises CentralError: ``rclone_failed``, and as :meth:`Docker.run`
    """
    links = _link(how, entries)
    container = f"{how.project}-pool"
    service = how.docker.labelled("container", f"{COMPOSE_LABEL}={how.project}")
    (one,) = [
        each
        for each in how.docker.inspect("container", *service)
        if each["Config"]["Labels"].get("com.docker.compose.service") == "service"
        and each["Config"]["Labels"].get("com.docker.compose.oneoff") != "True"
    ]
    mounts = [
        f"type=bind,source={path},target={_PLACE}/{name},readonly"
        for path, name in ((os.path.realpath(how.rclone.path), "rclone"), (how.pool.objects, "pool"), (links, "links"))
    ]
    command = [
        *how.docker.command,
        *("run", "--rm", "--interactive", "--name", container, "--label", f"{COMPOSE_LABEL}={how.project}"),
        *("--network", f"container:{one['Id']}", "--user", f"{os.getuid()}:{os.getgid()}", "--read-only"),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "1g", "--pull", "never"),
        *("--cpu-shares", "256", "--oom-score-adj", "500"),
        *(word for mount in mounts for word in ("--mount", mount)),
        *("--entrypoint", "sh", one["Image"], "-c", _SERVE),
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        told = "".join(f"{name}={value}\n" for name, value in _told(how).items()).encode() + b"\n"
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(told)
                process.stdin.flush()
        _wait(how.channel, process)
        yield
    finally:
        _end(process)


def _link(how: Serving, entries: Iterable[BlobEntry]) -> str:
    """A directory in which the objects are under the names that Central knows, where the pool has them in many."""
    links = os.path.join(how.directory, "objects")
    bucket = os.path.join(links, S3_BUCKET)
    try:
        os.makedirs(bucket, exist_ok=True)
        for entry in entries:
            with contextlib.suppress(FileExistsError):
                os.symlink(
                    f"{_PLACE}/pool/{how.pool.relative_name(entry)}{how.pool.suffix}",
                    os.path.join(bucket, entry.name + how.pool.suffix),
                )
    except OSError as error:
        raise writing_error(error, bucket) from error
    return links


def _told(how: Serving) -> dict[str, str]:
    place = f"{_PLACE}/links"
    remote = (
        crypt_environment(how.passphrase or "", place)
        if how.pool.encrypted
        else {f"RCLONE_CONFIG_{POOL.upper()}_TYPE": "alias", f"RCLONE_CONFIG_{POOL.upper()}_REMOTE": place}
    )
    return {
        **remote,
        "HOME": "/nonexistent",
        "RCLONE_CONFIG": "/dev/null",
        "RCLONE_ADDR": f"127.0.0.1:{S3_PORT}",
        # A list of pairs, as CSV.
        "RCLONE_AUTH_KEY": f'"{",".join(how.keys)}"',
        "RCLONE_READ_ONLY": "true",
        "RCLONE_COPY_LINKS": "true",
        "RCLONE_LOG_LEVEL": "ERROR",
    }


def _wait(channel: Channel, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _PATIENCE
    asked = f"127.0.0.1 {S3_PORT}\n".encode()
    while process.poll() is None and time.monotonic() < until:
        if channel.run(operations.REACH, stdin=asked).strip() == b"open":
            return
        time.sleep(0.3)
    _end(process)
    said = last_line("" if process.stderr is None else process.stderr.read().decode("utf-8", "replace"))
    raise CentralError("rclone_failed", f"rclone does not serve the objects of the pool to the drill: {said}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        # The container is removed with the drill's others.
        process.kill()
        process.wait()
