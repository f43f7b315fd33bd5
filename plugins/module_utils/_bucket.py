# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bucket that objects are put into: what of them is there, asked by name, and sending what is not. Nothing is overwritten.

rclone asks for each name (``HEAD``), so the keys need no right to list the bucket. Without that right, an S3 server says 403
instead of 404 of what does not exist; such an object counts as not there, and is known to be there when it has been sent.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Optional

from ansible_collections.odkops.central.plugins.module_utils._blob_fetch import FetchOptions, PoolRemote
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, writing_error
from ansible_collections.odkops.central.plugins.module_utils._pool import Pool
from ansible_collections.odkops.central.plugins.module_utils._rclone import Rclone, S3Settings
from ansible_collections.odkops.central.plugins.module_utils._rclone_run import (
    BUCKET,
    CREDENTIALS,
    DENIED,
    MISSING,
    UNREACHABLE,
    HashRun,
    LogLine,
    RcloneJob,
    classify,
    shortened,
)


@dataclass(frozen=True)
class Stored:
    """What the server says of an object."""

    #: bytes
    size: int
    #: hexadecimal digits; None where the server does not know it, as of what was sent in parts
    md5: Optional[str]


@dataclass
class Look:
    """What has come of asking for objects, by their names without the prefix."""

    there: dict[str, Stored] = field(default_factory=dict)
    #: those that the server would say nothing of (403): not there, or not to be read with these keys
    denied: set[str] = field(default_factory=set)


