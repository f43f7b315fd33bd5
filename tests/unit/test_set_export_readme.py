# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What README.txt of an export says of a manifest; test_set_export.py executes its commands."""

from __future__ import annotations

import pytest
from ansible_collections.odkops.central.plugins.module_utils._set_export_readme import Exported, render


@pytest.mark.parametrize(
    ("dump_version", "said"),
    [
        ("14.10 (Ubuntu 14.10-0ubuntu0.22.04.1)", "pg_restore has to be of version 14.10 or later."),
        ("14.22 (Debian 14.22-1.pgdg13+1)", "pg_restore has to be of version 14.22 or later."),
        ("18beta1", "pg_restore has to be of version 18beta1 or later."),
        ("", "pg_restore has to be recent."),
        (" ", "pg_restore has to be recent."),
    ],
)
def test_it_asks_for_a_version_of_postgresql_not_for_a_package(dump_version: str, said: str) -> None:
    part = {"file": "database.pgdump.enc.bin", "format": "pgdump.enc", "encrypted": True, "size": 1}
    manifest = {
        "central": "demo",
        "set_id": "20261123T070728.829Z-bcbc9f07",
        "started": "2026-11-23T07:07:28.829Z",
        "identity": {},
        "parts": {"database": {**part, "dump_version": dump_version}},
        "absent": {},
        "notes": [],
        "authenticated": True,
    }
    text = render(Exported(manifest, "demo/sets/x", None, 0, False, 0)).decode("utf-8")
    assert said in " ".join(text.split())
