# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The gate: it executes what it knows, and nothing else, whatever is asked."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._gate import permitted, render_gate
from ansible_collections.odkops.central.plugins.module_utils._operation import END, HOST, Operation, Project, watched
from ansible_collections.odkops.central.plugins.module_utils._operations import OPERATIONS

from support.fake_docker import FakeDocker
from support.gates import python_for_gates, write_gate

OWN = {
    "echo": Operation("echo", "service", 'printf "%s|" "$0" "$@"', ("[a-z ]+", "(?s).*")),
    "where": Operation("where", HOST, "pwd; umask; env"),
    "cat": Operation("cat", "service", "cat"),
    "write": Operation("write", "service", "echo written", purpose="restore"),
    "waits": Operation("waits", HOST, watched("echo $$ >pid; echo begun; exec sleep 300")),
    "pipe": Operation("pipe", HOST, "trap 'echo survived >sigpipe' PIPE; yes"),
}


@pytest.fixture
def docker(tmp_path: Path) -> FakeDocker:
    return FakeDocker.make(tmp_path / "docker", "service")


@pytest.fixture
def project(tmp_path: Path, docker: FakeDocker) -> Project:
    directory = tmp_path / 'it\'s "central" ü'
    directory.mkdir()
    (directory / "docker-compose.yml").write_text("services: {}\n")
    return Project(str(directory), "odk", docker=(docker.command,))


@pytest.fixture
def gate(tmp_path: Path, project: Project) -> Path:
    return write_gate(tmp_path / "gate", render_gate(project, python=python_for_gates(), operations=OWN))


def ask(gate: Path, asked: str | None, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    given = {"HOME": "/", "USER": "backup", **environment}
    if asked is not None:
        given["SSH_ORIGINAL_COMMAND"] = asked
    return subprocess.run([gate], input=stdin, env=given, capture_output=True, timeout=20, check=False)


def test_it_is_one_file_that_needs_nothing_else(gate: Path) -> None:
    tree = ast.parse(gate.read_text("utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= {"__future__", "os", "re", "shlex", "signal", "sys", "syslog", "typing"}
    assert gate.read_text("utf-8").startswith(f"#!{python_for_gates()} -I\n")


def test_operations_are_executed(gate: Path, docker: FakeDocker) -> None:
    done = ask(gate, "echo 'two words' '$(touch /tmp/no)'\\''; \n'")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"echo|two words|$(touch /tmp/no)'; \n|" + END, b"")
    assert docker.calls()[0][:3] == ["compose", "-p", "odk"]
    assert ask(gate, "cat", b"\0data").stdout == b"\0data" + END
    assert ask(gate, f"cat/{OWN['cat'].digest}", b"x").stdout == b"x" + END


def test_it_runs_in_the_project_with_nothing_of_the_clients_environment(gate: Path, project: Project) -> None:
    done = ask(gate, "where", LD_PRELOAD="/evil.so", PATH="/evil", DOCKER_HOST="tcp://evil", LC_ALL="x", PYTHONPATH="/")
    lines = done.stdout.decode().splitlines()
    assert lines[:2] == [project.directory, "0077"]
    assert not [line for line in lines if "evil" in line or "SSH_" in line or line.startswith("PYTHON")]
    assert "HOME=/" in lines
    assert "LC_ALL=C" in lines


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (None, "name an operation"),
        ("", "name an operation"),
        ("  \n", "name an operation"),
        ("''", "no such operation"),
        ("sh", "no such operation"),
        ("/bin/sh", "no such operation"),
        ("internal-sftp", "no such operation"),
        ("scp -f /etc/passwd", "no such operation"),
        ("ECHO a b", "no such operation"),
        ("write", "no such operation"),
        ("echo", "takes 2 argument"),
        ("echo a b c", "takes 2 argument"),
        ("echo 1 b", "argument 1 of echo is not permitted"),
        ("echo 'a\n' b", "argument 1 of echo is not permitted"),
        ("cat; id", "no such operation"),
        ("cat && id", "takes 0 argument"),
        ("cat `id`", "takes 0 argument"),
        ("cat 'x", "quotes do not match"),
        ("cat/0000000000000000", "outdated"),
        ("cat " + "x" * 130_000, "too long"),
    ],
)
def test_everything_else_is_refused(gate: Path, docker: FakeDocker, asked: str | None, why: str) -> None:
    done = ask(gate, asked)
    assert done.returncode == 126
    assert done.stdout == b""
    assert done.stderr.startswith(b"odkops-gate: ")
    assert why in done.stderr.decode()
    assert not (docker.path / "calls").exists()


