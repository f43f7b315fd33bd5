# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Headers of a zip that contradict each other, one field at a time."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, verify_stream
from ansible_collections.odkops.central.plugins.module_utils._zip_container import ZipContainer

from support.directory_dumps import directory_dumps
from support.legacy_zip_writer import PASSPHRASE, LegacyBackup, Record, make, write_zip
from support.spoilt_zips import BIG, data_file, failure, local, quicken_keys


@pytest.fixture(autouse=True)
def _quick_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken_keys(monkeypatch)


def diagnosis(backup: LegacyBackup, **options: Any) -> str:
    """What is said of a backup."""
    data = backup.build(**options)
    try:
        return verify_stream(io.BytesIO(data), Expectation(PASSPHRASE), stored=io.BytesIO(data)).diagnosis
    except CentralError as error:
        return error.diagnosis


@pytest.mark.parametrize("flags", [0, 8])
def test_a_local_header_with_sizes(flags: int) -> None:
    """Other writers do so, some even before a descriptor."""
    backup = LegacyBackup(directory_dumps().read())
    local(backup, flags)

    assert diagnosis(backup) == "ok"


def field64(backup: LegacyBackup, plus: int = 0) -> bytes:
    """The field of the sizes of 64 bits."""
    record = backup.record(data_file())
    return struct.pack("<2H2Q", 1, 16, len(record.data) + plus, len(record.compressed()))


@pytest.mark.parametrize(("plus", "expected"), [(0, "ok"), (1, "corrupt")])
def test_a_local_header_with_sizes_of_64_bits(plus: int, expected: str) -> None:
    backup = LegacyBackup(directory_dumps().read())
    local(backup, 0, field64(backup, plus) + b"UT\x01\0x", BIG, BIG)

    assert diagnosis(backup, zip64=True) == expected


def test_two_fields_of_64_bits_of_which_the_last_is_right() -> None:
    backup = LegacyBackup(directory_dumps().read())
    backup.change(data_file(), extra=struct.pack("<2H3Q", 1, 24, 1, 2, 3))

    assert diagnosis(backup, zip64=True) == "corrupt"


@pytest.mark.parametrize("which", ["data", "keys.json"])
@pytest.mark.parametrize(("place", "value"), [(0, b"PK\7\x08"), (26, b"\xff\xff"), (28, b"\xff\xff"), (6, b"\0\0")])
def test_a_local_header_that_is_none(which: str, place: int, value: bytes) -> None:
    data = bytearray(make(directory_dumps().read()))
    start = data.index((data_file() if which == "data" else which).encode()) - 30 + place
    data[start : start + len(value)] = value

    assert failure(bytes(data)).diagnosis == "corrupt"


@pytest.mark.parametrize("name", ["toc.dat", "keys.json"])
@pytest.mark.parametrize(
    ("place", "value"), [(0, b"PK\5\6"), (34, b"\1\0"), (28, b"\xff\xff"), (30, b"\xff\xff"), (32, b"\1\0")]
)
def test_an_entry_of_the_directory_that_is_none(name: str, place: int, value: bytes) -> None:
    data = bytearray(make(directory_dumps().read()))
    start = data.rindex(name.encode()) - 46 + place
    data[start : start + len(value)] = value

    assert failure(bytes(data)).diagnosis == "corrupt"


@pytest.mark.parametrize("count", [-1, 1, 0xFFFE])
def test_the_end_counts_other_members_than_there_are(count: int) -> None:
    """With extra fields, so that there would be room for one more."""
    backup = LegacyBackup(directory_dumps().read())
    for record in backup.records:
        record.extra = b"UT\x40\0" + bytes(64)
    data = bytearray(backup.build())
    members = len(backup.records) + 1 + count if count < 10 else count
    data[-14:-10] = struct.pack("<2H", members, members)

    assert failure(bytes(data)).diagnosis == "corrupt"


