# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The channel on this host: real processes, with a `docker` that runs things here."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _operation_stream
from ansible_collections.odkops.central.plugins.module_utils._channel import LocalChannel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._operation import HOST, Operation, Project, watched

from support.fake_docker import FakeDocker

SCRIPTS = {
    "echo": Operation("echo", "service", 'printf "%s|" "$0" "$@"', ("(?s).*", "(?s).*")),
    "where": Operation("where", HOST, "pwd"),
    "once": Operation("once", "secrets", 'echo "once in $(basename "$PWD")"', run=True),
    "cat": Operation("cat", "service", "cat"),
    "big": Operation("big", "service", "head -c 5000000 /dev/zero"),
    "slow": Operation("slow", HOST, "echo a; sleep 30"),
    "fails": Operation("fails", "service", "echo out; echo first >&2; echo 'it is broken' >&2; exit 3"),
    "shouts": Operation(
        "shouts", HOST, "head -c 5000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo the end >&2; exit 1"
    ),
    "dies": Operation("dies", HOST, "echo half; kill -KILL $$"),
    "endless": Operation("endless", "service", watched("echo $$ >pid; while :; do cat /dev/zero; done")),
    "waits": Operation("waits", "service", watched("echo $$ >pid; echo begun; exec sleep 300")),
    "deaf": Operation("deaf", HOST, "exec 0<&-; trap '' TERM; echo begun; while :; do sleep 0.1; done"),
    "reads-some": Operation("reads-some", "service", "head -c 3"),
    "lies": Operation("lies", HOST, "echo half; printf 'truncated' ; kill -KILL $PPID; kill -KILL $$"),
    "gone": Operation("gone", "absent", "echo"),
}


@pytest.fixture
def docker(tmp_path: Path) -> FakeDocker:
    return FakeDocker.make(tmp_path / "docker", "service", "secrets")


@pytest.fixture
def project(tmp_path: Path, docker: FakeDocker) -> Project:
    directory = tmp_path / "central"
    directory.mkdir()
    (directory / "docker-compose.yml").write_text("services: {}\n")
    return Project(str(directory), "odk", docker=(docker.command,))


@pytest.fixture
def channel(project: Project) -> LocalChannel:
    return LocalChannel(project, SCRIPTS)


def gone(pid_file: Path) -> bool:
    pid = pid_file.read_text().strip()
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_run(channel: LocalChannel, docker: FakeDocker, project: Project) -> None:
    assert channel.run("echo", "a b", "$x\n'\"") == b"echo|a b|$x\n'\"|"
    assert docker.calls()[0][:7] == ["compose", "-p", "odk", "--project-directory", project.directory, "exec", "-T"]
    assert channel.run("where") == project.directory.encode() + b"\n"
    assert channel.run("once") == b"once in secrets\n"


def test_run_with_stdin(channel: LocalChannel) -> None:
    data = os.urandom(1_000_000)
    assert channel.run("cat", stdin=data) == data
    assert channel.run("cat", stdin=b"") == b""
    assert channel.run("reads-some", stdin=data) == data[:3]


def test_without_data_stdin_stays_open_while_the_operation_runs(channel: LocalChannel) -> None:
    with pytest.raises(CentralError) as caught:
        channel.run("cat", timeout=0.5)
    assert caught.value.diagnosis == "timeout"


def test_an_unknown_operation_is_a_mistake_of_ours(channel: LocalChannel) -> None:
    with pytest.raises(ValueError, match="no operation"):
        channel.run("nothing")


def test_arguments_that_do_not_fit_start_nothing(channel: LocalChannel, docker: FakeDocker) -> None:
    with pytest.raises(CentralError) as caught:
        channel.run("echo", "a")
    assert caught.value.diagnosis == "operation_refused"
    assert not (docker.path / "calls").exists()


def test_more_than_the_limit(channel: LocalChannel) -> None:
    assert len(channel.run("big", limit=5_000_000)) == 5_000_000
    with pytest.raises(CentralError) as caught:
        channel.run("big", limit=4_999_999)
    assert caught.value.diagnosis == "operation_failed"


@pytest.mark.parametrize("size", [1, 5, 11, 12, 13, 4096, 1_000_000])
def test_stream_in_pieces_of_any_size(channel: LocalChannel, size: int) -> None:
    data = os.urandom(3000)
    with channel.stream("cat", stdin=io.BytesIO(data)) as stream:
        pieces = list(iter(lambda: stream.read(size), b""))
        assert stream.read(size) == b""
    assert b"".join(pieces) == data
    assert max(len(piece) for piece in pieces) <= size


def test_a_failure_is_told_with_the_last_line(channel: LocalChannel) -> None:
    with channel.stream("fails") as stream:
        assert stream.read(100) == b"out\n"
    with pytest.raises(CentralError) as caught:
        channel.run("fails")
    assert caught.value.diagnosis == "operation_failed"
    assert "it is broken" in caught.value.message
    assert caught.value.details == {"operation": "fails", "exit_status": 3}


