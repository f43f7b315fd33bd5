# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory format of pg_dump: which files belong to a dump, and what each of them holds.

Source of the format: PostgreSQL, src/bin/pg_dump/pg_backup_directory.c. ``toc.dat`` is header and table
of contents; the data of each entry is in a file named by the entry's id; large objects have a file each,
which a list names. Files of data have the ending of their compression.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Callable, NamedTuple, Optional

from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import ArchiveInput, corrupt
from ansible_collections.odkops.central.plugins.module_utils._pgdump_toc import (
    DIRECTORY,
    Header,
    read_header,
    read_toc,
)
from ansible_collections.odkops.central.plugins.module_utils._streams import Readable

TOC = "toc.dat"

_ENDINGS = {"none": "", "gzip": ".gz", "lz4": ".lz4", "zstd": ".zst"}

# A list of large objects has one line for each: its id and the name of its file.
_LIST_LINE = re.compile(rb"(?P<oid>[0-9]{1,10}) (?P<file>blob_(?P=oid)\.dat)\Z")
_MAXIMUM_LINE = 256

#: So many large objects are followed up; Central has none.
MAXIMUM_LARGE_OBJECTS = 100_000


class DataFile(NamedTuple):
    """What a file of a dump holds."""

    entry: TocEntry
    #: the id of the large object, or None for the data of a table
    large_object: Optional[int]


class PieceReader:
    """A stream made of pieces.

    :param pieces: none of them empty
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        """As :meth:`Readable.read`."""
        data = self._rest or next(self._pieces, b"")
        self._rest = data[size:]
        return data[:size]


def read_toc_file(source: Readable) -> tuple[Header, list[TocEntry]]:
    """Read ``toc.dat`` to its end.

    :raises CentralError: as :func:`read_header` and :func:`read_toc` do, and ``corrupt`` where something follows
    """
    archive = ArchiveInput(source)
    header = read_header(archive, DIRECTORY)
    entries = read_toc(archive, header)
    if not archive.at_end():
        raise corrupt("something follows its table of contents in toc.dat")
    return header, entries


def files_of(
    header: Header, entries: list[TocEntry], names: Iterable[str], read: Callable[[str], Iterable[bytes]]
) -> dict[str, DataFile]:
    """What each file of data in a dump holds, given that exactly those are there that must be.

    :param names: names of the files that are there, without ``toc.dat``
    :param read: gives the content of a file by its name: that of the lists of large objects
    :raises CentralError: ``corrupt``
    """
    ending = _ENDINGS[header.compression]
    there = set(names)
    lists: set[str] = set()
    files: dict[str, DataFile] = {}
    for entry in entries:
        if not entry.has_data:
            continue
        if entry.description != "BLOBS":
            if entry.file_name != f"{entry.dump_id}.dat":
                raise corrupt(f"the data of {entry.name} would be in a file of another name than pg_dump gives it")
            files[entry.file_name + ending] = DataFile(entry, None)
            continue
        # One list for all until PostgreSQL 16, one for each entry since.
        name = entry.file_name
        if name not in ("blobs.toc", f"blobs_{entry.dump_id}.toc") or name not in there or name in lists:
            raise corrupt("the list of its large objects is missing")
        lists.add(name)
        for oid, file_name in _large_objects(read(name)):
            if file_name + ending in files or len(files) > MAXIMUM_LARGE_OBJECTS:
                raise corrupt(f"the large object {oid} is there twice, or there are too many")
            files[file_name + ending] = DataFile(entry, oid)
    missing = sorted(files.keys() - there)
    if missing:
        raise corrupt(f"the file {missing[0]} with the data of {files[missing[0]].entry.name} is missing")
    superfluous = sorted(there - files.keys() - lists)
    if superfluous:
        raise corrupt(f"it has a file that is no part of the dump: {ascii(superfluous[0])[1:-1][:80]}")
    return files


def _large_objects(pieces: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """The ids and file names in a list of large objects."""
    rest = b""
    for piece in pieces:
        lines = (rest + piece).split(b"\n")
        rest = lines.pop()
        for line in lines:
            found = _LIST_LINE.match(line)
            if found is None:
                raise corrupt("a line in the list of its large objects cannot be one")
            yield int(found["oid"]), found["file"].decode("ascii")
        if len(rest) > _MAXIMUM_LINE:
            raise corrupt("the list of its large objects has an endless line")
    if rest:
        raise corrupt("the list of its large objects stops inside a line")
