# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The list of objects: what a dump names, line by line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils._blob_list import (
    BlobEntry,
    BlobListWriter,
    parse_name,
    read_blob_list,
    render,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import BlobFact

SHA1, MD5 = "9e7c24020c89ba7df8fd52688b91ea110c294314", "0123456789abcdef0123456789abcdef"
ENTRIES = [
    BlobEntry(7, SHA1, MD5, 20480),
    BlobEntry(2**31 - 1, SHA1, None, None),
    BlobEntry(8, SHA1, MD5, 0, "purged"),
    BlobEntry(9, SHA1, None, 5, "known"),
]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "blobs.jsonl"
    with BlobListWriter(str(path)) as writer:
        for entry in ENTRIES:
            writer.add(entry)
        writer.commit()
    assert list(read_blob_list(str(path))) == ENTRIES
    data = path.read_bytes()
    assert (writer.size, writer.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert path.stat().st_mode & 0o777 == 0o600


def test_each_line_is_canonical_json() -> None:
    for entry in ENTRIES:
        line = render(entry).decode()
        value = json.loads(line)
        assert json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n" == line
        assert value["key"] == entry.name
    assert render(ENTRIES[0]) == (
        b'{"key":"blob-7-%s","md5":"%s","sha1":"%s","size":20480}\n' % (SHA1.encode(), MD5.encode(), SHA1.encode())
    )


def test_without_commit_there_is_no_file(tmp_path: Path) -> None:
    with BlobListWriter(str(tmp_path / "list")) as writer:
        writer.add(ENTRIES[0])
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_uploaded_is_listed(tmp_path: Path) -> None:
    with BlobListWriter(str(tmp_path / "list")) as writer:
        for number, status in enumerate(("pending", "uploaded", "failed", "skipped", "uploaded"), 1):
            writer.on_blob(BlobFact(number, SHA1, MD5, None, status, False))
        writer.commit()
    assert [entry.id for entry in read_blob_list(str(tmp_path / "list"))] == [2, 5]


@pytest.mark.parametrize(
    "blob",
    [
        BlobFact(0, SHA1, MD5, None, "uploaded", False),
        BlobFact(2**31, SHA1, MD5, None, "uploaded", False),
        BlobFact(1, SHA1.upper(), MD5, None, "uploaded", False),
        BlobFact(1, "../../etc/passwd", MD5, None, "uploaded", False),
        BlobFact(1, SHA1 + "\n", MD5, None, "uploaded", False),
        BlobFact(1, SHA1, "x", None, "uploaded", False),
        BlobFact(1, SHA1, MD5, -1, "uploaded", False),
    ],
)
def test_a_row_that_cannot_be_is_refused(tmp_path: Path, blob: BlobFact) -> None:
    with BlobListWriter(str(tmp_path / "list")) as writer, pytest.raises(CentralError) as caught:
        writer.on_blob(blob)
    assert caught.value.diagnosis == "corrupt"


def test_another_writer_may_write_other_json(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text(json.dumps({"size": 1, "sha1": SHA1, "md5": MD5, "key": f"blob-3-{SHA1}"}) + "\n")
    assert list(read_blob_list(str(path))) == [BlobEntry(3, SHA1, MD5, 1)]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b'{"key":"blob-3-' + SHA1.encode() + b'"',
        json.dumps({"size": 1, "sha1": SHA1, "md5": MD5, "key": f"blob-3-{SHA1[::-1]}"}).encode(),
        json.dumps({"size": 1, "sha1": "x", "md5": MD5, "key": "blob-3-x"}).encode(),
        json.dumps({"size": 1, "sha1": SHA1, "md5": MD5, "key": f"../blob-3-{SHA1}"}).encode(),
        json.dumps({"size": 1.5, "sha1": SHA1, "md5": MD5, "key": f"blob-3-{SHA1}"}).encode(),
        b"[" * 2000,
        b"x" * 5000,
    ],
)
def test_a_line_that_is_none_is_refused(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "list"
    path.write_bytes(render(ENTRIES[0]) + line + b"\n")
    with pytest.raises(CentralError) as caught:
        list(read_blob_list(str(path)))
    assert caught.value.diagnosis == "corrupt"
    assert "Line 2" in caught.value.message


def test_a_cut_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(render(ENTRIES[0])[:-3])
    with pytest.raises(CentralError) as caught:
        list(read_blob_list(str(path)))
    assert caught.value.diagnosis == "corrupt"


def test_there_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(CentralError) as caught:
        list(read_blob_list(str(tmp_path / "list")))
    assert caught.value.diagnosis == "unreadable"


@pytest.mark.parametrize(
    "name", ["", "blob-1-x", f"blob-01-{SHA1}", f"blob-1-{SHA1}.bin", f"blob-9999999999-{SHA1}", f"Blob-1-{SHA1}"]
)
def test_other_names_are_no_objects(name: str) -> None:
    assert parse_name(name) is None
