# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module central_gate, in a process of its own, as Ansible runs it."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from support import Result, run_module


class Gate:
    """Calls the module for one gate."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.path = folder / "gate"

    def make(self, check: bool = False, **options: Any) -> Result:
        given = {"path": str(self.path), "project_directory": "/srv/central", **options}
        return run_module("central_gate", {name: value for name, value in given.items() if value is not None}, check)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "sbin")


def test_make_again_change_remove(gate: Gate) -> None:
    made = gate.make()
    assert made["changed"], made
    assert "config-files" in made["operations"]
    assert "config-extra" not in made["operations"]
    assert stat.S_IMODE(gate.path.stat().st_mode) == 0o755
    text = gate.path.read_text("utf-8")
    assert made["diff"] == {"before": "", "after": text}
    assert text.startswith("#!/usr/bin/python3 -I\n")
    assert not gate.make()["changed"]
    changed = gate.make(config_paths=["/etc/haproxy"], project="odk")
    assert changed["changed"]
    assert changed["diff"]["before"] == text
    assert "config-extra" in changed["operations"]
    assert "/etc/haproxy" in gate.path.read_text("utf-8")
    assert gate.make(state="absent", project_directory=None)["changed"]
    assert not gate.path.exists()
    assert not gate.make(state="absent")["changed"]


def test_check_mode_changes_nothing(gate: Gate) -> None:
    assert gate.make(check=True)["changed"]
    assert not gate.path.exists()
    gate.make()
    text = gate.path.read_text("utf-8")
    assert not gate.make(check=True)["changed"]
    assert gate.make(check=True, project="odk")["changed"]
    assert gate.make(check=True, state="absent")["changed"]
    assert gate.path.read_text("utf-8") == text


def test_a_mode_that_was_changed_is_mended(gate: Gate) -> None:
    gate.make()
    gate.path.chmod(0o777)
    assert gate.make()["changed"]
    assert stat.S_IMODE(gate.path.stat().st_mode) == 0o755


def test_a_place_where_everybody_may_write_is_refused(gate: Gate) -> None:
    gate.path.parent.chmod(0o777)
    assert gate.make().diagnosis == "destination_not_writable"
    assert not gate.path.exists()


@pytest.mark.parametrize(
    ("options", "diagnosis"),
    [
        ({"path": 'relative"gate'}, "bad_option"),
        ({"path": "/usr/local/my gate"}, "bad_option"),
        ({"project_directory": "relative"}, "bad_option"),
        ({"python": "/usr/bin/env python3"}, "bad_option"),
        ({"config_paths": ["relative"]}, "bad_option"),
        ({"config_paths": ["/etc/../root"]}, "bad_option"),
        ({"project_directory": None}, None),
        ({"purposes": ["everything"]}, None),
    ],
)
def test_options_that_cannot_be(gate: Gate, options: dict[str, Any], diagnosis: str | None) -> None:
    failed = gate.make(**options)
    assert failed.failed
    assert failed.diagnosis == diagnosis
    assert not gate.path.exists()


def test_a_link_or_directory_in_its_place_is_refused(gate: Gate, tmp_path: Path) -> None:
    gate.path.symlink_to(tmp_path / "elsewhere")
    assert gate.make().diagnosis == "destination_exists"
    gate.path.unlink()
    gate.path.mkdir()
    assert gate.make().diagnosis == "destination_exists"