def test_no_end_is_read_after_a_failure(channel: LocalChannel) -> None:
    with channel.stream("dies") as stream:
        for _attempt in range(3):
            with pytest.raises(CentralError):
                while stream.read(100):
                    pass


def test_stderr_is_never_in_the_way(channel: LocalChannel) -> None:
    with pytest.raises(CentralError, match="the end"):
        channel.run("shouts")


def test_output_that_is_cut_short_with_status_0_is_noticed(tmp_path: Path) -> None:
    """As docker exec behaves when its connection breaks while the process goes on."""
    command = ["sh", "-c", "printf half; exit 0"]
    with (
        _operation_stream.OperationStream(
            "x", command, None, os.environ, None, 10, lambda status, said: CentralError("operation_failed", said)
        ) as stream,
        pytest.raises(CentralError, match="cut short"),
    ):
        while stream.read(100):
            pass


def test_timeout(channel: LocalChannel) -> None:
    begun = time.monotonic()
    with pytest.raises(CentralError) as caught:
        channel.run("slow", timeout=0.5)
    assert caught.value.diagnosis == "timeout"
    assert "0.5 seconds" in caught.value.message
    assert time.monotonic() - begun < 15


def test_idle_timeout(channel: LocalChannel, docker: FakeDocker) -> None:
    with channel.stream("waits", idle_timeout=2) as stream:
        with pytest.raises(CentralError) as caught:
            while stream.read(100):
                pass
        assert caught.value.diagnosis == "timeout"
        with pytest.raises(CentralError):
            stream.read(100)
    assert gone(docker.service("service") / "pid")


@pytest.mark.parametrize("name", ["waits", "endless"])
def test_leaving_early_ends_what_was_started_in_the_container(
    channel: LocalChannel, docker: FakeDocker, name: str
) -> None:
    begun = time.monotonic()
    with channel.stream(name) as stream:
        assert stream.read(10)
    assert gone(docker.service("service") / "pid")
    assert time.monotonic() - begun < 5
    with channel.stream(name):
        pass


def test_leaving_early_kills_what_does_not_listen(channel: LocalChannel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_operation_stream, "_GRACE", 0.5)
    monkeypatch.setattr(_operation_stream, "_SIGNALLED", 0.5)
    with channel.stream("deaf") as stream:
        assert stream.read(100)
        assert stream._process is not None
        group = stream._process.pid
    left = subprocess.run(["pgrep", "--pgroup", str(group), "--runstates", "DRST"], capture_output=True, check=False)
    assert left.stdout == b""


def test_a_source_that_breaks_is_told_and_ends_the_operation(channel: LocalChannel) -> None:
    class Broken:
        def __init__(self) -> None:
            self.left = 3

        def read(self, size: int, /) -> bytes:
            self.left -= 1
            if self.left:
                return b"x" * size
            raise CentralError("corrupt", "the source is broken")

    with channel.stream("cat", stdin=Broken()) as stream, pytest.raises(CentralError) as caught:
        while stream.read(1_000_000):
            pass
    assert caught.value.diagnosis == "corrupt"


def test_leaving_early_while_data_is_sent(channel: LocalChannel) -> None:
    class Endless:
        def read(self, size: int, /) -> bytes:
            return b"x" * size

    begun = time.monotonic()
    with channel.stream("cat", stdin=Endless()) as stream:
        assert stream.read(100)
    assert time.monotonic() - begun < 5


def test_no_threads_and_no_descriptors_are_left(channel: LocalChannel) -> None:
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _attempt in range(3):
        channel.run("echo", "a", "b")
        with channel.stream("waits") as stream:
            stream.read(1)
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors


CLIENT = """
import sys, time
from ansible_collections.odkops.central.plugins.module_utils._channel import LocalChannel
from ansible_collections.odkops.central.plugins.module_utils._operation import Operation, Project, watched
operation = Operation("waits", "service", watched("echo $$ >pid; echo begun; exec sleep 300"))
with LocalChannel(Project(sys.argv[1], docker=(sys.argv[2],)), {"waits": operation}).stream("waits") as stream:
    print(stream.read(1), flush=True)
    time.sleep(300)
"""


def test_a_killed_run_leaves_nothing_in_the_container(project: Project, docker: FakeDocker) -> None:
    command = [sys.executable, "-c", CLIENT, project.directory, docker.command]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as client:
        assert client.stdout is not None
        pid = docker.service("service") / "pid"
        limit = time.monotonic() + 20
        while not (pid.exists() and pid.read_text().strip()):
            assert time.monotonic() < limit
            time.sleep(0.02)
        assert not gone(pid)
        client.send_signal(signal.SIGKILL)
        client.wait(10)
        limit = time.monotonic() + 5
        while not gone(pid):
            assert time.monotonic() < limit
            time.sleep(0.02)


