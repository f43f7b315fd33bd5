# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What makes a restore impossible is found before anything is touched, and the sentence says what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _restore_preflight as preflight
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._identity import Identity
from ansible_collections.odkops.central.plugins.module_utils._pg_dump_place import Place
from ansible_collections.odkops.central.plugins.module_utils._postgres_settings import PostgresServer, PostgresSettings
from ansible_collections.odkops.central.plugins.module_utils._restore_preflight import Backup
from ansible_collections.odkops.central.plugins.module_utils._restore_target import Administration, Survey

MIB = 1024 * 1024
SERVER = PostgresServer("postgres14", "5432", "odk", "odk", "14.22", 14, "7", 100 * MIB, ())
SURVEY = Survey(
    place=Place("service", "", (), PostgresSettings({}, "1", 14, SERVER, ""), SERVER),
    identity=Identity("central.example.org", "central", "postgres14", "5432", "odk", "7"),
    database={
        "database": "odk",
        "number": 140022,
        "size": 100 * MIB,
        "available": {"citext": True, "pg_trgm": True, "pgrowlocks": False},
        "extensions": {"citext": "public", "pg_trgm": "public"},
    },
    administrator={"user": "odk", "superuser": True, "createdb": True},
    migrations=("1.js", "2.js"),
    known=("1.js", "2.js", "3.js"),
    pg_restore=(14, 22),
    psql=(14, 22),
)
BACKUP = Backup("backup", 50 * MIB, (1, 14), ("1.js", "2.js"), {"citext": "public", "pg_trgm": "public"})


def refused(act: Callable[..., object], code: str, *arguments: Any) -> str:
    with pytest.raises(CentralError) as caught:
        act(*arguments)
    assert caught.value.diagnosis == code
    return caught.value.message


def test_what_goes_well() -> None:
    preflight.require_confirmation(SURVEY, "Central.Example.org")
    preflight.require_known_migrations(SURVEY, BACKUP)
    preflight.require_programs(SURVEY, BACKUP)
    preflight.require_rights(SURVEY)
    preflight.require_extensions(SURVEY, BACKUP, True)
    preflight.require_space(SURVEY, BACKUP, 10**10)
    preflight.require_space(SURVEY, BACKUP, None)


@pytest.mark.parametrize("typed", ["", "central", "central.example.org.evil", "example.org"])
def test_another_domain(typed: str) -> None:
    assert "central.example.org" in refused(preflight.require_confirmation, "wrong_confirmation", SURVEY, typed)


def test_a_central_without_a_domain_is_never_confirmed() -> None:
    nameless = replace(SURVEY, identity=replace(SURVEY.identity, domain=""))
    refused(preflight.require_confirmation, "wrong_confirmation", nameless, "")


def test_migrations() -> None:
    newer = replace(BACKUP, migrations=("1.js", "9.js"))
    assert "9.js" in refused(preflight.require_known_migrations, "newer_central", SURVEY, newer)
    # Where the Central's own files cannot be listed, its database is asked.
    preflight.require_known_migrations(replace(SURVEY, known=None), BACKUP)
    refused(
        preflight.require_known_migrations,
        "newer_central",
        replace(SURVEY, known=None),
        replace(BACKUP, migrations=("3.js",)),
    )


@pytest.mark.parametrize(
    ("changes", "backup", "code", "said"),
    [
        ({"pg_restore": (0, 0)}, {}, "restore_impossible", "no pg_restore"),
        ({"psql": (0, 0)}, {}, "restore_impossible", "no psql"),
        ({"psql": (14, 10)}, {}, "restore_impossible", "no pair"),
        ({"pg_restore": (17, 2), "psql": (17, 2)}, {}, "restore_impossible", "sets what that server does not know"),
        ({}, {"archive": (1, 15)}, "archive_too_new", "pg_dump 16"),
        ({"pg_restore": (16, 1), "psql": (16, 1)}, {"archive": (1, 16)}, "archive_too_new", "pg_dump 17"),
    ],
)
def test_programs(changes: dict[str, Any], backup: dict[str, Any], code: str, said: str) -> None:
    found = refused(preflight.require_programs, code, replace(SURVEY, **changes), replace(BACKUP, **backup))
    assert said in found


def test_rights() -> None:
    plain = replace(SURVEY, administrator={"user": "central", "superuser": False, "createdb": False})
    assert "maintenance_user" in refused(preflight.require_rights, "restore_impossible", plain)
    preflight.require_rights(replace(SURVEY, administrator={"user": "central", "superuser": False, "createdb": True}))


def test_extensions() -> None:
    plain = replace(SURVEY, administrator={"user": "central", "superuser": False, "createdb": True})
    preflight.require_extensions(plain, BACKUP, True)
    strange = replace(BACKUP, extensions={"postgis": "public"})
    assert "postgis" in refused(preflight.require_extensions, "restore_impossible", SURVEY, strange, True)
    untrusted = replace(BACKUP, extensions={"pgrowlocks": "public"})
    preflight.require_extensions(SURVEY, untrusted, True)
    assert "superuser" in refused(preflight.require_extensions, "restore_impossible", plain, untrusted, True)
    # In the database itself, what an administrator has made there is there.
    there = replace(plain, database={**plain.database, "extensions": {"pgrowlocks": "public"}})
    preflight.require_extensions(there, untrusted, False)
    refused(preflight.require_extensions, "restore_impossible", there, untrusted, True)


@pytest.mark.parametrize(
    ("live", "file", "needed"),
    [
        (100, 50, 110),  # the database of today
        (1000, 50, 165),  # bloated: three times the backup at most
        (10, 50, 55),  # emptied: as much as the backup at least
    ],
)
def test_space(live: int, file: int, needed: int) -> None:
    survey = replace(SURVEY, database={**SURVEY.database, "size": live * MIB})
    backup = replace(BACKUP, size=file * MIB)
    found = preflight.space_needed(survey, backup)
    assert found == needed * MIB + 512 * MIB
    refused(preflight.require_space, "central_disk_full", survey, backup, found - 1)
    assert preflight.require_space(survey, backup, found) is False
    assert preflight.require_space(survey, backup, 2 * found - 1) is False
    assert preflight.require_space(survey, backup, 2 * found) is True
    assert preflight.require_space(survey, backup, None) is False


def test_space_of_a_database_that_never_was_used() -> None:
    assert preflight.space_needed(replace(SURVEY, migrations=()), BACKUP) == 110 * MIB + 512 * MIB


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"user": "a user"}, "maintenance_user"),
        ({"user": "a", "database": "x'y"}, "maintenance_database"),
        ({"user": "a", "password": "two\nlines"}, "maintenance_password"),
        ({"password": "alone"}, "maintenance_user"),
    ],
)
def test_options_of_administration(options: dict[str, str], said: str) -> None:
    assert said in refused(Administration(**options).check, "bad_option")


def test_the_password_is_shown_nowhere() -> None:
    assert "s3cret" not in repr(Administration("admin", "s3cret"))
    assert Administration("admin", "s3cret", "postgres").lines() == b"admin\ns3cret\npostgres\n"
