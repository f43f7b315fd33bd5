# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A plugin of pytest for the test files of full sets, which name it in ``pytest_plugins``: one Central, one backup for all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from .demo import Demo, central, ensure_demo, sole_user
from .full_set import BUCKET, FullSite, Made, gateway, make_set, make_site, s3_server
from .paths import STATE

#: of the Central, so that two test runs in one checkout need not wait for each other
NAME = os.environ.get("CENTRAL_FULL_DEMO", "odkfull")
KEEP = bool(os.environ.get("CENTRAL_KEEP"))


@pytest.fixture(scope="session")
def full_site(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FullSite]:
    """The two Centrals. The full one is made for this, and removed afterwards unless ``CENTRAL_KEEP`` is set."""
    folder = tmp_path_factory.mktemp("full")
    objects = STATE / NAME / "s3"
    with sole_user(NAME):
        if not KEEP:
            central("clean", "--name", NAME)
        try:
            full = ensure_demo(NAME)
            keys = (f"access{secrets.token_hex(8)}", f"s3-{secrets.token_hex(16)}")
            (objects / BUCKET).mkdir(parents=True, exist_ok=True)
            with s3_server(objects, gateway(full), keys) as address:
                s3 = {"server": address, "bucket": BUCKET, "access_key": keys[0], "secret_key": keys[1]}
                yield make_site(full, demo, folder, objects, s3)
        finally:
            if not KEEP:
                central("clean", "--name", NAME)


@pytest.fixture(scope="session")
def made(full_site: FullSite) -> Made:
    """A set of each, which nobody changes."""
    return make_set(full_site)
