# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fixtures of tests of leases. For ``pytest_plugins``."""

from __future__ import annotations

from pathlib import Path

import pytest

from .lease_host import Host, HostChannel


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host that leases are taken on."""
    return Host.make(tmp_path / "host")


@pytest.fixture
def channel(host: Host) -> HostChannel:
    """A channel to it."""
    return host.channel
