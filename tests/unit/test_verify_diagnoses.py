# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a file is, and what is wrong with it: one test for each diagnosis of a backup."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, verify_file, verify_stream

from support.archives import PASSPHRASE, archives, openssl
from support.pgdump_writer import Writer, central, table
from support.verifying import flipped, toc_end


@pytest.fixture(scope="module")
def encrypted() -> bytes:
    """A backup, encrypted by openssl."""
    return openssl(archives(15).read())


def refused(tmp_path: Path, data: bytes, passphrase: str | None = PASSPHRASE, **expectation: Any) -> CentralError:
    path = tmp_path / "backup"
    path.write_bytes(data)
    with pytest.raises(CentralError) as caught:
        verify_file(str(path), Expectation(passphrase, **expectation))
    assert PASSPHRASE not in str(caught.value)
    assert PASSPHRASE not in repr(caught.value.details)
    return caught.value


def test_a_whole_backup(tmp_path: Path, encrypted: bytes) -> None:
    path = tmp_path / "backup"
    path.write_bytes(encrypted)
    digest = hashlib.sha256(encrypted).hexdigest()
    found = verify_file(str(path), Expectation(PASSPHRASE, sha256=digest)).as_dict()
    assert found["diagnosis"] == "ok"
    assert (found["format"], found["encrypted"], found["depth"]) == ("pgdump.enc", True, "full")
    assert (found["sha256"], found["size"]) == (digest, len(encrypted))
    assert found["tables"] == archives(15).truth().tables
    assert found["central"]["version"] == "2026.1.2"


def test_the_passphrase_alone(tmp_path: Path, encrypted: bytes) -> None:
    path = tmp_path / "backup"
    path.write_bytes(encrypted[: 16 + toc_end(archives(15).read())])
    found = verify_file(str(path), Expectation(PASSPHRASE, depth="passphrase"))
    assert (found.diagnosis, found.depth, found.sha256, found.tables) == ("ok", "passphrase", None, None)
    assert refused(tmp_path, encrypted, "not the passphrase at all", depth="passphrase").diagnosis == "wrong_passphrase"
    assert refused(tmp_path, archives(15).read(), depth="passphrase").diagnosis == "unencrypted"


def test_a_backup_made_without_a_passphrase(tmp_path: Path) -> None:
    data = openssl(archives(15).read(), passphrase="")
    for none in (None, ""):
        found = verify_stream(io.BytesIO(data), Expectation(none))
        assert (found.diagnosis, found.encrypted) == ("ok", False)
    assert refused(tmp_path, data).diagnosis == "empty_passphrase"


def test_wrong_passphrases(tmp_path: Path, encrypted: bytes) -> None:
    assert "and none was given" in str(refused(tmp_path, encrypted, None))
    for passphrase in (None, "", PASSPHRASE + " ", PASSPHRASE.upper(), "null"):
        assert refused(tmp_path, encrypted, passphrase).diagnosis == "wrong_passphrase"


@pytest.mark.parametrize("length", range(17))
def test_files_of_a_few_bytes(tmp_path: Path, encrypted: bytes, length: int) -> None:
    found = refused(tmp_path, encrypted[:length])
    assert found.diagnosis == ("dump_failed" if length == 16 else "truncated")


@pytest.mark.parametrize("length", [17, 20, 21, 60, 100, 5000, -1])
def test_a_backup_cut_short(tmp_path: Path, encrypted: bytes, length: int) -> None:
    assert refused(tmp_path, encrypted[:length]).diagnosis == "truncated"


def test_damage_to_the_first_bytes(tmp_path: Path, encrypted: bytes) -> None:
    for position in range(21):
        found = refused(tmp_path, flipped(encrypted, position, position % 8)).diagnosis
        # The salt gives another key, which looks like another passphrase: the message says so.
        assert found == ("wrong_passphrase" if 8 <= position < 16 else "corrupt"), position


def test_damage_in_the_middle_and_more_at_the_end(tmp_path: Path, encrypted: bytes) -> None:
    assert refused(tmp_path, flipped(encrypted, len(encrypted) - 200, 3)).diagnosis == "corrupt"
    assert refused(tmp_path, encrypted + b"\0").diagnosis == "corrupt"
    assert refused(tmp_path, encrypted + encrypted).diagnosis == "corrupt"


def test_another_file_than_the_recorded_one(tmp_path: Path, encrypted: bytes) -> None:
    digest = hashlib.sha256(encrypted).hexdigest()
    found = refused(tmp_path, openssl(archives(15).read()), sha256=digest)
    assert found.diagnosis == "tampered"
    assert found.details["sha256"] != digest
    assert refused(tmp_path, encrypted, sha256="0" * 64).diagnosis == "tampered"


def test_what_was_recorded_tells_damage_from_other_faults(tmp_path: Path, encrypted: bytes) -> None:
    digest = hashlib.sha256(encrypted).hexdigest()
    damaged = [encrypted[:-1], encrypted[:16], encrypted + b"x", flipped(encrypted, 3, 1), flipped(encrypted, 10, 1)]
    for data in [*damaged, flipped(encrypted, len(encrypted) - 200, 3), b"<html></html>", b"PK\x03\x04"]:
        found = refused(tmp_path, data, sha256=digest)
        assert found.diagnosis == "tampered"
        assert found.details["sha256"] == hashlib.sha256(data).hexdigest()
    assert "cut short" in str(refused(tmp_path, encrypted[:-1], sha256=digest)), "what is wrong is said, too"
    assert refused(tmp_path, encrypted, "another passphrase", sha256=digest).diagnosis == "wrong_passphrase"


