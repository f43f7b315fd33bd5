# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Direct Backup, downloaded and verified in one pass: it gets its name only when it is whole."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Optional

from ansible_collections.odkops.central.plugins.module_utils._api import Client, Credentials
from ansible_collections.odkops.central.plugins.module_utils._api_url import Transport
from ansible_collections.odkops.central.plugins.module_utils._atomic import AtomicFile
from ansible_collections.odkops.central.plugins.module_utils._destination import ZIP_SUFFIX, Destination
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._passphrase import check_strength
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, verify_stream


@dataclass(frozen=True)
class Request:
    """What is to be downloaded, from where, to where.

    :param passphrase: None for a backup that anybody can read
    :param expected_size: bytes that the backup will need, or None for the size of the last one in the directory
    :param known_bad_blobs: ids of blobs whose content is known to be wrong in the live database
    """

    transport: Transport
    credentials: Credentials
    dest: str
    passphrase: Optional[str]
    allow_unencrypted: bool = False
    allow_weak_passphrase: bool = False
    expected_size: Optional[int] = None
    known_bad_blobs: frozenset[int] = frozenset()

    def check(self) -> None:
        """See whether the passphrase may be used.

        :raises CentralError: ``no_passphrase``, ``weak_passphrase``
        """
        if self.passphrase:
            check_strength(self.passphrase, self.allow_weak_passphrase)
        elif not self.allow_unencrypted:
            raise CentralError(
                "no_passphrase",
                "No passphrase was given, so anybody who finds the backup could read it. Give passphrase or "
                "passphrase_file, or allow_unencrypted=true to do without.",
            )


def rehearse(request: Request) -> dict[str, Any]:
    """Check everything that :func:`download` needs, and make no backup: log-in, right, destination, space, passphrase.

    :returns: ``free`` (bytes), ``warnings`` (list)
    :raises CentralError: with the diagnosis of what is wrong
    """
    request.check()
    free = Destination(request.dest).check(request.expected_size)
    with _client(request) as client:
        client.check_right()
    return {"free": free, "warnings": client.warnings}


def download(request: Request) -> dict[str, Any]:
    """Download a Direct Backup, verify it while it streams, and keep it if it is whole.

    :returns: the fields of :class:`Verification`, and ``path``, ``started_at`` and ``finished_at`` (UTC, ISO 8601),
        ``elapsed`` (seconds), ``warnings`` (list)
    :raises CentralError: with the diagnosis of what is wrong; nothing is left at the destination then
    """
    request.check()
    destination = Destination(request.dest)
    destination.check(request.expected_size)
    with _client(request) as client:
        try:
            destination.make()
            found = _fetch(client, request, destination)
        except BaseException:
            destination.unmake()
            raise
    return {**found, "warnings": client.warnings}


@contextlib.contextmanager
def _client(request: Request) -> Iterator[Client]:
    """A client whose warnings reach the administrator although all else has failed."""
    client = Client(request.transport, request.credentials)
    try:
        with client:
            yield client
    except CentralError as error:
        error.details["warnings"] = client.warnings
        raise


def _fetch(client: Client, request: Request, destination: Destination) -> dict[str, Any]:
    expected = Expectation(
        passphrase=request.passphrase,
        known_bad_blobs=request.known_bad_blobs,
        allow_unencrypted=request.allow_unencrypted,
    )
    started, clock = _now(), time.monotonic()
    with client.backup(request.passphrase) as incoming:
        path = destination.path(
            incoming.disposition, f"central-backup-{started:%Y-%m-%dT%H-%M-%S}.{_milliseconds(started)}Z"
        )
        with _warning_of_leftovers(client, path), AtomicFile(path) as file:
            found = verify_stream(incoming, expected, copy=file.write, stored=file.file)
            file.commit()
    return {
        **found.as_dict(),
        "path": path,
        "started_at": _iso(started),
        "finished_at": _iso(_now()),
        "elapsed": round(time.monotonic() - clock, 3),
    }


@contextlib.contextmanager
def _warning_of_leftovers(client: Client, path: str) -> Iterator[None]:
    try:
        yield
    except CentralError:
        if path.endswith(ZIP_SUFFIX):
            client.warnings.append(
                "This Central is older than v2026.2 and dumps its database, unencrypted, into /tmp of the service container "
                "first. A backup that is broken off leaves it there: look for /tmp/tmp-* in that container and remove it."
            )
        raise


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _milliseconds(moment: datetime) -> str:
    return f"{moment.microsecond // 1000:03d}"


def _iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{_milliseconds(moment)}Z"
