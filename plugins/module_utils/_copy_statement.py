# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The statement that pg_dump puts in front of a table's data."""

from __future__ import annotations

import re
from typing import NamedTuple

from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt

#: PostgreSQL's own limit for the columns of a table
MAXIMUM_COLUMNS = 1600

# An identifier is in quotes unless it has only small letters, digits and underscores (fmtId in fe_utils/string_utils.c).
# PostgreSQL's names have 63 bytes.
_NAME = r'(?:[a-z_][a-z0-9_]{0,62}|"(?:[^"]|""){1,63}")'
_STATEMENT = re.compile(rf"COPY (?:(?P<schema>{_NAME})\.)?(?P<table>{_NAME}) ")
_COLUMN = re.compile(_NAME)
_STATEMENT_END = " FROM stdin;\n"


class CopyStatement(NamedTuple):
    """``COPY schema.table (columns) FROM stdin;``, its names without quotes."""

    namespace: str
    table: str
    columns: list[str]


def read_copy_statement(statement: str) -> CopyStatement | None:
    """Take the statement in front of a table's data apart; None for another statement. A table may have no columns.

    :raises CentralError: ``corrupt`` for more columns than PostgreSQL allows
    """
    found = _STATEMENT.match(statement)
    if found is None or not statement.endswith(_STATEMENT_END):
        return None
    position, end = found.end(), len(statement) - len(_STATEMENT_END)
    columns: list[str] = []
    if position < end:
        separator = "("
        while statement.startswith(separator, position, end):
            column = _COLUMN.match(statement, position + len(separator), end)
            if column is None:
                return None
            columns.append(_name_of(column[0]))
            if len(columns) > MAXIMUM_COLUMNS:
                raise corrupt(f"a table in it has more than {MAXIMUM_COLUMNS} columns")
            position, separator = column.end(), ", "
        if statement[position:end] != ")":
            return None
    return CopyStatement(_name_of(found["schema"] or ""), _name_of(found["table"]), columns)


def _name_of(identifier: str) -> str:
    return identifier[1:-1].replace('""', '"') if identifier.startswith('"') else identifier


def columns_of(copy_statement: str) -> list[str] | None:
    """The names of the columns in ``COPY name (columns) FROM stdin;``, or None for another statement.

    A table without columns is an empty list.
    """
    found = read_copy_statement(copy_statement)
    return None if found is None else found.columns