def test_an_archive_that_is_not_encrypted_is_read_all_the_same(tmp_path: Path) -> None:
    data = archives(15).read()
    found = refused(tmp_path, data)
    assert found.diagnosis == "unencrypted"
    assert found.details["tables"] == archives(15).truth().tables
    assert found.details["sha256"] == hashlib.sha256(data).hexdigest()
    assert refused(tmp_path, data[:-1]).diagnosis == "truncated"


@pytest.mark.parametrize(
    "page",
    [
        b"<html><head><title>502 Bad Gateway</title></head></html>",
        b'{"message": "Could not authenticate with the provided credentials.", "code": 401.2}',
        b"\n\n  <!DOCTYPE html>\n<html>",
        "<p>größer</p>".encode("utf-16"),
        b"\xef\xbb\xbf<html>",
        b"<" + b"x" * 600,
    ],
)
def test_error_pages(tmp_path: Path, page: bytes) -> None:
    assert refused(tmp_path, page).diagnosis in ("error_page", "not_a_central_backup")
    if page[:1] in b"<{\n":
        found = refused(tmp_path, page)
        assert found.diagnosis == "error_page"
        assert ("502 Bad Gateway" in str(found)) == (b"502" in page)
        assert len(str(found)) < 300


@pytest.mark.parametrize(
    "data", [b"\0" * 5000, b"some text", b"\x1f\x8b gzip", b"-- PostgreSQL database dump", b"pgdmp" * 20]
)
def test_other_files(tmp_path: Path, data: bytes) -> None:
    found = refused(tmp_path, data)
    assert found.diagnosis == "not_a_central_backup"


def test_a_dump_of_another_database(tmp_path: Path) -> None:
    data = openssl(Writer().archive([*central()[:1], table(9, "orders", "id", "1")]))
    found = refused(tmp_path, data)
    assert found.diagnosis == "not_a_central_backup"
    assert "no data of knex_migrations, projects, forms, submissions, blobs" in str(found)


def test_blobs_that_are_not_what_their_digest_says(tmp_path: Path) -> None:
    entries = [*central()[:-1], table(14, "blobs", "id, sha, content", "77\t" + "0" * 40 + "\t\\\\x00")]
    data = openssl(Writer().archive(entries))
    found = refused(tmp_path, data)
    assert (found.diagnosis, found.details) == ("blob_mismatch", {"bad_blobs": [77]})
    accepted = verify_stream(io.BytesIO(data), Expectation(PASSPHRASE, known_bad_blobs=frozenset({77})))
    assert accepted.as_dict()["central"]["bad_blobs"] == [77]


def test_newer_and_older_archives(tmp_path: Path) -> None:
    assert refused(tmp_path, openssl(Writer((1, 17)).archive(central()))).diagnosis == "archive_too_new"
    assert refused(tmp_path, openssl(Writer((1, 10)).archive(central()))).diagnosis == "archive_too_old"
    data = openssl(Writer((1, 16)).archive(central(), algorithm=9))
    assert refused(tmp_path, data).diagnosis == "unsupported_compression"


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encrypted: bytes) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(CentralError) as caught:
            verify_file(str(path), Expectation())
        assert caught.value.diagnosis == "unreadable"
    if os.path.exists("/proc/self/mem"):
        with pytest.raises(CentralError) as caught:
            verify_file("/proc/self/mem", Expectation())
        assert caught.value.diagnosis == "unreadable"


def test_a_copy_is_made_of_every_byte_before_it_is_looked_at(encrypted: bytes) -> None:
    copied: list[bytes] = []
    verify_stream(io.BytesIO(encrypted), Expectation(PASSPHRASE), copy=copied.append)
    assert b"".join(copied) == encrypted
    copied.clear()
    with pytest.raises(CentralError):
        verify_stream(io.BytesIO(encrypted[:-1]), Expectation(PASSPHRASE), copy=copied.append)
    assert b"".join(copied) == encrypted[:-1]


def test_real_backups_of_centrals(samples: Path) -> None:
    """Backups that a real Central made; what they hold is told by the page beside them."""
    known = {
        "new-pg14-gzip-pass.pgdump.enc.bin": ("correct horse", {"uploaded": 148}, 0),
        "new-pg14-gzip-nopass.pgdump.enc.bin": (None, {"uploaded": 148}, 0),
        "new-blobs-pg14-gzip-pass.pgdump.enc.bin": ("correct horse", {"pending": 148}, 148),
    }
    for name, (passphrase, blobs, inside) in known.items():
        found = verify_file(str(samples / name), Expectation(passphrase)).as_dict()
        assert found["central"]["blobs"] == blobs
        assert found["central"]["blobs_in_database"] == inside
        assert found["central"]["bad_blobs"] == []
        assert found["tables"]["public.submissions"] == 200
        assert found["tables"]["public.forms"] == 4
        assert (found["archive_version"], found["server_version"][:2]) == ("1.14", "14")
        assert found["central"]["backend_version"].startswith("v2026.2.0-52")
