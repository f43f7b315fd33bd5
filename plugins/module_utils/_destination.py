# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a download goes: a safe name, a directory that can be written, and room for it."""

from __future__ import annotations

import contextlib
import email.message
import os
import re
from dataclasses import dataclass, field
from typing import Optional

from ansible_collections.odkops.central.plugins.module_utils._atomic import make_directory
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, writing_error

#: ends of the names of backups; a `dest` that ends so is a file
SUFFIXES = (".pgdump.enc.bin", ".bin", ".zip", ".enc", ".pgdump", ".dump", ".bak")
NEW_SUFFIX = ".pgdump.enc.bin"
ZIP_SUFFIX = ".zip"

#: A backup is expected to be no larger than the last one and a tenth.
_GROWTH = 1.1

_NAME_LIMIT = 120
_FILE_SYSTEM_LIMIT = 255
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
# Names that Windows file systems keep for devices, whatever follows the dot.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|\Z)", re.IGNORECASE)


def safe_name(name: str) -> str:
    """A name that any file system takes, made from what a server says; possibly empty.

    Colons become hyphens, so that ``central-backup-2026-11-22T23:11:18.733Z.pgdump.enc.bin`` can lie
    on an SMB share or a FAT disk.
    """
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    name = _UNSAFE.sub("-", name).strip(".- ")
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            stem = name[: -len(suffix)][: _NAME_LIMIT - len(suffix)].rstrip(".- ")
            name = stem + suffix if stem else ""
            break
    else:
        name = name[:_NAME_LIMIT].rstrip(".- ")
    return f"backup-{name}" if _DEVICES.match(name) else name


def name_from_header(disposition: str, fallback: str) -> str:
    """The name in a Content-Disposition header (RFC 6266), made safe.

    :param fallback: the name, without its end, where the header has none
    """
    message = email.message.Message()
    message["Content-Disposition"] = disposition.replace("\r", " ").replace("\n", " ")
    name = safe_name(message.get_filename() or "")
    if not name:
        return fallback + NEW_SUFFIX
    return name if name.endswith(SUFFIXES) else name + NEW_SUFFIX


def _twin(path: str) -> str:
    """The path that a backup of the other format gets, or the same where its end says nothing of the format."""
    for mine, other in ((NEW_SUFFIX, ZIP_SUFFIX), (ZIP_SUFFIX, NEW_SUFFIX)):
        if path.endswith(mine):
            return path[: -len(mine)] + other
    return path


@dataclass
class Destination:
    """Where a backup is written.

    :param dest: a directory, or the path of a file where it ends as one of :data:`SUFFIXES`
    """

    dest: str
    _made: list[str] = field(default_factory=list)

    @property
    def is_file(self) -> bool:
        """Whether `dest` names the file itself."""
        return not self.dest.endswith("/") and not os.path.isdir(self.dest) and self.dest.endswith(SUFFIXES)

    @property
    def directory(self) -> str:
        """The directory in which the file will lie."""
        path = os.path.abspath(self.dest)
        return os.path.dirname(path) if self.is_file else path

    def path(self, disposition: str, fallback: str) -> str:
        """The path of the file.

        A server that sends a zip gets a name that ends as one, whatever `dest` says, and so the other way.

        :param disposition: the server's Content-Disposition header
        """
        name = name_from_header(disposition, fallback)
        if not self.is_file:
            return os.path.join(self.directory, name)
        path = os.path.abspath(self.dest)
        sent_as_zip = name.endswith(ZIP_SUFFIX)
        misleading = path.endswith(NEW_SUFFIX) if sent_as_zip else path.endswith(ZIP_SUFFIX)
        return _twin(path) if misleading else path

    def check(self, expected_size: Optional[int]) -> int:
        """See whether a backup can be written here, without writing anything.

        :param expected_size: bytes, or None for the size of the newest backup in the directory
        :returns: the bytes that are free
        :raises CentralError: ``bad_option``, ``destination_exists``, ``destination_not_writable``, ``disk_full``
        """
        if not self.dest.strip():
            raise CentralError("bad_option", "dest is empty. Give the directory or the file where the backup is saved.")
        if expected_size is not None and expected_size < 0:
            raise CentralError("bad_option", f"expected_size is {expected_size}: give bytes, 0 or more.")
        if self.is_file:
            self._check_free_name()
        existing = self.directory
        while not os.path.lexists(existing):
            existing = os.path.dirname(existing)
        if not os.path.isdir(existing):
            raise CentralError(
                "destination_not_writable", f"{existing} is not a directory. Move it away, or choose another dest."
            )
        if not os.access(existing, os.W_OK | os.X_OK):
            raise CentralError(
                "destination_not_writable",
                f"{existing} cannot be written by this user. Check its owner and permissions, or use become.",
            )
        return self._check_space(existing, expected_size)

    def _check_free_name(self) -> None:
        path = os.path.abspath(self.dest)
        if len(os.fsencode(os.path.basename(path))) > _FILE_SYSTEM_LIMIT:
            raise CentralError(
                "bad_option", f"dest has a name of more than {_FILE_SYSTEM_LIMIT} bytes. Use a shorter one."
            )
        # Which of the two it will be is the server's to say. It is asked only when there is room for either: an old
        # Central whose download is broken off leaves its dump behind.
        for name in (path, _twin(path)):
            if os.path.lexists(name):
                raise CentralError(
                    "destination_exists",
                    f"{name} exists already and is never overwritten. Move it away, or choose another dest.",
                )

    def _check_space(self, existing: str, expected_size: Optional[int]) -> int:
        try:
            state = os.statvfs(existing)
        except OSError as error:
            raise writing_error(error, existing) from error
        if state.f_flag & os.ST_RDONLY:
            raise CentralError("destination_not_writable", f"{existing} is on a file system that is mounted read-only.")
        free = state.f_bavail * state.f_frsize
        expected = self._last_size() if expected_size is None else expected_size
        needed = int(expected * _GROWTH)
        if free < needed:
            raise CentralError(
                "disk_full",
                f"{existing} has {free} bytes free, and a backup is expected to need {needed} "
                f"(the last one had {expected}). Make room there, or choose another dest.",
                free=free,
                needed=needed,
            )
        return free

    def _last_size(self) -> int:
        """The size of the newest backup in the directory, or 0."""
        newest, size = 0.0, 0
        with contextlib.suppress(OSError), os.scandir(self.directory) as found:
            for entry in found:
                if entry.name.endswith((NEW_SUFFIX, ZIP_SUFFIX)) and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_mtime >= newest:
                        newest, size = status.st_mtime, status.st_size
        return size

    def make(self) -> None:
        """Make the directory where it is missing.

        :raises CentralError: ``destination_not_writable``, ``disk_full``
        """
        self._made = make_directory(self.directory)

    def unmake(self) -> None:
        """Remove the directories that :meth:`make` made, unless something lies in them."""
        for directory in reversed(self._made):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        self._made = []
