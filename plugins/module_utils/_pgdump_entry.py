# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An entry of the table of contents of a pg_dump archive."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TocEntry:
    """One entry of the table of contents."""

    dump_id: int
    #: what it is: ``TABLE``, ``TABLE DATA``, ``INDEX``, ...
    description: str
    #: its name
    tag: str
    #: its schema, or empty
    namespace: str
    owner: str
    #: SQL that makes it, or empty
    definition: str
    #: SQL before its data, ``COPY ... FROM stdin;``, or empty
    copy_statement: str
    #: whether the archive must hold data for it
    has_data: bool
    #: name of the file that holds its data, in the directory format
    file_name: str
    #: SQL that removes it, or empty
    drop_statement: str = ""
    #: where its data begins in the archive, or 0 where pg_dump could not note it
    position: int = 0
    #: the kind of row and the row that describes it in the database's own catalogue, or 0
    catalogue: int = 0
    oid: int = 0
    #: 1 none, 2 before the data, 3 data, 4 after the data
    section: int = 1
    #: how its rows are stored (``heap``), or empty
    access_method: str = ""
    #: where the field stands in the archive that only its own format has: its first byte, and the one behind it
    extra: tuple[int, int] = (0, 0)

    @property
    def name(self) -> str:
        """Schema and name as one word, for example ``public.forms``."""
        return f"{self.namespace}.{self.tag}" if self.namespace else self.tag
