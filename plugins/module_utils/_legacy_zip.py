# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The zip files that Central made before v2026.2, and those that it once sent to Google Drive.

Source of the format: getodk/central-backend before v2026.2, lib/resources/backup.js and lib/task/fs.js:
``keepalive`` first (random bytes, from v1.1 on, not to Google Drive), then each file of a dump in the
directory format, encrypted, then ``keys.json``. Nothing else is in a genuine file, and nothing of it is
written anywhere while it is read: the members are decrypted as they stream by.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Callable, Optional

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pgdump_archive import Block
from ansible_collections.odkops.central.plugins.module_utils._pgdump_directory import (
    TOC,
    PieceReader,
    files_of,
    read_toc_file,
)
from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt
from ansible_collections.odkops.central.plugins.module_utils._pgdump_toc import Header
from ansible_collections.odkops.central.plugins.module_utils._zip_container import (
    Member,
    ZipContainer,
    shown,
    unsafe,
)
from ansible_collections.odkops.central.plugins.module_utils._zip_keys import BLOCK, MAXIMUM_BYTES, Keys

KEYS = "keys.json"

#: random bytes that kept the connection alive: neither encrypted nor of any use
KEEPALIVE = "keepalive"

#: Called with the name of a file of the dump and its next piece, first with an empty one.
Copy = Callable[[str, bytes], object]


class LegacyZip:
    """Reads a legacy zip backup. All that can be checked without reading the data is checked at once.

    :param file: the zip file, seekable; it stays open
    :param passphrase: empty for a backup that was made without one
    :param copy: called with all that is decrypted, file by file
    :raises CentralError: with the diagnosis of what is wrong
    """

    def __init__(self, file: BinaryIO, passphrase: str, copy: Optional[Copy] = None) -> None:
        self._zip = ZipContainer(file)
        self._copy = copy
        self._members = {member.name: member for member in self._zip.members if member.name != KEEPALIVE}
        keys = self._members.pop(KEYS, None)
        if keys is None:
            raise CentralError(
                "keys_missing",
                "The zip file has no member keys.json, which every backup of Central has: it is another zip file, or "
                "its end is missing. Check the path, or use another backup.",
            )
        self._check_sizes(keys)
        self._keys = Keys(b"".join(self._zip.pieces(keys)), passphrase)
        self._check_names()
        #: header of the dump
        self.header: Header
        #: its table of contents
        self.entries: list[TocEntry]
        self.header, self.entries = read_toc_file(PieceReader(self._content(TOC)))
        others = self._members.keys() - {TOC}
        self._files = files_of(self.header, self.entries, others, self._content)

    def _check_sizes(self, keys: Member) -> None:
        """Refuse what would unpack to more than it may, before anything is unpacked."""
        if keys.size > MAXIMUM_BYTES:
            raise unsafe(f"its {KEYS} has {keys.size} bytes, more than the {MAXIMUM_BYTES} that any backup needs")
        for member in self._members.values():
            self._zip.check(member)
            # What is encrypted does not get smaller by compression, but for a few bytes by chance.
            if member.size > member.stored_size + member.stored_size // 8 + 64:
                raise unsafe(f"its member {shown(member.name)} would unpack to {member.size} bytes")
            if not member.size or member.size % BLOCK:
                raise corrupt(f"the member {shown(member.name)} is not made of whole blocks")

    def _check_names(self) -> None:
        """Each member has its initial value, each initial value its member."""
        alone = sorted(self._members.keys() ^ self._keys.names)
        if alone:
            which = "no initial value" if alone[0] in self._members else "an initial value but no member"
            raise corrupt(f"there is {which} for {shown(alone[0])}")
        if TOC not in self._members:
            raise corrupt(f"it has no {TOC}, the table of contents of the dump")

    def _content(self, name: str) -> Iterator[bytes]:
        """A member, decrypted."""
        pieces = self._keys.decrypt(name, self._zip.pieces(self._members[name]))
        if self._copy is None:
            yield from pieces
            return
        self._copy(name, b"")
        for piece in pieces:
            self._copy(name, piece)
            yield piece

    def blocks(self, in_order: bool = False) -> Iterator[Block]:
        """The data of each entry. Each one's pieces must be read before the next one.

        :param in_order: in the order of the table of contents, not in that of the zip file
        :raises CentralError: ``corrupt``, ``unsafe_archive``, ``unreadable``
        """
        for name in self._files if in_order else self._members:
            found = self._files.get(name)
            if found is not None:
                yield Block(found.entry, found.large_object, self._content(name))
