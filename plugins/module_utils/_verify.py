# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Says whether a backup is whole, and what it holds, in one pass over its bytes."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Callable, Optional

from ansible_collections.odkops.central.plugins.module_utils._diagnoses import OK
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, reading_error
from ansible_collections.odkops.central.plugins.module_utils._facts import BlobFact, Facts
from ansible_collections.odkops.central.plugins.module_utils._legacy_zip import Copy, LegacyZip
from ansible_collections.odkops.central.plugins.module_utils._openssl_enc import (
    HEADER_SIZE,
    MAGIC,
    EncryptedReader,
    decrypt_prefix,
)
from ansible_collections.odkops.central.plugins.module_utils._pgdump_archive import CustomArchive
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt
from ansible_collections.odkops.central.plugins.module_utils._pgdump_toc import MAGIC as ARCHIVE_MAGIC
from ansible_collections.odkops.central.plugins.module_utils._pgdump_toc import Header
from ansible_collections.odkops.central.plugins.module_utils._streams import (
    Digesting,
    Prefixed,
    Readable,
    Summing,
    read_exactly,
)
from ansible_collections.odkops.central.plugins.module_utils._walk import Again, Archive, read_alone, read_together

#: names of the formats, as results have them
ENCRYPTED = "pgdump.enc"
PLAIN = "pgdump"
ZIP = "zip"

DEPTHS = ("passphrase", "full", "pg_restore")

# What damage to a file may look like; where its SHA-256 is known, that it was changed says more.
_DAMAGE = frozenset(
    ("truncated", "corrupt", "blob_mismatch", "wrong_passphrase", "dump_failed", "not_a_central_backup", "keys_missing")
    + ("unsafe_archive", "error_page", "archive_too_new", "archive_too_old", "unsupported_compression")
)

_ZIP_MAGIC = b"PK\x03\x04"
_SNIFF = 512
_PROBE = 64


