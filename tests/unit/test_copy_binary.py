# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files in the binary format of COPY: PostgreSQL makes of them the very rows that it makes of its own dump."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils._copy_binary import (
    LARGE,
    BinaryRows,
    Conversion,
    conversion,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._restore_archive import RestoreArchive

from support.archives import PASSPHRASE, archives, openssl
from support.postgresql import Server

# What Central's table looks like, and what can stand in it.
FILES = f"""
CREATE TYPE s3_upload_status AS ENUM ('pending', 'in_progress', 'it''s "odd"');
CREATE TABLE blobs (id integer NOT NULL, sha varchar(40) NOT NULL, content bytea,
  "contentType" text DEFAULT 'application/octet-stream' NOT NULL, md5 varchar(32),
  s3_status s3_upload_status DEFAULT 'pending' NOT NULL, size integer);
INSERT INTO blobs VALUES
  (1, 'null', NULL, 'text/plain', NULL, 'in_progress', 9), (2, 'empty', '', '', '', 'pending', NULL),
  (-3, E'a\\tb\\nc\\\\d\\be', '\\x00', E'\\\\.', E'\\\\N', 'it''s "odd"', -2147483648),
  (2147483647, 'größe 漢字', '\\x5c5c782f0a09', E'\\n', ' ', 'pending', 2147483647);
INSERT INTO blobs SELECT 10 + n, 'all', string_agg(set_byte('\\x00', 0, byte), NULL), 'image/jpeg'
  FROM generate_series(0, 255) byte, generate_series(1, 3) n GROUP BY n;
INSERT INTO blobs SELECT 20 + n, 'large',
  decode(repeat('00ff0a095c', ({LARGE} + n) / 5) || repeat('41', ({LARGE} + n) % 5), 'hex') FROM generate_series(-1, 2) n;
INSERT INTO blobs SELECT 30 + n, 'many', decode(md5(n::text), 'hex') FROM generate_series(1, 5000) n;
"""
SIZES = {21: LARGE + 1, 22: LARGE + 2}
ROWS = "SET bytea_output = 'hex'; SELECT md5(string_agg(b::text, '|' ORDER BY id)) || count(*) FROM blobs b"
COLUMNS = "SELECT attname, atttypid::regtype FROM pg_attribute WHERE attrelid = 'blobs'::regclass AND attnum > 0"


@pytest.fixture(scope="module", params=[15, 17, pytest.param(13, marks=pytest.mark.long)])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with archives(request.param).postgresql.server() as running:
        running.sql("postgres", "CREATE ROLE other")
        for name in ("files", "escaped"):
            running.sql("postgres", f"CREATE DATABASE {name}")
            running.sql(name, FILES)
        running.sql("escaped", "ALTER DATABASE escaped SET bytea_output = 'escape'")
        yield running


def restored(server: Server, name: str, archive: bytes) -> str:
    """What the rows are in a new database that pg_restore fills as a restore does."""
    server.sql("postgres", f"DROP DATABASE IF EXISTS {name}")
    server.sql("postgres", f"CREATE DATABASE {name} TEMPLATE template0")
    connection = ("--host", server.sql("postgres", "SHOW unix_socket_directories"), "--username", "odk")
    server.programs.run(
        "pg_restore", *connection, "--exit-on-error", "--no-owner", "--no-acl", "--dbname", name, stdin=archive
    )
    return server.sql(name, COLUMNS) + server.sql(name, ROWS)


