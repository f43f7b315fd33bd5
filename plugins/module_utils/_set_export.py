# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Exporting a set: one directory with the set and its objects, for handing on.

::

    <dest>/README.txt                                  how to open it without this collection
    <dest>/SHA256SUMS                                  of everything else, for sha256sum --check
    <dest>/<central>/key-id.salt
    <dest>/<central>/sets/<set id>/                    the set, byte for byte
    <dest>/<central>/pool/<key id>/objects/            the objects that its blobs.jsonl names, as they are in the pool

This is the layout of a repository, so everything that reads one reads an export. See docs/export.md.

Each part is compared with the manifest while it is copied, and read back. Objects are copied as they are, encrypted, and
the copies are read through the decryption: the SHA-1 must be the one in the name.

The pool is not locked: runs that fetch into it change nothing that is there, and what is taken away meanwhile is missed.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils import _manifest, _set_export_readme
from ansible_collections.odkops.central.plugins.module_utils._blob_fetch import PoolRemote, hash_files
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry, read_blob_list
from ansible_collections.odkops.central.plugins.module_utils._directories import is_real_directory
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, reading_error, writing_error
from ansible_collections.odkops.central.plugins.module_utils._pool import POOL, Pool
from ansible_collections.odkops.central.plugins.module_utils._rclone import Rclone
from ansible_collections.odkops.central.plugins.module_utils._repository import KEY_ID_SALT_FILE, SETS, Repository
from ansible_collections.odkops.central.plugins.module_utils._seal import check_file
from ansible_collections.odkops.central.plugins.module_utils._set_export_files import (
    ExportDirectory,
    check_room,
    forget_cached,
)
from ansible_collections.odkops.central.plugins.module_utils._set_export_look import (
    Found,
    Problems,
    SetExport,
    check_destination,
    look,
    rclone_for,
    salt_of,
)

#: so many objects are copied, made durable and read back at a time
BATCH = 5000

_CHUNK = 1024 * 1024
#: the list of names for rclone, while the export is made
_NAMES = ".names"


def export_set(task: SetExport) -> dict[str, Any]:
    """Write the export, all of it or nothing.

    :returns: ``path``, ``set_id``, ``authenticated``, ``files``, ``objects``, ``objects_absent``, ``total_size`` (bytes),
        ``warnings``
    :raises CentralError: ``destination_exists``, ``destination_not_writable``, ``disk_full``, ``set_not_found``,
        ``not_a_set``, ``tampered``, ``wrong_passphrase``, ``unauthenticated``, ``missing_part``, ``missing_blob``,
        ``corrupt``, ``missing_rclone``, ``rclone_failed`` and others; nothing is left then
    """
    check_destination(task)
    found = look(task)
    rclone = rclone_for(task, found)
    check_room(os.path.dirname(task.dest), found.needed, found.files)
    with ExportDirectory(task.dest) as directory:
        _Run(task, found, directory, rclone).run()
        return _result(task, found, files=directory.files, total_size=directory.size)


def rehearse(task: SetExport) -> dict[str, Any]:
    """Say what :func:`export_set` would do, and change nothing. Parts are read and checked, objects are not read.

    :returns: as :func:`export_set`, with ``needed`` and ``free`` (bytes) instead of ``total_size``
    :raises CentralError: as :func:`export_set`, as far as can be told without reading the objects
    """
    check_destination(task)
    found = look(task)
    rclone_for(task, found)
    for name, part in found.manifest["parts"].items():
        check_file(os.path.join(found.entry.path, part["file"]), name, part["size"], part["sha256"])
    free = check_room(os.path.dirname(task.dest), found.needed, found.files)
    files = found.files - (salt_of(task, found) is None)
    return _result(task, found, files=files, needed=found.needed, free=free)


def _result(task: SetExport, found: Found, **numbers: int) -> dict[str, Any]:
    return {
        "path": task.dest,
        "set_id": found.entry.set_id,
        "authenticated": found.authenticated,
        "objects": found.objects,
        "objects_absent": found.absent,
        **numbers,
        "warnings": found.warnings,
    }


