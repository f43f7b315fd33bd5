# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is executed at a Central to restore into the very database that it has, where a second one cannot be made.

Containers, settings and the first lines of stdin are those of _restore_operations.py.
"""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils._operation import RESTORE, Operation
from ansible_collections.odkops.central.plugins.module_utils._restore_operations import NAME, TAG, both

REPLACE, MARK, UNMARK = "replace-in-place", "replace-mark", "replace-unmark"
SESSIONS, CENTRALS_OWN = "replace-sessions", "replace-restore-js"

#: In the transaction itself, so that afterwards it can be told whether that was committed: a comment on this table.
_MARKED = "public.knex_migrations"

# What Central's user owns, but what belongs to an extension: those are the administrator's, and so is what others own.
_DROP = """\
BEGIN;
SET LOCAL client_min_messages = warning;
DO $odkops$
DECLARE
  statement text;
BEGIN
  FOR statement IN
    SELECT format('DROP %s IF EXISTS %I.%I CASCADE', CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
        WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, n.nspname, c.relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
      AND pg_has_role(current_user, c.relowner, 'USAGE')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')
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
  LOOP
    EXECUTE statement;
  END LOOP;
END
$odkops$;
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

_SESSIONS = """\
WITH ended AS (
  DELETE FROM public.sessions s USING public.actors a WHERE a.id = s."actorId" AND a.type = 'user' RETURNING 1
) SELECT count(*) FROM ended;
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
""".replace("DROPSQL\n", _DROP + "SQL\n")
    .replace("PROVESQL\n", _PROVE + "SQL\n")
    .replace("SESSIONSQL\n", _SESSIONS + "SQL\n")
    .replace("MARKED", _MARKED)
)

_MARK = f"""\
own "$2" --command "SELECT coalesce(obj_description(to_regclass('{_MARKED}'), 'pg_class'), '')"
"""

_UNMARK = f"""\
own "$2" --command "COMMENT ON TABLE {_MARKED} IS NULL" --command 'SET client_min_messages = error' --command ANALYZE
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

_EXTENSION = r"[A-Za-z0-9_-]{1,63}:[A-Za-z0-9_-]{1,63}"
_EXTENSIONS = rf"(?:{_EXTENSION}(?: {_EXTENSION}){{0,49}})?"

OPERATIONS: tuple[Operation, ...] = (
    *both(REPLACE, _REPLACE, NAME, _EXTENSIONS, "true|false"),
    *both(MARK, _MARK, NAME),
    *both(UNMARK, _UNMARK, NAME),
    *both(SESSIONS, f"own \"$2\" <<'SQL'\n{_SESSIONS}SQL\n", NAME),
    Operation(CENTRALS_OWN, "service", _CENTRALS_OWN, (TAG, r"[0-9a-f]{64}"), RESTORE),
)
