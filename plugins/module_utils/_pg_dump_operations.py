# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is executed at a Central to dump its database: fixed shell scripts with checked parameters.

All of them but those for ``postgres14`` begin with :data:`SETTINGS`, which gives libpq the settings that this Central
itself has. Source: getodk/central, docker-compose.yml of v2023.2 to v2026.1 (until v2025.4, compose gives ``DB_*``,
``DB_SSL`` among them, and Central writes them into its configuration; from v2026.1 on, libpq's own ``PG*``), and
getodk/central-backend, lib/util/db.js and lib/task/db.js of v2025.4, lib/util/load-db-env.js of v2026.1.
"""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils._operation import HOST, Operation, watched

#: what the names of our sessions in the database begin with
SESSION_PREFIX = "odkops-dump-"

#: begins each script in the container of ``service`` that talks to its database
SETTINGS = """\
set -u
export LC_ALL=C
if [ -n "${DB_SSL-}" ] && [ -n "${DB_HOST-}" ] && [ -n "${DB_NAME-}" ] && [ -n "${DB_USER-}" ]; then
  unset PGSERVICE PGHOSTADDR
  export PGHOST="$DB_HOST" PGDATABASE="$DB_NAME" PGUSER="$DB_USER" PGPASSWORD="${DB_PASSWORD-}"
  if [ "$DB_SSL" = true ]; then export PGSSLMODE=require; fi
elif [ -z "${PGSERVICE+set}" ]; then
  if [ -z "${PGHOST+set}" ] && [ -n "${DB_HOST-}" ]; then export PGHOST="$DB_HOST"; fi
  if [ -z "${PGDATABASE+set}" ] && [ -n "${DB_NAME-}" ]; then export PGDATABASE="$DB_NAME"; fi
  if [ -z "${PGUSER+set}" ] && [ -n "${DB_USER-}" ]; then export PGUSER="$DB_USER"; fi
  if [ -z "${PGPASSWORD+set}" ] && [ -n "${DB_PASSWORD-}" ]; then export PGPASSWORD="$DB_PASSWORD"; fi
fi
"""

#: begins each script with the programs of ``postgres14``, whose first two parameters are a user and a database there.
# In a container of its own, made like the one of the database, which it reaches as service does. Nothing is executed in the
# container of the database itself: what it leaves behind there becomes a child of the server, which takes the end of a
# child that it does not know for a crash, and ends all sessions.
BESIDE = """\
set -u
export LC_ALL=C PGHOST=postgres14 PGUSER="$1" PGDATABASE="$2" PGPASSWORD="${POSTGRES_PASSWORD-}"
unset PGSERVICE PGHOSTADDR PGPORT
shift 2
"""

# Fields "name=value", each with a NUL behind it: settings without a password, when the container was started (proc(5): field
# 22 of its first process), the version of pg_dump, and what the server says of itself (`server`), or why it says nothing
# (`error`).
# A table that an extension owns is not dumped as a table.
_CHECK = """\
for name in DOMAIN PGHOST PGHOSTADDR PGPORT PGDATABASE PGUSER PGSERVICE; do
  eval "if [ -n \\"\\${$name+set}\\" ]; then printf '%s=%s\\\\0' $name \\"\\$$name\\"; fi"
done
printf 'started=%s\\0' "$(line=$(cat /proc/1/stat); set -- ${line##*) }; echo "${20}")"
printf 'pg_dump=%s\\0' "$(pg_dump --version 2>/dev/null)"
if answer=$(psql --no-psqlrc --no-align --tuples-only --quiet --no-password --set ON_ERROR_STOP=1 2>&1 <<'SQL'
SELECT json_build_object(
  'host', :'HOST', 'port', :'PORT', 'database', current_database(), 'user', current_user,
  'version', current_setting('server_version'), 'number', current_setting('server_version_num'),
  'identifier', (SELECT system_identifier::text FROM pg_control_system()),
  'size', pg_database_size(current_database()),
  'unreadable', (SELECT json_agg(name) FROM (
    SELECT n.nspname || '.' || c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'S') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')
      AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'))
    ORDER BY 1 LIMIT 5) AS found)
);
SQL
); then printf 'server=%s\\0' "$answer"; else printf 'error=%s\\0' "$answer"; fi
"""

# Sessions of dumps from this very container (by the address that the server sees) that no process here has any more: their
# pg_dump was killed while the server waited for a lock. They hold locks themselves, which a migration would wait for.
# The brackets keep grep from finding itself.
_END_STALE = """\
ask() { psql --no-psqlrc --no-align --tuples-only --quiet --no-password --command "$1" 2>/dev/null; }
ask "SELECT pid || ' ' || application_name FROM pg_stat_activity WHERE application_name ~ '^PREFIX[0-9a-f]+$' \\
  AND usename = current_user AND client_addr IS NOT DISTINCT FROM inet_client_addr()" |
