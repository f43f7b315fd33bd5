# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shared by the tests of the reader: verify bytes, tell what was found, find the parts of an archive."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import BlobFact
from ansible_collections.odkops.central.plugins.module_utils._pgdump_archive import CustomArchive
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, verify_stream

from .postgresql import PostgreSQL


def read_plain(data: bytes, on_blob: Callable[[BlobFact], None] | None = None, source: Any = None) -> dict[str, Any]:
    """Walk an archive that is not encrypted, and return what is known of it; raises CentralError where it is not whole.

    A stream cipher changes nothing in what is found: bit N of the file is bit N of the archive.
    """
    try:
        verify_stream(source or io.BytesIO(data), Expectation(), on_blob)
    except CentralError as error:
        if error.diagnosis != "unencrypted":
            raise
        return error.details
    raise AssertionError("an archive that is not encrypted was taken for one that is")


def diagnosis(data: bytes) -> str:
    """The diagnosis of an archive that is not encrypted; ``ok`` where it is whole."""
    try:
        read_plain(data)
    except CentralError as error:
        return error.diagnosis
    return "ok"


def toc_end(data: bytes) -> int:
    """Where the table of contents ends."""
    return CustomArchive(io.BytesIO(data)).size


def block_bounds(data: bytes) -> list[tuple[int, int]]:
    """Start and end of each block, the first starting where the table of contents ends."""
    archive = CustomArchive(io.BytesIO(data))
    bounds = []
    latest, start = None, archive.size
    for block in archive.blocks():
        if latest is not None and block.entry is not latest:
            # the kind and the id of this block have been read, and the first large object's id
            end = archive.size - (6 if block.large_object is None else 11)
            bounds.append((start, end))
            start = end
        latest = block.entry
        for _piece in block.pieces:
            pass
    return [*bounds, (start, archive.size)]


def flips(rng: random.Random, start: int, end: int, count: int | None = None) -> Iterator[tuple[int, int]]:
    """Position and bit of one flip in each byte, or in `count` bytes chosen by chance."""
    positions = range(start, end) if count is None or count >= end - start else rng.sample(range(start, end), count)
    for position in sorted(positions):
        yield position, rng.randrange(8)


def flipped(data: bytes, position: int, bit: int) -> bytes:
    """The same with one bit changed."""
    return data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


@dataclass
class Share:
    """How many flips each of two readers found."""

    region: str
    number: int = 0
    ours: int = 0
    theirs: int = 0
    #: those that only pg_restore found
    missed: list[tuple[int, int]] | None = None

    def __str__(self) -> str:
        ours, theirs = 100 * self.ours / self.number, 100 * self.theirs / self.number
        return f"{self.region}: of {self.number} flips this collection found {ours:.1f} %, pg_restore {theirs:.1f} %"


def compare(data: bytes, region: str, bits: Iterator[tuple[int, int]], postgresql: PostgreSQL) -> Share:
    """Flip bits one at a time, and ask both readers."""
    share = Share(region, missed=[])
    for position, bit in bits:
        bad = flipped(data, position, bit)
        ours, theirs = diagnosis(bad) != "ok", not postgresql.restores(bad)
        share.number += 1
        share.ours += ours
        share.theirs += theirs
        if theirs and not ours and share.missed is not None:
            share.missed.append((position, bit))
    return share
