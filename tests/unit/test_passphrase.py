# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Passphrases: by value, by file, and which are refused. No message ever shows one."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._passphrase import (
    MAXIMUM_BYTES,
    check_strength,
    read_passphrase,
    read_secret_file,
)

from support.archives import openssl


@pytest.mark.parametrize("given", [None, ""])
def test_none_and_empty_are_none(given: str | None) -> None:
    assert read_passphrase(given, None) is None


def test_by_value() -> None:
    assert read_passphrase(" as it is ", None) == " as it is "


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"one line", "one line"),
        (b"one line\n", "one line"),
        (b"one line\r\n", "one line"),
        (b"spaces stay  \n", "spaces stay  "),
        ("größer 🦀\n".encode(), "größer 🦀"),
        (b"x" * MAXIMUM_BYTES + b"\r\n", "x" * MAXIMUM_BYTES),
    ],
)
def test_by_file(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(content)
    assert read_passphrase(None, str(path)) == expected


def test_a_file_is_read_as_openssl_reads_it(tmp_path: Path) -> None:
    """The docs' command has ``-pass file:``; what it takes from the file is what we take."""
    import subprocess

    path = tmp_path / "passphrase"
    path.write_bytes(b"correct horse battery\n")
    data = openssl(b"hello", passphrase=str(read_passphrase(None, str(path))))
    command = ["openssl", "enc", "-d", "-chacha20", "-pbkdf2", "-pass", f"file:{path}"]
    assert subprocess.run(command, input=data, capture_output=True, check=True).stdout == b"hello"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"two\nlines\n", "line break"),
        (b"two\rlines", "line break"),
        (b"nul\0in it", "NUL"),
        (b"\xff\xfe not text", "UTF-8"),
        (b"x" * (MAXIMUM_BYTES + 1), "longer than"),
        (b"x" * (MAXIMUM_BYTES + 3), "longer than"),
        (b"x" * 1_000_000, "longer than"),
    ],
)
def test_files_that_hold_none(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "secret-file"
    path.write_bytes(content)
    with pytest.raises(CentralError, match=says) as caught:
        read_passphrase(None, str(path))
    assert caught.value.diagnosis == "bad_passphrase"
    assert "secret-file" in str(caught.value)
    assert "lines" not in str(caught.value)


@pytest.mark.parametrize("value", ["two\nlines", "nul\0", "carriage\r", "\udcff", "x" * (MAXIMUM_BYTES + 1)])
def test_values_that_cannot_be_one(value: str) -> None:
    with pytest.raises(CentralError) as caught:
        read_passphrase(value, None)
    assert caught.value.diagnosis == "bad_passphrase"
    assert value not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(CentralError) as caught:
            read_passphrase(None, str(path))
        assert caught.value.diagnosis == "unreadable"


def test_secret_files_of_other_things_may_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"\n")
    assert read_secret_file(str(path), "token") == ""


@pytest.mark.parametrize("weak", ["short", "a" * 40, "abcab" * 10, "fifteen chars 1"])
def test_weak_ones_are_refused_unless_asked_for(weak: str) -> None:
    with pytest.raises(CentralError, match="too weak") as caught:
        check_strength(weak, allow_weak=False)
    assert caught.value.diagnosis == "weak_passphrase"
    assert weak not in str(caught.value)
    check_strength(weak, allow_weak=True)


def test_strong_ones_are_taken() -> None:
    check_strength("correct horse battery staple", allow_weak=False)
    check_strength("sixteen chars 12", allow_weak=False)
