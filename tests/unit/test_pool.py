# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pool's directories and its index, without S3."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _pool
from ansible_collections.odkops.central.plugins.module_utils._blob_args import open_pool
from ansible_collections.odkops.central.plugins.module_utils._blob_fetch import PoolRemote
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry
from ansible_collections.odkops.central.plugins.module_utils._blob_survey import survey
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pool import Pool, sync_file_system
from ansible_collections.odkops.central.plugins.module_utils._pool_index import PoolIndex, Row
from ansible_collections.odkops.central.plugins.module_utils._pool_reread import share
from ansible_collections.odkops.central.plugins.module_utils._rclone import find_rclone
from ansible_collections.odkops.central.plugins.module_utils._rclone_run import RcloneJob
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository

from support.s3_servers import PASSPHRASE, content_of, entry_of, rclone_program, write_list

DAY = 86400


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(Repository(str(tmp_path)), "central", "0123456789abcdef")


@pytest.fixture
def index(tmp_path: Path) -> PoolIndex:
    return PoolIndex(str(tmp_path / "index.sqlite"))


def entry(number: int) -> BlobEntry:
    return entry_of(number, b"%d" % number)


def test_the_size_of_a_content_is_known_from_its_file(pool: Pool, tmp_path: Path) -> None:
    sizes = [1, 15, 16, 65535, 65536, 65537, 131072, 200_000]
    (tmp_path / "plain").mkdir()
    for size in sizes:
        (tmp_path / "plain" / str(size)).write_bytes(content_of(1, size))
    remote = PoolRemote(PASSPHRASE, str(tmp_path / "encrypted"))
    rclone = find_rclone(rclone_program())
    with RcloneJob(rclone, ["copy", str(tmp_path / "plain"), remote.location], remote.environment) as job:
        assert job.wait() == 0
    for size in sizes:
        stored = (tmp_path / "encrypted" / f"{size}.bin").stat().st_size
        assert (pool.content_size(stored), pool.stored_size(size)) == (size, stored)
    assert pool.content_size(31) == -1
    assert pool.content_size(32) == 0


def test_the_key_id_names_the_pool(tmp_path: Path) -> None:
    repository = Repository(str(tmp_path))
    assert not open_pool(repository, "central", "first passphrase", check_mode=True).exists
    assert list(tmp_path.iterdir()) == []
    first = open_pool(repository, "central", "first passphrase")
    assert open_pool(repository, "central", "first passphrase").path == first.path
    assert open_pool(repository, "central", "first passphrase", check_mode=True).path == first.path
    assert open_pool(repository, "central", "other passphrase").path != first.path
    assert open_pool(repository, "central", None).name == "unencrypted"
    assert repository.key_id_salt("central") is not None


def test_the_index_survives(tmp_path: Path, index: PoolIndex) -> None:
    index.add([Row(entry(1), 5, 100), Row(entry(2)._replace(md5=None), 6, 0)])
    index.close()
    again = PoolIndex(str(tmp_path / "index.sqlite"))
    assert again.count() == (2, 11)
    assert again.oldest() == 0
    found = again.find([entry(1), entry(2), entry(3)])
    assert found[1, entry(1).sha1] == (entry(1).md5, 5)
    assert found[2, entry(2).sha1] == (None, 6)
    assert len(found) == 2
    again.was_read([entry(2)], 200)
    assert again.find([entry(2)])[2, entry(2).sha1].md5 == entry(2).md5
    assert [one.id for one in again.oldest_entries(5)] == [1, 2]
    again.forget([entry(1)])
    assert again.count()[0] == 1
    again.close()
    assert (tmp_path / "index.sqlite").stat().st_mode & 0o777 == 0o600


