# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bytes that are read in another thread, and streams that are read slowly."""

from __future__ import annotations

import io
import threading
import time

import pytest
from ansible_collections.odkops.central.plugins.module_utils._funnel import Funnel
from ansible_collections.odkops.central.plugins.module_utils._rate_limit import RateLimited, limited
from ansible_collections.odkops.central.plugins.module_utils._streams import Readable


def read_all(stream: Readable, size: int = 7) -> bytes:
    found = b""
    while data := stream.read(size):
        found += data
    assert stream.read(size) == b"", "an end stays one"
    return found


def test_what_goes_in_comes_out() -> None:
    pieces = [b"", b"one", b"a longer piece than is asked for", b"", b"end"]
    with Funnel(read_all) as funnel:
        for piece in pieces:
            funnel.put(piece)
        assert funnel.finish() == b"".join(pieces)


def test_nothing_goes_in() -> None:
    with Funnel(read_all) as funnel:
        assert funnel.finish() == b""


def test_no_more_waits_than_may() -> None:
    go = threading.Event()

    def consume(stream: Readable) -> bytes:
        go.wait()
        return read_all(stream)

    taken = []

    def put(funnel: Funnel[bytes]) -> None:
        for _number in range(20):
            funnel.put(b"x")
            taken.append(1)

    with Funnel(consume, depth=3) as funnel:
        thread = threading.Thread(target=put, args=(funnel,))
        thread.start()
        time.sleep(0.3)
        assert len(taken) == 3
        go.set()
        thread.join()
        assert funnel.finish() == b"x" * 20


def test_an_error_of_the_reader_reaches_the_writer() -> None:
    def consume(stream: Readable) -> None:
        stream.read(1)
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"), Funnel(consume, depth=1) as funnel:
        for _number in range(100):
            funnel.put(b"x")
    with pytest.raises(ValueError, match="bad"), Funnel(consume) as funnel:
        funnel.put(b"x")
        funnel.finish()


def test_an_error_of_the_writer_ends_the_reader() -> None:
    ended = []

    def consume(stream: Readable) -> bytes:
        try:
            return read_all(stream)
        except Exception:  # noqa: BLE001  # what a careless handler would do
            return b"whole"
        finally:
            ended.append(True)

    with pytest.raises(KeyError), Funnel(consume) as funnel:
        funnel.put(b"x")
        raise KeyError
    assert ended == [True]
    assert funnel._results == []


def test_a_reader_that_has_enough() -> None:
    with Funnel(lambda stream: stream.read(1), depth=1) as funnel:
        for _number in range(50):
            funnel.put(b"xy")
        assert funnel.finish() == b"x"


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
