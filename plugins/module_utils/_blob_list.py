# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of the objects that a Central's database says are in S3: ``blobs.jsonl``.

One line for each, JSON with sorted keys, in the order of the dump::

    {"key":"blob-7-<sha1>","md5":"<md5>","sha1":"<sha1>","size":20480}

``key`` is the object's name without the prefix that the Central may put before it. ``md5`` and ``size`` (bytes) are null
where the database does not know them; in a sealed set the size is always that of the object in the pool. A line with
``"absent":"purged"`` or ``"absent":"known"`` names an object that the dump has and the pool has not: it was purged from the live
Central after the dump, or the administrator has said that it is lost.

The name of an object: getodk/central-backend, lib/external/s3.js.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ansible_collections.odkops.central.plugins.module_utils._atomic import AtomicFile
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, reading_error
from ansible_collections.odkops.central.plugins.module_utils._facts import BlobFact

UPLOADED = "uploaded"
PURGED = "purged"
KNOWN = "known"

#: PostgreSQL's largest serial
MAXIMUM_ID = 2**31 - 1

_BUFFER = 256 * 1024
_LONGEST_LINE = 1024
_LINE = re.compile(
    rb'\{(?:"absent":"(?P<absent>purged|known)",)?"key":"blob-(?P<id>[1-9][0-9]{0,9})-(?P<sha1>[0-9a-f]{40})",'
    rb'"md5":(?:null|"(?P<md5>[0-9a-f]{32})"),"sha1":"(?P=sha1)","size":(?:null|(?P<size>[0-9]{1,15}))\}\n'
)
_NAME = re.compile(r"blob-([1-9][0-9]{0,9})-([0-9a-f]{40})")


class BlobEntry(NamedTuple):
    """An object that the database names."""

    id: int
    #: hexadecimal digits
    sha1: str
    #: hexadecimal digits
    md5: str | None = None
    #: bytes
    size: int | None = None
    #: why it is not in the pool: :data:`PURGED` or :data:`KNOWN`
    absent: str | None = None

    @property
    def name(self) -> str:
        """The name of the object, without the prefix."""
        return f"blob-{self.id}-{self.sha1}"


def parse_name(name: str) -> BlobEntry | None:
    """Return what the name of an object (without prefix) says, or None where it is none."""
    match = _NAME.fullmatch(name)
    if match is None or int(match[1]) > MAXIMUM_ID:
        return None
    return BlobEntry(int(match[1]), match[2])


def render(entry: BlobEntry) -> bytes:
    """Return the line of `entry`."""
    absent = f'"absent":"{entry.absent}",' if entry.absent else ""
    md5 = "null" if entry.md5 is None else f'"{entry.md5}"'
    size = "null" if entry.size is None else str(entry.size)
    return f'{{{absent}"key":"{entry.name}","md5":{md5},"sha1":"{entry.sha1}","size":{size}}}\n'.encode("ascii")


class BlobListWriter:
    """Writes a list; a context manager. Without :meth:`commit` there is no file.

    :param path: the file
    :param clobber: replace a file of that name; else there must be none
    :raises CentralError: ``destination_exists``, ``destination_not_writable``, ``disk_full``
    """

    def __init__(self, path: str, clobber: bool = False) -> None:
        self.path = path
        #: bytes so far
        self.size = 0
        self._digest = hashlib.sha256()
        self._file = AtomicFile(path, clobber)
        self._pending = bytearray()

    def add(self, entry: BlobEntry) -> None:
        """Append `entry`."""
        self._pending += render(entry)
        if len(self._pending) >= _BUFFER:
            self._flush()

    def on_blob(self, blob: BlobFact) -> None:
        """Append `blob` if the database says that it is in S3. To be called with each row of ``blobs``.

        :raises CentralError: ``corrupt`` where the row cannot be one of Central's
        """
        if blob.s3_status != UPLOADED:
            return
        good = 0 < blob.id <= MAXIMUM_ID and re.fullmatch("[0-9a-f]{40}", blob.sha)
        if not good or not (blob.md5 is None or re.fullmatch("[0-9a-f]{32}", blob.md5)) or (blob.size or 0) < 0:
            raise CentralError(
                "corrupt",
                f"The row of public.blobs with the id {blob.id} is not what Central writes: its SHA-1 or MD5 is none.",
            )
        self.add(BlobEntry(blob.id, blob.sha, blob.md5, blob.size))

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, once it is committed."""
        return self._digest.hexdigest()

    def _flush(self) -> None:
        self._file.write(self._pending)
        self._digest.update(self._pending)
        self.size += len(self._pending)
        self._pending.clear()

    def commit(self) -> None:
        """Give the file its name."""
        self._flush()
        self._file.commit()

    def __enter__(self) -> BlobListWriter:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._file.close()


def read_blob_list(path: str) -> Iterator[BlobEntry]:
    """Read a list, line by line.

    :raises CentralError: ``unreadable``, ``corrupt``
    """
    try:
        with open(path, "rb", buffering=_BUFFER) as file:
            number = 0
            while line := file.readline(_LONGEST_LINE):
                number += 1
                match = _LINE.fullmatch(line)
                entry = _other_form(line, path, number) if match is None else _entry(match)
                yield entry
    except OSError as error:
        raise reading_error(error, path) from error


def _entry(match: re.Match[bytes]) -> BlobEntry:
    number, sha1, md5, size, absent = match.group("id", "sha1", "md5", "size", "absent")
    return BlobEntry(
        int(number),
        sha1.decode("ascii"),
        None if md5 is None else md5.decode("ascii"),
        None if size is None else int(size),
        None if absent is None else absent.decode("ascii"),
    )


def _other_form(line: bytes, path: str, number: int) -> BlobEntry:
    """Read a line that another program has written: any JSON of the same fields."""
    try:
        value: Any = json.loads(line)
        again = BlobEntry(
            int(value["key"].split("-")[1]), value["sha1"], value["md5"], value["size"], value.get("absent")
        )
        match = _LINE.fullmatch(render(again))
        if match is not None and value["key"] == again.name:
            return _entry(match)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    raise CentralError(
        "corrupt", f"Line {number} of {os.path.basename(path)} is not one of a list of objects. Make it anew."
    )
