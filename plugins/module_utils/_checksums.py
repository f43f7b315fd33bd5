# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checksums of large data: by ``isal`` where it is installed, which is several times as fast, else by the standard library."""

from __future__ import annotations

import zlib
from functools import cache
from typing import Callable

#: gives the checksum of data so far, from the next piece of it and that of what stood before it
Checksumming = Callable[["bytes | memoryview", int], int]


@cache
def adler32() -> Checksumming:
    """Who computes an Adler-32 (RFC 1950), which begins with 1."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.adler32
    fastest: Checksumming = isal_zlib.adler32
    return fastest


@cache
def crc32() -> Checksumming:
    """Who computes a CRC-32 (RFC 1952), which begins with 0."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.crc32
    fastest: Checksumming = isal_zlib.crc32
    return fastest
