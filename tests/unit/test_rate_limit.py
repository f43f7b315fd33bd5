# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Streams that are read slowly."""

from __future__ import annotations

import io

import pytest
from ansible_collections.odkops.central.plugins.module_utils._rate_limit import RateLimited, limited
from ansible_collections.odkops.central.plugins.module_utils._streams import Readable


def read_all(stream: Readable, size: int = 7) -> bytes:
    found = b""
    while data := stream.read(size):
        found += data
    assert stream.read(size) == b"", "an end stays one"
    return found


class Clock:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds


@pytest.mark.parametrize("rate", [1024, 100_000, 10_000_000, 1_000_000_000])
def test_a_rate_is_kept(rate: int) -> None:
    clock = Clock()
    data = bytes(rate % 7919 + 3 * min(rate, 2_000_000))
    stream = RateLimited(io.BytesIO(data), rate, lambda: clock.now, clock.sleep)
    assert read_all(stream, 1 << 20) == data
    assert clock.slept == pytest.approx(len(data) / rate, rel=0.01, abs=0.12)


def test_lost_time_is_not_made_up_for() -> None:
    clock = Clock()
    stream = RateLimited(io.BytesIO(bytes(10_000)), 1000, lambda: clock.now, clock.sleep)
    stream.read(1 << 20)
    clock.now += 60
    before = clock.now
    while stream.read(1 << 20):
        pass
    assert clock.now - before == pytest.approx(9.8, abs=0.2)


def test_no_limit() -> None:
    source = io.BytesIO()
    assert limited(source, None) is source
