# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at a set that is to be exported: what there is, whether it is right as far as files tell, and whether it has room."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from typing import Any, Optional

from ansible_collections.odkops.central.plugins.module_utils import _manifest
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry, read_blob_list
from ansible_collections.odkops.central.plugins.module_utils._directories import names_in
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, reading_error, writing_error
from ansible_collections.odkops.central.plugins.module_utils._pool import UNENCRYPTED, Pool
from ansible_collections.odkops.central.plugins.module_utils._rclone import Rclone, find_rclone
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository, SetEntry
from ansible_collections.odkops.central.plugins.module_utils._seal import check_file, inspect_set

_SHOWN = 20

# For what is not counted: README.txt, the manifest, directories.
_RESERVE = 1024 * 1024
# Of a line of SHA256SUMS and of an entry in a directory, in bytes, for each object.
_OVERHEAD = 512


@dataclass(frozen=True)
class SetExport:
    """What is to be exported.

    :param wanted: the id of the set, or ``latest``
    :param dest: absolute path of the directory to make; the one above it must exist
    :param passphrase: of the set; None for one that was made without
    :param allow_unauthenticated: export a set without an HMAC although a passphrase is given
    :param rclone_path: see :func:`find_rclone`
    """

    repository: Repository
    central: str
    wanted: str
    dest: str
    passphrase: Optional[str]
    allow_unauthenticated: bool = False
    rclone_path: Optional[str] = None


@dataclass
class Found:
    """What there is to export, as far as it can be told without reading the objects."""

    entry: SetEntry
    manifest: dict[str, Any]
    authenticated: bool
    #: None where the set names no objects
    pool: Optional[Pool] = None
    objects: int = 0
    #: objects that the list marks as purged or lost
    absent: int = 0
    #: bytes, as they lie on a disk
    needed: int = _RESERVE
    warnings: list[str] = field(default_factory=list)

    @property
    def files(self) -> int:
        """How many files the export will have: besides parts and objects manifest, salt, README.txt and SHA256SUMS."""
        return len(self.manifest["parts"]) + self.objects + 4


@dataclass
class Problems:
    """Objects that cannot be exported. Their names are kept, up to a number, and all are counted."""

    missing: int = 0
    missing_names: list[str] = field(default_factory=list)
    wrong: int = 0
    wrong_names: list[str] = field(default_factory=list)

    def add_missing(self, entry: BlobEntry) -> None:
        """Note an object that is not there."""
        self.missing += 1
        if len(self.missing_names) < _SHOWN:
            self.missing_names.append(entry.name)

    def add_wrong(self, entry: BlobEntry) -> None:
        """Note an object that is not what it should be."""
        self.wrong += 1
        if len(self.wrong_names) < _SHOWN:
            self.wrong_names.append(entry.name)

    def judge(self, found: Found) -> None:
        """Fail if there is any.

        :raises CentralError: ``missing_blob``, ``corrupt``
        """
        if not self.missing and not self.wrong:
            return
        where = f"the pool {found.pool.path}" if found.pool else "the pool"
        sentences = []
        if self.missing:
            sentences.append(
                f"{self.missing} object(s) that the set {found.entry.set_id} names are not in {where}: "
                f"{_listed(self.missing_names, self.missing)}."
            )
        if self.wrong:
            sentences.append(f"{self.wrong} object(s) in {where} are damaged: {_listed(self.wrong_names, self.wrong)}.")
        sentences.append(
            "The next backup fetches again what S3 still has; else look for them in a copy of the repository. Nothing was kept."
        )
        raise CentralError(
            "missing_blob" if self.missing else "corrupt",
            " ".join(sentences),
            missing=self.missing,
            missing_objects=self.missing_names,
            wrong=self.wrong,
            wrong_objects=self.wrong_names,
        )


def _listed(names: list[str], number: int) -> str:
    return ", ".join(names[:5]) + (", ..." if number > 5 else "")


def check_destination(task: SetExport) -> None:
    """See whether the directory could be made.

    :raises CentralError: ``destination_exists``, ``destination_not_writable``, ``bad_option``
    """
    above = os.path.dirname(task.dest)
    if os.path.lexists(task.dest):
        raise writing_error(FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)), task.dest)
    if not os.path.isdir(above) or not os.access(above, os.W_OK | os.X_OK):
        raise CentralError(
            "destination_not_writable",
            f"{task.dest} cannot be made: {above} is no directory, or this user may not write there. Make it, or choose "
            "another destination.",
        )
    if os.path.commonpath([os.path.realpath(above), task.repository.path]) == task.repository.path:
        raise CentralError(
            "bad_option", f"{task.dest} is inside the repository. An export is for another place: choose one outside."
        )


