# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Streams that begin and end in the middle of another one, as zlib and isal read them; and where one can be divided."""

from __future__ import annotations

import itertools
import random
import sys
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _deflate_search, _zlib_stream
from ansible_collections.odkops.central.plugins.module_utils._deflate import (
    WINDOW,
    Middle,
    begun,
    block_starts,
    ended,
    last_block,
)
from ansible_collections.odkops.central.plugins.module_utils._deflate_search import find_middle
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._zlib_stream import (
    WrongDivisionError,
    ZlibStream,
    ZlibStreamBehind,
    adler32_of_both,
)
from hypothesis import given
from hypothesis import strategies as st
from isal import igzip_lib

LAST = last_block()
WORD = LAST.gives


def deflated(data: bytes, level: int = 6) -> bytes:
    """A deflate stream, as zlib makes it, without its head and its checksum."""
    return zlib.compress(data, level)[2:-4]


def photos(size: int, row: int = 50_000, seed: int = 0) -> bytes:
    """Rows of hexadecimal digits of noise."""
    rng = random.Random(seed)
    return b"".join(b"%d\t%s\n" % (number, rng.randbytes(row // 2).hex().encode()) for number in range(size // row + 1))


def zlib_reads(data: bytes) -> tuple[bytes, bool]:
    """What zlib gives, and whether the stream has ended."""
    engine = zlib.decompressobj(-15)
    return engine.decompress(data), engine.eof


def isal_reads(data: bytes) -> tuple[bytes, bool]:
    """The same of isal."""
    engine: Any = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE)
    return engine.decompress(data, -1), engine.eof


@cache
def stream() -> tuple[bytes, bytes, dict[int, int]]:
    """Data, its stream in small blocks, and the bits at which these begin with how much data stands in front of each.

    They are found by zlib, which is asked to end the stream at every single bit.
    """
    data = photos(25_000, 5000)
    small = zlib.compressobj(6, zlib.DEFLATED, -15, 4)
    whole = small.compress(data) + small.flush()
    starts = {}
    engine, front = zlib.decompressobj(-15), b""
    for byte in range(len(whole) - 1):
        for bit in range(8):
            tried = engine.copy()
            try:
                given = front + tried.decompress(ended(whole[byte:], bit, LAST))
            except zlib.error:
                continue
            if tried.eof and given.endswith(WORD):
                starts[8 * byte + bit] = len(given) - len(WORD)
        front += engine.decompress(whole[byte : byte + 1])
    assert front == data[: len(front)]
    return data, whole, starts


def test_a_stream_ends_at_each_of_its_blocks_and_nowhere_else() -> None:
    data, whole, starts = stream()
    assert len(starts) > 10
    assert len({bit % 8 for bit in starts}) > 4
    assert list(starts.values()) == sorted(set(starts.values()))
    for bit, size in starts.items():
        assert isal_reads(ended(whole, bit, LAST)) == (data[:size] + WORD, True)
    for bit in range(0, 8 * len(whole) - 8, 5):
        if bit not in starts:
            try:
                found, eof = isal_reads(ended(whole, bit, LAST))
            except igzip_lib.error:
                continue
            assert not (eof and found.endswith(WORD)), bit


@pytest.mark.parametrize("read", [zlib_reads, isal_reads])
def test_a_stream_begins_at_each_of_its_blocks(read: Any) -> None:
    data, whole, starts = stream()
    for bit, size in starts.items():
        window = data[max(0, size - WINDOW) : size]
        for cut in (0, bit // 8):  # whatever stands in front of it
            assert read(begun(window, whole[cut:], bit - 8 * cut)) == (window + data[size:], True), bit


@pytest.mark.parametrize("read", [zlib_reads, isal_reads])
@pytest.mark.parametrize("shift", range(8))
def test_streams_begin_and_end_at_each_bit_of_a_byte(read: Any, shift: int) -> None:
    """Blocks of zlib, behind empty ones of 3 + 7 bits and one of 9 bits more where it is odd: a byte of nine bits."""
    front = "0100000000" * (shift // 2)
    expected = b""
    if shift % 2:
        # A block of one byte 0x90, which has nine bits, is 19 bits long; empty ones of ten bits make the rest.
        front = "010" + "110010000" + "0000000" + "0100000000" * (((shift - 3) % 8) // 2)
        expected = b"\x90"
    assert len(front) % 8 == shift
    data = photos(3000)
    tail = int.from_bytes(deflated(data), "little") << len(front) | int((front or "0")[::-1], 2)
    whole = tail.to_bytes(len(front) // 8 + len(deflated(data)) + 1, "little")
    assert read(whole)[0] == expected + data
    assert read(ended(whole, len(front), LAST)) == (expected + WORD, True)
    assert read(begun(b"window", whole, len(front))) == (b"window" + data, True)


def test_blocks_are_found_in_the_middle_of_a_stream() -> None:
    """Nearly all, and few other places."""
    _data, whole, starts = stream()
    found = list(block_starts(whole))
    own = [bit for bit in starts if bit in found]
    assert len(own) >= len(starts) - 1, "but for the last one, perhaps, which says that it is"
    assert len(found) < 8 * len(whole) / 500
    cut = 5001
    assert [bit for bit in block_starts(whole[cut:]) if bit + 8 * cut in starts] == [
        bit - 8 * cut for bit in own if bit >= 8 * cut
    ]
    assert list(block_starts(b"")) == []


def pieces(data: bytes, size: int = 100_000) -> Iterator[bytes]:
    """Data, in pieces."""
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.fixture(params=["isal", "zlib"])
def _engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the accelerator, and as if it were not installed."""
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)


def read_in_parts(whole: bytes, cut: int, middle: Middle, until: int) -> tuple[bytes, bytes, int | None]:
    """What two readers of a zlib stream give, and the checksum that the second one finds."""
    first, second = ZlibStream("a table"), ZlibStreamBehind("a table", middle)
    given = b"".join(itertools.chain.from_iterable(first.feed(piece) for piece in pieces(whole[:cut], 70_001)))
    given += b"".join(first.end_at(middle, whole[cut:until]))
    behind = b"".join(itertools.chain.from_iterable(second.feed(piece) for piece in pieces(whole[cut:], 5000)))
    second.finish()
    return given, behind, second.checksum


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("level", [6, 9])
@pytest.mark.parametrize("seed", [1, 2])
def test_two_readers_have_what_one_has(level: int, seed: int) -> None:
    data = photos(6_000_000, seed=seed)
    whole = zlib.compress(data, level)
    for cut in (2, 100_000, 100_001, len(whole) // 3):
        left = pieces(whole[cut:])
        middle = find_middle(left)
        assert middle is not None
        until = len(whole) - sum(map(len, left))
        given, behind, checksum = read_in_parts(whole, cut, middle, until)
        assert given + behind == data
        assert given.endswith(b"\n")
        assert len(behind) > 1_000_000
        assert checksum == zlib.adler32(data)
        assert adler32_of_both(zlib.adler32(given), zlib.adler32(behind), len(behind)) == checksum


@pytest.mark.usefixtures("_engine")
def test_a_place_where_no_block_begins_is_refused() -> None:
    data = photos(4_000_000)
    whole = zlib.compress(data)
    cut = 300_000
    middle = find_middle(pieces(whole[cut:]))
    assert middle is not None
    until = len(whole) - 5
    read_in_parts(whole, cut, middle, until)
    for bit in (*range(middle.bit - 40, middle.bit), *range(middle.bit + 1, middle.bit + 40), 0, 1):
        with pytest.raises(WrongDivisionError):
            read_in_parts(whole, cut, Middle(bit, middle.size), until)
    # More than there is, a stream that is over, and data that is damaged in front of the place or behind it.
    for wrong, end in ((Middle(middle.bit, len(data)), until), (middle, cut + middle.bit // 8 + 1000)):
        with pytest.raises(WrongDivisionError):
            read_in_parts(whole, cut, wrong, end)
    for position in (cut + middle.bit // 16, cut + middle.bit // 8 + 3):
        damaged = bytearray(whole)
        damaged[position] ^= 0x55
        try:
            given, behind, checksum = read_in_parts(bytes(damaged), cut, middle, until)
        except CentralError:
            continue
        assert adler32_of_both(zlib.adler32(given), zlib.adler32(behind), len(behind)) != checksum


@pytest.mark.usefixtures("_engine")
def test_what_only_looks_like_a_block_is_refused() -> None:
    """A stream that is the data of another one, which has it as it is: it could be read, but nobody who reads all would."""
    inner = deflated(photos(60_000, 5000))
    whole = zlib.compress(b"x" * 20_000 + inner, 0)
    place = whole.index(inner)
    assert len(b"".join(ZlibStream("a table").feed(whole))) == 20_000 + len(inner)
    for cut in (place, place - 500, 2):
        middle = Middle(8 * (place - cut), 50_000)
        assert len(zlib_reads(begun(b"", whole[cut:], middle.bit))[0]) > middle.size
        with pytest.raises(WrongDivisionError):
            read_in_parts(whole, cut, middle, len(whole))


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("kind", ["padding", "cover", "stored"])
def test_a_trap_in_front_of_a_place_is_refused(kind: str) -> None:
    """A last block that is stored begins near a block in its padding, or its data: what is put there could be of it."""
    front, behind = photos(3000), deflated(photos(60_000, 5000))
    stored = zlib.compressobj(0, zlib.DEFLATED, -15)
    head = b"\x78\x9c" + stored.compress(front) + stored.flush(zlib.Z_FULL_FLUSH)
    for more in range(700) if kind == "cover" else (0,):
        if kind == "padding":  # the bits 1, 0, 0, and at once the block
            trap, bit = (int.from_bytes(behind, "little") << 3 | 1).to_bytes(len(behind) + 1, "little"), 3
        else:  # so many bytes are stored, and the block begins in them
            kept = more if kind == "cover" else 20_000
            length = kept.to_bytes(2, "little") + (kept ^ 0xFFFF).to_bytes(2, "little")
            trap, bit = b"\1" + length + behind, 40
        stream = ZlibStream("a table")
        assert b"".join(stream.feed(head)) == front
        with pytest.raises(WrongDivisionError):
            list(stream.end_at(Middle(bit, 10_000), trap))


@pytest.mark.usefixtures("_engine")
def test_a_block_at_each_bit_is_taken_for_one() -> None:
    """Whatever the last block is that chance makes."""
    data, whole, starts = stream()
    head = zlib.compress(b"")[:2]
    for bit, size in list(starts.items()) * 20:
        reader = ZlibStream("a table")
        given = b"".join(reader.feed(head + whole[: bit // 8]))
        given += b"".join(reader.end_at(Middle(bit % 8, 100), whole[bit // 8 :]))
        assert given == data[: size + 100]


def test_what_is_copied_from_far_is_not_taken_for_known() -> None:
    """Each 32 KiB have something of what stood in front of all, and never has half of it."""
    old = random.Random(7).randbytes(60).hex().encode()
    rows = b"".join(photos(18_000, 18_000, seed)[:18_000] + old + b"\n" for seed in range(300))
    engine = zlib.compressobj(6, zlib.DEFLATED, -15)
    engine.compress(old)
    engine.flush(zlib.Z_SYNC_FLUSH)
    assert find_middle(pieces(engine.compress(rows) + engine.flush())) is None


def test_what_was_given_last_is_kept() -> None:
    reader = ZlibStream("a table")
    for size in (10, WINDOW, 600, 1, 5):
        reader._keep(bytes(size))
        assert reader._latest_size == sum(map(len, reader._latest))
    assert reader._latest_size >= WINDOW + 600
    assert b"".join(_zlib_stream._limited(iter([b"abc", b"defg", b"h"]), 4, 3)) == b"efg"


@pytest.mark.usefixtures("_engine")
def test_no_place_is_found_where_there_is_none() -> None:
    text = b"".join(b"%d\tthe same words again and again\n" % number for number in range(400_000))
    assert find_middle(pieces(deflated(text)[100_000:])) is None, "what is repeated depends on what it repeats"
    one_row = photos(50_000_000, 50_000_000)
    assert find_middle(pieces(deflated(one_row, 1)[1000:])) is None, "no row begins"
    short = deflated(photos(6_000_000))[-200_000:]
    assert find_middle(pieces(short)) is None, "all ends before all is known"
    with pytest.raises(CentralError):
        find_middle(pieces(short + b"its checksum"))
    noise = random.Random(5).randbytes(1_000_000)
    assert find_middle(pieces(noise)) is None
    assert find_middle(iter(())) is None


def test_a_guess_is_tried_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise each of many guesses might be followed through what becomes large."""
    small = zlib.compressobj(6, zlib.DEFLATED, -15)
    data = small.compress(photos(400_000)) + small.flush(zlib.Z_FULL_FLUSH)
    assert not _deflate_search._seems_to_begin(data + b"\xff", 0)
    monkeypatch.setattr(_deflate_search, "_TRIED", 300_000)
    assert _deflate_search._seems_to_begin(data + b"\xff", 0)


def test_a_first_part_that_becomes_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_zlib_stream, "_BEFORE", 50_000)
    whole = zlib.compress(bytes(100_000) + photos(100_000))
    with pytest.raises(WrongDivisionError):
        read_in_parts(whole, 2, Middle(8 * 40_000, 10), len(whole))


def test_little_is_read_of_what_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_deflate_search, "MOST_BEHIND", 1_000_000)
    engine = zlib.compressobj(6, zlib.DEFLATED, -15)
    engine.compress(photos(60_000))
    engine.flush(zlib.Z_SYNC_FLUSH)
    begin = engine.compress(photos(60_000)[:20_000]) + engine.flush(zlib.Z_SYNC_FLUSH)
    left = pieces(begin + b"\0\0\0\xff\xff" * 1_000_000)
    assert find_middle(left) is None
    assert sum(map(len, left)) > 3_000_000


def test_little_is_read_of_what_becomes_large() -> None:
    """A stream of 4 GB in 4 MB: looked at for as long as it takes to see that nothing is to be had."""
    rng = random.Random(3)
    bomb = deflated(rng.randbytes(40_000).hex().encode() + bytes(1 << 28))
    taken = []

    def counted() -> Iterator[bytes]:
        for piece in pieces(bomb * 8, 50_000):
            taken.append(piece)
            yield piece

    assert find_middle(counted()) is None
    assert sum(map(len, taken)) < 600_000


@given(data=st.binary(max_size=2000), at=st.integers(0, 2000))
def test_checksums_of_parts_are_put_together(data: bytes, at: int) -> None:
    first, second = data[:at], data[at:]
    assert adler32_of_both(zlib.adler32(first), zlib.adler32(second), len(second)) == zlib.adler32(data)


@pytest.mark.parametrize("size", [65_520, 65_521, 65_522, 1_000_003])
def test_checksums_of_large_parts_are_put_together(size: int) -> None:
    first, second = b"\xff" * 100_001, random.Random(size).randbytes(size)
    assert adler32_of_both(zlib.adler32(first), zlib.adler32(second), size) == zlib.adler32(first + second)
