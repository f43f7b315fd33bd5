# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module central_lease, in a process of its own, on this host's own /run/lock."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import Result, run_module


class Central:
    """Calls the module for one project directory."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder

    def __call__(self, state: str | None = None, check: bool = False, **options: Any) -> Result:
        given = {"project_directory": str(self.folder), "state": state, **options}
        return run_module("central_lease", {name: value for name, value in given.items() if value is not None}, check)


@pytest.fixture
def lease(tmp_path: Path) -> Iterator[Central]:
    central = Central(tmp_path / "central")
    yield central
    central("broken")


def test_take_again_return(lease: Central) -> None:
    assert lease()["lease"] is None
    taken = lease("held", purpose="drill", holder="vault", lifetime=600)
    assert taken["changed"], taken
    assert taken.diagnosis == "ok"
    run_id = taken["run_id"]
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{8}", run_id)
    told = taken["lease"]
    assert (told["run_id"], told["purpose"], told["holder"], told["lifetime"]) == (run_id, "drill", "vault", 600)
    again = lease("held", run_id=run_id)
    assert not again["changed"]
    assert again["lease"]["since"] == told["since"]
    shown = lease()
    assert not shown["changed"]
    assert shown["lease"]["run_id"] == run_id
    returned = lease("released", run_id=run_id)
    assert (returned["changed"], returned["lease"]) == (True, None)
    returned = lease("released", run_id=run_id)
    assert (returned["changed"], returned["lease"]) == (False, None)


def test_another_run(lease: Central) -> None:
    lease("held", run_id="first", holder="vault")
    refused = lease("held", run_id="second")
    assert refused.failed
    assert refused.diagnosis == "lease_held"
    assert refused["lease"]["run_id"] == "first"
    assert "vault" in refused["msg"]
    assert lease("held").diagnosis == "lease_held"
    assert lease("held", run_id="second", wait=1).diagnosis == "lease_held"
    returned = lease("released", run_id="second")
    assert not returned["changed"]
    assert returned["lease"]["run_id"] == "first"


def test_breaking(lease: Central) -> None:
    nothing = lease("broken")
    assert (nothing["changed"], nothing["broken"]) == (False, None)
    lease("held", run_id="first")
    assert lease("broken", run_id="other").diagnosis == "lease_held"
    broken = lease("broken", run_id="first")
    assert (broken["changed"], broken["broken"]["run_id"], broken["lease"]) == (True, "first", None)
    assert lease("held", run_id="second")["changed"]
    assert lease("broken")["broken"]["run_id"] == "second"


def test_check_mode_says_what_would_be_and_changes_nothing(lease: Central) -> None:
    would = lease("held", check=True, run_id="first")
    assert (would["changed"], would["lease"], would["run_id"]) == (True, None, "first")
    assert lease()["lease"] is None
    assert not lease("released", check=True, run_id="first")["changed"]
    assert not lease("broken", check=True)["changed"]

    lease("held", run_id="first")
    assert not lease("held", check=True, run_id="first")["changed"]
    assert lease("held", check=True, run_id="second").diagnosis == "lease_held"
    waits = lease("held", check=True, run_id="second", wait=60)
    assert waits["changed"]
    assert "first" in str(waits["warnings"])
    assert lease("released", check=True, run_id="first")["changed"]
    assert not lease("released", check=True, run_id="second")["changed"]
    assert lease("broken", check=True, run_id="second").diagnosis == "lease_held"
    would = lease("broken", check=True)
    assert (would["changed"], would["broken"]["run_id"]) == (True, "first")
    assert lease()["lease"]["run_id"] == "first"


@pytest.mark.parametrize(
    ("options", "diagnosis"),
    [
        ({"state": "held", "run_id": "a b"}, "bad_option"),
        ({"state": "held", "run_id": ""}, "bad_option"),
        ({"state": "broken", "run_id": "-"}, "bad_option"),
        ({"state": "held", "holder": "a b"}, "bad_option"),
        ({"state": "held", "lifetime": 59}, "bad_option"),
        ({"state": "held", "lifetime": 86401}, "bad_option"),
        ({"state": "held", "wait": -1}, "bad_option"),
        ({"state": "held", "project_directory": "relative"}, "bad_option"),
        ({"state": "held", "project_directory": None}, None),
        ({"state": "released"}, None),
        ({"state": "held", "purpose": "fun"}, None),
    ],
)
@pytest.mark.parametrize("check", [False, True])
def test_options_that_cannot_be(lease: Central, options: dict[str, Any], diagnosis: str | None, check: bool) -> None:
    failed = lease(check=check, **options)
    assert failed.failed
    assert failed.diagnosis == diagnosis
    assert lease()["lease"] is None
