# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The coverage-guided fuzzer over the reader of archives, seeded with real ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.archives import archives
from support.paths import ROOT
from support.pgdump_writer import Writer, central

SECONDS = 300


@pytest.mark.long
def test_atheris_finds_nothing(tmp_path: Path) -> None:
    """atheris is no part of .venv: it is put into .cache for this."""
    library = ROOT / ".cache" / f"atheris-{sys.version_info.major}.{sys.version_info.minor}"
    if not library.exists():
        install = [sys.executable, "-m", "pip", "install", "-q", "--target", str(library), "atheris>=2.3,<4"]
        subprocess.run(install, check=True, capture_output=True, text=True)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for major, method in ((15, "gzip"), (15, "none"), (17, "zstd"), (17, "lz4")):
        (corpus / f"{major}-{method}").write_bytes(archives(major).read("small", method))
    for minor in range(12, 17):
        (corpus / f"least-{minor}").write_bytes(Writer((1, minor)).archive(central()))
    target = [sys.executable, str(ROOT / "tests" / "fuzz" / "fuzz_archive.py"), str(corpus)]
    options = [f"-max_total_time={SECONDS}", "-timeout=20", "-rss_limit_mb=600", "-max_len=30000", "-seed=1"]
    environment = {**os.environ, "PYTHONPATH": str(library)}
    done = subprocess.run(
        [*target, *options],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done " in done.stderr