def opened(folder: Path, archive: bytes) -> RestoreArchive:
    path = folder / "backup.pgdump.enc.bin"
    path.write_bytes(openssl(archive))
    return RestoreArchive(str(path), PASSPHRASE, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("database", ["files", "escaped"])
@pytest.mark.parametrize("level", ["0", "6"])
def test_the_same_rows(server: Server, tmp_path: Path, database: str, level: str) -> None:
    dumped = server.dump(database, f"--compress={level}")
    with opened(tmp_path, dumped) as archive:
        data = b"".join(archive.pieces(SIZES))
    assert b"FROM stdin WITH (FORMAT binary)" in data
    assert b"PGCOPY\n\xff\r\n\0" in data
    assert restored(server, "again", data) == server.sql(database, COLUMNS) + server.sql(database, ROWS)
    assert restored(server, "again", data) == restored(server, "plain", dumped)


def test_a_dump_of_many_kinds(server: Server, tmp_path: Path) -> None:
    """Of other tables, extensions and large objects, nothing is lost on the way."""
    for database in ("small", "nasty"):
        dumped = archives(server.programs.major).read(database, "gzip")
        with opened(tmp_path, dumped) as archive:
            data = b"".join(archive.pieces({}))
        assert b"PGCOPY\n\xff\r\n\0" in data
        assert restored(server, "again", data) == restored(server, "plain", dumped)


def test_what_is_cut_short_is_not_restored(server: Server, tmp_path: Path) -> None:
    with opened(tmp_path, server.dump("files", "--compress=6")) as archive:
        data = b"".join(archive.pieces(SIZES))
    begin = data.index(b"PGCOPY")
    for size in (begin + 5, begin + 100, begin + LARGE, len(data) - 200):
        with pytest.raises(RuntimeError, match="pg_restore"):
            restored(server, "again", data[:size])


# --- without a server -------------------------------------------------------------------------------------------------

ROW = b"7\tsha\t\\\\x0102ff\ttext/plain\t\\N\n"
TEXT = ROW + b"8\tsha\t\\N\t\\\\.\t5\n" + b"\\.\n\n\n"


def table(
    definition: str, copy: str = 'COPY public.blobs (id, sha, content, "contentType", size) FROM stdin;\n'
) -> list:
    def entry(number: int, description: str, tag: str, sql: str, statement: str = "") -> TocEntry:
        return TocEntry(number, description, tag, "public", "odk", sql, statement, bool(statement), "")

    return [
        entry(1, "TYPE", "status", "CREATE TYPE public.status AS ENUM (\n    'a'\n);\n"),
        entry(2, "TABLE", "blobs", f"CREATE TABLE public.blobs (\n{definition}\n);\n"),
        entry(3, "TABLE DATA", "blobs", "", copy),
    ]


PLAIN = '    id integer NOT NULL,\n    sha character varying(40),\n    content bytea,\n    "contentType" text,\n    size integer'


def how() -> Conversion:
    found = conversion(table(PLAIN))
    assert found is not None
    return found


def made(text: bytes, size: int, sizes: dict[int, int] | None = None) -> bytes:
    rows = BinaryRows(how(), sizes or {})
    pieces = [piece for start in range(0, len(text), size) for piece in rows.feed(text[start : start + size])]
    rows.finish()
    return b"".join(pieces)


def test_in_pieces_of_any_size() -> None:
    whole = made(TEXT, len(TEXT))
    assert whole.endswith(b"\xff\xff")
    for size in range(1, len(TEXT)):
        assert made(TEXT, size) == whole, size


@pytest.mark.parametrize(
    "spoilt",
    [
        TEXT[:-4],
        ROW,
        TEXT.replace(b"02ff", b"02f"),
        TEXT.replace(b"02ff", b"02fg"),
        TEXT.replace(b"7\tsha", b"x\tsha"),
        TEXT.replace(b"7\tsha", b"7777777777\tsha"),
        TEXT.replace(b"\ttext/plain", b""),
        TEXT.replace(b"\ttext/plain", b"\t1\t2"),
    ],
)
def test_rows_that_are_not_those_that_were_verified(spoilt: bytes) -> None:
    with pytest.raises(CentralError) as caught:
        made(spoilt, 5)
    assert caught.value.diagnosis == "tampered"


@pytest.mark.parametrize("sizes", [{}, {7: LARGE + 1}, {7: LARGE + 3}, {8: LARGE + 2}])
def test_a_large_file_of_another_size(sizes: dict[int, int]) -> None:
    text = TEXT.replace(b"02ff", b"00" * (LARGE + 1))
    assert len(made(text, 256 * 1024, {7: LARGE + 2})) > LARGE
    with pytest.raises(CentralError) as caught:
        made(text, 256 * 1024, sizes)
    assert caught.value.diagnosis == "tampered"


def test_a_large_file_is_handed_on_as_it_comes() -> None:
    rows = BinaryRows(how(), {7: 10 * LARGE})
    rows.feed(b"7\tsha\t\\\\x")
    held = 0
    for _piece in range(4 * 16):
        held += LARGE // 16 - sum(map(len, rows.feed(b"00" * (LARGE // 16))))
        assert held <= LARGE


@pytest.mark.parametrize("sizes", [{}, {7: LARGE + LARGE // 2}])
def test_a_large_file_of_another_size_is_not_awaited(sizes: dict[int, int]) -> None:
    rows = BinaryRows(how(), sizes)
    rows.feed(b"7\tsha\t\\\\x" + b"00" * LARGE)
    with pytest.raises(CentralError) as caught:
        rows.feed(b"00" * LARGE)
    assert caught.value.diagnosis == "tampered"


@pytest.mark.parametrize(
    "definition",
    [
        PLAIN.replace("size integer", "size bigint"),
        PLAIN.replace("size integer", "size jsonb"),
        PLAIN.replace("size integer", "size public.another"),
        PLAIN.replace("size integer", "size bytea"),
        PLAIN.replace("size integer", "size integer[]"),
        PLAIN.replace("id integer", "id text"),
        PLAIN.replace("content bytea", "content text"),
        PLAIN.replace("    sha character varying(40),\n", ""),
        "",
    ],
)
def test_tables_of_other_types_stay_text(definition: str) -> None:
    assert conversion(table(PLAIN)) is not None
    assert conversion(table(PLAIN.replace("size integer", "size public.status DEFAULT 'a'::public.status"))) is not None
    assert conversion(table(definition)) is None


@pytest.mark.parametrize(
    "copy",
    [
        "",
        "COPY public.blobs FROM stdin;\n",
        "COPY public.blobs (sha, content, id, size) FROM stdin;\n",
        "COPY public.blobs (id, sha, content) FROM stdin;\n",
        "COPY public.other (id, sha, content, size) FROM stdin;\n",
    ],
)
def test_columns_in_another_order_stay_text(copy: str) -> None:
    assert conversion(table(PLAIN, copy)) is None
