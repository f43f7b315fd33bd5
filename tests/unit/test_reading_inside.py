# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A backup that is nearly one table only is read in two parts of it: what is found is what one reader finds."""

from __future__ import annotations

import hashlib
import io
import random
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _pgdump_division, _stages, _walk
from ansible_collections.odkops.central.plugins.module_utils._deflate import Middle
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import BlobFact
from ansible_collections.odkops.central.plugins.module_utils._pgdump_archive import CustomArchive
from ansible_collections.odkops.central.plugins.module_utils._pgdump_division import Division, ReadAt
from ansible_collections.odkops.central.plugins.module_utils._pgdump_recompress import recompress
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, Verification, verify_file

from support.archives import PASSPHRASE, archives, openssl
from support.pgdump_writer import Writer, central, table
from support.reading import change_between_readings

OPENED = Expectation(passphrase=PASSPHRASE)
BLOBS = 'id, sha, content, "contentType", md5, s3_status, size'


@cache
def photos(integer_size: int = 4, compressed: bool = True, seed: int = 1) -> bytes:
    """An archive of the smallest database that is divided."""
    rng = random.Random(seed)
    entries = [entry for entry in central() if entry.tag != "blobs"]
    rows = []
    for number in range(60):
        content = rng.randbytes(150_000)
        digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        rows.append(f"{number}\t{digest}\t\\\\x{content.hex()}\timage/jpeg\t\\N\tpending\t\\N")
    entries.insert(3, table(800, "blobs", BLOBS, *rows))
    return Writer(integer_size=integer_size).archive(entries, **({} if compressed else {"compression": 0}))


class Divisions(list[Division | None]):
    """Where archives were divided, of all that were looked at; `change` is asked what to take for it."""

    change: Callable[[Division], Division] = staticmethod(lambda found: found)


@pytest.fixture
def divisions(monkeypatch: pytest.MonkeyPatch) -> Divisions:
    """Every file is large enough for processes, and the parts may be small."""
    seen = Divisions()
    real = CustomArchive.division

    def noted(self: CustomArchive, size: int, read_at: ReadAt) -> Division | None:
        found = real(self, size, read_at)
        seen.append(found)
        return None if found is None else seen.change(found)

    monkeypatch.setattr(CustomArchive, "division", noted)
    monkeypatch.setattr(_walk, "LARGE", 0)
    monkeypatch.setattr(_pgdump_division, "WORTH", 1024 * 1024)
    return seen


def read(path: Path, expected: Expectation = OPENED) -> tuple[Verification | str, list[BlobFact]]:
    """What is said of a file, and the blobs that are named."""
    blobs: list[BlobFact] = []
    try:
        return verify_file(str(path), expected, blobs.append), blobs
    except CentralError as error:
        return f"{error.diagnosis}: {error.message} {error.details}", blobs


def read_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Verification | str, list[BlobFact]]:
    """The same by threads, which never divide anything."""
    with monkeypatch.context() as patched:
        patched.setattr(_walk, "LARGE", 1 << 60)
        return read(path)


