# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restoring into the very database that a Central has: its objects are replaced in one transaction, or by Central's own tool.

There is no old database to go back to afterwards: the way back is the backup that was made just before.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

from ansible_collections.odkops.central.plugins.module_utils import _replace_operations as operations
from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, reading_error
from ansible_collections.odkops.central.plugins.module_utils._openssl_enc import (
    HEADER_SIZE,
    MAGIC,
    EncryptedReader,
    EncryptedWriter,
)
from ansible_collections.odkops.central.plugins.module_utils._restore_archive import Fed, RestoreArchive
from ansible_collections.odkops.central.plugins.module_utils._restore_target import Target, extension_words
from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK

_LONG = 24 * 3600.0


def replace_in_place(
    target: Target, tag: str, archive: RestoreArchive, rows: dict[str, int], end_sessions: bool
) -> int:
    """Replace all that Central's user owns in its database by what the archive has, in one transaction.

    :param rows: what each table must have in the end, or nothing is changed
    :returns: how many sessions of users were ended
    :raises CentralError: ``restore_failed``; nothing is changed then, but where the connection broke at the commit itself
        (see :func:`is_marked`)
    """
    ids = " ".join(map(str, archive.restored_ids))
    start = target.lines + f"{ids}\n{json.dumps(rows)}\n".encode()
    source = Fed(start, archive.pieces())
    name, before = target.named(operations.REPLACE)
    arguments = (tag, target.database, extension_words(archive.extensions), "true" if end_sessions else "false")
    output = b""
    try:
        with target.channel.stream(name, *before, *arguments, stdin=source, idle_timeout=_LONG) as stream:
            while data := stream.read(CHUNK):
                output += data
    except CentralError as error:
        raise _failed(error) from error
    finally:
        source.close()
    return int(output.strip() or 0)


def replace_by_central(channel: Channel, tag: str, path: str, passphrase: str | None) -> None:
    """Let Central's own restore.js do it. It gets the backup under a passphrase that nobody else has ever seen.

    :raises CentralError: ``restore_failed``; the database may be anything then, and has to be put back
    """
    once = secrets.token_hex(32)
    source = Fed(b"", _encrypted_anew(path, passphrase or "", once))
    try:
        with channel.stream(operations.CENTRALS_OWN, tag, once, stdin=source, idle_timeout=_LONG) as stream:
            while stream.read(CHUNK):
                pass
    except CentralError as error:
        raise _failed(error) from error
    finally:
        source.close()


def _encrypted_anew(path: str, passphrase: str, once: str) -> Iterator[bytes]:
    try:
        file = open(path, "rb")  # pylint: disable=consider-using-with
    except OSError as error:
        raise reading_error(error, path) from error
    with file:
        head = file.read(HEADER_SIZE)
        reader = EncryptedReader(file, head[len(MAGIC) :], passphrase)
        writer = EncryptedWriter(once)
        yield writer.header()
        while data := reader.read(CHUNK):
            yield writer.update(data)


def end_sessions_of_users(target: Target, tag: str) -> int:
    """End the sessions of users, and of nobody else.

    :returns: how many
    """
    return int(target.call(operations.SESSIONS, tag, target.database).strip() or 0)


def is_marked(target: Target, tag: str) -> bool:
    """Whether the transaction of a run was committed."""
    return target.call(operations.MARK, tag, target.database).strip() == f"odkops {tag}"


def unmark(target: Target, tag: str) -> None:
    """Remove what tells that, and make statistics."""
    target.call(operations.UNMARK, tag, target.database, timeout=_LONG)


def _failed(error: CentralError) -> CentralError:
    if error.diagnosis != "operation_failed":
        return error
    code = "central_disk_full" if "No space left" in error.message else "restore_failed"
    return CentralError(code, f"The backup could not be loaded into the database. {error.message}")
