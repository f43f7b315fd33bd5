# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tests of central_backup_decrypt share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .legacy_zip_writer import PASSPHRASE

MODULE = "central_backup_decrypt"


def options(src: Path, dest: Path, **more: Any) -> dict[str, Any]:
    """Options of the module."""
    return {"src": str(src), "dest": str(dest), "passphrase": PASSPHRASE, **more}


def left(tmp_path: Path) -> list[str]:
    """What is there besides the backup itself."""
    return sorted(name for name in os.listdir(tmp_path) if not name.endswith((".bin", ".zip")))
