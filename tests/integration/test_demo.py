# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``make demo``, as a person runs it: a full set, its parts listed, and an S3 server that comes and goes with the demo."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from support.demo import Demo, central
from support.paths import ROOT

NAME = "odkdemo"

pytestmark = [pytest.mark.timeout(1800), pytest.mark.long]


def answer(demo: Demo) -> int:
    """The status with which the demo's S3 server answers who has no keys."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{demo['ports']['S3_PORT']}/", timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_full_set_and_its_parts() -> None:
    before = set(ROOT.glob(f".demo/backups/{NAME}/sets/*"))
    done = subprocess.run(
        [str(ROOT / "scripts" / "demo")], capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd="/", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = set(ROOT.glob(f".demo/backups/{NAME}/sets/*")) - before
    said = done.stdout[done.stdout.index("The set is in") :]
    assert said.splitlines()[1].strip() == str(made)
    listed = re.findall(r"^  ([a-z]+) +([0-9,]+) bytes  (\S+)", said, re.MULTILINE)
    assert [name for name, _size, _file in listed] == ["database", "enketo", "config", "blobs", "and"]
    assert {file: int(size.replace(",", "")) for _name, size, file in listed} == {
        path.name: path.stat().st_size for path in made.iterdir()
    }
    demo = Demo.load(NAME)
    number = int(demo.psql("SELECT count(*) FROM blobs WHERE s3_status = 'uploaded'"))
    assert f" and {number} objects, " in said
    assert number > 0
    # It ends with a drill, whose report is where it says.
    found = re.search(r"the report of the drill, a page for a browser: (/\S+\.html)$", done.stderr, re.MULTILINE)
    assert found
    record = json.loads(Path(found[1]).with_suffix(".json").read_text("utf-8"))
    assert (record["result"], record["set"]["set_id"]) == ("passed", made.name)
    # The commands that it prints are for a person to copy: they work as they stand.
    blocks = re.findall(r"^  ((?:openssl|RCLONE_CONFIG=).*(?:\n    .*)*)", said, re.MULTILINE)
    assert len(blocks) == 5
    for block in blocks:
        tried = subprocess.run(["bash", "-c", block], capture_output=True, text=True, cwd="/", check=False)
        assert tried.returncode == 0, block + tried.stderr


def test_the_s3_server_comes_and_goes_with_the_demo() -> None:
    demo = Demo.load(NAME)
    assert answer(demo) in (400, 403)
    objects = demo.execute("s3", "find", "/objects", "-type", "f").splitlines()
    central("down", "--name", NAME)
    with pytest.raises(urllib.error.URLError):
        answer(demo)
    central("up", "--name", NAME)
    demo = Demo.load(NAME)
    assert demo.execute("s3", "find", "/objects", "-type", "f").splitlines() == objects != []
