# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a zip file, which says where its central directory is.

Source of the format: PKWARE's APPNOTE.TXT, sections 4.3.14 to 4.3.16. The end of central directory
record must be the last 22 bytes of the file: Central writes no comment, and nothing may follow.
"""

from __future__ import annotations

import struct
from typing import Callable, NamedTuple

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt

_END = struct.Struct("<4s4H2LH")
_END_MAGIC = b"PK\x05\x06"
_LOCATOR = struct.Struct("<4sLQL")
_LOCATOR_MAGIC = b"PK\x06\x07"
_END64 = struct.Struct("<4sQ2H2L4Q")
_END64_MAGIC = b"PK\x06\x06"
_DIRECTORY_MAGIC = b"PK\x01\x02"

_LONGEST_COMMENT = 0xFFFF

Read = Callable[[int, int], bytes]


class DirectoryPlace(NamedTuple):
    """Where the central directory is."""

    offset: int
    #: in bytes
    size: int
    #: how many members it lists
    members: int


def find_directory(read: Read, size: int) -> DirectoryPlace:
    """Find the central directory of a zip file.

    :param read: gives so many bytes from an offset on
    :param size: of the file in bytes
    :raises CentralError: ``truncated``, ``corrupt``
    """
    last = read(size - _END.size, _END.size) if size >= _END.size else b""
    if not last.startswith(_END_MAGIC) or not last.endswith(b"\0\0"):
        _explain(read, size)
    _magic, disk, first_disk, here, count, length, offset, _comment = _END.unpack(last)
    end = size - _END.size
    if 0xFFFF in (here, count) or 0xFFFFFFFF in (length, offset):
        end, found = _read_end64(read, end)
        for given, limit, real in zip((here, count, length, offset), (0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1), found):
            if given not in (limit, real):
                raise corrupt("its two ends contradict each other")
        here, count, length, offset = found
    if disk or first_disk or here != count:
        raise corrupt("its end speaks of several disks")
    if offset + length != end:
        raise corrupt("its central directory is not where its end says, or something stands behind it")
    return DirectoryPlace(offset, length, count)


def _read_end64(read: Read, end: int) -> tuple[int, tuple[int, int, int, int]]:
    """The end of a zip file of more than 4 GiB: where it begins, and its four numbers."""
    start = end - _LOCATOR.size - _END64.size
    if start < 0:
        raise corrupt("it has no end for a file of more than 4 GiB")
    data = read(start, _END64.size + _LOCATOR.size)
    magic, disk, place, disks = _LOCATOR.unpack_from(data, _END64.size)
    magic64, length, _made, _needed, this_disk, first_disk, here, count, size, offset = _END64.unpack_from(data)
    fits = (magic, magic64, length) == (_LOCATOR_MAGIC, _END64_MAGIC, _END64.size - 12) and place == start
    if not fits or disk or this_disk or first_disk or disks != 1:
        raise corrupt("its end for a file of more than 4 GiB is not one")
    return start, (here, count, size, offset)


def _explain(read: Read, size: int) -> None:
    """Say why there is no end of a zip file where it must be."""
    start = max(0, size - _END.size - _LONGEST_COMMENT)
    tail = read(start, size - start)
    position = tail.rfind(_END_MAGIC)
    while position >= 0:
        if position + _END.size <= len(tail):
            length, offset = struct.unpack_from("<2L", tail, position + 12)
            # Four bytes of a cut file may look like an end by chance; there is a directory before a real one.
            if offset + length <= start + position and (read(offset, 4) if length >= 4 else b"") == _DIRECTORY_MAGIC:
                raise corrupt("the end of the zip file is damaged, or something follows it")
        position = tail.rfind(_END_MAGIC, 0, position)
    raise CentralError(
        "truncated",
        "The zip file was cut short: it has no end, where its directory would be. The download or the dump stopped "
        "before its end (damage to its last 22 bytes would look the same); make another backup.",
    )