def test_extra_fields_are_passed_over() -> None:
    backup = LegacyBackup(directory_dumps().read())
    for record in backup.records:
        record.extra = b"UT\x05\0\1abcd" + b"ux\0\0"

    assert diagnosis(backup) == "ok"


def test_a_directory_without_end() -> None:
    """Few members, but with extra fields of megabytes."""
    records = [Record(b"%d.dat" % n, b"", extra=b"UT" + struct.pack("<H", 60_000) + bytes(60_000)) for n in range(300)]

    assert failure(write_zip(records)).diagnosis == "unsafe_archive"


@pytest.mark.parametrize(
    ("changes", "expected"), [({"flags": 9}, "not_a_central_backup"), ({"method": 12}, "unsupported_compression")]
)
def test_a_member_is_not_unpacked_by_a_method_that_is_not_known(changes: dict[str, Any], expected: str) -> None:
    container = ZipContainer(io.BytesIO(write_zip([Record(b"one", b"x", **changes)])))

    with pytest.raises(CentralError) as caught:
        list(container.pieces(container.members[0]))

    assert caught.value.diagnosis == expected


def test_the_directory_has_more_in_it_than_members() -> None:
    data = make(directory_dumps().read())
    where = len(data) - 22
    found = list(struct.unpack("<4s4H2LH", data[where:]))
    found[5] += 6

    assert failure(data[:where] + b"PK\5\5\0\0" + struct.pack("<4s4H2LH", *found)).diagnosis == "corrupt"


DESCRIPTORS = [
    ("4sLLL", "ok"),
    ("LLL", "ok"),
    ("4sLQQ", "ok"),
    ("LQQ", "ok"),
    ("4sLLQ", "corrupt"),
    ("4sQQQ", "corrupt"),
]


@pytest.mark.parametrize(("form", "expected"), DESCRIPTORS)
def test_a_descriptor_of_another_form(form: str, expected: str) -> None:
    """With or without its four letters, with sizes of 32 or 64 bits: the format allows all."""
    backup = LegacyBackup(directory_dumps().read())
    record = backup.record(data_file())
    numbers = (zlib.crc32(record.data), len(record.compressed()), len(record.data))
    letters = (b"PK\7\x08",) if "4s" in form else ()
    backup.change(data_file(), descriptor=struct.pack(f"<{form}", *letters, *numbers))

    assert diagnosis(backup) == expected


@pytest.mark.parametrize("form", ["<4sLLL", "<4sLQQ"])
@pytest.mark.parametrize("wrong", [1, 2, 3])
def test_a_descriptor_that_says_something_else(form: str, wrong: int) -> None:
    backup = LegacyBackup(directory_dumps().read())
    record = backup.record(data_file())
    values: list[Any] = [b"PK\7\x08", zlib.crc32(record.data), len(record.compressed()), len(record.data)]
    values[wrong] ^= 1
    backup.change(data_file(), descriptor=struct.pack(form, *values))

    assert diagnosis(backup) == "corrupt"


@pytest.mark.parametrize("fields", [(8, 10), (12, 16)], ids=["size and offset", "members"])
def test_an_end_of_64_bits_for_some_of_the_numbers(fields: tuple[int, int]) -> None:
    """Central's writer moves all four to the larger end; others move only those that do not fit."""
    data = bytearray(LegacyBackup(directory_dumps().read()).build(zip64=True))
    where = len(data) - 22
    end64 = data.rindex(b"PK\6\6")
    real = {8: data[end64 + 24 : end64 + 26], 10: data[end64 + 32 : end64 + 34]}
    real |= {12: data[end64 + 40 : end64 + 44], 16: data[end64 + 48 : end64 + 52]}
    for place in fields:
        data[where + place : where + place + len(real[place])] = real[place]

    assert verify_stream(io.BytesIO(data), Expectation(PASSPHRASE), stored=io.BytesIO(data)).diagnosis == "ok"


def test_the_end_announces_a_comment_that_is_not_there() -> None:
    data = bytearray(make(directory_dumps().read()))
    data[-2] = 1

    assert failure(bytes(data)).diagnosis == "corrupt"
