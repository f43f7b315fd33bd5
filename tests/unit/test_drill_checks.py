# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a drill finds of objects in S3, in a pool on this disk and with a Central that answers what it is told to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _drill_operations as operations
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry, BlobListWriter
from ansible_collections.odkops.central.plugins.module_utils._drill_checks import Checks
from ansible_collections.odkops.central.plugins.module_utils._drill_data_checks import Subject
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pool import Pool
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository

from support.s3_servers import rclone_program

CENTRAL = "central.example.org"
CONTENT = {number: f"photograph {number}".encode() * 50 for number in range(1, 6)}
WHY = "It was left out with central_blobs."


def entry(number: int, absent: str | None = None) -> BlobEntry:
    content = CONTENT[number]
    return BlobEntry(number, hashlib.sha1(content).hexdigest(), None, len(content), absent)


class Answering:
    """A Central that has a login, and attachments that are all in S3."""

    def __init__(self, in_s3: list[int], sample: list[int]) -> None:
        self._in_s3 = in_s3
        self._facts = {
            "sample": [
                {
                    "project": 1,
                    "form": "wells",
                    "instance": f"uuid:{number}",
                    "name": f"{number}.jpg",
                    "blob": number,
                    "sha": entry(number).sha1,
                    "in_s3": True,
                }
                for number in sample
            ],
            "attachments": len(sample),
            "identifier": "7",
            "migrations": [],
            "projects": 1,
            **{name: [] for name in ("forms", "links", "drafts", "public_links")},
        }

    def run(self, operation: str, *_arguments: str, stdin: bytes = b"", **_options: Any) -> bytes:
        if operation == operations.FACTS:
            return json.dumps(self._facts).encode()
        if operation == operations.OBJECTS:
            return "".join(f"{number}\n" for number in self._in_s3).encode()
        if operation == operations.ACCOUNT:
            return b""
        if operation == operations.ASK:
            asked = json.loads(stdin)["requests"]
            assert not [each for each in asked if "attachments" in each["path"]], "downloaded from nowhere"
            return b"".join(
                json.dumps({"number": number, "status": 200, "size": 1, "body": '{"token": "t"}'}).encode() + b"\n"
                for number in range(len(asked))
            )
        raise CentralError("operation_failed", "There is nothing else.")

    def stream(self, *_arguments: Any, **_options: Any) -> Any:
        raise CentralError("operation_failed", "There is nothing else.")


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """One that has all of them."""
    repository = Repository(str(tmp_path / "repository"))
    made = Pool(repository, CENTRAL, None)
    for number, content in CONTENT.items():
        path = Path(made.object_path(entry(number)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return made


def results(
    tmp_path: Path, pool: Pool | None, listed: list[BlobEntry], in_s3: list[int], **changes: Any
) -> dict[str, dict[str, Any]]:
    """All checks of a drill, by name. Without a pool the set has no objects."""
    tmp_path.joinpath("blobs.jsonl").unlink(missing_ok=True)
    with BlobListWriter(str(tmp_path / "blobs.jsonl")) as writer:
        for each in listed:
            writer.add(each)
        writer.commit()
    parts: dict[str, Any] = {} if pool is None else {"blobs": {"file": "blobs.jsonl", "objects": len(listed)}}
    given: dict[str, Any] = {
        "channel": Answering(in_s3, changes.pop("sample", in_s3)),
        "manifest": {"parts": parts, "absent": {"blobs": WHY}, "database": {"tables": {}}},
        "path": str(tmp_path),
        "passphrase": None,
        "depth": "quick",
        "sample": 20,
        "seed": "1",
        "ca": "",
        "tables": {},
        "isolation": lambda: {"containers": 1, "volumes": 1, "networks": 1, "compared": 1},
        "reach": [],
        "systems": set(),
        "pool": pool,
        "rclone_path": rclone_program(),
    }
    checks = Checks(Subject(**{**given, **changes}))
    checks.run()
    return {each["name"]: each for each in checks.results}


@pytest.mark.parametrize("depth", ["quick", "full"])
def test_all_objects_there(tmp_path: Path, pool: Pool, depth: str) -> None:
    found = results(tmp_path, pool, [entry(number) for number in CONTENT], list(CONTENT), depth=depth)
    assert (found["objects"]["result"], found["objects"]["found"]) == ("passed", 5)


def test_an_object_that_the_database_names_and_the_list_does_not(tmp_path: Path, pool: Pool) -> None:
    found = results(tmp_path, pool, [entry(number) for number in (1, 2, 4)], list(CONTENT), sample=[3, 5])
    assert (found["objects"]["result"], found["objects"]["expected"], found["objects"]["found"]) == ("failed", 5, 3)
    assert found["objects"]["message"].endswith("does not have: 3, 5.")
    # That is said once.
    assert found["attachments"]["result"] == "skipped"


@pytest.mark.parametrize("diagnosis", ["process_killed", "service_not_running", "docker_unavailable", "lease_lost"])
def test_a_central_that_dies_while_it_is_checked_says_nothing_of_the_set(
    tmp_path: Path, pool: Pool, diagnosis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Answering.run

    def dead(self: Answering, operation: str, *arguments: str, **options: Any) -> bytes:
        if operation == operations.OBJECTS:
            raise CentralError(diagnosis, "It is gone.")
        return run(self, operation, *arguments, **options)

    monkeypatch.setattr(Answering, "run", dead)
    with pytest.raises(CentralError) as caught:
        results(tmp_path, pool, [entry(1)], [1])
    assert caught.value.diagnosis == diagnosis


def test_purged_meanwhile_is_no_fault(tmp_path: Path, pool: Pool) -> None:
    listed = [entry(1), entry(2, "purged"), entry(3, "known")]
    Path(pool.object_path(entry(2))).unlink()
    found = results(tmp_path, pool, listed, [1, 2, 3], sample=[2])
    assert (found["objects"]["result"], found["objects"]["found"]) == ("passed", 1)
    assert found["attachments"]["result"] == "skipped"


def test_a_set_without_objects_of_a_central_that_has_some(tmp_path: Path) -> None:
    found = results(tmp_path, None, [], [1, 2, 3])
    assert (found["objects"]["result"], found["objects"]["expected"], found["objects"]["found"]) == ("failed", 3, 0)
    assert WHY in found["objects"]["message"]
    assert "central_drill_objects_elsewhere" in found["objects"]["message"]


def test_a_set_without_objects_that_are_kept_elsewhere(tmp_path: Path) -> None:
    found = results(tmp_path, None, [], [1, 2, 3], objects_elsewhere=True)
    assert (found["objects"]["result"], found["objects"]["message"]) == ("skipped", WHY)


def test_a_set_without_objects_of_a_central_that_has_none(tmp_path: Path) -> None:
    found = results(tmp_path, None, [], [])
    assert (found["objects"]["result"], found["objects"]["message"]) == ("skipped", WHY)


def test_where_nothing_can_serve_them_they_are_read_in_the_pool(tmp_path: Path, pool: Pool) -> None:
    listed = [entry(number) for number in CONTENT]
    sound = results(tmp_path, pool, listed, list(CONTENT), sample=[2, 3])
    assert sound["attachments"]["result"] == "skipped"
    assert "2 in S3 were read from the pool and compared" in sound["attachments"]["message"]
    path = Path(pool.object_path(entry(3)))
    path.write_bytes(path.read_bytes()[::-1])
    spoilt = results(tmp_path, pool, listed, list(CONTENT), sample=[2, 3])
    # A quick drill looks at sizes only where it looks at all of them.
    assert spoilt["objects"]["result"] == "passed"
    assert (spoilt["attachments"]["result"], spoilt["attachments"]["found"]) == ("failed", 1)
    assert entry(3).name in spoilt["attachments"]["message"]
    # A full one has found it before, and names it once.
    full = results(tmp_path, pool, listed, list(CONTENT), sample=[2, 3], depth="full")
    assert full["objects"]["result"] == "failed"
    assert full["attachments"]["result"] == "skipped"


def test_more_lost_objects_than_are_named_are_still_said_once(tmp_path: Path, pool: Pool) -> None:
    numbers = list(range(1, 41))
    for number in numbers:
        CONTENT.setdefault(number, f"photograph {number}".encode())
    try:
        found = results(tmp_path, pool, [entry(number) for number in numbers], numbers)
        assert (found["objects"]["result"], found["objects"]["found"]) == ("failed", 5)
        assert "5 in S3 were read" in found["attachments"]["message"]
    finally:
        for number in numbers[5:]:
            del CONTENT[number]
