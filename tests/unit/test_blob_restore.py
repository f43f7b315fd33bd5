# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Objects from a pool into real S3 servers (rclone's, moto's, and one that hides what it does not have), by the real rclone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _blob_restore
from ansible_collections.odkops.central.plugins.module_utils._blob_backup import BlobBackup, back_up
from ansible_collections.odkops.central.plugins.module_utils._blob_fetch import FetchOptions
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry
from ansible_collections.odkops.central.plugins.module_utils._blob_restore import BlobRestore, restore_blobs
from ansible_collections.odkops.central.plugins.module_utils._bucket import Bucket, Look, Stored
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pool import Pool
from ansible_collections.odkops.central.plugins.module_utils._rclone import Rclone, S3Settings
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository
from ansible_collections.odkops.central.plugins.module_utils._s3_place import Owner, S3Place, refuse_sharing

from support.s3_servers import (
    ACCESS_KEY,
    BUCKET,
    PASSPHRASE,
    SECRET_KEY,
    S3Server,
    content_of,
    fill,
    free_port,
    hiding_server,
    write_list,
)

KEY_ID = "0123456789abcdef"
Spoil = Callable[[bytes], Optional[bytes]]

pytest_plugins = ["support.s3_fixtures"]
pytestmark = pytest.mark.usefixtures("empty_bucket")


@dataclass
class Central:
    """A Central's pool, and the bucket that its objects are put back into."""

    root: Path
    server: S3Server
    rclone: Rclone
    settings: dict[str, Any] = field(default_factory=dict)
    key_id: str | None = KEY_ID
    passphrase: str | None = PASSPHRASE

    @property
    def pool(self) -> Pool:
        return Pool(Repository(str(self.root)), "central", self.key_id)

    def s3(self) -> S3Settings:
        given = {"server": self.server.address, "bucket": BUCKET, "access_key": ACCESS_KEY, "secret_key": SECRET_KEY}
        return S3Settings(**{**given, **self.settings})

    def fill(self, numbers: range) -> list[BlobEntry]:
        """Make the pool by a backup, and empty the bucket."""
        entries = fill(self.server, numbers, self.settings.get("prefix", ""))
        back_up(
            BlobBackup(
                pool=self.pool,
                passphrase=self.passphrase,
                list_path=str(write_list(self.root / "list", entries)),
                dest=str(self.root / "list"),
                settings=self.s3,
                rclone=lambda: self.rclone,
            )
        )
        shutil.rmtree(self.server.bucket)
        self.server.bucket.mkdir()
        return entries

    def run(self, entries: list[BlobEntry], check_mode: bool = False, **more: Any) -> dict[str, Any]:
        work = self.root / "work"
        work.mkdir(exist_ok=True)
        task = BlobRestore(
            pool=self.pool,
            passphrase=self.passphrase,
            list_path=str(write_list(self.root / "needed", entries)),
            settings=self.s3(),
            rclone=lambda: self.rclone,
            temporary=str(work),
            **more,
        )
        try:
            return restore_blobs(task, check_mode)
        finally:
            assert os.listdir(work) == []

    def fails(self, entries: list[BlobEntry], **more: Any) -> CentralError:
        with pytest.raises(CentralError) as caught:
            self.run(entries, **more)
        assert SECRET_KEY not in caught.value.message
        assert PASSPHRASE not in caught.value.message
        return caught.value

    def there(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.server.bucket)): path.read_bytes()
            for path in self.server.bucket.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def central(tmp_path: Path, server: S3Server, rclone: Rclone) -> Central:
    (tmp_path / "central").mkdir()
    return Central(tmp_path, server, rclone)


def contents(entries: list[BlobEntry], prefix: str = "") -> dict[str, bytes]:
    return {prefix + entry.name: content_of(entry.id) for entry in entries}


