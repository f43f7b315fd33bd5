# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The reader of RDB files: files of every form, damaged ones, and bytes of any kind."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _rdb
from ansible_collections.odkops.central.plugins.module_utils._crc64 import crc64
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._lzf import lzf_decompress
from ansible_collections.odkops.central.plugins.module_utils._rdb import RdbFacts, check_rdb
from hypothesis import given, settings
from hypothesis import strategies as st

from support.rdb_writer import VALUES, aux, key, length, lzf, sealed, text

EVERYTHING = sealed(
    aux(b"redis-ver", b"7.0.15")
    + b"\xfa"
    + text(b"ctime")
    + b"\xc2\xc3\xb2\x03\x6b"
    + b"\xf5"
    + text(b"#!lua name=x")
    + b"\xf7"
    + length(77)
    + b"\x02\x02\x05\x01x\x00"
    + b"\xfe\x00\xfb\x05\x01"
    + b"".join(key(b"k" * index, kind, value) for index, (kind, value, _name) in enumerate(VALUES.values()))
    + b"\xfc"
    + bytes(8)
    + key(b"expires", 0, text(b"v"))
    + b"\xfd"
    + bytes(4)
    + key(b"expires in seconds", 0, text(b"v"))
    + b"\xfe\x0f\xf4\x01\x02\x03\xf9\x07"
    + key(b"used", 0, text(b"v"))
    + b"\xf8\x05"
    + key(b"last", 0, text(b"v"))
)


def check(data: bytes) -> RdbFacts:
    return check_rdb(io.BytesIO(data))


def diagnosis(data: bytes) -> str:
    with pytest.raises(CentralError) as raised:
        check(data)
    return raised.value.diagnosis


class Drops:
    """A source that gives a few bytes at a time."""

    def __init__(self, data: bytes, sizes: random.Random) -> None:
        self._data, self._sizes = io.BytesIO(data), sizes

    def read(self, size: int, /) -> bytes:
        return self._data.read(self._sizes.randint(1, 7))


def test_crc64_is_redis_s() -> None:
    assert crc64(b"123456789") == 0xE9C6D914C4B8D9CA
    assert crc64(b"6789", crc64(b"12345")) == crc64(b"123456789")


def test_a_file_with_everything() -> None:
    seen: list[tuple[int, bytes, str, bool]] = []
    facts = check_rdb(io.BytesIO(EVERYTHING), lambda *key: seen.append(key))
    assert facts.version == 9
    assert facts.redis_version == "7.0.15"
    assert facts.created == 0x6B03B2C3
    assert facts.size == len(EVERYTHING)
    assert facts.keys == len(VALUES) + 4 == len(seen)
    assert facts.expiring == 2
    assert facts.databases == {0: len(VALUES) + 2, 15: 2}
    assert facts.checksum
    assert facts.unknown is None
    assert [name for _db, _key, name, _expires in seen[: len(VALUES)]] == [
        name for _kind, _value, name in VALUES.values()
    ]
    assert [(db, name, expires) for db, name, _type, expires in seen[-4:]] == [
        (0, b"expires", True),
        (0, b"expires in seconds", True),
        (15, b"used", False),
        (15, b"last", False),
    ]


def test_the_pieces_it_comes_in_do_not_matter() -> None:
    for seed in range(5):
        assert check_rdb(Drops(EVERYTHING, random.Random(seed))) == check(EVERYTHING)


@pytest.mark.parametrize("name", VALUES)
def test_each_type_is_passed_over_exactly(name: str) -> None:
    kind, value, kind_name = VALUES[name]
    assert check(sealed(key(b"k", kind, value) + key(b"l", 0, text(b"v")))).types == (
        {"string": 2} if kind_name == "string" else {kind_name: 1, "string": 1}
    )


def test_keys_in_special_forms() -> None:
    keys: list[bytes] = []
    body = b"\x00\xc0\xff" + text(b"v") + b"\x00" + lzf(b"\x00a\xe0\x5b\x00", 101) + text(b"v")
    check_rdb(io.BytesIO(sealed(body)), lambda _db, name, _type, _expires: keys.append(name))
    assert keys == [b"-1", b"a" * 101]


def test_an_empty_redis() -> None:
    assert check(sealed(b"")).keys == 0


def test_without_a_checksum() -> None:
    assert not check(sealed(key(b"k", 0, text(b"v")), checksum=False)).checksum


