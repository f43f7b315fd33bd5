# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the rows of a dump say, with rows made up for each case; real dumps are in ``test_pgdump_archive.py``."""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _facts
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import BlobFact, Facts, TablePart

END = b"\\.\n\n\n"
BLOBS = ["id", "sha", "content", "contentType", "md5", "s3_status", "size"]


def sha1(value: bytes) -> str:
    return hashlib.sha1(value, usedforsecurity=False).hexdigest()


def give(facts: Facts, name: str, columns: list[str], *rows: bytes, namespace: str = "public") -> int:
    """The rows of a table, in one piece."""
    table = facts.table(namespace, name, columns)
    table.feed(b"".join(row + b"\n" for row in rows) + END)
    return table.finish()


def blob(
    number: int, value: bytes | None, sha: str | None = None, status: bytes = b"pending", size: bytes = b"\\N"
) -> bytes:
    content = b"\\N" if value is None else b"\\\\x" + value.hex().encode()
    digest = sha if sha is not None else sha1(value or b"")
    return b"\t".join([b"%d" % number, digest.encode(), content, b"image/jpeg", b"\\N", status, size])


def refused(facts: Facts, *arguments: Any) -> str:
    with pytest.raises(CentralError) as caught:
        give(facts, *arguments)
    return caught.value.diagnosis


def test_blobs() -> None:
    seen: list[BlobFact] = []
    facts = Facts(seen.append)
    rows = [
        blob(1, b"one"),
        blob(2, None, "a" * 40, b"uploaded", b"7"),
        blob(3, b"", status=b"skipped"),
        blob(4, b"x", "b" * 40),
    ]
    assert give(facts, "blobs", BLOBS, *rows) == 4
    assert seen[0] == BlobFact(1, sha1(b"one"), None, 3, "pending", True)
    assert seen[1] == BlobFact(2, "a" * 40, None, 7, "uploaded", False)
    assert seen[2].size == 0
    assert facts.blobs == {"pending": 2, "skipped": 1, "uploaded": 1}
    assert facts.blobs_in_database == 3
    assert facts.bad_blobs == [4]
    facts.tables = {f"public.{name}": 1 for name in _facts.TABLES_OF_CENTRAL}
    with pytest.raises(CentralError, match=r"1 blob\(s\).*id 4") as caught:
        facts.check()
    assert caught.value.diagnosis == "blob_mismatch"
    assert caught.value.details == {"bad_blobs": [4]}
    facts.check(frozenset({4}))


def test_blobs_of_an_old_central_have_no_status_and_no_size() -> None:
    facts = Facts()
    row = b"\t".join([b"1", sha1(b"x").encode(), b"\\\\x78", b"text/plain"])
    assert give(facts, "blobs", BLOBS[:4], row) == 1
    assert facts.blobs == {"pending": 1}
    assert facts.bad_blobs == []


