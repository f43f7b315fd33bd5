# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where things are. Nothing is written outside the state folder, but for the compose plugin (see ``engine``)."""

from __future__ import annotations

import hashlib
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
TEMPLATE = HERE / "compose"
STATE = HERE / ".state"

#: Tells the compose projects of this checkout from those of another one on the same engine.
CHECKOUT = hashlib.sha256(str(ROOT).encode()).hexdigest()[:6]


def project_of(name: str) -> str:
    """The compose project of a demo."""
    return f"{name}-{CHECKOUT}"


def make_state_folder() -> None:
    """Create the state folder, closed to others: it holds keys and passwords."""
    STATE.mkdir(mode=0o700, exist_ok=True)
