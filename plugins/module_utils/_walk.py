# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All data of an archive, decompressed and given to the facts, whatever container it came in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Callable

from ansible_collections.odkops.central.plugins.module_utils._compression import decompressor
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, changed_error
from ansible_collections.odkops.central.plugins.module_utils._facts import BlobFact, Facts
from ansible_collections.odkops.central.plugins.module_utils._legacy_zip import LegacyZip
from ansible_collections.odkops.central.plugins.module_utils._memory import keep_freed_memory
from ansible_collections.odkops.central.plugins.module_utils._opening import Archive
from ansible_collections.odkops.central.plugins.module_utils._pgdump_archive import Block, CustomArchive
from ansible_collections.odkops.central.plugins.module_utils._pgdump_division import Division
from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt
from ansible_collections.odkops.central.plugins.module_utils._pgdump_toc import read_encoding
from ansible_collections.odkops.central.plugins.module_utils._pipeline import Worker
from ansible_collections.odkops.central.plugins.module_utils._reading_processes import ReadingProcesses
from ansible_collections.odkops.central.plugins.module_utils._stages import Decompressing, TableReader, feed
from ansible_collections.odkops.central.plugins.module_utils._streams import (
    CHUNK,
    Digesting,
    Readable,
    Sum,
    Summing,
    read_exactly,
)
from ansible_collections.odkops.central.plugins.module_utils._zlib_stream import WrongDivisionError

#: Gives an archive from an offset on, and what sums up the bytes that are read from its file for that.
Again = Callable[[int], tuple[Readable, Summing]]

#: a backup of so many bytes or more is worth a second process
LARGE = 16 * 1024 * 1024


def read_alone(archive: Archive, on_blob: Callable[[BlobFact], None] | None = None) -> Facts:
    """Decompress and read all data of an archive, in this thread.

    :param archive: nothing of it but its table of contents has been read
    :param on_blob: called with each row of ``blobs``
    :returns: what the rows say
    :raises CentralError: ``truncated``, ``corrupt``, ``missing_required_lib``, ...
    """
    facts = _facts_for(archive, on_blob)
    compression, file = archive.header.compression, _is_zip(archive)
    feed(archive.blocks(), Decompressing(compression, file, TableReader(facts, compression, file).take).take)
    return facts


def read_together(
    archive: Archive,
    digest: Digesting,
    size: int | None = None,
    on_blob: Callable[[BlobFact], None] | None = None,
    again: Again | None = None,
) -> Facts:
    """As :func:`read_alone`, by several.

    A large file is decompressed in a process of its own, and its rows are read in another one; a part of its tables is
    read by one more, where it can be divided. What comes over a network never keeps two cores busy, and a small file is
    read before a process is made: there it is threads.

    :param digest: what the archive is read from, in the end; it hashes in a thread of its own where processes read
    :param size: bytes of the backup where it is a file, else None
    :param on_blob: called in another thread
    :param again: gives the archive once more, where that can be had in any order
    :raises CentralError: ``process_killed``, ``unreadable``, too
    :raises WrongDivisionError: it was to be read in two parts, and cannot be where it was tried: read it without `again`
    """
    if size is not None and size >= LARGE and (os.cpu_count() or 1) > 1:
        try:
            return _by_processes(archive, digest, size, on_blob, again)
        except _NoProcessError:
            pass  # Threads do it, too.
    facts = _facts_for(archive, on_blob)
    compression, file = archive.header.compression, _is_zip(archive)
    with (
        Worker(TableReader(facts, compression, file).take) as reading,
        Worker(Decompressing(compression, file, reading.put).take) as decompressing,
    ):
        _all([lambda: feed(archive.blocks(), decompressing.put), decompressing.finish, reading.finish])
    return facts


class _NoProcessError(Exception):
    """No process can be had."""


