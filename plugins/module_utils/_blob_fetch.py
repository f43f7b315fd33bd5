# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetching objects from S3 into a pool: rclone copies and encrypts, what has arrived is read back, and only then taken in.

Objects come in batches. While one is being copied, the one before is hashed (through the decryption, so that this also
proves that the pool can be opened) and taken in. A killed run loses two batches at most.

The list of names decides, never the exit status: rclone passes over names that do not exist in silence.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Optional

from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, writing_error
from ansible_collections.odkops.central.plugins.module_utils._pool import Pool, Staging
from ansible_collections.odkops.central.plugins.module_utils._pool_index import PoolIndex, Row
from ansible_collections.odkops.central.plugins.module_utils._rclone import (
    POOL,
    Rclone,
    S3Settings,
    crypt_environment,
)
from ansible_collections.odkops.central.plugins.module_utils._rclone_run import (
    BUCKET,
    CREDENTIALS,
    DENIED,
    DISK_FULL,
    MISSING,
    UNREACHABLE,
    HashRun,
    LogLine,
    RcloneJob,
    shortened,
)

#: a batch has at most so many objects, and so many bytes as far as their sizes are known
BATCH_OBJECTS = 5000
BATCH_BYTES = 1024 * 1024 * 1024

#: of one kind of failure, so many before anything has arrived mean that nothing will
HOPELESS = 200

#: More failures than this are not worth the while: something else is wrong.
MAXIMUM_PROBLEMS = 20_000

#: before the second attempt, in seconds, where the network or the server may be the cause
PAUSE = 5.0

WRONG = "wrong"

# Kept free beside what is fetched, for the index and the set.
_RESERVE = 64 * 1024 * 1024


@dataclass(frozen=True)
class Problem:
    """Why an object could not be taken in."""

    entry: BlobEntry
    #: ``missing``, ``denied``, ``wrong`` or another word of _rclone_run.py
    kind: str
    #: what rclone said, or what differs
    why: str


@dataclass(frozen=True)
class FetchOptions:
    """How to fetch.

    :param transfers: how many objects at the same time
    :param bandwidth: rclone's ``--bwlimit``, such as ``10M`` (bytes per second); None for no limit
    """

    transfers: int = 32
    bandwidth: Optional[str] = None
    batch_objects: int = BATCH_OBJECTS
    batch_bytes: int = BATCH_BYTES


@dataclass
class Fetched:
    """What has come of it."""

    objects: int = 0
    #: of their contents
    size: int = 0
    problems: list[Problem] = field(default_factory=list)


class PoolRemote:
    """How rclone reaches a directory of a pool, or of its staging.

    :param passphrase: None for a pool that is not encrypted
    """

    def __init__(self, passphrase: str | None, directory: str) -> None:
        self.location = directory if passphrase is None else f"{POOL}:"
        self.environment = {} if passphrase is None else crypt_environment(passphrase, directory)


