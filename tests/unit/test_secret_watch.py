# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The helpers that look for secrets do find them: else the tests that find none would prove nothing."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.secret_watch import Needles, Watch, entries, files_with

SECRET = "pass \u00e9'\"$ 7c1f0a9be4d2"


@pytest.mark.parametrize("before", range(7))
@pytest.mark.parametrize("after", range(4))
def test_all_forms_are_found(before: int, after: int) -> None:
    needles = Needles({"secret": SECRET})
    longer = b"a" * before + SECRET.encode() + b"z" * after
    for text in (longer, base64.b64encode(longer), base64.urlsafe_b64encode(longer), longer.hex().encode()):
        assert needles.within(text) == {"secret"}, text
    assert needles.within(json.dumps({"a": SECRET}).encode()) == {"secret"}
    assert needles.within(SECRET[:-1].encode() + b"!") == set()


def test_a_secret_that_is_too_short_is_refused() -> None:
    with pytest.raises(AssertionError):
        Needles({"secret": "short"})


def test_arguments_of_a_process_are_seen() -> None:
    secret = f"argument-{time.monotonic_ns()}"
    with Watch(Needles({"secret": secret})) as watch:
        subprocess.run([sys.executable, "-c", "import time; time.sleep(1)", secret], check=True)
    assert watch.samples > 1
    assert len(watch.found) == 1
    assert watch.found.pop().startswith("secret: ")


def test_files_are_searched(tmp_path: Path) -> None:
    before = entries([tmp_path, tmp_path / "absent"])
    for name in ("below/left", "below/clean", "alone", "holder/kept", "below/inventory"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("nothing" if name.endswith("clean") else f"x{SECRET}x", "utf-8")
    new = entries([tmp_path]) - before
    assert {path.name for path in new} == {"below", "alone", "holder"}
    holders = [tmp_path / "holder", tmp_path / "below" / "inventory"]
    found = files_with(Needles({"secret": SECRET}), new, holders)
    assert found == {str(tmp_path / "below" / "left"): {"secret"}, str(tmp_path / "alone"): {"secret"}}
