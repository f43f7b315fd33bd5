# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stream that is read no faster than it may be, so that whoever makes it is slowed down as well."""

from __future__ import annotations

import time
from typing import Callable, Optional

from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK, Readable

#: of a second: so much is read at once, and so much of lost time is made up for
_SLICE = 0.1


class RateLimited:
    """Passes a stream on.

    :param source: the stream
    :param rate: bytes a second, on average and in each fifth of a second
    :param clock: seconds, as ``time.monotonic``
    """

    def __init__(
        self,
        source: Readable,
        rate: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._source = source
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._at_once = max(1, min(CHUNK, int(rate * _SLICE)))
        self._due = clock()

    def read(self, size: int, /) -> bytes:
        """As :meth:`Readable.read`."""
        data = self._source.read(min(size, self._at_once))
        now = self._clock()
        self._due = max(self._due, now - _SLICE) + len(data) / self._rate
        if self._due > now:
            self._sleep(self._due - now)
        return data


def limited(source: Readable, rate: Optional[int]) -> Readable:
    """`source`, read no faster than `rate` bytes a second where that is not None."""
    return source if rate is None else RateLimited(source, rate)
