# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pool: the objects of one Central, shared by all of its sets, encrypted with one passphrase.

::

    <repository>/<central>/pool/<key id>/objects/<id / 1000>/blob-<id>-<sha1>.bin   see docs/pool.md
    <repository>/<central>/pool/<key id>/index.sqlite                               see _pool_index.py
    <repository>/<central>/pool/<key id>/staging/                                   what is on its way, and not verified yet
    <repository>/<central>/pool/<key id>/damaged/                                   what was found damaged later
    <repository>/<central>/pool/<key id>/lock                                       locked (flock(2)) by who works here

``objects`` is a `crypt` remote of rclone: contents are encrypted and authenticated, names are kept. An object gets its
name there by a rename after it was read back and verified, and was made durable before, so that whatever has a name there
was right. Where no passphrase is used, the directory is called ``unencrypted`` and the files have no ``.bin``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ansible_collections.odkops.central.plugins.module_utils._atomic import fsync_directory, make_directory
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry, parse_name
from ansible_collections.odkops.central.plugins.module_utils._directories import is_real_directory, not_a_repository
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, reading_error, writing_error
from ansible_collections.odkops.central.plugins.module_utils._pool_index import SHARD, PoolIndex, Row
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository

POOL = "pool"
UNENCRYPTED = "unencrypted"
OBJECTS, STAGING, DAMAGED, INDEX, LOCK = "objects", "staging", "damaged", "index.sqlite", "lock"

#: what rclone's crypt appends to names that it keeps
SUFFIX = ".bin"

#: seconds to wait for another run on the same pool
LOCK_WAIT = 30.0

# Of an encrypted file: a header of 32 bytes, and 16 bytes for each block of 64 KiB (rclone.org/crypt, "File formats").
_HEADER, _BLOCK, _TAG = 32, 64 * 1024, 16


@dataclass
class Difference:
    """How the files of a pool differ from its index."""

    #: in the index, but there is no file
    lost: list[BlobEntry] = field(default_factory=list)
    #: files that the index does not have
    unknown: int = 0
    #: names that are none of an object, or in the wrong place
    foreign: list[str] = field(default_factory=list)