@pytest.mark.parametrize(
    ("said", "diagnosis"),
    [
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?", "docker_unavailable"),
        (
            "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: Get ...",
            "docker_unavailable",
        ),
        ("docker: 'compose' is not a docker command.\nSee 'docker --help'", "docker_unavailable"),
        ("docker: unknown command: docker compose\n\nRun 'docker --help' for more information", "docker_unavailable"),
        ("unknown shorthand flag: 'p' in -p\n\nUsage:  docker [OPTIONS]", "docker_unavailable"),
        ("no configuration file provided: not found", "not_a_compose_project"),
        ("open /srv/docker-compose.yml: no such file or directory", "not_a_compose_project"),
        ("no such service: service", "not_a_compose_project"),
        ('service "service" is not running', "service_not_running"),
        ("Error response from daemon: container 4f6 is not running", "service_not_running"),
        ("Error response from daemon: Container 4f6 is paused, unpause the container before exec", "service_not_running"),
        ("something else", "operation_failed"),
    ],
)  # fmt: skip
def test_what_docker_says(channel: LocalChannel, docker: FakeDocker, said: str, diagnosis: str) -> None:
    (docker.path / "broken").write_text(said + "\n")
    with pytest.raises(CentralError) as caught:
        channel.run("echo", "a", "b")
    assert caught.value.diagnosis == diagnosis


def test_no_secret_of_a_broken_env_file_is_told(channel: LocalChannel, docker: FakeDocker) -> None:
    (docker.path / "broken").write_text(
        'failed to read /srv/central/.env: line 3: unexpected character "&" in variable name "DB_PASSWORD&hunter2"\n'
    )
    with pytest.raises(CentralError) as caught:
        channel.run("echo", "a", "b")
    assert "hunter2" not in caught.value.message + str(caught.value.details)
    assert ".env" in caught.value.message


def test_what_is_not_there(project: Project, channel: LocalChannel) -> None:
    def diagnosis(channel: LocalChannel, name: str) -> str:
        with pytest.raises(CentralError) as caught:
            channel.run(name, *(["a", "b"] if name == "echo" else []))
        return caught.value.diagnosis

    assert diagnosis(channel, "gone") == "service_not_running"
    assert diagnosis(LocalChannel(Project("/nowhere"), SCRIPTS), "where") == "bad_option"
    without = LocalChannel(Project(project.directory, docker=("/no/docker",)), SCRIPTS)
    assert diagnosis(without, "echo") == "command_not_found"
    assert diagnosis(without, "once") == "docker_unavailable"
    os.unlink(os.path.join(project.directory, "docker-compose.yml"))
    assert diagnosis(channel, "once") == "not_a_compose_project"


MANY_IMAGES = """\
name: central
services:
  a:
    image: one
  secrets:
    environment:
      image: two
    image: three
  z:
    image: four
volumes:
  secrets:
    image: five
"""


@pytest.mark.parametrize(
    ("config", "image", "others"),
    [
        ("name: central\nservices:\n  secrets:\n    build:\n      context: /srv\n", "central-secrets", []),
        ("name: central\nservices:\n  secrets:\n    command: null\n", "central_secrets", []),
        (
            'name: "12"\nservices:\n  secrets:\n    image: "ghcr.io/odk/secrets:v1"\n',
            "ghcr.io/odk/secrets:v1",
            ["12-secrets"],
        ),
        (MANY_IMAGES, "three", ["one", "two", "four", "five", "central-secrets"]),
    ],
)
def test_a_container_of_its_own_needs_an_image_that_is_there(
    channel: LocalChannel, docker: FakeDocker, config: str, image: str, others: list[str]
) -> None:
    """Docker Compose would build or pull it."""
    docker.prints("config", "", config)
    for other in others:
        docker.has_image(other)
    with pytest.raises(CentralError) as caught:
        channel.run("once")
    assert caught.value.diagnosis == "missing_image"
    assert f" {image.replace('_', '-')} of the service secrets" in caught.value.message
    assert not any("run" in call for call in docker.calls())
    docker.has_image(image)
    assert channel.run("once") == b"once in secrets\n"


def test_docker_that_does_not_answer_is_no_missing_image(channel: LocalChannel, docker: FakeDocker) -> None:
    docker.prints("config", "", "name: central\nservices:\n  secrets:\n    image: one\n")
    script = Path(docker.command)
    text = script.read_text("utf-8").replace('if [ "$1" = version ]', "if false")
    text = text.replace(
        'if [ "$1" != compose ]',
        'if [ "$1" = version ]; then echo Cannot connect to the Docker daemon >&2; exit 1; fi\nif false',
    )
    script.write_text(text, "utf-8")
    with pytest.raises(CentralError) as caught:
        channel.run("once")
    assert caught.value.diagnosis == "docker_unavailable"
