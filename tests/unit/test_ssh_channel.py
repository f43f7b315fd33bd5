# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The channel over SSH: with a stand-in for ssh, and with a real sshd on loopback where there is one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils._channel_args import channel_of, project_of
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._gate import render_gate
from ansible_collections.odkops.central.plugins.module_utils._operation import HOST, Operation, Project, watched
from ansible_collections.odkops.central.plugins.module_utils._ssh_channel import SshChannel, SshTarget

from support.fake_docker import FakeDocker
from support.gates import SshServer, fake_ssh, python_for_gates, ssh_server, sshd, write_gate

KNOWN = {
    "echo": Operation("echo", "service", 'printf "%s|" "$0" "$@"', ("(?s).*", "(?s).*")),
    "where": Operation("where", HOST, "pwd; echo $LC_ALL"),
    "cat": Operation("cat", "service", "cat"),
    "write": Operation("write", "service", "cat >written", purpose="restore"),
    "fails": Operation("fails", "service", "echo half; echo 'it is broken' >&2; exit 3"),
    "status-255": Operation("status-255", "service", "exit 255"),
    "random": Operation("random", "service", "head -c 20000000 /dev/urandom | tee sent"),
    "waits": Operation("waits", "service", watched("echo $$ >pid; echo begun; exec sleep 300")),
    "gone": Operation("gone", "absent", "echo"),
}
NOTHING = {"project_directory": None, "project": None, "compose_files": [], "docker_command": ["docker"]}
NO_SSH = {"ssh_host": None, "ssh_user": None, "ssh_port": None, "ssh_key_file": None, "ssh_known_hosts_file": None}


@pytest.fixture
def docker(tmp_path: Path) -> FakeDocker:
    return FakeDocker.make(tmp_path / "docker", "service")


@pytest.fixture
def gate(tmp_path: Path, docker: FakeDocker) -> Path:
    directory = tmp_path / "central"
    directory.mkdir()
    (directory / "docker-compose.yml").write_text("services: {}\n")
    project = Project(str(directory), "odk", docker=(docker.command,))
    return write_gate(docker.path / "gate", render_gate(project, python=python_for_gates(), operations=KNOWN))


@pytest.fixture
def faked(docker: FakeDocker, gate: Path, monkeypatch: pytest.MonkeyPatch) -> SshChannel:
    """A channel to the gate through a stand-in for ssh and sshd."""
    fake_ssh(docker.path)
    monkeypatch.setenv("PATH", docker.environment["PATH"])
    return SshChannel(SshTarget("central.example.org"), KNOWN)


@pytest.fixture
def server(tmp_path: Path, gate: Path) -> Iterator[SshServer]:
    if sshd() is None:
        pytest.skip("no sshd here (Debian and Ubuntu: openssh-server)")
    with ssh_server(tmp_path / "ssh", gate) as server:
        yield server


@pytest.fixture
def target(server: SshServer) -> SshTarget:
    return SshTarget("127.0.0.1", server.user, server.port, str(server.key), str(server.known_hosts))


@pytest.fixture(params=["stand-in", "real"])
def channel(request: pytest.FixtureRequest) -> SshChannel:
    if request.param == "stand-in":
        return request.getfixturevalue("faked")  # type: ignore[no-any-return]
    return SshChannel(request.getfixturevalue("target"), KNOWN)


def diagnosis(channel: SshChannel, name: str, *arguments: str) -> str:
    with pytest.raises(CentralError) as caught:
        channel.run(name, *arguments)
    return caught.value.diagnosis


def gone(pid_file: Path) -> bool:
    try:
        state = Path(f"/proc/{pid_file.read_text().strip()}/stat").read_text()
    except FileNotFoundError:
        return True
    return state.rsplit(")", 1)[1].split()[0] == "Z"


def test_operations_are_executed_by_the_gate(channel: SshChannel, tmp_path: Path) -> None:
    nasty = "a b\n'\"$(touch x)`touch x`\\;&|\t é 日"
    assert channel.run("echo", nasty, "") == f"echo|{nasty}||".encode()
    assert channel.run("where") == f"{tmp_path}/central\nC\n".encode()
    data = os.urandom(1_000_000)
    assert channel.run("cat", stdin=data) == data


