# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The services of a Central: which of them run, and stopping and starting them."""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils import _service_operations as operations
from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError

NGINX = "nginx"

# Docker gives each container 30 seconds to end by itself.
_TIMEOUT = 300


class Services:
    """The services of the Central behind a channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def running(self) -> list[str]:
        """The services that run, in alphabetical order.

        :raises CentralError: as :meth:`Channel.run`
        """
        return sorted(set(self._channel.run(operations.RUNNING).decode("utf-8", "replace").split()))

    def stop(self, *names: str) -> None:
        """Stop services; those that do not run are none the worse for it.

        :raises CentralError: ``operation_failed`` where one still runs, and as :meth:`Channel.run`
        """
        if not names:
            return
        self._channel.run(operations.STOP, " ".join(names), timeout=_TIMEOUT)
        left = set(names) & set(self.running())
        if left:
            raise CentralError(
                "operation_failed", f"{', '.join(sorted(left))} could not be stopped: see `docker compose ps`."
            )

    def start(self, *names: str) -> None:
        """Start services, and make the containers that do not exist. That they answer is not waited for.

        nginx comes last: it looks up the addresses of the others only once, when it starts, and a container may get another one
        whenever it starts.

        :raises CentralError: ``operation_failed`` where one does not run, and as :meth:`Channel.run`
        """
        if not names:
            return
        for together in ([name for name in names if name != NGINX], [name for name in names if name == NGINX]):
            if together:
                self._channel.run(operations.START, " ".join(together), timeout=_TIMEOUT)
        left = set(names) - set(self.running())
        if left:
            raise CentralError(
                "operation_failed",
                f"{', '.join(sorted(left))} could not be started: see `docker compose ps` and `docker compose logs`.",
            )

    def restart(self, *names: str) -> None:
        """Stop services, then start them, as :meth:`stop` and :meth:`start` do."""
        self.stop(*names)
        self.start(*names)
