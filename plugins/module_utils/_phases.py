# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long each part of a restore takes: the RTO, measured."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any


class Phases:
    """Measures from its making."""

    def __init__(self) -> None:
        #: seconds by phase, in order
        self.seconds: dict[str, float] = {}
        self._begin = time.monotonic()
        self._stopped: float | None = None
        #: seconds from stopping Central to its answering again
        self.downtime = 0.0

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - begin, 3)

    def stopped(self) -> None:
        """Central does not answer from now on."""
        self._stopped = time.monotonic()

    def answers(self) -> None:
        """Central answers again."""
        if self._stopped is not None:
            self.downtime = round(time.monotonic() - self._stopped, 3)

    def as_dict(self) -> dict[str, Any]:
        """``phases`` (seconds by name), ``downtime`` and ``elapsed`` (seconds)."""
        return {
            "phases": self.seconds,
            "downtime": self.downtime,
            "elapsed": round(time.monotonic() - self._begin, 3),
        }
