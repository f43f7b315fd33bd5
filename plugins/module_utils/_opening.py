# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a file is by its first bytes, and the archive in it: whether the passphrase opens it is known before more is read."""

from __future__ import annotations

from typing import BinaryIO, Union

from ansible_collections.odkops.central.plugins.module_utils._errors import (
    CentralError,
    empty_passphrase_error,
    passphrase_needed_error,
)
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
from ansible_collections.odkops.central.plugins.module_utils._streams import (
    Digesting,
    Prefixed,
    Readable,
    read_exactly,
)

Archive = Union[CustomArchive, LegacyZip]

#: names of the formats, as results have them
ENCRYPTED = "pgdump.enc"
PLAIN = "pgdump"
ZIP = "zip"

#: so many first bytes tell what a file is
SNIFFED = 512

_ZIP_MAGIC = b"PK\x03\x04"
_PROBE = 64


def open_archive(
    found: str, head: bytes, digest: Digesting, passphrase: str, stored: BinaryIO | None, plain: Copy | None
) -> Archive:
    """Open the archive of a backup. Where the passphrase is wrong, nothing but `head` has been read.

    :param found: what :func:`sniff` says
    :param head: its first :data:`SNIFFED` bytes, which `digest` has given already
    :param stored: the same bytes as a file, for a zip
    :param plain: called with all that is decrypted
    :raises CentralError: with the diagnosis of what is wrong
    """
    if found == ZIP:
        if stored is None:
            raise CentralError("unreadable", "A zip file can only be verified as a file. Save it first.")
        digest.drain()
        return LegacyZip(stored, passphrase, plain)
    whole = Prefixed(head, digest)
    if found == ENCRYPTED:
        return _open_encrypted(whole, head, passphrase, plain)
    return CustomArchive(whole)


def sniff(head: bytes, digest: Digesting) -> str:
    """What the file is, by its first bytes: :data:`ENCRYPTED`, :data:`PLAIN` or :data:`ZIP`.

    :param head: so many of them as :data:`SNIFFED` says, or all
    :param digest: what they were read from
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
        raise passphrase_needed_error()
    if decrypt_prefix(salt, probe, "").startswith(ARCHIVE_MAGIC):
        raise empty_passphrase_error()
    raise CentralError(
        "wrong_passphrase",
        "The passphrase does not open the backup. Give the one that was used when it was made "
        "(damage to the file's first 16 bytes would look the same).",
    )
