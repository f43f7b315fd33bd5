# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Archives that real pg_dump made: everything that is read of them, against SQL and ``pg_restore --list``."""

from __future__ import annotations

import io
import re

import pytest
from ansible_collections.odkops.central.plugins.module_utils._facts import BlobFact, LinkFact
from ansible_collections.odkops.central.plugins.module_utils._pgdump_archive import CustomArchive
from ansible_collections.odkops.central.plugins.module_utils._walk import read_alone

from support.archives import archives, methods
from support.verifying import read_plain

ARCHIVE_VERSIONS = {13: "1.14", 15: "1.14", 17: "1.16", 18: "1.16"}
MAJORS = [15, 17, pytest.param(13, marks=pytest.mark.long), pytest.param(18, marks=pytest.mark.long)]
# In the archive of a database with LATIN1, names come back as they are.
DATABASES = ["small", "nasty", "latin1"]


@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("major", MAJORS)
def test_rows_and_blobs_are_those_of_the_database(major: int, database: str) -> None:
    made = archives(major)
    truth = made.truth(database)
    tried = [*(methods(major) if database != "latin1" else ["gzip", "none"]), "gzip-seekable"]
    for method in tried:
        blobs: list[BlobFact] = []
        found = read_plain(made.read(database, method), blobs.append)
        assert found["tables"] == truth.tables, method
        shown = [(blob.id, blob.sha if blob.in_database else None, blob.size, blob.s3_status) for blob in blobs]
        assert sorted(shown) == sorted(truth.blobs), method
        assert found["server_version"] == found["dump_version"] == truth.server
        assert found["archive_version"] == ARCHIVE_VERSIONS[major]
        assert method.startswith(found["compression"])
        assert found["database"] == database


@pytest.mark.parametrize("method", ["gzip", "none"])
def test_the_size_of_all_rows_is_that_of_what_pg_restore_writes(method: str) -> None:
    made = archives(15)
    data = made.read("nasty", method)
    text = made.postgresql.run("pg_restore", "--data-only", "--file", "-", stdin=data)
    rows = re.findall(rb"^COPY [^\n]* FROM stdin;\n(.*?)^\\\.\n", text, re.DOTALL | re.MULTILINE)
    ends = len(b"\\.\n\n\n") * len(rows)
    found = read_plain(data)
    assert len(rows) == len(found["tables"])
    assert found["central"]["data_size"] == sum(map(len, rows)) + ends


@pytest.mark.parametrize("major", MAJORS)
def test_the_table_of_contents_is_that_of_pg_restore(major: int) -> None:
    made = archives(major)
    for database in DATABASES:
        data = made.read(database)
        listed = made.postgresql.run("pg_restore", "--list", stdin=data)
        archive = CustomArchive(io.BytesIO(data))
        encoding = "iso8859-1" if database == "latin1" else "utf-8"
        ours = []
        for entry in archive.entries:
            # It shows names with their odd characters replaced, and a hyphen for none.
            name = " ".join(re.sub("[\n\r]", " ", part) for part in (entry.namespace or "-", entry.tag, entry.owner))
            ours.append(f"{entry.dump_id}; {entry.catalogue} {entry.oid} {entry.description} {name}".encode(encoding))
        theirs = [line for line in listed.split(b"\n") if line and not line.startswith(b";")]
        # Without options it leaves out what stands before the objects, and what belongs to the database as a whole.
        special = (b"ENCODING", b"STDSTRINGS", b"SEARCHPATH", b"DATABASE", b"COMMENT - DATABASE")
        assert {line for line in ours if line not in theirs} == {
            line for line in ours if any(b" " + word in line for word in special) and line not in theirs
        }
        assert set(theirs) <= set(ours)
        count = re.search(rb"TOC Entries: ([0-9]+)", listed)
        assert count is not None
        assert int(count[1]) == len(archive.entries)
        created = re.search(rb"Archive created at (\S+) (\S+)", listed)
        assert created is not None
        assert archive.header.created.encode() == created[1] + b"T" + created[2]


@pytest.mark.parametrize("method", ["gzip", "none"])
def test_what_a_dump_says_of_its_central(method: str) -> None:
    blobs: list[BlobFact] = []
    archive = CustomArchive(io.BytesIO(archives(15).read("nasty", method)))
    facts = read_alone(archive, blobs.append)
    facts.check()
    summary = facts.summary()
    assert summary["version"] == '2026.1.2 \t "é"'
    assert summary["backend_version"] == "v2026.1.1"
    assert summary["frontend_version"] == "v2026.1.0"
    assert summary["migrations"] == 250
    assert summary["migration"] == "20180908-01-migration.js"
    assert summary["blobs"] == {"failed": 5, "pending": 55, "skipped": 1, "uploaded": 4}
    assert summary["blobs_in_database"] == 56
    assert summary["bad_blobs"] == []
    assert (summary["enketo_ids"], summary["enketo_once_ids"], summary["enketo_draft_ids"]) == (2, 2, 2)
    assert facts.links() == [
        LinkFact("enketo-household", "once-household", 1, "household", None),
        LinkFact("enketo-odd", "once-odd", 2, "odd\\form\tid", None),
        LinkFact("enketo-draft-of-wells", None, 1, "wells", "draft-token-of-wells"),
        LinkFact("enketo-old-draft", None, 2, "odd\\form\tid", None),
    ]
    assert next(blob.md5 for blob in blobs if not blob.in_database) is not None


@pytest.mark.parametrize("major", MAJORS)
def test_large_objects_are_walked(major: int) -> None:
    archive = CustomArchive(io.BytesIO(archives(major).read("nasty", "none")))
    found = {}
    for block in archive.blocks():
        size = sum(map(len, block.pieces))
        if block.large_object is not None:
            found[block.large_object] = size
    assert found[4_000_000_000] == len("beyond the sign bit")
    assert found[3_000_000_000] == 5 * 300_000
    assert sorted(size for oid, size in found.items() if oid < 3_000_000_000) == [n * 300 for n in range(6)]


def test_offsets_in_a_file_that_pg_dump_could_go_back_in() -> None:
    data = archives(15).read("small", "gzip-seekable")
    entries = CustomArchive(io.BytesIO(data)).entries
    assert all(entry.position > 0 for entry in entries if entry.has_data)
    assert not any(entry.position for entry in CustomArchive(io.BytesIO(archives(15).read("small"))).entries)
