# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows in PostgreSQL's text format of COPY, made into its binary one.

A file takes twice its size in the text format, which the server reads character by character: most of its work in a restore.
Only the table of Central's that holds files is made into the binary format, and only where each of its columns is of a type
whose binary form is known here (PostgreSQL's documentation of COPY, "Binary Format"; src/backend/utils/adt: int4recv,
textrecv, enum_recv and bytearecv. A text, and the name of a value of an enumeration, is what it is in the text format).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

from ansible_collections.odkops.central.plugins.module_utils._bytea import Bytea
from ansible_collections.odkops.central.plugins.module_utils._copy_statement import read_copy_statement
from ansible_collections.odkops.central.plugins.module_utils._copy_text import unescape
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import BlobFact
from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry

#: A value of more bytes is not gathered, so its size has to be known before.
LARGE = 4 * 1024 * 1024

_SCHEMA, _TABLE, _ID = "public", "blobs", "id"
_BYTEA, _TEXT, _INTEGER = "bytea", "text", "integer"

_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">II", 0, 0)
_TRAILER = struct.pack(">h", -1)
_NULL = struct.pack(">i", -1)
_END = b"\\.\n"

# A column in CREATE TABLE as pg_dump writes it: a line of its own.
_COLUMN = re.compile(
    r'    (?P<name>[a-z_][a-z0-9_]*|"(?:[^"]|"")+") (?P<type>.+?)(?: (?:COLLATE|DEFAULT|NOT NULL|CONSTRAINT|GENERATED)\b.*)?,?'
)
_STRING = re.compile(r"text|character varying(?:\([0-9]+\))?")


class LargeFiles(dict[int, int]):
    """The bytes of each file in the database that is larger than :data:`LARGE`, by its id."""

    def note(self, blob: BlobFact) -> None:
        """Take note of a row of ``blobs``."""
        if blob.in_database and (blob.size or 0) > LARGE:
            self[blob.id] = blob.size or 0


class Conversion:
    """How the rows of one table are made into the binary format.

    :param entry: of its data
    :param statement: that takes the place of the one in front of them
    :param kinds: of its columns
    :param key: which column has the number of a row
    """

    def __init__(self, entry: TocEntry, statement: str, kinds: list[str], key: int) -> None:
        self.entry = entry
        self.statement = statement
        self.kinds = kinds
        self.key = key


def conversion(entries: list[TocEntry]) -> Conversion | None:
    """How the table of files of an archive can be sent in the binary format; None where it cannot."""
    data = [entry for entry in entries if entry.description == "TABLE DATA" and _is_table(entry)]
    tables = [entry for entry in entries if entry.description == "TABLE" and _is_table(entry)]
    if len(data) != 1 or len(tables) != 1 or not data[0].copy_statement.isascii():
        return None
    copy = read_copy_statement(data[0].copy_statement)
    if copy is None or (copy.namespace, copy.table) != (_SCHEMA, _TABLE):
        return None
    enumerations = {entry.definition.split("(")[0].strip() for entry in entries if entry.description == "TYPE"}
    types = {}
    for line in tables[0].definition.split("\n"):
        column = _COLUMN.fullmatch(line)
        if column is not None:
            types[column["name"].strip('"')] = _kind(column["type"], enumerations)
    kinds = [types.get(name) or "" for name in copy.columns]
    # A row is cut at its one bytea. The number is in front of it.
    if "" in kinds or kinds.count(_BYTEA) != 1 or _ID not in copy.columns:
        return None
    key, value = copy.columns.index(_ID), kinds.index(_BYTEA)
    if key > value or kinds[key] != _INTEGER or value == len(kinds) - 1:
        return None
    start = data[0].copy_statement.rpartition(" FROM stdin;\n")[0]
    return Conversion(data[0], f"{start} FROM stdin WITH (FORMAT binary);\n", kinds, key)


def _is_table(entry: TocEntry) -> bool:
    return (entry.namespace, entry.tag) == (_SCHEMA, _TABLE)


def _kind(name: str, enumerations: set[str]) -> str | None:
    """The kind of a type that can be converted: its values are in both formats what they are here."""
    if name in (_BYTEA, _INTEGER):
        return name
    if _STRING.fullmatch(name) or f"CREATE TYPE {name} AS ENUM" in enumerations:
        return _TEXT
    return None


