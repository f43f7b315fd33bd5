# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Decompression in pieces: bounded, exact about the end, and clear about libraries that are missing."""

from __future__ import annotations

import gzip
import os
import random
import sys
import zlib
from collections.abc import Callable
from typing import Any

import lz4.frame
import pytest
import zstandard
from ansible_collections.odkops.central.plugins.module_utils._checksums import adler32, crc32
from ansible_collections.odkops.central.plugins.module_utils._compression import decompressor, sums_apart
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, MissingLibraryError
from ansible_collections.odkops.central.plugins.module_utils._inflating import PIECE
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt

TEXT = b"".join(b"%d\trow of text\n" % number for number in range(200_000))
NOISE = os.urandom(700_001)


def zstd(data: bytes, **parameters: bool) -> bytes:
    engine = zstandard.ZstdCompressor(level=3, **parameters).compressobj()
    return engine.compress(data) + engine.flush()


METHODS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": zlib.compress,
    "lz4": lz4.frame.compress,
    "zstd": zstd,
}
COMPRESSED = ["gzip", "lz4", "zstd"]


_left_apart = False


@pytest.fixture(params=["isal", "isal apart", "zlib", "zlib apart"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the accelerator, and as if it were not installed; checksums compared by it, or left to the caller."""
    name, _space, apart = str(request.param).partition(" ")
    if name == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
    monkeypatch.setattr(sys.modules[__name__], "_left_apart", bool(apart))
    return name


def decompress(method: str, data: bytes, sizes: int, file: bool = False) -> bytes:
    reader = decompressor(method, "a table", file, _left_apart)
    pieces = [piece for start in range(0, len(data), sizes) for piece in reader.feed(data[start : start + sizes])]
    reader.finish()
    assert method == "none" or max(map(len, pieces), default=0) <= PIECE + 128 * 1024
    assert (reader.checksum is not None) == (_left_apart and sums_apart(method, file))
    if reader.checksum is not None and reader.checksum != zlib.adler32(b"".join(pieces)):
        raise corrupt("the checksum of a table is wrong")
    return b"".join(pieces)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [997, 65_536, 1 << 30])
@pytest.mark.parametrize(
    "data", [b"", b"x", TEXT, NOISE, bytes(5_000_000)], ids=["empty", "x", "text", "noise", "zeros"]
)
def test_what_was_compressed_comes_back(method: str, sizes: int, data: bytes) -> None:
    assert decompress(method, METHODS[method](data), sizes) == data


@pytest.mark.parametrize("method", METHODS)
def test_byte_by_byte(method: str) -> None:
    assert decompress(method, METHODS[method](TEXT[:5000]), 1) == TEXT[:5000]


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [100, 1 << 30])
@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, 4 * PIECE])
def test_what_fills_pieces_exactly(method: str, sizes: int, size: int) -> None:
    for data in (bytes(size), TEXT[:size]):
        assert decompress(method, METHODS[method](data), sizes) == data


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_kept_of_what_is_lent(method: str) -> None:
    """A memoryview is good until the call returns."""
    whole = METHODS[method](TEXT)
    reader = decompressor(method, "a table")
    found = b""
    for start in range(0, len(whole), 300_000):
        lent = bytearray(whole[start : start + 300_000])
        found += b"".join(reader.feed(memoryview(lent)))
        lent[:] = bytes(len(lent))
    reader.finish()
    assert found == TEXT


@pytest.mark.usefixtures("engine")
def test_the_checksum_and_the_size_of_a_gzip_file() -> None:
    whole = gzip.compress(TEXT[:3000])
    for position in range(len(whole) - 8, len(whole)):
        for bit in range(8):
            bad = bytearray(whole)
            bad[position] ^= 1 << bit
            with pytest.raises(CentralError, match="a table"):
                decompress("gzip", bytes(bad), 4096, file=True)


@pytest.mark.usefixtures("engine")
def test_every_bit_in_front_of_and_behind_zlib_data() -> None:
    """Its two bytes of header, and its checksum."""
    whole = zlib.compress(TEXT[:3000])
    for position in (0, 1, *range(len(whole) - 4, len(whole))):
        for bit in range(8):
            bad = bytearray(whole)
            bad[position] ^= 1 << bit
            for sizes in (1, 4096):
                with pytest.raises(CentralError, match="a table"):
                    decompress("gzip", bytes(bad), sizes)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("piece", [1, 1000, 65_537])
@pytest.mark.parametrize(("made", "expected", "first"), [(adler32, zlib.adler32, 1), (crc32, zlib.crc32, 0)])
def test_checksums_are_computed_as_zlib_does(
    made: Any, expected: Callable[[bytes], int], first: int, piece: int
) -> None:
    checksum = made.__wrapped__()  # not the one that was found out before
    for data in (b"", b"x", NOISE, bytes(300_000), b"\xff" * 300_000):
        value = first
        for start in range(0, len(data), piece):
            value = checksum(memoryview(data)[start : start + piece], value)
        assert value == expected(data)


@pytest.mark.usefixtures("engine")
def test_files_of_the_directory_format_and_members_of_a_zip() -> None:
    assert decompress("gzip", gzip.compress(TEXT), 4096, file=True) == TEXT
    raw = zlib.compressobj(6, zlib.DEFLATED, -15)
    assert decompress("deflate", raw.compress(TEXT) + raw.flush(), 4096) == TEXT
    with pytest.raises(CentralError):
        decompress("gzip", gzip.compress(TEXT), 4096)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("method", COMPRESSED)
@pytest.mark.parametrize("data", [b"", TEXT[:100_000], NOISE[:100_000]], ids=["empty", "text", "noise"])
def test_every_kind_of_cut_is_found(method: str, data: bytes) -> None:
    whole = METHODS[method](data)
    for length in (
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        len(whole) - 1,
        len(whole) - 2,
        len(whole) - 4,
        len(whole) - 5,
        len(whole) // 2,
    ):
        if not 0 <= length < len(whole):
            continue
        with pytest.raises(CentralError, match="a table") as caught:
            decompress(method, whole[:length], 4096)
        assert caught.value.diagnosis == "corrupt"


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("method", COMPRESSED)
@pytest.mark.parametrize("behind", [b"\0", b"more", b"x" * 300_000])
@pytest.mark.parametrize("sizes", [1000, 1 << 30])
def test_something_behind_the_end(method: str, behind: bytes, sizes: int) -> None:
    for data in (b"", TEXT[:50_000]):
        with pytest.raises(CentralError, match="follows") as caught:
            decompress(method, METHODS[method](data) + behind, sizes)
        assert caught.value.diagnosis == "corrupt"
        with pytest.raises(CentralError):
            decompress(method, METHODS[method](data) * 2, sizes)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("method", COMPRESSED)
def test_damage_raises_nothing_but_corrupt(method: str) -> None:
    whole = METHODS[method](TEXT[:30_000])
    rng = random.Random(method)
    for _count in range(400):
        bad = bytearray(whole)
        for _flip in range(rng.randrange(1, 4)):
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        try:
            decompress(method, bytes(bad), rng.choice([100, 5000]))
        except CentralError as error:
            assert error.diagnosis in ("corrupt", "unsupported_compression")


@pytest.mark.usefixtures("engine")
def test_zlib_finds_every_flip() -> None:
    """Its checksum is the one that archives of PostgreSQL 15 and older have."""
    whole = zlib.compress(TEXT[:3000])
    harmless = 0
    for position in range(len(whole)):
        for bit in range(8):
            bad = bytearray(whole)
            bad[position] ^= 1 << bit
            try:
                assert decompress("gzip", bytes(bad), 4096) == TEXT[:3000]  # a bit that fills up the last byte
                harmless += 1
            except CentralError as error:
                assert error.diagnosis == "corrupt"
    assert harmless < 8


@pytest.mark.parametrize("parameters", [{"write_checksum": True}, {"write_content_size": False}])
def test_zstd_with_a_checksum_or_without_a_size(parameters: dict[str, bool]) -> None:
    whole = zstd(TEXT, **parameters)
    assert decompress("zstd", whole, 100_000) == TEXT
    whole = zstandard.ZstdCompressor(**parameters).compress(TEXT[:1000])
    assert decompress("zstd", whole, 7) == TEXT[:1000]
    if "write_checksum" in parameters:
        with pytest.raises(CentralError):
            decompress("zstd", whole[:-1] + bytes([whole[-1] ^ 1]), 7)
        with pytest.raises(CentralError):
            decompress("zstd", whole[:-2], 7)


@pytest.mark.parametrize(
    ("frame", "diagnosis"),
    [
        (b"XXXXX", "corrupt"),
        (b"\x28\xb5\x2f\xfd\x08\x58\x01\0\0", "corrupt"),  # a reserved bit
        (b"\x28\xb5\x2f\xfd\x00\x58\x07\0\0", "corrupt"),  # a block of a reserved kind
        (b"\x28\xb5\x2f\xfd\x00\x58\xfd\xff\xff", "corrupt"),  # a block of two megabytes
        (b"\x28\xb5\x2f\xfd\x00\xf8\x01\0\0", "unsupported_compression"),  # a window of terabytes
        (b"\x28\xb5\x2f\xfd\xe0\xff\xff\xff\xff\xff\xff\xff\xff\x01\0\0", "unsupported_compression"),
        (b"\x28\xb5\x2f\xfd\x01\x58\x07\x01\0\0", "corrupt"),  # a dictionary
    ],
)
def test_zstd_frames_that_pg_dump_does_not_write(frame: bytes, diagnosis: str) -> None:
    for sizes in (1, 100):
        with pytest.raises(CentralError) as caught:
            decompress("zstd", frame, sizes)
        assert caught.value.diagnosis == diagnosis


@pytest.mark.parametrize(("method", "module", "package"), [("zstd", "zstandard", "zstandard"), ("lz4", "lz4", "lz4")])
def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch, method: str, module: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "compression", None)
    with pytest.raises(MissingLibraryError, match=f"python3-{package}") as caught:
        decompressor(method, "a table")
    assert caught.value.diagnosis == "missing_required_lib"
    assert caught.value.library == package
    assert caught.value.import_error


def test_a_method_that_is_none() -> None:
    with pytest.raises(CentralError, match="brotli") as caught:
        decompressor("brotli", "a table")
    assert caught.value.diagnosis == "unsupported_compression"