def test_bytes_that_are_no_text(gate: Path) -> None:
    environment = {b"SSH_ORIGINAL_COMMAND": b"echo a '\xff\xfe'"}
    done = subprocess.run([gate], env=environment, capture_output=True, check=False)
    assert done.stdout == b"echo|a|\xff\xfe|" + END


def test_only_the_purposes_that_are_wanted(project: Project) -> None:
    assert {operation.name for operation in permitted(OWN, ["backup"], ())} == set(OWN) - {"write"}
    assert {operation.name for operation in permitted(OWN, ["backup", "restore"], ())} == set(OWN)


def test_extra_paths_are_fixed_when_the_gate_is_made(tmp_path: Path, docker: FakeDocker) -> None:
    assert "config-extra" not in {operation.name for operation in permitted(OPERATIONS, ["backup"], ())}
    directory = tmp_path / "central"
    directory.mkdir()
    (tmp_path / "a.b").write_text("content")
    (tmp_path / "aXb").write_text("other")
    project = Project(str(directory), docker=(docker.command,))
    text = render_gate(project, extra_paths=[str(tmp_path / "a.b")], python=python_for_gates())
    gate = write_gate(tmp_path / "gate", text)
    digest = OPERATIONS["config-extra"].digest
    assert ask(gate, f"config-extra/{digest} 1000 {tmp_path}/a.b").returncode == 0
    for path in (f"{tmp_path}/aXb", f"{tmp_path}/a.b/../aXb", "/etc/shadow"):
        assert ask(gate, f"config-extra/{digest} 1000 {path}").returncode == 126


def test_the_gate_of_the_real_operations(tmp_path: Path) -> None:
    text = render_gate(Project("/root/central"), extra_paths=["/etc/hosts"])
    compile(text, "gate", "exec")
    namespace: dict[str, object] = {"__name__": "gate"}
    exec(text, namespace)  # noqa: S102
    table = namespace["TABLE"]
    assert isinstance(table, dict)
    assert set(table["operations"]) == {name for name, known in OPERATIONS.items() if known.purpose == "backup"}
    for name, entry in table["operations"].items():
        assert entry["command"][-1] == name
        assert entry["digest"] == OPERATIONS[name].digest


def test_a_python_that_cannot_stand_in_the_first_line() -> None:
    for python in ("python3", "/usr/bin/env python3", "/a b/python", "/x\n", "/" + "x" * 200):
        with pytest.raises(CentralError) as caught:
            render_gate(Project("/x"), python=python)
        assert caught.value.diagnosis == "bad_option"


@pytest.mark.parametrize(
    "directory", ["/x\nimport evil\n#", "/x'", '/x"""', "/x'''\nimport evil\n", "/x\\", "/x\r\n", "/{x}"]
)
def test_a_strange_directory_stays_what_it_is(directory: str) -> None:
    namespace: dict[str, object] = {"__name__": "gate"}
    exec(render_gate(Project(directory), operations=OWN), namespace)  # noqa: S102
    table = namespace["TABLE"]
    assert isinstance(table, dict)
    assert table["directory"] == directory
    for name in ("where", "echo"):
        assert table["operations"][name]["command"] == Project(directory).command(OWN[name])


def test_the_project_is_gone(gate: Path, project: Project) -> None:
    (Path(project.directory) / "docker-compose.yml").unlink()
    os.rmdir(project.directory)
    done = ask(gate, "cat")
    assert done.returncode == 126
    assert b"directory cannot be entered" in done.stderr


def test_what_listens_no_more_ends_the_operation(gate: Path, project: Project) -> None:
    """A signal that Python ignores is not ignored by what it starts."""
    with subprocess.Popen(
        [gate], env={"SSH_ORIGINAL_COMMAND": "pipe"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"y\ny\n"
        process.stdout.close()
        assert process.wait(10) in (-signal.SIGPIPE, 128 + signal.SIGPIPE)


def test_a_client_that_is_gone_ends_the_operation(gate: Path, project: Project) -> None:
    pid = Path(project.directory) / "pid"
    with subprocess.Popen(
        [gate], env={"SSH_ORIGINAL_COMMAND": "waits"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"begun\n"
        process.stdin.close()
        assert process.wait(10) == 143
    limit = time.monotonic() + 5
    while Path(f"/proc/{pid.read_text().strip()}").exists():
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="paths of Linux")
def test_the_oldest_python_that_is_supported_can_read_it(gate: Path) -> None:
    ast.parse(gate.read_text("utf-8"), feature_version=(3, 9))
