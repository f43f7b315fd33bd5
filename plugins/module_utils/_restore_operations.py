# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is executed at a Central to restore its database: fixed scripts around PostgreSQL's own psql and pg_restore.

All of them run in containers of their own, with the settings and the programs of ``service``, or with those of
``postgres14`` (see _pg_dump_operations.py): ``service`` is stopped for a part of a restore, and nothing is ever executed in
the container of the database itself.

Each reads three lines on stdin first: user, password and database to administer with, empty where Central's own user does it.
So they are in no process's arguments, and only in the environment of processes of the container's own user.
Sessions are called ``odkops-restore-`` and the tag of the run, by which a later run ends what an earlier one has left.
Databases that are not Central's own are called ``odkops_new_``, ``odkops_previous_`` or ``odkops_failed_`` and that tag.
"""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils._operation import RESTORE, Operation
from ansible_collections.odkops.central.plugins.module_utils._pg_dump_operations import BESIDE, SETTINGS, TIMEOUT

SURVEY, LOAD, COUNT = "restore-survey", "restore-load", "restore-count"
SWAP, UNSWAP, DROP, STATE, MISSED = "restore-swap", "restore-unswap", "restore-drop", "restore-state", "restore-missed"
GRANT, SPACE, END, BLOB, KNOWN = "restore-grant", "restore-space", "restore-end", "restore-blob", "restore-known"

SESSION = "odkops-restore-"
NEW, PREVIOUS, FAILED = "odkops_new_", "odkops_previous_", "odkops_failed_"

# $tag is the run's; `own NAME` is psql in a database as Central's user.
START = """\
tag=$1
IFS= read -r odkops_user
IFS= read -r odkops_password
IFS= read -r odkops_database || exit 1
export PGAPPNAME="SESSION$tag"
export PGOPTIONS="${PGOPTIONS-} -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0"
say() { printf '%s\\n' "$1" >&2; exit 1; }
sql() {
  psql --no-psqlrc --no-align --tuples-only --quiet --no-password --set ON_ERROR_STOP=1 --set VERBOSITY=terse \\
    --set SHOW_CONTEXT=never --set tag="$tag" "$@"
}
own() { odkops_name=$1; shift; sql --dbname="dbname='$odkops_name'" "$@"; }
""".replace("SESSION", SESSION)

# `as_administrator NAME` is psql in a database as the user who administers, `administer` in one that no restore renames.
_ADMINISTER = """\
as_administrator() {
  odkops_name=$1
  shift
  if [ -n "$odkops_user" ]; then
    PGPASSWORD="$odkops_password" sql --dbname="dbname='$odkops_name' user='$odkops_user'" "$@"
  else
    sql --dbname="dbname='$odkops_name'" "$@"
  fi
}
administer() { as_administrator "$odkops_database" "$@"; }
if [ -z "$odkops_database" ]; then
  for name in postgres template1; do
    if odkops_said=$(as_administrator "$name" --command '' 2>&1); then odkops_database=$name; break; fi
  done
  [ -n "$odkops_database" ] || say "no database to administer from answers: $odkops_said"
fi
"""

# Fields "name=value", each with a NUL behind it. $2: Central's database.
_SURVEY = """\
printf 'pg_restore=%s\\0' "$(pg_restore --version 2>/dev/null)"
printf 'psql=%s\\0' "$(psql --version 2>/dev/null)"
if [ -d lib/model/migrations ]; then printf 'target_migrations=%s\\0' "$(ls lib/model/migrations)"; fi
found=$(own "$2" <<'SQL'
SELECT json_build_object(
  'version', current_setting('server_version'), 'number', current_setting('server_version_num')::int,
  'database', d.datname, 'user', current_user, 'owner', pg_get_userbyid(d.datdba),
  'encoding', pg_encoding_to_char(d.encoding), 'size', pg_database_size(d.oid),
  'now', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'),
  'superuser', r.rolsuper, 'createdb', r.rolcreatedb, 'owns', pg_has_role(current_user, d.datdba, 'USAGE'),
  'extensions', (SELECT json_object_agg(e.extname, n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
    WHERE e.extname <> 'plpgsql'),
  'available', (SELECT json_object_agg(name, trusted) FROM (
    SELECT v.name, bool_or(coalesce((to_jsonb(v) ->> 'trusted')::boolean, false) OR NOT v.superuser) AS trusted
    FROM pg_available_extension_versions v GROUP BY v.name) AS found),
  'migrated', to_regclass('public.knex_migrations') IS NOT NULL,
  'submissions', to_regclass('public.submissions') IS NOT NULL
) FROM pg_database d, pg_roles r WHERE d.datname = current_database() AND r.rolname = current_user;
SQL
) || exit 1
printf 'database=%s\\0' "$found"
case $found in
  *'"migrated" : true'*)
    found=$(own "$2" --command 'SELECT json_agg(name ORDER BY name) FROM public.knex_migrations') || exit 1
    printf 'migrations=%s\\0' "$found"
    ;;
