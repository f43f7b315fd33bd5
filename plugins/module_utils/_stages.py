# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done with the data of an archive, one block after another: it is decompressed, then its rows are read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Callable, Union

from ansible_collections.odkops.central.plugins.module_utils._compression import adler32_of, decompressor
from ansible_collections.odkops.central.plugins.module_utils._copy_statement import columns_of
from ansible_collections.odkops.central.plugins.module_utils._facts import Facts, Table
from ansible_collections.odkops.central.plugins.module_utils._pgdump_archive import Block
from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt


@dataclass(frozen=True)
class Checksum:
    """The Adler-32 that the data of a block has to have, all of it: stands in front of its end."""

    value: int


#: a block, a piece of its data (a memoryview is good until the call returns), its checksum, or None for its end
Item = Union[Block, bytes, memoryview, Checksum, None]

# So much is passed on at a time, in bytes; a piece of a decompressor may be larger.
_PIECE = 128 * 1024


class Decompressing:
    """Takes a block, its compressed pieces, and None for its end, again and again; passes the same on, decompressed.

    What is in no table is decompressed, and goes no further.

    :param compression: the method, as :func:`decompressor` takes it
    :param file: the blocks are files of the directory format
    :param pass_on: takes what comes of it
    """

    def __init__(self, compression: str, file: bool, pass_on: Callable[[Item], None]) -> None:
        self._compression = compression
        self._file = file
        self._pass_on = pass_on
        self._sum = _Sum(compression, file)
        self._may_be_empty = False
        self._in_table = False
        self._pieces: list[bytes] = []
        self._gathered = 0

    def take(self, item: Item) -> None:
        """Take the next item.

        :raises CentralError: ``corrupt``, ``missing_required_lib``, ``unsupported_compression``, and what `pass_on` raises
        """
        if isinstance(item, Block):
            self._begin(item)
        elif item is None:
            if not self._may_be_empty:
                self._decompressor.finish()
            self._flush()
            checksum = self._decompressor.checksum
            if checksum is not None and self._in_table:
                self._pass_on(Checksum(checksum))
            elif checksum is not None:
                self._sum.compare(checksum, self._name)
            self._pass_on(None)
        elif not isinstance(item, Checksum):
            self._may_be_empty = False
            for data in self._decompressor.feed(item):
                if self._in_table:
                    self._pieces.append(data)
                    self._gathered += len(data)
                    if self._gathered >= _PIECE:
                        self._flush()
                else:
                    self._sum.add(data)

    def _begin(self, block: Block) -> None:
        self._name = block.entry.name
        self._decompressor = decompressor(self._compression, self._name, self._file, apart=True)
        self._sum.begin()
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


class _Sum:
    """The checksum of a block's data, where the decompressor does not compute it.

    It is a pass over all data, and so is left to the process that has less to do.

    :param compression: the method
    :param file: the blocks are files of the directory format
    """

    def __init__(self, compression: str, file: bool) -> None:
        self._adler32 = adler32_of(compression, file)
        self._value = 1

    def begin(self) -> None:
        """The data of a block begins."""
        self._value = 1

    def add(self, data: bytes | memoryview) -> None:
        """Take the next piece of it."""
        if self._adler32 is not None:
            self._value = self._adler32(data, self._value)

    def compare(self, expected: int, name: str) -> None:
        """The data has ended.

        :raises CentralError: ``corrupt``
        """
        if self._value != expected:
            raise corrupt(f"the compressed data of {name} does not have the checksum that stands behind it")


class TableReader:
    """Takes a block, its data, and None for its end, again and again, and gives the rows of tables to the facts.

    :param compression: how the data was compressed
    :param file: the blocks are files of the directory format
    """

    def __init__(self, facts: Facts, compression: str, file: bool) -> None:
        self._sum = _Sum(compression, file)
        self._facts = facts
        self._table: Table | None = None
        self._name = ""

    def take(self, item: Item) -> None:
        """Take the next item.

        :raises CentralError: ``corrupt``
        """
        if isinstance(item, Block):
            self._begin(item.entry)
        elif self._table is None:
            return
        elif isinstance(item, Checksum):
            self._sum.compare(item.value, self._name)
        elif item is None:
            self._facts.tables[self._name] = self._table.finish()
            self._table = None
        else:
            self._facts.data_size += len(item)
            self._sum.add(item)
            self._table.feed(item)

    def _begin(self, entry: TocEntry) -> None:
        self._name = entry.name
        self._sum.begin()
        self._table = None
        if entry.description == "TABLE DATA":
            columns = columns_of(entry.copy_statement)
            if columns is None:
                raise corrupt(f"the data of {entry.name} is not in the form of COPY")
            self._table = self._facts.table(entry.namespace, entry.tag, columns)


def feed(blocks: Iterable[Block], put: Callable[[Item], None]) -> None:
    """Give each block, its pieces, and None for its end, to `put`."""
    for block in blocks:
        put(block)
        for piece in block.pieces:
            put(piece)
        put(None)
