# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""central_backup_verify with depth=pg_restore: the demo Central's own pg_restore is asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from support import Demo, Result, run_module


@pytest.fixture
def path(demo: Demo, passphrase_file: Path, tmp_path: Path) -> Path:
    """A fresh backup."""
    given = {**demo.login, "passphrase_file": str(passphrase_file), "dest": str(tmp_path / "b.pgdump.enc.bin")}
    return Path(run_module("central_backup", given)["path"])


@pytest.fixture
def inside(demo: Demo) -> list[str]:
    """pg_restore in the service's container."""
    return ["docker", "exec", "-i", demo.compose("ps", "-q", "service").strip(), "pg_restore"]


def verify(path: Path, passphrase_file: Path, command: Any, **more: Any) -> Result:
    given = {"path": str(path), "passphrase_file": str(passphrase_file), "depth": "pg_restore", "pg_restore": command}
    return run_module("central_backup_verify", {**given, **more})


def script(tmp_path: Path, text: str) -> list[str]:
    """A program of a few lines that calls itself pg_restore."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ncase $1 in --version) echo 'pg_restore (PostgreSQL) 9.6'; exit ;; esac\n{text}\n")
    program.chmod(0o755)
    return [str(program)]


def test_a_good_backup(demo: Demo, path: Path, passphrase_file: Path, inside: list[str]) -> None:
    result = verify(path, passphrase_file, inside)
    assert result.diagnosis == "ok", result.result
    assert result["depth"] == "pg_restore"
    assert result["pg_restore_version"] == demo.psql("show server_version").split()[0]
    assert result["tables"]["public.submissions"] == int(demo.psql("select count(*) from submissions"))


def test_pg_restore_gets_the_whole_archive(path: Path, passphrase_file: Path, tmp_path: Path) -> None:
    assert verify(path, passphrase_file, script(tmp_path, f"cat > {tmp_path}/seen")).diagnosis == "ok"
    assert (tmp_path / "seen").stat().st_size == path.stat().st_size - 16
    assert (tmp_path / "seen").read_bytes().startswith(b"PGDMP")


def test_our_own_reader_speaks_first(path: Path, passphrase_file: Path, inside: list[str]) -> None:
    os.truncate(path, path.stat().st_size - 1000)
    assert verify(path, passphrase_file, inside).diagnosis == "truncated"
    passphrase_file.write_text("another passphrase\n", "utf-8")
    assert verify(path, passphrase_file, inside).diagnosis == "wrong_passphrase"


@pytest.mark.parametrize(
    ("text", "diagnosis", "words"),
    [
        ("cat > /dev/null; exit 3", "pg_restore_failed", "exit 3"),
        ("echo 'pg_restore: error: bad data' >&2; exit 1", "pg_restore_failed", "bad data"),
        (
            "echo 'pg_restore: error: unsupported version (1.16) in file header' >&2; exit 1",
            "pg_restore_too_old",
            "unsupported version (1.16)",
        ),
    ],
)
def test_what_pg_restore_may_say(
    path: Path, passphrase_file: Path, tmp_path: Path, text: str, diagnosis: str, words: str
) -> None:
    result = verify(path, passphrase_file, script(tmp_path, text))
    assert (result.failed, result.diagnosis) == (True, diagnosis)
    assert words in result["msg"]


def test_a_warning_is_handed_on(path: Path, passphrase_file: Path, tmp_path: Path) -> None:
    result = verify(path, passphrase_file, script(tmp_path, "cat > /dev/null; echo 'pg_restore: warning: odd' >&2"))
    assert result.diagnosis == "ok"
    assert "warning: odd" in str(result["warnings"])


@pytest.mark.parametrize(
    ("command", "diagnosis"),
    [
        (["/nonexistent/pg_restore"], "missing_pg_restore"),
        (["docker", "exec", "-i", "no-such-container", "pg_restore"], "missing_pg_restore"),
        (["true"], "missing_pg_restore"),
        ([], "bad_option"),
    ],
)
def test_no_pg_restore(path: Path, passphrase_file: Path, command: list[str], diagnosis: str) -> None:
    assert verify(path, passphrase_file, command).diagnosis == diagnosis


def test_a_zip_is_not_for_it(samples: Path, tmp_path: Path) -> None:
    given = {"path": str(samples / "legacy-v2024.1.0-pass.zip"), "passphrase": "correct horse", "depth": "pg_restore"}
    result = run_module("central_backup_verify", {**given, "pg_restore": script(tmp_path, "cat > /dev/null")})
    assert result.diagnosis == "bad_option"
    assert "central_backup_decrypt" in result["msg"]
