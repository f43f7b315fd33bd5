# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all ways of making a Direct Backup have in common: where it goes, who may read it, and when it was made."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Optional

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._passphrase import check_strength
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation

#: bytes a second; slower than that, a dump takes too long to be one
SLOWEST = 1024


@dataclass(frozen=True)
class Terms:
    """How a backup is to be made.

    :param dest: a directory, or a file, see :class:`Destination`
    :param passphrase: None for a backup that anybody can read
    :param expected_size: bytes that the backup will need, or None for the size of the last one in the directory
    :param known_bad_blobs: ids of blobs whose content is known to be wrong in the live database
    :param rate_limit: bytes that are read in a second at most, or None
    """

    dest: str
    passphrase: Optional[str]
    allow_unencrypted: bool = False
    allow_weak_passphrase: bool = False
    expected_size: Optional[int] = None
    known_bad_blobs: frozenset[int] = frozenset()
    rate_limit: Optional[int] = None

    def check(self) -> None:
        """See whether the passphrase may be used, and the rate can be.

        :raises CentralError: ``no_passphrase``, ``weak_passphrase``, ``bad_option``
        """
        if self.rate_limit is not None and self.rate_limit < SLOWEST:
            raise CentralError(
                "bad_option", f"rate_limit is {self.rate_limit}: give bytes a second, {SLOWEST} at least."
            )
        if self.passphrase:
            check_strength(self.passphrase, self.allow_weak_passphrase)
        elif not self.allow_unencrypted:
            raise CentralError(
                "no_passphrase",
                "No passphrase was given, so anybody who finds the backup could read it. Give passphrase or "
                "passphrase_file, or allow_unencrypted=true to do without.",
            )

    @property
    def expectation(self) -> Expectation:
        """What the backup is held against while it comes in."""
        return Expectation(
            passphrase=self.passphrase,
            known_bad_blobs=self.known_bad_blobs,
            allow_unencrypted=self.allow_unencrypted,
        )


class Stopwatch:
    """When a backup began and ended. It runs from its making."""

    def __init__(self) -> None:
        self._started = datetime.now(timezone.utc)
        self._clock = time.monotonic()

    @property
    def name(self) -> str:
        """A name for the backup, without its end, as Central gives it but for the colons."""
        return f"central-backup-{_iso(self._started)}".replace(":", "-")

    def stop(self) -> dict[str, Any]:
        """``started_at`` and ``finished_at`` (UTC, ISO 8601), ``elapsed`` (seconds)."""
        return {
            "started_at": _iso(self._started),
            "finished_at": _iso(datetime.now(timezone.utc)),
            "elapsed": round(time.monotonic() - self._clock, 3),
        }


def _iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
