# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Streams: digest, prefix, exact reads, and the worker that reads ahead."""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import threading
import time
from collections.abc import Iterator

import pytest
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pipeline import Worker, ahead
from ansible_collections.odkops.central.plugins.module_utils._streams import Digesting, Prefixed, read_exactly
from hypothesis import given
from hypothesis import strategies as st


class Dribble:
    """A source that gives one byte at a time, whatever it is asked for."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, _size: int, /) -> bytes:
        """One byte."""
        return self._file.read(1)


def test_digest_size_and_copy() -> None:
    copied: list[bytes] = []
    stream = Digesting(io.BytesIO(b"hello world" * 1000), copied.append)
    assert stream.read(5) == b"hello"
    assert stream.size == 5
    stream.drain()
    assert stream.size == 11_000
    assert stream.sha256 == hashlib.sha256(b"hello world" * 1000).hexdigest()
    assert b"".join(copied) == b"hello world" * 1000
    assert stream.read(1) == b""


@pytest.mark.parametrize("fails", [False, True])
def test_a_digest_by_a_thread(fails: bool) -> None:
    """Before the context, in it, and behind it, also where it is left by an error."""
    data = random.Random(3).randbytes(3_000_000)
    stream = Digesting(io.BytesIO(data))
    stream.read(1000)
    before = threading.active_count()
    with pytest.raises(KeyError) if fails else contextlib.nullcontext(), stream:
        assert threading.active_count() == before + 1
        for _piece in range(20):
            stream.read(100_000)
        if fails:
            raise KeyError
    assert threading.active_count() == before
    assert (stream.size, stream.sha256) == (2_001_000, hashlib.sha256(data[:2_001_000]).hexdigest())
    stream.drain()
    assert (stream.size, stream.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_a_copy_that_fails_stops_the_stream_before_it_is_counted() -> None:
    def full(_data: bytes) -> None:
        raise CentralError("disk_full", "no room")

    stream = Digesting(io.BytesIO(b"hello"), full)
    with pytest.raises(CentralError, match="no room"):
        stream.read(3)
    assert stream.size == 0


@given(st.binary(max_size=50), st.binary(max_size=50), st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_a_prefix_is_put_back(prefix: bytes, rest: bytes, sizes: list[int]) -> None:
    stream = Prefixed(prefix, io.BytesIO(rest))
    found = b"".join(stream.read(size) for size in [*sizes, *[20] * 10])
    assert found == (prefix + rest)[: len(found)]
    if not prefix:
        assert len(found) == min(len(rest), sum(sizes) + 200)


@given(st.binary(max_size=100), st.integers(0, 120))
def test_exact_reads(data: bytes, size: int) -> None:
    assert read_exactly(Dribble(data), size) == data[:size]


def test_worker_keeps_the_order() -> None:
    seen: list[int] = []
    with Worker(seen.append, depth=3) as worker:
        for number in range(1000):
            worker.put(number)
        worker.finish()
    assert seen == list(range(1000))


def test_worker_raises_in_put_what_happened_in_its_thread() -> None:
    before = threading.active_count()

    def fail(number: int) -> None:
        if number == 3:
            raise CentralError("corrupt", "at three")

    with pytest.raises(CentralError, match="at three"), Worker(fail, depth=2) as worker:
        for number in range(1000):
            worker.put(number)
        pytest.fail("nobody heard of the error")
    assert threading.active_count() == before


def test_worker_raises_at_the_end_what_happened_in_its_thread() -> None:
    def fail(_number: int) -> None:
        time.sleep(0.05)
        raise CentralError("corrupt", "at last")

    with pytest.raises(CentralError, match="at last"), Worker(fail) as worker:
        worker.put(1)
        worker.finish()
    assert threading.active_count() == 1 or not any(thread.daemon for thread in threading.enumerate()[1:])


def test_worker_ends_when_the_block_is_left_by_another_error() -> None:
    before = threading.active_count()
    started = threading.Event()

    def slow(_number: int) -> None:
        started.set()
        time.sleep(0.02)

    with pytest.raises(KeyboardInterrupt), Worker(slow, depth=2) as worker:
        for _number in range(3):
            worker.put(1)
        started.wait(5)
        raise KeyboardInterrupt
    assert threading.active_count() == before


def test_worker_hands_on_even_a_keyboard_interrupt() -> None:
    before = threading.active_count()

    def interrupted(_number: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Worker(interrupted) as worker:
        worker.put(1)
        worker.finish()
    assert threading.active_count() == before


class Counting:
    """Numbers, and what becomes of whoever makes them."""

    def __init__(self, end: int, error: BaseException | None = None) -> None:
        self.made = 0
        self.closed = threading.Event()
        self.thread = 0
        self._end = end
        self._error = error

    def items(self) -> Iterator[int]:
        self.thread = threading.get_ident()
        try:
            while self.made < self._end:
                self.made += 1
                yield self.made
            if self._error is not None:
                raise self._error
        finally:
            self.closed.set()


def test_what_is_made_ahead_comes_in_order() -> None:
    counting = Counting(1000)
    assert list(ahead(counting.items(), depth=3)) == list(range(1, 1001))
    assert counting.thread != threading.get_ident()
    assert counting.closed.is_set()
    assert list(ahead(iter([]))) == []


def test_no_more_is_made_ahead_than_may_wait() -> None:
    counting = Counting(1000)
    items = ahead(counting.items(), depth=3)
    assert next(items) == 1
    time.sleep(0.3)
    assert counting.made <= 1 + 3 + 1
    items.close()
    assert counting.closed.is_set()
    assert counting.made < 10


@pytest.mark.parametrize("error", [ValueError("at the end"), KeyboardInterrupt()])
def test_an_error_of_what_is_made_ahead_is_raised_in_its_place(error: BaseException) -> None:
    seen = []
    with pytest.raises(type(error)) as raised:
        for item in ahead(Counting(20, error).items(), depth=3):
            seen.append(item)
    assert raised.value is error
    assert seen == list(range(1, 21))


def test_an_iterator_that_cannot_be_closed_is_an_error() -> None:
    class Stubborn:
        def __iter__(self) -> Iterator[int]:
            return self

        def __next__(self) -> int:
            raise StopIteration

        def close(self) -> None:
            raise KeyError("it cannot be closed")

    with pytest.raises(KeyError, match="cannot be closed"):
        list(ahead(iter(Stubborn())))


def test_whoever_stops_reading_stops_what_is_made_ahead() -> None:
    counting = Counting(10**9)
    with pytest.raises(KeyError), contextlib.closing(ahead(counting.items())) as items:
        for item in items:
            if item == 100:
                raise KeyError
    assert counting.closed.is_set()
    assert counting.made < 130
