# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A database server of one's own, as Central's documentation sets it up: a plain role, and extensions of an administrator."""

from __future__ import annotations

from pathlib import Path

from .demo import Demo, central
from .snapshot import psql

#: the name of the server, which only containers of the demo know
HOST = "database.example.org"
#: Central's role there, which owns the database and may not do anything else
ROLE, PASSWORD = "central", "a password of the role central"
#: who may make databases, and is a member of Central's role, but no superuser
MAINTENANCE, MAINTENANCE_PASSWORD = "keeper", "a password of the maintenance user"

# The sequences of columns and the types of tables follow.
_GIVE = f"""
DO $$
DECLARE
  statement text;
BEGIN
  FOR statement IN
    SELECT format('ALTER %s %s OWNER TO {ROLE}', kind, name) FROM (
      SELECT 'pg_class'::regclass AS catalog, oid, 'TABLE' AS kind, oid::regclass::text AS name FROM pg_class
        WHERE relkind IN ('r', 'v') AND relnamespace = 'public'::regnamespace
      UNION ALL SELECT 'pg_proc'::regclass, oid, 'ROUTINE', oid::regprocedure::text FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace
      UNION ALL SELECT 'pg_type'::regclass, oid, 'TYPE', oid::regtype::text FROM pg_type
        WHERE typtype = 'e' AND typnamespace = 'public'::regnamespace) AS found
    WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = found.oid AND d.classid = found.catalog AND d.deptype = 'e')
  LOOP EXECUTE statement; END LOOP;
END $$;
"""


def make_custom(demo: Demo) -> None:
    """Let a demo have its database on a server of its own: the same one, by another name and with a plain role."""
    psql(
        demo,
        f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}';"
        f"CREATE ROLE {MAINTENANCE} LOGIN CREATEDB PASSWORD '{MAINTENANCE_PASSWORD}' IN ROLE {ROLE};"
        f"ALTER DATABASE odk OWNER TO {ROLE}; {_GIVE}"
        # What an administrator has set up beside it: another role's rights, and a setting.
        "CREATE ROLE reader; GRANT SELECT ON forms TO reader; ALTER DATABASE odk SET work_mem = '7MB'",
    )
    folder = Path(demo["compose_dir"])
    override = f"services:\n  postgres14:\n    networks:\n      default:\n        aliases: [{HOST}]\n"
    (folder / "docker-compose.override.yml").write_text(override, "utf-8")
    with (folder / ".env").open("a", encoding="utf-8") as file:
        file.write(f"\nPGHOST={HOST}\nPGUSER={ROLE}\nPGPASSWORD={PASSWORD}\n")
    demo.compose("up", "--detach", "--no-build", timeout=180)
    # Nginx resolves service only when it starts.
    demo.compose("restart", "nginx")
    central("up", "--name", demo.name)


def owners(demo: Demo) -> list[str]:
    """Who owns what in the database, the rights of others, and what it is set to."""
    return psql(
        demo,
        "SELECT extname, pg_get_userbyid(extowner), oid FROM pg_extension ORDER BY 1;"
        "SELECT relname, pg_get_userbyid(relowner) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace "
        "ORDER BY 1; SELECT table_name, privilege_type FROM information_schema.role_table_grants WHERE grantee = 'reader';"
        "SELECT setconfig FROM pg_db_role_setting ORDER BY 1",
    ).splitlines()
