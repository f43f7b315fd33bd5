# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A target for atheris: whatever the bytes, the readers of Redis's formats raise their documented error or nothing.

``python tests/fuzz/fuzz_rdb.py CORPUS -max_total_time=600``; tests/unit/test_rdb_fuzz.py does that, with seeds of
real files.
"""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "collections"))

with atheris.instrument_imports(include=["ansible_collections.odkops"]):
    from ansible_collections.odkops.central.plugins.module_utils._crc64 import crc64
    from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
    from ansible_collections.odkops.central.plugins.module_utils._rdb import check_rdb
    from ansible_collections.odkops.central.plugins.module_utils._redis_export import (
        key_of,
        line_of,
        read_lines,
        read_netstrings,
    )


def one(data: bytes) -> None:
    """An RDB file as it is, and with a right CRC-64, which no fuzzer finds; an export; lines of JSON."""
    for file in (data, data[:-8] + struct.pack("<Q", crc64(data[:-8]))):
        try:
            check_rdb(io.BytesIO(file))
        except CentralError as error:
            if error.diagnosis not in ("corrupt", "truncated"):
                raise RuntimeError(f"undocumented: {error.diagnosis}") from error
    try:
        for key in read_netstrings(io.BytesIO(data)):
            if key_of(line_of(key)) != key:
                raise RuntimeError("a key does not come back")
    except CentralError as error:
        if error.diagnosis not in ("corrupt", "truncated", "unsupported_key"):
            raise RuntimeError(f"undocumented: {error.diagnosis}") from error
    try:
        for _key in read_lines(io.BytesIO(data)):
            pass
    except CentralError as error:
        if error.diagnosis not in ("corrupt", "truncated"):
            raise RuntimeError(f"undocumented: {error.diagnosis}") from error


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
