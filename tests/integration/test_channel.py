# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Operations in the containers of the demo Central, by Docker Compose itself: what is left when something is killed."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._channel import LocalChannel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._gate import render_gate
from ansible_collections.odkops.central.plugins.module_utils._operation import HOST, Operation, Project, watched
from ansible_collections.odkops.central.plugins.module_utils._ssh_channel import SshChannel, SshTarget

from support import Demo
from support.gates import SshServer, python_for_gates, ssh_server, sshd, write_gate

#: a process of ours is known by its argument
MARK = f"31536{secrets.randbelow(10**6):06}"

WAITS = watched(f"echo begun; sleep {MARK} & sleep {MARK}")
KNOWN = {
    "waits": Operation("waits", "service", WAITS),
    "waits-apart": Operation("waits-apart", "secrets", WAITS, run=True),
    "waits-here": Operation("waits-here", HOST, WAITS),
    "floods": Operation("floods", "service", watched(f"sleep {MARK} & cat /dev/zero")),
    "echo": Operation("echo", "service", 'printf "%s|" "$@"', ("(?s).*", "(?s).*")),
    "cat": Operation("cat", "service", "cat"),
    "apart": Operation("apart", "secrets", 'echo "$0 $1"; cat', (".*",), run=True),
    "random": Operation("random", "service", "head -c 50000000 /dev/urandom | tee /tmp/sent-by-test"),
    "sum": Operation("sum", "service", "sha256sum </tmp/sent-by-test; rm /tmp/sent-by-test"),
    "status": Operation("status", "service", 'exit "$1"', ("[0-9]+",)),
    "enketo": Operation("enketo", "enketo", "echo"),
    "absent": Operation("absent", "no_such_service", "echo"),
}

pytestmark = pytest.mark.timeout(300)


def project_of(demo: Demo) -> Project:
    return Project(str(demo["compose_dir"]), str(demo["compose_project"]))


@pytest.fixture
def gate(demo: Demo, tmp_path: Path) -> Path:
    text = render_gate(project_of(demo), python=python_for_gates(), operations=KNOWN)
    return write_gate(tmp_path / "gate", text)


@pytest.fixture
def server(gate: Path, tmp_path: Path) -> Iterator[SshServer]:
    if sshd() is None:
        pytest.skip("no sshd here (Debian and Ubuntu: openssh-server)")
    with ssh_server(tmp_path / "ssh", gate) as server:
        yield server


def target_of(server: SshServer) -> SshTarget:
    return SshTarget("127.0.0.1", server.user, server.port, str(server.key), str(server.known_hosts))


Channel = Any


@pytest.fixture(params=["local", "ssh"])
def channel(request: pytest.FixtureRequest, demo: Demo) -> Channel:
    if request.param == "local":
        return LocalChannel(project_of(demo), KNOWN)
    return SshChannel(target_of(request.getfixturevalue("server")), KNOWN)


def marked() -> list[str]:
    """Processes of ours, in containers and out of them: all are seen from the host."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", MARK.encode()]:
            found.append(path.parent.name)
    return found


def containers(demo: Demo) -> str:
    label = f"label=com.docker.compose.project={demo['compose_project']}"
    command = [
        "docker",
        "ps",
        "--all",
        "--quiet",
        "--filter",
        label,
        "--filter",
        "label=com.docker.compose.oneoff=True",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, marked()
        time.sleep(0.1)


@pytest.fixture(autouse=True)
def _nothing_is_left(demo: Demo) -> Iterator[None]:
    yield
    wait_until(lambda: not marked() and not containers(demo))


def test_operations_in_containers(channel: Channel) -> None:
    assert channel.run("echo", "a b", "'\"$x\n é") == "a b|'\"$x\n é|".encode()
    data = os.urandom(3_000_000)
    assert channel.run("cat", stdin=data) == data
    assert channel.run("apart", "one", stdin=b"two", timeout=120) == b"apart one\ntwo"


def test_exit_statuses_are_told(channel: Channel) -> None:
    for status in (1, 3, 126, 137):
        with pytest.raises(CentralError) as caught:
            channel.run("status", str(status))
        assert caught.value.details["exit_status"] == status
    assert channel.run("status", "0") == b""


def test_much_output_comes_whole(channel: Channel) -> None:
    import hashlib

    digest, size = hashlib.sha256(), 0
    with channel.stream("random") as stream:
        while data := stream.read(1024 * 1024):
            digest.update(data)
            size += len(data)
    assert size == 50_000_000
    assert channel.run("sum").split()[0].decode() == digest.hexdigest()


@pytest.mark.parametrize("name", ["waits", "waits-apart", "waits-here", "floods"])
def test_leaving_early_ends_everything_before_it_returns(channel: Channel, demo: Demo, name: str) -> None:
    with channel.stream(name) as stream:
        assert stream.read(6)
        wait_until(lambda: bool(marked()))
        begun = time.monotonic()
    assert time.monotonic() - begun < 10
    assert marked() == []


# Whoever runs the tests in the background has them ignore SIGINT, and so would the client.
CLIENT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from ansible_collections.odkops.central.plugins.module_utils._channel import LocalChannel
from ansible_collections.odkops.central.plugins.module_utils._operation import HOST, Operation, Project, watched
from ansible_collections.odkops.central.plugins.module_utils._ssh_channel import SshChannel, SshTarget
how, name, place, mark, *given = sys.argv[1:]
script = watched(f"echo begun; sleep {mark} & sleep {mark}")
operation = Operation(name, place, script, run=name == "waits-apart")
if how == "local":
    channel = LocalChannel(Project(*given), {name: operation})
else:
    channel = SshChannel(SshTarget(given[0], given[1], int(given[2]), given[3], given[4]), {name: operation})
with channel.stream(name) as stream:
    stream.read(1)
    time.sleep(300)
"""


