# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception of the engine: every failure that a user can meet has a diagnosis."""

from __future__ import annotations

import errno
from typing import Any

# What the operating system says when there is no room for another byte.
DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class CentralError(Exception):
    """A failure that the engine understands.

    :param diagnosis: a code of ``_diagnoses.DIAGNOSES``
    :param message: one or two sentences: what is wrong, where, and what to do
    :param details: further facts for the result of a module: JSON types only, never a secret
    """

    def __init__(self, diagnosis: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.diagnosis = diagnosis
        self.message = message
        self.details: dict[str, Any] = details


class MissingLibraryError(CentralError):
    """A Python library that this input needs is not installed.

    :param library: the name under which PyPI has it
    :param message: what needs it and how to install it
    :param import_error: what Python said
    """

    def __init__(self, library: str, message: str, import_error: str = "") -> None:
        super().__init__("missing_required_lib", message, library=library)
        self.library = library
        self.import_error = import_error


def writing_error(error: OSError, path: str) -> CentralError:
    """Turn what the operating system said while `path` was written into a :class:`CentralError`."""
    if error.errno in DISK_FULL_ERRNOS:
        return CentralError(
            "disk_full",
            f"The disk is full: {path} could not be written ({error.strerror}). "
            "Make room there, or choose another destination. Nothing was kept.",
        )
    if error.errno == errno.EEXIST:
        return CentralError(
            "destination_exists",
            f"{path} exists already and is never overwritten. Move it away, or choose another destination.",
        )
    return CentralError(
        "destination_not_writable",
        f"{path} could not be written: {error.strerror or error}. "
        "Check that the directory exists and that this user may write there.",
    )


def reading_error(error: OSError, path: str) -> CentralError:
    """Turn what the operating system said while `path` was read into a :class:`CentralError`."""
    return CentralError(
        "unreadable",
        f"{path} could not be read: {error.strerror or error}. "
        "Check the path, the permissions of this user, and the disk.",
    )


def changed_error() -> CentralError:
    """The :class:`CentralError` for a file that gave other bytes when parts of it were read twice."""
    return CentralError(
        "unreadable",
        "The file was changed while it was read, or the disk gives other bytes each time it is asked. Nothing is "
        "known of the backup; see that nobody writes to it, check the disk, and verify it again.",
    )


def passphrase_needed_error() -> CentralError:
    """The :class:`CentralError` for a backup that has a passphrase, where none was given."""
    return CentralError(
        "wrong_passphrase",
        "The backup is encrypted with a passphrase, and none was given. Give passphrase or passphrase_file.",
    )


def empty_passphrase_error() -> CentralError:
    """The :class:`CentralError` for a backup that the empty passphrase opens, and the given one does not."""
    return CentralError(
        "empty_passphrase",
        "The backup is encrypted with the empty passphrase and not with the given one, so anybody can read it. "
        "Verify it without a passphrase if that is meant.",
    )
