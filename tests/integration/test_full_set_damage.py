# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies of a full set, each damaged in one place: a verification finds each, and says what and where."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import Result, run_module
from support.full_set import PARTS, Made, failure
from support.s3_servers import rclone_program

pytest_plugins = ["support.full_set_fixtures"]


@dataclass
class Copy:
    """A copy of the repository, to be damaged."""

    repository: Path
    path: Path
    pool: Path

    @classmethod
    def of(cls, made: Made, repository: Path) -> Copy:
        root = made.site.repository
        shutil.copytree(root / "full", repository / "full")
        return cls(repository, repository / made.path.relative_to(root), repository / made.pool.relative_to(root))

    def part(self, name: str) -> Path:
        return self.path / PARTS[name]

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def objects(self) -> list[Path]:
        return sorted(self.pool.rglob("blob-*.bin"))

    def verify(self, made: Made, **options: str) -> Result:
        given = {"passphrase": made.site.passphrase, "rclone_path": rclone_program(), **options}
        return run_module("central_backup_verify", {"set": str(self.path), **given})


@pytest.fixture
def copy(made: Made, tmp_path: Path) -> Copy:
    return Copy.of(made, tmp_path / "repository")


# Each damage returns what the message has to name, a line each.


def flip(path: Path, position: int | None = None) -> str:
    """Change one bit, in the middle unless said otherwise."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 1
    path.write_bytes(content)
    return str(path)


def shorten(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-1])
    return str(path)


def remove(path: Path) -> str:
    path.unlink()
    return str(path)


def another_digest(copy: Copy) -> str:
    """One digit of the manifest: that of a part's digest, which remains a digest."""
    text = copy.manifest.read_text("utf-8")
    digest = json.loads(text)["parts"]["config"]["sha256"]
    copy.manifest.write_text(text.replace(digest, ("1" if digest[0] == "0" else "0") + digest[1:]), "utf-8")
    return "manifest"


def another_note(copy: Copy) -> str:
    """One letter of a text that nothing is computed with."""
    text = copy.manifest.read_text("utf-8")
    assert text.count("a lost disk") == 1
    copy.manifest.write_text(text.replace("a lost disk", "a lost disc"), "utf-8")
    return "manifest"


def no_manifest_any_more(copy: Copy) -> str:
    return flip(copy.manifest, copy.manifest.read_bytes().index(b'"parts"'))


def remove_object(copy: Copy) -> str:
    return f"1 missing: {Path(remove(copy.objects[3])).stem}"


def damage_object(copy: Copy) -> str:
    return f"1 damaged: {Path(flip(copy.objects[-1])).stem}"


def exchange_objects(copy: Copy) -> str:
    """Two objects of one size, each under the name of the other: both can be decrypted."""
    first, second = [path for path in copy.objects if path.stat().st_size == copy.objects[0].stat().st_size][:2]
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    return f"2 damaged: \n{first.stem}\n{second.stem}"