class Pool:
    """The pool of `central` for one passphrase.

    :param key_id: which passphrase, see _manifest.py; None for none
    :raises CentralError: ``not_a_repository``, ``bad_name``
    """

    def __init__(self, repository: Repository, central: str, key_id: str | None) -> None:
        self.encrypted = key_id is not None
        self.name = key_id or UNENCRYPTED
        self.path = os.path.join(repository.central_path(central), POOL, self.name)
        self.objects = os.path.join(self.path, OBJECTS)
        self.index_path = os.path.join(self.path, INDEX)
        self.suffix = SUFFIX if self.encrypted else ""
        for directory in (repository.central_path(central), os.path.dirname(self.path), self.path, self.objects):
            is_real_directory(directory)
        self._lock: int | None = None

    @property
    def exists(self) -> bool:
        """Whether there is anything of it."""
        return os.path.isdir(self.objects)

    def shard_path(self, entry: BlobEntry) -> str:
        """Return the directory of an object."""
        return os.path.join(self.objects, str(entry.id // SHARD))

    def relative_name(self, entry: BlobEntry) -> str:
        """Return the object's name as rclone has it, below ``objects``."""
        return f"{entry.id // SHARD}/{entry.name}"

    def object_path(self, entry: BlobEntry) -> str:
        """Return the path of an object's file."""
        return os.path.join(self.shard_path(entry), entry.name + self.suffix)

    def content_size(self, stored: int) -> int:
        """Return the size of the content of a file of `stored` bytes; -1 where it can be none."""
        if not self.encrypted:
            return stored
        body = stored - _HEADER
        blocks = -(-body // (_BLOCK + _TAG))
        return body - blocks * _TAG if body >= 0 else -1

    def stored_size(self, content: int) -> int:
        """Return the size of the file of a content of `content` bytes."""
        return content + _HEADER + -(-content // _BLOCK) * _TAG if self.encrypted else content

    # --- one at a time ------------------------------------------------------------------------------------------

    def prepare(self, wait: float = LOCK_WAIT) -> None:
        """Make the pool's directories if there are none, lock it, and remove what a killed run was fetching.

        :raises CentralError: ``pool_busy``, ``destination_not_writable``, ``disk_full``
        """
        for directory in make_directory(self.objects):
            _durable(os.path.dirname(directory))
        path = os.path.join(self.path, LOCK)
        try:
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise writing_error(error, path) from error
        until = time.monotonic() + wait
        while not _locked(self._lock):
            if time.monotonic() >= until:
                os.close(self._lock)
                self._lock = None
                raise CentralError(
                    "pool_busy",
                    f"Another run is at work in the pool {self.path}. Let it end, and begin this one again.",
                )
            time.sleep(0.2)
        shutil.rmtree(os.path.join(self.path, STAGING), ignore_errors=True)

    def release(self) -> None:
        """Unlock it, and remove what was not finished."""
        if self._lock is not None:
            shutil.rmtree(os.path.join(self.path, STAGING), ignore_errors=True)
            os.close(self._lock)
            self._lock = None

    # --- what is there ------------------------------------------------------------------------------------------

    def compare(self, index: PoolIndex, correct: bool = True) -> Difference:
        """Hold the files that there are against the index, by their names.

        :param correct: make the index say what there is; what it did not have counts as never read
        :raises CentralError: ``unreadable``, ``not_a_repository``
        """
        difference = Difference()
        directories = set(self._shards(difference))
        for shard in sorted(directories | index.shards()):
            there = set(self._list(str(shard))) if shard in directories else set()
            known = index.names(shard, self.suffix)
            if there == known:
                continue
            lost = [entry for name in sorted(known - there) if (entry := self._entry(name, shard))]
            unknown = []
            for name in sorted(there - known):
                row = self._row(name, shard)
                if row is None:
                    difference.foreign.append(f"{shard}/{name}")
                else:
                    unknown.append(row)
            difference.lost += lost
            difference.unknown += len(unknown)
            if correct:
                index.forget(lost)
                index.add(unknown)
        return difference

    def _shards(self, difference: Difference) -> Iterator[int]:
        for name in self._list(""):
            path = os.path.join(self.objects, name)
            if name.isdecimal() and str(int(name)) == name and stat.S_ISDIR(os.lstat(path).st_mode):
                yield int(name)
            else:
                difference.foreign.append(name)

    def _list(self, name: str) -> list[str]:
        path = os.path.join(self.objects, name)
        try:
            return os.listdir(path)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise reading_error(error, path) from error

    def _entry(self, name: str, shard: int) -> BlobEntry | None:
        if not name.endswith(self.suffix):
            return None
        entry = parse_name(name[: len(name) - len(self.suffix)])
        return entry if entry is not None and entry.id // SHARD == shard else None

    def _row(self, name: str, shard: int) -> Row | None:
        entry = self._entry(name, shard)
        if entry is None:
            return None
        found = os.lstat(self.object_path(entry))
        size = self.content_size(found.st_size)
        return Row(entry, max(size, 0), 0) if stat.S_ISREG(found.st_mode) else None

    # --- taking in ----------------------------------------------------------------------------------------------

    def staging(self) -> Staging:
        """Return a new directory for what is on its way. The pool has to be locked.

        :raises CentralError: ``destination_not_writable``, ``disk_full``
        """
        if self._lock is None:
            raise AssertionError("the pool is not locked")
        return Staging(self)

    def free(self) -> int:
        """Return how many bytes could be written."""
        above = self.path
        while not os.path.isdir(above):
            above = os.path.dirname(above)
        found = os.statvfs(above)
        return found.f_bavail * found.f_frsize

    def set_aside(self, entries: Iterable[BlobEntry]) -> None:
        """Move the files of damaged objects out of the way; they are kept for whoever wants to look at them.

        :raises CentralError: ``destination_not_writable``, ``disk_full``
        """
        directory = os.path.join(self.path, DAMAGED)
        make_directory(directory)
        for entry in entries:
            path = self.object_path(entry)
            try:
                os.rename(path, os.path.join(directory, entry.name + self.suffix))
                fsync_directory(os.path.dirname(path))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise writing_error(error, path) from error
        _durable(directory)


class Staging:
    """A directory for objects on their way into a pool, gone when it is closed."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.path = os.path.join(pool.path, STAGING, secrets.token_hex(4))
        #: where the objects are put
        self.objects = os.path.join(self.path, OBJECTS)
        make_directory(self.objects)
        # Opened before anything is written: an error of the disk is reported to who had the file system open then.
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def write_names(self, names: Iterable[str]) -> str:
        """Write a list of names for rclone; returns its path."""
        path = os.path.join(self.path, "names")
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                file.writelines(f"{name}\n" for name in names)
        except OSError as error:
            raise writing_error(error, path) from error
        return path

    def stored_size(self, name: str) -> int | None:
        """Return the size of the file of an object that has arrived, or None."""
        with contextlib.suppress(OSError):
            found = os.lstat(os.path.join(self.objects, name + self._pool.suffix))
            return found.st_size if stat.S_ISREG(found.st_mode) else None
        return None

    def anything(self) -> bool:
        """Whether any object has arrived."""
        with os.scandir(self.objects) as entries:
            return next(entries, None) is not None

    def admit(self, named: Iterable[tuple[str, BlobEntry]]) -> None:
        """Give verified objects their final names, durably: content first, then names.

        :param named: the name that each object has here, and the object
        :raises CentralError: ``disk_full``, ``destination_not_writable``
        """
        pool, made = self._pool, set()
        try:
            sync_file_system(self._descriptor)
            for name, entry in named:
                shard = pool.shard_path(entry)
                if shard not in made:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(shard, 0o700)
                    if not is_real_directory(shard):
                        raise not_a_repository(shard, "it is not a directory")
                    made.add(shard)
                source = os.path.join(self.objects, name + pool.suffix)
                os.chmod(source, 0o600)
                os.rename(source, pool.object_path(entry))
            sync_file_system(self._descriptor)
        except OSError as error:
            raise writing_error(error, pool.path) from error

    def close(self) -> None:
        """Remove the directory."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def sync_file_system(descriptor: int) -> None:
    """Make everything durable that was written to the file system of `descriptor`: one call for thousands of files.

    :raises OSError: as syncfs(2) does
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if call is None:
        os.sync()
    elif call(descriptor) != 0:
        number = ctypes.get_errno()
        if number != errno.ENOSYS:
            raise OSError(number, os.strerror(number))
        os.sync()


def _durable(directory: str) -> None:
    try:
        fsync_directory(directory)
    except OSError as error:
        raise writing_error(error, directory) from error


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True