class Bucket:
    """The objects of a Central.

    :param temporary: a directory for lists of names and links, none of which is secret
    :raises CentralError: from its methods ``s3_failed``, ``s3_refused``, ``rclone_failed``, ``missing_rclone``
    """

    def __init__(
        self,
        rclone: Rclone,
        settings: S3Settings,
        temporary: str,
        options: FetchOptions | None = None,
        secrets: Sequence[str] = (),
    ) -> None:
        self._rclone, self._settings, self._temporary = rclone, settings, temporary
        self._options = options or FetchOptions()
        self._secrets = (settings.access_key, settings.secret_key, *secrets)

    # --- looking ------------------------------------------------------------------------------------------------

    def look(self, entries: Sequence[BlobEntry]) -> Look:
        """Ask for each of `entries`, each of which has its size."""
        found, denied, aborted = self._ask(entry.name for entry in entries)
        if aborted:
            # rclone before 1.65 or so gives up at the first 403. What it would send is what it has not found.
            lacking = self._lacking(entries)
            there = [entry.name for entry in entries if entry.name not in lacking]
            found, denied, aborted = self._ask(there) if there else ({}, set(), False)
            if aborted:
                raise self._refused("Forbidden", "read objects (s3:GetObject)")
            denied |= lacking
        return Look(found, denied)

    def _ask(self, names: Iterable[str]) -> tuple[dict[str, Stored], set[str], bool]:
        """Return what is there, what is denied, and whether rclone has given up at that."""
        stem = self._settings.stem
        denied: set[str] = set()
        last = ""
        with self._names(stem + name for name in names) as path, self._output() as output:
            arguments = ["lsjson", self._settings.location, "--files-from-raw", path, "--no-traverse", "--hash"]
            arguments += ["--hash-type", "MD5", "--no-modtime", "--no-mimetype"]
            with RcloneJob(self._rclone, [*arguments, *self._common()], self._environment(), output=output) as job:
                for line in job.lines():
                    last = line.message or last
                    if line.level != "error" or line.object is None:
                        continue
                    if line.kind == DENIED:
                        denied.add(line.object[len(stem) :])
                    elif line.kind != MISSING:
                        self._give_up(line.kind, line.message)
                status = job.wait()
            if status != 0 and not denied:
                if classify(last) == DENIED:
                    return {}, set(), True
                self._give_up(classify(last), last)
            return {name[len(stem) :]: stored for name, stored in _parse(output)}, denied, False

    def _lacking(self, entries: Sequence[BlobEntry]) -> set[str]:
        """Return the names that rclone does not find, whatever the reason: what it would send if these were files."""
        stem, lacking = self._settings.stem, set()
        with tempfile.TemporaryDirectory(dir=self._temporary) as directory:
            for entry in entries:
                with open(os.path.join(directory, stem + entry.name), "wb") as file:
                    file.truncate(entry.size or 0)  # of nothing but its size, which takes no room
            arguments = ["copy", directory, self._settings.location, *_KEEPING, "--dry-run", *self._common()]
            with RcloneJob(self._rclone, arguments, self._environment()) as job:
                for line in job.lines():
                    if line.level in ("notice", "warning") and line.object and "dry-run" in line.message:
                        lacking.add(line.object[len(stem) :])
        return lacking

    def sha1(self, entries: Sequence[BlobEntry]) -> dict[str, str]:
        """Return the SHA-1 of objects by name, by reading them. For the few whose MD5 is not what it should be."""
        stem = self._settings.stem
        with (
            self._names(stem + entry.name for entry in entries) as path,
            HashRun(self._rclone, "sha1", self._settings.location, self._environment(), self._temporary, path) as run,
        ):
            found, _problems = run.finish()
            return {name[len(stem) :]: value for value, name in found}

    # --- sending ------------------------------------------------------------------------------------------------

    def send(
        self, pool: Pool, passphrase: str | None, entries: Sequence[BlobEntry], hopeful: bool
    ) -> dict[str, LogLine]:
        """Copy objects out of the pool, as far as they are not there.

        :param hopeful: something was sent before, so that failures are of single objects
        :returns: what rclone said of those that failed, by name. What is not in it may have failed all the same: look.
        """
        stem = self._settings.stem
        failed: dict[str, LogLine] = {}
        last = "nothing was said"
        with tempfile.TemporaryDirectory(dir=self._temporary) as directory:
            for entry in entries:
                # The pool has its objects in directories, and the bucket has a prefix: other names, but no copies.
                os.symlink(pool.object_path(entry), os.path.join(directory, stem + entry.name + pool.suffix))
            remote = PoolRemote(passphrase if pool.encrypted else None, directory)
            arguments = ["copy", remote.location, self._settings.location, "--copy-links", *_KEEPING, *self._common()]
            with RcloneJob(self._rclone, arguments, {**self._environment(), **remote.environment}) as job:
                for line in job.lines():
                    last = line.message or last
                    if line.level != "error" or line.object is None:
                        continue
                    failed[line.object[len(stem) :]] = line
                    if line.kind in (CREDENTIALS, BUCKET) or (
                        not hopeful and line.kind in (DENIED, UNREACHABLE) and len(failed) >= min(len(entries), 3)
                    ):
                        self._give_up(line.kind, line.message)
                status = job.wait()
        if status != 0 and not failed:
            raise CentralError(
                "rclone_failed",
                f"rclone ended with status {status} while it sent to S3: {shortened(last, self._secrets)}.",
            )
        return failed

    # --- rclone -------------------------------------------------------------------------------------------------

    def _common(self) -> list[str]:
        return [
            "--retries",
            "1",
            "--checkers",
            str(self._options.transfers),
            "--transfers",
            str(self._options.transfers),
        ]

    def _environment(self) -> dict[str, str]:
        settings = {
            **self._settings.environment(),
            # To be asked whether it is there is what this is about.
            "RCLONE_CONFIG_SOURCE_NO_HEAD_OBJECT": "false",
            # We look ourselves afterwards, at what another request says.
            "RCLONE_CONFIG_SOURCE_NO_HEAD": "true",
            # Of an object of more than 200 MiB, one part is in memory at a time.
            "RCLONE_CONFIG_SOURCE_UPLOAD_CONCURRENCY": "1",
            "RCLONE_BUFFER_SIZE": "0",
            "RCLONE_LOW_LEVEL_RETRIES": "3",
            "RCLONE_CONTIMEOUT": "20s",
            "RCLONE_STATS": "0",
        }
        if self._options.bandwidth:
            settings["RCLONE_BWLIMIT"] = self._options.bandwidth
        return settings

    @contextlib.contextmanager
    def _names(self, names: Iterable[str]) -> Iterator[str]:
        try:
            descriptor, path = tempfile.mkstemp(dir=self._temporary)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.writelines(f"{name}\n" for name in names)
        except OSError as error:
            raise writing_error(error, self._temporary) from error
        try:
            yield path
        finally:
            os.unlink(path)

    @contextlib.contextmanager
    def _output(self) -> Iterator[IO[bytes]]:
        with tempfile.TemporaryFile(dir=self._temporary) as file:
            yield file

    def shortened(self, message: str) -> str:
        """What rclone said, for a person, without secrets."""
        return shortened(message, self._secrets)

    def _give_up(self, kind: str, message: str) -> None:
        where = f"{self._settings.server}, bucket {self._settings.bucket}"
        if kind in (CREDENTIALS, DENIED):
            raise self._refused(message, "read and write objects (s3:GetObject, s3:PutObject)")
        if kind in (BUCKET, MISSING):
            raise CentralError(
                "s3_failed",
                f"The S3 server has no such bucket ({where}): {self.shortened(message)}. Check the bucket and the region. "
                "It has to be there: none is made.",
            )
        raise CentralError(
            "s3_failed",
            f"The S3 server could not be reached, or did not answer as one ({where}): {self.shortened(message)}. "
            "Check the address, the network and the certificate.",
        )

    def _refused(self, message: str, right: str) -> CentralError:
        return CentralError(
            "s3_refused",
            f"The S3 server refuses the keys, or gives them no right to {right} ({self._settings.server}, bucket "
            f"{self._settings.bucket}): {self.shortened(message)}. Check access key, secret key and region, the clock of this "
            "host, and the policy.",
        )


# Never overwrite: what is there with another size is an error, and with the same size is left alone.
_KEEPING = ("--no-traverse", "--size-only", "--immutable")


def _parse(output: IO[bytes]) -> Iterator[tuple[str, Stored]]:
    """Read what ``lsjson`` prints: a list, one object a line."""
    output.seek(0)
    for raw in output:
        line = raw.strip().rstrip(b",")
        if not line.startswith(b"{"):
            continue
        try:
            value: Any = json.loads(line)
            md5 = (value.get("Hashes") or {}).get("md5") or (value.get("Hashes") or {}).get("MD5")
            yield value["Path"], Stored(int(value["Size"]), md5 or None)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise CentralError("rclone_failed", "rclone's list of objects makes no sense.") from error
