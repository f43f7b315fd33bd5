# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work that is done while the lease on a Central is held, and is broken off when it is lost."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._heartbeat import INTERVAL
from ansible_collections.odkops.central.plugins.module_utils._lease import keep, new_run_id, release, take, this_host
from ansible_collections.odkops.central.plugins.module_utils._termination import raises

_SIGNAL = signal.SIGUSR1

# A run that is killed is in nobody's way for longer than that, in seconds.
_LIFETIME = 120


class _Lost(BaseException):
    """The lease is lost. No error, so that no handler of errors goes on with another way to do the same."""


@contextlib.contextmanager
def under_lease(channel: Channel, run_id: str, interval: float = INTERVAL) -> Iterator[None]:
    """Return a context in which the lease of a run is renewed. For the main thread only.

    What is in it is broken off as by a signal, so that it undoes what it has begun, as soon as the lease is known to be lost.
    When it ends well, the lease was held all the time.

    :param interval: seconds between two renewals
    :raises CentralError: ``lease_lost``; when it is entered, as :meth:`Channel.run`
    """
    main = threading.get_ident()

    def stop(_loss: CentralError) -> None:
        signal.pthread_kill(main, _SIGNAL)

    before = signal.signal(_SIGNAL, raises(lambda _number: _Lost()))
    beat = None
    try:
        with keep(channel, run_id, interval, on_loss=stop) as beat:
            yield
            if beat is not None:
                beat.confirm()
    except _Lost:
        if beat is None or beat.loss is None:
            raise AssertionError("nobody else sends this signal") from None
        raise beat.loss from None
    finally:
        signal.signal(_SIGNAL, before)


@contextlib.contextmanager
def holding(channel: Channel, lease: str | None) -> Iterator[None]:
    """Return a context in which the lease for a restore is held: the one that the caller keeps, or else one of its own.

    :param lease: the run that has it; None to take one and give it back
    :raises CentralError: ``lease_held``, ``lease_lost``
    """
    if lease is not None:
        yield
        return
    run_id = new_run_id()
    take(channel, run_id, "restore", this_host(), _LIFETIME)
    try:
        with under_lease(channel, run_id):
            yield
    finally:
        with contextlib.suppress(CentralError):
            release(channel, run_id)
