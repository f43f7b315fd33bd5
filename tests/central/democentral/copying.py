# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SQL and COPY text on their way to psql."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import IO, Any


class Script:
    """SQL on its way to psql: statements, and rows as COPY text."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def sql(self, text: str) -> None:
        """One or more statements."""
        self._stream.write(text.encode() + b"\n")

    def copy(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Rows of a table. Values: None, numbers, text, bytes (bytea), bool; dict and list become JSON."""
        names = ", ".join(f'"{column}"' for column in columns)
        self.sql(f'COPY "{table}" ({names}) FROM STDIN;')
        for row in rows:
            self._stream.write(b"\t".join(_field(value) for value in row) + b"\n")
        self.sql("\\.")


def _field(value: object) -> bytes:
    if value is None:
        return b"\\N"
    if isinstance(value, bytes):
        return b"\\\\x" + value.hex().encode()
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    text = str(value).replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
    return text.encode()
