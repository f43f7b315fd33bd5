# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations: the only things that are ever executed at a Central.

A backup may run on the Central's own host, or on a vault that comes over SSH and may do nothing there but what a
forced command permits. So that both do the same, everything that is executed is a named operation: a fixed script
for a POSIX shell and positional parameters of a known form. The other side sees stdin, stdout and the exit status.

An operation that ends well appends :data:`END` to its output. Exit statuses alone are not to be trusted:
`docker exec` gives 0 when its connection breaks while the process goes on.

Two rules for scripts:

- Stdin stays open while the operation runs, and ends when whoever asked for it is gone. A script that starts
  something long is made by :func:`watched`, which ends it then. Without data, do not read stdin to its end.
- Where data is sent on stdin, its end does not prove that all of it came: the sender may have died.
  An operation that writes looks for an end mark of its own in the data.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._operation_data import CHOICE, RUN

#: appended to the output of an operation that has ended with 0, and taken off by whoever reads it
END = b"\0odkops-end\n"

#: the place of operations that run on the host itself, in the project's directory
HOST = "host"

#: Its first process is the PostgreSQL server. It takes a process that was left behind there and is ended by a signal for a
#: crash of its own, ends all sessions and recovers. So nothing is executed in it, but only in containers of their own (`run`).
DATABASE_SERVER = "postgres14"

BACKUP = "backup"
RESTORE = "restore"

#: All arguments together, in characters: a command line sent over SSH has to fit into one string of 128 KiB.
MAXIMUM_ARGUMENTS = 32 * 1024

_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_PLACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

# A subshell, so that `exit` and `set -e` of the script mean what they say; not in a condition, which would disarm `set -e`.
_WRAPPED = """\
{prologue}(
{script}
)
odkops_status=$?
[ "$odkops_status" -eq 0 ] || exit "$odkops_status"
printf '\\000odkops-end\\n'
"""

# Begins what is said where there is no image for a container of its own; its name follows.
NO_IMAGE_SAYS = "odkops-no-image: "

# A container of its own is made from an image that is there, or not at all: `docker compose run` would build or pull one. Its
# option `--pull never` is too new (Debian 13 has Compose 2.26), and does not keep it from building. What has no `image:` is
# named after the project, in Compose's compatibility mode with an underscore. Where nothing is found out, Compose says why.
_RUN = """\
odkops_image=$({compose} config </dev/null 2>/dev/null | awk -v place={place} '
  /^name:/ {{ name = $2 }}
  /^[^ ]/ {{ top = $1 }}
  /^  [^ ]/ {{ key = $1 }}
  top == "services:" && key == place ":" {{ seen = 1; if ($0 ~ /^    image:/) image = $2 }}
  END {{ gsub(/["\\047]/, "", name); gsub(/["\\047]/, "", image)
    if (seen) print (image != "" ? image : name "-" place " " name "_" place) }}')
for odkops_one in $odkops_image; do
  if {docker} image inspect "$odkops_one" </dev/null >/dev/null 2>&1; then odkops_image=; fi
done
if [ -n "$odkops_image" ]; then
  {docker} version </dev/null >/dev/null || exit
  echo "{says}${{odkops_image%% *}}" >&2
  exit 125
fi
"""
_EXEC = 'exec {compose} run --rm -T --no-deps --entrypoint sh {place} -c "$@"\n'

# `read` is built in, so that nothing but this shell waits for the end of stdin. The watcher is waited for: whatever is left
# behind becomes a child of the container's first process.
_WATCHED = """\
exec 3<&0 </dev/null
if command -v setsid >/dev/null 2>&1; then
  setsid sh -c {script} "$0" "$@" 3<&- &
else
  sh -c {script} "$0" "$@" 3<&- &
fi
odkops_child=$!
(
  while read -r odkops_line; do :; done
  kill -TERM "-$odkops_child" || kill -TERM "$odkops_child"
  sleep 10
  kill -KILL "-$odkops_child" || kill -KILL "$odkops_child"
) <&3 >/dev/null 2>&1 &
odkops_watcher=$!
exec 3<&-
wait "$odkops_child"
odkops_result=$?
kill "$odkops_watcher" 2>/dev/null
wait "$odkops_watcher" 2>/dev/null
exit "$odkops_result"
"""