@pytest.mark.parametrize("size", [1_100_000, 3_000_001])
def test_a_blob_larger_than_what_is_kept(size: int) -> None:
    value = bytes(range(256)) * (size // 256) + b"end"
    for shown in (b"\\\\x" + value.hex().encode(), value_escaped(value)):
        seen: list[BlobFact] = []
        facts = Facts(seen.append)
        data = b"1\t" + sha1(value).encode() + b"\t" + shown + b"\ttext/plain\t\\N\tpending\t\\N\n" + END
        table = facts.table("public", "blobs", BLOBS)
        for start in range(0, len(data), 500_003):
            table.feed(data[start : start + 500_003])
        assert table.finish() == 1
        assert facts.bad_blobs == []
        assert seen[0].size == len(value)


def value_escaped(value: bytes) -> bytes:
    shown = b"".join(
        b"\\\\" if byte == 92 else bytes([byte]) if 32 <= byte < 127 else b"\\%03o" % byte for byte in value
    )
    return shown.replace(b"\\", b"\\\\")


def test_a_long_row_without_content() -> None:
    facts = Facts()
    data = b"1\t" + b"a" * 40 + b"\t\\N\t" + b"t" * 1_500_000 + b"\t\\N\tuploaded\t9\n" + END
    table = facts.table("public", "blobs", BLOBS)
    for start in range(0, len(data), 600_000):
        table.feed(data[start : start + 600_000])
    assert table.finish() == 1
    assert facts.blobs == {"uploaded": 1}
    assert facts.blobs_in_database == 0


@pytest.mark.parametrize(
    "row",
    [
        b"x\t" + b"a" * 40 + b"\t\\N\tt\t\\N\tpending\t\\N",
        b"1\t" + b"a" * 40 + b"\t\\\\x0\tt\t\\N\tpending\t\\N",
        b"1\t" + b"a" * 40 + b"\t\\\\xzz\tt\t\\N\tpending\t\\N",
        b"1\t" + b"a" * 40 + b"\t\\N\tt\t\\N\tpending\tmany",
        b"1\t" + b"a" * 40 + b"\t\\N\tt\t\\N\tPENDING\t1",
        b"1\t" + b"a" * 40 + b"\t\\N\tt\t\\N\tpending",
        b"\\N\t" + b"a" * 40 + b"\t\\N\tt\t\\N\tpending\t1",
    ],
)
def test_rows_of_blobs_that_central_does_not_write(row: bytes) -> None:
    assert refused(Facts(), "blobs", BLOBS, row) == "corrupt"


def test_too_many_kinds_of_status() -> None:
    rows = [blob(n, None, "a" * 40, b"s" * (n + 1)) for n in range(20)]
    assert refused(Facts(), "blobs", BLOBS, *rows) == "corrupt"


def test_a_table_of_blobs_that_is_not_centrals_is_only_counted() -> None:
    facts = Facts()
    assert give(facts, "blobs", ["id", "other"], b"1\tx") == 1
    assert give(facts, "blobs", BLOBS, blob(1, b"x", "b" * 40), namespace="other") == 1
    assert facts.blobs == {}


def test_migrations_and_versions() -> None:
    facts = Facts()
    give(
        facts, "knex_migrations", ["id", "name"], b"1\t20180101-01-a.js", b"2\t20260717-01-b.js", b"3\t20200101-01-c.js"
    )
    rows = [
        b'5\tupgrade.server\t{"version": "new", "server": "s", "client": "c"}',
        b'4\tupgrade.server\t{"version": "older"}',
        b'9\tuser.create\t{"upgrade.server": "no"}',
        b"10\tupgrade.server\t\\N",
        b"11\tupgrade.server\tno json",
        b"x\tupgrade.server\t{}",
        b"12\tupgrade.server\t[]",
    ]
    give(facts, "audits", ["id", "action", "details"], *rows[:3], *rows[4:])
    summary = facts.summary()
    assert (summary["version"], summary["backend_version"], summary["frontend_version"]) == ("new", "s", "c")
    assert (summary["migration"], summary["migrations"]) == ("20260717-01-b.js", 3)
    give(facts, "audits", ["id", "action", "details"], b'99\tupgrade.server\t{"version": 7}')
    assert facts.summary()["version"] is None


def test_a_dump_without_anything_to_say() -> None:
    summary = Facts().summary()
    assert summary["version"] is None
    assert summary["migration"] is None
    assert (summary["migrations"], summary["enketo_ids"], summary["blobs"]) == (0, 0, {})
    with pytest.raises(CentralError, match="knex_migrations, projects") as caught:
        Facts().check()
    assert caught.value.diagnosis == "not_a_central_backup"


def test_a_draft_of_a_form_that_is_not_there() -> None:
    facts = Facts()
    give(facts, "form_defs", ["id", "formId", "enketoId", "draftToken"], b"1\t7\tabc\ttoken")
    (link,) = facts.links()
    assert (link.project_id, link.xml_form_id, link.draft_token) == (0, "", "token")


@pytest.mark.parametrize("row", [b"x\t1\ta\t\\N\t\\N", b"1\t\\N\ta\t\\N\t\\N", b"1\t" + b"9" * 5000 + b"\ta\t\\N\t\\N"])
def test_rows_of_forms_that_central_does_not_write(row: bytes) -> None:
    assert refused(Facts(), "forms", ["id", "projectId", "xmlFormId", "enketoId", "enketoOnceId"], row) == "corrupt"


def test_an_old_central_without_enketo() -> None:
    facts = Facts()
    assert give(facts, "forms", ["id", "projectId", "xmlFormId"], b"1\t1\ta") == 1
    assert give(facts, "form_defs", ["id", "formId"], b"1\t1") == 1
    assert facts.links() == []


def test_more_than_a_central_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_facts, "_MAXIMUM_LINKS", 2)
    monkeypatch.setattr(_facts, "_MAXIMUM_MIGRATIONS", 2)
    forms = ["id", "projectId", "xmlFormId"]
    assert refused(Facts(), "forms", forms, b"1\t1\ta", b"2\t1\ta", b"3\t1\ta") == "corrupt"
    drafts = ["id", "formId", "enketoId"]
    assert refused(Facts(), "form_defs", drafts, b"1\t1\ta", b"2\t1\ta", b"3\t1\ta") == "corrupt"
    assert refused(Facts(), "knex_migrations", ["name"], b"a", b"b", b"c") == "corrupt"
    assert refused(Facts(), "blobs", BLOBS, *(blob(n, b"x", "a" * 40) for n in range(3))) == "corrupt"
    monkeypatch.setattr(_facts, "_MAXIMUM_LINKS", 1000)
    monkeypatch.setattr(_facts, "_MAXIMUM_TEXT", 5000)
    assert refused(Facts(), "forms", forms, *(b"%d\t1\t" % n + b"x" * 999 for n in range(9))) == "corrupt"
    assert refused(Facts(), "form_defs", drafts, *(b"%d\t1\t" % n + b"x" * 999 for n in range(9))) == "corrupt"


