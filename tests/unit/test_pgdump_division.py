# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where an archive is divided: at a place between two blocks, found by looking at few bytes of it, whatever it is."""

from __future__ import annotations

import io
import random
from itertools import pairwise

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _pgdump_division
from ansible_collections.odkops.central.plugins.module_utils._pgdump_archive import CustomArchive
from ansible_collections.odkops.central.plugins.module_utils._pgdump_division import Division
from hypothesis import given
from hypothesis import strategies as st

from support.archives import archives, methods
from support.pgdump_writer import Writer, central, table
from support.verifying import block_bounds, toc_end


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small archives are worth it, and may be looked at as often as needed; and any place between two blocks is good enough."""
    monkeypatch.setattr(_pgdump_division, "WORTH", 1)
    monkeypatch.setattr(_pgdump_division, "_NEAR", 100)
    monkeypatch.setattr(_pgdump_division, "_LOOK", 1)


class Looked:
    """Gives bytes of an archive, and knows how many were asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = 0

    def __call__(self, offset: int, size: int) -> bytes:
        assert 0 <= offset < len(self._data)
        self.size += size
        return self._data[offset : offset + size]


def divided(data: bytes) -> tuple[Division | None, Looked]:
    """Where an archive is divided, and what was looked at."""
    looked = Looked(data)
    return CustomArchive(io.BytesIO(data)).division(len(data), looked), looked


def walked(data: bytes, division: Division) -> tuple[list[bytes], int]:
    """What the two parts of an archive hold, one read after the other, and where the first one ended."""
    archive = CustomArchive(io.BytesIO(data))
    first = [b"".join(block.pieces) for block in archive.blocks(division)]
    end = archive.size
    behind = archive.blocks_behind(division, io.BytesIO(data[division.offset :]))
    return first + [b"".join(block.pieces) for block in behind], end


@pytest.mark.parametrize("database", ["small", "nasty"])
@pytest.mark.parametrize(("major", "method"), [(major, method) for major in (15, 17) for method in methods(major)])
def test_real_archives_are_divided_between_two_blocks(major: int, method: str, database: str) -> None:
    data = archives(major).read(database, method)
    division, looked = divided(data)
    assert division is not None
    starts = [start for start, _end in block_bounds(data)]
    assert division.offset in starts
    # Large objects stand behind the tables, and are not gone through.
    middle = (toc_end(data) + len(data)) // 2
    tables = len([entry for entry in CustomArchive(io.BytesIO(data)).entries if entry.description == "TABLE DATA"])
    nearest = min(starts[: tables + 1], key=lambda start: abs(start - middle))
    assert division.offset == nearest
    assert looked.size < len(data) / 4

    found, end = walked(data, division)
    assert end == division.offset
    assert found == [b"".join(block.pieces) for block in CustomArchive(io.BytesIO(data)).blocks()]


@pytest.mark.parametrize("size", [1, 2, 5, 4096, 131_591])
def test_chunks_of_one_size_are_jumped_over(size: int) -> None:
    """As many looks as it takes to find the last one by halving, not one for each chunk."""
    writer = Writer()
    entries = central()
    chunks, last = 1000, 17
    blocks = [
        writer.block(
            entry.dump_id, b"x" * (size * chunks + min(last, size - 1)) if entry.tag == "forms" else b"y", size=size
        )
        for entry in entries
        if entry.data is not None
    ]
    data = writer.header(compression=0) + writer.contents(entries) + b"".join(blocks)
    division, looked = divided(data)
    bounds = block_bounds(data)
    assert division is not None
    assert division.offset in {start for start, _end in bounds}
    assert looked.size < 100 * 5


def test_what_is_found_before_the_looks_are_used_up_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of many sizes, as long rows without compression are, take a look each."""
    writer = Writer()
    rng = random.Random(3)
    entries = central()
    number, blocks = 0, []
    for entry in entries:
        if entry.data is not None:
            number += 1
            sizes = [rng.randrange(1, 90) for _chunk in range(400 if number == 2 else 3)]
            chunks = b"".join(writer.integer(size) + bytes(size) for size in sizes)
            blocks.append(bytes([1]) + writer.integer(entry.dump_id) + chunks + writer.integer(0))
    data = writer.header(compression=0) + writer.contents(entries) + b"".join(blocks)
    every = divided(data)[0]
    assert every is not None
    monkeypatch.setattr(_pgdump_division, "_LOOK", len(data) // 20)
    division, looked = divided(data)
    assert division == Division(1, toc_end(data) + len(blocks[0])) != every
    assert looked.size <= 20 * 5


def test_parts_have_to_be_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Writer().archive([*central(), table(900, "long", "a, b", *(f"{number}\tz" for number in range(5000)))])
    division = divided(data)[0]
    assert division is not None
    smaller = min(division.offset - toc_end(data), len(data) - division.offset)
    monkeypatch.setattr(_pgdump_division, "WORTH", smaller)
    assert divided(data)[0] == division
    monkeypatch.setattr(_pgdump_division, "WORTH", smaller + 1)
    assert divided(data)[0] is None


@pytest.mark.parametrize("off", [-7, -1, 1, 4096])
def test_a_wrong_division_stops_nobody(off: int) -> None:
    """The first reader goes on to the end, as if there were no other one."""
    data = archives(15).read("nasty")
    division = divided(data)[0]
    assert division is not None
    whole = [b"".join(block.pieces) for block in CustomArchive(io.BytesIO(data)).blocks()]
    for wrong in (
        Division(division.number, division.offset + off),
        Division(division.number + (1 if off > 0 else -1), division.offset),
    ):
        archive = CustomArchive(io.BytesIO(data))
        assert [b"".join(block.pieces) for block in archive.blocks(wrong)] == whole
        assert archive.size == len(data)


@pytest.mark.parametrize("size", [1, 4, 8])
@given(noise=st.binary(max_size=3000), sizes=st.data())
def test_noise_is_looked_at_a_bounded_number_of_times(size: int, noise: bytes, sizes: st.DataObject) -> None:
    """Lengths of any kind, up to those that no file has: no error, no endless search."""
    heads = [
        bytes([sizes.draw(st.integers(0, 3))]) + sizes.draw(st.integers(0, 256**size - 1)).to_bytes(size, "little")
        for _head in range(20)
    ]
    first = bytes([1, 0]) + (10).to_bytes(size, "little")
    data = first + b"".join(heads) + noise
    looks = 0

    def look(offset: int, wanted: int) -> bytes:
        nonlocal looks
        looks += 1
        assert 0 <= offset < len(data)
        return data[offset : offset + wanted]

    toc = CustomArchive(io.BytesIO(Writer().archive(central()))).entries
    found = _pgdump_division.divide(toc, 0, len(data), size, look, True)
    assert looks <= len(data)
    assert found is None or 0 < found.offset < len(data)


def test_bounds_of_the_helper_are_right() -> None:
    """What the tests above compare with covers the archive without a gap."""
    data = archives(15).read("nasty", "none")
    bounds = block_bounds(data)
    assert bounds[0][0] == toc_end(data)
    assert all(end == start for (_start, end), (start, _end) in pairwise(bounds))
    assert bounds[-1][1] == len(data)
