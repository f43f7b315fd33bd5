# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether Enketo is up, and opens links: asked in its own container, as nginx asks it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError

#: so many links are worth asking for
ASKED = 5

# No id of Enketo's: they have other lengths.
_MADE_UP = "odkops0made0up"
_UNKNOWN = 404

# What Enketo answers where Redis has the id: the form; that one has to log in for it; that Central does not let it have the
# form, or cannot be reached, since it is fetched through nginx.
_KNOWN = frozenset((200, 401, 403, 500))
_PAUSE = 0.5


def require_links(channel: Channel, enketo_ids: Sequence[str], patience: float) -> dict[str, int]:
    """See that Enketo answers, knows links, and does not know one that was made up.

    :param enketo_ids: Enketo's ids of the links
    :param patience: seconds that it may take to come up
    :returns: ``asked``, ``opened``
    :raises CentralError: ``not_healthy`` where it does not answer, or opens none of them
    """
    lines = "".join(f"{each}\n" for each in [_MADE_UP, *enketo_ids]).encode() + b"end\n"
    until = time.monotonic() + patience
    statuses: list[int] = []
    while True:
        with contextlib.suppress(CentralError):
            output = channel.run("enketo-answers", stdin=lines, timeout=150)
            statuses = [int(word) for word in output.split() if word.isdigit()]
        if len(statuses) == len(enketo_ids) + 1 and statuses[0] == _UNKNOWN and all(statuses):
            break
        if time.monotonic() >= until:
            raise CentralError(
                "not_healthy",
                f"Enketo does not answer within {patience:g} seconds of its start. Look at its log (docker compose logs enketo).",
            )
        time.sleep(_PAUSE)
    opened = sum(status in _KNOWN for status in statuses[1:])
    if enketo_ids and not opened:
        raise CentralError(
            "not_healthy", f"Enketo opens none of {len(enketo_ids)} Web Forms links that were restored: {statuses[1:]}."
        )
    return {"asked": len(enketo_ids), "opened": opened}