esac
found=$(administer <<'SQL'
SELECT json_build_object('user', current_user, 'superuser', rolsuper, 'createdb', rolcreatedb,
  'databases', (SELECT json_agg(datname) FROM pg_database WHERE datname ~ '^odkops_(new|previous|failed)_'))
FROM pg_roles WHERE rolname = current_user;
SQL
) || exit 1
printf 'administrator=%s\\0' "$found"
printf 'administered_in=%s\\0' "$odkops_database"
"""

# The migrations that the Central which runs can make. An image that was built since is not what the next start uses.
_KNOWN = "if [ -d lib/model/migrations ]; then ls lib/model/migrations; fi\n"

# Bytes that are free where the database lies.
_SPACE = """\
for directory in "${PGDATA-}" /var/lib/odk/postgresql/14 /var/lib/postgresql; do
  if [ -n "$directory" ] && [ -d "$directory" ]; then
    df -Pk "$directory" | { read -r _ && read -r _ _ _ free _ && echo "$((free * 1024))"; }
    exit
  fi
done
echo unknown
"""

# First a new database like the one of the name $2, and the extensions $3 ("name:schema ...") and, if they can be made, $4 in it.
# Prints those of the latter that cannot.
_CREATE = """\
IFS= read -r odkops_entries || exit 1
exec 4<&0
administer --set old="$2" <<'SQL' || exit 1
SELECT format('CREATE DATABASE %I OWNER %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L',
    'odkops_new_' || :'tag', pg_get_userbyid(d.datdba), pg_encoding_to_char(d.encoding), d.datcollate, d.datctype)
  || CASE to_jsonb(d) ->> 'datlocprovider'
       WHEN 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L',
         coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'))
       WHEN 'b' THEN format(' LOCALE_PROVIDER builtin BUILTIN_LOCALE %L', to_jsonb(d) ->> 'datlocale')
       ELSE '' END
  || CASE WHEN t.spcname = 'pg_default' THEN '' ELSE format(' TABLESPACE %I', t.spcname) END
FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = :'old' \\gexec
SELECT format('COMMENT ON DATABASE %I IS %L', 'odkops_new_' || :'tag', 'A restore by odkops.central, not finished') \\gexec
SQL
extend() {
  as_administrator "odkops_new_$tag" --set name="${1%%:*}" --set schema="${1#*:}" <<'SQL'
SET client_min_messages = warning;
SELECT format('CREATE SCHEMA IF NOT EXISTS %I', :'schema') WHERE :'schema' <> 'public' \\gexec
SELECT format('CREATE EXTENSION IF NOT EXISTS %I WITH SCHEMA %I', :'name', :'schema') \\gexec
SQL
}
for extension in $3; do extend "$extension" || exit 1; done
for extension in $4; do extend "$extension" >/dev/null 2>&1 || echo "${extension%%:*}"; done
"""

# Then what comes on stdin: a line with the ids of the entries that are to be restored, in their order (read before), the archive.
# What pg_restore says last goes to stderr in one line. $5: `lz4` where long texts, Central's submissions, are to be compressed by
# LZ4 if the server has it (PostgreSQL 14 and later): with its own method that is a third of all its work in a restore. It takes
# more room. Of what Central writes later, the server's setting decides as before.
_LOAD = """\
export PGOPTIONS="$PGOPTIONS -c synchronous_commit=off"
if [ "$5" = lz4 ]; then
  found=$(own "odkops_new_$tag" </dev/null --command \\
    "SELECT 1 FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)") || exit 1
  if [ "$found" = 1 ]; then export PGOPTIONS="$PGOPTIONS -c default_toast_compression=lz4"; fi
