# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How this process gets its memory."""

from __future__ import annotations

import ctypes

# mallopt(3) of glibc
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

_LARGEST_PIECE = 4 * 1024 * 1024
_KEPT = 16 * 1024 * 1024


def keep_freed_memory() -> None:
    """Let the C library keep up to 16 MiB of what is freed, and not give pieces of 128 KiB and more back at once.

    Pieces of that size come and go here all the time, and the kernel clears each new one: without this, reading a
    backup takes up to a third longer. Does nothing where the C library is not glibc.
    """
    try:
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_PIECE)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT)
    except (OSError, AttributeError):
        return