class BinaryRows:
    """Makes the rows of one table into the binary format.

    :param how: see :func:`conversion`
    :param sizes: the bytes of each value that is larger than :data:`LARGE`, by the number of its row: see :class:`LargeFiles`
    """

    def __init__(self, how: Conversion, sizes: Mapping[int, int]) -> None:
        self._kinds = how.kinds
        self._key = how.key
        self._index = how.kinds.index(_BYTEA)
        self._sizes = sizes
        self._out: list[bytes] = [_HEADER]
        self._rest = b""
        self._number = 0
        self._value: Bytea | None = None
        self._behind = False
        self._ended = False
        self._gathered: list[bytes] = []
        #: of the value that is handed on as it comes; None while it is gathered
        self._told: int | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next piece of the text.

        :returns: the next pieces of what it becomes
        :raises CentralError: ``tampered`` where the rows are not those that were verified
        """
        try:
            self._feed(data)
        except (ValueError, struct.error) as error:
            raise _changed() from error
        out, self._out = self._out, []
        return out

    def _feed(self, data: bytes) -> None:
        position = 0
        while position < len(data) and not self._ended:
            if self._value is not None:
                end = data.find(b"\t", position)
                self._value.feed(data[position : end if end >= 0 else len(data)])
                self._hand_on()
                if end < 0:
                    return
                self._end_value()
                position = end + 1
                continue
            # In front of the bytea stand so many columns, and behind it the line ends.
            self._rest += data[position:] if position else data
            position = len(data)
            if self._rest.startswith(_END) and not self._behind:
                self._out.append(_TRAILER)
                self._ended = True
                return
            data, position = self._take_columns(), 0

    def _take_columns(self) -> bytes:
        """Take the columns in front of the value, or behind it, once they are whole; returns what follows them."""
        text, self._rest = self._rest, b""
        if self._behind:
            line, newline, following = text.partition(b"\n")
            fields, whole = line.split(b"\t"), bool(newline)
            wanted = self._kinds[self._index + 1 :]
        else:
            *fields, following = text.split(b"\t", self._index)
            wanted = self._kinds[: self._index]
            whole = len(fields) == len(wanted)
        if not whole:
            self._rest = text
            return b""
        if len(fields) != len(wanted):
            raise ValueError("another number of columns")
        if not self._behind:
            self._out.append(struct.pack(">h", len(self._kinds)))
            self._number = int(fields[self._key])
            self._value = Bytea(self._gathered.append)
        for kind, field in zip(wanted, fields):
            self._column(kind, field)
        self._behind = False
        return following

    def _column(self, kind: str, field: bytes) -> None:
        value = unescape(field)
        if value is None:
            self._out.append(_NULL)
        elif kind == _INTEGER:
            self._out.append(struct.pack(">ii", 4, int(value)))
        else:
            self._out += (struct.pack(">i", len(value)), value)

    def _hand_on(self) -> None:
        """Give away what is there of a value that is too large to be gathered."""
        size = self._value.size if self._value is not None else 0
        if self._told is None and size > LARGE:
            self._told = self._sizes.get(self._number, -1)
            self._out.append(struct.pack(">i", self._told))
        if self._told is not None:
            if size > self._told:
                raise ValueError("another size")
            self._out += self._gathered
            self._gathered.clear()

    def _end_value(self) -> None:
        value, self._value, self._behind = self._value, None, True
        if value is None or value.is_null:
            self._out.append(_NULL)
            return
        value.end()
        if self._told is None:
            self._out.append(struct.pack(">i", value.size))
        elif self._told != value.size:
            raise ValueError("another size")
        self._out += self._gathered
        self._gathered.clear()
        self._told = None

    def finish(self) -> None:
        """See that the rows have come to their end.

        :raises CentralError: ``tampered``
        """
        if not self._ended:
            raise _changed()


def _changed() -> CentralError:
    return CentralError(
        "tampered",
        "The rows of public.blobs in the backup are not those that were verified: it has changed while it was restored. Find "
        "out who writes there.",
    )