def test_large_output_comes_whole(channel: SshChannel, docker: FakeDocker) -> None:
    with channel.stream("random") as stream:
        pieces = list(iter(lambda: stream.read(100_000), b""))
    assert b"".join(pieces) == (docker.service("service") / "sent").read_bytes()


def test_failures_are_told(channel: SshChannel) -> None:
    with pytest.raises(CentralError, match="it is broken") as caught:
        channel.run("fails")
    assert caught.value.details["exit_status"] == 3
    assert diagnosis(channel, "gone") == "service_not_running"


def test_what_the_gate_refuses(channel: SshChannel, docker: FakeDocker) -> None:
    assert diagnosis(channel, "write") == "operation_refused"
    assert not (docker.service("service") / "written").exists()
    changed = {**KNOWN, "cat": replace(KNOWN["cat"], script="cat; id"), "new": Operation("new", HOST, "id")}
    other = SshChannel(channel._target, changed)
    assert diagnosis(other, "cat") == "gate_outdated"
    assert diagnosis(other, "new") == "operation_refused"


def test_arguments_that_are_too_long(channel: SshChannel) -> None:
    assert diagnosis(channel, "echo", "'" * 20_000, "") == "operation_refused"


def test_leaving_early_ends_what_was_started_in_the_container(channel: SshChannel, docker: FakeDocker) -> None:
    begun = time.monotonic()
    with channel.stream("waits") as stream:
        assert stream.read(100) == b"begun\n"
    assert gone(docker.service("service") / "pid")
    assert time.monotonic() - begun < 5


CLIENT = """
import sys, time
from ansible_collections.odkops.central.plugins.module_utils._operation import Operation, watched
from ansible_collections.odkops.central.plugins.module_utils._ssh_channel import SshChannel, SshTarget
operation = Operation("waits", "service", watched("echo $$ >pid; echo begun; exec sleep 300"))
host, user, port, key, known_hosts = sys.argv[1:]
target = SshTarget(host, user, int(port), key, known_hosts)
with SshChannel(target, {"waits": operation}).stream("waits") as stream:
    stream.read(1)
    time.sleep(300)
"""


def test_a_killed_vault_leaves_nothing_in_the_container(server: SshServer, docker: FakeDocker) -> None:
    given = ["127.0.0.1", server.user, str(server.port), str(server.key), str(server.known_hosts)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    pid = docker.service("service") / "pid"
    with subprocess.Popen([sys.executable, "-c", CLIENT, *given], env=environment) as client:
        limit = time.monotonic() + 20
        while not (pid.exists() and pid.read_text().strip()):
            assert time.monotonic() < limit
            time.sleep(0.02)
        client.send_signal(signal.SIGKILL)
        client.wait(10)
    limit = time.monotonic() + 10
    while not gone(pid):
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_a_server_that_dies_is_no_end(server: SshServer, target: SshTarget) -> None:
    with SshChannel(target, KNOWN).stream("waits") as stream:
        assert stream.read(100) == b"begun\n"
        assert stream._process is not None
        subprocess.run(["pkill", "-KILL", "-P", str(server.process.pid)], check=True)
        with pytest.raises(CentralError) as caught:
            while stream.read(100):
                pass
    assert caught.value.diagnosis == "connection_failed"


def test_keys_and_hosts_that_are_not_known(server: SshServer, target: SshTarget, tmp_path: Path) -> None:
    def of(**changes: object) -> str:
        return diagnosis(SshChannel(replace(target, **changes), KNOWN), "where")  # type: ignore[arg-type]

    assert of(key_file=str(server.other_key)) == "ssh_refused"
    empty = tmp_path / "empty"
    empty.write_text("")
    assert of(known_hosts_file=str(empty)) == "host_key_unknown"
    other = (server.other_key.parent / "other_key.pub").read_text()
    empty.write_text(f"[127.0.0.1]:{server.port} {other}")
    assert of(known_hosts_file=str(empty)) == "host_key_unknown"
    assert of(host="127.0.0.1", port=1) == "connection_failed"


def test_nothing_but_the_gate_can_be_reached_with_the_key(server: SshServer, target: SshTarget) -> None:
    def ssh(*words: str) -> subprocess.CompletedProcess[bytes]:
        command = [*target.command(), *words]
        return subprocess.run(command, input=b"", capture_output=True, timeout=20, check=False)

    for asked in ("id", "sh -i", "cat; id", "", "/usr/lib/openssh/sftp-server", "SSH_ORIGINAL_COMMAND=id"):
        done = ssh(asked) if asked else ssh()
        assert done.returncode == 126
        assert done.stdout == b""
        assert done.stderr.startswith(b"odkops-gate: ")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Host key verification failed.", "host_key_unknown"),
        ("backup@central.example.org: Permission denied (publickey).", "ssh_refused"),
        ("ssh: Could not resolve hostname central.example.org: Name or service not known", "connection_failed"),
        ("ssh: connect to host central.example.org port 22: Connection timed out", "connection_failed"),
        ("client_loop: send disconnect: Broken pipe", "connection_failed"),
        ("", "connection_failed"),
    ],
)
def test_what_ssh_says(faked: SshChannel, docker: FakeDocker, said: str, expected: str) -> None:
    (docker.path / "ssh-broken").write_text(said + "\n")
    assert diagnosis(faked, "where") == expected


