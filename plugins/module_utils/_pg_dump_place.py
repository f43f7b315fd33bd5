# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a Central's database can be dumped: in ``service``, and where that cannot do it, beside it."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._postgres_settings import (
    POSTGRES14,
    PostgresServer,
    PostgresSettings,
    read_settings,
)

SERVICE = "service"
#: a container of its own, made from ``service``
ONCE = "service-once"

# What a process ends with that is killed, as all are when their container stops: 128 and the signal.
_KILLED = (137, 143)


@dataclass(frozen=True)
class Place:
    """Where pg_dump runs.

    :param name: :data:`SERVICE`, :data:`ONCE` or :data:`POSTGRES14`
    :param operation: the operation that dumps there
    :param arguments: what it takes in front of its other arguments
    :param settings: those of ``service``
    :param server: what the database says of itself
    :param why_not_service: in a few words, or empty
    """

    name: str
    operation: str
    arguments: tuple[str, ...]
    settings: PostgresSettings
    server: PostgresServer
    why_not_service: str = ""

    @property
    def warnings(self) -> list[str]:
        """What an administrator should know who did not choose this place."""
        if not self.why_not_service:
            return []
        how = "of the service" if self.name == ONCE else "of postgres14"
        return [
            f"The database was dumped in a container of its own, from the image {how}, since {self.why_not_service}."
        ]


def find_place(channel: Channel, failed: Place | None = None) -> Place:
    """Where the database can be dumped.

    :param failed: the place whose dump was killed; ``service`` is good for another one unless it has been started anew
    :raises CentralError: ``database_unreachable``, ``no_pg_dump``, and what the channel raises
    """
    try:
        settings = read_settings(channel)
    except CentralError as error:
        if not stopped(error):
            raise
        return _without_service(channel, "service does not run")
    if failed is not None and settings.started != failed.settings.started:
        return _without_service(channel, "service does not stay up")
    unfit = _unfit(settings)
    if not unfit:
        return Place(SERVICE, "pg-dump", (), settings, settings.require_server())
    return _beside(channel, settings, unfit)


def stopped(error: CentralError) -> bool:
    """Whether an error comes from a container that does not run, or may come from one that was stopped meanwhile."""
    return error.diagnosis == "service_not_running" or error.details.get("exit_status") in _KILLED


def _without_service(channel: Channel, why: str) -> Place:
    """Where ``service`` does not run: a container that is made like it.

    Not where it has never been made. Docker Compose would make networks and volumes of whatever project it is told.
    """
    if not channel.run("service-container").strip():
        raise CentralError(
            "service_not_running",
            "The service of the Central does not run, and there is no container of it. Check project_directory, project and "
            "compose_files, or start it (docker compose up -d).",
        )
    settings = read_settings(channel, "database-check-once")
    unfit = _unfit(settings)
    if not unfit:
        return Place(ONCE, "pg-dump-once", (), settings, settings.require_server(), why)
    return _beside(channel, settings, unfit)


def _unfit(settings: PostgresSettings) -> str:
    """Why the pg_dump beside these settings cannot dump the database, or empty."""
    if not settings.client:
        return "service has no pg_dump"
    if settings.server is not None and settings.client < settings.server.major:
        return f"the pg_dump of service ({settings.client}) is older than the server ({settings.server.major})"
    return ""


def _beside(channel: Channel, settings: PostgresSettings, why: str) -> Place:
    """By the programs of ``postgres14``, where that has the database that the settings mean."""
    if not settings.in_postgres14:
        raise _no_pg_dump(settings, why)
    arguments = (settings.given["PGUSER"], settings.given["PGDATABASE"])
    there = read_settings(channel, "database-check-postgres14", *arguments)
    server = there.require_server()
    if settings.server is not None and settings.server.identifier != server.identifier:
        raise _no_pg_dump(settings, f"{why}, and the database in {POSTGRES14} is another one")
    if there.client < server.major:
        raise _no_pg_dump(settings, f"{why}, and {POSTGRES14} has none that is good for it")
    return Place(POSTGRES14, "pg-dump-postgres14", arguments, settings, server, why)


def _no_pg_dump(settings: PostgresSettings, why: str) -> CentralError:
    return CentralError(
        "no_pg_dump",
        f"No pg_dump at the Central can dump the {settings.where}: {why}. "
        "Install the PostgreSQL client of the server's version in the image of service.",
    )
