# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Genuine legacy zips: of each era, of real dumps, of a real Central."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import struct
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils._facts import BlobFact
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, verify_file, verify_stream

from support.directory_dumps import directory_dumps
from support.legacy_zip_writer import ERAS, PASSPHRASE, Era, LegacyBackup, Record, make, write_large
from support.paths import ROOT

DUMPS = [
    (15, "small", "gzip"),
    (15, "small", "none"),
    (15, "nasty", "gzip"),
    (15, "nasty", "none"),
    (17, "small", "gzip"),
    (17, "small", "lz4"),
    (17, "small", "zstd"),
    (17, "nasty", "lz4"),
    (17, "nasty", "zstd"),
]


def verify(data: bytes, passphrase: str | None = PASSPHRASE, blobs: list[BlobFact] | None = None, depth: str = "full"):  # type: ignore[no-untyped-def]
    """Verify a zip that is in memory."""
    take = None if blobs is None else blobs.append
    return verify_stream(io.BytesIO(data), Expectation(passphrase, depth=depth), take, stored=io.BytesIO(data))


@pytest.mark.parametrize("era", ERAS)
def test_every_era_verifies(era: str) -> None:
    dumps = directory_dumps()
    data = make(dumps.read(), era=ERAS[era])

    found = verify(data)

    assert (found.format, found.diagnosis, found.encrypted, found.compression) == ("zip", "ok", True, "gzip")
    assert found.tables == dumps.truth().tables
    assert (found.size, found.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert found.archive_version == "1.14"
    assert found.server_version.startswith(dumps.truth().server)
    assert found.central is not None
    assert found.central["version"] == "2026.1.2"
    assert found.central["migrations"] == 8


@pytest.mark.parametrize(("major", "database", "method"), DUMPS)
def test_every_dump_gives_what_sql_says(major: int, database: str, method: str) -> None:
    dumps = directory_dumps(major)
    truth = dumps.truth(database)
    blobs: list[BlobFact] = []

    found = verify(make(dumps.read(database, method)), blobs=blobs)

    assert found.compression == method
    assert found.tables == truth.tables
    assert found.central is not None
    assert found.central["blobs"] == Counter(status for _number, _digest, _size, status in truth.blobs)
    mine = {blob.id: (blob.sha if blob.in_database else None, blob.size, blob.s3_status) for blob in blobs}
    assert mine == {number: (digest, size, status) for number, digest, size, status in truth.blobs}


def test_a_backup_without_a_passphrase() -> None:
    found = verify(make(directory_dumps().read(), passphrase=""), None)

    assert (found.encrypted, found.diagnosis) == (False, "ok")


def test_a_passphrase_in_other_alphabets() -> None:
    passphrase = "Größe 🦀 \t'\"\\ $(x) 日本"

    assert verify(make(directory_dumps().read(), passphrase=passphrase), passphrase).encrypted


def test_depth_passphrase_reads_no_data() -> None:
    def spoil(backup: LegacyBackup) -> None:
        name = next(name for name in backup.files if name.endswith(".dat.gz"))
        backup.change(name, crc=1)

    found = verify(make(directory_dumps().read(), spoil), depth="passphrase")

    assert (found.depth, found.archive_version, found.tables, found.sha256) == ("passphrase", "1.14", None, None)


@pytest.mark.parametrize("place", [0, 3, -1])
def test_keepalive_is_ignored_wherever_it_is_and_whatever_it_holds(place: int) -> None:
    def move(backup: LegacyBackup) -> None:
        backup.records.insert(place, Record(b"keepalive", b"", crc=1, stored=b"neither deflate nor anything"))

    found = verify(make(directory_dumps().read(), move, era=Era(keepalive=False, level=9)))

    assert found.tables == directory_dumps().truth().tables


def test_order_of_the_members_is_free() -> None:
    data = make(directory_dumps().read(), lambda backup: backup.records.reverse())

    assert verify(data).tables == directory_dumps().truth().tables


def test_sizes_of_64_bits() -> None:
    backup = LegacyBackup(directory_dumps().read())

    data = backup.build(zip64=True)

    assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None
    assert verify(data).tables == directory_dumps().truth().tables


def test_sizes_of_64_bits_in_a_local_header() -> None:
    """As Python's zipfile writes them; Central does not."""
    backup = LegacyBackup(directory_dumps().read())
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for record in zipfile_records(backup):
            with archive.open(record[0], "w", force_zip64=True) as member:
                member.write(record[1])

    assert verify(out.getvalue()).tables == directory_dumps().truth().tables


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("seekable", [False, True])
def test_zips_of_another_writer(stored: bool, seekable: bool) -> None:
    """Python's zipfile: sizes in the local headers where it can go back, descriptors where it cannot."""
    backup = LegacyBackup(directory_dumps().read())
    out = io.BytesIO()
    if not seekable:
        out.seekable = lambda: False  # type: ignore[method-assign]
        out.tell = lambda: (_none for _none in ()).throw(OSError())  # type: ignore[method-assign]
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
        for name, content in zipfile_records(backup):
            archive.writestr(name, content)
    data = out.getvalue()

    assert (struct.unpack_from("<H", data, 6)[0] & 8 == 0) == seekable
    assert verify(data).tables == directory_dumps().truth().tables


def zipfile_records(backup: LegacyBackup) -> list[tuple[str, bytes]]:
    """Names and contents of all members."""
    with zipfile.ZipFile(io.BytesIO(backup.build())) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def test_the_writer_makes_what_unzip_accepts(tmp_path: Path) -> None:
    unzip = shutil.which("unzip")
    for zip64 in (False, True):
        path = tmp_path / f"{zip64}.zip"
        path.write_bytes(LegacyBackup(directory_dumps().read()).build(zip64=zip64))
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
        if unzip:
            assert subprocess.run([unzip, "-tq", path], check=False, stdout=subprocess.DEVNULL).returncode == 0


def test_a_real_one(samples: Path) -> None:
    """Facts from the samples' own page: 1 project, 1 form, 12 submissions, 12 blobs."""
    blobs: list[BlobFact] = []

    found = verify_file(str(samples / "legacy-v2024.1.0-pass.zip"), Expectation("correct horse"), blobs.append)

    assert found.tables is not None
    assert [found.tables[f"public.{name}"] for name in ("projects", "forms", "submissions", "blobs")] == [1, 1, 12, 12]
    assert found.server_version.startswith("14.22")
    assert found.central is not None
    assert (found.central["migrations"], found.central["blobs_in_database"]) == (161, 12)
    assert all(blob.in_database for blob in blobs)


def test_no_thread_is_left() -> None:
    before = threading.active_count()
    data = make(directory_dumps().read())

    verify(data)

    assert threading.active_count() == before


def test_nothing_is_written_to_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """All writes of a process go through open(2): none is opened for writing while a zip is verified."""
    data = make(directory_dumps().read())
    opened: list[object] = []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and watching and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            opened.append(arguments)

    watching = False
    sys.addaudithook(watch)
    watching = True
    verify(data)
    watching = False

    assert opened == []


MEASURE = r"""
import re, sys
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, verify_file
found = verify_file(sys.argv[1], Expectation("correct horse battery staple"))
# Not ru_maxrss, which remembers the process that started this one.
print(found.tables["public.submissions"], re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.parametrize("megabytes", [200, pytest.param(5000, marks=pytest.mark.long)])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, megabytes: int) -> None:
    """Rows that do not compress; at 5,000 MB the file needs the sizes and offsets of 64 bits."""
    dumps = directory_dumps()
    files = {name: (lambda content=content: [content]) for name, content in dumps.read(method="none").items()}
    name = next(name for name, content in dumps.read(method="none").items() if b"uuid:" in content)
    rows = b"".join(b"%d\tuuid:%s\t1\n" % (n, os.urandom(24).hex().encode()) for n in range(16_000))
    times = megabytes * 1_000_000 // len(rows)
    files[name] = lambda: [*([rows] * times), b"\\.\n\n\n"]
    path = tmp_path / "large.zip"
    with path.open("wb") as file:
        write_large(file, files)

    done = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True, cwd=ROOT)

    count, peak = map(int, done.stdout.split())
    path.unlink()
    assert count == times * 16_000
    assert peak < 150 * 1024
