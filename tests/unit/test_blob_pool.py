# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A pool that has suffered, a set that is held against it, and check mode, with the real rclone and its S3 server."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _blob_rehearsal, _pool, _pool_reread
from ansible_collections.odkops.central.plugins.module_utils._blob_backup import back_up
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry
from ansible_collections.odkops.central.plugins.module_utils._blob_rehearsal import rehearse
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pool_check import CONTENT, PRESENCE, check_objects

from support.blob_central import KEY_ID, Central, contents
from support.s3_servers import (
    PASSPHRASE,
    SECRET_KEY,
    fill,
    open_with_rclone,
)

pytest_plugins = ["support.s3_fixtures"]
pytestmark = pytest.mark.usefixtures("empty_bucket")


# --- a pool that has suffered -----------------------------------------------------------------------------------


def test_an_object_that_is_gone_from_the_pool_is_fetched_again(central: Central) -> None:
    entries = fill(central.server, range(1, 5))
    central.run(entries)
    central.path_of(entries[3]).unlink()
    result = central.run(entries)
    assert result["fetched"] == 1
    assert f"gone from the pool ({entries[3].name}). 1 of them were fetched again" in result["warnings"][0]


def test_a_loss_that_cannot_be_made_good_is_said(central: Central) -> None:
    entries = fill(central.server, range(1, 5))
    central.run(entries)
    central.path_of(entries[0]).unlink()
    result = central.run(entries[1:])
    assert "older sets that name them are incomplete" in result["warnings"][1]


def test_the_whole_pool_can_be_read_again_and_damage_is_made_good(central: Central) -> None:
    entries = fill(central.server, range(1, 9))
    central.run(entries)
    damaged = central.path_of(entries[4])
    data = bytearray(damaged.read_bytes())
    data[500] ^= 1
    damaged.write_bytes(data)
    os.truncate(central.path_of(entries[5]), 32)
    result = central.run(entries, days=0)
    assert (result["read_again"], result["damaged"], result["fetched"]) == (8, 2, 2)
    aside = Path(central.pool.path, "damaged")
    assert {path.name for path in aside.iterdir()} == {f"{entry.name}.bin" for entry in entries[4:6]}
    assert central.run(entries, days=0)["damaged"] == 0


def test_damage_that_cannot_be_made_good_fails(central: Central) -> None:
    entries = fill(central.server, range(1, 4))
    central.run(entries)
    for path in central.server.bucket.iterdir():
        path.unlink()
    central.path_of(entries[0]).write_bytes(b"x" * 2048)
    error = central.fails(entries, days=0)
    assert error.details["missing_objects"] == [entries[0].name]


