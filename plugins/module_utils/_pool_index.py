# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The index of a pool: which objects are in it, and when each was last read and found right.

SQLite, so that it survives a kill at any moment and needs no memory to speak of. It is a record, not the truth: the truth is
which files there are. A file that the index does not have counts as never read; the index can always be made anew.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry
from ansible_collections.odkops.central.plugins.module_utils._errors import (
    CentralError,
    MissingLibraryError,
    reading_error,
    writing_error,
)

#: so many consecutive ids share a directory
SHARD = 1000

#: asked for in one go
CHUNK = 500

_SCHEMA_VERSION = 1
_SCHEMA = f"""
CREATE TABLE objects (id INTEGER, sha1 BLOB, md5 BLOB, size INTEGER NOT NULL, read INTEGER NOT NULL,
  PRIMARY KEY (id, sha1)) WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {_SCHEMA_VERSION};
"""


class Known(NamedTuple):
    """What the index has of an object."""

    #: of the content, in hexadecimal digits; None where it was not read yet
    md5: str | None
    #: of the content, in bytes
    size: int


class Row(NamedTuple):
    """What goes into the index."""

    entry: BlobEntry
    #: of the content, in bytes
    size: int
    #: when it was read last, in seconds since 1970; 0 for never
    read: int


class PoolIndex:
    """The index in the file `path`, made if it is not there.

    :param path: None for one that is empty and kept nowhere
    :raises CentralError: ``missing_required_lib``, ``unreadable``, ``destination_not_writable``
    """

    def __init__(self, path: str | None) -> None:
        try:
            import sqlite3
        except ImportError as error:
            raise MissingLibraryError(
                "sqlite3",
                "The index of the pool needs Python's sqlite3, which this Python was built without. Use the system's Python.",
                str(error),
            ) from error
        self._sqlite = sqlite3
        self._path = path or ":memory:"
        #: the file was damaged, and was begun anew
        self.rebuilt = False
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) or path is None:
                raise self._failure(error) from error
            self._begin_anew()

    @classmethod
    def copy_of(cls, path: str) -> PoolIndex:
        """Return a copy of the index in the file `path` that is kept nowhere; an empty one where it cannot be read.

        For check mode, in which the file must stay as it is.
        """
        copy = cls(None)
        if os.path.exists(path):
            with contextlib.suppress(copy._sqlite.Error):
                source = copy._sqlite.connect(f"file:{quote(path)}?mode=ro", uri=True)
                with contextlib.closing(source):
                    if source.execute("PRAGMA user_version").fetchone()[0] == _SCHEMA_VERSION:
                        source.backup(copy._database)
        return copy

    def _open(self) -> None:
        if self._path != ":memory:":
            # For its owner alone; SQLite gives its journal the same permissions.
            try:
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            except OSError as error:
                raise writing_error(error, self._path) from error
        self._database = self._sqlite.connect(self._path, isolation_level=None, timeout=30)
        try:
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._database.executescript("BEGIN;" + _SCHEMA + "COMMIT;")
            elif version != _SCHEMA_VERSION:
                raise self._sqlite.DatabaseError(f"version {version}")
            # Through, so that a damaged file is found here and not later.
            self._database.execute("SELECT count(*), sum(size) FROM objects").fetchone()
        except BaseException:
            self._database.close()
            raise

    def _begin_anew(self) -> None:
        self.rebuilt = True
        for end in ("", "-journal", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path + end)
        try:
            self._open()
        except self._sqlite.Error as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> CentralError:
        text = str(error)
        if "full" in text:
            return CentralError("disk_full", f"The disk is full: {self._path} could not be written. Make room there.")
        if "readonly" in text or "attempt to write" in text:
            return writing_error(OSError(0, text), self._path)
        return reading_error(OSError(0, text), self._path)

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> Any:
        try:
            return self._database.execute(statement, values)
        except self._sqlite.Error as error:
            raise self._failure(error) from error

    def _all(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute `statement` for each of `rows`, all of them or none."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._database.executemany(statement, rows)
                self._database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(self._sqlite.Error):
                    self._database.execute("ROLLBACK")
                raise
        except self._sqlite.Error as error:
            raise self._failure(error) from error

    # --- looking ------------------------------------------------------------------------------------------------

    def count(self) -> tuple[int, int]:
        """Return how many objects there are, and their size in bytes."""
        number, size = self._execute("SELECT count(*), coalesce(sum(size), 0) FROM objects").fetchone()
        return number, size

    def oldest(self) -> int | None:
        """Return when the object that was read longest ago was read; 0 for never, None where there is none."""
        found: int | None = self._execute("SELECT min(read) FROM objects").fetchone()[0]
        return found

    def shards(self) -> set[int]:
        """Return the numbers of the shards that have objects."""
        return {row[0] for row in self._execute("SELECT DISTINCT id / ? FROM objects", (SHARD,))}

    def names(self, shard: int, suffix: str) -> set[str]:
        """Return the names of the files of a shard."""
        statement = "SELECT 'blob-' || id || '-' || lower(hex(sha1)) || ? FROM objects WHERE id BETWEEN ? AND ?"
        return {row[0] for row in self._execute(statement, (suffix, shard * SHARD, shard * SHARD + SHARD - 1))}

    def find(self, entries: Sequence[BlobEntry]) -> dict[tuple[int, str], Known]:
        """Return what there is of `entries`, at most :data:`CHUNK`, by id and SHA-1."""
        marks = ",".join("?" * len(entries))
        statement = f"SELECT id, lower(hex(sha1)), lower(hex(md5)), size FROM objects WHERE id IN ({marks})"  # noqa: S608
        found = self._execute(statement, [entry.id for entry in entries])
        return {(number, sha1): Known(md5 or None, size) for number, sha1, md5, size in found}

    def overdue(self, before: int) -> int:
        """Return how many objects were last read before `before`."""
        return int(self._execute("SELECT count(*) FROM objects WHERE read < ?", (before,)).fetchone()[0])

    def oldest_entries(self, number: int) -> list[BlobEntry]:
        """Return the objects that were read longest ago, `number` of them, with the MD5 that is known."""
        statement = "SELECT id, lower(hex(sha1)), lower(hex(md5)) FROM objects ORDER BY read, id LIMIT ?"
        return [BlobEntry(row[0], row[1], row[2] or None) for row in self._execute(statement, (number,))]

    # --- writing ------------------------------------------------------------------------------------------------

    def add(self, rows: Iterable[Row]) -> None:
        """Put `rows` in, in place of those that there are of the same objects."""
        self._all(
            "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)",
            ((row.entry.id, bytes.fromhex(row.entry.sha1), _bytes(row.entry.md5), row.size, row.read) for row in rows),
        )

    def was_read(self, entries: Iterable[BlobEntry], when: int) -> None:
        """Note that `entries` were read at `when` and are right; their MD5 too, where it is given."""
        self._all(
            "UPDATE objects SET read = ?, md5 = coalesce(?, md5) WHERE id = ? AND sha1 = ?",
            ((when, _bytes(entry.md5), entry.id, bytes.fromhex(entry.sha1)) for entry in entries),
        )

    def forget(self, entries: Iterable[BlobEntry]) -> None:
        """Take `entries` out."""
        rows = ((entry.id, bytes.fromhex(entry.sha1)) for entry in entries)
        self._all("DELETE FROM objects WHERE id = ? AND sha1 = ?", rows)

    def fact(self, name: str) -> int | None:
        """Return the number that was kept under `name`."""
        row = self._execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else int(row[0])

    def keep(self, name: str, value: int) -> None:
        """Keep a number."""
        self._execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> PoolIndex:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _bytes(digits: str | None) -> bytes | None:
    return None if digits is None else bytes.fromhex(digits)
