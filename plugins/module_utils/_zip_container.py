# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Zip files, read strictly: every byte of the file is accounted for, or it is refused.

Source of the format: PKWARE's APPNOTE.TXT. What Central's writers make of it was read from
node-compress-commons, versions 1.2 to 6.0, which the npm package ``archiver`` uses: no sizes in the
local headers but data descriptors behind the data (with sizes of 64 bits where a member is larger than
4 GiB), and a zip64 field of always 24 bytes in the central directory, needed or not.

Python's ``zipfile`` is not used, since it believes the central directory alone: it ignores data
descriptors, bytes between and behind the members, and a second member of the same name, all of which
other tools may read otherwise.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ansible_collections.odkops.central.plugins.module_utils._compression import decompressor
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, reading_error
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt, truncated
from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK
from ansible_collections.odkops.central.plugins.module_utils._zip_end import DirectoryPlace, find_directory

#: More members, or a longer central directory in bytes, no genuine backup has (Central's have about 40, in 2 KB).
MAXIMUM_MEMBERS = 60_000
MAXIMUM_DIRECTORY = 16 * 1024 * 1024

_LOCAL = struct.Struct("<4s5H3L2H")
_LOCAL_MAGIC = b"PK\x03\x04"
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_CENTRAL_MAGIC = b"PK\x01\x02"
_DESCRIPTOR_MAGIC = b"PK\x07\x08"

_ZIP64_FIELD = 0x0001
# Extra fields that other writers add, and of which nothing is used: times and owners (NTFS, UT, ux).
_OTHER_FIELDS = frozenset({0x000A, 0x5455, 0x7875})
_IN_ZIP64 = 0xFFFFFFFF

_STORED = 0
_DEFLATED = 8

_DESCRIPTOR_FOLLOWS = 0x0008
# Two hints about the effort of deflate, the descriptor, and names in UTF-8.
_KNOWN_FLAGS = 0x0002 | 0x0004 | _DESCRIPTOR_FOLLOWS | 0x0800


@dataclass(frozen=True)
class Member:
    """One member of a zip file."""

    name: str
    method: int
    flags: int
    #: CRC-32 of the content
    crc: int
    #: size of the content in bytes
    size: int
    #: bytes that it takes in the zip file
    stored_size: int
    #: where the member begins in the zip file
    offset: int
    #: date and time as in the zip file: only compared, never used
    time: tuple[int, int]


def unsafe(what: str) -> CentralError:
    """An ``unsafe_archive`` diagnosis: `what` is a clause that says what is dangerous."""
    return CentralError(
        "unsafe_archive",
        f"The zip file is not safe to unpack: {what}. Central does not make such files; do not open it with other tools.",
    )


def shown(name: str) -> str:
    """The name of a member as a message may have it: short, and of plain characters only."""
    return ascii(name)[1:-1][:80]


