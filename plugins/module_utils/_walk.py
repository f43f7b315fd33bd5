# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All data of an archive, decompressed and given to the facts, whatever container it came in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Callable, Union

from ansible_collections.odkops.central.plugins.module_utils._compression import decompressor
from ansible_collections.odkops.central.plugins.module_utils._copy_text import columns_of
from ansible_collections.odkops.central.plugins.module_utils._facts import Facts, Table
from ansible_collections.odkops.central.plugins.module_utils._pgdump_archive import Block
from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt
from ansible_collections.odkops.central.plugins.module_utils._pgdump_toc import Header, read_encoding
from ansible_collections.odkops.central.plugins.module_utils._pipeline import Worker

_Item = Union[Block, bytes, None]

# So much is given to a table at a time, in bytes; a piece of a decompressor may be larger.
_PIECE = 128 * 1024


def read_blocks(
    header: Header, entries: list[TocEntry], blocks: Iterable[Block], facts: Facts, file: bool = False
) -> None:
    """Decompress and read all data of an archive: each in a thread of its own, since it is read in a third one.

    :param blocks: the blocks, as :meth:`CustomArchive.blocks` gives them
    :param file: the blocks are files of the directory format
    :raises CentralError: ``truncated``, ``corrupt``, ``missing_required_lib``, ...
    """
    _check_entries(entries)
    facts.encoding = next((read_encoding(entry) for entry in entries if entry.description == "ENCODING"), None)
    with Worker(_TableReader(facts).take) as reading:
        decompressing = _Decompressing(header.compression, file, reading.put)
        with Worker(decompressing.take) as worker:
            for block in blocks:
                worker.put(block)
                for piece in block.pieces:
                    worker.put(piece)
                worker.put(None)
            worker.finish()
        reading.finish()


def _check_entries(entries: list[TocEntry]) -> None:
    names: set[tuple[str, str]] = set()
    for entry in entries:
        if entry.description != "TABLE DATA":
            continue
        name = (entry.namespace, entry.tag)
        if name in names or not entry.has_data:
            raise corrupt(f"its table of contents has the data of {entry.name} twice, or not at all")
        names.add(name)


class _Decompressing:
    """Takes a block, its compressed pieces, and None for its end, again and again; passes the same on, decompressed.

    What is in no table is decompressed, and goes no further.
    """

    def __init__(self, compression: str, file: bool, pass_on: Callable[[_Item], None]) -> None:
        self._compression = compression
        self._file = file
        self._pass_on = pass_on
        self._may_be_empty = False
        self._in_table = False
        self._pieces: list[bytes] = []
        self._gathered = 0

    def take(self, item: _Item) -> None:
        if isinstance(item, Block):
            self._begin(item)
        elif item is None:
            if not self._may_be_empty:
                self._decompressor.finish()
            self._flush()
            self._pass_on(None)
        else:
            self._may_be_empty = False
            for data in self._decompressor.feed(item):
                if self._in_table:
                    self._pieces.append(data)
                    self._gathered += len(data)
                    if self._gathered >= _PIECE:
                        self._flush()

    def _begin(self, block: Block) -> None:
        self._decompressor = decompressor(self._compression, block.entry.name, self._file)
        # pg_dump makes a file of no bytes at all of an empty large object, where it compresses by lz4 or zstd.
        self._may_be_empty = self._file and block.large_object is not None and self._compression in ("lz4", "zstd")
        self._in_table = block.entry.description == "TABLE DATA"
        self._pass_on(block)

    def _flush(self) -> None:
        """Pass on what was gathered: a hostile stream may decompress to single bytes."""
        if self._pieces:
            data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces, self._gathered = [], 0
            self._pass_on(data)


class _TableReader:
    """Takes a block, its data, and None for its end, again and again, and gives the rows of tables to the facts."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._table: Table | None = None
        self._name = ""

    def take(self, item: _Item) -> None:
        if isinstance(item, Block):
            self._begin(item.entry)
        elif self._table is None:
            return
        elif item is None:
            self._facts.tables[self._name] = self._table.finish()
            self._table = None
        else:
            self._table.feed(item)

    def _begin(self, entry: TocEntry) -> None:
        self._name = entry.name
        self._table = None
        if entry.description == "TABLE DATA":
            columns = columns_of(entry.copy_statement)
            if columns is None:
                raise corrupt(f"the data of {entry.name} is not in the form of COPY")
            self._table = self._facts.table(entry.namespace, entry.tag, columns)
