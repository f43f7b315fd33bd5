# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Operations: their form, their arguments, and the shell around their scripts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _operation
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._operation import (
    END,
    HOST,
    MAXIMUM_ARGUMENTS,
    Operation,
    Project,
    watched,
)
from ansible_collections.odkops.central.plugins.module_utils._operations import OPERATIONS

PROJECT = Project("/srv/central", "central")


def shell(script: str, *arguments: str, stdin: bytes | None = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a script as an operation on the host is run."""
    command = Project("/").command(Operation("x", HOST, script))
    return subprocess.run([*command, *arguments], input=stdin, capture_output=True, check=False)


@pytest.mark.parametrize(
    ("script", "status", "output"),
    [
        ("echo a", 0, b"a\n"),
        ('printf %s "$0 $1 $2"', 0, b"x 1 two words"),
        ("true # a comment", 0, b""),
        ("cat <<EOF\n$1\nEOF", 0, b"1\n"),
        ("exec echo a", 0, b"a\n"),
        ("echo a; exit 3", 3, b"a\n"),
        ("set -e\nfalse\necho never", 1, b""),
        ("set -eu\necho $unknown", 2, b""),
        ("kill -KILL $$; sleep 1", -9, b""),
        ("kill -TERM $(exec sh -c 'echo $PPID')", 143, b""),
        ("if", 2, b""),
        (")", 2, b""),
    ],
)
def test_the_end_mark_comes_only_after_success(script: str, status: int, output: bytes) -> None:
    done = shell(script, "1", "two words")
    assert (done.returncode, done.stdout) == (status, output + (END if status == 0 else b""))


def test_a_mark_that_cannot_be_written_is_a_failure() -> None:
    command = Project("/").command(Operation("x", HOST, "true"))
    with open("/dev/full", "wb") as full:
        assert subprocess.run(command, stdout=full, stderr=subprocess.DEVNULL, check=False).returncode != 0


def test_stdin_reaches_the_script() -> None:
    assert shell("cat", stdin=b"\0data\n").stdout == b"\0data\n" + END


def test_compose_is_a_function_on_the_host(tmp_path: Path) -> None:
    docker = tmp_path / "my docker"
    docker.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    docker.chmod(0o755)
    project = Project("/srv/it's here", "p", ("a b.yml", "c.yml"), (str(docker), "-H", "x"))
    command = project.command(Operation("x", HOST, "compose config --quiet"))
    done = subprocess.run(command, capture_output=True, check=True)
    said = b"-H|x|compose|-p|p|--project-directory|/srv/it's here|-f|a b.yml|-f|c.yml|config|--quiet|"
    assert done.stdout == said + END


def test_commands_in_containers() -> None:
    start = ["docker", "compose", "-p", "central", "--project-directory", "/srv/central"]
    in_place = PROJECT.command(Operation("x", "service", "echo"))
    assert in_place[:-2] == [*start, "exec", "-T", "service", "sh", "-c"]
    of_its_own = PROJECT.command(Operation("x", "secrets", "echo", run=True))
    assert of_its_own[:2] == ["sh", "-c"]
    run = [*start, "run", "--rm", "-T", "--no-deps", "--entrypoint", "sh", "secrets", "-c", '"$@"']
    assert of_its_own[2].splitlines()[-1] == f"exec {' '.join(run)}"
    assert of_its_own[4:] == in_place[-2:]
    assert Project("/srv").compose() == ["docker", "compose", "--project-directory", "/srv"]


@pytest.mark.parametrize(
    ("name", "place", "options"),
    [
        ("", "service", {}),
        ("A", "service", {}),
        ("a b", "service", {}),
        ("-a", "service", {}),
        ("a--b", "service", {}),
        ("a", "-T", {}),
        ("a", "", {}),
        ("a", "service", {"purpose": "fun"}),
        ("a", HOST, {"run": True}),
        ("a", "service", {"data": True}),
    ],
)
def test_an_operation_that_makes_no_sense_is_refused(name: str, place: str, options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"cannot be|no sense"):
        Operation(name, place, "true", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [(), ("1",), ("1", "a", "b"), ("x", "a"), ("1\n", "a"), ("1", "b" * MAXIMUM_ARGUMENTS), ("1", "a\0")],
)
def test_arguments_are_checked(arguments: tuple[str, ...]) -> None:
    operation = Operation("x", HOST, "true", (r"[0-9]+", r"(?s).*"))
    operation.check(("12", "any\nthing"))
    with pytest.raises(CentralError) as caught:
        operation.check(arguments)
    assert caught.value.diagnosis == "operation_refused"


def test_the_digest_tells_versions_apart() -> None:
    digest = Operation("x", HOST, "true").digest
    assert digest == Operation("x", HOST, "true").digest
    assert len(digest) == 16
    others = [
        Operation("y", HOST, "true"),
        Operation("x", "service", "true"),
        Operation("x", HOST, "false"),
        Operation("x", HOST, "true", ("a",)),
        Operation("x", HOST, "true", purpose="restore"),
        Operation("x", "service", "true", run=True),
        Operation("x", "service", "true", run=True, data=True),
    ]
    assert len({digest, *(other.digest for other in others)}) == 8


@pytest.mark.parametrize(("what", "changed"), [("_WRAPPED", {False, True}), ("_RUN", {True})])
def test_the_digest_tells_how_it_is_executed(monkeypatch: pytest.MonkeyPatch, what: str, changed: set[bool]) -> None:
    """A gate that executes the same script in another way is outdated."""
    operations = {run: Operation("x", "service", "true", run=run) for run in (False, True)}
    before = {run: operation.digest for run, operation in operations.items()}
    assert before[False] != before[True]
    monkeypatch.setattr(_operation, what, getattr(_operation, what) + " ")
    assert {run for run, operation in operations.items() if operation.digest != before[run]} == changed


def test_the_list_of_operations() -> None:
    assert OPERATIONS
    for name, operation in OPERATIONS.items():
        assert operation.name == name
        done = subprocess.run(["sh", "-n", "-c", operation.script], capture_output=True, check=False)
        assert done.returncode == 0, (name, done.stderr)


# --- watched ----------------------------------------------------------------------------------------------------


def alive(path: Path) -> list[int]:
    """The processes of which `path` has the ids, one a line, that are still there."""
    found = []
    for line in path.read_text().split():
        try:
            state = Path(f"/proc/{line}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            continue
        if state != "Z":
            found.append(int(line))
    return found


def start_watched(script: str, tmp_path: Path) -> subprocess.Popen[bytes]:
    command = Project("/").command(Operation("x", HOST, watched(script)))
    return subprocess.Popen(
        [*command, str(tmp_path / "pids")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )


LONG = 'sh -c "sleep 300 & echo \\$! >>$1; sleep 300" & echo $! >>$1; echo $$ >>$1; wait'


def wait_for(path: Path, lines: int) -> None:
    limit = time.monotonic() + 10
    while not path.exists() or len(path.read_text().split()) < lines:
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_watched_script_ends_with_its_stdin_and_all_that_it_started(tmp_path: Path) -> None:
    process = start_watched(LONG, tmp_path)
    assert process.stdin is not None
    wait_for(tmp_path / "pids", 3)
    assert len(alive(tmp_path / "pids")) == 3
    process.stdin.close()
    assert process.wait(5) == 143
    assert process.stdout is not None
    assert process.stdout.read() == b""
    process.stdout.close()
    assert alive(tmp_path / "pids") == []


def test_a_watched_script_ends_although_the_shell_around_it_was_killed(tmp_path: Path) -> None:
    process = start_watched(LONG, tmp_path)
    assert process.stdin is not None
    assert process.stdout is not None
    wait_for(tmp_path / "pids", 3)
    os.kill(process.pid, signal.SIGKILL)
    process.stdin.close()
    assert process.wait(5) == -9
    limit = time.monotonic() + 5
    while alive(tmp_path / "pids"):
        assert time.monotonic() < limit
        time.sleep(0.02)
    process.stdout.close()


@pytest.mark.parametrize(("script", "status"), [("echo $0 $1 $(cat)", 0), ("echo a; exit 7", 7), ("set -e; false", 1)])
def test_a_watched_script_ends_by_itself(script: str, status: int) -> None:
    command = Project("/").command(Operation("x", HOST, watched(script)))
    with subprocess.Popen([*command, "it's"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        assert process.wait(5) == status
    assert output == {0: b"x it's\n" + END, 7: b"a\n", 1: b""}[status]


def test_a_watched_script_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    process = start_watched("trap '' TERM; echo $$ >>$1; while :; do sleep 0.1; done", tmp_path)
    assert process.stdin is not None
    assert process.stdout is not None
    wait_for(tmp_path / "pids", 1)
    process.stdin.close()
    assert process.wait(15) == 137
    assert alive(tmp_path / "pids") == []
    process.stdout.close()


def test_nothing_is_executed_beside_the_server_of_the_database() -> None:
    """It would take an orphan that ends there for a crash of its own."""
    with pytest.raises(ValueError, match="all sessions"):
        Operation("x", "postgres14", "true")
    Operation("x", "postgres14", "true", run=True)


def test_a_watched_script_leaves_no_child_behind() -> None:
    """Whatever it leaves becomes a child of the first process of the container: here of this one."""
    program = """
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE).wait()
try:
    print(os.waitpid(-1, 0))
except ChildProcessError:
    print("none")
"""
    operation = Project("/").command(Operation("x", HOST, watched("sleep 0.3")))
    done = subprocess.run([sys.executable, "-c", program, *operation], capture_output=True, check=True)
    assert done.stdout.endswith(b"none\n"), done.stdout