class Fetcher:
    """Fetches objects into `pool`, which is locked.

    :param index: gets what was taken in
    :raises CentralError: as its methods
    """

    def __init__(
        self,
        pool: Pool,
        index: PoolIndex,
        rclone: Rclone,
        settings: S3Settings,
        passphrase: str | None,
        options: FetchOptions | None = None,
    ) -> None:
        self._pool, self._index, self._rclone, self._settings = pool, index, rclone, settings
        self._passphrase = passphrase
        self._options = options or FetchOptions()
        self._secrets = (settings.access_key, settings.secret_key, passphrase or "")

    def fetch(self, entries: Iterable[BlobEntry]) -> Fetched:
        """Fetch `entries`, each failed one a second time.

        :raises CentralError: ``disk_full``, ``s3_refused``, ``s3_failed``, ``rclone_failed``, ``missing_blob``
            where so much fails that it makes no sense to go on; what was verified before stays in the pool
        """
        result = self._pass(entries, first=True)
        if result.problems:
            if not all(problem.kind in (MISSING, DENIED, WRONG) for problem in result.problems):
                time.sleep(PAUSE)
            again = self._pass([problem.entry for problem in result.problems], first=False)
            result = Fetched(result.objects + again.objects, result.size + again.size, again.problems)
        return result

    def _pass(self, entries: Iterable[BlobEntry], first: bool) -> Fetched:
        result = Fetched()
        with ThreadPoolExecutor(1) as worker:
            before: Future[tuple[list[Row], list[Problem]]] | None = None
            try:
                for batch in self._batches(entries):
                    staging = self._pool.staging()
                    try:
                        failed = self._copy(batch, staging, hopeful=not first or result.objects > 0)
                    except BaseException:
                        staging.close()
                        raise
                    previous, before = before, worker.submit(self._take, batch, staging, failed)
                    self._note(previous, result)
            finally:
                # What was copied whole is kept, whatever else has failed.
                self._note(before, result)
        return result

    def _batches(self, entries: Iterable[BlobEntry]) -> Iterator[list[BlobEntry]]:
        iterator = iter(entries)
        for first in iterator:
            batch, size = [first], first.size or 0
            for entry in itertools.islice(iterator, self._options.batch_objects - 1):
                batch.append(entry)
                size += entry.size or 0
                if size >= self._options.batch_bytes:
                    break
            yield batch

    def _note(self, future: Future[tuple[list[Row], list[Problem]]] | None, result: Fetched) -> None:
        if future is None:
            return
        rows, problems = future.result()
        self._index.add(rows)
        result.objects += len(rows)
        result.size += sum(row.size for row in rows)
        result.problems += problems
        if len(result.problems) > MAXIMUM_PROBLEMS:
            last = result.problems[-1]
            raise CentralError(
                "missing_blob",
                f"More than {MAXIMUM_PROBLEMS} objects are missing or wrong, the last one {last.entry.name} ({last.why}). "
                "Check the bucket and the prefix. What was fetched and found right stays in the pool.",
                fetched=result.objects,
                missing=sum(1 for problem in result.problems if problem.kind in (MISSING, DENIED)),
                wrong=sum(1 for problem in result.problems if problem.kind == WRONG),
            )

    # --- copying ------------------------------------------------------------------------------------------------

    def _copy(self, batch: list[BlobEntry], staging: Staging, hopeful: bool) -> dict[str, LogLine]:
        """Copy a batch into `staging`; returns what failed by name.

        :param hopeful: something has arrived before, so that failures are of single objects
        """
        self._check_room(batch)
        names = staging.write_names(self._settings.stem + entry.name for entry in batch)
        remote = PoolRemote(self._passphrase, staging.objects)
        environment = {**self._settings.environment(), **remote.environment, **self._tuning()}
        arguments = ["copy", self._settings.location, remote.location, "--files-from-raw", names, "--no-traverse"]
        arguments += ["--no-check-dest", "--ignore-checksum", "--retries", "1"]
        arguments += ["--transfers", str(self._options.transfers)]
        failed: dict[str, LogLine] = {}
        last = "nothing was said"
        with RcloneJob(self._rclone, arguments, environment) as job:
            for line in job.lines():
                last = line.message
                if line.level != "error" or line.object is None:
                    continue
                failed[line.object] = line
                self._stop_early(line, len(failed), hopeful or staging.anything())
            status = job.wait()
        if status != 0 and not failed:
            raise CentralError(
                "rclone_failed",
                f"rclone ended with status {status} while it copied from S3: {shortened(last, self._secrets)}.",
            )
        return failed

    def _tuning(self) -> dict[str, str]:
        # By environment, since versions that do not know one of them pass over it.
        tuning = {
            "RCLONE_BUFFER_SIZE": "0",
            "RCLONE_INPLACE": "true",
            "RCLONE_LOCAL_NO_SET_MODTIME": "true",
            "RCLONE_USE_SERVER_MODTIME": "true",
            "RCLONE_LOW_LEVEL_RETRIES": "3",
            "RCLONE_CONTIMEOUT": "20s",
            "RCLONE_STATS": "0",
        }
        if self._options.bandwidth:
            tuning["RCLONE_BWLIMIT"] = self._options.bandwidth
        return tuning

    def _check_room(self, batch: list[BlobEntry]) -> None:
        needed = sum(self._pool.stored_size(entry.size or 0) for entry in batch) + _RESERVE
        free = self._pool.free()
        if needed > free:
            raise CentralError(
                "disk_full",
                f"The next {len(batch)} objects need {needed} bytes, and {self._pool.path} has room for {free}. "
                "Make room there. What was fetched before stays in the pool.",
                needed=needed,
                free=free,
            )

    def _stop_early(self, line: LogLine, failures: int, arrived: bool) -> None:
        kind = line.kind
        if kind in (DISK_FULL, CREDENTIALS, BUCKET):
            self._give_up(kind, line.message, failures)
        if not arrived and (kind == UNREACHABLE or failures >= HOPELESS):
            self._give_up(kind, line.message, failures)

    def _give_up(self, kind: str, message: str, failures: int) -> None:
        said = shortened(message, self._secrets)
        where = f"{self._settings.server}, bucket {self._settings.bucket}"
        if kind == DISK_FULL:
            raise writing_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), self._pool.path)
        if kind in (CREDENTIALS, DENIED):
            raise CentralError(
                "s3_refused",
                f"The S3 server refuses the keys, or gives them no right to read ({where}): {said}. Check access key, "
                "secret key and region, the clock of this host, and that the policy allows s3:GetObject.",
            )
        if kind in (BUCKET, MISSING):
            raise CentralError(
                "missing_blob" if kind == MISSING else "s3_failed",
                f"None of the first {failures} objects is there ({where}): {said}. Check the bucket, the prefix and the "
                "region: it looks as if this were not where the Central keeps its objects.",
            )
        raise CentralError(
            "s3_failed",
            f"The S3 server could not be reached, or did not answer as one ({where}): {said}. "
            "Check the address, the network and the certificate.",
        )

    # --- verifying ----------------------------------------------------------------------------------------------

    def _take(
        self, batch: list[BlobEntry], staging: Staging, failed: dict[str, LogLine]
    ) -> tuple[list[Row], list[Problem]]:
        """Read back what has arrived of a batch, and take in what is right. Runs in a thread of its own."""
        with staging:
            read = int(time.time())
            hashes, problems = self._hashes(staging)
            good: list[tuple[str, Row]] = []
            bad: list[Problem] = []
            for entry in batch:
                name = self._settings.stem + entry.name
                stored = staging.stored_size(name)
                found = hashes.get(name, {})
                if stored is None or name in failed:
                    line = failed.get(name)
                    kind, message = (MISSING, "it is not there") if line is None else (line.kind, line.message)
                    bad.append(Problem(entry, kind, shortened(message, self._secrets)))
                elif (differs := _difference(entry, found)) is not None:
                    bad.append(Problem(entry, WRONG, problems.get(name, differs)))
                else:
                    row = Row(entry._replace(md5=found["md5"]), self._pool.content_size(stored), read)
                    good.append((name, row))
            if good:
                staging.admit((name, row.entry) for name, row in good)
            return [row for _name, row in good], bad

    def _hashes(self, staging: Staging) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
        if not staging.anything():
            return {}, {}
        remote = PoolRemote(self._passphrase, staging.objects)
        return hash_files(self._rclone, remote, staging.path, ("sha1", "md5"))


