# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A signal ends what is being done, wherever Python happens to be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._operation_stream import OperationStream
from ansible_collections.odkops.central.plugins.module_utils._termination import raises, undivided

from support.modules import module_environment

_FINALIZER = """
import gc, os, signal, sys, time, weakref
from ansible_collections.odkops.central.plugins.module_utils._termination import install

class Closed:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        for _ in range(1000):
            pass

class Watched:
    pass

install()
try:
    if sys.argv[1] == "finalizer":
        Closed()
    else:
        watched = Watched()
        gone = weakref.ref(watched, lambda _reference: os.kill(os.getpid(), signal.{name}))
        del watched
    time.sleep(20)
    print("went on")
finally:
    print("cleaned up")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("place", ["finalizer", "callback"])
def test_a_signal_in_a_finalizer_is_not_lost(name: str, place: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FINALIZER.format(name=name), place],
        capture_output=True,
        text=True,
        env=module_environment(),
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + getattr(signal, name), "cleaned up\n", "")


def test_other_exceptions_of_finalizers_are_printed_as_ever() -> None:
    script = """
        from ansible_collections.odkops.central.plugins.module_utils._termination import install

        class Closed:
            def __del__(self):
                raise ValueError("something else")

        install()
        Closed()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env=module_environment(),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert "ValueError: something else" in done.stderr


class Signalled(BaseException):
    """What the signal of these tests raises."""


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    before = signal.signal(signal.SIGUSR2, raises(lambda _number: Signalled()))
    yield
    signal.signal(signal.SIGUSR2, before)


def test_a_signal_comes_at_the_end_of_what_is_undivided() -> None:
    reached = []
    with pytest.raises(Signalled):
        with undivided():
            with undivided():
                signal.raise_signal(signal.SIGUSR2)
                reached.append("inner")
            reached.append("outer")
        reached.append("after")
    assert reached == ["inner", "outer"]


def test_a_signal_is_not_lost_where_what_is_undivided_fails() -> None:
    with pytest.raises(Signalled) as raised, undivided():
        signal.raise_signal(signal.SIGUSR2)
        raise ValueError("of its own")
    assert isinstance(raised.value.__context__, ValueError)
    with undivided():
        pass


def test_a_signal_that_was_raised_is_not_raised_a_second_time() -> None:
    """Two come while something is undivided, the second when it ends."""
    with pytest.raises(Signalled), undivided():
        signal.raise_signal(signal.SIGUSR2)
        signal.raise_signal(signal.SIGUSR2)
    with undivided():
        pass


def test_a_process_that_was_just_started_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes when the process runs, and nobody knows of it yet."""
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def start(*arguments: Any, **named: Any) -> subprocess.Popen[bytes]:
        process = real(*arguments, **named)
        started.append(process)
        signal.raise_signal(signal.SIGUSR2)
        return process

    monkeypatch.setattr(subprocess, "Popen", start)
    stream = OperationStream(
        operation="test",
        command=["/bin/sh", "-c", "exec sleep 60"],
        directory=None,
        environment=dict(os.environ),
        stdin=None,
        idle_timeout=60,
        failed=lambda status, said: CentralError("operation_failed", f"{status} {said}"),
    )
    begin = time.monotonic()
    with pytest.raises(Signalled), stream:
        pass
    assert started[0].returncode is not None
    assert time.monotonic() - begin < 30
