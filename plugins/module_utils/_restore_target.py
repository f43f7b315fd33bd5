# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The database of a Central that is to be restored: what it is, and what can be done with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Optional

from ansible_collections.odkops.central.plugins.module_utils import _restore_operations as operations
from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._identity import Identity, read_identity
from ansible_collections.odkops.central.plugins.module_utils._memory import keep_freed_memory
from ansible_collections.odkops.central.plugins.module_utils._pg_dump_place import Place, find_place, stopped
from ansible_collections.odkops.central.plugins.module_utils._postgres_settings import POSTGRES14
from ansible_collections.odkops.central.plugins.module_utils._restore_archive import Fed, RestoreArchive

# A statement of a swap or a drop waits for sessions to end, a count for the disk.
_SHORT = 180
_LONG = 24 * 3600.0

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
# As PostgreSQL says of a write that fails, and of one that is cut short.
_FULL = re.compile(r"No space left|could not (?:extend|write)[^:]*: wrote only")
_MAJOR = re.compile(r"\(PostgreSQL\) ([0-9]+)(?:\.([0-9]+))?")

#: a pg_restore of this major version or a later one sets what servers before it do not know
SETS_TRANSACTION_TIMEOUT = 17


@dataclass(frozen=True)
class Administration:
    """With which user databases are made and renamed, where that is not Central's own.

    :param user: None for Central's own
    :param password: of that user
    :param database: to connect to meanwhile; None for ``postgres`` or ``template1``
    """

    user: Optional[str] = None
    password: Optional[str] = field(default=None, repr=False)
    database: Optional[str] = None

    def check(self) -> None:
        """See whether the values can be.

        :raises CentralError: ``bad_option``
        """
        for option, value in (("maintenance_user", self.user), ("maintenance_database", self.database)):
            if value is not None and not _NAME.fullmatch(value):
                raise CentralError("bad_option", f"{option}: {value!r} has characters that are not supported.")
        if self.password is not None and ("\n" in self.password or "\0" in self.password):
            raise CentralError("bad_option", "maintenance_password: it must be one line of text.")
        if self.password is not None and self.user is None:
            raise CentralError("bad_option", "maintenance_password is of no use without maintenance_user.")

    def lines(self) -> bytes:
        """What each operation reads first."""
        return f"{self.user or ''}\n{self.password or ''}\n{self.database or ''}\n".encode()


@dataclass(frozen=True)
class Survey:
    """What was found where the backup is to go.

    :param place: with whose settings and programs it is restored
    :param identity: which Central it is
    :param database: what the server says of the database, see _restore_operations
    :param administrator: who makes databases: ``user``, ``superuser``, ``createdb``, and ``databases`` of restores
    :param migrations: that the database has had
    :param known: that the Central there can make; None where they cannot be listed
    :param pg_restore: its version, for example ``(14, 22)``
    :param psql: the same
    """

    place: Place
    identity: Identity
    database: dict[str, Any]
    administrator: dict[str, Any]
    migrations: tuple[str, ...]
    known: Optional[tuple[str, ...]]
    pg_restore: tuple[int, int]
    psql: tuple[int, int]

    @property
    def name(self) -> str:
        """The database's name."""
        return str(self.database["database"])

    @property
    def major(self) -> int:
        """The server's major version."""
        return int(self.database["number"]) // 10000

    @property
    def size(self) -> int:
        """Bytes of the database on the server's disk."""
        return int(self.database["size"])


@dataclass(frozen=True)
class Loaded:
    """What a new database has.

    :param missing: those of the wished extensions that could not be made
    :param rows: by table, as they were loaded
    :param ended: how many sessions ended
    """

    missing: list[str]
    rows: dict[str, int]
    ended: int


