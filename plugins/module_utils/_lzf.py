# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""LZF, the compression of strings in RDB files: literal runs, and references into the last 8 KiB.

Source: liblzf, lzf_d.c, as in redis/redis, src/lzf_d.c.
"""

from __future__ import annotations


def lzf_decompress(data: bytes, size: int) -> bytes:
    """Decompress `data`, of which `size` bytes must come. Work and memory are bounded by `size`.

    :raises ValueError: where anything else comes of it
    """
    out = bytearray()
    position = 0
    try:
        while position < len(data) and len(out) <= size:
            control = data[position]
            position += 1
            if control < 32:
                run = data[position : position + control + 1]
                position += control + 1
                if position > len(data):
                    raise IndexError
                out += run
                continue
            length = control >> 5
            if length == 7:
                length += data[position]
                position += 1
            start = len(out) - ((control & 0x1F) << 8 | data[position]) - 1
            position += 1
            if start < 0:
                raise IndexError
            for index in range(start, start + length + 2):
                out.append(out[index])
    except IndexError as error:
        raise ValueError("not LZF") from error
    if len(out) != size:
        raise ValueError("not LZF of that size")
    return bytes(out)