fi
said=$(printf '%s;\\n' $odkops_entries | pg_restore --exit-on-error --no-owner --no-password --use-list=/dev/fd/3 \\
  --dbname="dbname=odkops_new_$tag" 3<&0 <&4 2>&1)
status=$?
if [ "$status" -ne 0 ]; then
  printf '%s\\n' "$said" | tail -n 6 | cut -c 1-400 | tr '\\n' ' ' >&2
  exit "$status"
fi
exec 4<&- </dev/null
"""

# What the archive grants, to roles that there may not be here: each statement for itself. What fails is printed.
_GRANT = """\
psql --no-psqlrc --quiet --no-password --dbname="dbname=odkops_new_$tag" 2>&1 >/dev/null | grep -a 'ERROR:' |
  cut -c 1-200 | head -n 50
true
"""

# `count NAME` prints ["schema.table", rows] for each table of a database, a line each.
_COUNT = """\
count() { own "$1" <<'SQL'
SELECT format('SELECT json_build_array(%L, count(*)) FROM ONLY %I.%I', n.nspname || '.' || c.relname, n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')
ORDER BY 1 \\gexec
SQL
}
"""

#: ends the sessions of users (only those: app users and public links are sessions, too), and says how many
END_SESSIONS = """\
WITH ended AS (
  DELETE FROM public.sessions s USING public.actors a WHERE a.id = s."actorId" AND a.type = 'user' RETURNING 1
) SELECT count(*) FROM ended;
"""

# Last the rows of the new database. Then the settings and grants of the database $2, which no dump holds, and statistics. $6:
# whether the sessions of users end. In the end prints how many ended.
_FINISH = """\
count "odkops_new_$tag" || exit 1
as_administrator "odkops_new_$tag" --set old="$2" <<'SQL' || exit 1
SELECT format('ALTER %s SET %s TO %s',
    CASE WHEN role = 0 THEN format('DATABASE %I', new) ELSE format('ROLE %I IN DATABASE %I', pg_get_userbyid(role), new) END,
    name, CASE
    WHEN lower(name) IN ('search_path', 'datestyle', 'temp_tablespaces', 'session_preload_libraries', 'local_preload_libraries',
      'unix_socket_directories') THEN value ELSE quote_literal(value) END)
FROM (
  SELECT r.setrole AS role, 'odkops_new_' || :'tag' AS new, split_part(s, '=', 1) AS name, substr(s, strpos(s, '=') + 1) AS value
  FROM pg_db_role_setting r JOIN pg_database d ON d.oid = r.setdatabase, unnest(r.setconfig) AS s WHERE d.datname = :'old'
) AS found \\gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', 'odkops_new_' || :'tag')
FROM pg_database d WHERE d.datname = :'old' AND d.datacl IS NOT NULL \\gexec
SELECT format('GRANT %s ON DATABASE %I TO %s%s', a.privilege_type, 'odkops_new_' || :'tag',
    CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
    CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_database d, aclexplode(d.datacl) AS a WHERE d.datname = :'old' AND a.grantee <> d.datdba \\gexec
SELECT format('ALTER DATABASE %I CONNECTION LIMIT %s', 'odkops_new_' || :'tag', datconnlimit)
FROM pg_database WHERE datname = :'old' AND datconnlimit <> -1 \\gexec
SQL
if [ "$6" = true ]; then
  own "odkops_new_$tag" <<'SQL' || exit 1
SESSIONSQL
else
  echo 0
fi
own "odkops_new_$tag" --command 'SET client_min_messages = error' --command ANALYZE || exit 1
""".replace("SESSIONSQL\n", END_SESSIONS + "SQL\n")

# Ends the sessions of a database, whose name is in :name, until there are none, and says whose stay.
_ALONE = """\
alone() {
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    left=$(administer --set name="$1" <<'SQL'
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :'name' AND pid <> pg_backend_pid()
  AND (pg_has_role(current_user, usesysid, 'MEMBER') OR pg_has_role(current_user, 'pg_signal_backend', 'MEMBER')) \\g /dev/null
SELECT string_agg(DISTINCT format('%s (%s)', usename, application_name), ', ') FROM pg_stat_activity
  WHERE datname = :'name' AND pid <> pg_backend_pid() AND backend_type = 'client backend';
SQL
) || exit 1
    if [ -z "$left" ]; then return 0; fi
    sleep 0.5
  done
  say "sessions in the database $1 cannot be ended: $left"
}
"""

# `there NAME` says whether there is a database; that it cannot be known ends the script. `allow NAME` lets sessions in again.
_THERE = """\
allow() {
  administer --set name="$1" <<'SQL'
SELECT format('ALTER DATABASE %I ALLOW_CONNECTIONS true', datname) FROM pg_database WHERE datname = :'name' \\gexec
SQL
}
there() {
  found=$(echo "SELECT count(*) FROM pg_database WHERE datname = :'name'" | administer --set name="$1") || exit 1
  [ "$found" = 1 ]
}
"""

# Both names change at one moment, or neither does. Nobody can come in between: no connections are allowed then.
_SWAP = """\
there "odkops_new_$tag" || say "the database odkops_new_$tag is not there any more"
administer --set old="$2" <<'SQL' || exit 1
SELECT format('ALTER DATABASE %I ALLOW_CONNECTIONS false', :'old') \\gexec
SQL
alone "$2"
alone "odkops_new_$tag"
administer --set old="$2" --set said="$3" <<'SQL' && exit
BEGIN;
SELECT format('ALTER DATABASE %I RENAME TO %I', :'old', 'odkops_previous_' || :'tag') \\gexec
SELECT format('ALTER DATABASE %I RENAME TO %I', 'odkops_new_' || :'tag', :'old') \\gexec
SELECT format('ALTER DATABASE %I ALLOW_CONNECTIONS true', 'odkops_previous_' || :'tag') \\gexec
SELECT format('COMMENT ON DATABASE %I IS %L', 'odkops_previous_' || :'tag', :'said') \\gexec
SELECT format('COMMENT ON DATABASE %I IS NULL', :'old') \\gexec
COMMIT;
SQL
allow "$2"
exit 1
"""

# The way back, from wherever the swap has come to. What was restored is called odkops_failed_ then. First of all a swap that may
# still be at work, since whoever began it was ended, is kept from changing anything: it finds no new database any more.
_UNSWAP = """\
alone "odkops_new_$tag"
administer <<'SQL' || exit 1
SELECT format('DROP DATABASE IF EXISTS %I', 'odkops_new_' || :'tag') \\gexec
SQL
if there "odkops_previous_$tag"; then
  alone "odkops_previous_$tag"
  if there "$2"; then alone "$2"; fi
  administer --set old="$2" <<'SQL' || exit 1
BEGIN;
SELECT format('ALTER DATABASE %I RENAME TO %I', datname, 'odkops_failed_' || :'tag') FROM pg_database
  WHERE datname = :'old' \\gexec
SELECT format('ALTER DATABASE %I RENAME TO %I', 'odkops_previous_' || :'tag', :'old') \\gexec
SELECT format('COMMENT ON DATABASE %I IS NULL', :'old') \\gexec
COMMIT;
SQL
fi
allow "$2" || exit 1
there "$2" || say "there is no database $2 any more, and none that a restore has kept"
"""

# $2: which of the databases with the run's tag.
_DROP = """\
case $2 in new | previous | failed) ;; *) exit 1 ;; esac
alone "odkops_$2_$tag"
administer --set which="$2" <<'SQL' || exit 1
SELECT format('DROP DATABASE IF EXISTS %I', 'odkops_' || :'which' || '_' || :'tag') \\gexec
SQL
"""

# The databases of restores: [name, size in bytes, comment], a line each.
_STATE = """\
administer <<'SQL' || exit 1
SELECT json_build_array(datname, pg_database_size(oid), shobj_description(oid, 'pg_database'))
FROM pg_database WHERE datname ~ '^odkops_(new|previous|failed)_[0-9a-f]+$' ORDER BY datname;
SQL
"""

# How many submissions only the database $2 has, of those in $2 and $3, made at $4 or later. By project, form and instance: ids
# may be given again.
# A line that is none makes the copy fail where the first half did.
_MISSED = """\
{
  own "$2" --set since="$4" <<'SQL' || echo odkops-cut-short
COPY (SELECT f."projectId", f."xmlFormId", s."instanceId", to_jsonb(s) ->> 'draft' FROM public.submissions s
  JOIN public.forms f ON f.id = s."formId"
  WHERE s."createdAt" AT TIME ZONE 'UTC' >= :'since'::timestamp) TO STDOUT;
SQL
} | own "$3" --file /dev/fd/3 3<<'SQL'
CREATE TEMPORARY TABLE odkops_there (project integer, form text, instance text, draft text);
\\copy odkops_there FROM pstdin
SELECT count(*) FROM odkops_there t WHERE NOT EXISTS (
  SELECT FROM public.submissions s JOIN public.forms f ON f.id = s."formId"
  WHERE f."projectId" = t.project AND f."xmlFormId" = t.form AND s."instanceId" = t.instance
    AND to_jsonb(s) ->> 'draft' IS NOT DISTINCT FROM t.draft);
