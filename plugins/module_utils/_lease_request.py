# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an administrator, or a playbook, wants of the lease on a Central, done or only rehearsed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Optional

from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._heartbeat import LIFETIME
from ansible_collections.odkops.central.plugins.module_utils._lease import (
    LONGEST,
    PURPOSES,
    SHORTEST,
    Lease,
    break_lease,
    held_by,
    new_run_id,
    release,
    show,
    take,
    this_host,
)

_HOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


@dataclass(frozen=True)
class LeaseRequest:
    """The options of the module central_lease.

    :param run_id: None for a new run, or for any
    :param holder: None for the name of this host
    :param lifetime: seconds
    :param wait: seconds
    :param check_mode: look only
    """

    channel: Channel
    run_id: Optional[str] = None
    purpose: str = PURPOSES[0]
    holder: Optional[str] = None
    lifetime: int = LIFETIME
    wait: int = 0
    check_mode: bool = False

    def do(self, state: str) -> dict[str, Any]:
        """Bring the lease into a state.

        :param state: ``held``, ``released``, ``broken``, ``shown``
        :returns: ``changed``, ``lease`` and what the state adds
        :raises CentralError: ``bad_option``, ``lease_held``, or as the channel does
        """
        found = show(self.channel) if self.check_mode or state == "shown" else None
        if state == "held":
            return self._hold(found)
        if state == "released":
            return self._release(found)
        if state == "broken":
            return self._break(found)
        return {"changed": False, "lease": _told(found)}

    def _hold(self, found: Lease | None) -> dict[str, Any]:
        holder = this_host() if self.holder is None else self.holder
        if not _HOLDER.fullmatch(holder):
            raise CentralError(
                "bad_option",
                f"holder: {holder!r} cannot stand in a lease. Use up to 128 letters, digits, dots, colons, hyphens and "
                "underscores.",
            )
        if not SHORTEST <= self.lifetime <= LONGEST:
            raise CentralError("bad_option", f"lifetime is {self.lifetime}: give seconds, {SHORTEST} to {LONGEST}.")
        if self.wait < 0:
            raise CentralError("bad_option", f"wait is {self.wait}: give seconds, or 0.")
        run_id = self.run_id or new_run_id()
        if not self.check_mode:
            lease, taken = take(self.channel, run_id, self.purpose, holder, self.lifetime, self.wait)
            return {"changed": taken, "lease": lease.as_dict(), "run_id": run_id}
        warnings = []
        if found is not None and found.run_id != run_id:
            if self.wait == 0:
                raise held_by(found)
            warnings.append(f"Another run is at work on this Central, and would be waited for. {found.sentence}.")
        changed = found is None or found.run_id != run_id
        return {"changed": changed, "lease": _told(found), "run_id": run_id, "warnings": warnings}

    def _release(self, found: Lease | None) -> dict[str, Any]:
        if self.check_mode:
            return {"changed": found is not None and found.run_id == self.run_id, "lease": _told(found)}
        changed = release(self.channel, str(self.run_id))
        return {"changed": changed, "lease": None if changed else _told(show(self.channel))}

    def _break(self, found: Lease | None) -> dict[str, Any]:
        broken = break_lease(self.channel, self.run_id, rehearse=self.check_mode)
        return {"changed": broken is not None, "lease": _told(found), "broken": _told(broken)}


def _told(lease: Lease | None) -> dict[str, Any] | None:
    return None if lease is None else lease.as_dict()
