# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""central_backup_decrypt: what it writes is what openssl and pg_restore say, and it leaves nothing when it fails."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pty
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support import run_module
from support.archives import archives, openssl
from support.decrypting import MODULE, left, options
from support.directory_dumps import directory_dumps
from support.legacy_zip_writer import ERAS, PASSPHRASE, make
from support.paths import ROOT

pytest_plugins = ["support.decrypt_fixtures"]


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a directory."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("database", ["small", "nasty"])
@pytest.mark.parametrize("method", ["gzip", "none"])
def test_a_new_backup_is_what_openssl_makes_of_it(tmp_path: Path, database: str, method: str) -> None:
    src, dest = tmp_path / "new.pgdump.enc.bin", tmp_path / "dump"
    src.write_bytes(openssl(archives(15).read(database, method), passphrase=PASSPHRASE))

    done = run_module(MODULE, options(src, dest))

    assert done.rc == 0, done.stdout
    assert dest.read_bytes() == openssl(src.read_bytes(), "-d", passphrase=PASSPHRASE)
    assert stat.S_IMODE(dest.stat().st_mode) == 0o600
    assert (done["dump_format"], done["dest"], done["changed"]) == ("custom", str(dest), True)
    assert done["tables"] == archives(15).truth(database).tables
    assert archives(15).postgresql.restores(dest.read_bytes())
    assert left(tmp_path) == ["dump"]


@pytest.mark.parametrize("era", ERAS)
def test_an_old_backup_becomes_the_directory_that_was_zipped(tmp_path: Path, era: str) -> None:
    src, dest = tmp_path / "old.zip", tmp_path / "dump.d"
    src.write_bytes(make(directory_dumps().read(), era=ERAS[era]))

    done = run_module(MODULE, options(src, dest))

    assert done.rc == 0, done.stdout
    assert contents(dest) == directory_dumps().read()
    assert stat.S_IMODE(dest.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in dest.iterdir()} == {0o600}
    assert (done["dump_format"], done["dest"], done["format"]) == ("directory", str(dest), "zip")
    assert (done["path"], done["size"]) == (str(src), src.stat().st_size)
    assert done["sha256"] == hashlib.sha256(src.read_bytes()).hexdigest()
    assert left(tmp_path) == ["dump.d"]


def restored(postgresql: Any, files: Path, *arguments: str) -> bytes:
    """What pg_restore says of a dump in the directory format. Its programs see their own root directory only."""
    inside = postgresql.root / "tmp" / files.name
    shutil.copytree(files, inside)
    try:
        subprocess.run(["chown", "-R", "26:26", inside], check=True)
        return bytes(postgresql.run("pg_restore", *arguments, f"/tmp/{files.name}"))
    finally:
        shutil.rmtree(inside)


@pytest.mark.parametrize(("major", "method"), [(15, "gzip"), (15, "none"), (17, "zstd"), (17, "lz4")])
def test_pg_restore_reads_the_directory(tmp_path: Path, major: int, method: str) -> None:
    dumps = directory_dumps(major)
    original = tmp_path / f"original-{os.getpid()}"
    original.mkdir()
    for name, content in dumps.read("nasty", method).items():
        (original / name).write_bytes(content)
    src, dest = tmp_path / "old.zip", tmp_path / f"decrypted-{os.getpid()}"
    src.write_bytes(make(dumps.read("nasty", method)))

    assert run_module(MODULE, options(src, dest)).rc == 0

    listed = restored(dumps.postgresql, dest, "--list")
    assert b"TABLE DATA public blobs" in listed
    sql = restored(dumps.postgresql, dest, "--file=-")
    # pg_restore since August 2025 puts a random word between the data and psql.
    assert _without_words(sql) == _without_words(restored(dumps.postgresql, original, "--file=-"))


def _without_words(sql: bytes) -> list[bytes]:
    return [line for line in sql.split(b"\n") if not line.startswith((b"\\restrict", b"\\unrestrict"))]


def test_a_real_old_one(tmp_path: Path, samples: Path) -> None:
    src, dest = samples / "legacy-v2024.1.0-pass.zip", tmp_path / f"real-{os.getpid()}"

    done = run_module(MODULE, {"src": str(src), "dest": str(dest), "passphrase": "correct horse"})

    assert done.rc == 0, done.stdout
    listed = restored(archives(15).postgresql, dest, "--list")
    assert b"Format: DIRECTORY" in listed
    assert listed.count(b"TABLE DATA") == 33


