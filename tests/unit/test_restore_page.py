# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of faults in docs/restore.md is the one that the tests go by, and each row has a test."""

from __future__ import annotations

import re

from support.paths import ROOT
from support.restore_faults import FAULTS, fault_table


def test_the_table_is_that_of_the_tests() -> None:
    assert f"\n{fault_table()}\n" in (ROOT / "docs" / "restore.md").read_text("utf-8")


def test_each_row_has_a_test() -> None:
    folder = ROOT / "tests" / "integration"
    sources = "".join(path.read_text("utf-8") for path in folder.glob("test_restore*.py"))
    named = {re.sub(r"[^a-z]+", "_", name) for name in FAULTS}
    tests = set(re.findall(r"^def test_([a-z_]+)\(", sources, re.MULTILINE))
    aliases = {
        "wrong_passphrase": "a_wrong_passphrase",
        "cut": "a_backup_that_is_cut_short",
        "changed": "a_set_with_a_changed_byte",
        "newer": "a_backup_of_a_newer_central",
        "two": "two_at_once",
        "in_place_killed": "in_place_pg_restore_killed",
        "in_place_committed": "in_place_does_not_come_up",
        "restore_js": "restore_js_that_empties_the_database",
        "login": "the_next_restore_undoes_what_a_killed_one_has_left",
    }
    assert {aliases.get(name, name) for name in named} <= tests
