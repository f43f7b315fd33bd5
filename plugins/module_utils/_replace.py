# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restoring into the very database that a Central has: its objects are replaced in one transaction, or by Central's own tool.

There is no old database to go back to afterwards: the way back is the backup that was made just before.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterable, Iterator

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
from ansible_collections.odkops.central.plugins.module_utils._restore_target import (
    Target,
    extension_words,
    loading_error,
)
from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK

_LONG = 24 * 3600.0


def replace_in_place(
    target: Target, tag: str, archive: RestoreArchive, rows: dict[str, int], end_sessions: bool
) -> int:
    """Replace all that Central's user owns in its database by what the archive has, in one transaction.

    :param rows: what each table must have in the end, or nothing is changed
    :returns: how many sessions of users were ended
    :raises CentralError: ``restore_failed``; nothing is changed then, but where the connection broke at the commit itself
        (see :func:`is_marked`, which tells)
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
        raise loading_error(error) from error
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
        raise loading_error(error) from error
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


def mark(target: Target, tag: str) -> None:
    """Leave a mark in the database. It is gone when everything in it has been replaced by somebody who does not know it."""
    target.call(operations.MARK, tag, target.database)


def is_marked(target: Target, tag: str) -> bool:
    """Whether the mark of a run is in the database. Ends whoever might still be about to change that."""
    return target.call(operations.MARKED, tag, target.database).strip() == f"odkops {tag}"


def unmark(target: Target, tag: str) -> None:
    """Remove the mark, and make statistics."""
    target.call(operations.UNMARK, tag, target.database, timeout=_LONG)


def grant(target: Target, tag: str, grants: Iterable[str]) -> list[str]:
    """As :meth:`Target.grant`, in Central's own database."""
    text = "\n".join(grants)
    return target.call(operations.GRANT, tag, target.database, data=f"{text}\n".encode()).splitlines() if text else []


def require_replaceable(target: Target, tag: str, tables: Collection[str], centrals_own: bool) -> None:
    """See whether Central's user can replace what is in its database.

    :param tables: those of the backup, with their schemas
    :param centrals_own: by Central's own restore.js, which drops all that the user owns
    :raises CentralError: ``restore_impossible``
    """
    found = json.loads(target.call(operations.CHECK, tag, target.database))
    who = found["user"]
    if not found["creates"]:
        raise _impossible(f"{who} may not make tables in the schema public. Grant it CREATE there.")
    in_the_way = sorted(set(found["foreign"] or ()) & set(tables))
    if in_the_way:
        raise _impossible(f"{in_the_way[0]} belongs to somebody else than {who}. Make {who} its owner.")
    if not centrals_own:
        return
    if target.channel.run(operations.CENTRALS_OWN_THERE).strip() != b"yes":
        raise _impossible(
            "the Central there has no restore.js that reads this format: v2026.2 is the first. Use in_place."
        )
    if found["bootstrap"]:
        raise _impossible(
            f"{who} is the user that the database server was made with, and PostgreSQL does not let restore.js drop what that "
            "one owns. Use swap."
        )
    if found["extensions"]:
        raise _impossible(
            f"restore.js fails where extensions ({', '.join(found['extensions'])}) are not {who}'s own. Use in_place."
        )


def _impossible(why: str) -> CentralError:
    return CentralError(
        "restore_impossible", f"The database cannot be replaced where it is: {why} Nothing was changed."
    )