@pytest.mark.parametrize("name", ["waits", "waits-apart", "waits-here"])
@pytest.mark.parametrize("how", ["local", "ssh"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_leaves_nothing(
    request: pytest.FixtureRequest, demo: Demo, how: str, name: str, number: signal.Signals
) -> None:
    if how == "local":
        given = [project_of(demo).directory, str(project_of(demo).name)]
    else:
        server = request.getfixturevalue("server")
        given = ["127.0.0.1", server.user, str(server.port), str(server.key), str(server.known_hosts)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", CLIENT, how, name, KNOWN[name].place, MARK, *given]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as client:
        wait_until(lambda: len(marked()) == 2, 60)
        client.send_signal(number)
        client.wait(20)
    wait_until(lambda: not marked() and not containers(demo), 20)


def test_a_killed_docker_client_is_no_end(demo: Demo) -> None:
    with LocalChannel(project_of(demo), KNOWN).stream("waits") as stream:
        assert stream.read(100) == b"begun\n"
        assert stream._process is not None
        os.killpg(stream._process.pid, signal.SIGKILL)
        with pytest.raises(CentralError) as caught:
            while stream.read(100):
                pass
    assert caught.value.diagnosis == "operation_failed"


def test_what_does_not_run(channel: Channel, demo: Demo) -> None:
    with demo.fault("enketo-stopped"), pytest.raises(CentralError) as caught:
        channel.run("enketo")
    assert caught.value.diagnosis == "service_not_running"
    with pytest.raises(CentralError) as caught:
        channel.run("absent")
    assert caught.value.diagnosis in ("not_a_compose_project", "service_not_running")


def test_a_project_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(CentralError) as caught:
        LocalChannel(Project(str(tmp_path)), KNOWN).run("cat")
    assert caught.value.diagnosis == "not_a_compose_project"


@pytest.mark.parametrize(
    ("service", "image"),
    [({"build": {"context": "."}}, "{}-secrets"), ({"image": "127.0.0.1:1/{}:v1"}, "127.0.0.1:1/{}:v1")],
    ids=["build", "image"],
)
def test_no_image_is_built_or_pulled(demo: Demo, tmp_path: Path, service: dict[str, Any], image: str) -> None:
    """Only one that is there is used, wherever its name comes from."""
    name = f"odkimage{secrets.token_hex(4)}"
    text = json.dumps({"services": {"secrets": {**service, "network_mode": "none"}}}).replace("{}", name)
    (tmp_path / "docker-compose.yml").write_text(text, "utf-8")
    (tmp_path / "Dockerfile").write_text(f"FROM {demo['images']['base']}\n", "utf-8")
    channel, image = LocalChannel(Project(str(tmp_path), name), KNOWN), image.replace("{}", name)
    with pytest.raises(CentralError) as caught:
        channel.run("apart", "a", stdin=b"b")
    assert caught.value.diagnosis == "missing_image"
    assert f"The image {image} of the service secrets" in caught.value.message
    listed = ["docker", "image", "ls", "--quiet", image]
    assert subprocess.run(listed, capture_output=True, check=True).stdout == b""
    subprocess.run(["docker", "tag", demo["images"]["base"], image], check=True)
    try:
        assert channel.run("apart", "a", stdin=b"b") == b"apart a\nb"
    finally:
        subprocess.run(["docker", "image", "rm", image], capture_output=True, check=True)


def test_a_docker_that_does_not_answer(demo: Demo) -> None:
    nowhere = Project(str(demo["compose_dir"]), docker=("docker", "-H", "unix:///nowhere.sock"))
    with pytest.raises(CentralError) as caught:
        LocalChannel(nowhere, KNOWN).run("cat")
    assert caught.value.diagnosis == "docker_unavailable"


def test_a_broken_env_file_is_not_quoted(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "docker-compose.yml").write_text("services: {service: {image: x, env_file: .env}}\n")
    (tmp_path / ".env").write_text("DOMAIN=x\nPASS WORD&hunter2=hunter3\n")
    with pytest.raises(CentralError) as caught:
        LocalChannel(Project(str(tmp_path)), KNOWN).run("cat")
    assert "hunter" not in caught.value.message + str(caught.value.details)
