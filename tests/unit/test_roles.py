# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The roles: what their documentation says of variables is what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.paths import ROOT

ROLES = sorted(path.parent.parent for path in ROOT.glob("roles/*/meta/argument_specs.yml"))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def specs(role: Path) -> dict[str, Any]:
    return dict(load(role / "meta" / "argument_specs.yml")["argument_specs"])


@pytest.fixture(params=ROLES, ids=lambda role: role.name)
def role(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def test_every_entry_point_is_documented_and_there(role: Path) -> None:
    assert {path.stem for path in (role / "tasks").glob("*.yml")} == set(specs(role))


def test_variables_have_the_role_as_their_prefix(role: Path) -> None:
    names = {name for spec in specs(role).values() for name in spec["options"]} | set(
        load(role / "defaults" / "main.yml")
    )
    assert [name for name in names if not name.startswith(f"{role.name}_")] == []


def test_defaults_are_the_documented_ones(role: Path) -> None:
    """A variable falls back to one of the playbooks' (central_*), which the description names, and that to a value."""
    defaults = load(role / "defaults" / "main.yml")
    documented = set()
    for entry_point, spec in specs(role).items():
        for name, option in spec["options"].items():
            where = f"{entry_point}: {name}"
            documented.add(name)
            if option.get("required"):
                assert name not in defaults, where
                continue
            if name not in defaults:
                assert option["type"] == "raw", where
                continue
            value = defaults[name]
            found = re.fullmatch(r"{{ (central_\w+)(?: \| default\((.*)\))? }}", str(value))
            if found:
                assert f"Falls back to C({found[1]})." in str(option["description"]), where
                value = yaml.safe_load(found[2]) if found[2] else None
                value = "{{ inventory_hostname }}" if value == "inventory_hostname" else value
            if not option.get("no_log"):
                assert option.get("default") == value, where
    assert set(defaults) <= documented


def test_secrets_are_hidden_and_have_no_documented_default(role: Path) -> None:
    """Ansible prints the whole specification, defaults worked out, when any argument is wrong."""
    for spec in specs(role).values():
        for name, option in spec["options"].items():
            if re.search("password|passphrase|token|secret", name) and option["type"] == "str" and "_file" not in name:
                assert option["no_log"] is True, name
                assert "default" not in option, name
            assert not (option.get("no_log") and "default" in option), name


def test_no_secret_in_facts_or_environment() -> None:
    for path in [*ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("playbooks/**/*.*")]:
        text = path.read_text("utf-8")
        assert "environment:" not in text, path
        for block in re.findall(r"set_(?:fact|stats):\n((?:.+\n)+)", text):
            assert not re.search("password|passphrase|token", block), path


def test_playbooks_and_roles_use_variables_that_are_documented() -> None:
    text = (ROOT / "docs" / "playbooks.md").read_text("utf-8")
    for path in [*ROOT.glob("roles/*/defaults/*.yml"), *ROOT.glob("playbooks/**/*.*")]:
        for name in re.findall(r"\bcentral_[a-z_0-9]+", path.read_text("utf-8")):
            assert f"`{name}`" in text, f"{name} of {path.name}"


def test_each_role_has_a_readme(role: Path) -> None:
    text = (role / "README.md").read_text("utf-8")
    for entry_point in specs(role):
        assert entry_point == "main" or f"`{entry_point}`" in text