class _Run:
    def __init__(self, task: SetExport, found: Found, directory: ExportDirectory, rclone: Rclone | None) -> None:
        self._task, self._found, self._directory, self._rclone = task, found, directory, rclone
        self._set = f"{task.central}/{SETS}/{found.entry.set_id}"
        self._problems = Problems()

    def run(self) -> None:
        manifest_path = os.path.join(self._found.entry.path, _manifest.MANIFEST_FILE)
        manifest = _read_again(manifest_path, self._found.manifest)
        self._directory.make(self._set)
        self._directory.add(_set_export_readme.NAME, self._readme())
        salt = salt_of(self._task, self._found)
        if salt is not None:
            self._directory.add(f"{self._task.central}/{KEY_ID_SALT_FILE}", salt.hex().encode("ascii") + b"\n")
        for name, part in self._found.manifest["parts"].items():
            self._copy_part(name, part)
        if self._found.pool is not None:
            self._copy_objects(self._found.pool)
        self._directory.finish(f"{self._set}/{_manifest.MANIFEST_FILE}", manifest)

    def _readme(self) -> bytes:
        found = self._found
        objects = None
        if found.pool is not None:
            objects = f"{self._task.central}/{POOL}/{found.pool.name}/{os.path.basename(found.pool.objects)}"
        return _set_export_readme.render(
            _set_export_readme.Exported(
                manifest=found.manifest,
                set_path=self._set,
                objects_path=objects,
                objects=found.objects,
                objects_encrypted=found.pool is not None and found.pool.encrypted,
                absent=found.absent,
            )
        )

    def _copy_part(self, name: str, part: dict[str, Any]) -> None:
        source = os.path.join(self._found.entry.path, part["file"])
        target = f"{self._set}/{part['file']}"
        copied = self._directory.copy(source, target, durable=True)
        if copied is None or copied != (part["size"], part["sha256"]):
            check_file(source, name, part["size"], part["sha256"])
            raise CentralError("unreadable", f"{source} changed while it was copied. Try again.")
        try:
            check_file(self._directory.path_of(target), name, part["size"], part["sha256"])
        except CentralError as error:
            raise _came_back_changed(self._task.dest) from error

    def _copy_objects(self, pool: Pool) -> None:
        copy = Repository(self._directory.path)
        target = Pool(copy, self._task.central, pool.name if pool.encrypted else None)
        part = self._found.manifest["parts"]["blobs"]
        wanted = (
            entry
            for entry in read_blob_list(self._directory.path_of(f"{self._set}/{part['file']}"))
            if entry.absent is None
        )
        while batch := list(itertools.islice(wanted, BATCH)):
            self._copy_batch(batch, pool, target, copy.path)
        self._problems.judge(self._found)

    def _copy_batch(self, batch: list[BlobEntry], pool: Pool, target: Pool, root: str) -> None:
        shards: set[str] = set()
        copied = []
        for entry in batch:
            path = target.object_path(entry)
            if os.path.lexists(path):
                continue  # a list of another program may name one twice
            name = os.path.relpath(path, root)
            shard = pool.shard_path(entry)
            if shard not in shards:
                is_real_directory(shard)
                self._directory.make(os.path.dirname(name))
                shards.add(shard)
            if self._directory.copy(pool.object_path(entry), name) is None:
                self._problems.add_missing(entry)
            else:
                copied.append(entry)
        self._directory.sync()
        for entry in copied:
            forget_cached(target.object_path(entry))
        wrong = self._wrong(copied, target)
        if wrong:
            # Once more: a disk may fail to answer in time, and damaged is a strong word.
            wrong = self._wrong(wrong, target)
        for entry in wrong:
            self._problems.add_wrong(entry)

    def _wrong(self, entries: list[BlobEntry], target: Pool) -> list[BlobEntry]:
        """Return those of the copied objects whose content is not what their names say."""
        if self._rclone is None:
            return [entry for entry in entries if _sha1(target.object_path(entry)) != entry.sha1]
        names = self._directory.path_of(_NAMES)
        remote = PoolRemote(self._task.passphrase, target.objects)
        try:
            _write_names(names, (target.relative_name(entry) for entry in entries))
            hashes, _problems = hash_files(self._rclone, remote, self._directory.path, ["sha1"], names)
        finally:
            if os.path.lexists(names):
                os.unlink(names)
        return [entry for entry in entries if hashes.get(target.relative_name(entry), {}).get("sha1") != entry.sha1]


def _read_again(path: str, manifest: dict[str, Any]) -> bytes:
    """Return the bytes of the manifest that was checked."""
    try:
        with open(path, "rb") as file:
            data = file.read(_manifest.MAXIMUM_SIZE + 1)
    except OSError as error:
        raise reading_error(error, path) from error
    if _manifest.parse(data, path) != manifest:
        raise CentralError("tampered", f"{path} was changed while the set was looked at. Find out who writes there.")
    return data


def _came_back_changed(path: str) -> CentralError:
    return CentralError(
        "corrupt", f"What was written below {path} came back changed. Check the disk. Nothing was kept."
    )


def _write_names(path: str, names: Iterable[str]) -> None:
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.writelines(f"{name}\n" for name in names)
    except OSError as error:
        raise writing_error(error, path) from error


def _sha1(path: str) -> str | None:
    # What SHA-1 is used for here is Central's own choice.
    digest = hashlib.sha1(usedforsecurity=False)
    try:
        with open(path, "rb") as file:
            while data := file.read(_CHUNK):
                digest.update(data)
    except OSError:
        return None
    return digest.hexdigest()
