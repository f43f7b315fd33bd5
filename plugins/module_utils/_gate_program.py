# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate: a forced command of SSH, the only thing that a vault's key can start on a Central's host.

It executes one operation of its table, with arguments of the form that the table gives, or nothing. What was asked
for is never seen by a shell. It needs nothing but Python's standard library. _gate.py appends the table.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import syslog
from typing import Any, NoReturn

#: exit status where nothing was executed
REFUSED = 126

# Longer than any command that is sent.
_LONGEST = 64 * 1024
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin"
_KEPT = ("HOME", "USER", "LOGNAME", "XDG_RUNTIME_DIR")


def refuse(why: str) -> NoReturn:
    """Say why nothing is executed, to the other side and to the system's log, and end."""
    _log(f"refused: {why}")
    sys.stderr.write(f"odkops-gate: {why}\n")
    sys.stderr.flush()
    raise SystemExit(REFUSED)


def _log(text: str) -> None:
    address = os.environ.get("SSH_CONNECTION", "").split(" ", 1)[0] or "unknown"
    syslog.openlog("odkops-gate", syslog.LOG_PID, syslog.LOG_AUTH)
    syslog.syslog(syslog.LOG_INFO, f"{text}, asked from {address}")


def choose(table: dict[str, Any], asked: str) -> tuple[str, list[str]]:
    """Return the name of the operation that is asked for, and the command that executes it.

    :param table: ``operations``: by name, ``command``, ``digest``, ``parameters``
    :param asked: what the client sent: ``NAME`` or ``NAME/DIGEST``, and arguments, quoted as for a shell
    """
    if not asked.strip():
        refuse("name an operation; there is no shell here")
    if len(asked) > _LONGEST:
        refuse("the request is too long")
    try:
        words = shlex.split(asked)
    except ValueError:
        refuse("the request cannot be read: its quotes do not match")
    name, _slash, digest = words[0].partition("/")
    operation = table["operations"].get(name)
    if operation is None:
        refuse("there is no such operation, or not for this key")
    if digest and digest != operation["digest"]:
        refuse(f"outdated: {name} is another operation here than the one that is meant")
    arguments = words[1:]
    patterns = operation["parameters"]
    if len(arguments) != len(patterns):
        refuse(f"{name} takes {len(patterns)} argument(s)")
    for number, (pattern, argument) in enumerate(zip(patterns, arguments), 1):
        if not re.fullmatch(pattern, argument):
            refuse(f"argument {number} of {name} is not permitted")
    return name, [*operation["command"], *arguments]


def environment() -> dict[str, str]:
    """Return the environment of what is executed: nothing of the client's is in it."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {
        **kept,
        "PATH": _PATH,
        "LC_ALL": "C",
        "DOCKER_CLI_HINTS": "false",
        "COMPOSE_IGNORE_ORPHANS": "true",
    }


def main(table: dict[str, Any]) -> NoReturn:
    """Become the operation that is asked for."""
    name, command = choose(table, os.environ.get("SSH_ORIGINAL_COMMAND", ""))
    try:
        os.chdir(table["directory"])
    except OSError as error:
        refuse(f"the project's directory cannot be entered: {error.strerror}")
    _log(f"executes {name}")
    os.umask(0o077)
    # Python ignores these two, and what it starts would, too: an operation that nobody listens to is to end.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environment())  # noqa: S606
    except OSError as error:
        refuse(f"{os.path.basename(command[0])} cannot be run: {error.strerror}")
