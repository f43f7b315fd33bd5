# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Making the gate of one Central: one file, readable from top to bottom, with all that it may ever execute."""

from __future__ import annotations

import inspect
import os
import posixpath
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ansible_collections.odkops.central.plugins.module_utils import _gate_program
from ansible_collections.odkops.central.plugins.module_utils._atomic import AtomicFile
from ansible_collections.odkops.central.plugins.module_utils._config_operations import EXTRA_PATHS
from ansible_collections.odkops.central.plugins.module_utils._config_restore_operations import ELSEWHERE
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, reading_error, writing_error
from ansible_collections.odkops.central.plugins.module_utils._manifest import COLLECTION_VERSION
from ansible_collections.odkops.central.plugins.module_utils._operation import BACKUP, HOST, Operation, Project
from ansible_collections.odkops.central.plugins.module_utils._operations import OPERATIONS

_PYTHON = re.compile(r"/[A-Za-z0-9_./+-]+")
_EXTRA = re.compile(r"(?:/[^/\n\0]+)+")
_PATH = re.compile(r"(?:/[A-Za-z0-9_.+-]+)+")
#: Whoever logs in with the key has to be able to read it; it holds no secrets.
_MODE = 0o755

_START = """\
#!{python} -I
# The gate of the Central in {directory}, made by odkops.central {version}. Do not edit: make it anew.
"""

_END = """

TABLE = {{"directory": {directory}, "operations": {{}}}}
{operations}
if __name__ == "__main__":
    main(TABLE)
"""

_OPERATION = """
# {place}
TABLE["operations"][{name}] = {{
    "digest": {digest},
    "parameters": {parameters},
    "command": [
{command}
    ],
}}
"""


def _literal(text: str) -> str:
    """Return `text` as Python writes it, and scripts as they are."""
    as_it_is = "\n" in text and "'''" not in text and all(part.isprintable() for part in text.split("\n"))
    return f"r'''{text}'''" if as_it_is and text.endswith("\n") else ascii(text)


def _render_operation(project: Project, operation: Operation) -> str:
    if operation.place == HOST:
        place = "On this host, in the project's directory:"
    else:
        place = f"In a container of the service {operation.place}:"
    return _OPERATION.format(
        place=place,
        name=ascii(operation.name),
        digest=ascii(operation.digest),
        parameters=ascii(list(operation.parameters)),
        command="\n".join(f"        {_literal(word)}," for word in project.command(operation)),
    )


def permitted(
    operations: Mapping[str, Operation], purposes: Iterable[str], extra_paths: Sequence[str]
) -> list[Operation]:
    """Return the operations of a gate.

    :param purposes: of the operations that are permitted
    :param extra_paths: the only ones that the operations may read or write which take a path anywhere on the host
    """
    wanted = set(purposes)
    chosen = []
    for operation in operations.values():
        if operation.purpose not in wanted:
            continue
        if operation.name == EXTRA_PATHS or operation.name.endswith(ELSEWHERE):
            if not extra_paths:
                continue
            paths = "|".join(re.escape(path) for path in extra_paths)
            chosen.append(replace(operation, parameters=(*operation.parameters[:-1], paths)))
        else:
            chosen.append(operation)
    return chosen


def render_gate(
    project: Project,
    purposes: Iterable[str] = (BACKUP,),
    extra_paths: Sequence[str] = (),
    python: str = "/usr/bin/python3",
    operations: Mapping[str, Operation] | None = None,
) -> str:
    """Return the text of the gate's file.

    :param project: the Central's compose project on the host of the gate
    :param purposes: of the operations that are permitted: ``backup``, ``restore``
    :param extra_paths: of the host, which the configuration part includes
    :param python: path of a Python of version 3.9 or later there
    :raises CentralError: ``bad_option``
    """
    if not _PYTHON.fullmatch(python) or len(python) > 100:
        raise CentralError("bad_option", f"python: {python!r} cannot stand in the first line of a script.")
    for path in extra_paths:
        if not _EXTRA.fullmatch(path) or posixpath.normpath(path) != path:
            raise CentralError("bad_option", f"config_paths: {path!r} is not a plain absolute path.")
    chosen = permitted(OPERATIONS if operations is None else operations, purposes, extra_paths)
    directory = ascii(project.directory)
    return (
        _START.format(python=python, directory=directory, version=COLLECTION_VERSION)
        + inspect.getsource(_gate_program)
        + _END.format(
            directory=directory,
            operations="".join(_render_operation(project, operation) for operation in chosen),
        )
    )


class Gate:
    """The file of a gate on this host.

    :param path: absolute
    :raises CentralError: ``bad_option``
    """

    def __init__(self, path: str) -> None:
        if not _PATH.fullmatch(path):
            raise CentralError(
                "bad_option",
                f"path: {path!r} cannot stand in authorized_keys. Use an absolute path of letters, digits, dots, hyphens "
                "and underscores.",
            )
        self.path = path

    def read(self) -> str | None:
        """Return what is in the file; None where there is none, or something else than a plain file.

        :raises CentralError: ``unreadable``
        """
        try:
            if not stat.S_ISREG(os.lstat(self.path).st_mode):
                return None
            with open(self.path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise reading_error(error, self.path) from error

    def write(self, text: str, check_mode: bool = False) -> bool:
        """Make the file what it should be; whoever starts it meanwhile gets the old one or the new one.

        :returns: whether something had, or would have, to be changed
        :raises CentralError: ``destination_not_writable``, ``disk_full``, ``unreadable``
        """
        if os.path.lexists(self.path) and not stat.S_ISREG(os.lstat(self.path).st_mode):
            raise CentralError("destination_exists", f"{self.path} is no plain file. Move it away.")
        if self.read() == text and stat.S_IMODE(os.lstat(self.path).st_mode) == _MODE:
            return False
        _check_directory(os.path.dirname(self.path))
        if not check_mode:
            with AtomicFile(self.path, clobber=True, mode=_MODE) as file:
                file.write(text.encode("utf-8"))
                file.commit()
        return True

    def remove(self, check_mode: bool = False) -> bool:
        """Remove the file.

        :returns: whether it was there
        :raises CentralError: ``destination_not_writable``
        """
        if not os.path.lexists(self.path):
            return False
        if not check_mode:
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                return False
            except OSError as error:
                raise writing_error(error, self.path) from error
        return True


def _check_directory(path: str) -> None:
    """Refuse a place where somebody else could put another program.

    :raises CentralError: ``destination_not_writable``, ``unreadable``
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise writing_error(error, path) from error
    others = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
    if others or found.st_uid not in (0, os.geteuid()):
        raise CentralError(
            "destination_not_writable",
            f"{path} belongs to somebody else, or everybody may write there, and could replace the gate. "
            "Choose a directory of root, such as /usr/local/sbin.",
        )