def hash_files(
    rclone: Rclone, remote: PoolRemote, directory: str, kinds: Iterable[str], names: str | None = None
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Hash files of a pool through the decryption.

    :param directory: for temporary files
    :param names: path of a file with their names; all that there are if None
    :returns: by name, the hashes by kind; and by name, why a file could not be read
    :raises CentralError: ``rclone_failed``
    """
    found: dict[str, dict[str, str]] = {}
    problems: dict[str, str] = {}
    runs: list[HashRun] = []
    try:
        for kind in kinds:
            runs.append(HashRun(rclone, kind, remote.location, remote.environment, directory, names))
        for run in runs:
            hashes, failed = run.finish()
            problems.update(failed)
            for value, name in hashes:
                found.setdefault(name, {})[run.kind] = value
    finally:
        for run in runs:
            run.close()
    return found, problems


def _difference(entry: BlobEntry, found: dict[str, str]) -> str | None:
    """Say how the content of an object differs from what it should be, or None."""
    if "sha1" not in found or "md5" not in found:
        return "it could not be read back"
    if found["sha1"] != entry.sha1:
        return f"its SHA-1 is {found['sha1']}"
    if entry.md5 is not None and found["md5"] != entry.md5:
        return f"its MD5 is {found['md5']}, and the database says {entry.md5}"
    return None
