# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""RDB files of every form, written by hand: what no Redis at hand writes, and what none should."""

from __future__ import annotations

import struct

from ansible_collections.odkops.central.plugins.module_utils._crc64 import crc64


def length(number: int) -> bytes:
    """A length in its shortest form."""
    if number < 1 << 6:
        return bytes([number])
    if number < 1 << 14:
        return bytes([0x40 | number >> 8, number & 0xFF])
    if number < 1 << 32:
        return b"\x80" + struct.pack(">I", number)
    return b"\x81" + struct.pack(">Q", number)


def text(content: bytes) -> bytes:
    """A string as it is."""
    return length(len(content)) + content


def lzf(compressed: bytes, size: int) -> bytes:
    """A compressed string."""
    return b"\xc3" + length(len(compressed)) + length(size) + compressed


def aux(name: bytes, value: bytes) -> bytes:
    """A field of the header."""
    return b"\xfa" + text(name) + text(value)


def sealed(body: bytes, version: bytes = b"0009", checksum: bool = True) -> bytes:
    """A file: header, `body`, end mark, and CRC-64 (or zero)."""
    whole = b"REDIS" + version + body + b"\xff"
    return whole + struct.pack("<Q", crc64(whole) if checksum else 0)


#: every type that can be passed over, as type and value of a key
VALUES: dict[str, tuple[int, bytes, str]] = {
    "string": (0, text(b"v"), "string"),
    "int8": (0, b"\xc0\x80", "string"),
    "int16": (0, b"\xc1\x00\x80", "string"),
    "int32": (0, b"\xc2\x00\x00\x00\x80", "string"),
    "long": (0, text(b"v" * 300), "string"),
    "long-form": (0, b"\x80\x00\x00\x00\x01v", "string"),
    "longest-form": (0, b"\x81\x00\x00\x00\x00\x00\x00\x00\x01v", "string"),
    "lzf": (0, lzf(b"\x00a\xe0\x5b\x00", 101), "string"),
    "list": (1, length(2) + text(b"a") + text(b"b"), "list"),
    "set": (2, length(1) + text(b"a"), "set"),
    "old zset": (
        3,
        length(4) + b"".join(text(b"m") + score for score in (b"\x030.5", b"\xfd", b"\xfe", b"\xff")),
        "zset",
    ),
    "hash": (4, length(1) + text(b"f") + text(b"v"), "hash"),
    "zset": (5, length(1) + text(b"m") + struct.pack("<d", 0.5), "zset"),
    "module": (7, length(1 << 63) + b"\x01\x05\x02\x06\x03abcd\x04abcdefgh\x05" + text(b"s") + b"\x00", "module"),
    "zipmap": (9, text(b"x"), "hash"),
    "ziplist list": (10, text(b"x"), "list"),
    "intset": (11, text(b"x"), "set"),
    "ziplist zset": (12, text(b"x"), "zset"),
    "ziplist hash": (13, text(b"x"), "hash"),
    "quicklist": (14, length(2) + text(b"x") + text(b"y"), "list"),
    "listpack hash": (16, text(b"x"), "hash"),
    "listpack zset": (17, text(b"x"), "zset"),
    "quicklist 2": (18, length(2) + length(2) + text(b"x") + length(1) + text(b"y"), "list"),
    "listpack set": (20, text(b"x"), "set"),
    "expiring fields 1": (22, length(1) + length(7) + text(b"f") + text(b"v"), "hash"),
    "expiring listpack 1": (23, text(b"x"), "hash"),
    "expiring fields 2": (24, bytes(8) + length(1) + length(0) + text(b"f") + text(b"v"), "hash"),
    "expiring listpack 2": (25, bytes(8) + text(b"x"), "hash"),
}


def key(name: bytes, kind: int, value: bytes) -> bytes:
    """A key."""
    return bytes([kind]) + text(name) + value
