# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting the objects of a Central back: what its database needs and the bucket lacks goes there from the pool.

Three passes, each in batches, so that memory does not depend on the number of objects: the bucket is asked for all of them; those
that it lacks are read in the pool through the decryption; and only then they are sent, each batch looked at afterwards.
So whatever is wrong with the pool is known before anything is sent. Nothing in the bucket is ever overwritten or deleted.
"""

from __future__ import annotations

import itertools
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from ansible_collections.odkops.central.plugins.module_utils._blob_fetch import (
    PAUSE,
    FetchOptions,
    PoolRemote,
    hash_files,
)
from ansible_collections.odkops.central.plugins.module_utils._blob_list import (
    BlobEntry,
    BlobListWriter,
    read_blob_list,
)
from ansible_collections.odkops.central.plugins.module_utils._bucket import Bucket, Look, Stored
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pool import Pool
from ansible_collections.odkops.central.plugins.module_utils._rclone import Rclone, S3Settings
from ansible_collections.odkops.central.plugins.module_utils._rclone_run import DENIED
from ansible_collections.odkops.central.plugins.module_utils._s3_place import S3Place

_SHOWN = 20


@dataclass(frozen=True)
class BlobRestore:
    """What is to be done.

    :param pool: where the objects come from
    :param passphrase: None for a pool that is not encrypted
    :param list_path: the objects that the database needs, see _blob_list.py
    :param temporary: a directory for lists of names
    :param allow_missing: send what there is, although the pool lacks some that are needed
    """

    pool: Pool
    passphrase: Optional[str]
    list_path: str
    settings: S3Settings
    rclone: Callable[[], Rclone]
    temporary: str
    options: FetchOptions = field(default_factory=FetchOptions)
    allow_missing: bool = False


@dataclass
class _Names:
    """Objects with something wrong: how many, and the names of the first ones."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.first) < _SHOWN:
            self.first.append(name)

    def __str__(self) -> str:
        return ", ".join(self.first) + (", ..." if self.count > len(self.first) else "")


def restore_blobs(task: BlobRestore, check_mode: bool = False) -> dict[str, Any]:
    """Put back what the bucket lacks, or say what would be.

    :returns: ``changed``, ``objects`` (that the list names), ``absent`` (of which the list itself says that the backup does not
        have them), ``present`` (in the bucket before), ``sent``, ``sent_size`` (bytes), ``missing`` and ``missing_objects``,
        ``damaged`` and ``damaged_objects`` (needed, and not whole in the pool), ``s3``, ``pool``, ``encrypted``, ``warnings``; in
        check mode ``would_send``, ``would_send_size``, ``would_send_objects`` (the first 20 names) instead of ``sent*``
    :raises CentralError: ``missing_blob`` and ``blob_differs`` before anything is sent; ``s3_refused``, ``s3_failed``,
        ``rclone_failed``, ``missing_rclone``; what was sent stays in the bucket
    """
    return _Run(task).run(check_mode)


