# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes archives in pg_dump's custom format: any version, any sizes, any lie.

For what no real pg_dump at hand makes. Genuine archives are those of :mod:`support.archives`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

COPY_END = b"\\.\n\n\n"


@dataclass
class Entry:
    """An entry of the table of contents; a table with data unless told otherwise."""

    dump_id: int
    tag: str | None
    description: str | None = "TABLE DATA"
    namespace: str | None = "public"
    catalogue: str | None = "0"
    oid: str | None = "0"
    section: int = 3
    definition: str | None = ""
    drop: str | None = ""
    copy: str | None = ""
    owner: str | None = "odk"
    access_method: str | None = None
    relkind: int = 0
    with_oids: str | None = "false"
    dependencies: list[str] = field(default_factory=list)
    dumper: int | None = None
    state: int | None = None
    position: int = 0
    #: the bytes of its block before compression; None for no block
    data: bytes | None = None


def encoding(name: str = "UTF8") -> Entry:
    """The entry that names the encoding."""
    return Entry(1, "ENCODING", "ENCODING", None, section=2, definition=f"SET client_encoding = '{name}';\n", copy=None)


def table(dump_id: int, name: str, columns: str, *rows: str) -> Entry:
    """A table's data."""
    data = "".join(f"{row}\n" for row in rows).encode() + COPY_END
    return Entry(dump_id, name, copy=f"COPY public.{name} ({columns}) FROM stdin;\n", data=data)


def central() -> list[Entry]:
    """The least that passes for Central's database."""
    return [
        encoding(),
        table(10, "knex_migrations", "id, name", "1\t20180101-01-first.js", "2\t20260717-01-latest.js"),
        table(11, "projects", "id, name", "1\tone"),
        table(12, "forms", 'id, "projectId", "xmlFormId"', "1\t1\thousehold"),
        table(13, "submissions", 'id, "instanceId"', "1\tuuid:1", "2\tuuid:2"),
        table(14, "blobs", "id, sha, content", "1\t" + "0" * 40 + "\t\\N"),
    ]


class Writer:
    """The format's values, with sizes of one's choice."""

    def __init__(self, version: tuple[int, int] = (1, 14), integer_size: int = 4, offset_size: int = 8) -> None:
        self.version = version
        self.integer_size = integer_size
        self.offset_size = offset_size

    def integer(self, value: int) -> bytes:
        """A sign, then the magnitude."""
        return bytes([value < 0]) + abs(value).to_bytes(self.integer_size, "little")

    def string(self, value: str | bytes | None) -> bytes:
        """A length, then the bytes."""
        if value is None:
            return self.integer(-1)
        data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        return self.integer(len(data)) + data

    def header(self, **changes: Any) -> bytes:
        """Everything in front of the table of contents."""
        default = {12: "9.6.1", 13: "10.23", 14: "14.22", 15: "16.4", 16: "17.2"}.get(self.version[1], "17.2")
        given: dict[str, Any] = {
            "revision": 0,
            "container": 1,
            "compression": 6,
            "algorithm": 1,
            "time": (1, 2, 3, 4, 5, 126, 0),
        }
        given |= {"database": "odk", "server": default, "dumper": default, **changes}
        head = b"PGDMP" + bytes(
            [*self.version, given["revision"], self.integer_size, self.offset_size, given["container"]]
        )
        head += bytes([given["algorithm"]]) if self.version >= (1, 15) else self.integer(given["compression"])
        head += b"".join(map(self.integer, given["time"]))
        return head + b"".join(self.string(given[name]) for name in ("database", "server", "dumper"))

    def entry(self, entry: Entry) -> bytes:
        """An entry of the table of contents."""
        has = entry.data is not None
        out = self.integer(entry.dump_id) + self.integer(int(has) if entry.dumper is None else entry.dumper)
        out += self.string(entry.catalogue) + self.string(entry.oid) + self.string(entry.tag)
        out += self.string(entry.description) + self.integer(entry.section)
        out += self.string(entry.definition) + self.string(entry.drop) + self.string(entry.copy)
        out += self.string(entry.namespace) + self.string(None)
        out += self.string(entry.access_method) if self.version >= (1, 14) else b""
        out += self.integer(entry.relkind) if self.version >= (1, 16) else b""
        out += self.string(entry.owner) + self.string(entry.with_oids)
        out += b"".join(map(self.string, entry.dependencies)) + self.string(None)
        state = (1 if has else 3) if entry.state is None else entry.state
        return out + bytes([state]) + entry.position.to_bytes(self.offset_size, "little")

    def chunks(self, data: bytes, size: int = 4096) -> bytes:
        """Data in chunks, and the empty one behind them."""
        parts = [data[start : start + size] for start in range(0, len(data), size)]
        return b"".join(self.integer(len(part)) + part for part in parts) + self.integer(0)

    def block(self, dump_id: int, data: bytes, kind: int = 1, size: int = 4096) -> bytes:
        """The block of an entry, its data compressed already."""
        return bytes([kind]) + self.integer(dump_id) + self.chunks(data, size)

    def large_objects(self, dump_id: int, objects: Iterable[tuple[int, bytes]]) -> bytes:
        """A block of large objects, their data compressed already."""
        inner = b"".join(self.integer(oid) + self.chunks(data) for oid, data in objects)
        return bytes([3]) + self.integer(dump_id) + inner + self.integer(0)

    def contents(self, entries: list[Entry]) -> bytes:
        """The table of contents."""
        return self.integer(len(entries)) + b"".join(map(self.entry, entries))

    def archive(self, entries: list[Entry], **changes: Any) -> bytes:
        """A whole archive, its data compressed by zlib unless `changes` say none."""
        plain = changes.get("compression", 6) == 0 or changes.get("algorithm", 1) == 0
        blocks = [
            self.block(entry.dump_id, entry.data if plain else zlib.compress(entry.data))
            for entry in entries
            if entry.data is not None and entry.description != "BLOBS"
        ]
        return self.header(**changes) + self.contents(entries) + b"".join(blocks)
