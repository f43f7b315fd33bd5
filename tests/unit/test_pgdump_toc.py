# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Header and table of contents: versions, sizes, and values that cannot be."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pgdump_sql import _is_damaged, nearly

from support.archives import archives
from support.pgdump_writer import Entry, Writer, central, encoding, table
from support.verifying import diagnosis, read_plain


@pytest.mark.parametrize("minor", range(12, 17))
@pytest.mark.parametrize(("integer_size", "offset_size"), [(4, 8), (8, 8), (4, 4), (2, 1), (3, 5)])
def test_every_version_and_size(minor: int, integer_size: int, offset_size: int) -> None:
    found = read_plain(Writer((1, minor), integer_size, offset_size).archive(central()))
    assert found["archive_version"] == f"1.{minor}"
    assert found["tables"]["public.submissions"] == 2
    assert found["created"] == "2026-06-04T03:02:01"
    assert found["central"]["migration"] == "20260717-01-latest.js"


def test_version_1_12_names_no_schema_in_its_statements() -> None:
    entries = central()
    for entry in entries:
        entry.copy = (entry.copy or "").replace("COPY public.", "COPY ")
    assert diagnosis(Writer((1, 12)).archive(entries)) == "ok"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ((1, 17), "archive_too_new"),
        ((2, 0), "archive_too_new"),
        ((1, 11), "archive_too_old"),
        ((0, 14), "archive_too_old"),
    ],
)
def test_other_versions(version: tuple[int, int], expected: str) -> None:
    with pytest.raises(CentralError) as caught:
        read_plain(Writer(version).archive(central()))
    assert caught.value.diagnosis == expected
    assert caught.value.details["archive_version"] == f"{version[0]}.{version[1]}"


@pytest.mark.parametrize(
    "changes",
    [
        {"revision": 1},
        {"compression": 10},
        {"compression": -2},
        {"database": ""},
        {"database": None},
        {"server": "fourteen"},
        {"server": None},
        {"server": "15.1"},
        {"dumper": ""},
        {"dumper": "16.1"},
        {"dumper": "11.1", "server": "11.1"},
        {"time": (61, 0, 0, 1, 0, 126, 0)},
        {"time": (0, 60, 0, 1, 0, 126, 0)},
        {"time": (0, 0, 24, 1, 0, 126, 0)},
        {"time": (0, 0, 0, 0, 0, 126, 0)},
        {"time": (0, 0, 0, 31, 3, 126, 0)},
        {"time": (0, 0, 0, 29, 1, 125, 0)},
        {"time": (0, 0, 0, 1, 12, 126, 0)},
        {"time": (0, 0, 0, 1, 0, 26, 0)},
        {"time": (0, 0, 0, 1, 0, 126, 2)},
        {"database": "x" * 5000},
    ],
)
def test_headers_that_cannot_be(changes: dict[str, Any]) -> None:
    assert diagnosis(Writer().archive(central(), **changes)) == "corrupt"


def test_genuine_headers_at_the_edges() -> None:
    assert diagnosis(Writer().archive(central(), time=(60, 59, 23, 29, 1, 124, 1))) == "ok"
    assert diagnosis(Writer().archive(central(), compression=-1)) == "ok"
    assert diagnosis(Writer((1, 16)).archive(central(), dumper="18beta2", server="9.6.24 (Debian 9.6)")) == "ok"
    assert diagnosis(Writer((1, 14)).archive(central(), dumper="15rc1")) == "ok"


def test_other_containers_and_methods() -> None:
    for container in (2, 3, 4, 5):
        assert diagnosis(Writer().archive(central(), container=container)) == "not_a_central_backup"
    assert diagnosis(Writer((1, 16)).archive(central(), algorithm=4)) == "unsupported_compression"
    for sizes in ((0, 8), (9, 8), (4, 0), (4, 9)):
        head = bytearray(Writer().header())
        head[8:10] = sizes
        assert diagnosis(bytes(head)) == "corrupt"


def changed(**changes: Any) -> bytes:
    """An archive with one more entry that has these fields."""
    fields = {"dump_id": 50, "tag": "x", "description": "VIEW", "catalogue": "1259", "section": 2, **changes}
    return Writer((1, 16)).archive([*central(), Entry(**fields)])