def _by_processes(
    archive: Archive,
    digest: Digesting,
    size: int,
    on_blob: Callable[[BlobFact], None] | None,
    again: Again | None,
) -> Facts:
    compression, file = archive.header.compression, _is_zip(archive)
    decompressor(compression, "", file)  # Its libraries are imported here, not in each process.
    keep_freed_memory()
    with contextlib.ExitStack() as stack:

        def processes(blocks: tuple[Iterable[Block], Summing] | None, less: bool) -> ReadingProcesses:
            facts = _facts_for(archive, None)
            middle = None if behind is None else behind.division.middle
            made = ReadingProcesses(compression, file, archive.entries, facts, on_blob, blocks, less, middle)
            stack.callback(made.close)
            return made

        behind = _behind(archive, digest, size, again)
        try:
            second = None if behind is None else processes(behind.blocks(), not behind.more)
            first = processes(None, behind is not None and behind.more)
        except OSError as error:
            raise _NoProcessError from error
        stack.enter_context(first.giving_way())
        # What follows starts threads.
        first.start()
        stack.enter_context(digest)
        if behind is None or second is None:
            _all([lambda: feed(archive.blocks(), first.put), first.finish])
            return first.facts
        digest.sum_up(behind.stored.offset)
        with behind.last_word():
            _all([lambda: feed(behind.before(), first.put), lambda: behind.pass_over(first), first.finish])
            if behind.met():
                # Not before: on_blob has nothing to do with the rows of a part that is none.
                second.start()
                second.finish()
                behind.check_same(second.sum)
                first.facts.add(second.facts)
        return first.facts


@dataclass
class _Behind:
    """An archive that is read in two parts."""

    archive: CustomArchive
    digest: Digesting
    division: Division
    #: gives the second part
    source: Readable
    #: sums up the bytes of the file that it is read from
    stored: Summing
    #: whether there is more to do for the second part than for the first
    more: bool

    def before(self) -> Iterator[Block]:
        """The blocks of the first part; those of the second follow, should the division be no place between two blocks."""
        return self.archive.blocks(self.division)

    def blocks(self) -> tuple[Iterator[Block], Summing]:
        """The blocks of the second part, and what sums up the bytes of the file that they are read from."""
        return self.archive.blocks_behind(self.division, self.source), self.stored

    def met(self) -> bool:
        """Whether the first part has been read, and ends where the second one begins."""
        return self.archive.divided

    @contextlib.contextmanager
    def last_word(self) -> Iterator[None]:
        """Leave it to one reader to say what is wrong with a block that two have read: it may be where it was divided.

        :raises WrongDivisionError: for what is ``corrupt`` or ``truncated``
        """
        try:
            yield
        except CentralError as error:
            if self.division.middle is not None and error.diagnosis in ("corrupt", "truncated"):
                raise WrongDivisionError from error
            raise

    def check_same(self, read: Sum) -> None:
        """Compare what has been read of the second part by its reader and for the digest.

        :raises CentralError: ``unreadable``
        """
        if read != self.digest.sum:
            raise changed_error()

    def pass_over(self, first: ReadingProcesses) -> None:
        """Read what is left of the file, for its digest, once the first part has been read and unless `first` found it wrong."""
        while self.met() and self.digest.read(CHUNK):
            first.check()


def _behind(archive: Archive, digest: Digesting, size: int, again: Again | None) -> _Behind | None:
    """How to read the archive in two parts; None where it is not worth while, or cannot be."""
    if again is None or isinstance(archive, LegacyZip):
        return None
    division = archive.division(size, lambda offset, wanted: read_exactly(again(offset)[0], wanted))
    if division is None:
        return None
    source, stored = again(division.offset)
    if stored.offset < digest.size:
        return None  # It has been read already, in part.
    # One process does all that is to be done for the second part, for each byte about twice what the first part's has to do.
    return _Behind(archive, digest, division, source, stored, 2 * (size - division.offset) > division.offset)


def _is_zip(archive: Archive) -> bool:
    """Whether its blocks are files of the directory format."""
    return isinstance(archive, LegacyZip)


def _facts_for(archive: Archive, on_blob: Callable[[BlobFact], None] | None) -> Facts:
    """Facts that nothing has been given yet.

    :raises CentralError: ``corrupt``
    """
    _check_entries(archive.entries)
    facts = Facts(on_blob)
    encodings = (read_encoding(entry) for entry in archive.entries if entry.description == "ENCODING")
    facts.encoding = next(encodings, None)
    return facts


def _all(steps: list[Callable[[], None]]) -> None:
    """Do each step, even after an error. The last one's is raised: what is found further down stands earlier in the file."""
    latest: CentralError | None = None
    for step in steps:
        try:
            step()
        except CentralError as error:
            latest = error
    if latest is not None:
        raise latest


def _check_entries(entries: list[TocEntry]) -> None:
    names: set[tuple[str, str]] = set()
    for entry in entries:
        if entry.description != "TABLE DATA":
            continue
        name = (entry.namespace, entry.tag)
        if name in names or not entry.has_data:
            raise corrupt(f"its table of contents has the data of {entry.name} twice, or not at all")
        names.add(name)