def look(task: SetExport) -> Found:
    """Find the set, check its manifest, and see which parts and objects there are. Only the list of objects is read.

    :raises CentralError: as export_set of _set_export.py
    """
    entry = task.repository.find(task.central, task.wanted)
    inspected = inspect_set(entry, task.passphrase, task.allow_unauthenticated)
    manifest = inspected["manifest"]
    if inspected["authenticated"] is None:
        raise CentralError(
            "wrong_passphrase",
            f"The set {entry.set_id} was made with a passphrase, and none was given, so it cannot be checked. "
            "Give passphrase or passphrase_file.",
            key_id=manifest["authentication"]["key_id"],
        )
    found = Found(entry, manifest, bool(inspected["authenticated"]))
    if not found.authenticated:
        found.warnings.append(
            "The manifest of the set has no HMAC, so nobody can tell whether somebody has changed it."
        )
    known = {_manifest.MANIFEST_FILE} | {part["file"] for part in manifest["parts"].values()}
    others = sorted(set(names_in(entry.path)) - known)
    if others:
        found.warnings.append(
            f"The directory of the set has {len(others)} file(s) that are no part of it, such as {others[0]!r}. "
            "They are not exported."
        )
    block = os.statvfs(os.path.dirname(task.dest)).f_frsize or 4096
    found.needed += sum(_rounded(part["size"], block) for part in manifest["parts"].values())
    _survey(task, found, block)
    return found


def _rounded(size: int, block: int) -> int:
    return -(-size // block) * block


def _pool_of(task: SetExport, manifest: dict[str, Any]) -> Pool:
    """Return the pool that has the objects of a set: the one that its part names, else the one of its passphrase."""
    name = manifest["parts"]["blobs"].get("pool")
    if name is None:
        name = manifest["authentication"]["key_id"] if manifest["authenticated"] else UNENCRYPTED
    name = str(name)
    if name == UNENCRYPTED:
        return Pool(task.repository, task.central, None)
    if len(name) != 2 * _manifest.KEY_ID_BYTES or not set(name) <= set("0123456789abcdef"):
        raise CentralError("not_a_set", f"The manifest names the pool {name!r}, which cannot be the name of one.")
    return Pool(task.repository, task.central, name)


def _survey(task: SetExport, found: Found, block: int) -> None:
    """See which objects there are, by their files."""
    part = found.manifest["parts"].get("blobs")
    if part is None:
        return
    path = os.path.join(found.entry.path, part["file"])
    check_file(path, "blobs", part["size"], part["sha256"])
    pool = found.pool = _pool_of(task, found.manifest)
    problems = Problems()
    for entry in read_blob_list(path):
        if entry.absent is not None:
            found.absent += 1
            continue
        found.objects += 1
        stored = _stored_size(pool, entry)
        if stored is None:
            problems.add_missing(entry)
        elif entry.size is not None and pool.content_size(stored) != entry.size:
            problems.add_wrong(entry)
        else:
            found.needed += _rounded(stored, block) + _OVERHEAD
    problems.judge(found)
    if not found.objects:
        found.pool = None


def _stored_size(pool: Pool, entry: BlobEntry) -> int | None:
    path = pool.object_path(entry)
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise reading_error(error, path) from error
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def rclone_for(task: SetExport, found: Found) -> Rclone | None:
    """Return rclone, which reads what is encrypted; None where nothing is.

    :raises CentralError: ``missing_rclone``; ``wrong_passphrase`` where there is none
    """
    if found.pool is None or not found.pool.encrypted:
        return None
    if task.passphrase is None:
        raise CentralError(
            "wrong_passphrase",
            f"The objects of the set {found.entry.set_id} are encrypted with a passphrase, and none was given. "
            "Give passphrase or passphrase_file.",
        )
    return find_rclone(task.rclone_path)


def salt_of(task: SetExport, found: Found) -> bytes | None:
    """Return the salt of the key ids, so that the pool's name is right in the export too."""
    if found.manifest["authenticated"]:
        return bytes.fromhex(found.manifest["authentication"]["key_id_salt"])
    return task.repository.key_id_salt(task.central) if found.pool and found.pool.encrypted else None
