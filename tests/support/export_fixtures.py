# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fixtures of tests that export sets. For ``pytest_plugins``."""

from __future__ import annotations

from pathlib import Path

import pytest

from .exports import Source, make_source
from .s3_servers import entry_of


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A repository with a set, which is not to be spoilt."""
    purged = entry_of(77, b"purged")._replace(absent="purged")
    return make_source(tmp_path_factory.mktemp("source"), absent=[purged])


@pytest.fixture(scope="module")
def open_original(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """One without a passphrase."""
    return make_source(tmp_path_factory.mktemp("open"), passphrase=None)


@pytest.fixture
def source(original: Source, tmp_path: Path) -> Source:
    """One that may be spoilt."""
    return original.copy(tmp_path / "repository")


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Where exports go."""
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"
