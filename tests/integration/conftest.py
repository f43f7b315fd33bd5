# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Integration tests: against the demo Central, which the first of them brings up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import Demo, ensure_demo
from support.demo import DEFAULT_NAME, sole_user


@pytest.fixture(scope="session")
def demo() -> Iterator[Demo]:
    """The demo Central, up and seeded, and used by this test run alone. ``CENTRAL_DEMO`` names another one."""
    name = os.environ.get("CENTRAL_DEMO", DEFAULT_NAME)
    with sole_user(name):
        yield ensure_demo(name)


@pytest.fixture
def passphrase() -> str:
    """A passphrase that the collection finds strong enough."""
    return "correct horse battery staple 42"


@pytest.fixture
def passphrase_file(tmp_path: Path, passphrase: str) -> Path:
    """The same in a file of mode 0600."""
    path = tmp_path / "passphrase"
    path.touch(mode=0o600)
    path.write_text(passphrase + "\n", "utf-8")
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the demo Central."""
    for item in items:
        if "demo" in getattr(item, "fixturenames", ()):
            item.add_marker("demo")
