# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Holding a list of objects against the index of a pool, in one pass and little memory whatever their number."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Optional

from ansible_collections.odkops.central.plugins.module_utils._blob_list import (
    BlobEntry,
    BlobListWriter,
    read_blob_list,
)
from ansible_collections.odkops.central.plugins.module_utils._pool_index import CHUNK, Known, PoolIndex


@dataclass
class Survey:
    """What the list asks for, and what the pool has of it."""

    objects: int = 0
    #: of the contents, in bytes, as far as they are in the pool
    size: int = 0
    #: not in the pool
    needed: int = 0
    #: in bytes, as far as the database knows
    needed_size: int = 0
    #: in the pool with another MD5 than the database says
    differ: list[BlobEntry] = field(default_factory=list)


def names_nothing(list_path: str) -> bool:
    """Whether the database names no objects in S3. :raises CentralError: ``unreadable``, ``corrupt``"""
    return next(read_blob_list(list_path), None) is None


def looked_up(list_path: str, index: PoolIndex) -> Iterator[tuple[BlobEntry, Optional[Known]]]:
    """Each object of a list, with what the index has of it or None. The index may change meanwhile."""
    entries = read_blob_list(list_path)
    while chunk := list(itertools.islice(entries, CHUNK)):
        known = index.find(chunk)
        for entry in chunk:
            yield entry, known.get((entry.id, entry.sha1))


def survey(list_path: str, index: PoolIndex, writer: BlobListWriter | None, absent: dict[int, str]) -> Survey:
    """Hold the list against the index, and write the list of the set on the way.

    :param absent: reasons by id, for objects that are not needed
    """
    result = Survey()
    for entry, known in looked_up(list_path, index):
        result.objects += 1
        size, reason = entry.size, None
        if known is not None:
            size = known.size
            result.size += size
            if entry.md5 is not None and known.md5 is not None and known.md5 != entry.md5:
                result.differ.append(entry)
        elif entry.id in absent:
            reason = absent[entry.id]
        else:
            result.needed += 1
            result.needed_size += entry.size or 0
        if writer is not None:
            writer.add(entry._replace(size=size, absent=reason))
    return result
