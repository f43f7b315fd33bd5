# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Objects from a real S3 server (rclone's, on loopback) into a pool, by the real rclone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _blob_fetch
from ansible_collections.odkops.central.plugins.module_utils._blob_backup import BlobBackup, back_up
from ansible_collections.odkops.central.plugins.module_utils._blob_fetch import (
    Fetched,
    Fetcher,
    FetchOptions,
    Problem,
)
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry, read_blob_list
from ansible_collections.odkops.central.plugins.module_utils._rclone import Rclone

from support.blob_central import KEY_ID, Central, contents, never
from support.s3_servers import (
    PASSPHRASE,
    SECRET_KEY,
    S3Server,
    content_of,
    fill,
    free_port,
    open_with_rclone,
)
from support.sets import small_disk

pytest_plugins = ["support.s3_fixtures"]
pytestmark = pytest.mark.usefixtures("empty_bucket")


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