class _Run:
    def __init__(self, task: BlobRestore) -> None:
        self._task = task
        self._objects = self._absent = self._present = self._denied = 0
        self._missing, self._damaged, self._wrong = _Names(), _Names(), _Names()
        self._lacking = _Names()
        self._lacking_size = self._sent = self._sent_size = 0

    def run(self, check_mode: bool) -> dict[str, Any]:
        task = self._task
        with tempfile.TemporaryDirectory(dir=task.temporary) as directory:
            lacking, good = (os.path.join(directory, name) for name in ("lacking.jsonl", "good.jsonl"))
            bucket = Bucket(task.rclone(), task.settings, directory, task.options, (task.passphrase or "",))
            with BlobListWriter(lacking) as writer:
                self._survey(bucket, writer)
                writer.commit()
            self._judge()
            if check_mode or not self._lacking.count:
                return self._result(check_mode)
            with BlobListWriter(good) as writer:
                self._read_pool(lacking, writer, directory)
                writer.commit()
            self._judge()
            self._send(bucket, good)
        return self._result(False)

    # --- what is there ------------------------------------------------------------------------------------------

    def _survey(self, bucket: Bucket, writer: BlobListWriter) -> None:
        for batch in _batches(read_blob_list(self._task.list_path), self._task.options.batch_objects):
            wanted = []
            for entry in batch:
                self._objects += 1
                if entry.absent is None:
                    wanted.append(self._with_size(entry))
                else:
                    self._absent += 1
            if not wanted:
                continue
            look = bucket.look(wanted)
            self._denied += len(look.denied)
            self._compare(bucket, wanted, look)
            for entry in wanted:
                if entry.name not in look.there:
                    self._take(entry, writer)

    def _with_size(self, entry: BlobEntry) -> BlobEntry:
        """The list of a dump does not always have the size; the pool has it."""
        if entry.size is not None:
            return entry
        stored = self._stored(entry)
        return entry if stored is None else entry._replace(size=stored)

    def _stored(self, entry: BlobEntry) -> int | None:
        """Return the size of an object's content in the pool; None where it is not there."""
        try:
            found = os.lstat(self._task.pool.object_path(entry))
        except OSError:
            return None
        return self._task.pool.content_size(found.st_size) if stat.S_ISREG(found.st_mode) else None

    def _compare(self, bucket: Bucket, wanted: list[BlobEntry], look: Look) -> None:
        """Hold what is in the bucket against what is needed."""
        doubtful = []
        for entry in wanted:
            stored = look.there.get(entry.name)
            if stored is None:
                continue
            self._present += 1
            if entry.size is not None and stored.size != entry.size:
                self._wrong.add(f"{entry.name} ({stored.size} bytes instead of {entry.size})")
            elif not _same_md5(entry, stored):
                doubtful.append(entry)
        # What a server gives as MD5 may be something else, as of what it has encrypted itself. The SHA-1 tells.
        found = bucket.sha1(doubtful) if doubtful else {}
        for entry in doubtful:
            if found.get(entry.name) != entry.sha1:
                self._wrong.add(f"{entry.name} (another content)")

    def _take(self, entry: BlobEntry, writer: BlobListWriter) -> None:
        """Note an object that the bucket lacks."""
        stored = self._stored(entry)
        if stored is None:
            self._missing.add(entry.name)
        elif stored < 0 or (entry.size is not None and stored != entry.size):
            self._damaged.add(entry.name)
        else:
            writer.add(entry)
            self._lacking.add(entry.name)
            self._lacking_size += stored

    def _read_pool(self, lacking: str, writer: BlobListWriter, directory: str) -> None:
        """Read what is to be sent; only what has its SHA-1 gets into the list of `writer`."""
        pool, rclone = self._task.pool, self._task.rclone()
        remote = PoolRemote(self._task.passphrase if pool.encrypted else None, pool.objects)
        names = os.path.join(directory, "names")
        for batch in _batches(read_blob_list(lacking), self._task.options.batch_objects):
            with open(names, "w", encoding="ascii") as file:
                file.writelines(f"{pool.relative_name(entry)}\n" for entry in batch)
            found, _problems = hash_files(rclone, remote, directory, ["sha1"], names)
            for entry in batch:
                if found.get(pool.relative_name(entry), {}).get("sha1") == entry.sha1:
                    writer.add(entry)
                else:
                    self._damaged.add(entry.name)

    def _judge(self) -> None:
        """Refuse to send anything where something is wrong."""
        details = {
            "missing": self._missing.count,
            "missing_objects": self._missing.first,
            "damaged": self._damaged.count,
            "damaged_objects": self._damaged.first,
        }
        if self._wrong.count:
            raise CentralError(
                "blob_differs",
                f"{self._wrong.count} object(s) in the bucket have the name of one that the database needs, and are something "
                f"else: {self._wrong}. Nothing was sent, and nothing is overwritten: move them away, and begin again.",
                differing=self._wrong.count,
                differing_objects=self._wrong.first,
                **details,
            )
        if (self._missing.count or self._damaged.count) and not self._task.allow_missing:
            raise CentralError("missing_blob", self._lost() + " Nothing was sent.", **details)

    def _lost(self) -> str:
        clauses = [
            f"{names.count} {what}: {names}"
            for names, what in ((self._missing, "missing"), (self._damaged, "damaged"))
            if names.count
        ]
        return (
            f"The database needs objects that neither the bucket has nor the pool {self._task.pool.path}, whole: "
            f"{'; '.join(clauses)}. Look for an older pool or another copy of it; allow_missing=true goes on with what there is."
        )

    # --- sending ------------------------------------------------------------------------------------------------

    def _send(self, bucket: Bucket, good: str) -> None:
        # Where the server does not say what there is, one object shows whether it can be seen when it is there.
        failed = self._send_all(bucket, read_blob_list(good), probe=self._denied > 0)
        if failed:
            time.sleep(PAUSE)
            failed = self._send_all(bucket, [entry for entry, _why in failed], probe=False)
        if failed:
            names = [entry.name for entry, _why in failed]
            raise CentralError(
                "s3_failed",
                f"{len(failed)} object(s) could not be sent, even at the second attempt: "
                f"{', '.join(f'{entry.name} ({why})' for entry, why in failed[:5])}{', ...' if len(failed) > 5 else ''}. "
                f"{self._sent} others were sent and are there. Begin again: what is there is not sent twice.",
                sent=self._sent,
                sent_size=self._sent_size,
                failed_objects=names[:_SHOWN],
            )

    def _send_all(self, bucket: Bucket, entries: Iterable[BlobEntry], probe: bool) -> list[tuple[BlobEntry, str]]:
        """Send objects; returns those that are not there afterwards, and why."""
        failed: list[tuple[BlobEntry, str]] = []
        iterator = iter(entries)
        options = self._task.options
        if probe:
            failed += self._send_batch(bucket, list(itertools.islice(iterator, 1)))
            if failed and failed[0][1] == _NOT_SEEN:
                raise CentralError(
                    "s3_refused",
                    f"The S3 server took {failed[0][0].name} and does not say that it is there (403). The keys need "
                    "s3:GetObject beside s3:PutObject, so that what was sent can be seen.",
                )
        for batch in _batches(iterator, options.batch_objects, options.batch_bytes):
            failed += self._send_batch(bucket, batch)
        return failed

    def _send_batch(self, bucket: Bucket, batch: list[BlobEntry]) -> list[tuple[BlobEntry, str]]:
        said = bucket.send(self._task.pool, self._task.passphrase, batch, hopeful=self._sent > 0)
        look = bucket.look(batch)
        failed = []
        for entry in batch:
            stored = look.there.get(entry.name)
            if stored is None:
                line = said.get(entry.name)
                why = _NOT_SEEN if line is None and entry.name in look.denied else "it is not there afterwards"
                failed.append((entry, why if line is None else bucket.shortened(line.message)))
            elif stored.size != entry.size:
                failed.append((entry, f"it has {stored.size} bytes there"))
            elif not _same_md5(entry, stored) and bucket.sha1([entry]).get(entry.name) != entry.sha1:
                failed.append((entry, "it has another content there"))
            else:
                self._sent += 1
                self._sent_size += stored.size
        return failed

    # --- result -------------------------------------------------------------------------------------------------

    def _result(self, check_mode: bool) -> dict[str, Any]:
        task, warnings = self._task, []
        if self._missing.count or self._damaged.count:
            warnings.append(self._lost())
        if self._denied and check_mode:
            warnings.append(
                f"The S3 server does not say of {self._denied} object(s) whether they are there (403), as where the keys may not "
                "list the bucket, or are wrong. They count as not there."
            )
        if check_mode:
            done = {
                "changed": self._lacking.count > 0,
                "would_send": self._lacking.count,
                "would_send_size": self._lacking_size,
                "would_send_objects": self._lacking.first,
            }
        else:
            done = {"changed": self._sent > 0, "sent": self._sent, "sent_size": self._sent_size}
        return {
            **done,
            "objects": self._objects,
            "absent": self._absent,
            "present": self._present,
            "missing": self._missing.count,
            "missing_objects": self._missing.first,
            "damaged": self._damaged.count,
            "damaged_objects": self._damaged.first,
            "s3": S3Place.of(task.settings).as_dict(),
            "pool": task.pool.name,
            "encrypted": task.pool.encrypted,
            "warnings": warnings,
        }


_NOT_SEEN = DENIED


def _same_md5(entry: BlobEntry, stored: Stored) -> bool:
    """Whether nothing speaks against it, as far as both are known."""
    return entry.md5 is None or stored.md5 is None or entry.md5 == stored.md5


def _batches(entries: Iterable[BlobEntry], objects: int, size: int | None = None) -> Iterator[list[BlobEntry]]:
    """Give `entries` in lists of so many objects at most, or of so many bytes and the object that passes them."""
    batch: list[BlobEntry] = []
    total = 0
    for entry in entries:
        batch.append(entry)
        total += entry.size or 0
        if len(batch) >= objects or (size is not None and total >= size):
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