@pytest.mark.parametrize("prefix", ["", "some/folder/stem-"])
def test_what_the_bucket_lacks_is_put_back(central: Central, prefix: str) -> None:
    central.settings["prefix"] = prefix
    entries = central.fill(range(1, 8))
    for entry in entries[:2]:
        central.server.put(prefix + entry.name, content_of(entry.id))
    rehearsed = central.run(entries, check_mode=True)
    assert (rehearsed["changed"], rehearsed["would_send"], rehearsed["would_send_size"]) == (True, 5, 10000)
    assert rehearsed["would_send_objects"] == [entry.name for entry in entries[2:]]
    assert len(central.there()) == 2
    done = central.run(entries, options=FetchOptions(batch_objects=2))
    assert (done["changed"], done["objects"], done["present"], done["sent"], done["sent_size"]) == (
        True,
        7,
        2,
        5,
        10000,
    )
    assert central.there() == contents(entries, prefix)
    again = central.run(entries)
    assert (again["changed"], again["present"], again["sent"]) == (False, 7, 0)


def test_a_pool_without_encryption_and_ids_of_many_directories(central: Central) -> None:
    central.key_id = central.passphrase = None
    entries = central.fill(range(998, 1003))
    assert central.run(entries)["sent"] == 5
    assert central.there() == contents(entries)


def test_nothing_in_the_bucket_is_touched(central: Central) -> None:
    entries = central.fill(range(1, 4))
    kept = {"other": b"mine", "blob-9-" + "0" * 40: b"of an older database"}
    for name, content in kept.items():
        central.server.put(name, content)
    times = {name: (central.server.bucket / name).stat().st_mtime_ns for name in kept}
    central.run(entries)
    assert central.there() == {**contents(entries), **kept}
    assert times == {name: (central.server.bucket / name).stat().st_mtime_ns for name in kept}


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "0 bytes instead of 2000"), (content_of(2)[::-1], "another content")],
)
def test_something_else_under_the_name(central: Central, content: bytes, said: str) -> None:
    entries = central.fill(range(1, 4))
    central.server.put(entries[1].name, content)
    error = central.fails(entries)
    assert (error.diagnosis, error.details["differing"]) == ("blob_differs", 1)
    assert said in error.details["differing_objects"][0]
    assert central.there() == {entries[1].name: content}


def test_an_md5_that_the_server_does_not_mean_as_such(central: Central) -> None:
    """The database's MD5 and the server's differ, and the content is right: the SHA-1 decides."""
    entries = central.fill(range(1, 4))
    central.server.put(entries[0].name, content_of(1))
    wrong = [entry._replace(md5="0" * 32) for entry in entries]
    done = central.run(wrong)
    assert (done["present"], done["sent"]) == (1, 2)


def test_what_the_pool_lacks(central: Central) -> None:
    entries = central.fill(range(1, 6))
    os.unlink(central.pool.object_path(entries[0]))
    with open(central.pool.object_path(entries[1]), "r+b") as file:
        file.seek(500)
        file.write(b"x")
    with open(central.pool.object_path(entries[2]), "ab") as file:
        file.write(b"x")
    assert central.fails(entries).diagnosis == "missing_blob"
    assert central.there() == {}
    error = central.fails(entries[1:2])
    assert (error.details["damaged_objects"], error.details["missing"]) == ([entries[1].name], 0)
    assert central.there() == {}
    done = central.run(entries, allow_missing=True)
    assert (done["missing_objects"], done["sent"]) == ([entries[0].name], 2)
    assert set(done["damaged_objects"]) == {entries[1].name, entries[2].name}
    assert entries[0].name in str(done["warnings"])
    assert central.there() == contents(entries[3:])


def test_what_the_pool_lacks_and_the_bucket_has(central: Central) -> None:
    entries = central.fill(range(1, 4))
    os.unlink(central.pool.object_path(entries[0]))
    central.server.put(entries[0].name, content_of(1))
    assert central.run(entries)["sent"] == 2