class Target:
    """The database of the Central behind a channel.

    :param channel: to the Central
    :param administration: with whom databases are made
    """

    def __init__(self, channel: Channel, administration: Administration) -> None:
        self.channel = channel
        #: what each operation reads first
        self.lines = administration.lines()
        self._administration = administration
        self.place = _find(channel)
        server = self.place.server
        #: Central's database
        self.database = server.database
        if not _NAME.fullmatch(self.database):
            raise CentralError(
                "restore_impossible",
                f"The name of the database, {self.database!r}, has characters that a restore does not support.",
            )

    def call(self, operation: str, tag: str, *arguments: str, timeout: float = _SHORT, data: bytes = b"") -> str:
        """Execute an operation of a run, and return what it prints."""
        name, before = self.named(operation)
        output = self.channel.run(name, *before, tag, *arguments, stdin=self.lines + data, timeout=timeout)
        return output.decode("utf-8", "replace")

    def named(self, operation: str) -> tuple[str, tuple[str, ...]]:
        """An operation's name where this database is reached, and its first arguments there."""
        if self.place.name == POSTGRES14:
            return f"{operation}-{POSTGRES14}", self.place.arguments
        return operation, ()

    def survey(self, tag: str) -> Survey:
        """Look at everything, and change nothing.

        :raises CentralError: ``restore_impossible`` where the user to administer with cannot log in, ``operation_failed``, ...
        """
        try:
            text = self.call(operations.SURVEY, tag, self.database)
        except CentralError as error:
            if "administer" in error.message or self._administration.user is not None:
                raise CentralError(
                    "restore_impossible",
                    f"The database server could not be asked what may be done there. {error.message} Check "
                    "maintenance_user, maintenance_password and maintenance_database.",
                ) from error
            raise
        fields = dict(part.partition("=")[::2] for part in text.split("\0")[:-1])
        # Known now, it need not be looked for again.
        self.lines = replace(self._administration, database=fields["administered_in"]).lines()
        return Survey(
            place=self.place,
            identity=read_identity(self.channel, self.place.settings),
            database=json.loads(fields["database"]),
            administrator=json.loads(fields["administrator"]),
            migrations=tuple(json.loads(fields.get("migrations") or "null") or ()),
            known=self._known(fields.get("target_migrations", "")),
            pg_restore=_version(fields.get("pg_restore", "")),
            psql=_version(fields.get("psql", "")),
        )

    def _known(self, in_image: str) -> tuple[str, ...] | None:
        """The migrations that the service will make when it is started: those of its container, or of the image if it is down."""
        try:
            found = self.channel.run(operations.KNOWN, timeout=_SHORT).decode("utf-8", "replace")
        except CentralError as error:
            if not stopped(error):
                raise
            found = ""
        return tuple((found or in_image).split()) or None

    def free(self) -> int | None:
        """Bytes that are free where PostgreSQL keeps its databases; None where that is not on the Central's host."""
        if not self.place.settings.in_postgres14:
            return None
        found = self.channel.run(operations.SPACE, timeout=_SHORT).decode("ascii", "replace").strip()
        return int(found) if found.isdigit() else None

    def load(
        self,
        tag: str,
        archive: RestoreArchive,
        wished: dict[str, str],
        large: Mapping[int, int],
        lz4: bool = False,
        end_sessions: bool = False,
    ) -> Loaded:
        """Make a new database like Central's, with the extensions that the archive needs, and restore the archive into it.

        Then it is counted, gets the settings and grants of today's, and statistics are made.

        :param wished: schemas by name of extensions that are only there in the database of today
        :param large: sizes of the archive's large files, see :meth:`RestoreArchive.pieces`
        :param lz4: whether long texts may take half as much room again, in less time
        :param end_sessions: whether the sessions of users in it end
        :raises CentralError: ``restore_failed``, ``central_disk_full``
        """
        ids = " ".join(map(str, archive.restored_ids))
        keep_freed_memory()
        source = Fed(self.lines + f"{ids}\n".encode(), archive.pieces(large))
        name, before = self.named(operations.LOAD)
        words = (
            extension_words(archive.extensions),
            extension_words(wished),
            "lz4" if lz4 else "default",
            "true" if end_sessions else "false",
        )
        printed = b""
        try:
            with self.channel.stream(
                name, *before, tag, self.database, *words, stdin=source, idle_timeout=_LONG
            ) as output:
                while data := output.read(65536):
                    printed += data
        except CentralError as error:
            raise loading_error(error) from error
        finally:
            source.close()
        *lines, ended = printed.decode("utf-8", "replace").splitlines()
        rows = [line for line in lines if line.startswith("[")]
        return Loaded([line for line in lines if line and not line.startswith("[")], _rows(rows), int(ended))

    def grant(self, tag: str, grants: Iterable[str]) -> list[str]:
        """Grant in the new database what the archive grants. Roles that do not exist here are no failure.

        :returns: what PostgreSQL says of those that could not be granted
        """
        text = "\n".join(grants)
        return self.call(operations.GRANT, tag, data=f"{text}\n".encode()).splitlines() if text else []

    def count(self, tag: str, database: str) -> dict[str, int]:
        """Rows by table of a database of this server."""
        return _rows(self.call(operations.COUNT, tag, database, timeout=_LONG).splitlines())

    def swap(self, tag: str) -> str:
        """Give the new database the name of Central's, and Central's another one, at one moment.

        :returns: the name that the old one has now
        """
        said = f"Before the restore of {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, by odkops.central"
        self.call(operations.SWAP, tag, self.database, said)
        return operations.PREVIOUS + tag

    def unswap(self, tag: str) -> None:
        """Give the old database its name back, from wherever the swap has come to."""
        self.call(operations.UNSWAP, tag, self.database)

    def drop(self, tag: str, which: str) -> None:
        """Remove a database of a run, if it is there: ``new``, ``failed`` or ``previous``."""
        self.call(operations.DROP, tag, which, timeout=_LONG)

    def end(self, tag: str) -> None:
        """End all sessions that a run has left in the server."""
        self.call(operations.END, tag)

    def kept(self, tag: str) -> list[dict[str, Any]]:
        """The databases that restores have left: ``name``, ``size`` in bytes, ``comment``."""
        lines = self.call(operations.STATE, tag).splitlines()
        return [dict(zip(("name", "size", "comment"), json.loads(line))) for line in lines if line]

    def missed(self, tag: str, database: str, other: str, since: str = "-infinity") -> int:
        """How many submissions only the first of two databases has.

        :param since: of those that were made then or later, by the server's clock, in UTC, ISO 8601
        """
        return int(self.call(operations.MISSED, tag, database, other, since, timeout=_LONG).strip())

    def blob(self, tag: str) -> tuple[int, str, bytes] | None:
        """One attachment in Central's database: its id, what its SHA-1 must be, and its content. None where there is none."""
        text = self.call(operations.BLOB, tag, self.database, timeout=_LONG).strip()
        if not text:
            return None
        number, sha, content = json.loads(text)
        return int(number), str(sha), bytes.fromhex(content)


