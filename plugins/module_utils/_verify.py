# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Says whether a backup is whole, and what it holds, in one pass over its bytes, of which two processes may have a part each."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Callable, Optional

from ansible_collections.odkops.central.plugins.module_utils._diagnoses import OK
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, reading_error
from ansible_collections.odkops.central.plugins.module_utils._facts import BlobFact, Facts
from ansible_collections.odkops.central.plugins.module_utils._given_blobs import Given, Rest
from ansible_collections.odkops.central.plugins.module_utils._legacy_zip import Copy
from ansible_collections.odkops.central.plugins.module_utils._opening import (
    ENCRYPTED,
    PLAIN,
    SNIFFED,
    open_archive,
    sniff,
)
from ansible_collections.odkops.central.plugins.module_utils._openssl_enc import HEADER_SIZE, MAGIC, EncryptedReader
from ansible_collections.odkops.central.plugins.module_utils._pgdump_toc import Header
from ansible_collections.odkops.central.plugins.module_utils._streams import Digesting, Readable, Summing, read_exactly
from ansible_collections.odkops.central.plugins.module_utils._walk import Again, read_alone, read_together
from ansible_collections.odkops.central.plugins.module_utils._zlib_stream import WrongDivisionError

DEPTHS = ("passphrase", "full", "pg_restore")

# What damage to a file may look like; where its SHA-256 is known, that it was changed says more.
_DAMAGE = frozenset(
    ("truncated", "corrupt", "blob_mismatch", "wrong_passphrase", "dump_failed", "not_a_central_backup", "keys_missing")
    + ("unsafe_archive", "error_page", "archive_too_new", "archive_too_old", "unsupported_compression")
)


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
    :param again: gives the backup once more, from an offset on, where it is there as a whole and `copy` is not given: parts of it
        are read at once
    :raises CentralError: with the diagnosis of what is wrong; the rest of the stream is not read then
    """
    digest = Digesting(source, copy)
    given = None if on_blob is None else Given(on_blob)
    try:
        return _verify(digest, expected, given, stored, plain, on_facts, alone, again)
    except WrongDivisionError:
        if again is None:
            raise
        # Once more, and in one part; where something is wrong with it that way, too, it says what.
        rest = None if given is None else Rest(given)
        on_facts = on_facts if rest is None else rest.before(on_facts)
        return verify_stream(again(0), expected, rest, None, stored, plain, on_facts)
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
    head = read_exactly(digest, SNIFFED)
    found = sniff(head, digest)
    passphrase = expected.passphrase or ""
    try:
        archive = open_archive(found, head, digest, passphrase, stored, plain)
    except CentralError as error:
        if error.diagnosis != "empty_passphrase" or not expected.allow_unencrypted:
            raise
        passphrase = ""
        archive = open_archive(found, head, digest, passphrase, stored, plain)
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