class ZipContainer:
    """Reads a zip file. Its whole layout is checked before anything of it is used.

    :param file: the file, seekable; it stays open
    :raises CentralError: ``truncated``, ``corrupt``, ``unsafe_archive``, ``unreadable``
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        try:
            self._size = file.seek(0, 2)
        except OSError as error:
            raise reading_error(error, self._path()) from error
        directory = find_directory(self._read, self._size)
        #: the members in the order in which they stand in the file
        self.members: list[Member] = self._read_directory(directory)
        # Where the content of each member begins, by its offset.
        self._starts: dict[int, int] = {}
        self._check_layout(directory.offset)
        self._check_names()

    def _path(self) -> str:
        name = getattr(self._file, "name", None)
        return name if isinstance(name, str) else "The backup"

    def _read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on.

        :raises CentralError: ``truncated``, ``unreadable``
        """
        pieces = []
        try:
            self._file.seek(offset)
            while size > 0:
                data = self._file.read(size)
                if not data:
                    raise truncated("before what its central directory announces")
                pieces.append(data)
                size -= len(data)
        except OSError as error:
            raise reading_error(error, self._path()) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_directory(self, directory: DirectoryPlace) -> list[Member]:
        if directory.members * _CENTRAL.size > directory.size:
            raise corrupt(f"its central directory claims {directory.members} members in {directory.size} bytes")
        if directory.members > MAXIMUM_MEMBERS or directory.size > MAXIMUM_DIRECTORY:
            raise unsafe(f"it has {directory.members} members and a central directory of {directory.size} bytes")
        data = self._read(directory.offset, directory.size)
        members = []
        position = 0
        for _count in range(directory.members):
            member, position = _central_entry(data, position)
            members.append(member)
        if position != len(data):
            raise corrupt("its central directory has more in it than its members")
        if not members:
            raise corrupt("it is a zip file without members")
        return sorted(members, key=lambda member: member.offset)

    def _check_layout(self, end: int) -> None:
        """Each member begins where the one before it ends, and says of itself what the central directory says."""
        if self.members[0].offset:
            raise corrupt("something stands before its first member")
        following = [member.offset for member in self.members[1:]] + [end]
        for member, limit in zip(self.members, following):
            if member.offset == limit:
                raise unsafe(f"its members overlap, at {shown(member.name)}")
            start = self._check_local(member, limit)
            behind = limit - start - member.stored_size
            if behind < 0:
                raise unsafe(f"its members overlap, at {shown(member.name)}")
            self._check_descriptor(member, limit, behind)
            self._starts[member.offset] = start

    def _check_local(self, member: Member, limit: int) -> int:
        """Compare the local header with the central directory; returns where the content begins."""
        header = _LOCAL.unpack(self._read(member.offset, _LOCAL.size))
        magic, _needed, flags, method, time, date, crc, stored_size, size, name_size, extra_size = header
        position = member.offset + _LOCAL.size
        if position + name_size + extra_size > limit or magic != _LOCAL_MAGIC:
            raise corrupt(f"the member {shown(member.name)} is not where its central directory says")
        name, extra = _split(self._read(position, name_size + extra_size), name_size)
        said = (crc, *_local_sizes(extra, size, stored_size))
        # They may come behind the data only.
        unsaid = said == (0, 0, 0) and flags & _DESCRIPTOR_FOLLOWS
        same = (_text(name), method, flags, (date, time)) == (member.name, member.method, member.flags, member.time)
        if not same or not (unsaid or said == (member.crc, member.size, member.stored_size)):
            raise corrupt(f"the member {shown(member.name)} contradicts the central directory")
        return int(position + name_size + extra_size)

    def _check_descriptor(self, member: Member, limit: int, size: int) -> None:
        descriptor = self._read(limit - size, size) if size <= 24 else b""
        expected = [b""]
        if member.flags & _DESCRIPTOR_FOLLOWS:
            expected = [
                magic + struct.pack(form, member.crc, member.stored_size, member.size)
                for magic in (_DESCRIPTOR_MAGIC, b"")
                for form in ("<LLL", "<LQQ")
                if form == "<LQQ" or max(member.stored_size, member.size) <= _IN_ZIP64
            ]
        if size > 24 or descriptor not in expected:
            raise corrupt(f"what follows the member {shown(member.name)} is not what belongs there")

    def _check_names(self) -> None:
        names: set[str] = set()
        for member in self.members:
            name = member.name
            if "\0" in name or "\\" in name or name.startswith("/") or name[1:2] == ":" or ".." in name.split("/"):
                raise unsafe(f"the name of its member {shown(name)} leads out of the directory that it is unpacked to")
            if name in names:
                raise unsafe(f"it has two members of the name {shown(name)}")
            names.add(name)

    def check(self, member: Member) -> None:
        """Say whether a member is of a kind that can be read.

        :raises CentralError: ``not_a_central_backup``, ``unsupported_compression``, ``corrupt``
        """
        if member.flags & ~_KNOWN_FLAGS:
            raise CentralError(
                "not_a_central_backup",
                f"The member {shown(member.name)} of the zip file is encrypted by zip itself or uses another feature "
                "that Central's backups never use. Check where the file comes from.",
            )
        if member.method not in (_STORED, _DEFLATED):
            raise CentralError(
                "unsupported_compression",
                f"The member {shown(member.name)} of the zip file is compressed by method {member.method}; Central uses "
                "deflate. Check where the file comes from.",
            )
        if member.method == _STORED and member.size != member.stored_size:
            raise corrupt(f"the member {shown(member.name)} is not compressed, but has two sizes")

    def pieces(self, member: Member) -> Iterator[bytes]:
        """The content of a member. Size and CRC-32 are checked when it ends.

        :returns: pieces of at most about 1 MiB
        :raises CentralError: as :meth:`check`, and ``corrupt``, ``unsafe_archive``, ``truncated``, ``unreadable``
        """
        self.check(member)
        engine = decompressor("none" if member.method == _STORED else "deflate", shown(member.name))
        position = self._starts[member.offset]
        end = position + member.stored_size
        size = crc = 0
        while position < end:
            data = self._read(position, min(CHUNK, end - position))
            position += len(data)
            for piece in engine.feed(data):
                size += len(piece)
                if size > member.size:
                    raise unsafe(f"its member {shown(member.name)} unpacks to more than it announces")
                crc = zlib.crc32(piece, crc)
                yield piece
        engine.finish()
        if size != member.size or crc != member.crc:
            raise corrupt(f"the content of the member {shown(member.name)} is not what its CRC-32 says")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _split(data: bytes, size: int) -> tuple[bytes, bytes]:
    return data[:size], data[size:]