while read -r pid name; do
  if ! cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -qx -e "[-]-dbname=application_name=$name"; then
    ask "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $pid AND application_name = '$name'" >/dev/null
  fi
done
""".replace("PREFIX", SESSION_PREFIX)

# The dump goes to standard output, what pg_dump says last in one line to stderr. On SIGTERM pg_dump cancels what it has asked
# of the server. The shell outlives it, so that no dead process is left to the first one of the container, which may not
# wait for what it does not know. stdbuf of coreutils, where it is there, lets pg_dump write rows in large pieces: each
# piece, large or small, costs Docker the same work in three processes.
_DUMP = """\
trap : TERM
exec 4>&1
if stdbuf -o 256K true 2>/dev/null; then in_pieces="stdbuf -o 256K"; else in_pieces=; fi
said=$(nice -n "$3" $in_pieces pg_dump --format=custom --compress=0 --no-password --lock-wait-timeout="$2" \\
  --dbname="application_name=$1" 2>&1 >&4 4>&-)
status=$?
if [ "$status" -ne 0 ]; then
  printf '%s\\n' "$said" | tail -n 4 | cut -c 1-300 | tr '\\n' ' ' >&2
fi
exit "$status"
"""

# What Compose makes of the directory, .env and the options: the first line of what it has resolved.
_PROJECT = "compose config 2>/dev/null | sed -n 's/^name: *//p' | head -n 1"

# The container of `service`, whether it runs or not, or nothing.
_MADE = "compose ps --all --quiet service"

#: follows both: a server that does not answer is given up
TIMEOUT = 'export PGCONNECT_TIMEOUT="${PGCONNECT_TIMEOUT:-20}"\n'

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}"
_PARAMETERS = (
    SESSION_PREFIX + r"(once-)?[0-9a-f]{8,32}",  # the session's name in the database
    r"[0-9]{1,9}",  # milliseconds to wait for a lock; 0 for no limit
    r"1?[0-9]",  # niceness
)

_IN_SERVICE = SETTINGS + TIMEOUT
_OF_POSTGRES14 = BESIDE + TIMEOUT

#: in the container of ``service``; ``-once``: in a container of its own, with the settings and the programs of ``service``, where
#: that one does not run; ``-postgres14``: in one with the programs of ``postgres14``, as a user and in a database of that server
OPERATIONS: tuple[Operation, ...] = (
    Operation("compose-project", HOST, _PROJECT),
    Operation("service-container", HOST, _MADE),
    Operation("database-check", "service", _IN_SERVICE + _CHECK),
    Operation("database-check-once", "service", _IN_SERVICE + _CHECK, run=True),
    Operation("database-check-postgres14", "postgres14", _OF_POSTGRES14 + _CHECK, (_NAME, _NAME), run=True),
    Operation("pg-dump", "service", watched(_IN_SERVICE + _END_STALE + _DUMP), _PARAMETERS),
    Operation("pg-dump-once", "service", watched(_IN_SERVICE + _DUMP), _PARAMETERS, run=True),
    Operation(
        "pg-dump-postgres14", "postgres14", watched(_OF_POSTGRES14 + _DUMP), (_NAME, _NAME, *_PARAMETERS), run=True
    ),
)
