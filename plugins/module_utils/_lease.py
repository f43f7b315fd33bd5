# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lease on a Central: one backup, restore or drill at a time is at work there.

It spans several processes, so no lock of the operating system can hold it. A run takes it under its id and renews it; what
is not renewed expires, so that a run which was killed is in nobody's way for long. _lease_operations.py says where it is kept.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Optional

from ansible_collections.odkops.central.plugins.module_utils import _lease_operations as operations
from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._heartbeat import INTERVAL, LIFETIME, LOST, Heartbeat
from ansible_collections.odkops.central.plugins.module_utils._set_names import utc_text

#: what a run may be there for
PURPOSES = ("backup", "restore", "drill")

#: seconds
SHORTEST, LONGEST = 60, 86400

_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FIELDS = 10
_POLL = 5.0


@dataclass(frozen=True)
class Lease:
    """A lease that is, or was, held.

    Times are of the clock of the Central's host.

    :param run_id: whose it is
    :param purpose: one of :data:`PURPOSES`
    :param holder: the host where that run is, as it has called itself
    :param user: of the Central's host, who has taken it
    :param since: when it was taken
    :param expires: when it expires unless it is renewed
    :param left: seconds until then, by a clock that nobody sets
    :param lifetime: seconds that each renewal gives
    """

    run_id: str
    purpose: str
    holder: str
    user: str
    since: datetime
    expires: datetime
    left: int
    lifetime: int

    def as_dict(self) -> dict[str, Any]:
        """As modules return it."""
        return {
            "run_id": self.run_id,
            "purpose": self.purpose,
            "holder": self.holder,
            "user": self.user,
            "since": utc_text(self.since),
            "expires": utc_text(self.expires),
            "expires_in": self.left,
            "lifetime": self.lifetime,
        }

    @property
    def sentence(self) -> str:
        """Who holds it, since when, and until when."""
        return (
            f"The {self.purpose} {self.run_id}, run from {self.holder} as the user {self.user}, has held it since "
            f"{utc_text(self.since)}, and it expires at {utc_text(self.expires)}, in {self.left} seconds, unless it is renewed"
        )


def new_run_id() -> str:
    """Return an id for a run that has none."""
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def this_host() -> str:
    """Return the name of this host, as it can stand in a lease."""
    return re.sub(r"[^A-Za-z0-9._:-]", "-", socket.gethostname())[:128].lstrip("._:-") or "unknown"


def check_run_id(run_id: str) -> str:
    """Return `run_id` if it can be one.

    :raises CentralError: ``bad_option``
    """
    if not _RUN.fullmatch(run_id):
        raise CentralError(
            "bad_option",
            f"run_id: {run_id!r} is none. Use 1 to 64 letters, digits, dots, hyphens and underscores, such as the id of a set.",
        )
    return run_id


def _answer(channel: Channel, operation: str, *arguments: str) -> tuple[str, Lease | None]:
    """Return the state that an operation prints, and the lease, if it tells of one."""
    text = channel.run(operation, *arguments, limit=4096).decode("utf-8", "replace")
    words = text.rstrip("\n").split(" ", _FIELDS - 1)
    if words == [operations.FREE]:
        return operations.FREE, None
    try:
        state, run_id, purpose, holder = words[:4]
        since, now, left, lifetime = (int(word) for word in words[4:8])
        clock = datetime.fromtimestamp(now, timezone.utc)
        lease = Lease(
            run_id=run_id,
            purpose=purpose,
            holder=holder,
            user=words[9],
            since=datetime.fromtimestamp(since, timezone.utc),
            expires=clock + timedelta(seconds=left),
            left=left,
            lifetime=lifetime,
        )
    except (ValueError, IndexError, OverflowError, OSError):
        raise CentralError(
            "operation_failed",
            f"The operation {operation} has answered something that is not understood: {text[:200]!r}.",
            operation=operation,
        ) from None
    return state, lease


def held_by(lease: Lease) -> CentralError:
    """Return the error ``lease_held`` about the lease of another run."""
    return CentralError(
        "lease_held",
        f"Another run is at work on this Central. {lease.sentence}. Wait for its end. If you know that it does not run any "
        f"more, break its lease: the module central_lease with state=broken and run_id={lease.run_id}.",
        lease=lease.as_dict(),
    )


