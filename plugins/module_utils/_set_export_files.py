# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory that an export writes: a tree of copies with their SHA-256, whole or not there at all.

The file that makes a set of it, its manifest, is written last, after everything else is durable. So what a killed run
has left under its hidden name is not a set either.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from typing import BinaryIO, NamedTuple, Optional

from ansible_collections.odkops.central.plugins.module_utils._atomic import fsync_directory
from ansible_collections.odkops.central.plugins.module_utils._atomic_directory import AtomicDirectory
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, reading_error, writing_error
from ansible_collections.odkops.central.plugins.module_utils._pool import sync_file_system
from ansible_collections.odkops.central.plugins.module_utils._tar_reader import SUMS, sum_line

_CHUNK = 1024 * 1024
_SOURCE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# What open(2) says where there is no plain file.
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})


class Copied(NamedTuple):
    """A file that was copied: size in bytes, SHA-256 in hexadecimal digits of what was read."""

    size: int
    sha256: str


class ExportDirectory(AtomicDirectory):
    """A tree of files (0600, directories 0700) that gets its name by :meth:`finish`, or never. A context manager.

    Names of files are relative to it, with slashes.

    :param final: path of the finished directory; the one above it must exist
    :raises CentralError: ``destination_exists``, ``destination_not_writable``, ``disk_full``
    """

    def __init__(self, final: str) -> None:
        self._sums: Optional[BinaryIO] = None
        #: of what was written so far, the list of sums left out
        self.files, self.size = 0, 0
        super().__init__(final)
        try:
            self._sums = open(self._create(SUMS), "wb")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ExportDirectory:
        return self

    @property
    def path(self) -> str:
        """Where it is until it is finished."""
        return self._partial

    def path_of(self, name: str) -> str:
        """Return where the file or directory `name` is until it is finished."""
        return os.path.join(self._partial, name)

    def _create(self, name: str) -> int:
        try:
            descriptor = os.open(self.path_of(name), _NEW, 0o600)
            os.fchmod(descriptor, 0o600)
        except OSError as error:
            raise writing_error(error, self.final) from error
        return descriptor

    def make(self, name: str) -> None:
        """Make the directory `name` and those above it, if they are not there.

        :raises CentralError: ``disk_full``, ``destination_not_writable``
        """
        path = self._partial
        for piece in name.split("/"):
            path = os.path.join(path, piece)
            try:
                os.mkdir(path, 0o700)
                os.chmod(path, 0o700)
            except FileExistsError:
                continue
            except OSError as error:
                raise writing_error(error, self.final) from error

    def add(self, name: str, data: bytes) -> None:
        """Write the file `name`.

        :raises CentralError: ``disk_full``, ``destination_not_writable``
        """
        descriptor = self._create(name)
        try:
            _write_all(descriptor, data)
        except OSError as error:
            raise writing_error(error, self.final) from error
        finally:
            os.close(descriptor)
        self._note(name, Copied(len(data), hashlib.sha256(data).hexdigest()))

    def copy(self, source: str, name: str, durable: bool = False) -> Copied | None:
        """Copy the plain file `source`.

        :param durable: see it to the disk before this returns
        :returns: what was read; None where there is no such plain file
        :raises CentralError: ``unreadable``, ``disk_full``, ``destination_not_writable``
        """
        try:
            descriptor = os.open(source, _SOURCE)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None
            raise reading_error(error, source) from error
        with open(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            copy = self._create(name)
            try:
                copied = self._copy(file, source, copy)
                if durable:
                    os.fsync(copy)
                    os.posix_fadvise(copy, 0, 0, os.POSIX_FADV_DONTNEED)
            except OSError as error:
                raise writing_error(error, self.final) from error
            finally:
                os.close(copy)
        self._note(name, copied)
        return copied

    def _copy(self, file: BinaryIO, source: str, copy: int) -> Copied:
        digest, size = hashlib.sha256(), 0
        while True:
            try:
                data = file.read(_CHUNK)
            except OSError as error:
                raise reading_error(error, source) from error
            if not data:
                return Copied(size, digest.hexdigest())
            digest.update(data)
            size += len(data)
            _write_all(copy, data)

    def _note(self, name: str, copied: Copied) -> None:
        if self._sums is None:
            raise AssertionError("the directory is finished")
        self.files += 1
        self.size += copied.size
        try:
            self._sums.write(sum_line(name, copied.sha256).encode("utf-8"))
        except OSError as error:
            raise writing_error(error, self.final) from error

    def sync(self) -> None:
        """Make everything durable that was written so far.

        :raises CentralError: ``disk_full``, ``destination_not_writable``
        """
        if self._lock is None:
            raise AssertionError("the directory is not open")
        try:
            sync_file_system(self._lock)
        except OSError as error:
            raise writing_error(error, self.final) from error

    def finish(self, last: str, data: bytes) -> None:
        """Write `last`, the file that makes it what it is, when all the others are durable. Then give it its name.

        :raises CentralError: ``disk_full``, ``destination_exists``, ``destination_not_writable``
        """
        self._note(last, Copied(len(data), hashlib.sha256(data).hexdigest()))
        if self._sums is None:
            raise AssertionError("the directory is finished")
        try:
            self._sums.flush()
            self.size += os.fstat(self._sums.fileno()).st_size
            self.files += 1
            self._sums.close()
        except OSError as error:
            raise writing_error(error, self.final) from error
        self.sync()
        self.write(last, data)
        try:
            self._end_file()
            fsync_directory(os.path.dirname(self.path_of(last)))
        except OSError as error:
            raise writing_error(error, self.final) from error
        self.commit()

    def close(self) -> None:
        """Remove what was not finished."""
        if self._sums is not None:
            with contextlib.suppress(OSError):
                self._sums.close()
            self._sums = None
        super().close()


def forget_cached(path: str) -> None:
    """Have the file `path`, which is durable, read from the disk the next time, where the system does so."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, _SOURCE)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def check_room(above: str, needed: int, files: int) -> int:
    """See whether there is room for `needed` bytes in `files` files below the directory `above`.

    :returns: how many bytes are free
    :raises CentralError: ``disk_full``, ``destination_not_writable``
    """
    try:
        found = os.statvfs(above)
    except OSError as error:
        raise writing_error(error, above) from error
    free = found.f_bavail * found.f_frsize
    details = {"needed": needed, "free": free}
    if needed > free:
        raise CentralError(
            "disk_full",
            f"The export needs {needed} bytes, and {above} has room for {free}. Make room there, or choose another "
            "destination. Nothing was kept.",
            **details,
        )
    # File systems without a table of files say 0.
    if found.f_files and files > found.f_favail:
        raise CentralError(
            "disk_full",
            f"The export has {files} files, and {above} has room for {found.f_favail} more (df -i). Choose another "
            "destination. Nothing was kept.",
            **details,
        )
    return free
