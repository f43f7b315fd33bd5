# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A backup as pg_restore gets it: PostgreSQL's own pg_restore makes of it what it makes of the archive that was backed up."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._restore_archive import Fed, RestoreArchive, is_restored

from support import legacy_zip_writer
from support.archives import PASSPHRASE, archives, methods, openssl
from support.directory_dumps import directory_dumps

MAJORS = [15, 17, pytest.param(13, marks=pytest.mark.long), pytest.param(18, marks=pytest.mark.long)]


def fed(path: Path, passphrase: str = PASSPHRASE) -> tuple[RestoreArchive, bytes]:
    """The backup opened, and all that pg_restore would get."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with RestoreArchive(str(path), passphrase, digest) as archive:
        source, pieces = Fed(b"", archive.pieces()), []
        while piece := source.read(100_000):
            pieces.append(piece)
    return archive, b"".join(pieces)


def encrypted(folder: Path, data: bytes) -> Path:
    path = folder / "backup.pgdump.enc.bin"
    path.write_bytes(openssl(data))
    return path


def script_of(major: int, archive: bytes, *options: str) -> bytes:
    """What pg_restore would execute. It makes a new key for psql's \\restrict each time."""
    printed = archives(major).postgresql.run("pg_restore", "--file", "-", *options, stdin=archive)
    return re.sub(rb"\\(un)?restrict \w+", b"", printed)


@pytest.mark.parametrize("database", ["small", "nasty"])
@pytest.mark.parametrize("major", MAJORS)
def test_of_every_compression(tmp_path: Path, major: int, database: str) -> None:
    made = archives(major)
    expected = script_of(major, made.read(database, "none"))
    for method in [*methods(major), "gzip-seekable"]:
        _archive, data = fed(encrypted(tmp_path, made.read(database, method)))
        assert script_of(major, data) == expected, method
        listed = made.postgresql.run("pg_restore", "--list", stdin=data)
        assert re.search(rb"Compression: (none|0)\n", listed), method


@pytest.mark.parametrize("era", legacy_zip_writer.ERAS)
def test_a_legacy_zip_becomes_the_custom_format(tmp_path: Path, era: str) -> None:
    path = tmp_path / "backup.zip"
    path.write_bytes(legacy_zip_writer.make(directory_dumps().read("nasty"), era=legacy_zip_writer.ERAS[era]))
    _archive, data = fed(path, legacy_zip_writer.PASSPHRASE)
    assert data.startswith(b"PGDMP")
    lines = script_of(15, data).split(b"\n")
    begins = [number for number, line in enumerate(lines) if re.match(rb"COPY .* FROM stdin;$", line)]
    rows = [lines.index(b"\\.", begin) - begin - 1 for begin in begins]
    assert sorted(rows) == sorted(directory_dumps().truth("nasty").tables.values())


def test_what_is_left_to_others(tmp_path: Path) -> None:
    archive, data = fed(encrypted(tmp_path, archives(15).read("nasty", "gzip")))
    assert set(archive.extensions) >= {"citext", "pg_trgm"}
    left_out = {entry.description for entry in archive.entries if not is_restored(entry)}
    assert "EXTENSION" in left_out
    assert not {"TABLE", "TABLE DATA", "INDEX", "FK CONSTRAINT", "SEQUENCE SET"} & left_out
    shown = archives(15).postgresql.run("pg_restore", "--list", stdin=data).decode()
    restored = [
        line for line in shown.splitlines() if re.match(rf"({'|'.join(map(str, archive.restored_ids))});", line)
    ]
    # What pg_restore sets in any case has no line.
    always = {"ENCODING", "STDSTRINGS", "SEARCHPATH"}
    assert len(restored) == len([e for e in archive.entries if is_restored(e) and e.description not in always])
    assert not [line for line in restored if " EXTENSION " in line or " ACL " in line]


@pytest.mark.parametrize(
    ("description", "tag", "restored"),
    [
        ("TABLE", "forms", True),
        ("COMMENT", "TABLE forms", True),
        ("COMMENT", "EXTENSION citext", False),
        ("COMMENT", "SCHEMA public", False),
        ("SCHEMA", "public", False),
        ("SCHEMA", "reports", True),
        ("ACL", "TABLE forms", False),
        ("DEFAULT ACL", "DEFAULT PRIVILEGES FOR TABLES", False),
        ("DATABASE", "odk", False),
        ("SUBSCRIPTION", "replica", False),
    ],
)
def test_entries(description: str, tag: str, restored: bool) -> None:
    entry = TocEntry(
        dump_id=1,
        description=description,
        tag=tag,
        namespace="",
        owner="odk",
        definition="",
        copy_statement="",
        has_data=False,
        file_name="",
    )
    assert is_restored(entry) is restored


def grants_of(tmp_path: Path, sql: str) -> list[str]:
    archive, _data = fed(encrypted(tmp_path, archives(15).read("small", "gzip")))
    entry = TocEntry(
        dump_id=1,
        description="ACL",
        tag="TABLE forms",
        namespace="public",
        owner="odk",
        definition=sql,
        copy_statement="",
        has_data=False,
        file_name="",
    )
    archive.entries = [entry]
    return archive.grants


def test_grants_are_taken_and_nothing_else(tmp_path: Path) -> None:
    two = "REVOKE ALL ON TABLE public.forms FROM odk;\nGRANT SELECT ON TABLE public.forms TO reader;\n"
    assert grants_of(tmp_path, two) == [two.strip()]
    for sql in (
        "GRANT SELECT ON TABLE public.forms TO reader;\n\\! touch /tmp/x\n",
        "DROP TABLE forms;",
        "GRANT SELECT ON TABLE public.forms TO reader; DROP TABLE forms;",
    ):
        assert grants_of(tmp_path, sql) == []


def test_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    path = encrypted(tmp_path, archives(15).read("nasty", "none"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    data = bytearray(path.read_bytes())
    position = data.rindex(data[-300:-290])
    data[position] ^= 1
    with RestoreArchive(str(path), PASSPHRASE, digest) as archive:
        path.write_bytes(data)
        with pytest.raises(CentralError) as caught:
            for _piece in archive.pieces():
                pass
    assert caught.value.diagnosis in ("tampered", "corrupt")


def test_a_zip_that_has_changed_since(tmp_path: Path) -> None:
    path = tmp_path / "backup.zip"
    path.write_bytes(legacy_zip_writer.make(directory_dumps().read("small")))
    with pytest.raises(CentralError) as caught:
        RestoreArchive(str(path), legacy_zip_writer.PASSPHRASE, "0" * 64)
    assert caught.value.diagnosis == "tampered"
