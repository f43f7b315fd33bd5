# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lease on the pool from the first look at it until the set is sealed or discarded, as a prune sees it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pool_lease import PoolLeases
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository
from ansible_collections.odkops.central.plugins.module_utils._seal import SetFacts, seal_set
from ansible_collections.odkops.central.plugins.module_utils._set_lease import counting_on_pool, sealing

from support import Result, run_module
from support.s3_servers import S3Server, fill, rclone_program, rclone_server, write_list
from support.sets import ABSENT, CONTENT, PASSPHRASE, database_part, everything_below

KEPT = {"database": "database.pgdump.enc.bin", "blobs": "blobs.jsonl"}


class Run:
    """A run that makes a set of the Central `demo`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        opened = self.set("open", None)
        self.set_id, self.path = str(opened["set_id"]), Path(opened["path"])

    def set(self, state: str, set_id: str | None, check: bool = False, **options: Any) -> Result:
        given = {"state": state, "repository": str(self.root), "central": "demo", "set_id": set_id, **options}
        return run_module("central_set", {name: value for name, value in given.items() if value is not None}, check)

    @property
    def repository(self) -> Repository:
        return Repository(str(self.root))

    @property
    def leases(self) -> PoolLeases:
        return PoolLeases(self.repository, "demo")

    def live(self) -> list[str]:
        """What a prune would be told."""
        with self.leases.closed() as found:
            return [lease.set_id for lease in found]

    def expires(self) -> None:
        """Let the time of its lease be over."""
        (lease,) = self.leases.live()
        text = json.dumps(replace(lease, uptime=lease.uptime - 1000, renewed=lease.since).as_dict())
        Path(self.leases.path, self.set_id + ".json").write_text(text)
        assert self.live() == []

    def seal(self, check: bool = False, **options: Any) -> Result:
        listed = b'{"key":"blob-1-0"}\n'
        if self.path.exists():
            (self.path / KEPT["database"]).write_bytes(CONTENT)
            (self.path / KEPT["blobs"]).write_bytes(listed)
        database = {name: value for name, value in database_part().items() if name != "file"}
        blobs = {"format": "jsonl", "size": len(listed), "sha256": hashlib.sha256(listed).hexdigest(), "objects": 1}
        absent = {name: why for name, why in ABSENT.items() if name != "blobs"}
        given = {"parts": {"database": database, "blobs": blobs}, "absent": absent, "passphrase": PASSPHRASE, **options}
        return self.set("sealed", self.set_id, check, **given)

    def sealed(self) -> bool:
        return (self.root / "demo" / "sets" / self.set_id / "manifest.json").exists()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "repository")


def test_from_the_first_look_until_it_is_sealed(run: Run) -> None:
    with counting_on_pool(run.repository, "demo", run.set_id):
        assert run.live() == [run.set_id]
    assert run.live() == [run.set_id]
    sealed = run.seal(pool_lease=True)
    assert sealed["changed"], sealed.result
    assert run.live() == []
    assert not (run.root / "demo" / "pool").exists()
    again = run.seal(pool_lease=True)
    assert (again.failed, again["changed"]) == (False, False)


def test_it_is_there_after_a_failure_and_gone_with_the_set(run: Run) -> None:
    with pytest.raises(CentralError), counting_on_pool(run.repository, "demo", run.set_id):
        raise CentralError("missing_blob", "An object is missing.")
    assert run.live() == [run.set_id]
    assert run.set("discarded", run.set_id, check=True)["changed"]
    assert run.live() == [run.set_id]
    assert run.set("discarded", run.set_id)["changed"]
    assert everything_below(run.root) == set()
    assert not run.set("discarded", run.set_id)["changed"]


def test_work_for_no_set(run: Run) -> None:
    with counting_on_pool(run.repository, "demo", None):
        assert run.live() == []


@pytest.mark.parametrize("required", [True, False])
def test_a_lease_that_has_expired(run: Run, required: bool) -> None:
    with counting_on_pool(run.repository, "demo", run.set_id):
        pass
    run.expires()
    assert run.seal(pool_lease=required).diagnosis == "lease_lost"
    assert not run.sealed()
    assert run.set("discarded", run.set_id)["changed"]
    assert everything_below(run.root) == set()


def test_a_lease_that_was_removed(run: Run) -> None:
    """Of a lease that has expired the next run removes the file."""
    assert run.seal(pool_lease=True).diagnosis == "lease_lost"
    assert not run.sealed()
    assert not run.seal(check=True, pool_lease=True).failed
    assert run.seal()["changed"]


def test_a_lease_that_is_lost_while_the_parts_are_read(run: Run) -> None:
    with counting_on_pool(run.repository, "demo", run.set_id):
        pass
    with pytest.raises(CentralError) as error, sealing(run.repository, "demo", run.set_id, required=True) as ready:
        run.leases.release(run.set_id)
        ready()
    assert error.value.diagnosis == "lease_lost"


def test_a_set_is_not_sealed_where_something_says_no_at_the_last_moment(run: Run) -> None:
    (run.path / "database").write_bytes(CONTENT)
    seen = []

    def ready() -> None:
        seen.append((run.path / "manifest.json").exists())
        raise CentralError("lease_lost", "The lease is lost.")

    with pytest.raises(CentralError) as error:
        facts = SetFacts(ABSENT, {}, {}, {}, [])
        seal_set(run.repository, "demo", run.set_id, {"database": database_part()}, facts, PASSPHRASE, ready=ready)
    assert (error.value.diagnosis, seen) == ("lease_lost", [True])
    assert not run.sealed()
    assert not (run.path / "manifest.json").exists()


def test_a_loss_after_the_set_has_its_name_does_not_matter(run: Run) -> None:
    with counting_on_pool(run.repository, "demo", run.set_id):
        pass
    with sealing(run.repository, "demo", run.set_id, required=True) as ready:
        ready()
        run.leases.release(run.set_id)


def test_the_work_of_a_run_that_sleeps_too_long_fails(run: Run) -> None:
    """Whatever was fetched is in the pool, but what was there before may have gone."""
    with pytest.raises(CentralError) as error, counting_on_pool(run.repository, "demo", run.set_id):
        run.expires()
        with run.leases.keep(run.set_id):
            pass
    assert error.value.diagnosis == "lease_lost"


# --- central_blob_backup ----------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    (tmp_path / "s3").mkdir()
    with rclone_server(tmp_path / "s3") as running:
        yield running


@pytest.mark.parametrize("fails", [False, True])
def test_a_module_that_brings_objects_leaves_the_lease(run: Run, server: S3Server, tmp_path: Path, fails: bool) -> None:
    entries = fill(server, range(1, 4))
    if fails:
        os.unlink(server.bucket / entries[0].name)
    write_list(tmp_path / "list", entries)
    options = {
        "repository": str(run.root),
        "central": "demo",
        "list": str(tmp_path / "list"),
        "dest": str(run.path / "blobs.jsonl"),
        "passphrase": PASSPHRASE,
        "rclone_path": rclone_program(),
        **server.options,
    }
    expected = "missing_blob" if fails else "ok"
    assert run_module("central_blob_backup", {**options, "set_id": run.set_id}, check=True).diagnosis == expected
    assert run.live() == []
    done = run_module("central_blob_backup", {**options, "set_id": run.set_id})
    assert done.diagnosis == expected, done.result
    assert run.live() == [run.set_id]
    assert run.set("discarded", run.set_id)["changed"]
    assert run.live() == []
    assert run_module("central_blob_backup", {**options, "dest": str(tmp_path / "blobs.jsonl"), "set_id": "x"}).failed
