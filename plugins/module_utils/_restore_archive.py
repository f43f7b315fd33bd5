# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup as pg_restore gets it: the archive in the custom format, without compression, as a stream.

pg_restore spends a third of its time inflating, on the core that it needs for everything else, and what reads an archive of
another version of PostgreSQL may lack its compression. So it is decompressed here. A legacy zip holds the directory format,
which pg_restore reads from a disk only: it becomes the custom format on the way, and needs no copy anywhere. Files in the
database, half of whose text the server would only count and turn into bytes, may become the binary format of COPY.

Source of the formats: see _pgdump_toc.py and _pgdump_archive.py, and for the field of an entry in the custom format
_WriteExtraToc and WriteOffset of PostgreSQL's src/bin/pg_dump (pg_backup_custom.c, pg_backup_archiver.c).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import BinaryIO

from ansible_collections.odkops.central.plugins.module_utils._compression import decompressor
from ansible_collections.odkops.central.plugins.module_utils._copy_binary import BinaryRows, Conversion, conversion
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, reading_error
from ansible_collections.odkops.central.plugins.module_utils._legacy_zip import LegacyZip
from ansible_collections.odkops.central.plugins.module_utils._openssl_enc import HEADER_SIZE, MAGIC, EncryptedReader
from ansible_collections.odkops.central.plugins.module_utils._pgdump_archive import Block, CustomArchive
from ansible_collections.odkops.central.plugins.module_utils._pgdump_directory import TOC
from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._pgdump_toc import CUSTOM, Header
from ansible_collections.odkops.central.plugins.module_utils._pgdump_writing import (
    COMPRESSION,
    FORMAT,
    INTEGER_SIZE,
    OFFSET_SIZE,
    Frame,
    Recording,
    integer,
)
from ansible_collections.odkops.central.plugins.module_utils._pipeline import ahead
from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK, Digesting, read_exactly

# The states of an entry's offset: not known, and no data.
_NOT_SET = 1
_NO_DATA = 3

# What is made before a restore, by somebody else, or not at all: databases and extensions are there already; grants are made
# afterwards, since their roles may not exist; the rest only a superuser can make, and Central has none of it.
_LEFT_OUT = frozenset(
    (
        "EXTENSION",
        "ACL",
        "DEFAULT ACL",
        "DATABASE",
        "DATABASE PROPERTIES",
        "SECURITY LABEL",
        "SUBSCRIPTION",
        "EVENT TRIGGER",
    )
)
_PUBLIC = frozenset(("SCHEMA", "COMMENT"))

_EXTENSION = re.compile(
    r'CREATE EXTENSION IF NOT EXISTS "?(?P<name>[A-Za-z0-9_-]+)"? WITH SCHEMA "?(?P<schema>[A-Za-z0-9_]+)"?;'
)
# Grants and their like, and nothing else: no statement of another kind, no command of psql.
_GRANT = re.compile(
    r"(?:(?:GRANT|REVOKE|ALTER DEFAULT PRIVILEGES) [^\\;]*;\s*|(?:RE)?SET SESSION AUTHORIZATION[^\\;]*;\s*)+"
)


def is_restored(entry: TocEntry) -> bool:
    """Whether pg_restore is to make what an entry describes."""
    if entry.description in _LEFT_OUT:
        return False
    if entry.description == "COMMENT" and entry.tag.startswith(("EXTENSION ", "DATABASE ")):
        return False
    return not (entry.description in _PUBLIC and entry.tag in ("public", "SCHEMA public"))