# What is done, the diagnosis (a regular expression), the part.
DAMAGES: dict[str, tuple[Callable[[Copy], str], str, str | None]] = {
    "bit of the database": (lambda copy: flip(copy.part("database")), "tampered", "database"),
    "first bit of the database": (lambda copy: flip(copy.part("database"), 0), "tampered|wrong_passphrase", "database"),
    "last bit of the database": (lambda copy: flip(copy.part("database"), -1), "tampered", "database"),
    "bit of enketo": (lambda copy: flip(copy.part("enketo")), "tampered", "enketo"),
    "last bit of enketo": (lambda copy: flip(copy.part("enketo"), -1), "tampered", "enketo"),
    "bit of config": (lambda copy: flip(copy.part("config")), "tampered", "config"),
    "last bit of config": (lambda copy: flip(copy.part("config"), -1), "tampered", "config"),
    "bit of blobs": (lambda copy: flip(copy.part("blobs")), "tampered|corrupt", "blobs"),
    "bit of the last object's name": (lambda copy: flip(copy.part("blobs"), -20), "tampered|corrupt", "blobs"),
    "digest in the manifest": (another_digest, "tampered", None),
    "note in the manifest": (another_note, "tampered", None),
    "form of the manifest": (no_manifest_any_more, "not_a_set", None),
    "no manifest": (lambda copy: remove(copy.manifest), "not_a_set", None),
    "no database": (lambda copy: remove(copy.part("database")), "missing_part", "database"),
    "no enketo": (lambda copy: remove(copy.part("enketo")), "missing_part", "enketo"),
    "short config": (lambda copy: shorten(copy.part("config")), "corrupt", "config"),
    "no blobs": (lambda copy: remove(copy.part("blobs")), "missing_part", "blobs"),
    "no object": (remove_object, "missing_blob", "blobs"),
    "bit of an object": (damage_object, "missing_blob", "blobs"),
    "short object": (lambda copy: Path(shorten(copy.objects[0])).stem, "missing_blob", "blobs"),
    "exchanged objects": (exchange_objects, "missing_blob", "blobs"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_named(made: Made, copy: Copy, name: str) -> None:
    do, diagnosis, part = DAMAGES[name]
    words = do(copy)
    found = copy.verify(made)
    assert found.failed
    assert re.fullmatch(diagnosis, str(found.diagnosis)), found.result
    assert found.result.get("part") == part, found.result
    assert [line for line in words.split("\n") if line not in found["msg"]] == []


def test_a_copy_without_damage_is_right(made: Made, copy: Copy) -> None:
    """And nothing of the collection's is needed for that but the set and the objects that it names."""
    for path in (copy.pool / "index.sqlite", copy.pool / "lock", copy.repository / "full" / "key-id.salt"):
        path.unlink()
    before = {path: path.stat().st_mtime_ns for path in copy.repository.rglob("*")}
    found = copy.verify(made)
    assert (found.diagnosis, found["authenticated"], found["objects"]["checked"]) == ("ok", True, len(copy.objects))
    assert {path: path.stat().st_mtime_ns for path in copy.repository.rglob("*")} == before


def test_objects_that_are_only_looked_for(made: Made, copy: Copy) -> None:
    """What `blobs: presence` promises, and no more."""
    name = damage_object(copy).rpartition(" ")[2]
    assert copy.verify(made, blobs="presence").diagnosis == "ok"
    (copy.pool / "objects").rename(copy.pool / "elsewhere")
    found = copy.verify(made, blobs="presence")
    assert (found.diagnosis, found["missing"]) == ("missing_blob", len(copy.objects))
    assert name in found["missing_objects"] or len(copy.objects) > len(found["missing_objects"])


def test_the_playbook_says_it_and_goes_on(made: Made, tmp_path: Path) -> None:
    """Several hosts, each with a copy of its own; one is whole."""
    site, hosts, words = made.site, {}, {}
    for name, do in {"config": DAMAGES["bit of config"][0], "object": remove_object, "whole": None}.items():
        copy = Copy.of(made, tmp_path / name)
        words[name] = do(copy) if do else ""
        hosts[name] = site.host(
            central_name="full", central_repository=str(copy.repository), central_set=made.path.name
        )
    outcome = site.run("verify", site.inventory("damaged", hosts))
    assert outcome.rc != 0
    assert {host: one["failures"] for host, one in outcome.hosts.items()} == {"config": 1, "object": 1, "whole": 0}
    for name, diagnosis in {"config": "tampered", "object": "missing_blob"}.items():
        assert f"The backup set of full is not good. {diagnosis}: " in failure(outcome, name)
        assert words[name] in failure(outcome, name)
        (result,) = [one for one in outcome.of("central_backup_verify", name) if "part" in one]
        assert result["part"] == {"config": "config", "object": "blobs"}[name]
