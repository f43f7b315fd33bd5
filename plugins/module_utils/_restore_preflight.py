# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is looked at before a restore: all that would make it fail is found while nothing has been touched."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pgdump_toc import Version
from ansible_collections.odkops.central.plugins.module_utils._restore_target import SETS_TRANSACTION_TIMEOUT, Survey

# The oldest pg_restore that reads a version of the archive.
_READS: dict[Version, int] = {(1, 15): 16, (1, 16): 17}

# What the server writes beside a database while it is loaded, in bytes.
_WAL = 512 * 1024 * 1024


@dataclass(frozen=True)
class Backup:
    """What the preflight has to know of a backup that has been verified.

    :param path: of its file
    :param size: of its file, in bytes
    :param archive: version of the archive
    :param migrations: that the dumped database had had
    :param extensions: that it needs: schemas by name
    """

    path: str
    size: int
    archive: Version
    migrations: tuple[str, ...]
    extensions: dict[str, str]


def require_confirmation(survey: Survey, confirm_domain: str) -> None:
    """See whether the one who asks knows which Central would be replaced.

    :raises CentralError: ``wrong_confirmation``
    """
    domain = survey.identity.domain
    if confirm_domain.lower() != domain.lower() or not domain:
        raise CentralError(
            "wrong_confirmation",
            f"confirm_domain is {confirm_domain!r}, and the Central there has the DOMAIN {domain!r}. Nothing was changed. Type "
            "the DOMAIN of the Central whose database is to be replaced.",
        )


def require_known_migrations(survey: Survey, backup: Backup) -> None:
    """See whether the Central there knows all that the backup's database has had. An older backup is migrated by it.

    :raises CentralError: ``newer_central``
    """
    known = survey.known if survey.known is not None else survey.migrations
    strange = sorted(set(backup.migrations) - set(known))
    if strange:
        raise CentralError(
            "newer_central",
            f"The backup is of a newer Central than the one there: its database has had {len(strange)} migration(s) that "
            f"this one does not know, such as {strange[-1]}. Update Central first, at least to the version of the backup. "
            "Nothing was changed.",
            unknown_migrations=strange[:50],
        )


def require_programs(survey: Survey, backup: Backup) -> None:
    """See whether psql and pg_restore there are a pair, and read the archive.

    :raises CentralError: ``restore_impossible``, ``archive_too_new``
    """
    if not survey.pg_restore[0] or not survey.psql[0]:
        raise CentralError(
            "restore_impossible",
            f"There is no {'psql' if survey.pg_restore[0] else 'pg_restore'} in the image of {survey.place.name}. Install the "
            "PostgreSQL client of the server's version there.",
        )
    if survey.pg_restore != survey.psql:
        found = [
            f"{name} {version[0]}.{version[1]}"
            for name, version in zip(("pg_restore", "psql"), (survey.pg_restore, survey.psql))
        ]
        raise CentralError(
            "restore_impossible",
            f"{' and '.join(found)} in the image of {survey.place.name} are no pair. Install one version of the PostgreSQL "
            "client.",
        )
    if survey.pg_restore[0] >= SETS_TRANSACTION_TIMEOUT > survey.major:
        raise CentralError(
            "restore_impossible",
            f"The pg_restore in the image of {survey.place.name} is {survey.pg_restore[0]}, and the server {survey.major}: "
            "it sets what that server does not know. Install the PostgreSQL client of the server's version there.",
        )
    needed = _READS.get(backup.archive, 0)
    if survey.pg_restore[0] < needed:
        raise CentralError(
            "archive_too_new",
            f"The backup was made by pg_dump {needed} or later, and the pg_restore there is {survey.pg_restore[0]}: it does not "
            f"read archives of version {backup.archive[0]}.{backup.archive[1]}. Install the PostgreSQL client {needed} in the "
            "image of service. Nothing was changed.",
        )


def require_rights(survey: Survey) -> None:
    """See whether a second database can be made and renamed.

    :raises CentralError: ``restore_impossible``
    """
    who = survey.administrator
    if not (who["superuser"] or who["createdb"]):
        raise CentralError(
            "restore_impossible",
            f"The database user {who['user']} may not create databases, which the strategy swap needs. Give maintenance_user and "
            "maintenance_password of one who may, or strategy=in_place. Nothing was changed.",
        )


def require_extensions(survey: Survey, backup: Backup, beside: bool) -> None:
    """See whether all extensions that the backup needs are there, or can be made.

    :param beside: in a new database, which has none yet
    :raises CentralError: ``restore_impossible``
    """
    available = survey.database["available"] or {}
    needed = set(backup.extensions) - (set() if beside else set(survey.database["extensions"] or ()))
    missing = sorted(needed - set(available))
    if missing:
        raise CentralError(
            "restore_impossible",
            f"The backup needs the PostgreSQL extension(s) {', '.join(missing)}, which the server does not have. Install "
            "postgresql-contrib of the server's version. Nothing was changed.",
        )
    forbidden = [name for name in sorted(needed) if not available[name]]
    if forbidden and not survey.administrator["superuser"]:
        raise CentralError(
            "restore_impossible",
            f"The backup needs the PostgreSQL extension(s) {', '.join(forbidden)}, which {survey.administrator['user']} may not "
            "make. Give maintenance_user and maintenance_password of a superuser. Nothing was changed.",
        )


def space_needed(survey: Survey, backup: Backup) -> int:
    """Bytes that the new database may need beside the old one, with what the server writes meanwhile.

    The database of today is the best guess, between what its files can hardly be smaller than and three times the backup.
    """
    guess = survey.size if survey.migrations else 2 * backup.size
    return max(backup.size, min(guess, 3 * backup.size)) * 11 // 10 + _WAL


def require_space(survey: Survey, backup: Backup, free: int | None) -> bool:
    """See whether there is room for a second database. On another server only its administrator knows.

    :param free: bytes that are free there, or None
    :returns: whether it is known to be enough for a database that is larger than that of today by half
    :raises CentralError: ``central_disk_full``
    """
    needed = space_needed(survey, backup)
    if free is not None and free < needed:
        raise CentralError(
            "central_disk_full",
            f"The disk with the Central's database has {free} bytes free, and a second database needs about {needed}. Make room "
            "there. Nothing was changed.",
            free=free,
            needed=needed,
        )
    return free is not None and free >= 2 * needed