def _not_of_run(run_id: str, lease: Lease) -> CentralError:
    """Return the error ``lease_held`` where the lease of `run_id` was to be broken, and it is another one."""
    return CentralError(
        "lease_held",
        f"The lease on the Central is not that of the run {run_id}, and was not broken. {lease.sentence}.",
        lease=lease.as_dict(),
    )


def _lost(run_id: str, lease: Lease | None) -> CentralError:
    if lease is None:
        return CentralError(
            LOST,
            f"The run {run_id} does not hold the lease on the Central any more: it has expired, or somebody has broken it, or "
            "the Central's host was started anew. Others may have been at work there since. Begin the run again.",
        )
    return CentralError(
        LOST,
        f"The run {run_id} does not hold the lease on the Central any more. {lease.sentence}. "
        "Begin this run again after that one.",
        lease=lease.as_dict(),
    )


def show(channel: Channel) -> Lease | None:
    """Return the lease that is held; None where there is none.

    :raises CentralError: as :meth:`Channel.run`
    """
    return _answer(channel, operations.SHOW)[1]


def take(
    channel: Channel,
    run_id: str,
    purpose: str,
    holder: str,
    lifetime: int = LIFETIME,
    wait: float = 0,
) -> tuple[Lease, bool]:
    """Take the lease for a run, or renew it where that run has it already.

    :param wait: seconds to wait for another run to end
    :returns: the lease, and whether it was taken, not only renewed
    :raises CentralError: ``lease_held``, or as :meth:`Channel.run`
    """
    until = time.monotonic() + wait
    while True:
        state, lease = _answer(channel, operations.TAKE, run_id, purpose, holder, str(lifetime))
        if lease is None:
            raise AssertionError("the lease is free after it was taken")
        if state != operations.HELD:
            return lease, state == operations.TAKEN
        patience = until - time.monotonic()
        if patience <= 0:
            raise held_by(lease)
        time.sleep(min(_POLL, patience))


def renew(channel: Channel, run_id: str) -> Lease:
    """Renew the lease of a run.

    :raises CentralError: ``lease_lost``, or as :meth:`Channel.run`
    """
    state, lease = _answer(channel, operations.RENEW, run_id)
    if state != operations.RENEWED or lease is None:
        raise _lost(run_id, lease)
    return lease


def release(channel: Channel, run_id: str) -> bool:
    """Give the lease of a run back. That it is not held any more is no error.

    :returns: whether it was held
    :raises CentralError: as :meth:`Channel.run`
    """
    return _answer(channel, operations.RELEASE, run_id)[0] == operations.RELEASED


def break_lease(channel: Channel, run_id: str | None = None, rehearse: bool = False) -> Lease | None:
    """End the lease of another run, which notices that at its next renewal.

    :param run_id: only if it is of this run; None for whichever it is
    :param rehearse: only see whether it could be done
    :returns: the lease that was broken; None where there was none
    :raises CentralError: ``lease_held`` where it is of another run or of another user, or as :meth:`Channel.run`
    """
    state, lease = _answer(
        channel, operations.BREAK, operations.ANY if run_id is None else run_id, "rehearse" if rehearse else "really"
    )
    if lease is None or state == operations.BROKEN:
        return lease
    if state == operations.FORBIDDEN:
        raise CentralError(
            "lease_held",
            f"The lease on the Central may be broken by root or by the user {lease.user} of its host only. {lease.sentence}.",
            lease=lease.as_dict(),
        )
    raise _not_of_run(str(run_id), lease)


def keep(
    channel: Channel,
    run_id: str | None,
    interval: float = INTERVAL,
    on_loss: Optional[Callable[[CentralError], None]] = None,
) -> AbstractContextManager[Heartbeat | None]:
    """Return a context in which the lease of a run is renewed; without a run, one that does nothing.

    :param on_loss: see :class:`Heartbeat`
    :raises CentralError: when it is entered or left, ``lease_lost``; when it is entered, as :meth:`Channel.run`
    """
    if run_id is None:
        return contextlib.nullcontext()
    return _Keeping(channel, run_id, interval, on_loss)


class _Keeping(Heartbeat):
    """A heartbeat that learns from the lease how long it lives."""

    def __init__(
        self, channel: Channel, run_id: str, interval: float, on_loss: Optional[Callable[[CentralError], None]]
    ) -> None:
        super().__init__(self._renew_lease, LIFETIME, interval, on_loss)
        self._channel, self._run_id = channel, run_id

    def _renew_lease(self) -> None:
        self.live_for(renew(self._channel, self._run_id).lifetime)
