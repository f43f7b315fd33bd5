# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories that appear under their name only when they are whole.

Until then the directory is ``.<name>.<random>.partial`` beside its destination, and its process holds a
lock on it (flock(2)). A process that is killed drops the lock, so that the next one knows what is left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from types import TracebackType
from typing import Optional

from ansible_collections.odkops.central.plugins.module_utils._atomic import Buffer, fsync_directory
from ansible_collections.odkops.central.plugins.module_utils._errors import writing_error

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ATTEMPTS = 5


class AtomicDirectory:
    """A directory of files, without directories in it, that gets its name by :meth:`commit`, or never.

    Use it as a context manager; leaving the block without :meth:`commit` leaves nothing. What killed
    processes have left of the same destination is removed first.

    :param final: path of the finished directory (0700, its files 0600); the one above it must exist
    :raises CentralError: ``destination_exists``, ``destination_not_writable``, ``disk_full``
    """

    def __init__(self, final: str) -> None:
        self.final = os.path.abspath(final)
        self._above = os.path.dirname(self.final)
        self._lock: Optional[int] = None
        self._partial = ""
        self._file: Optional[int] = None
        self._name = ""
        try:
            if os.path.lexists(self.final):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            self._remove_stale()
            self._make()
        except OSError as error:
            self.close()
            raise writing_error(error, self.final) from error
        except BaseException:
            self.close()
            raise

    @property
    def _stem(self) -> str:
        # Names are limited to 255 bytes: the start of a long name says enough.
        name = os.path.basename(self.final).encode("utf-8", "surrogateescape")[:200]
        return f".{name.decode('utf-8', 'ignore')}."

    def _make(self) -> None:
        for _attempt in range(_ATTEMPTS):
            self._partial = os.path.join(self._above, f"{self._stem}{secrets.token_hex(4)}.partial")
            os.mkdir(self._partial, 0o700)
            # Another process that looks for stale directories may be faster than the lock: then make another one.
            with contextlib.suppress(FileNotFoundError):
                os.chmod(self._partial, 0o700)
                self._lock = os.open(self._partial, _DIRECTORY)
                if _locked(self._lock) is not False and os.path.isdir(self._partial):
                    return
            self._forget()
        raise OSError(errno.EBUSY, "its unfinished directory was taken away again and again")

    def _remove_stale(self) -> None:
        """Remove what is of this user, has the name of an unfinished directory of this one, and nobody's lock."""
        pattern = re.compile(re.escape(self._stem) + r"[0-9a-f]{8}\.partial\Z")
        for name in os.listdir(self._above):
            if not pattern.match(name):
                continue
            path = os.path.join(self._above, name)
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                    _remove_unlocked(path)

    def write(self, name: str, data: Buffer) -> None:
        """Append `data` to the file `name`. A file is begun by its first piece and ended by another one's.

        :raises CentralError: ``disk_full``, ``destination_not_writable``
        """
        try:
            if self._file is None or name != self._name:
                self._end_file()
                self._file = os.open(name, _NEW_FILE, 0o600, dir_fd=self._lock)
                self._name = name
                os.fchmod(self._file, 0o600)
            view = memoryview(data).cast("B")
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            raise writing_error(error, self.final) from error

    def _end_file(self) -> None:
        if self._file is not None:
            descriptor, self._file = self._file, None
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def commit(self) -> None:
        """Make the files durable, then the name.

        :raises CentralError: ``disk_full``, ``destination_exists``, ``destination_not_writable``
        """
        try:
            self._end_file()
            fsync_directory(self._partial)
            if os.path.lexists(self.final):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            # Whatever appears now is safe: rename(2) replaces nothing but an empty directory.
            os.rename(self._partial, self.final)
            self._partial = ""
            fsync_directory(self._above)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.ENOTDIR):
                error = FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            raise writing_error(error, self.final) from error

    def _forget(self) -> None:
        if self._partial:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial = ""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def close(self) -> None:
        """Remove what was not committed."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None
        self._forget()

    def __enter__(self) -> AtomicDirectory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _locked(descriptor: int) -> Optional[bool]:
    """Take the lock. False where another process has it, None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_unlocked(path: str) -> None:
    descriptor = os.open(path, _DIRECTORY)
    try:
        if _locked(descriptor):
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(descriptor)
