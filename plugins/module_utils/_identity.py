# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which Central this is: told by what it runs with, so that a set or a drill is not taken for another's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Optional

from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._postgres_settings import PostgresSettings

_PORT = "5432"


@dataclass(frozen=True)
class Identity:
    """What tells one Central from another."""

    #: DOMAIN
    domain: str
    #: the compose project
    project: str
    #: as ``service`` knows it: ``postgres14``, or another host's name or address
    database_host: str
    database_port: str
    database: str
    #: PostgreSQL's own number of the cluster; None where the server did not answer. A physical copy has the same.
    database_system: Optional[str]

    def as_dict(self) -> dict[str, Any]:
        """The fields, as modules return them."""
        return asdict(self)


def read_identity(channel: Channel, settings: PostgresSettings) -> Identity:
    """The identity of the Central behind a channel.

    :param settings: those of its ``service``
    :raises CentralError: ``docker_unavailable``, ``operation_failed``, ...
    """
    project = channel.run("compose-project").decode("utf-8", "replace").strip().strip("\"'")
    server, given = settings.server, settings.given
    if server is not None:
        return Identity(settings.domain, project, server.host, server.port, server.database, server.identifier)
    # What libpq would take where a variable is not set.
    user = given.get("PGUSER", "")
    host, port, database = given.get("PGHOST", ""), given.get("PGPORT") or _PORT, given.get("PGDATABASE") or user
    return Identity(settings.domain, project, host, port, database, None)