@pytest.fixture(params=["isal", "zlib"])
def _engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the accelerator, and as if it were not installed."""
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("major", [15, 17])
def test_real_dumps_say_what_sql_says(
    major: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, divisions: Divisions
) -> None:
    monkeypatch.setattr(_pgdump_division, "WORTH", 4 * 1024 * 1024)  # as it is
    made = archives(major)
    path = tmp_path / "backup"
    path.write_bytes(openssl(made.read("photos")))
    result, blobs = read(path)
    assert isinstance(result, Verification)
    truth = made.truth("photos")
    assert result.tables == truth.tables
    seen = [(blob.id, blob.sha if blob.in_database else None, blob.size, blob.s3_status) for blob in blobs]
    assert sorted(seen) == truth.blobs
    assert (result, blobs) == read_alone(path, monkeypatch)
    (division,) = divisions
    assert division is not None
    assert division.middle is not None


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("integer_size", [3, 4, 8])
def test_the_same_as_one_reader(
    integer_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, divisions: Divisions
) -> None:
    path = tmp_path / "backup"
    path.write_bytes(openssl(photos(integer_size)))
    result, blobs = read(path)
    assert isinstance(result, Verification)
    assert (result, blobs) == read_alone(path, monkeypatch)
    assert [blob.id for blob in blobs] == list(range(60))
    (division,) = divisions
    assert division is not None
    assert division.middle is not None


def test_chunks_of_all_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, divisions: Divisions) -> None:
    """As this collection writes them, where pg_dump leaves the compression to it: the end of the block is too far to look for."""
    path = tmp_path / "backup"
    path.write_bytes(openssl(b"".join(recompress(io.BytesIO(photos(compressed=False))))))
    result, blobs = read(path)
    assert isinstance(result, Verification)
    assert (result, blobs) == read_alone(path, monkeypatch)
    (division,) = divisions
    assert division is not None
    assert division.middle is not None


def test_damage_is_found_wherever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, divisions: Divisions) -> None:
    """In front of the division, in what both read, behind it; in chunks' heads, and in the checksum of the table."""
    data = photos()
    path = tmp_path / "backup"
    path.write_bytes(openssl(data))
    read(path)
    division = divisions[0]
    assert division is not None
    assert division.middle is not None
    begins = division.offset + division.middle.bit // 8
    rng = random.Random(2)
    places = [division.offset + at for at in (-1, 0, 1, 4, 5, 6)]
    places += [begins + at for at in (-1, 0, 1, 2, 10, 60)]
    places += [division.until + at for at in (-1, 0, 1, 4, 5, 6)]
    places += [rng.randrange(division.offset, division.until) for _time in range(12)]
    places += [rng.randrange(division.until, len(data)) for _time in range(8)]
    places += [rng.randrange(len(data) // 5, division.offset) for _time in range(4)]
    places += [len(data) - 1]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(openssl(bytes(damaged)))
        found, _blobs = read(path)
        alone, _blobs = read_alone(path, monkeypatch)
        assert isinstance(found, str), place
        assert isinstance(alone, str), place
        assert found == alone, place
    for length in (division.offset, division.offset + 5, begins, division.until, division.until + 3, len(data) - 1):
        path.write_bytes(openssl(data[:length]))
        assert read(path)[0] == read_alone(path, monkeypatch)[0]
        assert "truncated" in str(read(path)[0])


def test_the_checksum_of_both_parts_is_compared(tmp_path: Path, divisions: Divisions) -> None:
    """A digit that is another one, in either part, and nothing else: the stream around it is what it should be."""
    writer = Writer()
    rng = random.Random(4)
    rows = "".join(f"{number}\t{rng.randbytes(50_000).hex()}\n" for number in range(180))
    text = rows.encode() + b"\\.\n\n\n"
    entries = [*central(), table(900, "notes", "a, b")]
    path = tmp_path / "backup"
    for position in (None, 100, len(text) - 100):
        changed = bytearray(text)
        if position is not None:
            changed[position] = ord("0") + (changed[position] == ord("0"))
        stream = zlib.compress(bytes(changed))[:-4] + zlib.adler32(text).to_bytes(4, "big")
        data = writer.header() + writer.contents(entries)
        for entry in entries[:-1]:
            if entry.data is not None:
                data += writer.block(entry.dump_id, zlib.compress(entry.data))
        path.write_bytes(openssl(data + writer.block(900, stream)))
        found = read(path)[0]
        assert divisions[-1] is not None
        assert divisions[-1].middle is not None
        if position is None:
            assert isinstance(found, Verification)
            assert (found.tables or {})["public.notes"] == 180
        else:
            assert str(found).startswith("corrupt: ")
            assert "public.notes does not have the checksum" in str(found)


@pytest.mark.parametrize("wrong", ["bit", "size", "larger size", "offset", "until", "number"])
def test_a_wrong_guess_costs_time_only(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, divisions: Divisions
) -> None:
    """All is said once, also what was said before the guess was found to be wrong."""

    def changed(found: Division) -> Division:
        assert found.middle is not None
        number, offset, middle, until = found.number, found.offset, found.middle, found.until
        if wrong == "bit":
            middle = Middle(middle.bit + 3, middle.size)
        elif wrong == "larger size":
            middle = Middle(middle.bit, middle.size + 2_000_000)
        elif wrong == "size":  # in the middle of a row, and before all is known
            middle = Middle(middle.bit, 10)
        elif wrong == "offset":
            offset += 1
        elif wrong == "until":
            until += 1
        else:
            number += 1
        return Division(number, offset, middle, until)

    path = tmp_path / "backup"
    path.write_bytes(openssl(photos()))
    expected = read_alone(path, monkeypatch)
    divisions.change = changed
    found = read(path)
    assert found == expected
    assert len(divisions) == 1


@pytest.mark.parametrize("second", [False, True])
def test_what_on_blob_raises_is_raised_at_once(second: bool, tmp_path: Path, divisions: Divisions) -> None:
    """Also where it looks like damage, which one reader would have to find."""
    path = tmp_path / "backup"
    path.write_bytes(openssl(photos()))
    wanted = 50 if second else 3
    seen: list[int] = []

    def take(blob: BlobFact) -> None:
        if blob.id == wanted:
            raise CentralError("corrupt", "as the caller sees it")
        seen.append(blob.id)

    with pytest.raises(CentralError, match="as the caller sees it"):
        verify_file(str(path), OPENED, take)
    assert seen == list(range(wanted))
    assert divisions[0] is not None

    # Nor is a caller asked again who does not say the same twice.
    once = iter([True])

    def complain(blob: BlobFact) -> None:
        if blob.id == wanted and next(once, False):
            raise CentralError("corrupt", "as the caller sees it")

    with pytest.raises(CentralError, match="as the caller sees it"):
        verify_file(str(path), OPENED, complain)


@pytest.mark.parametrize("same", [False, True])
def test_rows_that_were_handed_on_are_of_what_is_verified(same: bool, tmp_path: Path, divisions: Divisions) -> None:
    """A damaged file is put in order while it is read, or another one is put in its place: it is read once more then."""
    path = tmp_path / "backup"
    damaged = bytearray(openssl(photos()))
    damaged[-100_000] ^= 1
    path.write_bytes(damaged)
    following = openssl(photos() if same else photos(seed=2))
    seen: list[BlobFact] = []

    def take(blob: BlobFact) -> None:
        if not seen:
            with path.open("r+b") as file:
                file.write(following)
                file.truncate()
        seen.append(blob)

    facts: list[object] = []
    if same:
        assert (
            verify_file(str(path), OPENED, take, on_facts=facts.append).sha256 == hashlib.sha256(following).hexdigest()
        )
        assert [blob.id for blob in seen] == list(range(60))
    else:
        with pytest.raises(CentralError, match="changed while it was read") as caught:
            verify_file(str(path), OPENED, take, on_facts=facts.append)
        assert caught.value.diagnosis == "unreadable"
    assert len(facts) == same
    assert len(divisions) == 1


def test_where_both_would_have_to_read_much_one_reads_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, divisions: Divisions
) -> None:
    path = tmp_path / "backup"
    path.write_bytes(openssl(photos()))
    monkeypatch.setattr(_stages, "MOST_BEHIND", 1000)
    assert read(path) == read_alone(path, monkeypatch)
    assert divisions[0] is not None


def test_no_place_in_text_that_repeats_itself(tmp_path: Path, divisions: Divisions) -> None:
    rows = [f"{number}\tthe same words again and again" for number in range(600_000)]
    path = tmp_path / "backup"
    path.write_bytes(openssl(Writer().archive([*central(), table(900, "notes", "a, b", *rows)])))
    assert isinstance(read(path)[0], Verification)
    assert divisions == [None]


@pytest.mark.parametrize("change", ["cut", "grown", "other"])
def test_a_file_that_is_changed_while_it_is_read_is_not_taken_for_whole(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, divisions: Divisions
) -> None:
    path = tmp_path / "backup"
    path.write_bytes(openssl(photos()))
    change_between_readings(monkeypatch, path, change)
    assert str(read(path)[0]).startswith("unreadable: ")
    assert divisions[0] is not None
    assert divisions[0].middle is not None
