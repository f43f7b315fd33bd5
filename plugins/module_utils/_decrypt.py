# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup, decrypted into what pg_restore reads, and verified while it is written."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Optional

from ansible_collections.odkops.central.plugins.module_utils._atomic import AtomicFile
from ansible_collections.odkops.central.plugins.module_utils._atomic_directory import AtomicDirectory
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, reading_error, writing_error
from ansible_collections.odkops.central.plugins.module_utils._opening import ZIP
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, Verification, verify_file

#: names of pg_dump's formats, as its option --format and the results have them
CUSTOM = "custom"
DIRECTORY = "directory"


def decrypt(src: str, dest: str, expected: Expectation) -> dict[str, Any]:
    """Decrypt the backup `src`: a file in the custom format, or from a zip a directory in the directory format.

    :param dest: path of the file or directory, which must not exist; the directory above it must
    :returns: the fields of :class:`Verification`, and ``path`` (that of the backup), ``dest``, ``dump_format``
    :raises CentralError: with the diagnosis of what is wrong; nothing is left at `dest` then
    """
    rehearse_dest(src, dest)
    with _Output(dest) as output:
        found = verify_file(src, expected, plain=output.write)
        output.commit()
    return _result(src, dest, found)


def rehearse(src: str, dest: str, expected: Expectation) -> dict[str, Any]:
    """Do all that :func:`decrypt` does, but write nothing.

    :returns: the same
    :raises CentralError: the same
    """
    rehearse_dest(src, dest)
    return _result(src, dest, verify_file(src, expected))


def _result(src: str, dest: str, found: Verification) -> dict[str, Any]:
    dump_format = DIRECTORY if found.format == ZIP else CUSTOM
    return {**found.as_dict(), "path": src, "dest": os.path.abspath(dest), "dump_format": dump_format}


def rehearse_dest(src: str, dest: str) -> None:
    """See whether `dest` can be made, and has room for what is in `src`.

    :raises CentralError: ``unreadable``, ``destination_exists``, ``destination_not_writable``, ``disk_full``
    """
    try:
        needed = os.stat(src).st_size
    except OSError as error:
        raise reading_error(error, src) from error
    final = os.path.abspath(dest)
    if os.path.lexists(final):
        raise CentralError(
            "destination_exists",
            f"{final} exists already and is never overwritten. Move it away, or choose another dest.",
        )
    above = os.path.dirname(final)
    if not os.path.isdir(above):
        raise CentralError(
            "destination_not_writable", f"There is no directory {above}. Make it, or choose another dest."
        )
    if not os.access(above, os.W_OK | os.X_OK):
        raise CentralError(
            "destination_not_writable",
            f"{above} cannot be written by this user. Check its owner and permissions, or use become.",
        )
    try:
        state = os.statvfs(above)
    except OSError as error:
        raise writing_error(error, above) from error
    free = state.f_bavail * state.f_frsize
    # Decrypted, a backup is a little smaller than before.
    if free < needed:
        raise CentralError(
            "disk_full",
            f"{above} has {free} bytes free, and the decrypted backup needs up to {needed}. Make room there, or choose "
            "another dest.",
            free=free,
            needed=needed,
        )


class _Output:
    """What is decrypted, on its way to the disk: one file without a name, or files that have one in a directory."""

    def __init__(self, dest: str) -> None:
        self._dest = dest
        self._file: Optional[AtomicFile] = None
        self._directory: Optional[AtomicDirectory] = None

    def write(self, name: str, data: bytes) -> None:
        """Take the next piece of a file."""
        if name:
            if self._directory is None:
                self._directory = AtomicDirectory(self._dest)
            self._directory.write(name, data)
        else:
            if self._file is None:
                self._file = AtomicFile(self._dest)
            self._file.write(data)

    def commit(self) -> None:
        """Give it its name."""
        whole = self._file or self._directory
        if whole is None:
            raise AssertionError("nothing was decrypted")
        whole.commit()

    def __enter__(self) -> _Output:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for unfinished in (self._file, self._directory):
            if unfinished is not None:
                unfinished.close()
