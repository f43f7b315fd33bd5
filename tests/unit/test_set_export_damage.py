# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Exports that have to fail, of sets and pools in which something is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _set_export
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._set_export_files import ExportDirectory

from support.exports import (
    CENTRAL,
    Source,
    damage,
    export,
    export_in_process,
    make_source,
    refused,
)
from support.sets import everything_below

pytest_plugins = ["support.export_fixtures"]


# --- what is wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [False, True])
def test_missing_objects_are_named(source: Source, shelf: Path, check: bool) -> None:
    names = [source.object(number).name.removesuffix(".bin") for number in (2, 1000)]
    source.object(2).unlink()
    elsewhere = source.object(1000).rename(shelf.parent / "elsewhere")
    (source.pool / "objects" / "1" / f"{names[1]}.bin").symlink_to(elsewhere)
    result = refused(source, shelf, check=check)
    assert (result.diagnosis, result["missing"], result["wrong"]) == ("missing_blob", 2, 0)
    assert result["missing_objects"] == names
    assert all(name in result["msg"] for name in names)


def test_a_pool_that_is_gone(source: Source, shelf: Path) -> None:
    shutil.rmtree(source.pool)
    assert refused(source, shelf)["missing"] == 6


@pytest.mark.parametrize("how", ["flipped", "zeroed", "nonce", "replaced"])
def test_damaged_objects_are_named(tmp_path: Path, shelf: Path, how: str) -> None:
    source = make_source(tmp_path, sizes=dict.fromkeys(range(1, 9), 70000))
    for number in (3, 7):
        damage(source.object(number), how, source.object(1))
    assert not export(source, shelf / "export", check=True).failed
    result = refused(source, shelf)
    assert (result.diagnosis, result["missing"], result["wrong"]) == ("corrupt", 0, 2)
    assert result["wrong_objects"] == [source.object(number).name.removesuffix(".bin") for number in (3, 7)]


@pytest.mark.parametrize("check", [False, True])
def test_a_truncated_object_is_seen_without_reading(source: Source, shelf: Path, check: bool) -> None:
    with source.object(3).open("r+b") as file:
        file.truncate(65536)
    result = refused(source, shelf, check=check)
    assert (result.diagnosis, result["wrong"]) == ("corrupt", 1)


def test_a_damaged_object_that_is_not_encrypted(open_original: Source, tmp_path: Path, shelf: Path) -> None:
    source = open_original.copy(tmp_path / "repository")
    damage(source.object(3), "flipped", source.object(3))
    assert refused(source, shelf).diagnosis == "corrupt"


def test_an_object_that_goes_meanwhile(source: Source, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, gone = ExportDirectory.copy, source.object(999)

    def copy(self: ExportDirectory, path: str, name: str, durable: bool = False) -> Any:
        gone.unlink(missing_ok=True)
        return real(self, path, name, durable)

    monkeypatch.setattr(ExportDirectory, "copy", copy)
    with pytest.raises(CentralError) as caught:
        _set_export.export_set(source.task(shelf / "export"))
    assert caught.value.diagnosis == "missing_blob"
    assert everything_below(shelf) == set()


@pytest.mark.parametrize("file", ["database.pgdump.enc.bin", "config.tar.enc.bin", "blobs.jsonl"])
@pytest.mark.parametrize("check", [False, True])
def test_a_damaged_part(source: Source, shelf: Path, file: str, check: bool) -> None:
    path = source.set_path / file
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    assert refused(source, shelf, check=check).diagnosis == "corrupt"
    path.unlink()
    assert refused(source, shelf, check=check).diagnosis == "missing_part"


@pytest.mark.parametrize("check", [False, True])
def test_a_manifest_that_was_changed(source: Source, shelf: Path, check: bool) -> None:
    path = source.set_path / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "notes": ["All is well."]}))
    assert refused(source, shelf, check=check).diagnosis == "tampered"
    path.write_text(json.dumps({**manifest, "authenticated": False, "authentication": None}))
    assert refused(source, shelf, check=check).diagnosis == "unauthenticated"
    allowed = export_in_process(source, shelf / "export", allow_unauthenticated=True, check=check)
    assert allowed["authenticated"] is False
    assert "no HMAC" in str(allowed["warnings"])
    if not check:
        assert (shelf / "export" / CENTRAL / "key-id.salt").exists()


def test_a_manifest_that_is_replaced_meanwhile(source: Source, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = source.set_path / "manifest.json"

    def room(*_arguments: Any) -> int:
        path.write_text(path.read_text().replace("A note.", "Another."))
        return 0

    monkeypatch.setattr(_set_export, "check_room", room)
    with pytest.raises(CentralError) as caught:
        _set_export.export_set(source.task(shelf / "export"))
    assert caught.value.diagnosis == "tampered"
    assert everything_below(shelf) == set()


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize(
    ("options", "diagnosis"),
    [
        ({"passphrase": "another passphrase"}, "wrong_passphrase"),
        ({"passphrase": None}, "wrong_passphrase"),
        ({"passphrase": None, "allow_unauthenticated": True}, "wrong_passphrase"),
        ({"passphrase": 4711}, "bad_passphrase"),
        ({"set": "20261122T020000.123Z-0a1b2c3d"}, "set_not_found"),
        ({"set": "../x"}, "bad_name"),
        ({"central": "another"}, "set_not_found"),
        ({"central": "../x"}, "bad_name"),
        ({"repository": "/nonexistent/odk"}, "not_a_repository"),
        ({"rclone_path": "/nonexistent/rclone"}, "missing_rclone"),
    ],
)
def test_what_is_refused(original: Source, shelf: Path, options: dict[str, Any], diagnosis: str, check: bool) -> None:
    result = refused(original, shelf, check=check, **options)
    assert result.diagnosis == diagnosis, result.result


def test_encrypted_objects_of_a_set_without_hmac_need_the_passphrase(source: Source, shelf: Path) -> None:
    path = source.set_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "authenticated": False, "authentication": None}))
    assert refused(source, shelf, passphrase=None).diagnosis == "wrong_passphrase"


@pytest.mark.parametrize("check", [False, True])
def test_destinations(source: Source, shelf: Path, check: bool) -> None:
    (shelf / "file").write_text("x")
    (shelf / "empty").mkdir()
    (shelf / "dangling").symlink_to("nowhere")
    before = everything_below(shelf)
    for name, diagnosis in (
        ("file", "destination_exists"),
        ("empty", "destination_exists"),
        ("dangling", "destination_exists"),
        ("file/x", "destination_not_writable"),
        ("nowhere/x", "destination_not_writable"),
        (f"{source.root}/x", "bad_option"),
        (f"{source.root}/{CENTRAL}/x", "bad_option"),
    ):
        assert export(source, shelf / name, check=check).diagnosis == diagnosis, name
    assert everything_below(shelf) == before
    assert not (source.root / "x").exists()
