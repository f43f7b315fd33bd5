# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backing up the objects of a Central: from the list in its dump to a pool that has them all, and the list of the set."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Callable, Optional

from ansible_collections.odkops.central.plugins.module_utils._blob_fetch import (
    WRONG,
    Fetched,
    Fetcher,
    FetchOptions,
    Problem,
)
from ansible_collections.odkops.central.plugins.module_utils._blob_list import (
    KNOWN,
    PURGED,
    BlobEntry,
    BlobListWriter,
)
from ansible_collections.odkops.central.plugins.module_utils._blob_survey import (
    Survey,
    looked_up,
    names_nothing,
    survey,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, writing_error
from ansible_collections.odkops.central.plugins.module_utils._pool import Difference, Pool
from ansible_collections.odkops.central.plugins.module_utils._pool_index import CHUNK, PoolIndex
from ansible_collections.odkops.central.plugins.module_utils._pool_reread import (
    LAST,
    Reread,
    begin_round,
    reread,
    share,
)
from ansible_collections.odkops.central.plugins.module_utils._rclone import Rclone, S3Settings
from ansible_collections.odkops.central.plugins.module_utils._rclone_run import DENIED, MISSING
from ansible_collections.odkops.central.plugins.module_utils._set_names import utc_text

#: Given ids, returns those that the live database still has.
StillThere = Callable[[list[int]], "set[int]"]

_SHOWN = 20


@dataclass(frozen=True)
class BlobBackup:
    """What is to be done.

    :param pool: where the objects go
    :param passphrase: None for a pool that is not encrypted
    :param list_path: the list of the objects that the dump names, see _blob_list.py
    :param dest: where the list of the set goes; may be `list_path`, which it replaces then
    :param settings: asked for when something has to be fetched
    :param rclone: asked for when it is needed
    :param still_there: asked about objects that are missing; None where nobody can be asked
    :param days: of a round of reading the whole pool again; 0 to read all of it now
    :param known_missing: ids of objects that are lost, as the administrator knows
    """

    pool: Pool
    passphrase: Optional[str]
    list_path: str
    dest: str
    settings: Callable[[], S3Settings]
    rclone: Callable[[], Rclone]
    still_there: Optional[StillThere] = None
    options: FetchOptions = field(default_factory=FetchOptions)
    days: int = 30
    known_missing: frozenset[int] = frozenset()


@dataclass
class _Absent:
    """Objects that the dump names and the set does without, by id."""

    reasons: dict[int, str] = field(default_factory=dict)

    def count(self, reason: str) -> int:
        return sum(1 for found in self.reasons.values() if found == reason)


def back_up(task: BlobBackup) -> dict[str, Any]:
    """Bring the pool up to the list, read a share of it again, and write the list of the set.

    :returns: the facts of the part, as the module returns them
    :raises CentralError: ``missing_blob``, ``s3_refused``, ``s3_failed``, ``disk_full``, ``missing_rclone``, ``rclone_failed``,
        ``pool_busy``, ``corrupt`` and others; what was fetched and verified stays in the pool
    """
    if names_nothing(task.list_path):
        return nothing(task.list_path, task.dest)
    task.pool.prepare()
    try:
        with PoolIndex(task.pool.index_path) as index:
            return _Run(task, index).run()
    finally:
        task.pool.release()


def nothing(list_path: str, dest: str, check_mode: bool = False) -> dict[str, Any]:
    """Return the result for an empty list: there is no part, and no draft of its list is left."""
    draft = os.path.abspath(list_path) == os.path.abspath(dest)
    if draft and not check_mode:
        try:
            os.unlink(list_path)
        except OSError as error:
            raise writing_error(error, list_path) from error
    return {"changed": draft, "objects": 0, "objects_size": 0, "fetched": 0, "notes": []}


class _Run:
    def __init__(self, task: BlobBackup, index: PoolIndex) -> None:
        self._task, self._index = task, index
        self._absent = _Absent()
        self._warnings: list[str] = []
        self._notes: list[str] = []
        self._fetched = Fetched()
        self._reread = Reread()

    def run(self) -> dict[str, Any]:
        difference = self._task.pool.compare(self._index)
        if self._index.rebuilt:
            self._warnings.append(
                "The index of the pool was damaged. It was made anew, and the whole pool was read again."
            )
        with contextlib.ExitStack() as stack:
            # In most runs nothing is new, and one pass over the list is enough.
            writer, found = self._compile(stack)
            if found.needed:
                self._fetch()
            self._read_again()
            if found.needed or self._reread.damaged:
                writer, found = self._compile(stack)
            if found.needed:
                self._fetch()
                writer, found = self._compile(stack)
            if found.needed:
                raise AssertionError("objects are missing, and nobody has noticed")
            writer.commit()
        self._judge_losses(difference)
        return self._result(found, {"path": self._task.dest, "size": writer.size, "sha256": writer.sha256})

    def _compile(self, stack: contextlib.ExitStack) -> tuple[BlobListWriter, Survey]:
        """Write the list of the set, as the pool is now. It is not committed yet."""
        task = self._task
        replaces = os.path.abspath(task.list_path) == os.path.abspath(task.dest)
        writer = stack.enter_context(BlobListWriter(task.dest, clobber=replaces))
        found = survey(task.list_path, self._index, writer, self._absent.reasons)
        if found.differ:
            self._fail([Problem(entry, WRONG, "its MD5 is not the database's") for entry in found.differ])
        return writer, found

    def _fetch(self) -> None:
        task = self._task
        fetcher = Fetcher(task.pool, self._index, task.rclone(), task.settings(), task.passphrase, task.options)
        wanted = (
            entry
            for entry, known in looked_up(task.list_path, self._index)
            if known is None and entry.id not in self._absent.reasons
        )
        fetched = fetcher.fetch(wanted)
        self._fetched.objects += fetched.objects
        self._fetched.size += fetched.size
        self._resolve(fetched.problems)
        if self._index.fact(LAST) is None:
            begin_round(self._index, int(time.time()))

    def _resolve(self, problems: list[Problem]) -> None:
        """Tell losses from what was purged meanwhile."""
        missing = [problem for problem in problems if problem.kind in (MISSING, DENIED)]
        ids = [problem.entry.id for problem in missing if problem.entry.id not in self._task.known_missing]
        gone: set[int] = set()
        if ids and self._task.still_there is not None:
            gone = set(ids) - self._task.still_there(ids)
        left = []
        for problem in problems:
            if problem.entry.id in gone:
                self._absent.reasons[problem.entry.id] = PURGED
            elif problem.entry.id in self._task.known_missing:
                self._absent.reasons[problem.entry.id] = KNOWN
            else:
                left.append(problem)
        if left:
            self._fail(left)

    def _fail(self, problems: list[Problem]) -> None:
        missing = [problem for problem in problems if problem.kind in (MISSING, DENIED)]
        wrong = [problem for problem in problems if problem.kind == WRONG]
        others = [problem for problem in problems if problem.kind not in (MISSING, DENIED, WRONG)]
        details = {
            "fetched": self._fetched.objects,
            "missing": len(missing),
            "missing_objects": [problem.entry.name for problem in missing[:_SHOWN]],
            "wrong": len(wrong),
            "wrong_objects": [problem.entry.name for problem in wrong[:_SHOWN]],
        }
        kept = "What was fetched and found right stays in the pool."
        if others and not missing and not wrong:
            raise CentralError(
                "s3_failed",
                f"{len(others)} object(s) could not be fetched, even at the second attempt: {_named(others)}. {kept}",
                **details,
            )
        if not wrong and not others and not self._fetched.objects and all(one.kind == DENIED for one in missing):
            raise CentralError(
                "s3_refused",
                f"The S3 server refuses every object that was asked for: {_named(missing)}. Check that the policy allows "
                "s3:GetObject. Where the keys may not list the bucket, objects that do not exist are refused as well.",
                **details,
            )
        sentences = []
        if missing:
            asked = (
                "" if self._task.still_there else " (whether they were purged since the dump cannot be asked from here)"
            )
            sentences.append(
                f"{len(missing)} object(s) that the database names are not in S3{asked}: {_named(missing)}."
            )
        if wrong:
            sentences.append(f"{len(wrong)} object(s) are not what the database says: {_named(wrong)}.")
        sentences.append(f"known_missing_blobs accepts ids that are lost for good. {kept}")
        raise CentralError("missing_blob", " ".join(sentences), **details)

    def _read_again(self) -> None:
        task, index, now = self._task, self._index, int(time.time())
        number = share(index, task.days, now)
        if number > 0:
            self._reread = reread(task.pool, index, task.rclone(), task.passphrase, number)
            begin_round(index, now)

    def _judge_losses(self, difference: Difference) -> None:
        """Say what was lost from the pool, and what of that was not had back."""
        damaged = self._reread.damaged
        for entries, what in ((difference.lost, "were gone from the pool"), (damaged, "were damaged in the pool")):
            left = _not_back(self._index, entries)
            if entries:
                self._warnings.append(
                    f"{len(entries)} object(s) {what} ({_names(entries)}). {len(entries) - len(left)} of them were fetched again."
                )
            if left:
                self._warnings.append(
                    f"{len(left)} of them are no longer in S3 or in the database, so older sets that name them are incomplete: "
                    f"{_names(left)}."
                )
        if difference.foreign:
            self._warnings.append(
                f"The pool holds {len(difference.foreign)} file(s) that are none of its objects, such as "
                f"{difference.foreign[0]}. They are left alone."
            )
        purged, known = self._absent.count(PURGED), self._absent.count(KNOWN)
        if purged:
            self._notes.append(
                f"{purged} object(s) were purged from the Central after the dump, and are not in the pool."
            )
        if known:
            self._notes.append(f"{known} object(s) are lost, as known_missing_blobs says, and are not in the pool.")

    def _result(self, found: Survey, file: dict[str, Any]) -> dict[str, Any]:
        total, size = self._index.count()
        oldest = self._index.oldest()
        return {
            "format": "jsonl",
            **file,
            "objects": found.objects,
            "objects_size": found.size,
            "fetched": self._fetched.objects,
            "fetched_size": self._fetched.size,
            "purged": self._absent.count(PURGED),
            "known_missing": self._absent.count(KNOWN),
            "read_again": self._reread.objects,
            "damaged": len(self._reread.damaged),
            "oldest_read": None if oldest is None else utc_text(datetime.fromtimestamp(oldest, timezone.utc)),
            "pool": self._task.pool.name,
            "pool_path": self._task.pool.path,
            "pool_objects": total,
            "pool_size": size,
            "encrypted": self._task.pool.encrypted,
            "notes": self._warnings + self._notes,
            "warnings": self._warnings,
        }


def _not_back(index: PoolIndex, entries: list[BlobEntry]) -> list[BlobEntry]:
    left = []
    for start in range(0, len(entries), CHUNK):
        chunk = entries[start : start + CHUNK]
        known = index.find(chunk)
        left += [entry for entry in chunk if (entry.id, entry.sha1) not in known]
    return left


def _names(entries: Iterable[BlobEntry]) -> str:
    names = [entry.name for entry in itertools.islice(entries, _SHOWN + 1)]
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _named(problems: list[Problem]) -> str:
    shown = [f"{problem.entry.name} ({problem.why})" for problem in problems[:5]]
    return ", ".join(shown) + (", ..." if len(problems) > 5 else "")
