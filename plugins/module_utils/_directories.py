# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories of a repository: real ones, made durably and for their owner alone, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat

from ansible_collections.odkops.central.plugins.module_utils._atomic import fsync_directory
from ansible_collections.odkops.central.plugins.module_utils._errors import (
    CentralError,
    reading_error,
    writing_error,
)


def is_real_directory(path: str) -> bool:
    """Say whether `path` is a directory, and no symbolic link to one.

    :raises CentralError: ``unreadable``, ``not_a_repository`` where it is there and something else
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    except NotADirectoryError as error:
        raise not_a_repository(path, "something above it is not a directory") from error
    except OSError as error:
        raise reading_error(error, path) from error
    if not stat.S_ISDIR(mode):
        what = "a symbolic link" if stat.S_ISLNK(mode) else "not a directory"
        raise not_a_repository(path, f"it is {what}")
    return True


def not_a_repository(path: str, why: str) -> CentralError:
    """Return the error ``not_a_repository`` about `path`; `why` follows a colon."""
    return CentralError(
        "not_a_repository",
        f"{path} cannot be part of a repository of backup sets: {why}. "
        "Check the path, and whether its disk is mounted.",
    )


def names_in(path: str) -> list[str]:
    """Return the names in the directory `path`, sorted; none where there is no such directory.

    :raises CentralError: ``unreadable``, ``not_a_repository``
    """
    if not is_real_directory(path):
        return []
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []  # removed this very moment
    except OSError as error:
        raise reading_error(error, path) from error


def check_can_make(path: str) -> None:
    """See whether the directory `path` could be made, without making it.

    :raises CentralError: ``not_a_repository``, ``destination_not_writable``
    """
    above = os.path.dirname(path)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        raise not_a_repository(above, "it is not a directory")
    if not os.access(above, os.W_OK | os.X_OK):
        raise CentralError(
            "destination_not_writable", f"This user may not write in {above}. Use another user or another repository."
        )


def make_directories(path: str) -> None:
    """Make the directory `path`, which must be new, and those above it, durably, 0700; or nothing of it.

    :raises CentralError: ``disk_full``, ``destination_not_writable``, ``destination_exists``
    """
    for attempt in range(3):
        made: list[str] = []
        try:
            _make_chain(path, made)
            return
        except OSError as error:
            for directory in reversed(made):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
            # A run that was just discarded may take away the empty directories above.
            if not isinstance(error, FileNotFoundError) or attempt == 2:
                raise writing_error(error, path) from error


def _make_chain(path: str, made: list[str]) -> None:
    missing = [path]
    above = os.path.dirname(path)
    while not os.path.lexists(above):
        missing.append(above)
        above = os.path.dirname(above)
    for directory in reversed(missing):
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            if directory == path:
                raise
            continue
        made.append(directory)
        os.chmod(directory, 0o700)
        fsync_directory(os.path.dirname(directory))


def remove_tree(path: str) -> None:
    """Remove the directory `path` and all that is in it; that it is gone already is no error.

    :raises CentralError: ``destination_not_writable``
    """
    for _attempt in range(3):
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            pass  # somebody else removes it too
        except OSError as error:
            raise CentralError(
                "destination_not_writable",
                f"What is left of an unfinished set could not be removed: {path} ({error.strerror or error}). "
                "Remove it by hand.",
            ) from error
        if not os.path.lexists(path):
            return
