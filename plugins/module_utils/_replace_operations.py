# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is executed at a Central to restore into the very database that it has, where a second one cannot be made.

Containers, settings and the first lines of stdin are those of _restore_operations.py.
"""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils._operation import RESTORE, Operation
from ansible_collections.odkops.central.plugins.module_utils._restore_operations import (
    END_SESSIONS,
    EXTENSIONS,
    NAME,
    TAG,
    both,
)

REPLACE, MARK, MARKED, UNMARK = "replace-in-place", "replace-mark", "replace-marked", "replace-unmark"
SESSIONS, GRANT, CHECK = "replace-sessions", "replace-grant", "replace-check"
CENTRALS_OWN, CENTRALS_OWN_THERE = "replace-restore-js", "replace-restore-js-there"

#: A comment on this table tells afterwards whether a transaction was committed: it is made, or lost, in the transaction itself.
_MARKED = "public.knex_migrations"

# Ends the other sessions of Central's user in its database, and waits until they have: one that was killed may be about to
# commit. Those of others are left alone.
_ALONE = """\
DO $odkops$
BEGIN
  FOR attempt IN 1..40 LOOP
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid();
    PERFORM pg_stat_clear_snapshot();
    EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity
      WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid());
    PERFORM pg_sleep(0.25);
    PERFORM pg_stat_clear_snapshot();
  END LOOP;
END
$odkops$;
"""

# What Central's user owns, but what belongs to an extension: those are the administrator's, and so is what others own.
# Sequences of columns go with their tables. A schema in which something is left stays. All are named before the first one goes:
# what a CASCADE has taken along has no name any more.
_DROP = """\
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL lock_timeout = '60s';
DO $odkops$
DECLARE
  statement text;
BEGIN
  FOREACH statement IN ARRAY ARRAY(
    SELECT format('DROP %s IF EXISTS %I.%I CASCADE', CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
        WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, n.nspname, c.relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
      AND pg_has_role(current_user, c.relowner, 'USAGE')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass
        AND (d.deptype = 'e' OR c.relkind = 'S' AND d.deptype IN ('a', 'i')))
    UNION ALL
    SELECT format('DROP ROUTINE IF EXISTS %s CASCADE', p.oid::regprocedure)
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND pg_has_role(current_user, p.proowner, 'USAGE')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e')
    UNION ALL
    SELECT format('DROP TYPE IF EXISTS %I.%I CASCADE', n.nspname, t.typname)
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE (t.typtype IN ('e', 'd', 'r') OR (t.typtype = 'c' AND EXISTS (
        SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c')))
      AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND pg_has_role(current_user, t.typowner, 'USAGE')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = t.oid AND d.classid = 'pg_type'::regclass AND d.deptype = 'e')
  )
  LOOP
    EXECUTE statement;
  END LOOP;
  FOR statement IN
    SELECT format('DROP SCHEMA %I', n.nspname) FROM pg_namespace n
    WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'public')
      AND pg_has_role(current_user, n.nspowner, 'USAGE')
  LOOP
    BEGIN
      EXECUTE statement;
    EXCEPTION WHEN dependent_objects_still_exist THEN NULL;
    END;
  END LOOP;
END
$odkops$;
SET LOCAL lock_timeout = 0;
"""

# Each table has the rows that it should have, or there is an error, and so no commit.
_PROVE = """\
RESET search_path;
SELECT set_config('odkops.expected', :'expected', true) \\g /dev/null
DO $odkops$
DECLARE
  wanted record;
  found bigint;
BEGIN
  FOR wanted IN SELECT key, value::bigint AS rows FROM jsonb_each_text(current_setting('odkops.expected')::jsonb) LOOP
    EXECUTE format('SELECT count(*) FROM ONLY %I.%I', split_part(wanted.key, '.', 1),
      substr(wanted.key, strpos(wanted.key, '.') + 1)) INTO found;
    IF found <> wanted.rows THEN
      RAISE EXCEPTION 'the table % has % rows, and the backup %', wanted.key, found, wanted.rows;
    END IF;
  END LOOP;
END
$odkops$;
"""

# Two lines first: the ids of the entries that are restored, and the rows by table as JSON. $2: the database. $3: the extensions
# that it needs. $4: whether sessions of users end. The commit is sent only when pg_restore has ended well, and what it made
# was counted. What is sent is never a command of psql: pg_restore makes sure of that (\\restrict).
_REPLACE = (
    """\
IFS= read -r odkops_entries
IFS= read -r odkops_expected
exec 4<&0
said=$(
  {
    cat <<'SQL'
DROPSQL
    for extension in $3; do
      printf 'CREATE EXTENSION IF NOT EXISTS "%s" WITH SCHEMA "%s";\\n' "${extension%%:*}" "${extension#*:}"
    done
    if printf '%s;\\n' $odkops_entries | pg_restore --exit-on-error --no-owner --use-list=/dev/fd/3 --file=- 3<&0 <&4; then
      cat <<'SQL'
PROVESQL
      if [ "$4" = true ]; then cat <<'SQL'
SESSIONSQL
      else echo 'SELECT 0;'; fi
      printf "COMMENT ON TABLE MARKED IS 'odkops %s';\\nCOMMIT;\\nSELECT 'odkops-committed';\\n" "$tag"
    fi
  } | own "$2" --set expected="$odkops_expected" | tail -n 2
)
case $said in
  *odkops-committed) printf '%s\\n' "$said" | head -n 1 ;;
  *) exit 1 ;;
