# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Direct Backup without Central's API: pg_dump at the Central, compressed, encrypted and verified here while it streams.

pg_dump does not compress, which is what takes most of its time. What is written is what the API of Central v2026.2 sends.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._atomic import AtomicFile
from ansible_collections.odkops.central.plugins.module_utils._backup_terms import Stopwatch, Terms
from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._destination import Destination
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, writing_error
from ansible_collections.odkops.central.plugins.module_utils._following import Following
from ansible_collections.odkops.central.plugins.module_utils._identity import read_identity
from ansible_collections.odkops.central.plugins.module_utils._openssl_enc import EncryptedWriter
from ansible_collections.odkops.central.plugins.module_utils._pg_dump_operations import SESSION_PREFIX
from ansible_collections.odkops.central.plugins.module_utils._pg_dump_place import SERVICE, Place, find_place, stopped
from ansible_collections.odkops.central.plugins.module_utils._pgdump_recompress import recompress
from ansible_collections.odkops.central.plugins.module_utils._pipeline import Worker
from ansible_collections.odkops.central.plugins.module_utils._rate_limit import limited
from ansible_collections.odkops.central.plugins.module_utils._streams import Readable
from ansible_collections.odkops.central.plugins.module_utils._verify import Verification, verify_stream

#: the range of nice(1) that gives way
NICENESS = range(20)
LONGEST_WAIT = 86400.0

# bytes of the file
_SYNC_EVERY = 64 * 1024 * 1024


@dataclass(frozen=True)
class DumpOptions:
    """How gently the database is dumped.

    :param lock_wait_timeout: seconds that pg_dump waits for each lock; 0 for no limit
    :param read_timeout: seconds without a byte, beside those, until it is given up
    :param nice: of pg_dump, 0 to 19. The server's own process is not its child, and is not affected
    """

    lock_wait_timeout: float = 300
    read_timeout: float = 300
    nice: int = 0

    def check(self) -> None:
        """See whether the options have values that can be.

        :raises CentralError: ``bad_option``
        """
        if self.nice not in NICENESS:
            raise CentralError("bad_option", f"nice is {self.nice}: give a number from 0 to 19.")
        if not 0 <= self.lock_wait_timeout <= LONGEST_WAIT:
            raise CentralError(
                "bad_option",
                f"lock_wait_timeout is {self.lock_wait_timeout:g}: give seconds, at most {LONGEST_WAIT:g}; 0 waits for ever.",
            )

    @property
    def idle_timeout(self) -> float:
        """Seconds without a byte until the dump is given up. Before its first byte it waits for its locks."""
        return self.read_timeout + (self.lock_wait_timeout or LONGEST_WAIT)


def rehearse_dump(channel: Channel, terms: Terms, options: DumpOptions) -> dict[str, Any]:
    """Check everything that :func:`dump` needs, and make no backup: passphrase, destination, space, database, rights.

    :returns: ``free`` (bytes), ``dumped_in``, ``identity``, ``warnings`` (list)
    :raises CentralError: with the diagnosis of what is wrong
    """
    terms.check()
    options.check()
    free = Destination(terms.dest).check(terms.expected_size)
    place = find_place(channel)
    if place.server.unreadable:
        raise CentralError(
            "dump_failed",
            f"The database user {place.server.user} may not read all of the {place.settings.where}: "
            f"{', '.join(place.server.unreadable)}. Make that user the owner, or grant it the right.",
        )
    return {"free": free, **_described(channel, place)}


def dump(channel: Channel, terms: Terms, options: DumpOptions) -> dict[str, Any]:
    """Dump the database, verify the backup while it streams, and keep it if it is whole.

    :returns: the fields of :class:`Verification`, and ``path``, ``started_at`` and ``finished_at`` (UTC, ISO 8601),
        ``elapsed`` (seconds), ``dumped_in``, ``identity``, ``warnings`` (list)
    :raises CentralError: with the diagnosis of what is wrong; nothing is left at the destination then
    """
    terms.check()
    options.check()
    destination = Destination(terms.dest)
    destination.check(terms.expected_size)
    watch = Stopwatch()
    place = find_place(channel)
    described = _described(channel, place)
    path = destination.path("", watch.name)
    try:
        destination.make()
        try:
            found = _stream(channel, place, terms, options, path)
        except CentralError as error:
            # A service that starts again and again runs now and then.
            if place.name != SERVICE or not stopped(error):
                raise
            again = find_place(channel, place)
            if again.name == SERVICE:
                raise
            place, described = again, _described(channel, again)
            found = _stream(channel, place, terms, options, path)
    except BaseException:
        destination.unmake()
        raise
    return {**found.as_dict(), "path": path, **watch.stop(), **described}


def _described(channel: Channel, place: Place) -> dict[str, Any]:
    identity = read_identity(channel, place.settings)
    return {"dumped_in": place.name, "identity": identity.as_dict(), "warnings": place.warnings}


def _stream(channel: Channel, place: Place, terms: Terms, options: DumpOptions, path: str) -> Verification:
    session = SESSION_PREFIX + ("" if place.name == SERVICE else "once-") + secrets.token_hex(8)
    milliseconds = str(round(options.lock_wait_timeout * 1000))
    arguments = (*place.arguments, session, milliseconds, str(options.nice))
    writer = EncryptedWriter(terms.passphrase or "")

    def verify(stream: Readable) -> Verification:
        return verify_stream(stream, terms.expectation, alone=True)

    with AtomicFile(path) as file:
        size = file.write(writer.header())
        try:
            # This process reads, compresses, encrypts and writes, and is the one that a signal ends. Another one verifies.
            with (
                Following(verify, file.file.fileno(), path) as following,
                _syncing(file) as syncing,
                channel.stream(place.operation, *arguments, idle_timeout=options.idle_timeout) as output,
            ):
                synced = 0
                for piece in recompress(limited(output, terms.rate_limit)):
                    size += file.write(writer.update(piece))
                    following.grown(size)
                    if size - synced >= _SYNC_EVERY:
                        syncing.put(size)
                        synced = size
                syncing.finish()
                found = following.finish()
        except CentralError as error:
            raise _explained(error, place, options) from error
        if found.size != size:
            raise AssertionError(f"{found.size} bytes were verified, and {size} were written")
        file.commit()
    return found


def _syncing(file: AtomicFile) -> Worker[int]:
    """Lets the disk have what was written so far, beside all else: at the end there is little left to wait for."""

    def sync(_size: int) -> None:
        try:
            os.fdatasync(file.file.fileno())
        except OSError as error:
            raise writing_error(error, file.final) from error

    return Worker(sync, depth=1)


def _explained(error: CentralError, place: Place, options: DumpOptions) -> CentralError:
    """What the end of the operation means for the backup."""
    if error.diagnosis != "operation_failed" or error.details.get("operation") != place.operation:
        return error
    said = error.message
    if "LOCK TABLE" in said and "timeout" in said:
        return CentralError(
            "table_locked",
            f"A table of the {place.settings.where} was locked for longer than lock_wait_timeout, "
            f"{options.lock_wait_timeout:g} seconds. See in pg_locks who holds it, and try again, or wait longer. {said}",
            **error.details,
        )
    return CentralError("dump_failed", f"pg_dump of the {place.settings.where} failed. {said}", **error.details)
