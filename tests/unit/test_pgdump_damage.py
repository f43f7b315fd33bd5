# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Archives cut short, with something behind them, and with their blocks moved about: all found."""

from __future__ import annotations

import random

import pytest
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError

from support.archives import archives, methods
from support.verifying import block_bounds, diagnosis, read_plain, toc_end

# Bytes of a block's beginning: its kind, and the sign and the four bytes of its id.
HEAD = 6

KINDS = [(15, "none"), (15, "gzip"), (17, "gzip"), (17, "none"), (17, "lz4"), (17, "zstd")]


def cut_is_found(data: bytes, length: int) -> None:
    with pytest.raises(CentralError) as caught:
        read_plain(data[:length])
    expected = "truncated" if length >= 5 or length == 0 else "not_a_central_backup"
    assert caught.value.diagnosis == expected, f"cut after {length} bytes: {caught.value}"


@pytest.mark.parametrize(("major", "stride"), [(15, 1), (17, 11)])
def test_a_cut_at_every_byte_of_header_and_toc(major: int, stride: int) -> None:
    data = archives(major).read("small")
    for length in range(0, toc_end(data) + 1, stride):
        cut_is_found(data, length)


@pytest.mark.parametrize(("major", "method"), [(15, "gzip"), (17, "zstd")])
def test_a_cut_at_every_byte_of_the_data(major: int, method: str) -> None:
    data = archives(major).read("small", method)
    for length in range(toc_end(data), len(data)):
        cut_is_found(data, length)


@pytest.mark.parametrize(("major", "method"), KINDS)
def test_a_cut_at_every_block_boundary_and_at_seeded_positions(major: int, method: str) -> None:
    for database, count in (("small", 100), ("nasty", 8)):
        data = archives(major).read(database, method)
        rng = random.Random(f"{major} {method} {database}")
        # The uncompressed archive of the nasty database has 20 MB to read for each cut.
        lengths = {end for _start, end in block_bounds(data)} - {len(data)} if len(data) < 10_000_000 else set()
        lengths |= {toc_end(data), len(data) - 1, *(rng.randrange(len(data)) for _count in range(count))}
        for length in sorted(lengths):
            cut_is_found(data, length)


@pytest.mark.parametrize(("major", "method"), KINDS)
@pytest.mark.parametrize("behind", [b"\0", b"\n", b"PGDMP", b"\1\0\1\0\0\0\0\0\0\0\0", bytes(100_000)])
def test_something_behind_the_archive(major: int, method: str, behind: bytes) -> None:
    data = archives(major).read("small", method)
    assert diagnosis(data) == "ok"
    with pytest.raises(CentralError, match=f"follows its last block, at byte {len(data)}") as caught:
        read_plain(data + behind)
    assert caught.value.diagnosis == "corrupt"


def test_the_archive_twice() -> None:
    data = archives(15).read()
    assert diagnosis(data + data) == "corrupt"


def blocks_of(data: bytes) -> tuple[bytes, list[bytes]]:
    bounds = block_bounds(data)
    assert bounds[-1][1] == len(data)
    return data[: bounds[0][0]], [data[start:end] for start, end in bounds]


@pytest.mark.parametrize(("major", "method"), KINDS)
def test_blocks_dropped_duplicated_or_replaced(major: int, method: str) -> None:
    head, blocks = blocks_of(archives(major).read("small", method))
    assert len(blocks) == 8
    for index, block in enumerate(blocks):
        without = blocks[:index] + blocks[index + 1 :]
        last = index == len(blocks) - 1
        assert diagnosis(head + b"".join(without)) == ("truncated" if last else "corrupt")
        assert diagnosis(head + b"".join([*blocks[: index + 1], *blocks[index:]])) == "corrupt"
        # another block under this one's name
        other = blocks[index - 1]
        posing = block[:HEAD] + other[HEAD:]
        changed = [*blocks[:index], posing, *blocks[index + 1 :]]
        tables = archives(major).truth().tables
        found = diagnosis(head + b"".join(changed))
        assert found in ("corrupt", "blob_mismatch"), (index, tables)


@pytest.mark.parametrize(("major", "method"), [*KINDS, (15, "gzip-seekable")])
def test_blocks_in_another_order(major: int, method: str) -> None:
    """pg_dump never writes that, and a pg_restore that reads from a pipe fails on it too."""
    head, blocks = blocks_of(archives(major).read("small", method))
    assert diagnosis(head + b"".join(blocks)) == "ok"
    for first in range(len(blocks) - 1):
        order = [*blocks[:first], blocks[first + 1], blocks[first], *blocks[first + 2 :]]
        assert diagnosis(head + b"".join(order)) == "corrupt"
    assert not archives(major).postgresql.restores(head + b"".join([blocks[1], blocks[0], *blocks[2:]]))


def test_blocks_elsewhere_than_the_positions_say() -> None:
    data = archives(15).read("small", "gzip-seekable")
    position = block_bounds(data)[3][0].to_bytes(8, "little")
    assert data.count(b"\2" + position) == 1
    moved = (block_bounds(data)[3][0] + 1).to_bytes(8, "little")
    with pytest.raises(CentralError, match="stands not the data of"):
        read_plain(data.replace(b"\2" + position, b"\2" + moved))


@pytest.mark.parametrize(("major", "method"), KINDS)
def test_blocks_of_another_kind_or_for_nobody(major: int, method: str) -> None:
    head, blocks = blocks_of(archives(major).read("small", method))
    for kind in (0, 2, 3, 255):
        assert diagnosis(head + bytes([kind]) + blocks[0][1:] + b"".join(blocks[1:])) in ("corrupt", "truncated")
    assert diagnosis(head + blocks[0][:2] + b"\xff\xff\xff\x7f" + blocks[0][6:] + b"".join(blocks[1:])) == "corrupt"


@pytest.mark.parametrize("method", ["gzip", "none"])
def test_large_objects_dropped_duplicated_or_swapped(method: str) -> None:
    data = archives(15).read("nasty", method)
    (start, end) = max(block_bounds(data), key=lambda bounds: data[bounds[0]] == 3)
    assert data[start] == 3
    position, objects = start + HEAD, []
    while data[position + 1 : position + 5] != bytes(4):
        begin = position
        position += 5
        while size := int.from_bytes(data[position + 1 : position + 5], "little"):
            position += 5 + size
        position += 5
        objects.append(data[begin:position])
    assert position + 5 == end
    assert len(objects) == 8

    def changed(pieces: list[bytes]) -> bytes:
        return data[: start + HEAD] + b"".join(pieces) + data[position:]

    assert diagnosis(changed(objects)) == "ok"
    assert diagnosis(changed([objects[0], *objects])) == "corrupt"
    assert diagnosis(changed([objects[1], objects[0], *objects[2:]])) == "corrupt"
    assert diagnosis(changed([b"\1" + b"\xff" * 4 + objects[0][5:], *objects[1:]])) == "corrupt"


def test_all_kinds_are_those_that_there_are() -> None:
    assert {method for major, method in KINDS if major == 17} == {
        name for name in methods(17) if not name.strip("abdegilnopstz4")
    }
