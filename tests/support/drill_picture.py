# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes docs/images/drill-report.png, the picture of a drill's page for the README, from a record that is made up.

``cd tests && ../.venv/bin/python -m support.drill_picture [FILE]``
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from ansible_collections.odkops.central.plugins.module_utils._drill_page import page
from ansible_collections.odkops.central.plugins.module_utils._drill_record import validated

from .chromium import view, with_palette
from .drills import make_history
from .paths import ROOT

PICTURE = ROOT / "docs" / "images" / "drill-report.png"
WIDTH, HEIGHT = 1000, 2215
#: Enough to see what they look like; a drill makes more.
CHECKS = 6


def main() -> None:
    """Draw it."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    target.parent.mkdir(parents=True, exist_ok=True)
    history = [validated(record) for record in make_history(40)]
    history[0]["checks"] = history[0]["checks"][:CHECKS]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "drill.html"
        file.write_bytes(page(history[0], history))
        target.write_bytes(with_palette(view(file, WIDTH, HEIGHT).png))
    print(f"{target}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
