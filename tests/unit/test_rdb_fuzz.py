# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The coverage-guided fuzzer over the readers of Redis's formats, seeded with real files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import ROOT
from support.redis_servers import RELEASES, Redis

SECONDS = 120
FILL = [
    [b"HSET", b"id:AbC", b"openRosaServer", b"https://central/v1/projects/1", b"openRosaId", b"simple"],
    [b"SET", b"or:central/v1/projects/1,simple", b"AbC"],
    [b"RPUSH", b"su:AbC", *(b"uuid:%d" % index for index in range(20))],
    [b"SADD", b"numbers", b"1", b"2"],
    [b"ZADD", b"scores", b"0.1", b"tenth"],
    [b"SET", b"compressible" * 5, b"a" * 500, b"PX", b"86400000"],
]


@pytest.mark.long
def test_atheris_finds_nothing(tmp_path: Path) -> None:
    """atheris is no part of .venv: it is put into .cache for this."""
    library = ROOT / ".cache" / f"atheris-{sys.version_info.major}.{sys.version_info.minor}"
    if not library.exists():
        install = [sys.executable, "-m", "pip", "install", "-q", "--target", str(library), "atheris>=2.3,<4"]
        subprocess.run(install, check=True, capture_output=True, text=True)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for major in RELEASES:
        with Redis(major).server() as server:
            server.pipe(*FILL)
            server.cli("SAVE")
            (corpus / f"redis{major}.rdb").write_bytes(server.rdb.read_bytes())
    (corpus / "export").write_bytes(b"8:database1:04:hash1:k0:1:21:f1:v6:string1:k2:991:11:v3:end")
    (corpus / "lines").write_bytes(
        b'{"db":0,"key":"k","type":"hash","expires_at":null,"value":[["f",{"base64":"/w=="}]]}\n'
    )
    target = [sys.executable, str(ROOT / "tests" / "fuzz" / "fuzz_rdb.py"), str(corpus)]
    options = [f"-max_total_time={SECONDS}", "-timeout=20", "-rss_limit_mb=600", "-max_len=4000", "-seed=1"]
    done = subprocess.run(
        [*target, *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(library)},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done " in done.stderr