@pytest.mark.parametrize(
    "changes",
    [
        {"dump_id": 0},
        {"dump_id": -1},
        {"dump_id": 10},
        {"dump_id": 2**24 + 1},
        {"dumper": 2},
        {"dumper": 1},
        {"state": 1},
        {"state": 0},
        {"state": 4},
        {"position": 7},
        {"catalogue": "x"},
        {"catalogue": ""},
        {"catalogue": None},
        {"catalogue": "1260"},
        {"oid": "-1"},
        {"oid": None},
        {"tag": None},
        {"tag": "a\0b"},
        {"description": None},
        {"description": "view"},
        {"description": "VIEV"},
        {"description": "TABLE DATB"},
        {"section": 0},
        {"section": 5},
        {"section": 4},
        {"relkind": 1},
        {"relkind": -1},
        {"with_oids": "yes"},
        {"with_oids": None},
        {"dependencies": ["1", "x"]},
        {"namespace": "publia"},
        {"access_method": "heat"},
        {"copy": "COPY public.x (a) FROM stdin;\n"},
        {"description": "DATABASE", "catalogue": "1262", "tag": "other"},
        {"description": "ENCODING", "catalogue": "0", "definition": "SET client_encoding = 'UTF9';\n"},
        {"description": "ENCODING", "catalogue": "0", "definition": "SET client_encodinh = 'UTF8';\n"},
        {"description": "STDSTRINGS", "catalogue": "0", "definition": "SET standard_conforming_strings = 'oo';\n"},
        {
            "description": "SEARCHPATH",
            "catalogue": "0",
            "definition": "SELECT pg_catalog.set_config('searcj_path', '', false);\n",
        },
    ],
)
def test_entries_that_cannot_be(changes: dict[str, Any]) -> None:
    assert diagnosis(changed()) == "ok"
    with pytest.raises(CentralError) as caught:
        read_plain(changed(**changes))
    assert caught.value.diagnosis == "corrupt"


@pytest.mark.parametrize(
    "changes",
    [
        {"description": "SOMETHING NEW", "section": 4, "catalogue": "9999"},
        {"namespace": "tenant7"},
        {"access_method": "columnar"},
        {"namespace": None, "owner": None, "definition": None, "drop": None},
        {
            "definition": "CREATE VIEW public.x WITH (security_barrier='true') AS\n SELECT 1;\n",
            "drop": "DROP VIEW public.x;\n",
        },
        {"tag": 'odd " name', "definition": 'CREATE VIEW public."odd "" name" AS\n SELECT 1;\n'},
        {"definition": "CREATE OR REPLACE VIEW public.x AS\n SELECT 1;\n"},
        {"dependencies": ["1", "4294967295"]},
    ],
)
def test_entries_that_are_only_unusual(changes: dict[str, Any]) -> None:
    assert diagnosis(changed(**changes)) == "ok"


@pytest.mark.parametrize(
    ("description", "tag", "definition", "drop"),
    [
        ("VIEW", "x", "CREATE VIEW public.y AS\n SELECT 1;\n", "DROP VIEW public.x;\n"),
        ("VIEW", "x", "CREATE VIEW public.x AS\n SELECT 1;\n", "DROP VIEW public.z;\n"),
        ("VIEW", "x", "CREATE VIEW public.x AS\n SELECT 1:\n", "DROP VIEW public.x;\n"),
        ("TABLE", "x", "CREATE TABLE public.p (\n    a integer\n);\n", "DROP TABLE public.x;\n"),
        ("TABLE", "x", "CREATE TABLE public.x (\n    a inteeer\n);\n", "DROP TABLE public.x;\n"),
        ("TABLE", "x", "CREATE TABLE public.x (\n    a integer NoT NULL\n);\n", "DROP TABLE public.x;\n"),
        ("TABLE", "x", "CREATE TABLE public.x (\n    a integer DEFAULU 1\n);\n", "DROP TABLE public.x;\n"),
        ("TABLE", "x", "CREATE TABLE public.x (\n    a character varying(255\n);\n", "DROP TABLE public.x;\n"),
        ("TABLE", "x", "CREATE TABLE public.x (\n    a text DEFAULT 'x\n);\n", "DROP TABLE public.x;\n"),
        ("TABLE", "x", "CREATE TABLE public.x (\n    a\x01text\n);\n", "DROP TABLE public.x;\n"),
        ("TABLE", "x", "CREATE TABLE public.x (\n    é text\n);\n", "DROP TABLE public.x;\n"),
    ],
)
def test_statements_that_are_nearly_right(description: str, tag: str, definition: str, drop: str) -> None:
    data = changed(description=description, tag=tag, definition=definition, drop=drop)
    with pytest.raises(CentralError) as caught:
        read_plain(data)
    assert caught.value.diagnosis == "corrupt"


@pytest.mark.parametrize(
    "copy",
    [
        "COPY public.odd (one) FROM stdin:\n",
        "COPX public.odd (one) FROM stdin;\n",
        "COPY public.odf (one) FROM stdin;\n",
        "COPY publib.odd (one) FROM stdin;\n",
        "COPY public.odd (onf) FROM stdin;\n",
        'COPY public.odd ("One) FROM stdin;\n',
        "INSERT INTO odd VALUES (1);\n",
        None,
    ],
)
def test_statements_of_copy_that_do_not_fit_their_table(copy: str | None) -> None:
    made = Entry(
        40,
        "odd",
        "TABLE",
        catalogue="1259",
        oid="77",
        section=2,
        definition="CREATE TABLE public.odd (\n    one integer\n);\n",
    )
    data = table(41, "odd", "one", "1")
    data.oid = "77"
    assert diagnosis(Writer().archive([*central(), made, data])) == "ok"
    data.copy = copy
    assert diagnosis(Writer().archive([*central(), made, data])) == "corrupt"