def test_a_share_is_read_again_as_time_passes(central: Central, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = fill(central.server, range(1, 61), size=20)
    central.run(entries)
    now = time.time()
    read = []
    for day in range(1, 31):
        monkeypatch.setattr(_pool_reread.time, "time", lambda day=day: now + day * 86400 + 60)
        read.append(central.run(entries)["read_again"])
    assert sum(read) == 60
    assert max(read) <= 3
    monkeypatch.setattr(_pool_reread.time, "time", lambda: now + 90 * 86400)
    assert central.run(entries)["read_again"] == 60


def test_the_index_can_be_lost(central: Central) -> None:
    entries = fill(central.server, range(1, 6))
    first = central.run(entries)
    os.unlink(central.pool.index_path)
    result = central.run(entries)
    assert (result["fetched"], result["read_again"], result["damaged"]) == (0, 5, 0)
    assert result["sha256"] == first["sha256"]
    with sqlite3.connect(central.pool.index_path) as index:
        assert index.execute("SELECT count(*) FROM objects WHERE md5 IS NULL OR read = 0").fetchone() == (0,)
    index.close()


def test_a_damaged_index_is_made_anew(central: Central) -> None:
    entries = fill(central.server, range(1, 6))
    central.run(entries)
    Path(central.pool.index_path).write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    result = central.run(entries)
    assert (result["fetched"], result["read_again"]) == (0, 5)
    assert "index" in result["warnings"][0]


def test_files_of_others_are_left_alone(central: Central) -> None:
    entries = fill(central.server, [1])
    central.run(entries)
    strange = Path(central.pool.objects, "0", "note.txt")
    strange.write_text("mine")
    Path(central.pool.objects, "README").write_text("mine")
    result = central.run(entries)
    assert "2 file(s) that are none of its objects" in result["warnings"][0]
    assert strange.exists()


def test_what_a_killed_run_has_left_is_removed(central: Central) -> None:
    stale = Path(central.pool.path, "staging", "abc", "objects")
    stale.mkdir(parents=True)
    (stale / "blob-1-x.bin").write_bytes(b"half")
    central.run(fill(central.server, [1]))
    assert not stale.exists()


def test_one_run_at_a_time(central: Central, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = fill(central.server, [1])
    other = central.pool
    other.prepare()
    monkeypatch.setattr(_pool.Pool.prepare, "__defaults__", (0.3,))
    kept = Path(other.path, "staging")
    kept.mkdir()
    assert central.fails(entries).diagnosis == "pool_busy"
    assert kept.exists()
    other.release()
    assert central.run(entries)["fetched"] == 1


def test_a_symbolic_link_in_the_place_of_a_directory_is_refused(central: Central, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "central" / "pool").mkdir(parents=True)
    (tmp_path / "central" / "pool" / KEY_ID).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CentralError) as caught:
        central.task([])
    assert caught.value.diagnosis == "not_a_repository"


def test_another_passphrase_has_another_pool(central: Central, tmp_path: Path) -> None:
    entries = fill(central.server, [1, 2])
    central.run(entries)
    central.key_id, central.passphrase = "f" * 16, "another good passphrase 0815"
    assert central.run(entries)["fetched"] == 2
    open_with_rclone(tmp_path / "central" / "pool" / KEY_ID, PASSPHRASE, tmp_path / "opened")
    assert len(contents(tmp_path / "opened")) == 2


# --- a set against the pool -------------------------------------------------------------------------------------


def test_a_set_is_held_against_the_pool(central: Central, tmp_path: Path) -> None:
    entries = fill(central.server, range(1, 9))
    (central.server.bucket / entries[7].name).unlink()
    task = central.task(entries, still_there=central.live())
    back_up(task)

    def check(depth: str) -> dict[str, Any]:
        return check_objects(
            central.pool, task.dest, central.passphrase, depth, lambda: central.rclone, str(tmp_path / "scratch")
        )

    (tmp_path / "scratch").mkdir()
    good = check(CONTENT)
    assert (good["checked"], good["size"], good["absent"]) == (7, 14_000, 1)
    central.path_of(entries[0]).unlink()
    os.truncate(central.path_of(entries[1]), 40)
    with central.path_of(entries[2]).open("r+b") as file:
        file.seek(100)
        file.write(b"x")
    for depth, wrong in ((PRESENCE, entries[1:2]), (CONTENT, entries[1:3])):
        with pytest.raises(CentralError) as caught:
            check(depth)
        assert caught.value.diagnosis == "missing_blob"
        assert caught.value.details["missing_objects"] == [entries[0].name]
        assert caught.value.details["wrong_objects"] == [entry.name for entry in wrong]


# --- check mode -------------------------------------------------------------------------------------------------


def rehearsed(central: Central, entries: list[BlobEntry], **more: Any) -> dict[str, Any]:
    """Check mode; it changes nothing."""
    task = central.task(entries, **more)
    before = {path: path.stat().st_mtime_ns for path in central.root.rglob("*")}
    try:
        return rehearse(task, tempfile.gettempdir())
    finally:
        assert {path: path.stat().st_mtime_ns for path in central.root.rglob("*")} == before


def cannot(central: Central, entries: list[BlobEntry], **more: Any) -> CentralError:
    """The failure of check mode."""
    with pytest.raises(CentralError) as caught:
        rehearsed(central, entries, **more)
    assert SECRET_KEY not in caught.value.message
    return caught.value


def test_check_mode_says_what_would_be_done_and_changes_nothing(central: Central, tmp_path: Path) -> None:
    entries = fill(central.server, range(1, 6))
    found = rehearsed(central, entries)
    assert (found["would_fetch"], found["would_fetch_size"], found["asked_for"]) == (5, 10_000, 5)
    assert not (tmp_path / "central").exists()
    central.run(entries[:3])
    central.path_of(entries[0]).unlink()
    found = rehearsed(central, entries, days=0)
    assert (found["objects"], found["would_fetch"], found["would_read_again"], found["asked_for"]) == (5, 3, 2, 3)


def test_check_mode_fails_as_a_backup_would(central: Central, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = fill(central.server, range(1, 6))
    central.run(entries[:1])
    (central.server.bucket / entries[2].name).unlink()
    error = cannot(central, entries)
    assert (error.diagnosis, error.details["missing_objects"]) == ("missing_blob", [entries[2].name])
    assert "1 of the 4 objects" in error.message
    # What was purged, or is known to be lost, is no failure.
    assert rehearsed(central, entries, still_there=central.live(1, 2, 4, 5))["asked_for"] == 4
    assert central.asked == [3]
    assert rehearsed(central, entries, known_missing=frozenset({3}))["would_fetch"] == 4
    assert cannot(central, entries, still_there=central.live(3)).diagnosis == "missing_blob"
    # Only the first are asked for.
    monkeypatch.setattr(_blob_rehearsal, "ASKED_FOR", 1)
    assert rehearsed(central, entries)["asked_for"] == 1
    central.server.put(entries[1].name, b"of another size")
    error = cannot(central, entries)
    assert (error.diagnosis, error.details["wrong_objects"]) == ("missing_blob", [entries[1].name])


@pytest.mark.parametrize(
    ("settings", "diagnosis"),
    [
        ({"bucket": "another"}, "missing_blob"),
        ({"secret_key": "another"}, "s3_refused"),
        ({"server": "http://127.0.0.1:1"}, "s3_failed"),
    ],
)
def test_check_mode_asks_the_server(central: Central, settings: dict[str, str], diagnosis: str) -> None:
    entries = fill(central.server, range(1, 3))
    central.settings = settings
    assert cannot(central, entries).diagnosis == diagnosis