def watched(script: str) -> str:
    """Return `script` as one that is ended, with all that it has started, when its stdin ends.

    `script` itself gets an empty stdin, and the same ``$0`` and ``"$@"``. It is given ten seconds to end by itself.
    """
    return _WATCHED.format(script=shlex.quote(script))


@dataclass(frozen=True)
class Operation:
    """One thing that may be executed at a Central.

    :param name: lower-case letters, digits and hyphens
    :param place: a service of the compose project, or :data:`HOST`
    :param script: run as ``sh -c SCRIPT NAME "$@"``. On the host, in the project's directory, where ``compose`` is a
        function that runs ``docker compose`` for the project
    :param parameters: for each positional parameter, a regular expression that the whole of it must match
    :param purpose: ``backup`` only reads; ``restore`` may write
    :param run: a container of its own (``docker compose run``), for a service that does not stay up; only from an image that
        is there
    :param data: much comes on its stdin: see _operation_data. With `run` only, while there is a journal
    """

    name: str
    place: str
    script: str
    parameters: tuple[str, ...] = ()
    purpose: str = BACKUP
    run: bool = False
    data: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or not _PLACE.fullmatch(self.place):
            raise ValueError(f"{self.name!r} in {self.place!r} cannot be an operation")
        if self.purpose not in (BACKUP, RESTORE) or (self.run and self.place == HOST) or (self.data and not self.run):
            raise ValueError(f"the operation {self.name} makes no sense")
        if self.place == DATABASE_SERVER and not self.run:
            raise ValueError(f"the operation {self.name} could end all sessions of the database")
        for pattern in self.parameters:
            re.compile(pattern)

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that tell this operation from one of another version of the collection."""
        around = [_WRAPPED]
        if self.run:
            around += [_RUN, CHOICE, RUN] if self.data else [_RUN, _EXEC]
        whole = [self.name, self.place, self.script, self.purpose, around, len(self.parameters)]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]

    def check(self, arguments: Sequence[str]) -> None:
        """Refuse arguments that the operation does not take.

        :raises CentralError: ``operation_refused``
        """
        fits = len(arguments) == len(self.parameters) and all(
            "\0" not in argument and re.fullmatch(pattern, argument)
            for pattern, argument in zip(self.parameters, arguments)
        )
        if not fits or sum(len(argument) + 1 for argument in arguments) > MAXIMUM_ARGUMENTS:
            raise CentralError(
                "operation_refused",
                f"The operation {self.name} does not take these {len(arguments)} argument(s). "
                "Check the options that they come from: names and paths with unusual characters are not accepted.",
                operation=self.name,
            )


@dataclass(frozen=True)
class Project:
    """Where a Central is on its host, and how Docker Compose is called there.

    :param directory: absolute path of the directory with ``docker-compose.yml``
    :param name: the compose project's name; None for what Compose makes of the directory and ``.env``
    :param compose_files: those to use instead of ``docker-compose.yml`` and its override, relative to the directory
    :param docker: the command, such as ``("docker",)`` or ``("sudo", "-n", "docker")``
    """

    directory: str
    name: str | None = None
    compose_files: tuple[str, ...] = field(default=())
    docker: tuple[str, ...] = ("docker",)

    def compose(self) -> list[str]:
        """Return the start of every ``docker compose`` command for this project."""
        command = [*self.docker, "compose"]
        if self.name is not None:
            command += ["-p", self.name]
        command += ["--project-directory", self.directory]
        for path in self.compose_files:
            command += ["-f", path]
        return command

    def command(self, operation: Operation) -> list[str]:
        """Return the command that executes `operation`; its arguments go behind it.

        It is to be run in :attr:`directory`.
        """
        prologue, compose = "", shlex.join(self.compose())
        if operation.place == HOST:
            prologue = f'compose() {{\n{compose} "$@"\n}}\n'
            start = ["sh", "-c"]
        elif operation.run:
            docker, place = shlex.join(self.docker), operation.place
            script = _RUN + (RUN if operation.data else _EXEC)
            start = ["sh", "-c", script.format(compose=compose, docker=docker, place=place, says=NO_IMAGE_SAYS), "sh"]
            prologue = CHOICE if operation.data else ""
        else:
            start = [*self.compose(), "exec", "-T", operation.place, "sh", "-c"]
        return [*start, _WRAPPED.format(prologue=prologue, script=operation.script), operation.name]
