# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands around the data of an archive in the custom format, for whatever writes such an archive anew.

Source of the format: PostgreSQL, src/bin/pg_dump/pg_backup_archiver.c (WriteInt, WriteHead) and pg_backup_custom.c
(_StartData, _StartBlob, _EndBlobs, _CustomWriteFunc). See _pgdump_archive.py for what is read.
"""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils._pgdump_archive import Block
from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._streams import Readable

#: Where the size of an integer and of an offset, the format and the compression stand in the header: behind the magic word and
#: three bytes of version.
INTEGER_SIZE, OFFSET_SIZE, FORMAT, COMPRESSION = 8, 9, 10, 11

_DATA = b"\1"
_LARGE_OBJECTS = b"\3"


def integer(value: int, size: int) -> bytes:
    """A signed integer as archives have it: a byte of sign, then `size` bytes, the least significant first."""
    return bytes([value < 0]) + abs(value).to_bytes(size, "little")


class Recording:
    """Passes a stream on and keeps what has been read of it, until it is stopped."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._kept: list[bytes] | None = []

    def read(self, size: int, /) -> bytes:
        """As :meth:`Readable.read`."""
        data = self._source.read(size)
        if self._kept is not None:
            self._kept.append(data)
        return data

    def stop(self, size: int) -> bytes:
        """Keep no more, and return the first `size` bytes."""
        kept = b"".join(self._kept or ())[:size]
        self._kept = None
        return kept


class Frame:
    """Gives what stands before, between and behind the chunks of an archive's blocks.

    :param entries: its table of contents
    :param size: bytes of an integer in it
    """

    def __init__(self, entries: list[TocEntry], size: int) -> None:
        self._waiting = iter([entry for entry in entries if entry.has_data])
        self._size = size
        self._entry: TocEntry | None = None
        #: behind the last chunk of a block
        self.end = integer(0, size)

    def before(self, block: Block) -> bytes:
        """What stands in front of the first chunk of a block."""
        out = b""
        if block.entry is not self._entry:
            out = self._between(block.entry)
            self._entry = block.entry
        if block.large_object is not None:
            out += self._object_id(block.large_object)
        return out

    def chunk(self, length: int) -> bytes:
        """What stands in front of the data of a chunk."""
        return integer(length, self._size)

    def finish(self) -> bytes:
        """What stands behind the last block."""
        return self._between(None)

    def _between(self, following: TocEntry | None) -> bytes:
        """The end of large objects, and the beginning of a block. An entry of large objects without any is among them."""
        out = self.end if self._entry is not None and self._entry.description == "BLOBS" else b""
        for entry in self._waiting:
            out += (_LARGE_OBJECTS if entry.description == "BLOBS" else _DATA) + integer(entry.dump_id, self._size)
            if entry is following:
                return out
            out += self.end
        return out

    def _object_id(self, oid: int) -> bytes:
        """The id of a large object, which pg_dump writes as if it were a signed number of 32 bits."""
        return integer(oid - 2**32 if oid >= 2**31 else oid, self._size)
