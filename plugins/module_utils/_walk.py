# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All data of an archive, decompressed and given to the facts, whatever container it came in."""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.odkops.central.plugins.module_utils._compression import decompressor
from ansible_collections.odkops.central.plugins.module_utils._copy_text import columns_of
from ansible_collections.odkops.central.plugins.module_utils._facts import Facts, Table
from ansible_collections.odkops.central.plugins.module_utils._pgdump_archive import Block
from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt
from ansible_collections.odkops.central.plugins.module_utils._pgdump_toc import Header, read_encoding
from ansible_collections.odkops.central.plugins.module_utils._pipeline import Worker

# So much is given to a table at a time, in bytes; a piece of a decompressor may be larger.
_PIECE = 128 * 1024


def read_blocks(
    header: Header, entries: list[TocEntry], blocks: Iterable[Block], facts: Facts, file: bool = False
) -> None:
    """Decompress and read all data of an archive, on a second core where there is one.

    :param blocks: the blocks, as :meth:`CustomArchive.blocks` gives them
    :param file: the blocks are files of the directory format
    :raises CentralError: ``truncated``, ``corrupt``, ``missing_required_lib``, ...
    """
    _check_entries(entries)
    facts.encoding = next((read_encoding(entry) for entry in entries if entry.description == "ENCODING"), None)
    reader = _BlockReader(header.compression, facts, file)
    with Worker(reader.take) as worker:
        for block in blocks:
            worker.put(block)
            for piece in block.pieces:
                worker.put(piece)
            worker.put(None)
        worker.finish()


def _check_entries(entries: list[TocEntry]) -> None:
    names: set[tuple[str, str]] = set()
    for entry in entries:
        if entry.description != "TABLE DATA":
            continue
        name = (entry.namespace, entry.tag)
        if name in names or not entry.has_data:
            raise corrupt(f"its table of contents has the data of {entry.name} twice, or not at all")
        names.add(name)


class _BlockReader:
    """Takes a block, its pieces, and None for its end, again and again."""

    def __init__(self, compression: str, facts: Facts, file: bool) -> None:
        self._compression = compression
        self._facts = facts
        self._file = file
        self._table: Table | None = None
        self._name = ""
        self._pieces: list[bytes] = []
        self._gathered = 0

    def take(self, item: Block | bytes | None) -> None:
        if isinstance(item, Block):
            self._begin(item)
        elif item is None:
            self._end()
        else:
            self._may_be_empty = False
            for data in self._decompressor.feed(item):
                if self._table is not None:
                    self._pieces.append(data)
                    self._gathered += len(data)
                    if self._gathered >= _PIECE:
                        self._pass_on(self._table)

    def _pass_on(self, table: Table) -> None:
        """Give the table what was gathered: a hostile stream may decompress to single bytes."""
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces, self._gathered = [], 0
        table.feed(data)

    def _begin(self, block: Block) -> None:
        entry = block.entry
        self._name = entry.name
        self._decompressor = decompressor(self._compression, entry.name, self._file)
        # pg_dump makes a file of no bytes at all of an empty large object, where it compresses by lz4 or zstd.
        self._may_be_empty = self._file and block.large_object is not None and self._compression in ("lz4", "zstd")
        self._table = None
        if entry.description == "TABLE DATA":
            columns = columns_of(entry.copy_statement)
            if columns is None:
                raise corrupt(f"the data of {entry.name} is not in the form of COPY")
            self._table = self._facts.table(entry.namespace, entry.tag, columns)

    def _end(self) -> None:
        if not self._may_be_empty:
            self._decompressor.finish()
        if self._table is not None:
            self._pass_on(self._table)
            self._facts.tables[self._name] = self._table.finish()
            self._table = None
