# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Damage by chance: cuts, flipped bits, and random changes of a legacy zip. None is taken for a whole backup."""

from __future__ import annotations

import functools
import hashlib
import io
import random
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, verify_stream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.directory_dumps import directory_dumps
from support.legacy_zip_writer import PASSPHRASE, LegacyBackup
from support.spoilt_zips import quicken_keys

SEED = 20261122

#: what a damaged zip may be called; above all never ``ok``
EXPECTED = {
    "truncated",
    "corrupt",
    "unsafe_archive",
    "keys_missing",
    "not_a_central_backup",
    "unsupported_compression",
    "wrong_passphrase",
}


@pytest.fixture(autouse=True)
def _quick_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken_keys(monkeypatch)


@functools.cache
def whole(zip64: bool = False) -> bytes:
    """A small backup."""
    return LegacyBackup(directory_dumps().read()).build(zip64=zip64)


def outcome(data: bytes, sha256: str | None = None) -> dict[str, Any] | str:
    """What a verification finds, without size and digest; or its diagnosis."""
    try:
        expected = Expectation(PASSPHRASE, sha256=sha256)
        found = verify_stream(io.BytesIO(data), expected, stored=io.BytesIO(data)).as_dict()
    except CentralError as error:
        return error.diagnosis
    return {name: value for name, value in found.items() if name not in ("size", "sha256")}


@functools.cache
def genuine() -> dict[str, Any]:
    """What is found in the whole backup."""
    found = outcome(whole())
    assert isinstance(found, dict)
    return found


def boundaries(data: bytes) -> list[int]:
    """Where headers, names, contents and descriptors begin."""
    places = {len(data) - 22}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        places.add(archive.start_dir)
        for info in archive.infolist():
            start = info.header_offset + 30
            content = start + len(info.filename)
            places |= {info.header_offset, start, content, content + info.compress_size}
    place = data.index(b"PK\1\2")
    while data[place : place + 4] == b"PK\1\2":
        name_size, extra_size = struct.unpack_from("<2H", data, place + 28)
        places |= {place, place + 46, place + 46 + name_size}
        place += 46 + name_size + extra_size
    return sorted(places)


@pytest.mark.parametrize("zip64", [False, True])
def test_a_cut_at_every_boundary_is_found(zip64: bool) -> None:
    data = whole(zip64)
    chance = random.Random(SEED)
    cuts = {place + by for place in boundaries(data) for by in (-1, 0, 1)} | set(range(4, 100))
    cuts |= set(range(data.index(b"PK\1\2"), len(data))) | {chance.randrange(len(data)) for _count in range(300)}

    wrong = {cut: found for cut in cuts if 4 <= cut < len(data) and (found := outcome(data[:cut])) != "truncated"}

    assert wrong == {}


def test_a_cut_inside_the_first_four_bytes_is_found() -> None:
    assert [outcome(whole()[:cut]) for cut in range(4)] == ["truncated"] + ["not_a_central_backup"] * 3


def test_a_middle_that_is_missing_is_found() -> None:
    data = whole()
    chance = random.Random(SEED)
    for _count in range(200):
        start, end = sorted(chance.sample(range(4, len(data)), 2))
        assert outcome(data[:start] + data[end:]) in EXPECTED


def harmless(data: bytes) -> set[int]:
    """Bytes that no reader uses: versions, attributes, and the content of ``keepalive``."""
    places: set[int] = set()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            places |= {info.header_offset + 4, info.header_offset + 5}
            if info.filename == "keepalive":
                start = info.header_offset + 30 + len(info.filename)
                places |= set(range(start, start + info.compress_size))
    place = zipfile.ZipFile(io.BytesIO(data)).start_dir
    while data[place : place + 4] == b"PK\1\2":
        name_size, extra_size = struct.unpack_from("<2H", data, place + 28)
        places |= {place + by for by in (4, 5, 6, 7, *range(36, 42))}
        place += 46 + name_size + extra_size
    if data[place : place + 4] == b"PK\6\6":
        places |= set(range(place + 12, place + 16))
    return places


