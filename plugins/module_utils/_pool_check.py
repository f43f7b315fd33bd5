# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The objects of a set's list against the pool: is each there, and is it what its name says. Nothing is written."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Callable

from ansible_collections.odkops.central.plugins.module_utils._blob_fetch import PoolRemote, hash_files
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry, read_blob_list
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pool import Pool
from ansible_collections.odkops.central.plugins.module_utils._rclone import Rclone

#: each object is decrypted and hashed
CONTENT = "content"
#: each object is there, and its size is right
PRESENCE = "presence"
DEPTHS = (CONTENT, PRESENCE)

_BATCH = 5000
_SHOWN = 20


@dataclass
class Compared:
    """What was found in the pool.

    :param checked: number of objects that were looked for
    :param absent: number of those of which the list itself says that they are not there: purged, or known to be lost
    :param size: bytes of the objects that were looked for
    :param missing: names of objects that are not there
    :param wrong: names of objects that are not what they were
    """

    checked: int = 0
    absent: int = 0
    size: int = 0
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def check_objects(
    pool: Pool,
    list_path: str,
    passphrase: str | None,
    depth: str,
    rclone: Callable[[], Rclone],
    temporary: str,
) -> dict[str, Any]:
    """Look for each object of the list in the file `list_path`.

    :param depth: :data:`CONTENT` or :data:`PRESENCE`
    :param temporary: a directory for lists of names
    :returns: ``checked``, ``absent`` (the list says so itself: purged, or known to be lost), ``size`` (bytes), ``depth``
    :raises CentralError: ``missing_blob``, ``corrupt``, ``rclone_failed``, ``unreadable``
    """
    found = compare_objects(pool, read_blob_list(list_path), passphrase, depth, rclone, temporary)
    if found.missing or found.wrong:
        raise lost(pool, found)
    return {"checked": found.checked, "absent": found.absent, "size": found.size, "depth": depth}


def compare_objects(
    pool: Pool,
    entries: Iterable[BlobEntry],
    passphrase: str | None,
    depth: str,
    rclone: Callable[[], Rclone],
    temporary: str,
) -> Compared:
    """Look for each of these objects; the parameters are those of :func:`check_objects`.

    :raises CentralError: ``rclone_failed``, and what `entries` raises
    """
    found = Compared()
    for batch in _batches(entries):
        there = []
        for entry in batch:
            if entry.absent is not None:
                found.absent += 1
                continue
            found.checked += 1
            found.size += entry.size or 0
            problem = _stored(pool, entry)
            if problem is None:
                there.append(entry)
            else:
                (found.missing if problem == "missing" else found.wrong).append(entry.name)
        if depth == CONTENT and there:
            found.wrong += _damaged(pool, there, passphrase, rclone(), temporary)
    return found


def _batches(entries: Iterable[BlobEntry]) -> Iterator[list[BlobEntry]]:
    left = iter(entries)
    while batch := list(itertools.islice(left, _BATCH)):
        yield batch


def _stored(pool: Pool, entry: BlobEntry) -> str | None:
    """Say what is wrong with the file of an object, or None."""
    try:
        found = os.lstat(pool.object_path(entry))
    except OSError:
        return "missing"
    if not stat.S_ISREG(found.st_mode):
        return "missing"
    return None if entry.size is None or pool.content_size(found.st_size) == entry.size else "wrong"


def _damaged(pool: Pool, entries: list[BlobEntry], passphrase: str | None, rclone: Rclone, temporary: str) -> list[str]:
    """Read objects through the decryption; return the names of those that are not what they were."""
    names = os.path.join(temporary, "names")
    with open(os.open(names, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        file.writelines(f"{pool.relative_name(entry)}\n" for entry in entries)
    remote = PoolRemote(passphrase if pool.encrypted else None, pool.objects)
    found, _problems = hash_files(rclone, remote, temporary, ["sha1"], names)
    return [entry.name for entry in entries if found.get(pool.relative_name(entry), {}).get("sha1") != entry.sha1]


def lost(pool: Pool, found: Compared) -> CentralError:
    """What to say of objects that are missing or wrong: ``missing_blob``, with the first names as details."""
    missing, wrong = found.missing, found.wrong
    clauses = [
        f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''}"
        for names, what in ((missing, "missing"), (wrong, "damaged"))
        if names
    ]
    return CentralError(
        "missing_blob",
        f"Objects of the set are not in the pool {pool.path} as they were: {'; '.join(clauses)}. The next backup fetches again "
        "what the Central still has in S3.",
        missing=len(missing),
        missing_objects=missing[:_SHOWN],
        wrong=len(wrong),
        wrong_objects=wrong[:_SHOWN],
    )
