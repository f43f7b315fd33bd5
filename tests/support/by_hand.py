# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Opening the members of a set with what anybody has: openssl, tar, sha256sum, rclone, redis, psql. Nothing of the collection."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from .demo import Demo
from .paths import BIN, ROOT

REDIS = "enketo_redis_main"

#: all that a Redis holds, as one JSON object: by key, its type and its value
_EVERYTHING = """
local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind, value = redis.call('TYPE', key).ok, nil
  if kind == 'string' then value = redis.call('GET', key)
  elseif kind == 'hash' then value = redis.call('HGETALL', key)
  elseif kind == 'list' then value = redis.call('LRANGE', key, 0, -1)
  elseif kind == 'set' then value = redis.call('SMEMBERS', key); table.sort(value)
  elseif kind == 'zset' then value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
  found[key] = {kind, value, redis.call('PEXPIRETIME', key)}
end
return cjson.encode(found)
"""

_COUNTS = """
SELECT json_object_agg(schemaname || '.' || relname,
    (xpath('/row/n/text()', query_to_xml(format('SELECT count(*) AS n FROM %I.%I', schemaname, relname), false, true, '')))
    [1]::text::bigint)
FROM pg_stat_user_tables
"""


def decrypted(path: Path, passphrase_file: Path) -> bytes:
    """What openssl makes of a part."""
    command = ["openssl", "enc", "-d", "-chacha20", "-pbkdf2", "-pass", f"file:{passphrase_file}", "-in", str(path)]
    return subprocess.run(command, capture_output=True, check=True).stdout


def unpacked(path: Path, passphrase_file: Path, folder: Path) -> dict[str, bytes]:
    """The members of a tar part, which ``sha256sum --check SHA256SUMS`` has found right and complete."""
    folder.mkdir()
    plain = decrypted(path, passphrase_file)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=plain, capture_output=True, check=True)
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    checked = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    members = {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}
    assert {line.rpartition(": ")[0] for line in checked.splitlines()} == set(members) - {"SHA256SUMS"}
    return members


def in_container(demo: Demo, service: str, script: str, stdin: bytes = b"") -> bytes:
    """Run a shell script in a service's container."""
    command = ["docker", "exec", "-i", demo.container(service), "sh", "-ec", script]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")
    return done.stdout


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


def counts(demo: Demo, database: str = "odk") -> dict[str, int]:
    """The rows of each table."""
    command = f"psql -XqAt -v ON_ERROR_STOP=1 -U odk -d {database}"
    found: dict[str, int] = json.loads(in_container(demo, "postgres14", command, _COUNTS.encode()))
    return found


def digest_of_submissions(demo: Demo, database: str = "odk") -> bytes:
    """One digest of what all submissions say."""
    sql = b"SELECT md5(string_agg(xml, '|' ORDER BY id)) FROM submission_defs"
    return in_container(demo, "postgres14", f"psql -XqAt -v ON_ERROR_STOP=1 -U odk -d {database}", sql)


def load(demo: Demo, plain: bytes, database: str) -> None:
    """Restore a dump into a new database beside the Central's, as docs/backup-sets.md says."""
    in_container(demo, "postgres14", f"createdb -U odk {database}")
    in_container(demo, "postgres14", f"pg_restore -U odk --no-owner --no-acl --exit-on-error -d {database}", plain)


# --- Redis --------------------------------------------------------------------------------------------------------


def everything(demo: Demo, port: int = 6379) -> dict[str, list[Any]]:
    """What Enketo's Redis holds, or another one in its container: type, value, and expiry in milliseconds or -1, by key."""
    script = f'redis-cli -p {port} --raw EVAL "$(cat)" 0'
    return _as_dictionaries(json.loads(in_container(demo, REDIS, script, _EVERYTHING.encode())))


def _as_dictionaries(found: dict[str, list[Any]]) -> dict[str, list[Any]]:
    for entry in found.values():
        if entry[0] in ("hash", "zset"):
            entry[1] = dict(zip(entry[1][::2], entry[1][1::2]))
    return found


def everything_in(export: bytes) -> dict[str, list[Any]]:
    """The same from ``redis.jsonl``."""
    found: dict[str, list[Any]] = {}
    for line in export.decode().splitlines():
        entry = json.loads(line)
        assert entry["db"] == 0
        value = dict(entry["value"]) if entry["type"] in ("hash", "zset") else entry["value"]
        found[entry["key"]] = [entry["type"], value, -1 if entry["expires_at"] is None else entry["expires_at"]]
    return found


def everything_in_rdb(demo: Demo, rdb: bytes, port: int = 7777) -> dict[str, list[Any]]:
    """The same from an RDB file: redis-check-rdb reads it, and a Redis loads it, both of the container."""
    script = f"""
        mkdir /tmp/by-hand; cd /tmp/by-hand; cat >enketo-main.rdb
        redis-check-rdb enketo-main.rdb >&2
        redis-server --port {port} --dir /tmp/by-hand --dbfilename enketo-main.rdb --save '' --daemonize yes >&2
        until [ "$(redis-cli -p {port} ping 2>&1)" = PONG ]; do sleep 0.1; done
    """
    in_container(demo, REDIS, script, rdb)
    try:
        return everything(demo, port)
    finally:
        in_container(demo, REDIS, f"redis-cli -p {port} shutdown nosave; rm -r /tmp/by-hand")


# --- objects ------------------------------------------------------------------------------------------------------


def open_pool(pool: Path, passphrase_file: Path, folder: Path) -> dict[str, bytes]:
    """The objects of a pool, opened with the very commands of docs/pool.md; those that check them find all right."""
    text = (ROOT / "docs" / "pool.md").read_text("utf-8")
    settings = "\n".join(re.findall(r"^export RCLONE_CONFIG_POOL_.*$", text, re.MULTILINE))
    assert settings.count("export") == 5
    settings = re.sub(r"(?<=_REMOTE=).*", str(pool / "objects"), settings)
    settings = settings.replace("/etc/odk-central-backup/passphrase", str(passphrase_file))
    (check,) = re.findall(r"^rclone hashsum .*$", text, re.MULTILINE)
    script = f'set -euo pipefail\nexport RCLONE_CONFIG=/dev/null\n{settings}\nrclone copy pool: "$1"\n{check}\n'
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RCLONE_", "AWS_"))}
    environment["PATH"] = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    command = ["bash", "-c", script, "bash", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sha1(content: bytes) -> str:
    """The digest that Central names blobs by."""
    return hashlib.sha1(content).hexdigest()
