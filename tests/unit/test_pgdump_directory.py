# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of a dump in the directory format: those that must be there, under the names that pg_dump gives them."""

from __future__ import annotations

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _pgdump_directory
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pgdump_directory import (
    DataFile,
    PieceReader,
    files_of,
    read_toc_file,
)

from support.directory_dumps import directory_dumps


def files(dump: dict[str, bytes]) -> dict[str, DataFile]:
    """What each file of a dump holds."""
    header, entries = read_toc_file(PieceReader(iter([dump["toc.dat"]])))
    return files_of(header, entries, dump.keys() - {"toc.dat"}, lambda name: [dump[name]])


def diagnosis(dump: dict[str, bytes]) -> str:
    """What is said of a dump."""
    with pytest.raises(CentralError) as caught:
        files(dump)
    return caught.value.diagnosis


@pytest.mark.parametrize(
    ("major", "database", "method"),
    [(15, "small", "gzip"), (15, "nasty", "none"), (17, "nasty", "zstd"), (17, "nasty", "lz4")],
)
def test_every_file_has_its_entry(major: int, database: str, method: str) -> None:
    dumps = directory_dumps(major)
    dump = dumps.read(database, method)

    found = files(dump)

    assert found.keys() == {name for name in dump if not name.endswith("toc") and name != "toc.dat"}
    tables = {file.entry.name for file in found.values() if file.large_object is None}
    assert tables >= dumps.truth(database).tables.keys()
    objects = {name: file.large_object for name, file in found.items() if file.large_object is not None}
    assert objects == {name: int(name[5:].split(".")[0]) for name in dump if name.startswith("blob_")}


def test_a_consistent_other_name_is_not_one_that_pg_dump_gives() -> None:
    dump = directory_dumps().read()
    name = next(name for name in dump if name.endswith(".dat.gz"))
    renamed = {**dump, "9999.dat.gz": dump[name], "toc.dat": dump["toc.dat"].replace(name[:-3].encode(), b"9999.dat")}
    del renamed[name]

    assert diagnosis(renamed) == "corrupt"


def test_a_consistent_other_name_of_the_list_of_large_objects_neither() -> None:
    dump = directory_dumps().read("nasty")
    renamed = {**dump, "blobx.toc": dump["blobs.toc"], "toc.dat": dump["toc.dat"].replace(b"blobs.toc", b"blobx.toc")}
    del renamed["blobs.toc"]

    assert diagnosis(renamed) == "corrupt"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"x",
        b"1",
        b"1 ",
        b"1 blob_2.dat",
        b"1  blob_1.dat",
        b" 1 blob_1.dat",
        b"1 blob_1.dat.gz",
        b"1 ../blob_1.dat",
    ]
    + [b"1 blob_1.dat\r", b"+1 blob_+1.dat", b"12345678901 blob_12345678901.dat", b"1 blob_1.dat\0"],
)
def test_a_line_that_is_none(line: bytes) -> None:
    dump = directory_dumps().read("nasty")

    assert diagnosis({**dump, "blobs.toc": dump["blobs.toc"] + line + b"\n"}) == "corrupt"


def test_the_list_in_single_bytes() -> None:
    dump = directory_dumps().read("nasty")
    header, entries = read_toc_file(PieceReader(iter([dump["toc.dat"]])))

    found = files_of(header, entries, dump.keys() - {"toc.dat"}, lambda name: [bytes([byte]) for byte in dump[name]])

    assert found == files(dump)


def test_more_large_objects_than_are_followed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    dump = directory_dumps().read("nasty")
    monkeypatch.setattr(_pgdump_directory, "MAXIMUM_LARGE_OBJECTS", 5)

    assert diagnosis(dump) == "corrupt"


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_pieces_as_a_stream(size: int) -> None:
    source = PieceReader(iter([b"abc", b"d", b"efghij"]))
    found = []
    while data := source.read(size):
        assert len(data) <= size
        found.append(data)

    assert b"".join(found) == b"abcdefghij"
    assert source.read(size) == b""
