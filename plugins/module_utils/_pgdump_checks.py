# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a table of contents says twice, compared.

An archive has no checksum, so a flipped bit in its table of contents would change what is restored
and nothing would notice. But pg_dump writes most names more than once: in an entry's fields, in the
SQL that makes the object, and in the SQL that removes it. Two rules keep genuine archives safe:

* what is held exactly against a rule is the same in all versions of PostgreSQL that wrote 1.12 to 1.16
  (numbers of catalogues, sections, ``COPY``);
* everything else is only refused when it is *nearly* what it should be: of the same length, and
  different in a few bits.

Source of the forms: PostgreSQL, src/bin/pg_dump/pg_dump.c (the calls of ArchiveEntry).
"""

from __future__ import annotations

import re

from ansible_collections.odkops.central.plugins.module_utils._copy_statement import read_copy_statement
from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt
from ansible_collections.odkops.central.plugins.module_utils._pgdump_sql import LONG_STATEMENT, check_sql, nearly

# What PostgreSQL 9.6 to 18 call entries; another is accepted unless it is nearly one of these.
_DESCRIPTIONS = frozenset(
    (
        "ACCESS METHOD,ACL,ACL LANGUAGE,AGGREGATE,BLOB,BLOB COMMENTS,BLOB METADATA,BLOBS,CAST,CHECK CONSTRAINT,COLLATION,"
        "COMMENT,CONSTRAINT,CONVERSION,DATABASE,DATABASE PROPERTIES,DEFAULT,DEFAULT ACL,DOMAIN,ENCODING,EVENT TRIGGER,"
        "EXTENSION,FK CONSTRAINT,FOREIGN DATA WRAPPER,FOREIGN TABLE,FUNCTION,INDEX,INDEX ATTACH,MATERIALIZED VIEW,"
        "MATERIALIZED VIEW DATA,OPERATOR,OPERATOR CLASS,OPERATOR FAMILY,POLICY,PROCEDURAL LANGUAGE,PROCEDURE,PUBLICATION,"
        "PUBLICATION TABLE,PUBLICATION TABLES IN SCHEMA,ROW SECURITY,RULE,SCHEMA,SEARCHPATH,SECURITY LABEL,SEQUENCE,"
        "SEQUENCE OWNED BY,SEQUENCE SET,SERVER,SHELL TYPE,STATISTICS,STATISTICS DATA,STDSTRINGS,SUBSCRIPTION,"
        "SUBSCRIPTION TABLE,TABLE,TABLE ATTACH,TABLE DATA,TEXT SEARCH CONFIGURATION,TEXT SEARCH DICTIONARY,"
        "TEXT SEARCH PARSER,TEXT SEARCH TEMPLATE,TRANSFORM,TRIGGER,TYPE,USER MAPPING,VIEW"
    ).split(",")
)

# Numbers of the system catalogues whose rows describe the objects; they never change.
_CATALOGUES = {
    **dict.fromkeys(("TABLE", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE", "SEQUENCE", "INDEX"), 1259),
    **dict.fromkeys(("FUNCTION", "PROCEDURE", "AGGREGATE"), 1255),
    **dict.fromkeys(("CONSTRAINT", "FK CONSTRAINT", "CHECK CONSTRAINT"), 2606),
    **dict.fromkeys(("TYPE", "DOMAIN"), 1247),
    **dict.fromkeys(("TABLE DATA", "SEQUENCE SET", "ENCODING", "STDSTRINGS", "SEARCHPATH", "COMMENT", "ACL"), 0),
    "SCHEMA": 2615,
    "EXTENSION": 3079,
    "TRIGGER": 2620,
    "DEFAULT": 2604,
    "DATABASE": 1262,
}
_SECTIONS = {
    **dict.fromkeys(("TABLE DATA", "BLOBS", "SEQUENCE SET"), 3),
    **dict.fromkeys(("TABLE", "VIEW", "SEQUENCE", "SCHEMA", "EXTENSION", "TYPE", "DOMAIN", "DEFAULT"), 2),
    **dict.fromkeys(("ENCODING", "STDSTRINGS", "SEARCHPATH", "FOREIGN TABLE", "SEQUENCE OWNED BY", "DATABASE"), 2),
    **dict.fromkeys(("INDEX", "FK CONSTRAINT", "TRIGGER", "CONSTRAINT", "RULE"), 4),
}

_STDSTRINGS = re.compile(r"SET standard_conforming_strings = '(on|off)';\n\Z")
_SEARCHPATH = "SELECT pg_catalog.set_config('search_path', '', false);\n"

# SQL that makes and that removes an object; its beginning where a parenthesis is the last, as names of arguments follow there.
# q: schema and name; n: name; f: the same of a function; in entries of two names, t: table, p: its part.
_FORMS: dict[str, tuple[tuple[str, ...], str]] = {
    "TABLE": (("CREATE TABLE {q} (", "CREATE UNLOGGED TABLE {q} ("), "DROP TABLE {q};\n"),
    "FOREIGN TABLE": (("CREATE FOREIGN TABLE {q} (",), "DROP FOREIGN TABLE {q};\n"),
    "VIEW": (("CREATE VIEW {q} AS\n",), "DROP VIEW {q};\n"),
    "MATERIALIZED VIEW": (("CREATE MATERIALIZED VIEW {q} AS\n",), "DROP MATERIALIZED VIEW {q};\n"),
    "SEQUENCE": (("CREATE SEQUENCE {q}\n",), "DROP SEQUENCE {q};\n"),
    "INDEX": (("CREATE INDEX {n} ON ", "CREATE UNIQUE INDEX {n} ON "), "DROP INDEX {q};\n"),
    "TYPE": (("CREATE TYPE {q} AS ",), "DROP TYPE {q};\n"),
    "DOMAIN": (("CREATE DOMAIN {q} AS ",), "DROP DOMAIN {q};\n"),
    "SCHEMA": (("CREATE SCHEMA {n};\n",), "DROP SCHEMA {n};\n"),
    "EXTENSION": (("CREATE EXTENSION IF NOT EXISTS {n} WITH SCHEMA ",), "DROP EXTENSION {n};\n"),
    "FUNCTION": (("CREATE FUNCTION {f}(",), "DROP FUNCTION {f}("),
    "PROCEDURE": (("CREATE PROCEDURE {f}(",), "DROP PROCEDURE {f}("),
    "SEQUENCE SET": (("SELECT pg_catalog.setval('{q}', ",), ""),
    "SEQUENCE OWNED BY": (("ALTER SEQUENCE {q} OWNED BY ",), ""),
    "DATABASE": (("CREATE DATABASE {n} WITH TEMPLATE = template0 ENCODING = ",), "DROP DATABASE {n};\n"),
    "CONSTRAINT": (("ALTER TABLE ONLY {t}\n    ADD CONSTRAINT {p} ",), "ALTER TABLE ONLY {t} DROP CONSTRAINT {p};\n"),
    "FK CONSTRAINT": (
        ("ALTER TABLE ONLY {t}\n    ADD CONSTRAINT {p} FOREIGN KEY (",),
        "ALTER TABLE ONLY {t} DROP CONSTRAINT {p};\n",
    ),
    "DEFAULT": (
        ("ALTER TABLE ONLY {t} ALTER COLUMN {p} SET DEFAULT ",),
        "ALTER TABLE ONLY {t} ALTER COLUMN {p} DROP DEFAULT;\n",
    ),
    "TRIGGER": (("CREATE TRIGGER {p} ",), "DROP TRIGGER {p} ON {t};\n"),
    "COMMENT": (("COMMENT ON ",), ""),
    "ACL": (("GRANT ", "REVOKE "), ""),
}

_COLUMN_LINE = re.compile(r'^    (?:"(?P<quoted>[^"\n]+)"|(?P<plain>[a-z_][a-z0-9_]*)) ', re.MULTILINE)
_ORDINARY = re.compile(r"[A-Za-z0-9_ -]+\Z")

# More schemas than this are not compared with each other.
_MANY = 100


def check_toc(database: str, entries: list[TocEntry]) -> None:
    """Compare what a table of contents says with what else it says.

    :param database: the name of the database in the archive's header
    :raises CentralError: ``corrupt``
    """
    tables = {(entry.namespace, entry.tag): entry for entry in entries if entry.description == "TABLE"}
    for entry in entries:
        _check_fields(entry)
        _check_forms(entry)
        check_sql(entry)
        if entry.description == "TABLE DATA":
            _check_data(entry, tables.get((entry.namespace, entry.tag)))
        elif entry.copy_statement:
            raise _contradiction(entry, "has data that is no table's")
        if entry.description == "DATABASE" and entry.tag != database:
            raise _contradiction(entry, "is another database than the header's")
    _check_namespaces(entries)


def _contradiction(entry: TocEntry, what: str) -> Exception:
    return corrupt(
        f"the entry {entry.dump_id} of its table of contents ({entry.description} {ascii(entry.name)[1:-1]}) {what}"
    )


def _check_fields(entry: TocEntry) -> None:
    kind = entry.description
    if kind not in _DESCRIPTIONS and any(nearly(kind, known) for known in _DESCRIPTIONS):
        raise _contradiction(entry, "is of no kind")
    if entry.catalogue != _CATALOGUES.get(kind, entry.catalogue) or entry.section != _SECTIONS.get(kind, entry.section):
        raise _contradiction(entry, "is not where such entries are")
    if entry.access_method != "heap" and nearly(entry.access_method, "heap"):
        raise _contradiction(entry, "is stored in no known way")
    if kind == "STDSTRINGS" and not _STDSTRINGS.match(entry.definition):
        raise _contradiction(entry, "is not what pg_dump writes")
    if kind == "SEARCHPATH" and entry.definition != _SEARCHPATH and nearly(entry.definition, _SEARCHPATH):
        raise _contradiction(entry, "is not what pg_dump writes")


def _check_forms(entry: TocEntry) -> None:
    forms = _FORMS.get(entry.description)
    if forms is None or '"' in entry.tag:
        return
    names = {"n": entry.tag, "q": entry.name}
    table, space, part = entry.tag.partition(" ")
    names["t"] = f"{entry.namespace}.{table}" if entry.namespace else table
    names["p"] = part
    names["f"] = entry.name.partition("(")[0]
    making, removing = forms
    for form in making:
        if not space and "{p}" in form:
            continue
        expected = form.format(**names)
        start = entry.definition[: 2 * len(expected) + 64].replace('"', "")[: len(expected)]
        if nearly(start, expected):
            raise _contradiction(entry, "is made under another name")
    expected = removing.format(**names)
    found = entry.drop_statement.replace('"', "")
    odd = entry.drop_statement.count('"') % 2  # a bit makes a quote of a space, too
    if odd or nearly(found[: len(expected)] if expected.endswith("(") else found, expected):
        raise _contradiction(entry, "is removed under another name")
    if nearly(entry.definition[-2:], ";\n") or nearly(entry.drop_statement[-2:], ";\n"):
        raise _contradiction(entry, "has a statement without an end")


def _check_data(entry: TocEntry, table: TocEntry | None) -> None:
    statement = read_copy_statement(entry.copy_statement)
    if statement is None:
        if entry.copy_statement.startswith("COPY ") or nearly(entry.copy_statement[:5], "COPY "):
            raise _contradiction(entry, "has a statement of COPY that is none")
        return
    # Version 1.12 relied on the search_path and named no schema.
    if statement.table != entry.tag or statement.namespace not in ("", entry.namespace):
        raise _contradiction(entry, "has the data of another table")
    if entry.definition or entry.drop_statement:
        raise _contradiction(entry, "is made by more than its data")
    if table is None or len(table.definition) > LONG_STATEMENT:
        return  # the table of an extension
    if table.oid != entry.oid:
        raise _contradiction(entry, "is the data of another table of that name")
    # A child has columns of its parent that its own statement does not name.
    if not table.definition.startswith("CREATE ") or "(\n" not in table.definition or "INHERITS (" in table.definition:
        return
    # A typed table names the columns of its type only where it says more of them: CREATE TABLE x OF y (
    if " OF " in table.definition.partition("(\n")[0]:
        return
    if table.definition.find("(\n") != table.definition.find("("):
        return
    columns = {match["plain"] or match["quoted"] for match in _COLUMN_LINE.finditer(table.definition)}
    for column in statement.columns:
        if column not in columns and _ORDINARY.match(column):
            raise _contradiction(entry, f"has a column {column} that its table has not")


def _check_namespaces(entries: list[TocEntry]) -> None:
    known = {entry.tag for entry in entries if entry.description == "SCHEMA"} | {"public", "pg_catalog", ""}
    others = {entry.namespace for entry in entries} - known
    if len(known) > _MANY or len(others) > _MANY:
        return
    for name in others:
        if any(nearly(name, other) for other in known):
            raise corrupt(f"its table of contents names a schema {name!a} that does not exist")
