# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check mode of a backup of objects: what would be fetched, and whether the S3 server has it. Nothing is changed.

The objects are asked for by name, as in the backup, so the keys need no other right. Of many, the first are asked for.
"""

from __future__ import annotations

import itertools
import os
import time
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._blob_backup import BlobBackup
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry
from ansible_collections.odkops.central.plugins.module_utils._blob_survey import looked_up, survey
from ansible_collections.odkops.central.plugins.module_utils._bucket import Bucket, Look
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pool_index import PoolIndex
from ansible_collections.odkops.central.plugins.module_utils._pool_reread import share

#: so many of the objects that would be fetched are asked for
ASKED_FOR = 1000

_SHOWN = 20


def rehearse(task: BlobBackup, temporary: str) -> dict[str, Any]:
    """Say what :func:`back_up` would do, and change nothing.

    :param temporary: a directory for lists of names
    :returns: ``objects``, ``would_fetch``, ``would_fetch_size`` (bytes, as far as known), ``would_read_again``, ``asked_for``
        (how many of those to be fetched the S3 server was asked for; it has them), ``warnings``
    :raises CentralError: as :func:`back_up`, as far as can be told without fetching: ``missing_blob``, ``s3_refused``,
        ``s3_failed``, ``disk_full``, ``missing_rclone`` and others
    """
    if not os.path.exists(task.list_path):
        return {"warnings": ["There is no list of objects yet, so what would be fetched is not known."]}
    asked = 0
    with PoolIndex.copy_of(task.pool.index_path) as index:
        task.pool.compare(index)
        found = survey(task.list_path, index, None, {})
        number = share(index, task.days, int(time.time()))
        if found.needed or number:
            task.rclone()
        if found.needed:
            wanted = (entry for entry, known in looked_up(task.list_path, index) if known is None)
            asked = _ask(task, list(itertools.islice(wanted, ASKED_FOR)), temporary)
            _check_room(task, found.needed, found.needed_size)
    return {
        "objects": found.objects,
        "would_fetch": found.needed,
        "would_fetch_size": found.needed_size,
        "would_read_again": number,
        "asked_for": asked,
    }


def _ask(task: BlobBackup, entries: list[BlobEntry], temporary: str) -> int:
    """Ask the S3 server for each of `entries`; returns their number."""
    settings = task.settings()
    secrets = () if task.passphrase is None else (task.passphrase,)
    look = Bucket(task.rclone(), settings, temporary, task.options, secrets).look(entries)
    missing = [one for one in entries if one.name not in look.there and one.id not in task.known_missing]
    if missing and task.still_there is not None:
        there = task.still_there([one.id for one in missing])
        missing = [one for one in missing if one.id in there]
    wrong = [one for one in entries if _differs(one, look)]
    if not missing and not wrong:
        return len(entries)
    where = f"{settings.server}, bucket {settings.bucket}"
    details = {
        "missing": len(missing),
        "missing_objects": [one.name for one in missing[:_SHOWN]],
        "wrong": len(wrong),
        "wrong_objects": [one.name for one in wrong[:_SHOWN]],
    }
    if not look.there and all(one.name in look.denied for one in missing):
        raise CentralError(
            "s3_refused",
            f"The S3 server refuses each of the {len(entries)} objects that it was asked for ({where}). Check that the policy "
            "allows s3:GetObject. Where the keys may not list the bucket, objects that do not exist are refused as well.",
            **details,
        )
    sentences = []
    if missing:
        sentences.append(f"{len(missing)} of the {len(entries)} objects that were asked for are not in S3 ({where}):")
        sentences.append(_names(missing))
    if wrong:
        sentences.append(f"{len(wrong)} do not have the size that the database says: {_names(wrong)}")
    if not look.there:
        sentences.append(
            "Check the bucket and the prefix: it looks as if this were not where the Central keeps its objects."
        )
    raise CentralError("missing_blob", " ".join([*sentences, "A backup would fail."]), **details)


def _differs(entry: BlobEntry, look: Look) -> bool:
    stored = look.there.get(entry.name)
    return stored is not None and entry.size is not None and stored.size != entry.size


def _names(entries: list[BlobEntry]) -> str:
    return ", ".join(entry.name for entry in entries[:5]) + (", ..." if len(entries) > 5 else "") + "."


def _check_room(task: BlobBackup, number: int, size: int) -> None:
    free = task.pool.free()
    if size > free:
        raise CentralError(
            "disk_full",
            f"The {number} objects to fetch need {size} bytes, and {task.pool.path} has room for {free}. Make room there.",
            needed=size,
            free=free,
        )
