# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backup sets for tests: what goes into them, and what must not be left of them."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONTENT = b"Salted__" + bytes(range(256)) * 40
PASSPHRASE = "a passphrase for nothing but tests: \u00e9\u4e16\U0001f511"
ABSENT = {"enketo": "Not in this test.", "config": "Not in this test.", "blobs": "Not in this test."}
HELD = {"tables": {"public.forms": 3, "public.submissions": 200}, "central": {"version": "v2026.1.0", "blobs": {}}}


def database_part(content: bytes = CONTENT, **facts: Any) -> dict[str, Any]:
    """A part as a role hands it over, before it is sealed."""
    digest = hashlib.sha256(content).hexdigest()
    return {
        "file": "database",
        "format": "pgdump.enc",
        "size": len(content),
        "sha256": digest,
        "method": "api",
        **facts,
    }


def everything_below(folder: Path) -> set[str]:
    """The paths of all that is in a folder, hidden files included, relative to it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "256k", options: str = "") -> Iterator[Path]:
    """A file system of its own (tmpfs) of a given size, for a full disk. Needs root, as `make test` has it in CI."""
    folder.mkdir()
    settings = f"size={size}" + (f",{options}" if options else "")
    subprocess.run(["mount", "-t", "tmpfs", "-o", settings, "tmpfs", str(folder)], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)
