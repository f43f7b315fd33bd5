# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fixtures of unit tests that need an S3 server: rclone's, on loopback. For ``pytest_plugins``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils._rclone import Rclone, find_rclone

from .blob_central import Central
from .s3_servers import S3Server, rclone_program, rclone_server


@pytest.fixture(scope="module")
def rclone() -> Rclone:
    """The rclone of the tests."""
    return find_rclone(rclone_program())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server."""
    with rclone_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def empty_bucket(server: S3Server) -> None:
    """Nothing is in the server's bucket when a test begins."""
    shutil.rmtree(server.bucket)
    server.bucket.mkdir()


@pytest.fixture
def central(tmp_path: Path, server: S3Server, rclone: Rclone) -> Central:
    """A Central whose objects are on the server."""
    return Central(tmp_path, server, rclone)
