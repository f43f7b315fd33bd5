# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a dump of Central's database says of the Central, read from its rows as they pass by.

Source of the tables: getodk/central-backend, lib/model/migrations (blobs, forms, form_defs, audits,
knex_migrations) and lib/task/log-upgrade.js for the entry ``upgrade.server``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Callable, Protocol

from ansible_collections.odkops.central.plugins.module_utils._bytea import ByteaDigest
from ansible_collections.odkops.central.plugins.module_utils._copy_text import (
    NULL,
    Buffer,
    Column,
    CopyCounter,
    CopyMatches,
    CopyRows,
    Rows,
    text_of,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt
from ansible_collections.odkops.central.plugins.module_utils._zlib_stream import adler32_of_both, wrong_checksum

#: Central's tables lie in this schema.
SCHEMA = "public"

#: A database without these is not Central's.
TABLES_OF_CENTRAL = ("knex_migrations", "projects", "forms", "submissions", "blobs")

# The most of each kind that is kept; beyond it the dump is no Central's.
_MAXIMUM_MIGRATIONS = 10_000
_MAXIMUM_LINKS = 50_000
_MAXIMUM_STATUSES = 16
_MAXIMUM_TEXT = 8 * 1024 * 1024
# Of a name, so many characters; PostgreSQL's columns for them have 255 or 64.
_TEXT = 1024
_BAD_BLOBS_SHOWN = 20


@dataclass(frozen=True)
class BlobFact:
    """A row of ``blobs``."""

    id: int
    #: SHA-1 of the content, 40 hexadecimal digits
    sha: str
    md5: str | None
    #: size in bytes: that of the content where it is in the database, else what the row says, else None
    size: int | None
    #: ``pending``, ``uploaded``, ``failed`` or ``skipped``; ``pending`` where the Central is too old for S3
    s3_status: str
    #: whether the content is in the database
    in_database: bool


@dataclass(frozen=True)
class LinkFact:
    """A form, or a draft of one, that Enketo knows."""

    #: Enketo's id of the form or the draft
    enketo_id: str | None
    #: Enketo's id for single submissions, of a form
    once_id: str | None
    project_id: int
    xml_form_id: str
    #: the token in the draft's address, for a draft
    draft_token: str | None
    #: of the form in the database; later forms have higher numbers
    form_id: int = field(default=0, compare=False)
    #: whether the form is in the trash
    deleted: bool = field(default=False, compare=False)
    #: whether the id is that of a definition: of a draft, or of what was one
    of_definition: bool = field(default=False, compare=False)

    @property
    def draft(self) -> bool:
        """Whether it is, or was, a draft."""
        return self.of_definition or self.draft_token is not None


class Table(Protocol):
    """Takes the data of one table."""

    def feed(self, data: Buffer) -> None:
        """The next piece."""

    def finish(self) -> int:
        """No more comes; returns the number of rows."""

    def finish_part(self) -> int:
        """Somebody else takes what follows, from a row on; returns the number of rows so far."""


@dataclass(frozen=True)
class TablePart:
    """What is known of the data of a table that two have read, each a part of it."""

    name: str
    #: Adler-32 of the part
    adler32: int
    #: bytes that its reader has read so far: of a second part, with which its reader begins, those of the part
    size: int
    #: the Adler-32 that both together have to have, with the second part
    expected: int | None


class _ShortRows:
    """Takes rows as a whole: columns longer than a few KB are of no interest."""

    def __init__(
        self, columns: list[str], take: Callable[[dict[str, str | None]], None], wanted: tuple[str, ...]
    ) -> None:
        self._take = take
        self._wanted = [(name, columns.index(name)) for name in wanted if name in columns]

    def row(self, fields: list[bytes]) -> None:
        self._take({name: text_of(fields[index]) for name, index in self._wanted})

    def long_row(self, index: int) -> Column | None:
        return None

    def end_long_row(self, fields: list[bytes]) -> None:
        self.row(fields)


class _Content(ByteaDigest):
    """The content of a blob."""

    def feed(self, piece: bytes) -> None:
        try:
            super().feed(piece)
        except ValueError as error:
            raise corrupt("the content of a blob is not what PostgreSQL writes") from error


class _BlobRows:
    """The rows of ``blobs``: each content that is there is hashed."""

    def __init__(self, columns: list[str], take: Callable[[BlobFact, str | None], None]) -> None:
        self._take = take
        self._index = {name: index for index, name in enumerate(columns)}
        self._content: _Content | None = None

    def row(self, fields: list[bytes]) -> None:
        content = fields[self._index["content"]]
        if content == NULL:
            self._finish(fields, None)
            return
        hashed = _Content()
        hashed.feed(content)
        self._finish(fields, hashed)

    def long_row(self, index: int) -> Column | None:
        if index != self._index["content"]:
            return None
        self._content = _Content()
        return self._content

    def end_long_row(self, fields: list[bytes]) -> None:
        content, self._content = self._content, None
        self._finish(fields, None if content is None or content.is_null else content)

    def _finish(self, fields: list[bytes], content: _Content | None) -> None:
        def value(name: str) -> str | None:
            return text_of(fields[self._index[name]]) if name in self._index else None

        try:
            digest = None if content is None else content.finish()
            size = value("size")
            blob = BlobFact(
                id=int(value("id") or ""),
                sha=value("sha") or "",
                md5=value("md5"),
                size=content.size if content is not None else None if size is None else int(size),
                s3_status=value("s3_status") or "pending",
                in_database=content is not None,
            )
        except ValueError as error:
            raise corrupt("a row of public.blobs is not what Central writes") from error
        self._take(blob, digest)


class Facts:
    """Gathers what the rows of a dump say.

    :param on_blob: called with each blob in the order of the dump
    """

    def __init__(self, on_blob: Callable[[BlobFact], None] | None = None) -> None:
        self.on_blob = on_blob
        #: Python's name of the encoding of the data, or None where it is not known
        self.encoding: str | None = None
        #: rows by table, for example ``{"public.forms": 4}``
        self.tables: dict[str, int] = {}
        #: bytes of all rows, as COPY writes them
        self.data_size = 0
        #: of the table of which only a part was read
        self.part: TablePart | None = None
        self.migrations: list[str] = []
        #: number of blobs by s3_status
        self.blobs: dict[str, int] = {}
        self.blobs_in_database = 0
        self.bad_blobs: list[int] = []
        self._upgrade: tuple[int, dict[str, Any]] = (0, {})
        self._forms: dict[int, tuple[int, str, bool]] = {}
        self._links: list[LinkFact] = []
        self._drafts: list[tuple[int, str, str | None]] = []
        self._text = 0

    def table(self, namespace: str, name: str, columns: list[str]) -> Table:
        """Who takes the data of a table, given its columns."""
        where = f"{namespace}.{name}"
        taker = self._taker(name, columns) if namespace == SCHEMA else None
        if isinstance(taker, tuple):
            return CopyMatches(where, len(columns), *taker, encoding=self.encoding)
        if taker is not None:
            return CopyRows(where, len(columns), taker, self.encoding)
        return CopyCounter(where, len(columns), self.encoding)

    def _taker(self, name: str, columns: list[str]) -> Rows | tuple[bytes, Rows] | None:
        if name == "blobs" and {"id", "sha", "content"} <= set(columns):
            return _BlobRows(columns, self._blob)
        if name == "knex_migrations":
            return _ShortRows(columns, self._migration, ("name",))
        if name == "forms":
            wanted = ("id", "projectId", "xmlFormId", "enketoId", "enketoOnceId", "deletedAt")
            return _ShortRows(columns, self._form, wanted)
        if name == "form_defs" and "enketoId" in columns:
            return _ShortRows(columns, self._form_def, ("formId", "enketoId", "draftToken"))
        if name == "audits":
            return b"upgrade.server", _ShortRows(columns, self._audit, ("id", "action", "details"))
        return None

    def _blob(self, blob: BlobFact, digest: str | None) -> None:
        self.blobs[blob.s3_status] = self.blobs.get(blob.s3_status, 0) + 1
        if not re.fullmatch(r"[a-z_]{1,32}", blob.s3_status) or len(self.blobs) > _MAXIMUM_STATUSES:
            raise corrupt("a row of public.blobs has an impossible s3_status")
        if digest is not None:
            self.blobs_in_database += 1
            if digest != blob.sha:
                self.bad_blobs.append(blob.id)
                if len(self.bad_blobs) > _MAXIMUM_LINKS:
                    raise corrupt("the blobs are not what their SHA-1 says")
        if self.on_blob is not None:
            self.on_blob(blob)

    def _migration(self, row: dict[str, str | None]) -> None:
        self.migrations.append((row.get("name") or "")[:256])
        if len(self.migrations) > _MAXIMUM_MIGRATIONS:
            raise corrupt("public.knex_migrations has more rows than Central has migrations")

    def _audit(self, row: dict[str, str | None]) -> None:
        if row.get("action") != "upgrade.server":
            return
        try:
            number, details = int(row.get("id") or 0), json.loads(row.get("details") or "{}")
        except (ValueError, RecursionError):
            return
        if isinstance(details, dict) and number > self._upgrade[0]:
            self._upgrade = (number, details)

    def _keep(self, row: dict[str, str | None]) -> None:
        self._add_text(sum(min(len(value), _TEXT) for value in row.values() if value))

    def _add_text(self, length: int) -> None:
        self._text += length
        if self._text > _MAXIMUM_TEXT:
            raise corrupt("the names of its forms are longer than are taken for genuine")

    def _form(self, row: dict[str, str | None]) -> None:
        self._keep(row)
        number, project = _integer(row, "id"), _integer(row, "projectId")
        if len(self._forms) >= _MAXIMUM_LINKS:
            raise corrupt("public.forms has more rows than are taken for genuine")
        form, deleted = (row.get("xmlFormId") or "")[:_TEXT], bool(row.get("deletedAt"))
        self._forms[number] = (project, form, deleted)
        if row.get("enketoId") or row.get("enketoOnceId"):
            ids = (_short(row, "enketoId"), _short(row, "enketoOnceId"))
            self._links.append(LinkFact(*ids, project, form, None, number, deleted))

    def _form_def(self, row: dict[str, str | None]) -> None:
        enketo_id = _short(row, "enketoId")
        if enketo_id:
            self._keep(row)
            self._drafts.append((_integer(row, "formId"), enketo_id, _short(row, "draftToken")))
            if len(self._drafts) > _MAXIMUM_LINKS:
                raise corrupt("public.form_defs has more rows than are taken for genuine")

    def add(self, other: Facts) -> None:
        """Add what was gathered of the second part of the same dump: of other tables, and of the rest of the last one of these.

        :raises CentralError: ``corrupt`` where together they are more than is taken for genuine, or have a wrong checksum
        """
        first, second = self.part, other.part
        if first is not None and second is not None:
            if adler32_of_both(first.adler32, second.adler32, second.size) != second.expected:
                raise wrong_checksum(first.name)
        elif first is not None or second is not None:
            raise corrupt("only one part of a table is there")
        for name, rows in other.tables.items():
            self.tables[name] = self.tables.get(name, 0) + rows
        self.data_size += other.data_size
        self.migrations += other.migrations
        for status, number in other.blobs.items():
            self.blobs[status] = self.blobs.get(status, 0) + number
        if len(self.blobs) > _MAXIMUM_STATUSES:
            raise corrupt("a row of public.blobs has an impossible s3_status")
        self.blobs_in_database += other.blobs_in_database
        self.bad_blobs += other.bad_blobs
        self._upgrade = max(self._upgrade, other._upgrade, key=lambda upgrade: upgrade[0])
        self._forms.update(other._forms)
        self._links += other._links
        self._drafts += other._drafts
        self._add_text(other._text)
        for name, number, most in (
            ("knex_migrations", len(self.migrations), _MAXIMUM_MIGRATIONS),
            ("forms", len(self._forms), _MAXIMUM_LINKS),
            ("form_defs", len(self._drafts), _MAXIMUM_LINKS),
            ("blobs", len(self.bad_blobs), _MAXIMUM_LINKS),
        ):
            if number > most:
                raise corrupt(f"{SCHEMA}.{name} has more rows than are taken for genuine")

    def links(self) -> list[LinkFact]:
        """The forms and drafts that Enketo knows, after the whole dump has passed."""
        drafts = []
        for number, enketo_id, token in self._drafts:
            project, form, deleted = self._forms.get(number, (0, "", False))
            drafts.append(LinkFact(enketo_id, None, project, form, token, number, deleted, True))
        return self._links + drafts

    def check(self, known_bad_blobs: frozenset[int] = frozenset()) -> None:
        """Say what is wrong with the whole, after the dump has passed.

        :param known_bad_blobs: ids of blobs whose content is known to be wrong in the live database
        :raises CentralError: ``not_a_central_backup``, ``blob_mismatch``
        """
        missing = [name for name in TABLES_OF_CENTRAL if f"{SCHEMA}.{name}" not in self.tables]
        if missing:
            raise CentralError(
                "not_a_central_backup",
                f"The dump is whole, but it is not of Central's database: it has no data of {', '.join(missing)}. "
                "Check which database was dumped.",
            )
        bad = [number for number in self.bad_blobs if number not in known_bad_blobs]
        if bad:
            shown = ", ".join(map(str, bad[:_BAD_BLOBS_SHOWN]))
            raise CentralError(
                "blob_mismatch",
                f"The content of {len(bad)} blob(s) is not what its SHA-1 says (id {shown}). The backup is damaged, or the "
                "live database holds them so: make another backup; if the same ids are named again, the database does. "
                "known_bad_blobs accepts those ids.",
                bad_blobs=bad[:_BAD_BLOBS_SHOWN],
            )

    def summary(self) -> dict[str, Any]:
        """The facts as modules return them under ``central``."""
        details = self._upgrade[1]
        form_links = [link for link in self._links if link.enketo_id]
        return {
            "version": _text(details.get("version")),
            "backend_version": _text(details.get("server")),
            "frontend_version": _text(details.get("client")),
            "migration": max(self.migrations, default=None),
            "migrations": len(self.migrations),
            "blobs": dict(sorted(self.blobs.items())),
            "blobs_in_database": self.blobs_in_database,
            "bad_blobs": self.bad_blobs[:_BAD_BLOBS_SHOWN],
            "data_size": self.data_size,
            "enketo_ids": len(form_links),
            "enketo_once_ids": sum(1 for link in self._links if link.once_id),
            "enketo_draft_ids": len(self._drafts),
        }


def _integer(row: dict[str, str | None], name: str) -> int:
    try:
        return int(row.get(name) or "")
    except ValueError as error:
        raise corrupt(f"a row of Central's tables has no number where {name} belongs") from error


def _short(row: dict[str, str | None], name: str) -> str | None:
    value = row.get(name)
    return value[:_TEXT] if value else None


def _text(value: Any) -> str | None:
    return value[:200] if isinstance(value, str) else None
