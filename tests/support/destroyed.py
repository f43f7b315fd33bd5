# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The last steps of ``make demo``: remember what its Central holds, destroy it, and see afterwards that all of it is back.

What there is is asked by SQL, redis-cli, sha1sum and HTTP, and nothing of the collection.
"""

from __future__ import annotations

import hashlib
import json
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from .by_hand import REDIS, everything, in_container
from .demo import Demo

#: a digest of all rows of each table, but for logins, which end
_TABLES = """
SELECT json_object_agg(relname, (xpath('/row/d/text()', query_to_xml(format(
    'SELECT count(*) || '' '' || coalesce(md5(string_agg(t::text, chr(10) ORDER BY t::text)), ''-'') AS d FROM public.%I t',
    relname), false, true, '')))[1]::text)
FROM pg_stat_user_tables WHERE schemaname = 'public' AND relname <> 'sessions'
"""


def _status(demo: Demo, path: str) -> int:
    context = ssl.create_default_context(cafile=demo.ca_path)
    try:
        with urllib.request.urlopen(demo.url + path, context=context, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def held(demo: Demo) -> dict[str, Any]:
    """What a Central holds: ``tables``, ``keys``, ``secrets`` and ``objects`` with digests, and what ``links`` answer."""
    command = "psql -XqAt -v ON_ERROR_STOP=1 -U odk -d odk"
    keys = {name: entry for name, entry in everything(demo).items() if name.startswith(("id:", "or:"))}
    links = {}
    for name, (kind, value, _expiry) in sorted(keys.items()):
        if kind == "hash":
            # Opening a link changes it.
            value.pop("lastAccessed", None)
            links[name] = _status(demo, f"/enketo-passthrough/{name.removeprefix('id:')}")
    secrets = in_container(demo, "enketo", "cd /etc/secrets; sha256sum enketo-secret enketo-less-secret enketo-api-key")
    objects = in_container(demo, "s3", "cd /objects; find . -type f -exec sha1sum {} + | sort -k 2")
    return {
        "tables": json.loads(in_container(demo, "postgres14", command, _TABLES.encode())),
        "keys": {
            name: hashlib.sha256(json.dumps(keys[name], sort_keys=True).encode()).hexdigest() for name in sorted(keys)
        },
        "secrets": secrets.decode().splitlines(),
        "objects": objects.decode().splitlines(),
        "links": links,
    }


def destroy(demo: Demo) -> None:
    """Remove its containers and all its volumes."""
    demo.compose("down", "--volumes", "--timeout", "5", timeout=300)


def compare(demo: Demo, before: dict[str, Any]) -> None:
    """Say that all is back, or fail with what is not."""
    in_container(demo, REDIS, "redis-cli ping")
    after = held(demo)
    wrong = [name for name in before if before[name] != after[name]]
    if wrong or set(after["links"].values()) != {200}:
        raise SystemExit(f"not what it was before it was destroyed: {wrong or after['links']}")
    print(
        f"\nSeen by SQL, redis-cli, sha1sum and HTTP: {len(after['tables'])} tables row for row, {len(after['keys'])} keys of "
        f"Enketo, its {len(after['secrets'])} secrets, {len(after['objects'])} objects in S3 are what they were, and "
        f"{len(after['links'])} links of Web Forms open."
    )


def main() -> None:
    """``python -m support.destroyed destroy|compare NAME FOLDER``: what it held is noted in ``FOLDER/held.json``."""
    action, demo, note = sys.argv[1], Demo.load(sys.argv[2]), Path(sys.argv[3], "held.json")
    if action == "destroy":
        note.write_text(json.dumps(held(demo)), "utf-8")
        destroy(demo)
    else:
        compare(demo, json.loads(note.read_text("utf-8")))


if __name__ == "__main__":
    main()
