# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The heartbeat of a lease: it is renewed while something long runs."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Callable, Optional

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError

#: seconds between two renewals
INTERVAL = 30.0

#: seconds without a renewal after which a lease is nobody's
LIFETIME = 900

LOST = "lease_lost"

# A renewal that is under way when everything else is done is not waited for longer than that.
_LAST = 5.0


class Heartbeat:
    """Renews a lease from a thread. Use it as a context manager around what takes long.

    Entering renews once, so that nothing long begins without the lease. A renewal that fails for another reason than that
    the lease is gone, such as a connection that breaks, is tried again at the next beat, until the lease must have expired.
    Leaving without another exception raises where the lease was lost; whatever works in pieces asks :meth:`check` in between.

    :param renew: renews the lease once; raises :class:`CentralError` ``lease_lost`` where it is not held any more
    :param lifetime: seconds after which it expires without a renewal
    :param interval: seconds between two renewals
    :param on_loss: called once from the thread, when the lease is lost
    """

    def __init__(
        self,
        renew: Callable[[], object],
        lifetime: float = LIFETIME,
        interval: float = INTERVAL,
        on_loss: Optional[Callable[[CentralError], None]] = None,
    ) -> None:
        self._renew = renew
        self._lifetime = lifetime
        self._interval = interval
        self._on_loss = on_loss
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._renewed = 0.0
        #: why the lease is lost; None while it is held
        self.loss: CentralError | None = None

    def __enter__(self) -> Heartbeat:
        self._renewed = time.monotonic()
        self._renew()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()
        return self

    def live_for(self, lifetime: float) -> None:
        """Say after how many seconds the lease expires without a renewal."""
        self._lifetime = lifetime

    def check(self) -> None:
        """See whether the lease is still held, as far as is known.

        :raises CentralError: ``lease_lost``
        """
        if self.loss is not None:
            raise self.loss

    def confirm(self) -> None:
        """Renew the lease now, so that what was done until here is known to have been done with it.

        :raises CentralError: ``lease_lost``
        """
        self.loss = self.loss or self._renew_once()
        self.check()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_LAST)
        if error is None:
            self.check()

    def _beat(self) -> None:
        while not self._stop.wait(min(self._interval, self._lifetime / 3)):
            loss = self._renew_once()
            if loss is not None and not self._stop.is_set():
                self.loss = loss
                if self._on_loss is not None:
                    self._on_loss(loss)
                return

    def _renew_once(self) -> CentralError | None:
        """Renew the lease; returns why it is lost, if it is."""
        begun = time.monotonic()
        try:
            self._renew()
        except CentralError as error:
            if error.diagnosis == LOST:
                return error
            if time.monotonic() - self._renewed < self._lifetime:
                return None
            return CentralError(
                LOST,
                f"The lease could not be renewed for {self._lifetime:g} seconds, so somebody else may have it now. "
                f"Begin this run again. The last attempt: {error.message}",
            )
        self._renewed = begun
        return None
