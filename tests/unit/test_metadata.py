# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What describes the collection agrees with what is in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from support.paths import ROOT


def load(name: str) -> Any:
    """Read a YAML file of the checkout."""
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


def requirements(name: str) -> dict[str, str]:
    """Package name to version range, of a requirements file."""
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text("utf-8").splitlines())
    return dict(match.groups() for line in lines if (match := re.fullmatch(r"([A-Za-z0-9_.-]+)(.*)", line)))  # type: ignore[misc]


def test_action_group_names_all_modules() -> None:
    modules = {path.stem for path in (ROOT / "plugins/modules").glob("*.py")}
    assert set(load("meta/runtime.yml")["action_groups"]["central"]) == modules


def test_every_module_is_executable_by_its_documentation() -> None:
    for path in (ROOT / "plugins/modules").glob("*.py"):
        text = path.read_text("utf-8")
        documentation = yaml.safe_load(re.search(r'DOCUMENTATION = r?"""(.*?)"""', text, re.DOTALL)[1])  # type: ignore[index]
        assert documentation["module"] == path.stem
        assert documentation["version_added"], path


def test_no_collection_dependencies() -> None:
    galaxy = load("galaxy.yml")
    assert galaxy["dependencies"] == {}
    assert (galaxy["namespace"], galaxy["name"]) == ("odkops", "central")
    assert all((ROOT / galaxy[key]).is_file() for key in ("readme", "license_file"))


def test_execution_environment_has_what_the_modules_need() -> None:
    environment = load("meta/execution-environment.yml")["dependencies"]
    assert all((ROOT / path).is_file() for path in environment.values())
    offered = requirements("meta/ee-requirements.txt")
    for name, version in requirements("requirements.txt").items():
        assert offered[name] == version


def test_changelog_fragments_have_known_sections() -> None:
    known = {name for name, _title in load("changelogs/config.yaml")["sections"]} | {"release_summary", "trivial"}
    for fragment in Path(ROOT / "changelogs/fragments").glob("*.y*ml"):
        assert set(yaml.safe_load(fragment.read_text("utf-8"))) <= known, fragment
