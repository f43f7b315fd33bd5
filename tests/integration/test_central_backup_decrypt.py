# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backups of the demo Central, old and new, through verification and decryption back into PostgreSQL."""

from __future__ import annotations

import base64
import io
import secrets
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import Demo, run_module
from support.legacy_zip_writer import ERAS, PASSPHRASE, make

CONNECTION = ("-U", "odk")


def tables(demo: Demo, database: str) -> dict[str, int]:
    """Rows by table, by SQL."""
    listed = demo.execute(
        "postgres14", "psql", "-XqAt", *CONNECTION, "-d", database, "-c",
        "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
    )  # fmt: skip
    count = " UNION ALL ".join(
        "SELECT '{}', count(*) FROM {}".format(name, ".".join(f'"{part}"' for part in name.split(".")))
        for name in listed.split()
    )
    found = demo.execute("postgres14", "psql", "-XqAt", "-F", " ", *CONNECTION, "-d", database, "-c", count)
    return {name: int(rows) for name, rows in (line.split() for line in found.splitlines())}


@pytest.fixture
def dump(demo: Demo) -> dict[str, bytes]:
    """The demo's database as pg_dump writes it for an old Central: four jobs, a directory."""
    folder = f"/tmp/dump-{secrets.token_hex(4)}"
    script = (
        f"pg_dump -U odk -j 4 -F d -f {folder} odk && tar -cf - -C {folder} . | base64; status=$?; rm -rf {folder}; "
        "exit $status"
    )
    packed = base64.b64decode(demo.execute("postgres14", "sh", "-c", script))
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        return {Path(member.name).name: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]


@contextmanager
def scratch(demo: Demo) -> Iterator[str]:
    """A database of its own beside Central's."""
    name = f"scratch_{secrets.token_hex(4)}"
    demo.execute("postgres14", "createdb", *CONNECTION, "-T", "template0", name)
    try:
        yield name
    finally:
        demo.execute("postgres14", "dropdb", *CONNECTION, name)


def restore(demo: Demo, dest: Path, database: str) -> None:
    """Give what was decrypted to the pg_restore beside the server."""
    inside = f"/tmp/restore-{secrets.token_hex(4)}"
    container = demo.compose("ps", "-q", "postgres14").strip()
    subprocess.run(["docker", "cp", "-q", dest, f"{container}:{inside}"], check=True)
    try:
        demo.execute("postgres14", "pg_restore", *CONNECTION, "--no-owner", "--exit-on-error", "-d", database, inside)
    finally:
        demo.execute("postgres14", "rm", "-rf", inside)


@pytest.mark.parametrize("era", ["google-2018", "api-v2026.1"])
def test_an_old_backup_verifies_and_restores(demo: Demo, dump: dict[str, bytes], tmp_path: Path, era: str) -> None:
    src, dest = tmp_path / "old.zip", tmp_path / "dump.d"
    src.write_bytes(make(dump, era=ERAS[era]))
    expected = tables(demo, "odk")

    verified = run_module("central_backup_verify", {"path": str(src), "passphrase": PASSPHRASE})
    assert verified.rc == 0, verified.stdout
    assert verified["tables"] == expected
    blobs = demo.psql("SELECT s3_status, count(*) FROM blobs GROUP BY 1")
    assert verified["central"]["blobs"] == {
        status: int(count) for status, count in (line.split("\t") for line in blobs.splitlines())
    }
    assert verified["central"]["migrations"] == int(demo.psql("SELECT count(*) FROM knex_migrations"))

    decrypted = run_module("central_backup_decrypt", {"src": str(src), "dest": str(dest), "passphrase": PASSPHRASE})
    assert decrypted.rc == 0, decrypted.stdout
    assert {path.name: path.read_bytes() for path in dest.iterdir()} == dump
    with scratch(demo) as database:
        restore(demo, dest, database)
        assert tables(demo, database) == expected


def test_a_new_backup_decrypts_and_restores(demo: Demo, tmp_path: Path, passphrase: str) -> None:
    src, dest = tmp_path / "new.pgdump.enc.bin", tmp_path / "dump"
    made = run_module("central_backup", {**demo.login, "dest": str(src), "passphrase": passphrase})
    assert made.rc == 0, made.stdout

    decrypted = run_module(
        "central_backup_decrypt",
        {"src": str(src), "dest": str(dest), "passphrase": passphrase, "expected_sha256": made["sha256"]},
    )

    assert decrypted.rc == 0, decrypted.stdout
    assert decrypted["tables"] == made["tables"]
    by_hand = subprocess.run(
        ["openssl", "enc", "-d", "-chacha20", "-pbkdf2", "-pass", "env:TEST_PASSPHRASE", "-in", src],
        env={"PATH": "/usr/bin:/bin", "TEST_PASSPHRASE": passphrase},
        check=True,
        capture_output=True,
    )
    assert dest.read_bytes() == by_hand.stdout
    with scratch(demo) as database:
        restore(demo, dest, database)
        assert tables(demo, database) == decrypted["tables"]
