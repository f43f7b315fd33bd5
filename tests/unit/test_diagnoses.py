# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of diagnoses in the documentation is the one of the code, and nothing else is ever raised."""

from __future__ import annotations

import ast
import re

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _diagnoses

from support.paths import ROOT

PAGE = ROOT / "docs" / "diagnoses.md"
SECTIONS = {
    "## What is wrong with a backup": _diagnoses.BACKUP,
    "## What is wrong between here and the server": _diagnoses.SERVER,
    "## What is wrong here": _diagnoses.LOCAL,
    "## What is wrong with a set or a repository": _diagnoses.SETS,
    "## What is wrong with a restore": _diagnoses.RESTORE,
    "## What is wrong with a drill": _diagnoses.DRILL,
}
SOURCES = sorted((ROOT / "plugins").rglob("*.py"))
# Functions whose first argument is a code.
RAISING = {"CentralError", "_refuse", "_problem"}


def rows_of(section: str) -> list[tuple[str, ...]]:
    page = PAGE.read_text("utf-8")
    assert f"\n{section}\n" in page
    body = page.split(f"\n{section}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in body.splitlines() if line.startswith("| `")]
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_documentation_has_the_table_of_the_code(section: str) -> None:
    expected = [(f"`{code}`", diagnosis.meaning, diagnosis.remedy) for code, diagnosis in SECTIONS[section].items()]
    assert rows_of(section) == expected


def test_the_page_has_no_other_tables() -> None:
    page = PAGE.read_text("utf-8")
    assert re.findall("^## .*", page, re.MULTILINE) == list(SECTIONS)
    assert sum(len(table) for table in SECTIONS.values()) == len(_diagnoses.DIAGNOSES)


def test_codes_and_sentences_are_well_formed() -> None:
    for code, diagnosis in _diagnoses.DIAGNOSES.items():
        assert re.fullmatch("[a-z][a-z0-9_]+", code)
        for sentence in diagnosis:
            assert sentence.endswith((".", ".)")), sentence
            assert " | " not in sentence
            assert "\n" not in sentence


def codes_in(path: str, tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name in RAISING and isinstance(node.args[0].value, str):
                found.append(node.args[0].value)
    return found


def test_every_code_that_is_raised_is_in_the_table() -> None:
    raised = set()
    for source in SOURCES:
        for code in codes_in(str(source), ast.parse(source.read_text("utf-8"))):
            assert code in _diagnoses.DIAGNOSES, f"{source.name} raises {code}"
            raised.add(code)
    assert len(raised) > 20
