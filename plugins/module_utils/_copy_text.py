# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows in PostgreSQL's text format of COPY, as pg_dump writes them.

A row ends with a line feed, its columns are divided by tabs, NULL is ``\\N``, and a backslash
introduces what must not stand for itself, so a raw line feed or tab always divides
(PostgreSQL's documentation of COPY, "Text Format"). Behind the last row pg_dump writes ``\\.``
and three line feeds (src/bin/pg_dump/pg_dump.c, dumpTableData_copy).
"""

from __future__ import annotations

import codecs
import re
from typing import Protocol, Union

from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt

#: data as it comes; a memoryview is good until the call returns
Buffer = Union[bytes, memoryview]

NULL = b"\\N"
_END_ROW = b"\\."
_END_LINE = b"\n\\.\n"
_END = b"\n\\.\n\n\n"
_LINES_BEHIND = 2

# Text is decoded, to see whether it can be, in pieces of so many bytes, and only those that are not ASCII: most are.
_WINDOW = 4096

#: A row longer than this is not kept in memory by :class:`CopyMatches`,
LONG_ROW = 1024 * 1024

#: and one that is longer than this is taken piece by piece by :class:`CopyRows`, since gathering it costs time.
STREAMED_ROW = 64 * 1024

#: So much is kept of each column of a long row, and of all of them together.
LONG_FIELD = 64 * 1024
_LONG_FIELDS = 4 * 1024 * 1024

_ESCAPE = re.compile(rb"\\(?P<octal>[0-7]{1,3})|\\x(?P<hex>[0-9A-Fa-f]{1,2})|\\(?P<other>.)", re.DOTALL)
_CONTROLS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def _unescape_one(match: re.Match[bytes]) -> bytes:
    if match["octal"]:
        return bytes([int(match["octal"], 8) & 0xFF])
    if match["hex"]:
        return bytes([int(match["hex"], 16)])
    return _CONTROLS.get(match["other"], match["other"])


def unescape(field: bytes) -> bytes | None:
    """The value of a column: None for NULL."""
    if field == NULL:
        return None
    return _ESCAPE.sub(_unescape_one, field) if b"\\" in field else field


def text_of(field: bytes) -> str | None:
    """The value of a column as text: None for NULL."""
    value = unescape(field)
    return None if value is None else value.decode("utf-8", "replace")


class Column(Protocol):
    """Takes a column of a long row."""

    def feed(self, piece: bytes) -> None:
        """The next piece of its text.

        :raises CentralError: ``corrupt`` where that cannot be in it
        """

    def swallow(self, data: Buffer) -> bool:
        """Take `data` if each of its bytes can be text of this column, and so neither divides columns nor rows.

        :returns: False where that is not known; nothing was taken then
        """


class Rows(Protocol):
    """Takes the rows of one table that somebody wants to see."""

    def row(self, fields: list[bytes]) -> None:
        """One row, its columns as they stand in the data."""

    def long_row(self, index: int) -> Column | None:
        """Who takes the column `index` of a row that is too long to keep, piece by piece; None for nobody."""

    def end_long_row(self, fields: list[bytes]) -> None:
        """The row is over. In `fields`, columns taken piece by piece are empty, others are cut at :data:`LONG_FIELD`."""


def _count(data: bytes, byte: bytes) -> int:
    """As ``data.count(byte)``, but for bytes that are rare eight times as fast."""
    return len(data) - len(data.replace(byte, b""))


class _Text:
    """Looks for what cannot be in rows: characters that COPY never writes as they are, and no UTF-8.

    :param encoding: Python's name of the data's encoding, or None where it is not known
    """

    def __init__(self, where: str, encoding: str | None) -> None:
        self._where = where
        self._decoder = codecs.getincrementaldecoder(encoding)() if encoding == "utf-8" else None
        self._cut = False

    def check(self, data: bytes) -> None:
        """Look at the next piece.

        :raises CentralError: ``corrupt``
        """
        if b"\0" in data or b"\r" in data:
            raise corrupt(f"the rows of {self._where} have a character in them that PostgreSQL never writes there")
        if self._decoder is None or (data.isascii() and not self._cut):
            return
        for start in range(0, len(data), _WINDOW):
            part = data[start : start + _WINDOW]
            if not self._cut and part.isascii():
                continue
            try:
                self._decoder.decode(part)
            except UnicodeDecodeError as error:
                raise corrupt(f"the rows of {self._where} are no text in UTF-8") from error
            self._cut = bool(self._decoder.getstate()[0])


class CopyCounter:
    """Counts the rows of one table, and checks that they are whole.

    :param where: name of the table, for messages
    :param columns: how many columns it has
    :param encoding: Python's name of the data's encoding, or None where it is not known
    """

    def __init__(self, where: str, columns: int, encoding: str | None = None) -> None:
        self._where = where
        self._columns = columns
        self._text = _Text(where, encoding)
        self._tabs = 0
        self._lines = 0
        # As if a row had ended before the first one, so that an end at once is found like any other.
        self._tail = b"\n"
        self._ends = 0

    def feed(self, data: Buffer) -> None:
        """Take the next piece of the data.

        :raises CentralError: ``corrupt``
        """
        data = bytes(data)
        self._text.check(data)
        self._lines += _count(data, b"\n")
        self._tabs += _count(data, b"\t")
        if self._columns < 2:
            self._seek_ends(self._tail[-3:] + data)
        self._tail = (self._tail + data[-len(_END) :])[-len(_END) :]

    def _seek_ends(self, data: bytes) -> None:
        """Count the ends. In a table of several columns they would lack its tabs; here nothing else tells."""
        position = data.find(_END_LINE)
        while position >= 0:
            self._ends += 1
            if self._ends > 1:
                raise corrupt(f"the rows of {self._where} have an end in their middle")
            position = data.find(_END_LINE, position + 1)

    def finish(self) -> int:
        """Say that no more comes.

        :returns: the number of rows
        :raises CentralError: ``corrupt``
        """
        if self._tail != _END:
            raise corrupt(f"the rows of {self._where} stop before their end")
        return self._checked(self._lines - (_END.count(b"\n") - 1))

    def finish_part(self) -> int:
        """Say that somebody else takes what follows, from a row on.

        :returns: the number of rows so far
        :raises CentralError: ``corrupt``
        """
        if self._ends or self._tail[-1:] != b"\n":
            raise corrupt(f"the rows of {self._where} have an end in their middle")
        return self._checked(self._lines)

    def _checked(self, rows: int) -> int:
        if self._tabs != rows * max(self._columns - 1, 0):
            raise corrupt(f"the rows of {self._where} do not have {self._columns} columns each")
        return rows


class CopyRows:
    """Counts the rows of one table as :class:`CopyCounter` does, and hands each one on.

    :param where: name of the table, for messages
    :param columns: how many columns it has
    :param rows: who takes the rows
    :param encoding: as for :class:`CopyCounter`
    """

    def __init__(self, where: str, columns: int, rows: Rows, encoding: str | None = None) -> None:
        self._where = where
        self._columns = columns
        self._text = _Text(where, encoding)
        self._taker = rows
        self._rest = b""
        self._rows = 0
        self._behind: int | None = None
        self._long: _LongRow | None = None

    def feed(self, data: Buffer) -> None:
        """Take the next piece of the data.

        :raises CentralError: ``corrupt``
        """
        if self._long is not None and self._long.swallow(data):
            return
        data = bytes(data)
        self._text.check(data)
        if self._long is not None:
            data = self._long.feed(data)
            if not self._long.ended:
                return
            self._long = None
            self._rows += 1
        start = 0
        if self._rest:
            end = data.find(b"\n")
            if end < 0:
                self._rest += data
                start = len(data)
            else:
                start = end + 1
                line = self._rest + data[:end]
                self._line(line, 0, len(line))
        # Positions, not split(): a row is long here, and so is copied once only.
        end = data.find(b"\n", start)
        while end >= 0:
            self._line(data, start, end)
            start = end + 1
            end = data.find(b"\n", start)
        if start < len(data):
            self._rest = data[start:]
        elif start > 0 and data.endswith(b"\n"):
            self._rest = b""
        if len(self._rest) > STREAMED_ROW:
            self._long = _LongRow(self._where, self._columns, self._taker)
            self._long.feed(self._rest)
            self._rest = b""

    def _line(self, data: bytes, start: int, end: int) -> None:
        """Take the row that stands from `start` to `end`."""
        if self._behind is not None:
            self._behind += 1
            if end > start or self._behind > _LINES_BEHIND:
                raise corrupt(f"the rows of {self._where} have an end in their middle")
        elif end - start == len(_END_ROW) and data.startswith(_END_ROW, start):
            self._behind = 0
        else:
            fields: list[bytes] = []
            tab = data.find(b"\t", start, end)
            while tab >= 0 and len(fields) < self._columns:
                fields.append(data[start:tab])
                start = tab + 1
                tab = data.find(b"\t", start, end)
            fields.append(data[start:end])
            if len(fields) != self._columns:
                raise corrupt(f"the rows of {self._where} do not have {self._columns} columns each")
            self._rows += 1
            self._taker.row(fields)

    def finish(self) -> int:
        """As :meth:`CopyCounter.finish`."""
        if self._behind != _LINES_BEHIND or self._rest:
            raise corrupt(f"the rows of {self._where} stop before their end")
        return self._rows

    def finish_part(self) -> int:
        """As :meth:`CopyCounter.finish_part`."""
        if self._behind is not None or self._rest or self._long is not None:
            raise corrupt(f"the rows of {self._where} have an end in their middle")
        return self._rows


class _LongRow:
    """A row that is handed on piece by piece, since a column of it may be as large as 1 GB."""

    def __init__(self, where: str, columns: int, rows: Rows) -> None:
        self._where = where
        self._columns = columns
        self._rows = rows
        self._fields = [b""]
        self._kept = 0
        self._taker = rows.long_row(0)
        self.ended = False

    def swallow(self, data: Buffer) -> bool:
        """Take `data` if it lies as a whole inside a column that somebody takes, as far as that one knows at once."""
        return self._taker is not None and self._taker.swallow(data)

    def feed(self, data: bytes) -> bytes:
        """Take `data` up to the end of the row; what follows it is returned."""
        end = data.find(b"\n")
        mine, following = (data, b"") if end < 0 else (data[:end], data[end + 1 :])
        # find(), not split(), which is slow where there is little to split.
        start = 0
        tab = mine.find(b"\t")
        while tab >= 0:
            self._take(mine[start:tab])
            self._next_field()
            start = tab + 1
            tab = mine.find(b"\t", start)
        self._take(mine[start:] if start else mine)
        if end >= 0:
            self.ended = True
            if len(self._fields) != self._columns:
                raise corrupt(f"the rows of {self._where} do not have {self._columns} columns each")
            self._rows.end_long_row(self._fields)
        return following

    def _next_field(self) -> None:
        if len(self._fields) >= self._columns:
            raise corrupt(f"the rows of {self._where} do not have {self._columns} columns each")
        self._taker = self._rows.long_row(len(self._fields))
        self._fields.append(b"")

    def _take(self, piece: bytes) -> None:
        if self._taker is not None:
            self._taker.feed(piece)
        else:
            kept = piece[: min(LONG_FIELD - len(self._fields[-1]), _LONG_FIELDS - self._kept)]
            self._fields[-1] += kept
            self._kept += len(kept)


class CopyMatches:
    """Counts the rows of one table, and hands on only those in which some bytes occur.

    :param where: name of the table, for messages
    :param columns: how many columns it has
    :param needle: the bytes
    :param rows: who takes the rows; one that is too long to keep is passed over
    :param encoding: as for :class:`CopyCounter`
    """

    def __init__(self, where: str, columns: int, needle: bytes, rows: Rows, encoding: str | None = None) -> None:
        self._counter = CopyCounter(where, columns, encoding)
        self._columns = columns
        self._needle = needle
        self._rows = rows
        self._rest = b""
        self._skipping = False

    def feed(self, data: Buffer) -> None:
        """Take the next piece of the data."""
        data = bytes(data)
        self._counter.feed(data)
        end = data.rfind(b"\n") + 1
        if not end:
            self._keep(data)
            return
        start = data.find(b"\n") + 1 if self._skipping else 0
        lines = (b"" if self._skipping else self._rest) + data[start:end]
        self._skipping, self._rest = False, b""
        self._keep(data[end:])
        position = lines.find(self._needle)
        while position >= 0:
            begin, stop = lines.rfind(b"\n", 0, position) + 1, lines.find(b"\n", position)
            fields = lines[begin:stop].split(b"\t", self._columns)
            if len(fields) == self._columns:
                self._rows.row(fields)
            position = lines.find(self._needle, stop)

    def _keep(self, data: bytes) -> None:
        if not self._skipping:
            self._rest += data
        if len(self._rest) > LONG_ROW:
            self._skipping, self._rest = True, b""

    def finish(self) -> int:
        """As :meth:`CopyCounter.finish`."""
        return self._counter.finish()

    def finish_part(self) -> int:
        """As :meth:`CopyCounter.finish_part`."""
        return self._counter.finish_part()