esac
""".replace("DROPSQL\n", _ALONE + _DROP + "SQL\n")
    .replace("PROVESQL\n", _PROVE + "SQL\n")
    .replace("SESSIONSQL\n", END_SESSIONS + "SQL\n")
    .replace("MARKED", _MARKED)
)

_MARK = f"""\
own "$2" --command "COMMENT ON TABLE {_MARKED} IS 'odkops $tag'"
"""

_MARKED_BY = f"""\
own "$2" <<'SQL'
{_ALONE}SELECT coalesce(obj_description(to_regclass('{_MARKED}'), 'pg_class'), '');
SQL
"""

_UNMARK = f"""\
own "$2" --command "COMMENT ON TABLE {_MARKED} IS NULL" --command 'SET client_min_messages = error' --command ANALYZE
"""

# What the archive grants, to roles that there may not be here: each statement for itself. What fails is printed.
_GRANT = """\
psql --no-psqlrc --quiet --no-password --dbname="dbname='$2'" 2>&1 >/dev/null | grep -a 'ERROR:' | cut -c 1-200 | head -n 50
true
"""

# What decides whether Central's user can replace all that is in its database, as JSON. 10 is the oid of the role that the
# server was made with (PostgreSQL's src/include/catalog/pg_authid.dat).
_CHECK = """\
own "$2" <<'SQL'
SELECT json_build_object(
  'user', current_user, 'bootstrap', r.oid = 10,
  'creates', coalesce(has_schema_privilege(to_regnamespace('public'), 'CREATE'), true),
  'foreign', (SELECT json_agg(n.nspname || '.' || c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
      AND NOT pg_has_role(current_user, c.relowner, 'USAGE')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')),
  'extensions', (SELECT json_agg(extname ORDER BY extname) FROM pg_extension
    WHERE extname <> 'plpgsql' AND NOT pg_has_role(current_user, extowner, 'USAGE'))
) FROM pg_roles r WHERE r.rolname = current_user;
SQL
"""

# The restore.js of Centrals before v2026.2 reads no stdin, restores zips only, and into the database that these name.
_CENTRALS_OWN_THERE = """\
if grep -q "['\\"]-['\\"]" lib/bin/restore.js 2>/dev/null; then echo yes; else echo no; fi
"""

# Central's own restore.js, from v2026.2 on, where its configuration is. Its passphrase is an argument: one that only this
# stream has.
_CENTRALS_OWN = """\
[ -f lib/bin/restore.js ] || { echo "this Central has no lib/bin/restore.js" >&2; exit 1; }
said=$(node lib/bin/restore.js - "$2" 2>&1 | tail -c 4000)
case $said in
  *Success.*) ;;
  *) printf '%s\\n' "$said" | grep -v '^ *$' | tail -n 4 | cut -c 1-300 | tr '\\n' ' ' >&2; exit 1 ;;
esac
"""

OPERATIONS: tuple[Operation, ...] = (
    *both(REPLACE, _REPLACE, NAME, EXTENSIONS, "true|false"),
    *both(CHECK, _CHECK, NAME),
    *both(MARK, _MARK, NAME),
    *both(MARKED, _MARKED_BY, NAME),
    *both(UNMARK, _UNMARK, NAME),
    *both(GRANT, _GRANT, NAME),
    *both(SESSIONS, f"own \"$2\" <<'SQL'\n{END_SESSIONS}SQL\n", NAME),
    Operation(CENTRALS_OWN_THERE, "service", _CENTRALS_OWN_THERE, (), RESTORE),
    Operation(CENTRALS_OWN, "service", _CENTRALS_OWN, (TAG, r"[0-9a-f]{64}"), RESTORE),
)
