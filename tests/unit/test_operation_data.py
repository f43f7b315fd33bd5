# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Data for a container goes through a named pipe where the container can open it, and through Docker where not."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils._channel import LocalChannel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._operation import RESTORE, Operation, Project

# `docker compose run` executes the script on this host: what the container has as a volume is a directory here, if it has it.
_DOCKER = """\
#!/bin/sh
here={here}
case "$*" in
  "context inspect"*) cat "$here/endpoint"; exit ;;
  "image inspect"*) exit ;;
  *" config") printf 'services:\\n  service:\\n    image: one\\n'; exit ;;
esac
echo "$*" >>"$here/calls"
while [ $# -gt 0 ] && [ "$1" != run ]; do shift; done
volume=/nowhere
while [ "$1" != -c ]; do
  if [ "$1" = --volume ]; then volume=${{2%:*:ro}}; fi
  if [ "$1" = --env ]; then export "$2"; fi
  shift
done
shift
[ ! -e "$here/broken" ] || {{ echo "no such service" >&2; exit 14; }}
[ ! -e "$here/unshared" ] || volume=/nowhere
[ ! -e "$here/noisy" ] || echo "a word of its own"
ls -ld "$volume" "$volume/data" >"$here/seen" 2>/dev/null
script=$(printf %s "$1" | sed "s|/run/odkops-data|$volume|g")
shift
exec 3<&0
sh -c "$script" "$@" <&3 3<&- &
child=$!
echo "$child" >"$here/pid"
wait "$child"
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    docker = tmp_path / "docker"
    docker.write_text(_DOCKER.format(here=tmp_path))
    docker.chmod(0o755)
    (tmp_path / "endpoint").write_text("unix:///var/run/docker.sock\n")
    (tmp_path / "central" / ".odkops-restore").mkdir(parents=True)
    return tmp_path


def channel(here: Path, script: str, directory: str = "central") -> LocalChannel:
    operation = Operation("put", "service", script, (), RESTORE, run=True, data=True)
    return LocalChannel(Project(str(here / directory), "p", (), (str(here / "docker"),)), {"put": operation})


def put(channel: LocalChannel, data: bytes) -> bytes:
    found = b""
    with channel.stream("put", stdin=io.BytesIO(data), idle_timeout=30) as stream:
        while piece := stream.read(1000):
            found += piece
    return found


def left(here: Path) -> list[Path]:
    return list((here / "central" / ".odkops-restore").iterdir())


DATA = os.urandom(3_000_000) + b"\0\n"
SUM = hashlib.sha256(DATA).hexdigest().encode()


def test_the_data_goes_through_the_pipe(here: Path) -> None:
    # What is left of stdin after the script has begun is not the container's.
    assert put(channel(here, "sha256sum; readlink /proc/$$/fd/0"), DATA).split()[0] == SUM
    assert "--volume" in (here / "calls").read_text()
    modes = [line.split()[0] for line in (here / "seen").read_text().splitlines()]
    assert modes == ["drwx------", "prw-------"]
    assert left(here) == []


@pytest.mark.parametrize("why", ["endpoint", "unshared", "no journal", "name"])
def test_the_data_goes_through_docker_where_the_pipe_cannot_be_used(here: Path, why: str) -> None:
    directory = "central"
    if why == "endpoint":
        (here / "endpoint").write_text("tcp://elsewhere:2376\n")
    elif why == "unshared":
        (here / "unshared").touch()
    elif why == "no journal":
        (here / "central" / ".odkops-restore").rmdir()
    else:
        directory = "my: central"
        (here / directory / ".odkops-restore").mkdir(parents=True)
    assert put(channel(here, "sha256sum", directory), DATA).split()[0] == SUM
    assert ("--volume" in (here / "calls").read_text()) is (why == "unshared")
    assert list((here / directory).rglob("data.*")) == []


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("script", "said"), [("head -c 5 >/dev/null; echo 'it fails' >&2; exit 3", "it fails"), ("kill -KILL $PPID", "put")]
)
def test_a_container_that_ends_early_is_a_failure(here: Path, script: str, said: str, shared: bool) -> None:
    if not shared:
        (here / "unshared").touch()
    begin = time.monotonic()
    with pytest.raises(CentralError, match=said):
        put(channel(here, script), DATA * 3)
    assert time.monotonic() - begin < 20
    assert left(here) == []


def test_a_docker_that_says_something_of_its_own_is_a_failure(here: Path) -> None:
    """Nobody knows then from where the container reads."""
    (here / "noisy").touch()
    begin = time.monotonic()
    with pytest.raises(CentralError, match="did not say"):
        put(channel(here, "sha256sum"), DATA)
    assert time.monotonic() - begin < 25
    assert left(here) == []


def test_a_container_that_does_not_start_is_a_failure(here: Path) -> None:
    (here / "broken").touch()
    with pytest.raises(CentralError, match="no such service"):
        put(channel(here, "sha256sum"), DATA)
    assert left(here) == []


class Endless:
    """Data that never ends, until somebody says so."""

    def __init__(self) -> None:
        self.stop = threading.Event()

    def read(self, size: int, /) -> bytes:
        time.sleep(0.01)
        return b"" if self.stop.is_set() else bytes(size)


@pytest.mark.parametrize("shared", [True, False])
def test_whoever_leaves_early_leaves_nothing_behind(here: Path, shared: bool) -> None:
    """As when the module is ended in the middle: the container sees an end of the data, and what it started ends."""
    if not shared:
        (here / "unshared").touch()
    source = Endless()
    with pytest.raises(KeyError), channel(here, "cat >/dev/null; echo $? >ended; sleep 60").stream("put", stdin=source):
        until = time.monotonic() + 20
        while not (here / "pid").exists() or left(here):
            assert time.monotonic() < until
            time.sleep(0.05)
        raise KeyError
    source.stop.set()
    assert left(here) == []
    stat = Path(f"/proc/{(here / 'pid').read_text().strip()}/stat")
    assert not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_the_death_of_whoever_sends_ends_the_data(here: Path) -> None:
    """All on the host that sends is killed; the container, which is not, sees that there is no more."""
    script = f"exec 3<&0; setsid sh -c 'cat >/dev/null; echo over >{here}/over' <&3 3<&- & exec 3<&- </dev/null; wait"
    source = Endless()
    with pytest.raises(CentralError), channel(here, script).stream("put", stdin=source) as stream:
        until = time.monotonic() + 20
        while not (here / "pid").exists() or left(here):
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(0.3)
        processes = subprocess.run(
            ["pgrep", "-f", str(here / "central")], capture_output=True, text=True, check=False
        ).stdout.split()
        groups = {os.getpgid(int(pid)) for pid in processes if int(pid) != os.getpid()}
        for group in groups - {os.getpgrp()}:
            os.killpg(group, signal.SIGKILL)
        stream.read(1)
    source.stop.set()
    until = time.monotonic() + 20
    while not (here / "over").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
