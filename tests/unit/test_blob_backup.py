# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Objects from a real S3 server (rclone's, on loopback) into a pool, by the real rclone."""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _blob_fetch, _blob_rehearsal, _pool, _pool_reread
from ansible_collections.odkops.central.plugins.module_utils._blob_backup import BlobBackup, back_up
from ansible_collections.odkops.central.plugins.module_utils._blob_fetch import (
    Fetched,
    Fetcher,
    FetchOptions,
    Problem,
)
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry, read_blob_list
from ansible_collections.odkops.central.plugins.module_utils._blob_rehearsal import rehearse
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pool import Pool
from ansible_collections.odkops.central.plugins.module_utils._pool_check import CONTENT, PRESENCE, check_objects
from ansible_collections.odkops.central.plugins.module_utils._rclone import Rclone, S3Settings, find_rclone
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository

from support.s3_servers import (
    ACCESS_KEY,
    BUCKET,
    PASSPHRASE,
    SECRET_KEY,
    S3Server,
    content_of,
    fill,
    free_port,
    open_with_rclone,
    rclone_program,
    rclone_server,
    write_list,
)
from support.sets import small_disk

KEY_ID = "0123456789abcdef"


@pytest.fixture(scope="module")
def rclone() -> Rclone:
    return find_rclone(rclone_program())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(autouse=True)
