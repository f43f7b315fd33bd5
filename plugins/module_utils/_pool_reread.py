# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a pool again: what was right when it came may be damaged since.

Each run reads a share, those read longest ago first, as large as the time that has passed since the last one: after the
days of a round all have been read. What has not been read for longer than a round, or never as far as the index knows, is read
in any case.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ansible_collections.odkops.central.plugins.module_utils._blob_fetch import PoolRemote, hash_files
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry
from ansible_collections.odkops.central.plugins.module_utils._pool import Pool
from ansible_collections.odkops.central.plugins.module_utils._pool_index import PoolIndex
from ansible_collections.odkops.central.plugins.module_utils._rclone import Rclone

DAY = 24 * 3600

#: the index keeps under this name when a share was last read
LAST = "reread"

_BATCH = 5000


@dataclass
class Reread:
    """What has come of reading again."""

    #: how many were read
    objects: int = 0
    #: those that are not what they were, and were set aside
    damaged: list[BlobEntry] = field(default_factory=list)


def share(index: PoolIndex, days: int, now: int) -> int:
    """Return how many objects are to be read again now.

    :param days: of a round; 0 to read all of them
    """
    total, _size = index.count()
    if days == 0:
        return total
    last = index.fact(LAST)
    passed = 0 if last is None else max(0, now - last)
    by_time = min(total, total * passed // (days * DAY))
    return max(by_time, index.overdue(now - days * DAY))


def reread(pool: Pool, index: PoolIndex, rclone: Rclone, passphrase: str | None, number: int) -> Reread:
    """Read the `number` objects again that were read longest ago. The pool is locked.

    What is damaged is moved out of the way and out of the index, so that it can be fetched again.

    :raises CentralError: ``rclone_failed``, ``disk_full``, ``destination_not_writable``
    """
    result = Reread()
    remote = PoolRemote(passphrase, pool.objects)
    while number > 0 and (entries := index.oldest_entries(min(number, _BATCH))):
        number -= len(entries)
        now = int(time.time())
        good, bad = _read(pool, rclone, remote, entries)
        if bad:
            # Once more: a disk may fail to answer in time, and damaged is a strong word.
            again, bad = _read(pool, rclone, remote, bad)
            good += again
        index.was_read(good, now)
        if bad:
            pool.set_aside(bad)
            index.forget(bad)
        result.objects += len(entries)
        result.damaged += bad
    return result


def begin_round(index: PoolIndex, now: int) -> None:
    """Note that a share was read, or that the first objects have come."""
    index.keep(LAST, now)


def _read(
    pool: Pool, rclone: Rclone, remote: PoolRemote, entries: list[BlobEntry]
) -> tuple[list[BlobEntry], list[BlobEntry]]:
    # The MD5 is asked for where the index was made anew and does not have it.
    kinds = ["sha1"] if all(entry.md5 is not None for entry in entries) else ["sha1", "md5"]
    with pool.staging() as staging:
        names = staging.write_names(pool.relative_name(entry) for entry in entries)
        found, _problems = hash_files(rclone, remote, staging.path, kinds, names)
    good, bad = [], []
    for entry in entries:
        hashes = found.get(pool.relative_name(entry), {})
        right = hashes.get("sha1") == entry.sha1
        if right and (entry.md5 is None or hashes.get("md5", entry.md5) == entry.md5):
            good.append(entry._replace(md5=hashes.get("md5", entry.md5)))
        else:
            bad.append(entry)
    return good, bad
