# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Direct Backup, downloaded and verified in one pass: it gets its name only when it is whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._api import Client, Credentials
from ansible_collections.odkops.central.plugins.module_utils._api_url import Transport
from ansible_collections.odkops.central.plugins.module_utils._atomic import AtomicFile
from ansible_collections.odkops.central.plugins.module_utils._backup_terms import Stopwatch, Terms
from ansible_collections.odkops.central.plugins.module_utils._destination import ZIP_SUFFIX, Destination
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._rate_limit import limited
from ansible_collections.odkops.central.plugins.module_utils._verify import verify_stream


@dataclass(frozen=True)
class Request:
    """What is to be downloaded, from where, and how it is to be kept."""

    transport: Transport
    credentials: Credentials
    terms: Terms


def rehearse(request: Request) -> dict[str, Any]:
    """Check everything that :func:`download` needs, and make no backup: log-in, right, destination, space, passphrase.

    :returns: ``free`` (bytes), ``warnings`` (list)
    :raises CentralError: with the diagnosis of what is wrong
    """
    request.terms.check()
    free = Destination(request.terms.dest).check(request.terms.expected_size)
    with _client(request) as client:
        client.check_right()
    return {"free": free, "warnings": client.warnings}


def download(request: Request) -> dict[str, Any]:
    """Download a Direct Backup, verify it while it streams, and keep it if it is whole.

    :returns: the fields of :class:`Verification`, and ``path``, ``started_at`` and ``finished_at`` (UTC, ISO 8601),
        ``elapsed`` (seconds), ``warnings`` (list)
    :raises CentralError: with the diagnosis of what is wrong; nothing is left at the destination then
    """
    request.terms.check()
    destination = Destination(request.terms.dest)
    destination.check(request.terms.expected_size)
    with _client(request) as client:
        try:
            destination.make()
            found = _fetch(client, request.terms, destination)
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


def _fetch(client: Client, terms: Terms, destination: Destination) -> dict[str, Any]:
    watch = Stopwatch()
    with client.backup(terms.passphrase) as incoming:
        path = destination.path(incoming.disposition, watch.name)
        with _warning_of_leftovers(client, path), AtomicFile(path) as file:
            source = limited(incoming, terms.rate_limit)
            found = verify_stream(source, terms.expectation, copy=file.write, stored=file.file)
            file.commit()
    return {**found.as_dict(), "path": path, **watch.stop()}


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
