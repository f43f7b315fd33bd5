# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Removing a drill's Central without a trace: by the drill itself, by the warden, or by the next drill of the host.

The warden is a process of its own, which stays on the host until the stack is gone. It removes the stack when the lease on its
directory, which each module of the drill renews while it is at work, has expired.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time

from ansible_collections.odkops.central.plugins.module_utils._channel import LocalChannel
from ansible_collections.odkops.central.plugins.module_utils._drill_compose import CA, COMPOSE, CRONTAB, DH, TLS
from ansible_collections.odkops.central.plugins.module_utils._drill_docker import Docker, Stack, remove_stack, stacks
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, writing_error
from ansible_collections.odkops.central.plugins.module_utils._lease import break_lease, release, show
from ansible_collections.odkops.central.plugins.module_utils._operation import Project

PREFIX = "odkops-drill-"
KEPT = "kept"
#: all that is in the directory of a drill
_OWN = frozenset((TLS, DH, CA, CRONTAB, COMPOSE, KEPT, "objects", ".odkops-restore"))

_WATCH = 5.0
_NAME = re.compile(r"[a-z0-9-]+-[0-9a-f]{6}")


def remove(docker: Docker, stack: Stack) -> list[str]:
    """Remove a stack and its directory. Can be done again.

    :returns: what was removed
    :raises CentralError: ``drill_not_removed``, ``docker_unavailable``, ``destination_not_writable``
    """
    removed = remove_stack(docker, stack.project)
    if _is_of_a_drill(stack):
        channel = LocalChannel(Project(stack.directory, stack.project))
        with contextlib.suppress(CentralError):
            break_lease(channel)
        try:
            shutil.rmtree(stack.directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise CentralError(
                "drill_not_removed", f"The directory {stack.directory} could not be removed: {error.strerror}."
            ) from error
        removed.append(f"directory {stack.directory}")
    return removed


def _is_of_a_drill(stack: Stack) -> bool:
    """Whether a directory is the one that a drill has made, and not what a label of somebody else's says."""
    directory, name = stack.directory, stack.project.removeprefix(PREFIX)
    named = stack.project.startswith(PREFIX) and bool(_NAME.fullmatch(name)) and os.path.basename(directory) == name
    if not named or not os.path.isabs(directory) or not os.path.isdir(directory) or os.path.islink(directory):
        return False
    # Others may be below the root, too, and one of them be called backup-202611.
    begins, content = f'{{\n "name": "{stack.project}",'.encode(), b""
    try:
        with contextlib.suppress(FileNotFoundError), open(os.path.join(directory, COMPOSE), "rb") as file:
            content = file.read(len(begins))
        # Whoever wrote it may have been ended before or in the course of that.
        return content == begins or (begins.startswith(content) and set(os.listdir(directory)) <= _OWN)
    except OSError:
        return False


def stack_at(directory: str) -> Stack:
    """The stack whose working directory this is.

    :raises CentralError: ``bad_option``
    """
    name = os.path.basename(os.path.normpath(directory))
    if not os.path.isabs(directory) or not _NAME.fullmatch(name):
        raise CentralError("bad_option", f"directory: {directory} is not the directory of a drill.")
    return Stack(PREFIX + name, os.path.normpath(directory))


def keep(stack: Stack) -> None:
    """Let a stack stay until somebody removes it.

    :raises CentralError: ``destination_not_writable``, ``disk_full``
    """
    path = os.path.join(stack.directory, KEPT)
    try:
        with open(path, "w", encoding="ascii"):
            pass
    except OSError as error:
        raise writing_error(error, path) from error
    channel = LocalChannel(Project(stack.directory, stack.project))
    held = show(channel)
    if held is not None:
        release(channel, held.run_id)


def is_kept(stack: Stack) -> bool:
    """Whether somebody wanted to look into it."""
    return os.path.exists(os.path.join(stack.directory, KEPT))


def is_alive(stack: Stack) -> bool:
    """Whether a drill is at work there."""
    if not os.path.isdir(stack.directory):
        return False
    with contextlib.suppress(CentralError):
        return show(LocalChannel(Project(stack.directory, stack.project))) is not None
    return True


def leftovers(docker: Docker, root: str, kept: bool = False) -> list[Stack]:
    """Stacks below `root` whose drill has ended without removing them.

    :param kept: those, too, that were kept on purpose
    """
    below = f"{os.path.realpath(root)}/"
    found = [each for each in stacks(docker) if each.directory.startswith(below)]
    known = {each.directory for each in found}
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(below)):
            stack = Stack(f"{PREFIX}{name}", f"{below}{name}")
            if stack.directory not in known and _is_of_a_drill(stack):
                found.append(stack)
    return [each for each in found if not is_alive(each) and (kept or not is_kept(each))]


def remove_leftovers(docker: Docker, root: str, kept: bool = False) -> list[str]:
    """Remove them.

    :returns: names of their compose projects
    """
    found = leftovers(docker, root, kept)
    for stack in found:
        remove(docker, stack)
    return [stack.project for stack in found]


# --- the warden -----------------------------------------------------------------------------------------------------


def start_warden(docker: Docker, stack: Stack) -> None:
    """Start the process that removes the stack when nobody is at work there any more.

    It is a fork, in a session of its own, with nothing open that anybody waits for. All that it needs is loaded.
    """
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    with contextlib.suppress(BaseException):
        os.setsid()
        if os.fork():
            os._exit(0)
        _watch(docker, stack)
    os._exit(0)


def _watch(docker: Docker, stack: Stack) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.closerange(3, 1024)
    while True:
        time.sleep(_WATCH)
        if is_kept(stack) or not os.path.isdir(stack.directory):
            return
        if not is_alive(stack):
            # Whoever is at work now was late for its lease, and breaks off.
            with contextlib.suppress(CentralError, subprocess.SubprocessError):
                remove(docker, stack)
                return
