# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deflate streams (RFC 1951) that begin, or end, in the middle of another one.

A stream is a row of blocks, each of which may begin at any bit, and copies what it has given up to 32 KiB before. So
whoever has these 32 KiB, and knows the bit where a block begins, can read on from there: :func:`begun` makes a whole
stream of that, and :func:`ended` one of what stands in front of it, for any library that inflates.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

#: bytes that a stream may look back
WINDOW = 32 * 1024

#: What two readers of one stream both read is at most so much, in compressed bytes.
MOST_BEHIND = 40 * 1024 * 1024

#: bytes that :func:`last_block` gives
LAST = 600


@dataclass(frozen=True)
class Middle:
    """A place in a deflate stream where one reader ends and another one begins, as seen from a byte of the stream."""

    #: bits behind that byte: a block begins there
    bit: int
    #: bytes that are given from there on and still belong to the first part
    size: int


@dataclass(frozen=True)
class LastBlock:
    """A block that is the last one of its stream, made by chance."""

    #: its bits, and up to seven zeros
    data: bytes
    #: what it gives
    gives: bytes


def last_block() -> LastBlock:
    """A last block with codes of its own that nobody foresees: who reads what it gives has read them, from the first bit on."""
    chance = random.SystemRandom()
    while True:
        letters = chance.sample(range(256), 24)
        # Some are more frequent than others, so that the lengths of their codes are made by chance, too.
        gives = bytes(chance.choices(letters, [chance.randrange(1, 100) ** 2 for _letter in letters], k=LAST))
        engine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
        data = engine.compress(gives) + engine.flush()
        # The last block (1), and codes of its own (10, its lower bit first; RFC 1951, 3.2.3).
        if data[0] & 7 == 0b101:
            return LastBlock(data, gives)


def ended(data: bytes, bit: int, last: LastBlock) -> bytes:
    """A stream up to a bit, where one last block follows. Up to one byte of zeros stands behind it.

    If a block begins at that bit, this gives at its end what the last block gives. Else the last block is read as something else,
    as the end of a longer code or as the inside of another block; and what it gives does not come of that.

    :param data: the stream, from any byte on
    """
    whole, used = divmod(bit, 8)
    kept = data[whole] & (1 << used) - 1 if used else 0
    shifted = int.from_bytes(last.data, "little") << used | kept
    return data[:whole] + shifted.to_bytes(len(last.data) + (1 if used else 0), "little")


def begun(window: bytes, data: bytes, bit: int) -> bytes:
    """A stream that gives `window`, and goes on at a bit of `data`, where a block begins.

    :param window: :data:`WINDOW` bytes at most, what the stream has given last before that
    :param data: the stream, as far as it is there: more may follow, and more than the bit has to be there
    """
    whole, used = divmod(bit, 8)
    filling = _filling(used)
    filling_bytes = int(filling[::-1], 2).to_bytes((len(filling) + 7) // 8, "little")
    if not used:
        return b"\0" + _stored(window) + filling_bytes + data[whole:]
    shared = filling_bytes[-1] | data[whole] >> used << used
    return b"\0" + _stored(window) + filling_bytes[:-1] + bytes([shared]) + data[whole + 1 :]


def _stored(data: bytes) -> bytes:
    """What follows the head of a stored block, in whole bytes."""
    return len(data).to_bytes(2, "little") + (len(data) ^ 0xFFFF).to_bytes(2, "little") + data


def _number(value: int, bits: int) -> str:
    """A number, its least significant bit first."""
    return format(value, f"0{bits}b")[::-1]


# In this order a block says how long the codes for the lengths of its codes are (RFC 1951, 3.2.7).
_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)


def _filling(bits: int) -> str:
    """A block that gives nothing, and is so many bits long, but for whole bytes; in the order of the stream.

    It has codes of its own: one bit each for the byte 0 and for the end of the block; 255 zeros between them can be said in
    several ways of different lengths, of which one is right.
    """
    # Of the codes that follow, 18 (many zeros) has the code 0, 0 (a zero) the code 10, 1 (a code of one bit) the code 11.
    lengths = {18: 1, 0: 2, 1: 2}
    for used in (len(_ORDER) - 1, len(_ORDER)):
        head = "0" + "01" + _number(0, 5) + _number(0, 5) + _number(used - 4, 4)
        head += "".join(_number(lengths.get(symbol, 0), 3) for symbol in _ORDER[:used])
        for single in range(4):
            zeros = "0" + _number(138 - 11, 7) + "0" + _number(117 - single - 11, 7) + "10" * single
            # Byte 0, the zeros, end of block, one code for distances; then the end of the block.
            block = head + "11" + zeros + "11" + "11" + "1"
            if len(block) % 8 == bits:
                return block
    raise AssertionError("three bits, or two, more or less reach each length")


# Not the last block, and codes of its own; 257 to 286 codes, 1 to 30 for distances; then how many lengths follow, of those that
# zlib writes nearly always: 12 or more.
_HEAD = re.compile("001(?=[01](?!1111)[01]{4}[01](?!1111)[01]{4}([01]{3}1))")
_HEAD_BITS = 3 + 5 + 5 + 4
_LENGTH_BITS = 3
_COMPLETE = 128


class _Weights(dict[str, int]):
    """How much of all codes is taken by codes of some lengths, of :data:`_COMPLETE`; a length has three bits."""

    def __missing__(self, bits: str) -> int:
        lengths = [int(bits[at : at + _LENGTH_BITS][::-1], 2) for at in range(0, len(bits), _LENGTH_BITS)]
        self[bits] = weight = sum(_COMPLETE >> length for length in lengths if length)
        return weight


def block_starts(data: bytes) -> Iterator[int]:
    """Bits of a part of a stream at which a block with codes of its own may begin: most of those where one does, few others.

    The lengths of the codes that stand in its head have to be those of a complete code, as Kraft's inequality has it.
    """
    weights = _Weights()
    four = 4 * _LENGTH_BITS
    text = format(int.from_bytes(data, "little"), f"0{8 * len(data)}b")[::-1]
    for match in _HEAD.finditer(text):
        begin = match.start() + _HEAD_BITS
        middle = begin + 3 * four
        weight = weights[text[begin : begin + four]] + weights[text[begin + four : begin + 2 * four]]
        if weight <= _COMPLETE:
            weight += weights[text[begin + 2 * four : middle]]
            end = begin + (4 + int(match[1][::-1], 2)) * _LENGTH_BITS
            for at in range(middle, end, four):
                weight += weights[text[at : min(at + four, end)]]
            if weight == _COMPLETE and end <= len(text):
                yield match.start()
