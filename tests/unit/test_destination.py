# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names that servers give, and where a download goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils._destination import (
    SUFFIXES,
    Destination,
    name_from_header,
    safe_name,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (
            'attachment; filename="central-backup-2026-11-22T23:11:18.733Z.pgdump.enc.bin"',
            "central-backup-2026-11-22T23-11-18.733Z.pgdump.enc.bin",
        ),
        (
            'attachment; filename="central-backup-2024-01-01T00:00:00.000Z.zip"',
            "central-backup-2024-01-01T00-00-00.000Z.zip",
        ),
        ("attachment; filename=plain.zip", "plain.zip"),
        ("attachment; filename*=UTF-8''b%20%2F..%2Fc.zip", "c.zip"),
        ('attachment; filename="../../etc/cron.d/evil.bin"', "evil.bin"),
        ('attachment; filename="..\\\\..\\\\evil.bin"', "evil.bin"),
        ('attachment; filename="/.ssh/authorized_keys"', "authorized_keys.pgdump.enc.bin"),
        ('attachment; filename=".hidden.zip"', "hidden.zip"),
        ('attachment; filename="con.zip"', "backup-con.zip"),
        ('attachment; filename="a\tb|c?.zip"', "a-b-c.zip"),
        ('attachment; filename=""', "fallback.pgdump.enc.bin"),
        ('attachment; filename="..."', "fallback.pgdump.enc.bin"),
        ('attachment; filename=".pgdump.enc.bin"', "pgdump.enc.bin"),
        ("attachment", "fallback.pgdump.enc.bin"),
        ("", "fallback.pgdump.enc.bin"),
    ],
)
def test_names_that_servers_give(header: str, name: str) -> None:
    assert name_from_header(header, "fallback") == name


def test_long_names_keep_their_end() -> None:
    name = safe_name("x" * 300 + ".pgdump.enc.bin")
    assert len(name) == 120
    assert name.endswith(".pgdump.enc.bin")


@given(st.text(max_size=300))
def test_any_name_is_safe(text: str) -> None:
    name = name_from_header(f'attachment; filename="{text}"', "fallback")
    assert name == os.path.basename(name)
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert name[0] not in ".-"
    assert name.endswith(SUFFIXES)
    assert len(name) <= 140


def test_a_directory_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "odd.zip").mkdir()
    assert not Destination(str(tmp_path / "odd.zip")).is_file, "a directory is one, whatever its name"
    assert not Destination(str(tmp_path / "new.zip") + "/").is_file
    assert not Destination(str(tmp_path / "central.example.org")).is_file
    assert Destination(str(tmp_path / "a.pgdump.enc.bin")).is_file


@pytest.mark.parametrize(
    ("dest", "sent", "name"),
    [
        ("database.pgdump.enc.bin", "x.zip", "database.zip"),
        ("database.zip", "x.pgdump.enc.bin", "database.pgdump.enc.bin"),
        ("database.zip", "x.zip", "database.zip"),
        ("database.bin", "x.pgdump.enc.bin", "database.bin"),
        ("dir", "x:1.zip", "dir/x-1.zip"),
    ],
)
def test_the_end_of_the_name_says_what_it_is(tmp_path: Path, dest: str, sent: str, name: str) -> None:
    path = Destination(str(tmp_path / dest)).path(f'attachment; filename="{sent}"', "fallback")
    assert path == str(tmp_path / name)


@pytest.mark.parametrize(
    ("dest", "there"), [("a.pgdump.enc.bin", "a.zip"), ("a.zip", "a.pgdump.enc.bin"), ("a.bin", "a.bin")]
)
def test_neither_name_may_be_taken(tmp_path: Path, dest: str, there: str) -> None:
    (tmp_path / there).touch()
    with pytest.raises(CentralError) as caught:
        Destination(str(tmp_path / dest)).check(None)
    assert caught.value.diagnosis == "destination_exists"
    assert str(tmp_path / there) in caught.value.message


def test_only_what_was_made_is_removed_again(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    destination = Destination(str(tmp_path / "a" / "b" / "c"))
    destination.make()
    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    destination.unmake()
    assert list((tmp_path / "a").iterdir()) == []
    destination.make()
    (tmp_path / "a" / "b" / "kept").touch()
    destination.unmake()
    assert [entry.name for entry in (tmp_path / "a" / "b").iterdir()] == ["kept"]


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for dest in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CentralError) as caught:
            Destination(str(dest)).check(None)
        assert caught.value.diagnosis == "destination_not_writable"


def test_the_newest_backup_says_how_much_room_is_needed(tmp_path: Path) -> None:
    for age, size in ((300, 10), (100, 2_000_000_000_000_000), (200, 20)):
        file = tmp_path / f"{age}.zip"
        file.touch()
        os.truncate(file, size if size < 1000 else 30)
        os.utime(file, (1_700_000_000 - age, 1_700_000_000 - age))
    (tmp_path / "newer.txt").write_bytes(b"x" * 1000)
    assert Destination(str(tmp_path))._last_size() == 30
    free = Destination(str(tmp_path)).check(None)
    with pytest.raises(CentralError) as caught:
        Destination(str(tmp_path)).check(free * 2)
    assert caught.value.diagnosis == "disk_full"
    assert caught.value.details["needed"] > free