@dataclass
class Verification:
    """What is known of a backup that is whole (or, at depth ``passphrase``, that the passphrase opens)."""

    #: ``pgdump.enc``, ``pgdump`` or ``zip``
    format: str
    #: how thoroughly it was looked at
    depth: str
    #: whether a passphrase other than the empty one is needed to read it
    encrypted: bool
    archive_version: str
    server_version: str
    dump_version: str
    compression: str
    #: the dump's own clock and time zone, ``YYYY-MM-DDTHH:MM:SS``
    created: str
    #: name of the database that was dumped
    database: str
    #: bytes; None at depth ``passphrase``
    size: Optional[int] = None
    sha256: Optional[str] = None
    #: rows by table; None at depth ``passphrase``
    tables: Optional[dict[str, int]] = None
    #: see :meth:`Facts.summary`; None at depth ``passphrase``
    central: Optional[dict[str, Any]] = None
    diagnosis: str = field(default=OK)

    def as_dict(self) -> dict[str, Any]:
        """The fields, as modules return them."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class Expectation:
    """What the caller knows of the backup and accepts.

    :param passphrase: None or empty for a backup that was made without one
    :param depth: ``passphrase`` or ``full``; ``pg_restore`` is ``full`` here, and the caller asks pg_restore
    :param sha256: what the SHA-256 of the file must be, or None
    :param known_bad_blobs: ids of blobs whose content is known to be wrong in the live database
    :param allow_unencrypted: be content with the empty passphrase where the given one does not open it
    """

    passphrase: Optional[str] = None
    depth: str = "full"
    sha256: Optional[str] = None
    known_bad_blobs: frozenset[int] = frozenset()
    allow_unencrypted: bool = False


def verify_file(
    path: str,
    expected: Expectation,
    on_blob: Callable[[BlobFact], None] | None = None,
    plain: Copy | None = None,
    on_facts: Callable[[Facts], None] | None = None,
) -> Verification:
    """Verify the backup in the file `path`.

    :param on_blob: called with each row of ``blobs``
    :param on_facts: called with what the rows say, once all is well
    :param plain: called with all that is decrypted, as :func:`verify_stream` does
    :raises CentralError: with the diagnosis of what is wrong
    """
    try:
        file = open(path, "rb", buffering=0)  # pylint: disable=consider-using-with
    except OSError as error:
        raise reading_error(error, path) from error
    with file:
        return verify_stream(
            _FileReader(file, path),
            expected,
            on_blob,
            stored=file,
            plain=plain,
            on_facts=on_facts,
            again=lambda offset: _FileReader(file, path, offset),
        )


class _FileReader:
    """A file whose errors are the engine's.

    :param offset: where to begin, whoever else reads the file; None for where it stands
    """

    def __init__(self, file: Any, path: str, offset: int | None = None) -> None:
        self._file = file
        self._path = path
        self._offset = offset

    def read(self, size: int, /) -> bytes:
        try:
            if self._offset is None:
                data: bytes = self._file.read(size)
            else:
                data = os.pread(self._file.fileno(), size, self._offset)
                self._offset += len(data)
        except OSError as error:
            raise reading_error(error, self._path) from error
        return data


def verify_stream(
    source: Readable,
    expected: Expectation,
    on_blob: Callable[[BlobFact], None] | None = None,
    copy: Callable[[bytes], object] | None = None,
    stored: BinaryIO | None = None,
    plain: Copy | None = None,
    on_facts: Callable[[Facts], None] | None = None,
    alone: bool = False,
    again: Callable[[int], Readable] | None = None,
) -> Verification:
    """Verify a backup while it streams by.

    :param on_blob: called with each row of ``blobs``
    :param copy: called with each piece of the backup as it was read, before it is looked at
    :param stored: the same bytes as a file, once they have been read: a zip begins at its end
    :param plain: called with a file's name and its next piece, for all that is decrypted, before it is looked at: the
        files of a dump in the directory format from a zip, else one file without a name
    :param on_facts: called with what the rows say, once all is well
    :param alone: in this thread, since other processes have work for all cores
    :param again: gives the backup once more, from an offset on, where it is there as a whole: parts of it are read at once
    :raises CentralError: with the diagnosis of what is wrong; the rest of the stream is not read then
    """
    digest = Digesting(source, copy)
    try:
        return _verify(digest, expected, on_blob, stored, plain, on_facts, alone, again)
    except CentralError as error:
        if expected.sha256 is not None and error.diagnosis in _DAMAGE:
            digest.drain()
            check_digest(digest.sha256, expected.sha256, f" What is wrong with it: {error.message}")
        raise


def _verify(
    digest: Digesting,
    expected: Expectation,
    on_blob: Callable[[BlobFact], None] | None,
    stored: BinaryIO | None,
    plain: Copy | None,
    on_facts: Callable[[Facts], None] | None,
    alone: bool,
    again: Callable[[int], Readable] | None,
) -> Verification:
    head = read_exactly(digest, _SNIFF)
    found = _sniff(head, digest)
    passphrase = expected.passphrase or ""
    try:
        archive = _open(found, head, digest, passphrase, stored, plain)
    except CentralError as error:
        if error.diagnosis != "empty_passphrase" or not expected.allow_unencrypted:
            raise
        passphrase = ""
        archive = _open(found, head, digest, passphrase, stored, plain)
    encrypted = bool(passphrase) and found != PLAIN
    result = _describe(found, encrypted, expected.depth, archive.header)
    if expected.depth != "passphrase":
        if alone:
            facts = read_alone(archive, on_blob)
        else:
            # Where all that is decrypted has to be handed on, one reader has to read all of it.
            archive_again = None
            if again is not None and found == ENCRYPTED and plain is None:
                archive_again = _archive_again(again, head, passphrase)
            facts = read_together(archive, digest, _stored_size(stored), on_blob, archive_again)
        facts.check(expected.known_bad_blobs)
        result.size, result.sha256 = digest.size, digest.sha256
        result.tables, result.central = dict(sorted(facts.tables.items())), facts.summary()
        check_digest(result.sha256, expected.sha256)
        if on_facts is not None:
            on_facts(facts)
    if found == PLAIN:
        raise CentralError(
            "unencrypted",
            "The file is a pg_dump archive that is not encrypted. Central does not make such files; "
            "pg_restore reads it directly.",
            **{key: value for key, value in result.as_dict().items() if key != "diagnosis"},
        )
    return result


def _archive_again(again: Callable[[int], Readable], head: bytes, passphrase: str) -> Again:
    """The archive in an encrypted backup once more."""
    salt = head[len(MAGIC) : HEADER_SIZE]

    def read(offset: int) -> tuple[Readable, Summing]:
        stored = Summing(again(HEADER_SIZE + offset), HEADER_SIZE + offset)
        return EncryptedReader(stored, salt, passphrase, offset), stored

    return read


def _stored_size(stored: BinaryIO | None) -> int | None:
    """Bytes of the file that holds the backup, so far; None where there is no file."""
    try:
        return None if stored is None else os.fstat(stored.fileno()).st_size
    except io.UnsupportedOperation:
        return None


def _open(
    found: str, head: bytes, digest: Digesting, passphrase: str, stored: BinaryIO | None, plain: Copy | None
) -> Archive:
    """Open the archive of a backup. Where the passphrase is wrong, nothing but `head` has been read."""
    if found == ZIP:
        if stored is None:
            raise CentralError("unreadable", "A zip file can only be verified as a file. Save it first.")
        digest.drain()
        return LegacyZip(stored, passphrase, plain)
    whole = Prefixed(head, digest)
    if found == ENCRYPTED:
        return _open_encrypted(whole, head, passphrase, plain)
    return CustomArchive(whole)


def check_digest(found: str, expected: str | None, more: str = "") -> None:
    """Compare SHA-256 values.

    :param more: a sentence for the message, with a space in front
    :raises CentralError: ``tampered``
    """
    if expected is not None and found != expected.lower():
        raise CentralError(
            "tampered",
            f"The file is not the one that was recorded: its SHA-256 is {found}, expected {expected.lower()}. "
            f"It was changed or damaged since; use another backup.{more}",
            sha256=found,
        )


def _describe(found: str, encrypted: bool, depth: str, header: Header) -> Verification:
    return Verification(
        format=found,
        depth=depth,
        encrypted=encrypted,
        archive_version=header.version_text,
        server_version=header.server_version,
        dump_version=header.dump_version,
        compression=header.compression,
        created=header.created,
        database=header.database,
    )


def _sniff(head: bytes, digest: Digesting) -> str:
    """What the file is, by its first bytes.

    :raises CentralError: where it is no backup
    """
    if not head:
        raise CentralError("truncated", "The file is empty: nothing of the backup arrived. Make another one.")
    if head.startswith(MAGIC) and len(head) >= HEADER_SIZE:
        if len(head) == HEADER_SIZE:
            raise CentralError(
                "dump_failed",
                "The backup has 16 bytes and no data: pg_dump failed at once on the server. Look at the log of the "
                "service container (docker compose logs service).",
            )
        return ENCRYPTED
    if head.startswith(ARCHIVE_MAGIC):
        return PLAIN
    if head.startswith(_ZIP_MAGIC):
        return ZIP
    if head.lstrip()[:1] in (b"<", b"{"):
        text = head.decode("utf-8", "replace").strip().splitlines()[0][:120]
        raise CentralError(
            "error_page",
            f"The file is not a backup but an error message that was saved as one; it begins with: {text}",
        )
    begun = head[: len(MAGIC)] == MAGIC[: len(head)]
    if begun or _nearly(head[: len(MAGIC)], MAGIC):
        raise (
            CentralError("truncated", f"The file is cut short after {len(head)} bytes, inside its first header.")
            if begun
            else corrupt("its first bytes are nearly, but not quite, those of a backup")
        )
    raise CentralError(
        "not_a_central_backup",
        "The file does not begin as any backup of Central does (openssl calls it 'bad magic number'). Check the path.",
    )


def _nearly(found: bytes, wanted: bytes) -> bool:
    """Whether a few bits at most are other than they should be."""
    if len(found) < len(wanted):
        return False
    return sum(bin(a ^ b).count("1") for a, b in zip(found, wanted)) <= 4


def _open_encrypted(source: Readable, head: bytes, passphrase: str, plain: Copy | None) -> CustomArchive:
    """Find out whether the passphrase opens the archive, and read its header and table of contents."""
    salt, probe = head[len(MAGIC) : HEADER_SIZE], head[HEADER_SIZE : HEADER_SIZE + _PROBE]
    start = decrypt_prefix(salt, probe, passphrase)
    if not start.startswith(ARCHIVE_MAGIC):
        _explain_passphrase(salt, probe, start, passphrase)
    read_exactly(source, HEADER_SIZE)
    decrypted: Readable = EncryptedReader(source, salt, passphrase)
    return CustomArchive(decrypted if plain is None else _Copied(decrypted, plain))


class _Copied:
    """Passes a stream on, and hands each piece to `copy` first."""

    def __init__(self, source: Readable, copy: Copy) -> None:
        self._source = source
        self._copy = copy

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        if data:
            self._copy("", data)
        return data


def _explain_passphrase(salt: bytes, probe: bytes, plain: bytes, passphrase: str) -> None:
    if len(plain) < len(ARCHIVE_MAGIC):
        raise CentralError(
            "truncated", f"The file is cut short after {HEADER_SIZE + len(probe)} bytes, inside its first header."
        )
    if _nearly(plain[: len(ARCHIVE_MAGIC)], ARCHIVE_MAGIC) and plain[: len(ARCHIVE_MAGIC)] != ARCHIVE_MAGIC:
        raise corrupt("the passphrase is right, but the first bytes of the archive are not")
    if not passphrase:
        raise CentralError(
            "wrong_passphrase",
            "The backup is encrypted with a passphrase, and none was given. Give passphrase or passphrase_file.",
        )
    if decrypt_prefix(salt, probe, "").startswith(ARCHIVE_MAGIC):
        raise CentralError(
            "empty_passphrase",
            "The backup is encrypted with the empty passphrase and not with the given one, so anybody can read it. "
            "Verify it without a passphrase if that is meant.",
        )
    raise CentralError(
        "wrong_passphrase",
        "The passphrase does not open the backup. Give the one that was used when it was made "
        "(damage to the file's first 16 bytes would look the same).",
    )
