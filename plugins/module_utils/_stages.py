# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done with the data of an archive, one block after another: it is decompressed, then its rows are read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Callable, Union

from ansible_collections.odkops.central.plugins.module_utils._checksums import adler32
from ansible_collections.odkops.central.plugins.module_utils._compression import decompressor, sums_apart
from ansible_collections.odkops.central.plugins.module_utils._copy_statement import columns_of
from ansible_collections.odkops.central.plugins.module_utils._deflate import MOST_BEHIND, Middle
from ansible_collections.odkops.central.plugins.module_utils._facts import Facts, Table, TablePart
from ansible_collections.odkops.central.plugins.module_utils._pgdump_archive import Block
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt
from ansible_collections.odkops.central.plugins.module_utils._zlib_stream import (
    WrongDivisionError,
    ZlibStream,
    wrong_checksum,
)


@dataclass(frozen=True)
class Checksum:
    """The Adler-32 that the data of a block has to have, all of it: stands in front of its end."""

    value: int


#: a block, a piece of its data (a memoryview is good until the call returns), where its first part ends, its checksum, or None
#: for its end
Item = Union[Block, bytes, memoryview, Middle, Checksum, None]

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
        self._middle: Middle | None = None
        self._behind: list[bytes] = []
        self._behind_size = 0

    def take(self, item: Item) -> None:
        """Take the next item.

        :raises CentralError: ``corrupt``, ``missing_required_lib``, ``unsupported_compression``, and what `pass_on` raises
        """
        if isinstance(item, Block):
            self._begin(item)
        elif item is None:
            if self._middle is None:
                self._end()
            else:
                self._end_part(self._middle)
            self._pass_on(None)
        elif isinstance(item, Middle):
            self._middle = item
        elif isinstance(item, Checksum):
            pass
        elif self._middle is not None:
            self._behind.append(bytes(item))
            self._behind_size += len(item)
            if self._behind_size > MOST_BEHIND:
                raise WrongDivisionError
        else:
            self._may_be_empty = False
            self._gather(self._decompressor.feed(item))

    def _gather(self, pieces: Iterable[bytes]) -> None:
        for data in pieces:
            if self._in_table:
                self._pieces.append(data)
                self._gathered += len(data)
                if self._gathered >= _PIECE:
                    self._flush()
            else:
                self._sum.add(data)

    def _end(self) -> None:
        if not self._may_be_empty:
            self._decompressor.finish()
        self._flush()
        checksum = self._decompressor.checksum
        if checksum is not None and self._in_table:
            self._pass_on(Checksum(checksum))
        elif checksum is not None:
            self._sum.compare(checksum, self._name)

    def _end_part(self, middle: Middle) -> None:
        """End the first part of a stream."""
        behind = b"".join(self._behind)
        self._middle, self._behind, self._behind_size = None, [], 0
        if not isinstance(self._decompressor, ZlibStream):
            raise WrongDivisionError
        self._gather(self._decompressor.end_at(middle, behind))
        self._flush()
        self._pass_on(middle)

    def _begin(self, block: Block) -> None:
        self._name = block.entry.name
        self._decompressor = decompressor(self._compression, self._name, self._file, True, block.middle)
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
        self._adler32 = adler32() if sums_apart(compression, file) else None
        self.value = 1

    def begin(self) -> None:
        """The data of a block begins."""
        self.value = 1

    def add(self, data: bytes | memoryview) -> None:
        """Take the next piece of it."""
        if self._adler32 is not None:
            self.value = self._adler32(data, self.value)

    def compare(self, expected: int, name: str) -> None:
        """The data has ended.

        :raises CentralError: ``corrupt``
        """
        if self.value != expected:
            raise wrong_checksum(name)


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
        self._second = False

    def take(self, item: Item) -> None:
        """Take the next item.

        :raises CentralError: ``corrupt``
        """
        if isinstance(item, Block):
            self._begin(item)
        elif self._table is None:
            return
        elif isinstance(item, Checksum):
            if self._second:
                self._facts.part = self._part(item.value)
            else:
                self._sum.compare(item.value, self._name)
        elif isinstance(item, Middle):
            self._facts.part = self._part(None)
            self._facts.tables[self._name] = self._table.finish_part()
            self._table = None
        elif item is None:
            self._facts.tables[self._name] = self._table.finish()
            self._table = None
        else:
            self._facts.data_size += len(item)
            self._sum.add(item)
            self._table.feed(item)

    def _part(self, expected: int | None) -> TablePart:
        return TablePart(self._name, self._sum.value, self._facts.data_size, expected)

    def _begin(self, block: Block) -> None:
        entry = block.entry
        self._name = entry.name
        self._second = block.middle is not None
        self._sum.begin()
        self._table = None
        if entry.description == "TABLE DATA":
            columns = columns_of(entry.copy_statement)
            if columns is None:
                raise corrupt(f"the data of {entry.name} is not in the form of COPY")
            self._table = self._facts.table(entry.namespace, entry.tag, columns)


def feed(blocks: Iterable[Block], put: Callable[[Item], None]) -> None:
    """Give each block, its pieces, and None for its end, to `put`; where its first part ends, that, and what is behind it."""
    for block in blocks:
        put(block)
        for piece in block.pieces:
            put(piece)
        if block.first is not None and block.first.stopped:
            put(block.first.middle)
            for piece in block.first.behind():
                put(piece)
        put(None)