SQL
"""

# ["id", "sha", content in hexadecimal digits] of one attachment of the database $2, or nothing.
_BLOB = """\
own "$2" <<'SQL'
SELECT json_build_array(id, sha, encode(content, 'hex')) FROM public.blobs
WHERE content IS NOT NULL AND length(content) BETWEEN 1 AND 2000000 ORDER BY id DESC LIMIT 1;
SQL
"""

# Ends what an earlier part of the run has left in the server, and waits until it has ended.
_END = """\
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  left=$(administer <<'SQL'
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE application_name = 'SESSION' || :'tag' AND pid <> pg_backend_pid();
SQL
) || exit 1
  if [ "$left" = 0 ]; then exit 0; fi
  sleep 0.5
done
say "what an unfinished restore does in the database cannot be ended"
""".replace("SESSION", SESSION)

NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}"
TAG = r"[0-9a-f]{8,32}"
_EXTENSION = r"[A-Za-z0-9_-]{1,63}:[A-Za-z0-9_-]{1,63}"
#: extensions and their schemas, as Target.extension_words writes them
EXTENSIONS = rf"(?:{_EXTENSION}(?: {_EXTENSION}){{0,49}})?"

_LOADED = (NAME, EXTENSIONS, EXTENSIONS, "lz4|default", "true|false")


def both(name: str, script: str, *parameters: str, data: bool = False) -> tuple[Operation, Operation]:
    """The operation with the settings and programs of ``service``, and the one with those of ``postgres14``."""
    taken = (TAG, *parameters)
    return (
        Operation(name, "service", SETTINGS + TIMEOUT + START + script, taken, RESTORE, run=True, data=data),
        Operation(
            f"{name}-postgres14",
            "postgres14",
            BESIDE + TIMEOUT + START + script,
            (NAME, NAME, *taken),
            RESTORE,
            run=True,
            data=data,
        ),
    )


#: the first parameter is the tag of the run; those for ``postgres14`` have a user and a database of that server before it
OPERATIONS: tuple[Operation, ...] = (
    *both(SURVEY, _ADMINISTER + _SURVEY, NAME),
    *both(LOAD, _ADMINISTER + _CREATE + _LOAD + _COUNT + _FINISH, *_LOADED, data=True),
    *both(GRANT, _GRANT),
    *both(COUNT, _COUNT + 'count "$2"\n', NAME),
    *both(SWAP, _ADMINISTER + _ALONE + _THERE + _SWAP, NAME, r"[A-Za-z0-9 .,:-]{1,120}"),
    *both(UNSWAP, _ADMINISTER + _ALONE + _THERE + _UNSWAP, NAME),
    *both(DROP, _ADMINISTER + _ALONE + _DROP, "new|previous|failed"),
    *both(STATE, _ADMINISTER + _STATE),
    *both(MISSED, _MISSED, NAME, NAME, r"-infinity|[0-9T:.-]{19,26}"),
    *both(BLOB, _BLOB, NAME),
    *both(END, _ADMINISTER + _END),
    Operation(KNOWN, "service", _KNOWN, (), RESTORE),
    Operation(SPACE, "postgres14", _SPACE, (), RESTORE, run=True),
)