def test_the_data_of_a_table_twice_or_of_another() -> None:
    assert diagnosis(Writer().archive([*central(), table(50, "forms", "id", "1")])) == "corrupt"
    made = Entry(40, "odd", "TABLE", catalogue="1259", oid="77", section=2)
    assert diagnosis(Writer().archive([*central(), made, table(41, "odd", "one", "1")])) == "corrupt"
    lacking = table(41, "odd", "one")
    lacking.data = None
    assert diagnosis(Writer().archive([*central(), lacking])) == "corrupt"
    more = table(41, "odd", "one")
    more.definition = "CREATE"
    assert diagnosis(Writer().archive([*central(), more])) == "corrupt"


def test_two_tables_whose_names_read_the_same() -> None:
    first = table(41, "c", "one", "1")
    first.namespace, first.copy = "a.b", 'COPY "a.b".c (one) FROM stdin;\n'
    second = table(42, "b.c", "one", "1", "2")
    second.namespace, second.copy = "a", 'COPY a."b.c" (one) FROM stdin;\n'
    assert diagnosis(Writer().archive([*central(), first, second])) == "ok"


def test_other_encodings() -> None:
    entries = central()
    name = b"gr\xf6\xdfe"
    for encoding_name, expected in (("LATIN1", "ok"), ("SQL_ASCII", "ok"), ("UTF8", "corrupt")):
        entries[0] = encoding(encoding_name)
        view = Entry(50, name.decode("utf-8", "surrogateescape"), "VIEW", catalogue="1259", section=2)
        assert diagnosis(Writer().archive([*entries, view])) == expected
    entries[0] = encoding("SQL_ASCII")
    odd = table(60, "odd", "a")
    odd.data = b"\xff\xfe\n" + (odd.data or b"")
    assert diagnosis(Writer().archive([*entries, odd])) == "ok"
    entries[0] = encoding()
    assert diagnosis(Writer().archive([*entries, odd])) == "corrupt"


def test_integers_and_lengths_that_pg_dump_does_not_write() -> None:
    writer = Writer()
    good = writer.archive(central())
    count = writer.integer(len(central()))
    at = len(writer.header())
    assert good[at : at + 5] == count
    assert diagnosis(good[:at] + b"\2" + good[at + 1 :]) == "corrupt"  # neither plus nor minus
    assert diagnosis(good[:at] + b"\1" + good[at + 1 :]) == "corrupt"  # so many less than none
    tablespace = good.index(writer.string("public") + writer.string(None)) + len(writer.string("public"))
    assert diagnosis(good[: tablespace + 1] + b"\2" + good[tablespace + 2 :]) == "corrupt"  # length -2
    assert diagnosis(good[: tablespace + 1] + b"\0" + good[tablespace + 2 :]) == "corrupt"  # length -0


def test_large_objects_and_their_numbers() -> None:
    writer = Writer()
    entries = [*central(), Entry(99, "BLOBS", "BLOBS", None, copy=None, data=b"")]
    head = writer.archive(entries)
    value = zlib.compress(b"x")

    def with_objects(*numbers: int) -> str:
        return diagnosis(head + writer.large_objects(99, [(number, value) for number in numbers]))

    assert with_objects() == "ok"
    assert with_objects(1, 2, 2**31 - 1, -(2**31), -1) == "ok"  # those beyond 2^31 are written as negative
    assert with_objects(2, 1) == "corrupt"
    assert with_objects(-1, 5) == "corrupt"
    assert with_objects(5, 5) == "corrupt"
    assert with_objects(2**32 - 1) == "corrupt"
    assert diagnosis(head) == "truncated"
    assert diagnosis(head + writer.block(99, value)) == "corrupt"


def test_a_table_in_the_place_of_large_objects() -> None:
    writer = Writer()
    entries = [*central(), table(99, "odd", "a")]
    entries[-1].description = "BLOBS"
    entries[-1].copy = None
    assert diagnosis(writer.archive(entries) + writer.block(99, zlib.compress(b"x"))) == "corrupt"


@pytest.mark.parametrize("major", [15, pytest.param(18, marks=pytest.mark.long)])
def test_no_word_of_postgresql_is_taken_for_a_damaged_one(major: int) -> None:
    """What ``_pgdump_sql`` claims of keywords and types, asked of PostgreSQL itself."""
    with archives(major).postgresql.server() as server:
        keywords = server.sql("postgres", "SELECT upper(word) FROM pg_get_keywords()").split()
        types = server.sql(
            "postgres",
            "SELECT replace(format_type(oid, NULL), '\"', '') FROM pg_type "
            "WHERE typnamespace = 'pg_catalog'::regnamespace AND typname !~ '^_'",
        ).split()
        functions = server.sql("postgres", "SELECT proname FROM pg_proc WHERE proname = lower(proname)").split()
    assert len(keywords) > 400
    assert [word for word in {*keywords, *types, *functions} if _is_damaged(word.rstrip("[]"))] == []


def test_nearly() -> None:
    assert not nearly("same", "same")
    assert nearly("sale", "same")
    assert not nearly("longer", "long")
    assert not nearly("other", "words")
    assert nearly("s\xe1me", "same")