def test_two_readers_know_together_what_one_would_know() -> None:
    """Tables divided between two, in each way that keeps their order."""
    forms = ["id", "projectId", "xmlFormId", "enketoId", "enketoOnceId", "deletedAt"]
    tables: list[tuple[str, list[str], list[bytes]]] = [
        ("audits", ["id", "action", "details"], [b'5\tupgrade.server\t{"version": "new"}', b'4\tupgrade.server\t{}']),
        ("blobs", BLOBS, [blob(1, b"one"), blob(2, None, "a" * 40, b"uploaded", b"7"), blob(3, b"x", "b" * 40)]),
        ("form_defs", ["id", "formId", "enketoId", "draftToken"], [b"1\t7\tabc\ttoken", b"2\t8\tdef\t\\N"]),
        ("forms", forms, [b"7\t1\thousehold\tefg\tonce\t\\N", b"8\t2\twells\t\\N\t\\N\t\\N"]),
        ("knex_migrations", ["id", "name"], [b"1\t20180101-01-first.js", b"2\t20260717-01-latest.js"]),
    ]  # fmt: skip

    def read(part: list[tuple[str, list[str], list[bytes]]]) -> Facts:
        facts = Facts()
        for name, columns, rows in part:
            facts.tables[f"public.{name}"] = give(facts, name, columns, *rows)
            facts.data_size += 100
        return facts

    whole = read(tables)
    assert whole.summary()["version"] == "new"
    assert len(whole.links()) == 3
    for divided in range(len(tables) + 1):
        first, second = read(tables[:divided]), read(tables[divided:])
        first.add(second)
        assert first.summary() == whole.summary()
        assert first.links() == whole.links()
        assert (first.tables, first.migrations, first.bad_blobs) == (whole.tables, whole.migrations, whole.bad_blobs)


@pytest.mark.parametrize("name", ["knex_migrations", "forms", "form_defs", "blobs"])
def test_two_readers_take_no_more_than_a_central_has(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them a part of one table, and together too much."""
    monkeypatch.setattr(_facts, "_MAXIMUM_LINKS", 3)
    monkeypatch.setattr(_facts, "_MAXIMUM_MIGRATIONS", 3)
    columns = {
        "knex_migrations": ["id", "name"],
        "forms": ["id", "projectId", "xmlFormId"],
        "form_defs": ["id", "formId", "enketoId"],
        "blobs": BLOBS,
    }[name]

    def part(*numbers: int) -> Facts:
        facts = Facts()
        row = {"blobs": lambda number: blob(number, b"x", "a" * 40)}.get(name)
        rows = [row(number) if row else b"\t".join([b"%d" % number] * len(columns)) for number in numbers]
        facts.tables[f"public.{name}"] = give(facts, name, columns, *rows)
        return facts

    both = part(1, 2)
    both.add(part(3))
    assert both.tables == {f"public.{name}": 3}
    both = part(1, 2)
    with pytest.raises(CentralError, match=name) as caught:
        both.add(part(3, 4))
    assert caught.value.diagnosis == "corrupt"


def test_two_readers_take_no_more_kinds_of_status_than_one() -> None:
    def part(first: int, last: int) -> Facts:
        facts = Facts()
        give(facts, "blobs", BLOBS, *(blob(n, None, "a" * 40, b"s" + b"x" * n) for n in range(first, last)))
        return facts

    part(0, 8).add(part(8, 16))
    with pytest.raises(CentralError, match="s3_status"):
        part(0, 10).add(part(10, 20))


def test_a_table_in_two_parts_has_one_checksum() -> None:
    def part(text: bytes, expected: int | None = None) -> Facts:
        facts = Facts()
        facts.part = TablePart("public.notes", zlib.adler32(text), len(text), expected)
        return facts

    with pytest.raises(CentralError, match="only one part"):
        part(b"one\n").add(Facts())
    part(b"one\n").add(part(b"two\n", zlib.adler32(b"one\ntwo\n")))
    for wrong in (zlib.adler32(b"one\ntwp\n"), zlib.adler32(b"two\n"), zlib.adler32(b"two\none\n")):
        with pytest.raises(CentralError, match=r"public\.notes does not have the checksum"):
            part(b"one\n").add(part(b"two\n", wrong))
