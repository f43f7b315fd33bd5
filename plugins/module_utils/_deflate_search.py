# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where in the middle of a deflate stream a second reader can begin.

It lacks the 32 KiB that the stream gave last, and which it may copy. But what it copies of them becomes less and less,
where there is little to copy: in the hexadecimal digits of photos and the like, which most of a large backup is. So
the stream is read twice from a block on, each time with other bytes in place of what is lacking. Whatever is the same both times
does not come from there; once 32 KiB in a row are, nothing can any more.

Whether a block begins there is a guess: the first reader finds it out when it comes there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from ansible_collections.odkops.central.plugins.module_utils._deflate import (
    MOST_BEHIND,
    WINDOW,
    Middle,
    begun,
    block_starts,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._inflating import inflating
from ansible_collections.odkops.central.plugins.module_utils._zlib_stream import LACKING

# So many compressed bytes are looked at for the beginning of a block; zlib's blocks of such data have about 25 KiB.
_LOOKED = 64 * 1024

# So many guesses are tried, each until it has given so many bytes: a wrong one is found out long before. And the first that does
# not show to be wrong is followed for so many bytes until all is known, and until a row begins, which may be long with blobs.
_TRIALS = 1000
_TRIED = 512 * 1024
_UNKNOWN = 4 * 1024 * 1024
_FAR = 32 * 1024 * 1024

_OTHER = bytes(255 - byte for byte in LACKING)


def find_middle(pieces: Iterator[bytes]) -> Middle | None:
    """Find a block from which on a stream can be read, and behind it a row of COPY from which on all is known.

    :param pieces: a deflate stream from some byte on; no more of them are taken than are needed to read up to that row
    :returns: None where none was found, as in text that repeats itself
    :raises CentralError: it turns out to be none; and what `pieces` raise
    """
    data = b""
    for piece in pieces:
        data += piece
        if len(data) >= _LOOKED:
            break
    for bit in itertools.islice(block_starts(data[:_LOOKED]), _TRIALS):
        if _seems_to_begin(data[:_LOOKED], bit):
            size = _size(bit, data, pieces)
            return None if size is None else Middle(bit, size)
    return None


def _seems_to_begin(data: bytes, bit: int) -> bool:
    given = 0
    try:
        for piece in inflating("").feed(begun(LACKING, data, bit)):
            given += len(piece)
            if given >= _TRIED:
                break
    except CentralError:
        return False
    return True


def _size(bit: int, data: bytes, pieces: Iterator[bytes]) -> int | None:
    """How many bytes are given from a block on before the first row that does not depend on what was given before it."""
    one, other = inflating(""), inflating("")
    first = second = b""
    # What is lacking is given first, and is never the same.
    passed, known = -WINDOW, False

    def given() -> Iterator[tuple[bytes, bytes]]:
        """What both give, which has the same lengths; of one only once all is known."""
        yield from zip(one.feed(begun(LACKING, data, bit)), other.feed(begun(_OTHER, data, bit)))
        taken = len(data)
        for piece in pieces:
            taken += len(piece)
            if taken > MOST_BEHIND:  # of a stream that gives little, or nothing
                return
            yield from ((more, b"") for more in one.feed(piece)) if known else zip(one.feed(piece), other.feed(piece))

    for more, more_of_second in given():
        first, second = first + more, second + more_of_second
        at = 0
        while not known and at + WINDOW <= len(first):
            known = first[at : at + WINDOW] == second[at : at + WINDOW]
            at += WINDOW
        if known:
            row = first.find(b"\n", at)
            if row >= 0:
                return passed + row + 1
            at = len(first)
        passed += at
        if passed > (_FAR if known else _UNKNOWN):
            break
        first, second = first[at:], second[at:]
    return None