@pytest.mark.parametrize(
    "body", [key(b"k", 15, b"\x01whatever"), key(b"k", 27, b"?"), b"\xf3\x01\x02", key(b"k", 6, b"")]
)
def test_what_is_not_known_ends_the_walk_and_not_the_check(body: bytes) -> None:
    before = key(b"known", 0, text(b"v"))
    facts = check(sealed(before + body, version=b"0013"))
    assert facts.unknown is not None
    assert facts.keys == 1
    assert diagnosis(sealed(before + body, checksum=False)) == "corrupt"
    whole = sealed(before + body)
    assert diagnosis(whole[:-9] + b"\x00" + whole[-8:]) == "corrupt"
    assert diagnosis(whole[:20] + b"\x00" + whole[21:]) == "corrupt"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"REDIS",
        b"REDIS0009",
        b"REDIS0009\xff",
        b"REDIS0009\xff1234567",
        sealed(b"")[:-1],
        sealed(key(b"k", 0, b"\x80\xff\xff\xff\xff")),
        sealed(key(b"k", 0, b"\x81" + b"\xff" * 8)),
        sealed(b"\xfa\x05"),
    ],
)
def test_cut_short(data: bytes) -> None:
    assert diagnosis(data) == "truncated"


@pytest.mark.parametrize(
    "data",
    [
        b"GIF89a................",
        b"REDIS00x9........",
        sealed(b"", version=b"0004"),
        sealed(b"") + b"\x00",
        sealed(key(b"k", 0, b"\xc4")),
        b"REDIS0009\x00\xc4.................",
        sealed(key(b"k", 0, b"\x82" + bytes(20))),
        sealed(b"\xfe\xc0\x01"),
        sealed(b"\x00\x80\x7f\xff\xff\xff" + bytes(100)),
        sealed(b"\x00" + lzf(b"\x00a", 9) + text(b"v")),
        sealed(b"\x00" + lzf(b"", 0x10000000) + text(b"v")),
        sealed(key(b"k", 7, length(1) + b"\x06")),
        sealed(b"".join(aux(b"a", b"b") for _field in range(65))),
        sealed(b"".join(b"\xfe" + length(db) + key(b"k", 0, text(b"v")) for db in range(1025))),
    ],
)
def test_damaged(data: bytes) -> None:
    assert diagnosis(data) == "corrupt"


def test_every_byte_counts() -> None:
    """A changed byte and a file that is cut anywhere are found. (A CRC-64 that becomes zero is none.)"""
    for index in range(len(EVERYTHING)):
        for bit in (1, 0x80):
            spoilt = bytearray(EVERYTHING)
            spoilt[index] ^= bit
            assert diagnosis(bytes(spoilt)) in ("corrupt", "truncated"), index
    for size in range(0, len(EVERYTHING), 7):
        assert diagnosis(EVERYTHING[:size]) in ("corrupt", "truncated"), size


def attempt(data: bytes) -> None:
    try:
        check(data)
    except CentralError as error:
        assert error.diagnosis in ("corrupt", "truncated")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_bytes_of_any_kind_behind_a_header(data: bytes) -> None:
    attempt(b"REDIS0010" + data)
    attempt(sealed(data, checksum=False))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(9, len(EVERYTHING) - 9), st.binary(max_size=9)), min_size=1, max_size=6))
def test_genuine_files_with_pieces_exchanged(changes: list[tuple[int, bytes]]) -> None:
    spoilt = bytearray(EVERYTHING)
    for at, piece in changes:
        spoilt[at : at + len(piece)] = piece
    body = bytes(spoilt[:-8])
    attempt(body + struct.pack("<Q", crc64(body)))


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 5000))
def test_lzf_takes_any_bytes(data: bytes, size: int) -> None:
    with contextlib.suppress(ValueError):
        assert len(lzf_decompress(data, size)) == size


def long_file() -> Iterator[bytes]:
    """A value of 8 MiB, and then a list whose elements never end."""
    yield b"REDIS0009" + key(b"k", 0, b"\x80" + struct.pack(">I", 8 << 20))
    for _piece in range(64):
        yield bytes(128 * 1024)
    yield b"\x01\x01l\x81" + b"\xff" * 7 + b"\x00"
    for _piece in range(10):
        yield b"\x01v" * 2048


def test_memory_does_not_depend_on_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pieces:
        pieces = long_file()

        def read(self, size: int, /) -> bytes:
            return next(self.pieces, b"")

    monkeypatch.setattr(_rdb, "crc64", lambda data, crc: 0)  # slow when each allocation is traced
    tracemalloc.start()
    try:
        with pytest.raises(CentralError) as raised:
            check_rdb(Pieces())
        assert tracemalloc.get_traced_memory()[1] < 2 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert raised.value.diagnosis == "truncated"


def test_impossible_lengths_cost_nothing() -> None:
    started = time.monotonic()
    for kind in (1, 2, 3, 4, 5, 14, 18, 22, 24):
        attempt(sealed(key(b"k", kind, b"\x81" + b"\xff" * 8)))
    assert time.monotonic() - started < 1
