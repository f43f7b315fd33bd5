# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Archives that real pg_dump made of small databases, and what SQL says of the same databases.

Made once, then kept in ``.cache/``: see :class:`Archives`. Nothing here uses the code under test.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .postgresql import CACHE, PostgreSQL, Server

_SQL = Path(__file__).parent / "sql"
_OLD = {"none": "0", "gzip": "6", "gzip1": "1", "gzip9": "9"}
_NEW = {"none": "none", "gzip": "gzip:6", "gzip1": "gzip:1", "gzip9": "gzip:9", "lz4": "lz4:1", "lz4-9": "lz4:9"}
_NEW |= {"zstd": "zstd:level=1", "zstd9": "zstd:level=9", "zstd19": "zstd:level=19"}
PASSPHRASE = "correct horse battery staple"


def methods(major: int) -> list[str]:
    """The names of the compressions that a major has, as :meth:`Archives.read` takes them."""
    return list(_OLD if major < 16 else _NEW)


@dataclass(frozen=True)
class Truth:
    """What SQL says of a database."""

    #: rows by table, whatever the schema
    tables: dict[str, int]
    #: rows of ``blobs`` in order: id, SHA-1 by hashlib of the content (None where there is none), size, status
    blobs: list[tuple[int, str | None, int | None, str]]
    #: what psql calls the server's version
    server: str


class Archives:
    """The archives of one major."""

    def __init__(self, major: int) -> None:
        self.major = major
        self.postgresql = PostgreSQL(major)
        self._folder = CACHE / "archives" / f"{major}-{_fingerprint()}"
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self._folder / "complete").exists():
                self._make()

    def read(self, database: str = "small", method: str = "gzip") -> bytes:
        """An archive.

        :param database: ``small``, ``nasty``, ``latin1`` or ``photos`` (12 MB, ``gzip`` only)
        :param method: one of :func:`methods`, or of those with ``-seekable``: written into a file, with positions
        """
        return (self._folder / f"{database}-{method}").read_bytes()

    def truth(self, database: str = "small") -> Truth:
        """What SQL said of the database when the archives were made of it."""
        found = json.loads((self._folder / f"{database}.json").read_text("utf-8"))
        return Truth(found["tables"], [tuple(blob) for blob in found["blobs"]], found["server"])

    def _make(self) -> None:
        with self.postgresql.server() as server:
            for database in ("small", "nasty", "latin1", "photos"):
                truth = _fill(server, database)
                (self._folder / f"{database}.json").write_text(json.dumps(truth), "utf-8")
                options = _OLD if self.major < 16 else _NEW
                if database == "latin1":
                    options = {"gzip": options["gzip"], "none": options["none"]}
                elif database == "photos":
                    options = {"gzip": options["gzip"]}
                for method, value in options.items():
                    (self._folder / f"{database}-{method}").write_bytes(server.dump(database, f"--compress={value}"))
                seekable = server.dump_to_file(database, f"--compress={options['gzip']}")
                (self._folder / f"{database}-gzip-seekable").write_bytes(seekable)
        (self._folder / "complete").touch()


def _fill(server: Server, database: str) -> dict[str, Any]:
    if database == "latin1":
        server.sql(
            "postgres", "CREATE DATABASE latin1 ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        )
        script = (_SQL / "small.sql").read_text("utf-8").replace("CREATE ROLE reader NOLOGIN;", "")
        script += 'CREATE TABLE "größe" ("é" text); INSERT INTO "größe" VALUES (\'äöü\');'
        script = "SET client_encoding = 'UTF8';" + script + "ALTER DATABASE latin1 SET client_encoding = 'LATIN1';"
        server.sql(database, script)
    else:
        server.sql("postgres", f"CREATE DATABASE {database} TEMPLATE template0")
        for name in ("small", "photos") if database == "photos" else (database,):
            script = (_SQL / f"{name}.sql").read_text("utf-8")
            # The role is one for all databases.
            server.sql(database, script if name == database else script.replace("CREATE ROLE reader NOLOGIN;", ""))
    # The digests come from Python, not from the database.
    query = "SELECT id, replace(encode(content, 'base64'), E'\\n', '') IS NOT NULL, encode(content, 'hex') FROM blobs ORDER BY id"
    updates = []
    for line in server.sql(database, query).splitlines():
        number, present, content = line.split("\t")
        if present == "t":
            value = bytes.fromhex(content)
            digest = hashlib.sha1(value, usedforsecurity=False).hexdigest()
            updates.append(f"UPDATE blobs SET sha = '{digest}' WHERE id = {number};")
    server.sql(database, "\n".join(updates))
    return _truth(server, database)


def _truth(server: Server, database: str) -> dict[str, Any]:
    listing = (
        "SET client_encoding = 'UTF8'; SELECT n.nspname || '.' || c.relname, "
        "quote_ident(n.nspname) || '.' || quote_ident(c.relname) "
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
    )
    tables = {}
    for line in server.sql(database, listing).splitlines():
        name, quoted = line.split("\t")
        count = f"SET client_encoding = 'UTF8'; SELECT count(*) FROM ONLY {quoted}"
        tables[name] = int(server.sql(database, count))
    blobs: list[list[Any]] = []
    columns = "id, content IS NULL, encode(content, 'hex'), coalesce(size::text, ''), s3_status"
    for line in server.sql(database, f"SELECT {columns} FROM blobs ORDER BY id").splitlines():
        number, absent, content, size, status = line.split("\t")
        value = bytes.fromhex(content)
        if absent == "t":
            blobs.append([int(number), None, int(size) if size else None, status])
        else:
            digest = hashlib.sha1(value, usedforsecurity=False).hexdigest()
            blobs.append([int(number), digest, len(value), status])
    return {"tables": tables, "blobs": blobs, "server": server.sql(database, "SHOW server_version")}


def _fingerprint() -> str:
    sources = [*sorted(_SQL.glob("*.sql")), Path(__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


@cache
def archives(major: int) -> Archives:
    """The archives of a major, made on first use."""
    return Archives(major)


def openssl(data: bytes, *options: str, passphrase: str = PASSPHRASE) -> bytes:
    """``openssl enc -chacha20 -pbkdf2`` (``-d`` as an option decrypts), the program that the ODK docs name."""
    done = subprocess.run(
        ["openssl", "enc", "-chacha20", "-pbkdf2", "-pass", "env:TEST_PASSPHRASE", *options],
        input=data,
        capture_output=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "TEST_PASSPHRASE": passphrase},
    )
    if done.returncode:
        raise RuntimeError(f"openssl enc failed: {done.stderr.decode('utf-8', 'replace')}")
    return done.stdout
