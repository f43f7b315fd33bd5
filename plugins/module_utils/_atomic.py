# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that appear under their name only when they are whole.

Where the file system can (ext4, XFS, Btrfs, tmpfs), the file has no name at all until it is
committed (``O_TMPFILE``, see open(2)), so that a process that is killed leaves nothing behind.
Elsewhere it is ``.<name>.<random>.partial`` in the directory of its destination.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from types import TracebackType
from typing import BinaryIO, Union

from ansible_collections.odkops.central.plugins.module_utils._errors import (
    CentralError,
    writing_error,
)

Buffer = Union[bytes, bytearray, memoryview]

# What open(2) and linkat(2) say where O_TMPFILE, /proc or hard links are not to be had.
_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL, errno.ENOTSUP})
_NO_LINK = frozenset(
    {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.ENOENT, errno.EXDEV, errno.EINVAL}
)

_COPY = 1024 * 1024


def fsync_directory(path: str) -> None:
    """Make the names in the directory `path` survive a power cut.

    :raises OSError: as open(2) and fsync(2) do
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_if_there(path: str) -> None:
    """Remove the file `path`; that it is gone already, or cannot be removed, is no error."""
    with contextlib.suppress(OSError):
        os.unlink(path)


class AtomicFile:
    """A file that gets its name when :meth:`commit` has made it durable, or never.

    Use it as a context manager; leaving the block without :meth:`commit` leaves nothing.

    :param final: path of the finished file; its directory must exist
    :param clobber: replace a file that has this name already; else it is an error, raised at
        once and again by :meth:`commit` should the name have been taken meanwhile
    :param mode: permissions of the finished file, whatever the umask
    :raises CentralError: ``destination_exists``, ``destination_not_writable``, ``disk_full``
    """

    def __init__(self, final: str, clobber: bool = False, mode: int = 0o600) -> None:
        self.final = os.path.abspath(final)
        self.committed = False
        self._clobber = clobber
        self._directory = os.path.dirname(self.final)
        self._partial: str | None = None
        if not clobber and os.path.lexists(self.final):
            raise writing_error(FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)), self.final)
        try:
            descriptor = self._open(mode)
            os.fchmod(descriptor, mode)
        except OSError as error:
            self._forget_partial()
            raise writing_error(error, self.final) from error
        #: the open file, readable and writable
        self.file: BinaryIO = os.fdopen(descriptor, "w+b", buffering=0)

    def _open(self, mode: int) -> int:
        if not self._clobber:
            try:
                return os.open(self._directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
            except OSError as error:
                if error.errno not in _NO_TMPFILE:
                    raise
        return self._open_partial(mode)

    def _open_partial(self, mode: int) -> int:
        # Names are limited to 255 bytes: the start of a long name says enough.
        stem = os.path.basename(self.final).encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore")
        self._partial = os.path.join(self._directory, f".{stem}.{secrets.token_hex(4)}.partial")
        return os.open(self._partial, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, mode)

    def write(self, data: Buffer) -> int:
        """Append `data`, all of it.

        :raises CentralError: ``disk_full``, ``destination_not_writable``
        """
        view = memoryview(data).cast("B")
        written = 0
        try:
            while written < len(view):
                written += self.file.write(view[written:]) or 0
        except OSError as error:
            raise writing_error(error, self.final) from error
        return written

    def commit(self) -> None:
        """Make the content durable, then the name.

        :raises CentralError: ``disk_full``, ``destination_exists``, ``destination_not_writable``
        """
        try:
            os.fsync(self.file.fileno())
            self._name()
            self._partial = None
            try:
                fsync_directory(self._directory)
            except OSError:
                # The name would perhaps not survive a power cut, so it is taken back. What it replaced is lost.
                remove_if_there(self.final)
                raise
            self.committed = True
        except OSError as error:
            raise writing_error(error, self.final) from error

    def _name(self) -> None:
        if self._partial is None:
            try:
                self._link_descriptor()
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                self._copy_to_partial()
            else:
                return
        if self._partial is None:
            raise AssertionError("a file without a name has got none")
        if self._clobber:
            os.replace(self._partial, self.final)
            return
        try:
            os.link(self._partial, self.final)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            # No hard links here (FAT, some network file systems): take the name if it is free.
            if os.path.lexists(self.final):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
            os.rename(self._partial, self.final)
        else:
            self._forget_partial()

    def _link_descriptor(self) -> None:
        """Give the nameless file its name. Only with a directory's descriptor does Python follow /proc's link."""
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            source = f"/proc/self/fd/{self.file.fileno()}"
            os.link(source, os.path.basename(self.final), dst_dir_fd=directory, follow_symlinks=True)
        finally:
            os.close(directory)

    def _copy_to_partial(self) -> None:
        """For where a nameless file can be made but not named (no /proc, a refusing kernel): copy it into one with a name."""
        mode = stat.S_IMODE(os.fstat(self.file.fileno()).st_mode)
        descriptor = self._open_partial(mode)
        with os.fdopen(descriptor, "wb", buffering=0) as named:
            os.fchmod(descriptor, mode)
            position = 0
            while data := os.pread(self.file.fileno(), _COPY, position):
                position += len(data)
                view = memoryview(data)
                while view:
                    view = view[named.write(view) or 0 :]
            os.fsync(descriptor)

    def _forget_partial(self) -> None:
        if self._partial is not None:
            remove_if_there(self._partial)
            self._partial = None

    def close(self) -> None:
        """Close the file; what was not committed is gone."""
        with contextlib.suppress(OSError):
            self.file.close()
        self._forget_partial()

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def make_directory(path: str, mode: int = 0o700) -> list[str]:
    """Make the directory `path` with its parents, each new one with `mode`.

    :returns: the directories that were made, outermost first
    :raises CentralError: ``destination_not_writable``, ``disk_full``
    """
    missing = []
    current = os.path.abspath(path)
    while not os.path.isdir(current):
        missing.append(current)
        parent = os.path.dirname(current)
        if parent == current:
            break
        current = parent
    made = []
    for directory in reversed(missing):
        try:
            os.mkdir(directory, mode)
        except FileExistsError as error:
            if not os.path.isdir(directory):
                raise CentralError(
                    "destination_not_writable",
                    f"{directory} is not a directory. Move it away, or choose another destination.",
                ) from error
        except OSError as error:
            raise writing_error(error, directory) from error
        else:
            os.chmod(directory, mode)
            made.append(directory)
    return made
