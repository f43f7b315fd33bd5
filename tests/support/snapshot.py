# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All that a demo Central holds, read by psql, redis-cli and the shell: what a restore must bring back, or leave alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from .demo import Demo

# Nobody's data: what each start of the service and each look at it may write.
_VOLATILE = frozenset({"public.knex_migrations_lock"})

_TABLES = """
SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname = 'public' ORDER BY 1
"""

# A link that somebody opens gets another `lastAccessed`, which is nobody's loss.
_DUMP_ALL = """
local out = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local expires = redis.call('PTTL', key) > 0 and 'expires' or 'stays'
  local value = redis.call('DUMP', key)
  if redis.call('TYPE', key).ok == 'hash' then
    local fields, pairs_of = redis.call('HGETALL', key), {}
    for i = 1, #fields, 2 do
      if fields[i] ~= 'lastAccessed' then pairs_of[#pairs_of + 1] = fields[i] .. '=' .. fields[i + 1] end
    end
    table.sort(pairs_of)
    value = table.concat(pairs_of, '\\n')
  end
  out[#out + 1] = key .. ' ' .. redis.sha1hex(value) .. ' ' .. expires
end
table.sort(out)
return table.concat(out, '\\n')
"""


@dataclass
class Snapshot:
    """What was found. Two of them are equal where nothing was lost, and nothing left behind."""

    #: checksum and number of rows, by table
    tables: dict[str, str]
    #: next values of the sequences, by name
    sequences: dict[str, str]
    #: a line for each key of Redis main: name, checksum of type and value, whether it expires
    redis: list[str]
    #: SHA-256, size, mode and owner, by name
    secrets: list[str]
    #: databases of the server, with owner, encoding, collation, settings, whether they may be connected to
    databases: list[str]
    #: files in the directories of a container that a restore could leave something in, by container
    files: dict[str, list[str]] = field(default_factory=dict)
    #: containers of one-off commands
    litter: list[str] = field(default_factory=list)
    #: sessions of restores and dumps in PostgreSQL
    sessions: list[str] = field(default_factory=list)

    def data(self) -> Snapshot:
        """Only what is a Central's own: two Centrals may have the same."""
        return Snapshot(self.tables, self.sequences, self.redis, self.secrets, [])


def tables_of(demo: Demo, database: str = "odk") -> dict[str, str]:
    """Checksum and number of rows of each table of a database."""
    names = [name for name in psql(demo, _TABLES, database).splitlines() if name not in _VOLATILE]
    parts = [
        f"SELECT '{name}', count(*) || ' ' || coalesce(md5(string_agg(md5(t::text), '' ORDER BY md5(t::text))), '') "
        f'FROM public."{name.partition(".")[2]}" t'
        for name in names
    ]
    lines = psql(demo, " UNION ALL ".join(parts), database).splitlines() if parts else []
    return dict(line.split("\t", 1) for line in lines)


def psql(demo: Demo, sql: str, database: str = "odk") -> str:
    """Run SQL in any database of a demo's server, as its superuser."""
    command = ("psql", "-XqAt", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-U", "odk", "-d", database, "-f", "-")
    return demo.execute("postgres14", *command, stdin=sql).rstrip("\n")


def redis_lines(demo: Demo) -> list[str]:
    """A line for each key of Redis main."""
    text = demo.execute("enketo_redis_main", "redis-cli", "--raw", "EVAL", _DUMP_ALL, "0").strip("\n")
    return text.splitlines()


def secret_lines(demo: Demo) -> list[str]:
    """SHA-256, size, mode and owner of each file of the volume of secrets."""
    script = 'cd /etc/secrets && for f in $(ls -A); do stat -c "%n %s %a %u:%g" "$f"; sha256sum "$f"; done'
    return demo.compose("run", "--rm", "-T", "--no-deps", "--entrypoint", "sh", "secrets", "-c", script).splitlines()


def snapshot(demo: Demo) -> Snapshot:
    """Look at everything. Databases that a restore has kept are among it, by what they hold and not by name."""
    sequences = psql(demo, "SELECT sequencename, coalesce(last_value, 0) FROM pg_sequences WHERE schemaname = 'public'")
    databases = psql(
        demo,
        "SELECT d.datname, pg_get_userbyid(d.datdba), pg_encoding_to_char(d.encoding), d.datcollate, d.datctype, d.datallowconn,"
        " (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(d.datacl) a),"
        " (SELECT string_agg(r.setconfig::text, ' ' ORDER BY r.setrole) FROM pg_db_role_setting r"
        "   WHERE r.setdatabase = d.oid) FROM pg_database d WHERE NOT d.datistemplate ORDER BY 1",
        "postgres",
    )
    sessions = psql(
        demo,
        "SELECT application_name, datname FROM pg_stat_activity WHERE application_name LIKE 'odkops-%'",
        "postgres",
    )
    files = {
        "service": demo.execute("service", "sh", "-c", "ls -A /tmp /data/transfer /var/tmp").splitlines(),
        "redis": demo.execute("enketo_redis_main", "sh", "-c", "ls -A /data /tmp").splitlines(),
        "postgres": demo.execute("postgres14", "sh", "-c", "ls -A /tmp /var/lib/odk/postgresql/14").splitlines(),
    }
    return Snapshot(
        tables=tables_of(demo),
        sequences=dict(line.split("\t") for line in sequences.splitlines()),
        redis=redis_lines(demo),
        secrets=secret_lines(demo),
        databases=databases.splitlines(),
        files=files,
        litter=litter(demo),
        sessions=sessions.splitlines(),
    )


def litter(demo: Demo) -> list[str]:
    """Containers of one-off commands that are still there, running or not."""
    project = demo["compose_project"]
    return demo.docker(
        "ps", "--all", "--filter", f"label=com.docker.compose.project={project}",
        "--filter", "label=com.docker.compose.oneoff=True", "--format", "{{.Names}} {{.Status}}",
    ).splitlines()  # fmt: skip
