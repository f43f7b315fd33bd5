# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of the type ``bytea`` as COPY shows them, read or hashed piece by piece.

Hexadecimal (``\\\\x...``), or where ``bytea_output`` is set so, escaped: octal escapes and doubled
backslashes, each backslash doubled once more by COPY (PostgreSQL's documentation, "Binary Data Types").
"""

from __future__ import annotations

import binascii
import hashlib
import re
from typing import Callable

from ansible_collections.odkops.central.plugins.module_utils._copy_text import NULL, Buffer

_HEXADECIMAL = b"\\\\x"

_NO_ESCAPE = re.compile(rb"\\(?![0-3][0-7]{2})")

# An escape that a piece may cut: two backslashes and three digits.
_ESCAPE = 5


class Bytea:
    """One value.

    Its methods raise :class:`ValueError` for what is no ``bytea``.

    :param take: called with each piece of it
    """

    def __init__(self, take: Callable[[bytes], object]) -> None:
        #: bytes of the value so far
        self.size = 0
        self._take = take
        self._rest = b""
        self._hexadecimal: bool | None = None

    def feed(self, piece: bytes) -> None:
        """Take the next piece of the column's text."""
        data = self._rest + piece if self._rest else piece
        if self._hexadecimal is None:
            if len(data) < len(_HEXADECIMAL) and _HEXADECIMAL.startswith(data):
                self._rest = data
                return
            self._hexadecimal = data.startswith(_HEXADECIMAL)
            start = len(_HEXADECIMAL)
        else:
            start = 0
        if self._hexadecimal:
            odd = (len(data) - start) % 2
            self._rest = data[len(data) - odd :]
            self._update(binascii.unhexlify(memoryview(data)[start : len(data) - odd]))
            return
        if b"\0" in data or b"\r" in data or not data.isascii():
            raise ValueError("a character that PostgreSQL escapes")
        # Four backslashes are one byte, so a run of them can be divided behind every fourth.
        cut = data.find(b"\\", max(0, len(data) - _ESCAPE))
        if cut < 0:
            cut = len(data)
        else:
            start = len(data[:cut].rstrip(b"\\"))
            run = len(data) - start - len(data[start:].lstrip(b"\\"))
            cut = start + run // 4 * 4
        self._rest = data[cut:]
        self._update(_unescape(data[:cut]))

    def swallow(self, digits: Buffer) -> bool:
        """Take the next piece of the text if it is hexadecimal digits throughout.

        :returns: False where it is not, or where the value may be of the other form; nothing was taken then
        """
        if not self._hexadecimal:
            return False
        size = len(digits)
        start = min(len(self._rest), size)
        odd = (size - start) % 2
        view = memoryview(digits)
        try:
            first = binascii.unhexlify(self._rest + view[:start]) if start else b""
            data = binascii.unhexlify(view[start : size - odd])
            if odd:
                binascii.unhexlify(b"0" + view[size - 1 :])
        except ValueError:
            return False
        if start:
            self._update(first)
            self._rest = b""
        if odd:
            self._rest = bytes(view[size - 1 :])
        self._update(data)
        return True

    def _update(self, data: bytes) -> None:
        self.size += len(data)
        self._take(data)

    @property
    def is_null(self) -> bool:
        """Whether what was fed is no value at all: NULL."""
        return not self.size and not self._hexadecimal and self._rest == NULL

    def end(self) -> None:
        """No more comes."""
        if self._rest:
            if self._hexadecimal:
                raise ValueError("an odd number of hexadecimal digits")
            self._update(_unescape(self._rest))
            self._rest = b""


class ByteaDigest(Bytea):
    """SHA-1 and size of one value."""

    def __init__(self) -> None:
        self._hash = hashlib.sha1(usedforsecurity=False)
        super().__init__(self._hash.update)

    def finish(self) -> str:
        """No more comes: the SHA-1 of the value, 40 hexadecimal digits."""
        self.end()
        return self._hash.hexdigest()


def _unescape(data: bytes) -> bytes:
    if b"\\" not in data:
        return data
    if data.count(b"\\\\") * 2 != data.count(b"\\"):
        raise ValueError("a backslash that COPY did not double")
    data = data.replace(b"\\\\", b"\\")
    # What is left are doubled backslashes and three octal digits behind one; Python has the same two.
    if _NO_ESCAPE.search(data.replace(b"\\\\", b".")):
        raise ValueError("a backslash without its octal digits")
    return data.decode("unicode_escape").encode("iso8859-1")