def test_what_the_list_says_is_absent(central: Central) -> None:
    entries = central.fill(range(1, 4))
    done = central.run([*entries[:2], entries[2]._replace(absent="purged")])
    assert (done["absent"], done["sent"]) == (1, 2)
    assert central.there() == contents(entries[:2])


def test_keys_that_may_not_list(central: Central) -> None:
    """A server that says 403 of what it does not have, as S3 does to such keys."""
    entries = central.fill(range(1, 6))
    central.server.put(entries[0].name, content_of(1))
    with hiding_server(central.server) as address:
        central.settings["server"] = address
        assert "403" in str(central.run(entries, check_mode=True)["warnings"])
        done = central.run(entries)
        assert (done["present"], done["sent"]) == (1, 4)
        assert central.there() == contents(entries)
        (central.server.bucket / entries[3].name).write_bytes(b"else")
        assert central.fails(entries).diagnosis == "blob_differs"


def test_keys_that_may_only_write(central: Central) -> None:
    entries = central.fill(range(1, 6))
    with hiding_server(central.server, all_of_it=True) as address:
        central.settings["server"] = address
        error = central.fails(entries)
    assert (error.diagnosis, "s3:GetObject" in error.message) == ("s3_refused", True)
    assert len(central.there()) == 1


def test_keys_that_may_only_read(central: Central) -> None:
    entries = central.fill(range(1, 6))
    with hiding_server(central.server, writes=False) as address:
        central.settings["server"] = address
        error = central.fails(entries)
    assert (error.diagnosis, "s3:PutObject" in error.message) == ("s3_refused", True)


@pytest.mark.parametrize(
    ("settings", "diagnosis"),
    [
        ({"secret_key": "quite-another-secret-key"}, "s3_refused"),
        ({"bucket": "nowhere"}, "s3_failed"),
        ({"server": "http://127.0.0.1:9"}, "s3_failed"),
    ],
)
def test_a_server_that_does_not_take_them(central: Central, settings: dict[str, Any], diagnosis: str) -> None:
    entries = central.fill(range(1, 4))
    central.settings.update(settings)
    assert central.fails(entries).diagnosis == diagnosis
    assert central.there() == {}


@pytest.mark.parametrize("spoil", [lambda _content: None, lambda content: content[:-1]])
def test_a_server_that_spoils_what_it_took(central: Central, monkeypatch: pytest.MonkeyPatch, spoil: Spoil) -> None:
    """What rclone says has gone well is not believed: the bucket is asked."""
    entries = central.fill(range(1, 5))
    path, send = central.server.bucket / entries[1].name, Bucket.send

    def spoiling(self: Bucket, *arguments: Any, **more: Any) -> Any:
        said = send(self, *arguments, **more)
        if path.exists():
            left = spoil(path.read_bytes())
            path.unlink() if left is None else path.write_bytes(left)
        return said

    monkeypatch.setattr(Bucket, "send", spoiling)
    monkeypatch.setattr(_blob_restore, "PAUSE", 0)
    error = central.fails(entries)
    assert (error.diagnosis, error.details["sent"]) == ("s3_failed", 3)
    assert error.details["failed_objects"] == [path.name]
    monkeypatch.setattr(Bucket, "send", send)
    path.unlink(missing_ok=True)
    assert central.run(entries)["sent"] == 1


@pytest.mark.parametrize("damaged", [True, False])
def test_another_md5_afterwards(central: Central, monkeypatch: pytest.MonkeyPatch, damaged: bool) -> None:
    """Where the server says another MD5 of what was sent, the object is read: it may be something else than an MD5."""
    entries = central.fill(range(1, 4))
    look = Bucket.look

    def looking(self: Bucket, asked: list[BlobEntry]) -> Look:
        return Look({name: Stored(stored.size, "0" * 32) for name, stored in look(self, asked).there.items()})

    monkeypatch.setattr(Bucket, "look", looking)
    monkeypatch.setattr(_blob_restore, "PAUSE", 0)
    if not damaged:
        assert central.run(entries)["sent"] == 3
        return
    monkeypatch.setattr(Bucket, "sha1", lambda _self, asked: {entry.name: "0" * 40 for entry in asked})
    error = central.fails(entries)
    assert (error.diagnosis, "another content" in error.message) == ("s3_failed", True)


