# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What it means when an operation does not end well, told by its exit status and the last it said on stderr.

The texts are those of Docker, Docker Compose 2 and OpenSSH, as they were seen; whatever is not known is
``operation_failed`` with the last line.
"""

from __future__ import annotations

import re

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._operation import NO_IMAGE_SAYS, Operation

#: begins what the gate itself says
GATE_SAYS = "odkops-gate: "

#: ssh's own exit status for all that it cannot do; a remote command may have it too
SSH_FAILED = 255

_LONGEST = 400
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\uffff]+")
# Compose quotes the line of .env that it does not understand, which may hold a password.
_QUOTED_LINE = re.compile(
    r"(failed to read .*|unexpected character .*|dotenv.*|.*\.env\b.*?: line \d+.*)", re.IGNORECASE
)
_NOISE = re.compile(r"(time=\S+ level=(warning|info)|WARN\[|Warning: Permanently added)")

_DOCKER = (
    "Cannot connect to the Docker daemon",
    "permission denied while trying to connect",
    "Is the docker daemon running",
    "error during connect",
    "is not a docker command",
    "unknown command: docker compose",
    "unknown shorthand flag: 'p' in -p",
    "unknown flag: --project-directory",
)
_PROJECT = ("no configuration file provided", "no such file or directory", "no such service", "is not a valid project")
_NOT_RUNNING = re.compile(
    r"service \"?[\w.-]+\"? is not running|container \S+ is (not running|restarting|paused)|No such container",
    re.IGNORECASE,
)


def last_line(said: str) -> str:
    """Return the last line of `said` that tells something, printable, and without what may be secret."""
    for raw in reversed(said.splitlines()):
        line = _UNPRINTABLE.sub(" ", raw).strip()
        if not line or _NOISE.match(line):
            continue
        if _QUOTED_LINE.match(line):
            return "Docker Compose cannot read the .env file, or another file with variables"
        return line if len(line) <= _LONGEST else line[:_LONGEST] + "..."
    return "nothing was said on stderr"


def failure(operation: Operation, status: int, said: str) -> CentralError:
    """Return what it means that `operation` has ended with `status`.

    :param status: the exit status; negative for a signal, as subprocess has it
    :param said: the end of what was said on stderr
    """
    line = last_line(said)
    details = {"operation": operation.name, "exit_status": status}
    if line.startswith(GATE_SAYS):
        return _refused_by_gate(operation, line[len(GATE_SAYS) :], details)
    if line.startswith(NO_IMAGE_SAYS):
        return CentralError(
            "missing_image",
            f"The image {line[len(NO_IMAGE_SAYS) :]} of the service {operation.place} is not on the Central's host, and a backup "
            "neither builds nor pulls one. Do it there (docker compose build, or docker compose pull), or start the service.",
            **details,
        )
    if any(text in said for text in _DOCKER) or (status == 127 and "docker" in line):
        told = [one for one in said.splitlines() if any(text in one for text in _DOCKER)]
        why = last_line(told[-1]) if told else line
        return CentralError(
            "docker_unavailable",
            f"Docker cannot be used on the Central's host: {why}. Check that it runs, that this user may use it "
            "(the group docker, or become), that Docker Compose 2 is installed, and docker_command.",
            **details,
        )
    if _NOT_RUNNING.search(said):
        return CentralError(
            "service_not_running",
            f"The service {operation.place} of the Central does not run: {line}. "
            "Start it (docker compose up -d), and look at its log.",
            **details,
        )
    if any(text in line for text in _PROJECT) and status in (1, 14):
        return CentralError(
            "not_a_compose_project",
            f"What Docker Compose finds is not a Central: {line}. Check project_directory, project and compose_files.",
            **details,
        )
    how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    if status in (-9, 128 + 9):
        how = "was killed, by somebody or for lack of memory"
    return CentralError(
        "operation_failed",
        f"The operation {operation.name} in {operation.place} {how}: {line}.",
        **details,
    )


def _refused_by_gate(operation: Operation, why: str, details: dict[str, object]) -> CentralError:
    if why.startswith("outdated"):
        return CentralError(
            "gate_outdated",
            f"The gate on the Central's host is of another version of this collection, and the operation {operation.name} "
            "differs. Install it anew: the entry point gate of the role odkops.central.prepare.",
            **details,
        )
    return CentralError(
        "operation_refused",
        f"The gate on the Central's host refuses the operation {operation.name}: {why}.",
        **details,
    )


def ssh_failure(operation: Operation, status: int, said: str, host: str) -> CentralError:
    """As :func:`failure`, for an operation that was asked for over SSH.

    :param host: for messages
    """
    if status != SSH_FAILED:
        return failure(operation, status, said)
    details = {"operation": operation.name, "exit_status": status}
    line = last_line(said)
    if "Host key verification failed" in said or "HOST IDENTIFICATION HAS CHANGED" in said:
        return CentralError(
            "host_key_unknown",
            f"The SSH host key of {host} is not the known one, or none is known. Compare it with the one on that host "
            "(ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub) and put it into ssh_known_hosts_file.",
            **details,
        )
    if "Permission denied" in said or "Too many authentication failures" in said or "Load key" in said:
        return CentralError(
            "ssh_refused",
            f"{host} does not accept the SSH key: {line}. Check ssh_user and ssh_key_file, which must belong to the user "
            "that runs this, and that the key is in authorized_keys there.",
            **details,
        )
    return CentralError(
        "connection_failed",
        f"The SSH connection to {host} could not be made, or broke: {line}. Check the host, the port and the network.",
        **details,
    )
