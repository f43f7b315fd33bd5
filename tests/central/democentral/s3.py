# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``central s3``: an S3 server for a demo's attachments, in one more container, so that it lives and ends with the demo."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import secrets
import shutil
import sys
import time
from pathlib import Path

from . import images, state
from .paths import ROOT, project_of
from .project import checkout_of, compose, container, restart_nginx_if_needed, set_env, wait_until_it_serves
from .run import DemoError, run, say

BUCKET = "odk-attachments"
_MARK = "# Made by `central s3`: an S3 server beside the Central."
_SECONDS = 60

# The keys come from .env, where Central's own settings are.
_OVERRIDE = f"""\
{_MARK}
services:
  s3:
    image: ${{COMPOSE_PROJECT_NAME}}-s3
    pull_policy: never
    command: [sh, -c, "mkdir -p /objects/$$BUCKET && exec rclone serve s3 /objects --addr :9000 --dir-cache-time 10ms"]
    environment:
      - BUCKET=${{S3_BUCKET_NAME}}
      - RCLONE_CONFIG=/dev/null
      - 'RCLONE_AUTH_KEY="${{S3_ACCESS_KEY}},${{S3_SECRET_KEY}}"'
    volumes:
      - s3:/objects
    ports:
      - "127.0.0.1:${{S3_PORT}}:9000"
    restart: always
volumes:
  s3:
"""


def enable(name: str) -> None:
    """Start the server, tell the Central of it, and let it upload what is still in the database."""
    state.require(name)
    started = time.monotonic()
    with state.lock(name):
        known = state.load(name)
        image = _image(known["images"]["base"])
        _write_override(checkout_of(name) / "docker-compose.override.yml")
        ports = known["ports"]
        # One that is free once more where it is not our own.
        running = run(["docker", "ps", "-q", "--filter", f"name=^{container(name, 's3')}$"]).stdout.strip()
        if "S3_PORT" not in ports or not (running or state.is_free(ports["S3_PORT"])):
            ports["S3_PORT"] = state.free_ports(1)[0]
        keys = known.get("s3") or {"access_key": secrets.token_hex(10), "secret_key": secrets.token_hex(20)}
        known["s3"] = {**keys, "bucket": BUCKET}
        set_env(
            name,
            {
                "S3_SERVER": "http://s3:9000",
                "S3_ACCESS_KEY": keys["access_key"],
                "S3_SECRET_KEY": keys["secret_key"],
                "S3_BUCKET_NAME": BUCKET,
                "S3_PORT": str(ports["S3_PORT"]),
            },
        )
        state.save(name, known)
        run(["docker", "tag", image, f"{project_of(name)}-s3"])
        compose(name, "up", "--detach", "--no-build", "s3", "service")
        restart_nginx_if_needed(name)
        _wait(ports["S3_PORT"])
    wait_until_it_serves(name)
    said = run(["docker", "exec", container(name, "service"), "node", "lib/bin/s3.js", "upload-pending"]).stdout.strip()
    say(f"{name} keeps its attachments in S3 after {time.monotonic() - started:.1f} s: {said}")


def _image(base: str) -> str:
    """The base with the rclone of .venv, since Debian's is too old to be a server. Built once; `clean` removes it."""
    found = shutil.which(
        "rclone", path=os.pathsep.join([str(Path(sys.executable).parent), str(ROOT / ".venv" / "bin")])
    )
    if found is None:
        raise DemoError("there is no rclone in .venv: `make venv` puts it there")
    version = run([found, "version"]).stdout.splitlines()[0]
    tag = f"{images.REPOSITORY}/s3:{hashlib.sha256(f'{base} {version}'.encode()).hexdigest()[:16]}"
    if not run(["docker", "image", "ls", "--quiet", tag]).stdout.strip():
        say(f"building {tag}")
        made = run(["docker", "create", base, "true"]).stdout.strip()
        try:
            run(["docker", "cp", found, f"{made}:/usr/local/bin/rclone"])
            run(["docker", "commit", made, tag])
        finally:
            run(["docker", "rm", made], check=False)
    return tag


def _write_override(path: Path) -> None:
    if path.exists():
        text = path.read_text("utf-8")
        if not text.startswith(_MARK):
            raise DemoError(f"{path} is not ours: put an S3 server into it by hand, or move it away")
        if text == _OVERRIDE:
            return
    path.write_text(_OVERRIDE, "utf-8")


def _wait(port: int) -> None:
    """Wait until the server itself answers: Docker listens on its port before it does."""
    deadline = time.monotonic() + _SECONDS
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/")
            connection.getresponse()
            return
        if time.monotonic() > deadline:
            raise DemoError(f"the S3 server does not answer after {_SECONDS} s")
        time.sleep(0.1)
