# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What drills have left is removed, and nothing that only looks like it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils._drill_docker import Docker
from ansible_collections.odkops.central.plugins.module_utils._drill_removal import (
    leftovers,
    remove_leftovers,
)

#: a Docker that has nothing
NOTHING = Docker(("true",))


def _compose(path: Path, project: str) -> None:
    (path / "docker-compose.yml").write_text(json.dumps({"name": project, "services": {}}, indent=1), "utf-8")


def test_directories_of_drills_are_removed(tmp_path: Path) -> None:
    names = ["central-0a1b2c", "central-0a1b2d", "central-0a1b2e", "central-0a1b2f"]
    for name in names:
        (tmp_path / name).mkdir()
    _compose(tmp_path / names[0], f"odkops-drill-{names[0]}")
    (tmp_path / names[0] / "whatever").write_text("", "utf-8")
    # One was cut off before it had its compose file, one when that was begun with, one in the course of it.
    (tmp_path / names[1] / "tls").mkdir()
    (tmp_path / names[2] / "docker-compose.yml").write_text("", "utf-8")
    (tmp_path / names[3] / "docker-compose.yml").write_text('{\n "name": "odkops-dr', "utf-8")
    assert remove_leftovers(NOTHING, str(tmp_path)) == [f"odkops-drill-{name}" for name in names]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("compose", [None, "", "odk", "odkops-drill-odk-202612"])
def test_a_directory_of_somebody_elses_stays_whatever_its_name(tmp_path: Path, compose: str | None) -> None:
    folder = tmp_path / "odk-202611"
    folder.mkdir()
    (folder / "backup.tar").write_text("the only copy", "utf-8")
    if compose == "":
        (folder / "docker-compose.yml").write_text("", "utf-8")
    elif compose is not None:
        _compose(folder, compose)
    assert leftovers(NOTHING, str(tmp_path), kept=True) == []
    assert remove_leftovers(NOTHING, str(tmp_path), kept=True) == []
    assert (folder / "backup.tar").read_text("utf-8") == "the only copy"