def _central_entry(data: bytes, position: int) -> tuple[Member, int]:
    """The entry of the central directory at `position`, and where the next one begins."""
    if position + _CENTRAL.size > len(data):
        raise corrupt("its central directory stops inside an entry")
    header = _CENTRAL.unpack_from(data, position)
    magic, _made, _needed, flags, method, time, date, crc, stored_size, size = header[:10]
    name_size, extra_size, comment_size, disk, _internal, _external, offset = header[10:]
    position += _CENTRAL.size
    end = position + name_size + extra_size
    if magic != _CENTRAL_MAGIC or end > len(data) or comment_size or disk:
        raise corrupt("an entry of its central directory is not one that Central writes")
    name, extra = _split(data[position:end], name_size)
    size, stored_size, offset = _central_sizes(extra, size, stored_size, offset)
    return Member(_text(name), method, flags, crc, size, stored_size, offset, (date, time)), end


def _zip64(extra: bytes) -> bytes | None:
    """The zip64 field among the extra fields."""
    found = None
    position = 0
    while position < len(extra):
        if position + 4 > len(extra):
            raise corrupt("an extra field of a member is cut short")
        kind, size = struct.unpack_from("<2H", extra, position)
        position += 4 + size
        if position > len(extra):
            raise corrupt("an extra field of a member is cut short")
        if kind in _OTHER_FIELDS:
            continue
        if kind != _ZIP64_FIELD or found is not None:
            raise corrupt(f"a member has an extra field {kind} that it should not have")
        found = extra[position - size : position]
    return found


def _central_sizes(extra: bytes, *values: int) -> tuple[int, int, int]:
    """Size, stored size and offset of a member: those of 64 bits where there are such."""
    field = _zip64(extra) or b""
    # Central's writer gives all three always, others only those that do not fit into 32 bits.
    given = range(3) if len(field) == 24 else [number for number, value in enumerate(values) if value == _IN_ZIP64]
    if len(field) not in (8 * len(given), 8 * len(given) + 4):
        raise corrupt("the sizes of a member of more than 4 GiB are missing")
    result = list(values)
    for place, number in enumerate(given):
        (value,) = struct.unpack_from("<Q", field, 8 * place)
        if values[number] not in (_IN_ZIP64, value):
            raise corrupt("a member has two different sizes")
        result[number] = value
    return result[0], result[1], result[2]


def _local_sizes(extra: bytes, size: int, stored_size: int) -> tuple[int, int]:
    field = _zip64(extra)
    if field is None or len(field) < 16:
        return size, stored_size
    large, large_stored = struct.unpack_from("<2Q", field)
    return (large if size == _IN_ZIP64 else size), (large_stored if stored_size == _IN_ZIP64 else stored_size)
