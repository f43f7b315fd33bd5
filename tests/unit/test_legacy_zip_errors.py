# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Members of a legacy zip that are missing, superfluous, or not what they should be, are found."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from support.directory_dumps import directory_dumps
from support.legacy_zip_writer import LegacyBackup, encrypt, make
from support.spoilt_zips import Change, add, data_file, failure, member, quicken_keys, spoilt


@pytest.fixture(autouse=True)
def _quick_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken_keys(monkeypatch)


# Members that are missing, superfluous, or not what they should be.


def take_away(name: str, iv: bool = True, member: bool = True) -> Change:
    """Takes a file of the dump away."""

    def change(backup: LegacyBackup) -> None:
        if iv:
            del backup.keys["local"]["ivs"][name]
        if member:
            backup.records.remove(backup.record(name))

    return change


def test_a_file_of_data_is_missing() -> None:
    assert spoilt(take_away(data_file())) == "corrupt"


def test_the_table_of_contents_is_missing() -> None:
    assert spoilt(take_away("toc.dat")) == "corrupt"


@pytest.mark.parametrize("name", ["toc.dat", "data"])
def test_a_member_without_initial_value(name: str) -> None:
    assert spoilt(take_away(data_file() if name == "data" else name, member=False)) == "corrupt"


@pytest.mark.parametrize("name", ["9999.dat.gz", "keys.json", "keepalive"])
def test_an_initial_value_without_member(name: str) -> None:
    assert spoilt(add(name, member=False)) == "corrupt"


@pytest.mark.parametrize(
    "name",
    [
        "9999.dat.gz",
        "9999.dat",
        "blobs.toc",
        "blob_1.dat.gz",
        "notes.txt",
        "TOC.DAT",
        "toc.dat ",
        "KEYS.JSON",
        "é",
        "a" * 300,
    ]
    + ["sub/toc.dat", "__MACOSX/._toc.dat", "-rf", "$(id)", "<script>", "\udcff", "\x1b[31m"],
)
@pytest.mark.parametrize("iv", [False, True])
def test_a_member_too_many(name: str, iv: bool) -> None:
    error = failure(make(directory_dumps().read(), add(name, iv)))

    assert error.diagnosis == "corrupt"
    assert error.message.isascii()
    assert error.message.isprintable()


def test_a_file_has_the_ending_of_another_compression() -> None:
    def change(backup: LegacyBackup) -> None:
        name = data_file()
        ivs = backup.keys["local"]["ivs"]
        ivs[name[:-3]] = ivs.pop(name)
        backup.change(name, name=name[:-3].encode())

    assert spoilt(change) == "corrupt"


def other_toc(change: Callable[[bytes], bytes]) -> str:
    """The diagnosis where the table of contents is another one."""
    files = directory_dumps().read()
    changed = change(files["toc.dat"])
    assert changed != files["toc.dat"]
    return failure(make({**files, "toc.dat": changed})).diagnosis


@pytest.mark.parametrize(
    "change",
    [
        lambda toc: toc + b"\0",
        lambda toc: toc[:11] + b"\1" + toc[12:],
        lambda toc: toc[:-1],
        lambda toc: toc[: len(toc) // 2],
        lambda toc: b"PGDM" + toc[5:],
        lambda toc: toc.replace(data_file()[:-3].encode(), b"3999.dat"),
        lambda toc: toc.replace(data_file()[:-3].encode(), b"../x.dat"),
    ],
    ids=["longer", "another compression", "shorter", "half", "no dump", "renamed", "led out"],
)
def test_the_table_of_contents_is_another_one(change: Callable[[bytes], bytes]) -> None:
    assert other_toc(change) in ("corrupt", "truncated", "not_a_central_backup")


def test_two_files_are_exchanged() -> None:
    names = [name for name in directory_dumps().read() if name.endswith(".dat.gz")]
    files = dict(directory_dumps().read())
    files[names[0]], files[names[1]] = files[names[1]], files[names[0]]

    assert failure(make(files)).diagnosis == "corrupt"


def test_two_names_are_exchanged_in_the_table_of_contents() -> None:
    first, second = [name[:-3].encode() for name in directory_dumps().read() if name.endswith(".dat.gz")][:2]

    assert other_toc(lambda toc: toc.replace(first, b"*").replace(second, first).replace(b"*", second)) == "corrupt"


def test_large_objects_that_contradict_their_list() -> None:
    files = directory_dumps().read("nasty")
    lists = files["blobs.toc"]
    first = lists.split(b"\n")[0] + b"\n"
    for changed in (
        lists[:-1],
        lists + first,
        lists + b"1 blob_1.dat\n",
        lists + b"1 blob_2.dat\n",
        lists.replace(first, b""),
        lists + b"x\n",
        lists + b"1 ../../blob_1.dat\n",
        lists + b"1" * 3_000_000,
    ):
        assert failure(make({**files, "blobs.toc": changed})).diagnosis == "corrupt"
    assert failure(make({name: data for name, data in files.items() if name != "blobs.toc"})).diagnosis == "corrupt"


def test_a_member_is_not_padded() -> None:
    def change(backup: LegacyBackup) -> None:
        record = backup.record(data_file())
        backup.change(data_file(), data=record.data[:-16] + os.urandom(16))

    assert spoilt(change) == "corrupt"


@pytest.mark.parametrize("data", [b"", b"123", bytes(33)])
def test_a_member_is_not_made_of_blocks(data: bytes) -> None:
    assert spoilt(member(data=data)) == "corrupt"


def test_a_member_is_encrypted_with_another_key() -> None:
    assert spoilt(lambda backup: backup.change(data_file(), data=encrypt(b"x" * 99, bytes(32), bytes(16)))) == "corrupt"


def test_the_data_is_cut_although_all_checksums_are_right() -> None:
    files = directory_dumps().read(method="none")
    name = next(name for name, content in files.items() if b"uuid:" in content)

    for cut in (1, 5, 100, len(files[name])):
        assert failure(make({**files, name: files[name][:-cut]})).diagnosis == "corrupt"