def test_the_command(tmp_path: Path) -> None:
    for name in ("key file", "known hosts"):
        (tmp_path / name).write_text("")
    target = SshTarget("::1", "backup", 2222, str(tmp_path / "key file"), str(tmp_path / "known hosts"))
    target.check()
    command = target.command()
    assert command[:2] == ["ssh", "-T"]
    assert command[-2:] == ["--", "::1"]
    assert "BatchMode=yes" in command
    assert "StrictHostKeyChecking=yes" in command
    assert f'UserKnownHostsFile="{tmp_path}/known hosts"' in command
    assert command[command.index("-i") + 1] == f"{tmp_path}/key file"
    assert SshTarget("central").command()[-2:] == ["--", "central"]
    assert "-i" not in SshTarget("central").command()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ssh_host": "-oProxyCommand=id"}, "bad_option"),
        ({"ssh_host": "a b"}, "bad_option"),
        ({"ssh_host": ""}, "bad_option"),
        ({"ssh_host": "a@b"}, "bad_option"),
        ({"ssh_host": "a", "ssh_user": "-x"}, "bad_option"),
        ({"ssh_host": "a", "ssh_port": 0}, "bad_option"),
        ({"ssh_host": "a", "ssh_port": 70000}, "bad_option"),
        ({"ssh_host": "a", "ssh_key_file": "/no/such/key"}, "unreadable"),
        ({"ssh_host": "a", "ssh_known_hosts_file": "/no/such/file"}, "unreadable"),
        ({"project_directory": "relative"}, "bad_option"),
        ({"project_directory": ""}, "bad_option"),
        ({"project_directory": "/x", "project": "Central"}, "bad_option"),
        ({"project_directory": "/x", "docker_command": []}, "bad_option"),
        ({"project_directory": "/x", "docker_command": ["docker", ""]}, "bad_option"),
        ({"project_directory": "/x", "compose_files": [""]}, "bad_option"),
        ({}, "bad_option"),
    ],
)
def test_options_that_cannot_be(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(CentralError) as caught:
        channel_of({**NOTHING, **NO_SSH, **changes})
    assert caught.value.diagnosis == expected


def test_options() -> None:
    assert isinstance(channel_of({**NOTHING, **NO_SSH, "ssh_host": "central.example.org"}), SshChannel)
    project = project_of(
        {**NOTHING, "project_directory": "/srv//central/", "compose_files": ["a.yml"], "project": "odk"}
    )
    assert project == Project("/srv/central", "odk", ("a.yml",), ("docker",))