def test_an_object_that_comes_into_being_meanwhile(central: Central, tmp_path: Path) -> None:
    """Between being asked for and being sent, somebody else has written it: it is not replaced."""
    entries = central.fill(range(1, 3))
    central.server.put(entries[0].name, b"theirs")
    failed = Bucket(central.rclone, central.s3(), str(tmp_path)).send(central.pool, PASSPHRASE, entries, hopeful=True)
    assert list(failed) == [entries[0].name]
    assert central.there() == {entries[0].name: b"theirs", entries[1].name: content_of(2)}


def test_a_failure_that_passes(central: Central, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = central.fill(range(1, 5))
    send, calls = Bucket.send, []

    def once(self: Bucket, pool: Pool, passphrase: str | None, batch: Any, hopeful: bool) -> Any:
        calls.append(len(batch))
        return send(self, pool, passphrase, batch[1:] if len(calls) == 1 else batch, hopeful)

    monkeypatch.setattr(Bucket, "send", once)
    monkeypatch.setattr(_blob_restore, "PAUSE", 0)
    assert central.run(entries)["sent"] == 4
    assert calls == [4, 1]


# --- whose bucket it is -----------------------------------------------------------------------------------------


def place(server: str = "https://s3.example.org", bucket: str = "odk", prefix: str = "") -> S3Place:
    return S3Place.of(S3Settings(server, bucket, "a", "b", prefix))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (place(), place("http://S3.example.org:80/"), True),
        (place(), place("https://s3.example.org:443"), True),
        (place(), place("https://s3.example.org:9000"), False),
        (place(), place(bucket="other"), False),
        (place(), place(prefix="other/"), False),
        (place("https://s3.amazonaws.com"), place("https://s3.eu-west-1.amazonaws.com"), True),
        (place("https://[::1]:9000"), place("https://[::1]:9000/"), True),
    ],
)
def test_places(one: S3Place, other: S3Place, same: bool) -> None:
    assert one.is_same(other) is same
    assert S3Place.recorded({"s3": one.as_dict()}) == one


@pytest.mark.parametrize(
    ("source", "domain", "refused"),
    [
        (Owner("a.example.org", (place(),)), "a.example.org", False),
        (Owner("a.example.org", (place(),)), "A.example.org.", False),
        (Owner("a.example.org", (place(),)), "b.example.org", True),
        (Owner("a.example.org", (place(bucket="old"), place())), "b.example.org", True),
        (Owner("a.example.org", (place(bucket="old"),)), "b.example.org", False),
        (Owner("a.example.org", ()), "a.example.org", False),
        (Owner("a.example.org", ()), "b.example.org", True),
        (Owner("a.example.org", (place(),)), "", True),
        (Owner("", (place(),)), "b.example.org", True),
        (Owner("", ()), "", True),
    ],
)
def test_who_may_share(source: Owner, domain: str, refused: bool) -> None:
    if not refused:
        refuse_sharing(source, domain, place())
        return
    with pytest.raises(CentralError) as caught:
        refuse_sharing(source, domain, place())
    assert caught.value.diagnosis == "shared_bucket"
    assert "source_retired" in caught.value.message


@pytest.mark.parametrize("part", [None, {}, {"s3": None}, {"s3": {"server": "x", "bucket": 3, "prefix": ""}}])
def test_a_part_that_does_not_say(part: dict[str, Any] | None) -> None:
    assert S3Place.recorded(part) is None


def test_no_server(central: Central) -> None:
    entries = central.fill(range(1, 3))
    central.settings["server"] = f"http://127.0.0.1:{free_port()}"
    error = central.fails(entries)
    assert (error.diagnosis, "reached" in error.message) == ("s3_failed", True)