class RestoreArchive:
    """A backup, opened to be restored. Use it as a context manager.

    :param path: of the backup, which has been verified
    :param passphrase: that opens it
    :param sha256: that the verification has found; see :meth:`check`
    :raises CentralError: ``unreadable``, and what the readers say of a file that has changed since
    """

    def __init__(self, path: str, passphrase: str, sha256: str) -> None:
        self._path = path
        self._sha256 = sha256
        try:
            self._file: BinaryIO = open(path, "rb", buffering=0)  # pylint: disable=consider-using-with
        except OSError as error:
            raise reading_error(error, path) from error
        try:
            #: None where all of the file was compared before it is read: a zip is not read from its first byte to its last
            self._digest: Digesting | None = Digesting(self._file)
            start = read_exactly(self._digest, len(MAGIC))
            self._archive: CustomArchive | LegacyZip
            if start == MAGIC:
                salt = read_exactly(self._digest, HEADER_SIZE - len(MAGIC))
                recording = Recording(EncryptedReader(self._digest, salt, passphrase))
                self._archive = CustomArchive(recording)
                self._head = recording.stop(self._archive.size)
                self._blocks: Iterable[Block] = self._archive.blocks()
            else:
                self.check()
                self._digest = None
                kept: list[bytes] = []
                self._archive = LegacyZip(
                    self._file, passphrase, lambda name, data: kept.append(data) if name == TOC else None
                )
                self._head = b"".join(kept)
                self._blocks = self._archive.blocks(in_order=True)
        except BaseException:
            self._file.close()
            raise
        self.header: Header = self._archive.header
        self.entries: list[TocEntry] = self._archive.entries

    def __enter__(self) -> RestoreArchive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def restored_ids(self) -> list[int]:
        """Ids of the entries that pg_restore is to make, in their order: what its option ``--use-list`` takes."""
        return [entry.dump_id for entry in self.entries if is_restored(entry)]

    @property
    def extensions(self) -> dict[str, str]:
        """The extensions that the database needs, but plpgsql, which each has: schemas by name."""
        found = {}
        for entry in self.entries:
            if entry.description == "EXTENSION" and entry.tag != "plpgsql":
                match = _EXTENSION.match(entry.definition)
                found[entry.tag] = match["schema"] if match else "public"
        return found

    @property
    def grants(self) -> list[str]:
        """SQL of what the archive grants, to roles that there may not be, an entry each."""
        wanted = [entry.definition for entry in self.entries if entry.description in ("ACL", "DEFAULT ACL")]
        return [sql.strip() for sql in wanted if _GRANT.fullmatch(sql)]

    def pieces(self, sizes: Mapping[int, int] | None = None) -> Iterator[bytes]:
        """The archive without compression, in pieces. It can be read once.

        :param sizes: None for rows as text throughout, which a pg_restore that prints SQL needs. Else the table of files is
            given in the binary format where that can be, and these are those of its large files, see :class:`LargeFiles`
        :raises CentralError: where the file is not what was verified
        """
        size = self._head[INTEGER_SIZE]
        binary = None if sizes is None else conversion(self.entries)
        head = _rewritten(self._head, self.entries, binary)
        if head is None:
            binary, head = None, _rewritten(self._head, self.entries)
        yield head or b""
        frame = Frame(self.entries, size)
        rows: BinaryRows | None = None
        with contextlib.closing(ahead(self._decompressed())) as items:
            for item in items:
                if isinstance(item, Block):
                    yield frame.before(item)
                    if binary is not None and sizes is not None and item.entry is binary.entry:
                        rows = BinaryRows(binary, sizes)
                elif item is None:
                    if rows is not None:
                        rows.finish()
                    rows = None
                    yield frame.end
                elif rows is not None:
                    made = rows.feed(item)
                    if made:
                        yield frame.chunk(sum(map(len, made)))
                        yield from made
                else:
                    yield frame.chunk(len(item))
                    yield item
        yield frame.finish()
        self.check()

    def _decompressed(self) -> Iterator[Block | bytes | None]:
        """Each block, followed by the pieces of its data, and by None where it ends."""
        for block in self._blocks:
            yield block
            engine = decompressor(self.header.compression, block.entry.name, self.header.container != CUSTOM)
            for compressed in block.pieces:
                yield from filter(None, engine.feed(compressed))
            engine.finish()
            yield None

    def check(self) -> None:
        """See that the file that was read is the one that was verified, byte for byte.

        :raises CentralError: ``tampered``
        """
        if self._digest is None:
            return
        self._digest.drain()
        if self._digest.sha256 != self._sha256:
            raise CentralError(
                "tampered",
                f"{self._path} has changed while it was restored. Nothing of it was kept. Find out who writes there.",
            )


class Fed:
    """Pieces as a stream that an operation reads: small ones are put together.

    :param start: what comes before them
    """

    def __init__(self, start: bytes, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._next = start
        #: bytes that were given
        self.size = 0

    def read(self, size: int, /) -> bytes:
        """As :meth:`Readable.read`."""
        gathered = [self._next]
        length = len(self._next)
        self._next = b""
        while length < CHUNK:
            piece = next(self._pieces, None)
            if piece is None:
                break
            gathered.append(piece)
            length += len(piece)
        data = b"".join(gathered)
        if length > size:
            data, self._next = data[:size], data[size:]
        self.size += len(data)
        return data

    def close(self) -> None:
        """Let go of what the pieces hold."""
        # Where whoever was fed is gone, a thread may still be reading.
        with contextlib.suppress(AttributeError, ValueError):
            self._pieces.close()  # type: ignore[attr-defined]


def _rewritten(head: bytes, entries: list[TocEntry], binary: Conversion | None = None) -> bytes | None:
    """Header and table of contents of an archive, in the custom format, without compression and positions.

    :param binary: whose statement takes the place of its entry's; None is returned where that one is not found
    """
    version, size = (head[5], head[6]), head[INTEGER_SIZE]
    none = integer(0, size) if version < (1, 15) else b"\0"
    pieces = [head[:FORMAT], bytes([CUSTOM]), none]
    position = COMPRESSION + len(none)
    for entry in entries:
        begin, end = entry.extra
        fields = head[position:begin]
        if binary is not None and entry is binary.entry:
            old, new = (_string(statement, size) for statement in (entry.copy_statement, binary.statement))
            if fields.count(old) != 1:
                return None
            fields = fields.replace(old, new)
        pieces += (fields, bytes([_NOT_SET if entry.has_data else _NO_DATA]), bytes(head[OFFSET_SIZE]))
        position = end
    pieces.append(head[position:])
    return b"".join(pieces)


def _string(text: str, size: int) -> bytes:
    """A text as archives have it: its length as an integer of `size` bytes, and its bytes."""
    data = text.encode()
    return integer(len(data), size) + data
