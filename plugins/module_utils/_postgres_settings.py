# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which database a Central uses, and what that database and the programs beside it say of themselves.

It is read from the effective environment of ``service``, never assumed: a Central with a database server of its own
leaves the container ``postgres14`` running and unused.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Optional

from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError

#: the service with the database of a Central that has no server of its own
POSTGRES14 = "postgres14"

# A database that does not answer is given up by libpq after 20 seconds for each of its addresses.
_TIMEOUT = 120

_MAJOR = re.compile(r"\(PostgreSQL\) ([0-9]+)")
_PORT = "5432"


@dataclass(frozen=True)
class PostgresServer:
    """What the server says of itself."""

    #: as libpq knows it: a name, an address, or the directory of a socket
    host: str
    port: str
    database: str
    user: str
    #: for example ``14.22``
    version: str
    #: for example 14
    major: int
    #: PostgreSQL's own number of the cluster, the same in all its copies
    identifier: str
    #: bytes of the database on the server's disk
    size: int
    #: the first tables that this user may not read
    unreadable: tuple[str, ...]


@dataclass(frozen=True)
class PostgresSettings:
    """How a Central reaches its database. No password is among it.

    :param given: the variables that are set, by name: ``DOMAIN``, and libpq's own
    :param started: tells one start of the container from another
    :param client: the major version of the ``pg_dump`` there; 0 where there is none
    :param server: None where it does not answer
    :param error: why not
    """

    given: dict[str, str]
    started: str
    client: int
    server: Optional[PostgresServer]
    error: str

    @property
    def domain(self) -> str:
        """The Central's DOMAIN, or empty."""
        return self.given.get("DOMAIN", "")

    @property
    def in_postgres14(self) -> bool:
        """Whether the settings mean the database in the container ``postgres14``."""
        given = self.given
        elsewhere = given.get("PGSERVICE") or given.get("PGHOSTADDR") or given.get("PGPORT", _PORT) not in ("", _PORT)
        named = given.get("PGUSER") and given.get("PGDATABASE")
        return given.get("PGHOST") == POSTGRES14 and not elsewhere and bool(named)

    @property
    def where(self) -> str:
        """The database in a few words, for messages."""
        given = self.given
        if self.server is not None:
            return f"database {self.server.database} at {self.server.host}"
        if given.get("PGSERVICE"):
            return f"database of the service {given['PGSERVICE']}"
        return f"database {given.get('PGDATABASE', '')} at {given.get('PGHOST', '')}"

    def require_server(self) -> PostgresServer:
        """The server, where it answers.

        :raises CentralError: ``database_unreachable``
        """
        if self.server is None:
            raise CentralError(
                "database_unreachable",
                f"The {self.where} does not answer: {self.error}. Look at its log, and at the settings of service.",
            )
        return self.server


def read_settings(channel: Channel, operation: str = "database-check", *arguments: str) -> PostgresSettings:
    """Ask a Central which database it has.

    :param operation: ``database-check`` or another of that kind, see _pg_dump_operations
    :raises CentralError: ``service_not_running``, ``operation_failed``, ...
    """
    return parse_settings(channel.run(operation, *arguments, timeout=_TIMEOUT))


def parse_settings(data: bytes) -> PostgresSettings:
    """Read what the operation ``database-check`` prints: ``name=value``, each with a NUL behind it.

    :raises CentralError: ``operation_failed``
    """
    given: dict[str, str] = {}
    for field in data.decode("utf-8", "replace").split("\0")[:-1]:
        name, _equals, value = field.partition("=")
        given[name] = value
    started = given.pop("started", "")
    client = _MAJOR.search(given.pop("pg_dump", ""))
    answer = given.pop("server", None)
    error = " ".join(given.pop("error", "").split())[:400]
    if answer is None and not error:
        error = "psql cannot be run there"
    server = None if answer is None else _server(answer)
    return PostgresSettings(given, started, int(client[1]) if client else 0, server, error)


def _server(answer: str) -> PostgresServer:
    try:
        found: dict[str, Any] = json.loads(answer)
        return PostgresServer(
            host=str(found["host"]),
            port=str(found["port"]),
            database=str(found["database"]),
            user=str(found["user"]),
            version=str(found["version"]).partition(" ")[0],
            major=int(found["number"]) // 10000,
            identifier=str(found["identifier"]),
            size=int(found["size"]),
            unreadable=tuple(map(str, found["unreadable"] or ())),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CentralError(
            "operation_failed", "What the database says of itself cannot be understood. Report this as a bug."
        ) from error