def _empty_bucket(server: S3Server) -> None:
    for path in sorted(server.bucket.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@dataclass
class Central:
    """A Central's repository, and what a run is told."""

    root: Path
    server: S3Server
    rclone: Rclone
    settings: dict[str, Any] = field(default_factory=dict)
    key_id: str | None = KEY_ID
    passphrase: str | None = PASSPHRASE
    asked: list[int] = field(default_factory=list)
    runs: int = 0

    @property
    def pool(self) -> Pool:
        return Pool(Repository(str(self.root)), "central", self.key_id)

    def path_of(self, entry: BlobEntry) -> Path:
        return Path(self.pool.object_path(entry))

    def task(self, entries: list[BlobEntry], **more: Any) -> BlobBackup:
        self.runs += 1
        given = {
            "server": self.server.address,
            "bucket": BUCKET,
            "access_key": ACCESS_KEY,
            "secret_key": SECRET_KEY,
            **self.settings,
        }
        return BlobBackup(
            pool=self.pool,
            passphrase=self.passphrase,
            list_path=str(write_list(self.root / "list", entries)),
            dest=str(self.root / f"blobs-{self.runs}.jsonl"),
            settings=lambda: S3Settings(**given),
            rclone=lambda: self.rclone,
            **more,
        )

    def run(self, entries: list[BlobEntry], **more: Any) -> dict[str, Any]:
        return back_up(self.task(entries, **more))

    def fails(self, entries: list[BlobEntry], **more: Any) -> CentralError:
        task = self.task(entries, **more)
        with pytest.raises(CentralError) as caught:
            back_up(task)
        assert not os.path.exists(task.dest)
        assert SECRET_KEY not in caught.value.message
        assert PASSPHRASE not in caught.value.message
        return caught.value

    def live(self, *there: int) -> Callable[[list[int]], set[int]]:
        """A database that still has these rows."""

        def ask(ids: list[int]) -> set[int]:
            self.asked += ids
            return set(ids) & set(there)

        return ask


@pytest.fixture
def central(tmp_path: Path, server: S3Server, rclone: Rclone) -> Central:
    return Central(tmp_path, server, rclone)


def never(*_arguments: Any) -> Any:
    raise AssertionError("this was not to be asked for")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what a run makes -------------------------------------------------------------------------------------------


def test_the_pool_holds_every_object_and_plain_rclone_opens_it(central: Central, tmp_path: Path) -> None:
    entries = fill(central.server, [1, 2, 999, 1000, 123456])
    entries += fill(central.server, [7], size=200_000)
    result = central.run(entries)
    assert result["objects"] == result["fetched"] == 6
    assert result["objects_size"] == result["fetched_size"] == 5 * 2000 + 200_000
    assert result["pool"] == KEY_ID
    assert result["warnings"] == []
    open_with_rclone(tmp_path / "central" / "pool" / KEY_ID, PASSPHRASE, tmp_path / "opened")
    expected = {entry.name: content_of(entry.id, entry.size or 0) for entry in entries}
    assert contents(tmp_path / "opened") == expected
    assert {str(path.parent.relative_to(tmp_path / "opened")) for path in (tmp_path / "opened").rglob("blob-*")} == {
        *("0", "1", "123"),
    }


def test_nothing_lies_open_and_nothing_is_left(central: Central, tmp_path: Path) -> None:
    entries = fill(central.server, range(1, 6))
    central.run(entries)
    pool = tmp_path / "central"
    stored = b"".join(contents(pool).values())
    for number in range(1, 6):
        assert content_of(number)[:32] not in stored
    assert SECRET_KEY.encode() not in stored
    assert PASSPHRASE.encode() not in stored
    for path in [pool, *pool.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert sorted(path.name for path in (pool / "pool" / KEY_ID).iterdir()) == ["index.sqlite", "lock", "objects"]


def test_the_list_of_the_set_has_the_sizes_that_the_database_did_not_know(central: Central) -> None:
    entries = fill(central.server, [3, 4])
    task = central.task([entry._replace(size=None, md5=None) for entry in entries])
    result = back_up(task)
    found = list(read_blob_list(task.dest))
    assert [(entry.name, entry.size) for entry in found] == [(entry.name, 2000) for entry in entries]
    assert result["size"] == os.path.getsize(task.dest)


def test_a_second_run_asks_for_nothing(central: Central) -> None:
    entries = fill(central.server, range(1, 20))
    first = central.run(entries)
    task = central.task(entries)
    second = back_up(BlobBackup(**{**task.__dict__, "settings": never, "rclone": never}))
    assert second["fetched"] == 0
    assert second["objects"] == 19
    assert second["sha256"] == first["sha256"]


def test_only_what_is_new_is_fetched(central: Central) -> None:
    old = fill(central.server, [1, 2])
    central.run(old)
    for path in central.server.bucket.iterdir():
        path.unlink()
    new = fill(central.server, [3])
    result = central.run(old + new)
    assert (result["fetched"], result["objects"], result["pool_objects"]) == (1, 3, 3)


def test_an_empty_list_makes_no_pool(central: Central, tmp_path: Path) -> None:
    result = central.run([])
    assert result["objects"] == 0
    assert not (tmp_path / "central").exists()


def test_the_list_may_be_replaced_by_that_of_the_set(central: Central) -> None:
    entries = fill(central.server, [1])
    task = central.task([entries[0]._replace(size=None)])
    result = back_up(BlobBackup(**{**task.__dict__, "dest": task.list_path}))
    assert result["path"] == task.list_path
    assert [entry.size for entry in read_blob_list(task.list_path)] == [2000]
    empty = central.task([])
    back_up(BlobBackup(**{**empty.__dict__, "dest": empty.list_path}))
    assert not os.path.exists(empty.list_path)


@pytest.mark.parametrize("prefix", ["odk-", "backups/odk/", "a/b-"])
def test_a_prefix_is_part_of_the_keys_but_not_of_the_names(central: Central, prefix: str) -> None:
    central.settings["prefix"] = prefix
    entries = fill(central.server, [1, 2], prefix=prefix)
    result = central.run(entries)
    assert result["fetched"] == 2
    assert all(central.path_of(entry).is_file() for entry in entries)


def test_many_batches(central: Central) -> None:
    entries = fill(central.server, range(1, 41), size=100)
    assert central.run(entries, options=FetchOptions(batch_objects=7))["fetched"] == 40
    more = fill(central.server, range(41, 51), size=100)
    assert central.run(more, options=FetchOptions(batch_bytes=250))["fetched"] == 10


def test_without_a_passphrase_the_pool_is_plain(central: Central) -> None:
    central.key_id = central.passphrase = None
    entries = fill(central.server, [1, 2])
    result = central.run(entries)
    assert (result["encrypted"], result["pool"]) == (False, "unencrypted")
    assert central.path_of(entries[0]).read_bytes() == content_of(1)
    assert central.run(entries, days=0)["read_again"] == 2


# --- what is missing or wrong -----------------------------------------------------------------------------------


def test_a_missing_object_is_named_and_the_others_are_kept(central: Central) -> None:
    entries = fill(central.server, range(1, 6))
    (central.server.bucket / entries[2].name).unlink()
    error = central.fails(entries, still_there=central.live(3))
    assert error.diagnosis == "missing_blob"
    assert (error.details["missing"], error.details["wrong"], error.details["fetched"]) == (1, 0, 4)
    assert error.details["missing_objects"] == [entries[2].name]
    assert entries[2].name in error.message
    assert central.asked == [3]
    assert [central.path_of(entry).exists() for entry in entries] == [True, True, False, True, True]


def test_where_nobody_can_be_asked_the_message_says_so(central: Central) -> None:
    entries = fill(central.server, [1, 2])
    (central.server.bucket / entries[0].name).unlink()
    assert "cannot be asked" in central.fails(entries).message


def test_what_was_purged_meanwhile_is_a_note(central: Central) -> None:
    entries = fill(central.server, range(1, 4))
    (central.server.bucket / entries[1].name).unlink()
    task = central.task(entries, still_there=central.live(1, 3))
    result = back_up(task)
    assert (result["purged"], result["fetched"], result["objects"]) == (1, 2, 3)
    assert "purged" in result["notes"][0]
    assert [entry.absent for entry in read_blob_list(task.dest)] == [None, "purged", None]


def test_a_purged_and_a_lost_object_are_told_apart(central: Central) -> None:
    entries = fill(central.server, range(1, 5))
    for entry in entries[:2]:
        (central.server.bucket / entry.name).unlink()
    error = central.fails(entries, still_there=central.live(2, 3, 4))
    assert error.details["missing_objects"] == [entries[1].name]


def test_a_known_loss_is_accepted(central: Central) -> None:
    entries = fill(central.server, range(1, 4))
    (central.server.bucket / entries[0].name).unlink()
    task = central.task(entries, known_missing=frozenset({1}), still_there=central.live(1, 2, 3))
    result = back_up(task)
    assert result["known_missing"] == 1
    assert central.asked == []
    assert next(read_blob_list(task.dest)).absent == "known"


@pytest.mark.parametrize("wrong", [b"something else", b"", content_of(2)[:-1]])
def test_a_wrong_object_never_gets_into_the_pool(central: Central, wrong: bytes) -> None:
    entries = fill(central.server, range(1, 4))
    (central.server.bucket / entries[1].name).write_bytes(wrong)
    error = central.fails(entries)
    assert error.diagnosis == "missing_blob"
    assert (error.details["missing"], error.details["wrong"]) == (0, 1)
    assert error.details["wrong_objects"] == [entries[1].name]
    assert not central.path_of(entries[1]).exists()
    central.server.put(entries[1].name, content_of(2))
    assert central.run(entries)["fetched"] == 1


def test_the_md5_of_the_database_counts_too(central: Central) -> None:
    entries = fill(central.server, range(1, 4))
    other = [entries[0], entries[1]._replace(md5="0" * 32), entries[2]]
    error = central.fails(other)
    assert error.details["wrong_objects"] == [entries[1].name]
    assert "MD5" in error.message
    assert central.run(entries)["fetched"] == 1
    assert central.fails(other).details["wrong_objects"] == [entries[1].name]


def test_an_empty_bucket_is_said_to_be_one(central: Central, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_blob_fetch, "HOPELESS", 10)
    entries = fill(central.server, range(1, 21), size=10)
    central.settings["prefix"] = "elsewhere/"
    error = central.fails(entries)
    assert error.diagnosis == "missing_blob"
    assert "Check the bucket" in error.message


@pytest.mark.parametrize(
    ("setting", "value", "diagnosis"),
    [
        ("secret_key", "another-secret-key-7Zq", "s3_refused"),
        ("access_key", "another-access-key", "s3_refused"),
        ("server", None, "s3_failed"),
    ],
)
def test_no_object_can_be_had(central: Central, setting: str, value: str | None, diagnosis: str) -> None:
    entries = fill(central.server, [1])
    central.settings[setting] = value or f"http://127.0.0.1:{free_port()}"
    error = central.fails(entries)
    assert error.diagnosis == diagnosis
    assert "another-secret-key-7Zq" not in error.message


def fetched_nothing(monkeypatch: pytest.MonkeyPatch, kind: str, fetched: int = 0) -> None:
    """A server that fails for each object in the same way."""

    def fetch(_self: Fetcher, entries: Iterable[BlobEntry]) -> Fetched:
        return Fetched(objects=fetched, problems=[Problem(entry, kind, "as it says") for entry in entries])

    monkeypatch.setattr(Fetcher, "fetch", fetch)


@pytest.mark.parametrize(
    ("kind", "fetched", "diagnosis"),
    [
        ("denied", 0, "s3_refused"),
        ("denied", 1, "missing_blob"),
        ("unreachable", 1, "s3_failed"),
        ("other", 0, "s3_failed"),
        ("missing", 0, "missing_blob"),
    ],
)
def test_every_kind_of_failure_has_its_diagnosis(
    central: Central, monkeypatch: pytest.MonkeyPatch, kind: str, fetched: int, diagnosis: str
) -> None:
    fetched_nothing(monkeypatch, kind, fetched)
    error = central.fails(fill(central.server, [1, 2]))
    assert error.diagnosis == diagnosis
    assert "as it says" in error.message


def test_a_denied_object_may_have_been_purged(central: Central, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 says so of objects that do not exist, where the keys may not list the bucket."""
    fetched_nothing(monkeypatch, "denied")
    assert central.run(fill(central.server, [1, 2]), still_there=central.live())["purged"] == 2


def test_too_many_failures_end_the_run(central: Central, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_blob_fetch, "MAXIMUM_PROBLEMS", 3)
    entries = fill(central.server, range(1, 11), size=10)
    for entry in entries[1:]:
        (central.server.bucket / entry.name).unlink()
    error = central.fails(entries, options=FetchOptions(batch_objects=2))
    assert (error.diagnosis, error.details["fetched"]) == ("missing_blob", 1)
    assert central.path_of(entries[0]).exists()


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


# --- no room ----------------------------------------------------------------------------------------------------


def test_no_room_is_seen_beforehand(tmp_path: Path, server: S3Server, rclone: Rclone) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        central = Central(disk, server, rclone)
        entries = fill(server, range(1, 50), size=100_000)
        assert central.fails(entries).diagnosis == "disk_full"


def test_no_room_is_met_on_the_way(
    tmp_path: Path, server: S3Server, rclone: Rclone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_blob_fetch, "_RESERVE", 0)
    with small_disk(tmp_path / "disk", "4m") as disk:
        central = Central(disk, server, rclone)
        entries = [entry._replace(size=None) for entry in fill(server, range(1, 50), size=100_000)]
        error = central.fails(entries, options=FetchOptions(batch_objects=10))
        assert error.diagnosis == "disk_full", error.message
        assert 10 <= len(list(disk.rglob("blob-*"))) < 49
        assert not Path(central.pool.path, "staging").exists()


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