def test_a_batch_gets_into_the_index_whole_or_not_at_all(index: PoolIndex) -> None:
    def rows() -> object:
        yield Row(entry(1), 1, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.add(rows())  # type: ignore[arg-type]
    assert index.count() == (0, 0)
    index.add([Row(entry(1), 1, 1)])
    index.close()


def test_two_contents_of_one_id_are_two_objects(index: PoolIndex) -> None:
    """An id can come back: a Central restored from an older backup gives it again."""
    one, other = entry_of(7, b"one"), entry_of(7, b"other")
    index.add([Row(one, 3, 1), Row(other, 5, 1)])
    assert index.count()[0] == 2
    assert index.find([other]) == index.find([one])
    index.close()


@pytest.mark.parametrize("content", [b"", b"no database at all " * 100, None])
def test_another_file_in_the_place_of_the_index(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "index.sqlite"
    if content is None:
        with sqlite3.connect(path) as other:
            other.execute("PRAGMA user_version = 99")
        other.close()
    else:
        path.write_bytes(content)
    copy = PoolIndex.copy_of(str(path))
    assert copy.count() == (0, 0)
    copy.close()
    index = PoolIndex(str(path))
    assert index.rebuilt == (content != b"")
    index.add([Row(entry(1), 1, 1)])
    index.close()


def test_a_copy_of_the_index_changes_nothing(tmp_path: Path, index: PoolIndex) -> None:
    index.add([Row(entry(1), 5, 100)])
    copy = PoolIndex.copy_of(str(tmp_path / "index.sqlite"))
    copy.forget([entry(1)])
    assert (copy.count()[0], index.count()[0]) == (0, 1)
    copy.close()
    index.close()


def test_the_share_of_a_run(index: PoolIndex) -> None:
    now = int(time.time())
    index.add(Row(entry(number), 1, now) for number in range(1, 301))
    index.keep("reread", now)
    assert share(index, 30, now) == 0
    assert share(index, 30, now + DAY // 11) == 0
    assert share(index, 30, now + DAY) == 10
    assert share(index, 30, now + 7 * DAY) == 70
    assert share(index, 30, now + 31 * DAY) == 300
    assert share(index, 0, now) == 300
    assert share(index, 30, now - DAY) == 0
    index.add([Row(entry(999), 1, 0)])
    assert share(index, 30, now) == 1
    index.close()


def test_the_list_is_held_against_the_index(tmp_path: Path, index: PoolIndex) -> None:
    path = str(write_list(tmp_path / "list", [entry(number) for number in range(1, 1501)]))
    index.add(Row(entry(number), 2, 1) for number in range(1, 1001))
    found = survey(path, index, None, {1500: "purged"})
    assert (found.objects, found.needed, found.size, found.differ) == (1500, 499, 2000, [])
    index.close()


def test_the_file_system_is_synchronised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    sync_file_system(descriptor)
    os.close(descriptor)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        sync_file_system(descriptor)
    called = []
    monkeypatch.setattr(_pool.ctypes, "CDLL", lambda *_a, **_k: object())
    monkeypatch.setattr(_pool.os, "sync", lambda: called.append(True))
    sync_file_system(descriptor)
    assert called


def test_content_is_durable_before_it_has_a_name(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    real = os.rename
    monkeypatch.setattr(_pool, "sync_file_system", lambda _descriptor: done.append("sync"))
    monkeypatch.setattr(_pool.os, "rename", lambda *names: (done.append("rename"), real(*names)))
    pool.prepare()
    with pool.staging() as staging:
        for number in (1, 2):
            Path(staging.objects, f"{entry(number).name}.bin").write_bytes(b"x")
        staging.admit((entry(number).name, entry(number)) for number in (1, 2))
    pool.release()
    assert done == ["sync", "rename", "rename", "sync"]


def test_a_disk_that_fails_is_said(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    pool.prepare()
    monkeypatch.setattr(_pool, "sync_file_system", fail)
    with pool.staging() as staging:
        Path(staging.objects, f"{entry(1).name}.bin").write_bytes(b"x")
        with pytest.raises(CentralError) as caught:
            staging.admit([(entry(1).name, entry(1))])
    pool.release()
    assert caught.value.diagnosis == "destination_not_writable"
    assert not os.path.exists(pool.object_path(entry(1)))