@pytest.mark.parametrize("name", ["new-pg14-gzip-pass", "new-pg14-gzip-nopass", "new-blobs-pg14-gzip-pass"])
def test_a_real_new_one(tmp_path: Path, samples: Path, name: str) -> None:
    src, dest = samples / f"{name}.pgdump.enc.bin", tmp_path / "dump"
    passphrase = None if "nopass" in name else "correct horse"

    done = run_module(MODULE, {"src": str(src), "dest": str(dest), "passphrase": passphrase})

    assert done.rc == 0, done.stdout
    assert done["encrypted"] == (passphrase is not None)
    assert dest.read_bytes() == openssl(src.read_bytes(), "-d", passphrase=passphrase or "")
    assert archives(15).postgresql.restores(dest.read_bytes())


def test_a_backup_without_a_passphrase(tmp_path: Path) -> None:
    src, dest = tmp_path / "old.zip", tmp_path / "dump.d"
    src.write_bytes(make(directory_dumps().read(), passphrase=""))

    done = run_module(MODULE, {"src": str(src), "dest": str(dest)})

    assert (done.rc, done["encrypted"]) == (0, False)
    assert contents(dest) == directory_dumps().read()


def test_the_passphrase_from_a_file(tmp_path: Path, old_backup: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_text(PASSPHRASE + "\n", "utf-8")

    done = run_module(
        MODULE, {"src": str(old_backup), "dest": str(tmp_path / "dump.d"), "passphrase_file": str(secret)}
    )

    assert done.rc == 0, done.stdout
    assert PASSPHRASE not in done.stdout


def test_check_mode_verifies_all_and_writes_nothing(tmp_path: Path, backup: Path) -> None:
    dest = tmp_path / "dump"
    rehearsed = run_module(MODULE, options(backup, dest), check=True)

    assert left(tmp_path) == []
    done = run_module(MODULE, options(backup, dest))
    assert rehearsed.rc == done.rc == 0
    assert {name: value for name, value in rehearsed.result.items() if name != "invocation"} == {
        name: value for name, value in done.result.items() if name != "invocation"
    }


def test_known_bad_blobs_are_accepted(tmp_path: Path) -> None:
    """An attachment that the live database itself holds wrong."""
    files = directory_dumps().read(method="none")
    name = next(name for name, content in files.items() if b"image/jpeg" in content)
    lines = files[name].split(b"\n")
    fields = lines[2].split(b"\t")
    fields[1] = b"0" * 40
    lines[2] = b"\t".join(fields)
    src = tmp_path / "old.zip"
    src.write_bytes(make({**files, name: b"\n".join(lines)}))

    refused = run_module(MODULE, options(src, tmp_path / "dump"))
    accepted = run_module(MODULE, options(src, tmp_path / "dump", known_bad_blobs=[int(fields[0])]))

    assert (refused.diagnosis, refused["bad_blobs"]) == ("blob_mismatch", [int(fields[0])])
    assert accepted.rc == 0, accepted.stdout


def by_hand(src: Path, dest: Path, passphrase: str) -> None:
    """The program in docs/decrypt.md, its passphrase typed at a terminal."""
    text = (ROOT / "docs" / "decrypt.md").read_text("utf-8")
    program = text.split("```python\n")[1].split("```")[0]
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", program, str(src), str(dest)])  # noqa: S606
    asked = b""
    while b"Passphrase: " not in asked:
        asked += os.read(terminal, 1000)
    os.write(terminal, passphrase.encode() + b"\n")
    with contextlib.suppress(OSError):
        while os.read(terminal, 1000):
            pass
    _child, status = os.waitpid(child, 0)
    os.close(terminal)
    assert status == 0


def test_by_hand_it_is_the_same(tmp_path: Path) -> None:
    src = tmp_path / "old.zip"
    src.write_bytes(make(directory_dumps().read("nasty")))

    by_hand(src, tmp_path / "by-hand", PASSPHRASE)

    assert run_module(MODULE, options(src, tmp_path / "dump.d")).rc == 0
    assert contents(tmp_path / "dump.d") == contents(tmp_path / "by-hand")


def test_by_hand_a_real_one_is_the_same(tmp_path: Path, samples: Path) -> None:
    src = samples / "legacy-v2024.1.0-pass.zip"

    by_hand(src, tmp_path / "by-hand", "correct horse")

    assert run_module(MODULE, options(src, tmp_path / "dump.d", passphrase="correct horse")).rc == 0
    assert contents(tmp_path / "dump.d") == contents(tmp_path / "by-hand")