def contents(data: bytes) -> set[int]:
    """Bytes of the members' contents."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        starts = {info.header_offset + 30 + len(info.filename): info.compress_size for info in archive.infolist()}
    return {place for start, size in starts.items() for place in range(start, start + size)}


def flips(places: set[int], bits: int, chance: random.Random) -> Iterator[tuple[int, int]]:
    """So many different bits of each place."""
    for place in sorted(places):
        for bit in chance.sample(range(8), bits):
            yield place, 1 << bit


def unpacked(data: bytes) -> list[bytes | None]:
    """The contents of the members of :func:`whole`, which `data` is but for some bits: None where there is none."""
    found: list[bytes | None] = []
    with zipfile.ZipFile(io.BytesIO(whole())) as archive:
        for info in archive.infolist():
            start = info.header_offset + 30 + len(info.filename)
            engine = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                found.append(engine.decompress(data[start : start + info.compress_size]))
            except zlib.error:
                found.append(None)
    return found


def judge(data: bytes, changes: Iterator[tuple[int, int]]) -> dict[tuple[int, int], object]:
    """The flips that were not judged rightly.

    A flip is to be found, except where no reader uses the byte: there, it must not raise an alarm. Deflate has bits
    that mean nothing, too: a flip inside a content that leaves it as it is may pass.
    """
    unused, inside = harmless(data), contents(data)
    wrong: dict[tuple[int, int], object] = {}
    for place, bit in changes:
        spoilt = bytearray(data)
        spoilt[place] ^= bit
        found = outcome(bytes(spoilt))
        if isinstance(found, str):
            right = place not in unused and found in EXPECTED
        else:
            same = place in inside and unpacked(bytes(spoilt)) == unpacked(data)
            right = found == genuine() and (place in unused or same)
        if not right:
            wrong[place, bit] = found
    return wrong


@pytest.mark.parametrize("bits", [1, pytest.param(8, marks=pytest.mark.long)])
@pytest.mark.parametrize("zip64", [False, True])
def test_a_flipped_bit_in_the_structure_is_found_or_does_not_matter(zip64: bool, bits: int) -> None:
    data = whole(zip64)
    structure = set(range(len(data))) - contents(data)

    assert judge(data, flips(structure, bits, random.Random(SEED))) == {}


@pytest.mark.parametrize("count", [600, pytest.param(20_000, marks=pytest.mark.long)])
def test_a_flipped_bit_in_the_contents_is_found(count: int) -> None:
    data = whole()
    chance = random.Random(SEED)
    used = sorted(contents(data) - harmless(data))
    places = set(chance.sample(used, min(count, len(used))))

    assert judge(data, flips(places, 1, chance)) == {}


def test_a_flipped_bit_is_found_by_the_digest_wherever_it_is() -> None:
    data = whole()
    chance = random.Random(SEED)
    digest = hashlib.sha256(data).hexdigest()
    for place in [*chance.sample(range(len(data)), 100), *chance.sample(sorted(harmless(data)), 100)]:
        spoilt = bytearray(data)
        spoilt[place] ^= 1 << chance.randrange(8)
        assert outcome(bytes(spoilt), digest) in EXPECTED | {"tampered"}


def test_a_flipped_bit_anywhere_in_a_real_one_is_found(samples: Any) -> None:
    data = (samples / "legacy-v2024.1.0-pass.zip").read_bytes()
    unused = harmless(data)
    chance = random.Random(SEED)
    for place in chance.sample(sorted(set(range(len(data))) - unused), 150):
        spoilt = bytearray(data)
        spoilt[place] ^= 1 << chance.randrange(8)
        with pytest.raises(CentralError) as caught:
            verify_stream(io.BytesIO(spoilt), Expectation("correct horse"), stored=io.BytesIO(spoilt))
        assert caught.value.diagnosis in EXPECTED


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A backup with up to five random changes: bytes set, taken away, put in, copied, numbers replaced."""
    data = bytearray(whole())
    directory = zipfile.ZipFile(io.BytesIO(whole())).start_dir
    for _count in range(draw(st.integers(1, 5))):
        # Half of the changes hit the central directory and the end, where there is most to get wrong.
        first = draw(st.sampled_from([0, min(directory, len(data) - 1)]))
        place = draw(st.integers(first, max(first, len(data) - 1)))
        kind = draw(st.sampled_from(["set", "cut", "put", "copy", "number", "end"]))
        size = draw(st.integers(1, 64))
        if kind == "set":
            data[place : place + size] = draw(st.binary(min_size=size, max_size=size))
        elif kind == "cut":
            del data[place : place + size]
        elif kind == "put":
            data[place:place] = draw(st.binary(max_size=size))
        elif kind == "copy":
            source = draw(st.integers(0, len(data)))
            data[place:place] = data[source : source + size]
        elif kind == "number":
            number = draw(st.sampled_from([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, len(data), directory]))
            data[place : place + 4] = struct.pack("<L", number)
        else:
            del data[place:]
        if not data:
            break
    return bytes(data)


def check(data: bytes) -> None:
    """Only the errors that are documented, or the facts of the genuine backup."""
    threads = threading.active_count()
    found = outcome(data)
    assert found == genuine() or isinstance(found, str)
    assert threading.active_count() == threads


CAMPAIGN = settings(deadline=2000, suppress_health_check=list(HealthCheck), database=None, derandomize=True)


@settings(CAMPAIGN, max_examples=300)
@given(changed())
def test_random_changes(data: bytes) -> None:
    check(data)


@pytest.mark.long
@settings(CAMPAIGN, max_examples=20_000)
@given(changed())
def test_many_random_changes(data: bytes) -> None:
    check(data)


@settings(CAMPAIGN, max_examples=200)
@given(st.binary(max_size=400))
def test_random_bytes_behind_the_first_four(tail: bytes) -> None:
    assert outcome(b"PK\3\4" + tail) in EXPECTED
