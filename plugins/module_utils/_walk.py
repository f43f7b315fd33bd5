# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All data of an archive, decompressed and given to the facts, whatever container it came in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Callable

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import BlobFact, Facts
from ansible_collections.odkops.central.plugins.module_utils._pgdump_archive import Block
from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt
from ansible_collections.odkops.central.plugins.module_utils._pgdump_toc import Header, read_encoding
from ansible_collections.odkops.central.plugins.module_utils._pipeline import Worker
from ansible_collections.odkops.central.plugins.module_utils._reading_processes import ReadingProcesses
from ansible_collections.odkops.central.plugins.module_utils._stages import Decompressing, Item, TableReader

#: a backup of so many bytes or more is worth a second process
LARGE = 16 * 1024 * 1024


def read_blocks(
    header: Header,
    entries: list[TocEntry],
    blocks: Iterable[Block],
    file: bool = False,
    size: int | None = None,
    on_blob: Callable[[BlobFact], None] | None = None,
    alone: bool = False,
    beside: AbstractContextManager[object] | None = None,
) -> Facts:
    """Decompress and read all data of an archive.

    A large file is decompressed in a process of its own, and its rows are read in another one. What comes over a
    network never keeps two cores busy, and a small file is read before a process is made: there it is threads.

    :param blocks: the blocks, as :meth:`CustomArchive.blocks` gives them
    :param file: the blocks are files of the directory format
    :param size: bytes of the backup where it is a file, else None
    :param on_blob: called with each row of ``blobs``, in another thread unless `alone`
    :param alone: by this thread and no other
    :param beside: entered where processes read, once they have been made: what it begins may be a thread
    :returns: what the rows say
    :raises CentralError: ``truncated``, ``corrupt``, ``missing_required_lib``, ``process_killed``, ...
    """
    facts = Facts(on_blob)
    _check_entries(entries)
    facts.encoding = next((read_encoding(entry) for entry in entries if entry.description == "ENCODING"), None)
    if alone:
        _feed(blocks, Decompressing(header.compression, file, TableReader(facts).take).take)
        return facts
    if size is not None and size >= LARGE and (os.cpu_count() or 1) > 1:
        try:
            processes = ReadingProcesses(header.compression, file, entries, facts, on_blob)
        except OSError:
            pass  # No process can be had: threads do it, too.
        else:
            with processes, beside or contextlib.nullcontext():
                _all([lambda: _feed(blocks, processes.put), processes.finish])
            return processes.facts
    with (
        Worker(TableReader(facts).take) as reading,
        Worker(Decompressing(header.compression, file, reading.put).take) as decompressing,
    ):
        _all([lambda: _feed(blocks, decompressing.put), decompressing.finish, reading.finish])
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


def _feed(blocks: Iterable[Block], put: Callable[[Item], None]) -> None:
    for block in blocks:
        put(block)
        for piece in block.pieces:
            put(piece)
        put(None)


def _check_entries(entries: list[TocEntry]) -> None:
    names: set[tuple[str, str]] = set()
    for entry in entries:
        if entry.description != "TABLE DATA":
            continue
        name = (entry.namespace, entry.tag)
        if name in names or not entry.has_data:
            raise corrupt(f"its table of contents has the data of {entry.name} twice, or not at all")
        names.add(name)