def _find(channel: Channel) -> Place:
    """Where psql and pg_restore run: those that go with the server."""
    place = find_place(channel)
    settings = place.settings
    too_new = settings.client >= SETS_TRANSACTION_TIMEOUT > place.server.major
    if place.name != POSTGRES14 and too_new and settings.in_postgres14:
        arguments = (settings.given["PGUSER"], settings.given["PGDATABASE"])
        return Place(POSTGRES14, "", arguments, settings, place.server, "its pg_restore is newer than the server")
    return place


def loading_error(error: CentralError) -> CentralError:
    """What an error of pg_restore or psql is for whoever restores: ``restore_failed``, ``central_disk_full``, or itself."""
    if error.diagnosis != "operation_failed":
        return error
    code = "central_disk_full" if _FULL.search(error.message) else "restore_failed"
    return CentralError(code, f"The backup could not be loaded into the database. {error.message}")


def _rows(lines: list[str]) -> dict[str, int]:
    return {str(name): int(rows) for name, rows in map(json.loads, filter(None, lines))}


def extension_words(extensions: dict[str, str]) -> str:
    """Extensions and their schemas, as operations take them."""
    return " ".join(f"{name}:{schema}" for name, schema in sorted(extensions.items()))


def _version(text: str) -> tuple[int, int]:
    found = _MAJOR.search(text)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)
