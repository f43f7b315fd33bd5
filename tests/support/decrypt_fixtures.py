# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fixtures of the tests of central_backup_decrypt. For ``pytest_plugins``."""

from __future__ import annotations

from pathlib import Path

import pytest

from .archives import archives, openssl
from .directory_dumps import directory_dumps
from .legacy_zip_writer import PASSPHRASE, make


@pytest.fixture
def new_backup(tmp_path: Path) -> Path:
    """A backup as Centrals since v2026.2 send it."""
    path = tmp_path / "new.pgdump.enc.bin"
    path.write_bytes(openssl(archives(15).read("nasty"), passphrase=PASSPHRASE))
    return path


@pytest.fixture
def old_backup(tmp_path: Path) -> Path:
    """A backup as older ones sent it."""
    path = tmp_path / "old.zip"
    path.write_bytes(make(directory_dumps().read("nasty")))
    return path


@pytest.fixture(params=["new", "old"])
def backup(request: pytest.FixtureRequest) -> Path:
    """Either."""
    return Path(request.getfixturevalue(f"{request.param}_backup"))
