# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whole sets, verified: the database with its list of objects and the pool. Enketo's part is in tests/integration."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry, BlobListWriter
from ansible_collections.odkops.central.plugins.module_utils._pool import Pool
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository
from ansible_collections.odkops.central.plugins.module_utils._seal import SetFacts, seal_set
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, verify_file
from ansible_collections.odkops.central.plugins.modules import central_backup_verify

from support.archives import PASSPHRASE, openssl
from support.modules import Result, call_module
from support.pgdump_writer import Writer, central, table
from support.s3_servers import rclone_program

CENTRAL = "central.example.org"
CONTENTS = {7: b"a photograph", 8: b"", 1009: b"x" * 200_000}
LOST = 9


def sha1(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def database(contents: dict[int, bytes]) -> bytes:
    """A backup of a Central with objects in S3, and one attachment that is not."""
    rows = [f"{one}\t{sha1(data)}\t\\N\tuploaded\t{md5(data)}\t{len(data)}" for one, data in contents.items()]
    rows.append(f"20\t{sha1(b'here')}\t\\\\x{b'here'.hex()}\tpending\t{md5(b'here')}\t4")
    blobs = table(14, "blobs", 'id, sha, content, s3_status, md5, "size"', *rows)
    entries = [entry for entry in central() if entry.tag != "blobs"]
    return openssl(Writer().archive([*entries, blobs]))


class Made:
    """A sealed set of a repository without encryption in its pool, so that its objects can be written by hand."""

    def __init__(self, folder: Path) -> None:
        self.repository = Repository(str(folder / "repository"))
        opened = self.repository.open_set(CENTRAL)
        self.partial = Path(opened.path)
        self.set_id = opened.set_id
        (self.partial / "database.pgdump.enc.bin").write_bytes(database({**CONTENTS, LOST: b"lost"}))
        self.path = self.partial.with_name(self.set_id)
        self.pool = Pool(self.repository, CENTRAL, None)

    def fill(self) -> dict[str, Any]:
        """Put the objects into the pool and the list into the set."""
        with BlobListWriter(str(self.partial / "blobs.jsonl")) as writer:
            for one, data in [*CONTENTS.items(), (LOST, b"lost")]:
                entry = BlobEntry(one, sha1(data), md5(data), len(data), "known" if one == LOST else None)
                writer.add(entry)
                if one != LOST:
                    path = Path(self.pool.object_path(entry))
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
            writer.commit()
            return {
                "format": "jsonl",
                "size": writer.size,
                "sha256": writer.sha256,
                "pool": "unencrypted",
                "encrypted": False,
            }

    def seal(self) -> None:
        """Seal the set."""
        found = verify_file(str(self.partial / "database.pgdump.enc.bin"), Expectation(PASSPHRASE)).as_dict()
        part = {name: found[name] for name in ("format", "size", "sha256")}
        held = {"tables": found["tables"], "central": found["central"]}
        absent = {"enketo": "Not wanted.", "config": "Not wanted."}
        seal_set(
            self.repository, CENTRAL, self.set_id, {"database": part, "blobs": self.fill()},
            SetFacts(absent, {}, held, {}, []), PASSPHRASE,
        )  # fmt: skip

    def object(self, one: int) -> Path:
        """The file of an object."""
        return Path(self.pool.object_path(BlobEntry(one, sha1(CONTENTS[one]))))


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


@pytest.fixture
def sealed(made: Made) -> Made:
    made.seal()
    return made


def verify(directory: Path, /, **options: Any) -> Result:
    given = {"set": str(directory), "passphrase": PASSPHRASE, "rclone_path": rclone_program(), **options}
    return call_module(central_backup_verify.main, {name: value for name, value in given.items() if value is not None})


def test_a_whole_set(sealed: Made) -> None:
    found = verify(sealed.path)
    assert not found.failed, found
    assert found["sealed"] is found["authenticated"] is True
    assert (found["set_id"], found["central_name"]) == (sealed.set_id, CENTRAL)
    assert found["tables"]["public.blobs"] == len(CONTENTS) + 2
    size = sum(map(len, CONTENTS.values()))
    assert found["objects"] == {"checked": len(CONTENTS), "absent": 1, "size": size, "depth": "content"}
    assert found["absent"] == {"enketo": "Not wanted.", "config": "Not wanted."}
    assert found["links"] is None
    assert found["changed"] is False


def test_a_set_without_its_passphrase(sealed: Made) -> None:
    assert verify(sealed.path, passphrase=None).diagnosis == "wrong_passphrase"
    assert verify(sealed.path, passphrase="another one, quite long").diagnosis == "wrong_passphrase"


@pytest.mark.parametrize("depth", ["content", "presence"])
def test_an_object_that_is_gone(sealed: Made, depth: str) -> None:
    sealed.object(7).unlink()
    found = verify(sealed.path, blobs=depth)
    assert (found.diagnosis, found["part"]) == ("missing_blob", "blobs")
    assert (found["missing"], found["wrong"]) == (1, 0)
    assert found["missing_objects"] == [sealed.object(7).name]
    assert sealed.object(7).name in found["msg"]


def test_an_object_of_another_size_and_a_link_in_place_of_one(sealed: Made, tmp_path: Path) -> None:
    sealed.object(7).write_bytes(b"a photogra")
    os.rename(sealed.object(1009), tmp_path / "elsewhere")
    sealed.object(1009).symlink_to(tmp_path / "elsewhere")
    found = verify(sealed.path, blobs="presence")
    assert (found["missing_objects"], found["wrong_objects"]) == ([sealed.object(1009).name], [sealed.object(7).name])


def test_an_object_with_a_changed_byte(sealed: Made) -> None:
    sealed.object(7).write_bytes(b"a photogr4ph")
    assert not verify(sealed.path, blobs="presence").failed, "its size is right"
    found = verify(sealed.path)
    assert (found.diagnosis, found["wrong_objects"]) == ("missing_blob", [sealed.object(7).name])


@pytest.mark.parametrize("file", ["database.pgdump.enc.bin", "blobs.jsonl", "manifest.json"])
def test_a_changed_byte(sealed: Made, file: str) -> None:
    path = sealed.path / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = verify(sealed.path)
    expected = {"database.pgdump.enc.bin": {"tampered"}, "blobs.jsonl": {"corrupt"}}
    assert found.diagnosis in expected.get(file, {"tampered", "not_a_set", "wrong_passphrase"})
    assert found.result.get("part") == {"database.pgdump.enc.bin": "database", "blobs.jsonl": "blobs"}.get(file)


def test_a_list_of_another_database(made: Made) -> None:
    """Sealed with a list that is whole, but names other objects than the database."""
    wrong = CONTENTS.copy()
    wrong[7] = b"another one"
    (made.partial / "database.pgdump.enc.bin").write_bytes(database({**wrong, LOST: b"lost"}))
    made.seal()
    found = verify(made.path)
    assert (found.diagnosis, found["part"]) == ("corrupt", "blobs")
    assert f"blob-7-{sha1(b'another one')}" in found["msg"]


@pytest.mark.parametrize("more", [True, False])
def test_a_list_that_is_longer_or_shorter(made: Made, more: bool) -> None:
    contents = {**CONTENTS, LOST: b"lost", 2000: b"more"} if more else CONTENTS
    (made.partial / "database.pgdump.enc.bin").write_bytes(database(contents))
    made.seal()
    found = verify(made.path)
    assert (found.diagnosis, found["part"]) == ("corrupt", "blobs")


def test_a_set_that_is_not_sealed_yet(made: Made) -> None:
    target = made.partial / "blobs.jsonl"
    found = verify(made.partial, blob_list=str(target))
    assert not found.failed, found
    assert (found["sealed"], found["authenticated"], found["changed"]) == (False, False, True)
    names = [f'"key":"blob-{one}-{sha1(data)}"' for one, data in [*CONTENTS.items(), (LOST, b"lost")]]
    lines = target.read_text("ascii").splitlines()
    assert len(lines) == len(names)
    assert all(name in line for name, line in zip(names, lines))


def test_damage_before_it_is_sealed(made: Made) -> None:
    path = made.partial / "database.pgdump.enc.bin"
    path.write_bytes(path.read_bytes()[:-1])
    found = verify(made.partial, blob_list=str(made.partial / "blobs.jsonl"))
    assert (found.diagnosis, found["part"]) == ("truncated", "database")
    assert sorted(os.listdir(made.partial)) == ["database.pgdump.enc.bin"], "no list of half a database"


def test_places_that_are_no_set(sealed: Made, tmp_path: Path) -> None:
    moved = tmp_path / sealed.set_id
    shutil.copytree(sealed.path, moved)
    for path in (tmp_path / "nowhere", sealed.path.parent, moved, sealed.path / "manifest.json"):
        assert verify(path).diagnosis in ("not_a_set", "not_a_repository"), path


def test_an_old_set_under_a_new_name(sealed: Made) -> None:
    new = sealed.path.with_name(sealed.set_id[:-1] + ("0" if sealed.set_id[-1] != "0" else "1"))
    os.rename(sealed.path, new)
    assert verify(new).diagnosis == "tampered"


@pytest.mark.parametrize(
    "options", [{"path": "/x"}, {"depth": "passphrase"}, {"expected_sha256": "0" * 64}, {"set": None}]
)
def test_options_that_do_not_go_together(sealed: Made, options: dict[str, Any]) -> None:
    assert verify(sealed.path, **options).failed
