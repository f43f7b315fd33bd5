# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where things are in this checkout."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
CENTRAL = TESTS / "central" / "central"
STATE = TESTS / "central" / ".state"
BIN = Path(sys.executable).parent  # the virtual environment's programs; no resolve(): the link is the point
COLLECTION = "odkops.central"
