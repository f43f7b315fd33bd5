# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A target for atheris: whatever the bytes, the reader of archives raises its documented error or nothing.

``python tests/fuzz/fuzz_archive.py CORPUS -max_total_time=600``; tests/unit/test_fuzz.py does that, with seeds of
real archives.
"""

from __future__ import annotations

import io
import sys
import threading
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "collections"))

with atheris.instrument_imports(include=["ansible_collections.odkops"]):
    from ansible_collections.odkops.central.plugins.module_utils._diagnoses import DIAGNOSES
    from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
    from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, verify_stream


def one(data: bytes) -> None:
    """Read an archive that is not encrypted: the fuzzer could not get through a cipher."""
    try:
        verify_stream(io.BytesIO(data), Expectation())
    except CentralError as error:
        if error.diagnosis not in DIAGNOSES:
            raise RuntimeError(f"undocumented: {error.diagnosis}") from error
    if threading.active_count() != 1:
        raise RuntimeError("a thread stayed")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
