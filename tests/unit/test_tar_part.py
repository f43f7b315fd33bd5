# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Parts that are tar archives, written: read back by our reader, and by openssl, tar and sha256sum."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _tar_part
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._tar_part import TarPart, open_tar_part, verify_tar_part

PASSPHRASE = "correct horse battery"

LONG_NAME = "/".join(["directory" * 5] * 6) + "/ü.txt"
CONTENT: dict[str, bytes] = {
    "empty": b"",
    "block": b"b" * 512,
    "files/.env": b"DOMAIN=central.example.org\n",
    "back\\slash and space": b"\0\xff" * 1000,
    "größe/日本.txt": "ü".encode() * 333,
    LONG_NAME: b"deep",
    "big": os.urandom(3_000_000),
}


def make(
    path: Path, content: Mapping[str, bytes] = MappingProxyType(CONTENT), passphrase: str | None = PASSPHRASE
) -> dict[str, Any]:
    with TarPart(str(path), passphrase) as part:
        for name, data in content.items():
            part.add(name, data)
        return part.commit()


def read(path: Path, passphrase: str | None = PASSPHRASE) -> dict[str, bytes]:
    with open_tar_part(str(path), passphrase) as reader:
        return {member.name: b"".join(iter(lambda: member.read(1000), b"")) for member in reader}  # noqa: B023


def unpack(path: Path, folder: Path, passphrase: str) -> None:
    secret = folder.parent / "passphrase"
    secret.write_text(passphrase + "\n")
    folder.mkdir()
    script = (
        'openssl enc -d -chacha20 -pbkdf2 -pass "file:$1" -in "$2" | tar -x -C "$3"; cd "$3"; sha256sum -c SHA256SUMS'
    )
    subprocess.run(["sh", "-ec", script, "sh", secret, path, folder], check=True, capture_output=True)


def diagnosis(path: Path, passphrase: str | None = PASSPHRASE, expected: str | None = None) -> str:
    with pytest.raises(CentralError) as caught:
        verify_tar_part(str(path), passphrase, expected)
    return caught.value.diagnosis


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "config.tar.enc.bin"
    made = make(path)
    data = path.read_bytes()
    assert made == {
        "path": str(path),
        "format": "tar.enc",
        "encrypted": True,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "members": [
            {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in CONTENT.items()
        ],
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read(path) == CONTENT
    assert {"path": str(path), **verify_tar_part(str(path), PASSPHRASE, made["sha256"])} == made
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_a_part_opens_by_hand(tmp_path: Path) -> None:
    path, folder = tmp_path / "config.tar.enc.bin", tmp_path / "out"
    make(path)
    unpack(path, folder, PASSPHRASE)
    found = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert found.pop("SHA256SUMS").count(b"\n") == len(CONTENT)
    assert found == CONTENT


def test_modes_and_times_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "part"
    with TarPart(str(path), PASSPHRASE) as part:
        part.add("script", b"#!/bin/sh\n", mode=0o100755, mtime=1234567890)
        part.add("other", b"")
        part.commit()
    with open_tar_part(str(path), PASSPHRASE) as reader:
        found = {member.name: (member.mode, member.mtime) for member in reader}
    assert found["script"] == (0o755, 1234567890)
    assert found["other"][0] == 0o600
    assert found["other"][1] > 1_700_000_000


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024 * 1024, 1024 * 1024 + 1, 2_500_000])
def test_streams_of_known_and_of_unknown_size(tmp_path: Path, size: int) -> None:
    path, data = tmp_path / "part", os.urandom(size)
    with TarPart(str(path), PASSPHRASE) as part:
        assert part.add("known", io.BytesIO(data), size=size) == _tar_part.Member(
            "known", size, hashlib.sha256(data).hexdigest()
        )
        assert part.add("unknown", io.BytesIO(data)).size == size
        part.commit()
    assert read(path) == {"known": data, "unknown": data}


def test_what_is_put_aside_is_not_readable_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    def note(file: Any, data: bytes) -> None:
        written.append(data)
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
        file.write(data)

    monkeypatch.setattr(_tar_part, "_write_all", note)
    data = b"secret " * 300_000
    with TarPart(str(tmp_path / "part"), PASSPHRASE) as part:
        part.add("x", io.BytesIO(data))
        assert os.listdir(tmp_path) == []
        part.commit()
    assert len(b"".join(written)) == len(data)
    assert b"secret" not in b"".join(written)
    assert read(tmp_path / "part") == {"x": data}


@pytest.mark.parametrize("size", [2, 4])
def test_a_stream_of_another_size_than_it_should_have(tmp_path: Path, size: int) -> None:
    with TarPart(str(tmp_path / "part"), PASSPHRASE) as part, pytest.raises(CentralError) as caught:
        part.add("x", io.BytesIO(b"123"), size=size)
    assert caught.value.diagnosis == "operation_failed"
    assert os.listdir(tmp_path) == []


NAMES = ["", "/x", "../x", "a/../b", "a//b", "./a", "a/", "a\nb", "a\0b", "x" * 1025, "SHA256SUMS", "\udcff", "twice"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    with TarPart(str(tmp_path / "part"), PASSPHRASE) as part:
        part.add("twice", b"")
        with pytest.raises(CentralError) as caught:
            part.add(name, b"")
    assert caught.value.diagnosis == "bad_name"


def test_a_part_without_a_passphrase_opens_with_the_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "part"
    made = make(path, {"a": b"b"}, None)
    assert made["encrypted"] is False
    assert made["format"] == "tar.enc"
    assert read(path, None) == {"a": b"b"}
    assert read(path, "") == {"a": b"b"}
    assert diagnosis(path, PASSPHRASE) == "empty_passphrase"


def test_nothing_is_left_without_commit(tmp_path: Path) -> None:
    with TarPart(str(tmp_path / "part"), PASSPHRASE) as part:
        part.add("x", b"y")
    assert os.listdir(tmp_path) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(b"old")
    with pytest.raises(CentralError) as caught:
        TarPart(str(path), PASSPHRASE)
    assert caught.value.diagnosis == "destination_exists"
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("spooled", [True, False])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spooled: bool) -> None:
    def full(*_args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with TarPart(str(tmp_path / "part"), PASSPHRASE) as part:
        if spooled:
            monkeypatch.setattr(_tar_part, "_write_all", full)
        else:
            monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(CentralError) as caught:
            part.add("x", io.BytesIO(bytes(2_000_000)))
            part.commit()
    assert caught.value.diagnosis == "disk_full"
    assert os.listdir(tmp_path) == []


def test_a_disk_that_gives_back_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TarPart(str(tmp_path / "part"), PASSPHRASE) as part:
        part.add("x", b"abc" * 1000)
        store = part._store

        def spoilt(data: bytes) -> None:
            store(data)
            os.pwrite(part._file.file.fileno(), b"?", 1000)

        monkeypatch.setattr(part, "_store", spoilt)
        with pytest.raises(CentralError) as caught:
            part.commit()
    assert caught.value.diagnosis == "corrupt"
    assert os.listdir(tmp_path) == []


def test_a_changed_part_is_known_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "part"
    made = make(path, {"a": b"b" * 5000})
    data = bytearray(path.read_bytes())
    for position in (20, 700, len(data) - 1):
        path.write_bytes(bytes([*data[:position], data[position] ^ 1, *data[position + 1 :]]))
        assert diagnosis(path) in ("corrupt", "wrong_passphrase", "unsafe_archive", "truncated")
        assert diagnosis(path, expected=made["sha256"]) == "tampered"
