# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a Central answers as it should: asked from inside, while nobody else can reach it, and through nginx after that."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Optional

from ansible_collections.odkops.central.plugins.module_utils import _health_operations as operations
from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError

#: who can be asked
SERVICE, NGINX = "service", "nginx"

# Seconds for one request, and between two of them.
_REQUEST = 30
_PAUSE = 1.0

_NOT_FOUND = 404


class Health:
    """Asks the Central behind a channel.

    :param patience: seconds that it may take to come up, migrations included
    """

    def __init__(self, channel: Channel, patience: float) -> None:
        self._channel = channel
        self._patience = patience

    def ask(
        self,
        who: str,
        method: str,
        path: str,
        headers: Optional[Mapping[str, str]] = None,
        body: Optional[Any] = None,
    ) -> tuple[int, str]:
        """Ask once.

        :param body: sent as JSON
        :returns: the status of HTTP and the beginning of the body; 0 and what was wrong where no answer came
        :raises CentralError: as :meth:`Channel.run`
        """
        asked = {
            "method": method,
            "path": path,
            "headers": {**(headers or {}), **({} if body is None else {"Content-Type": "application/json"})},
            "body": None if body is None else json.dumps(body),
            "timeout": _REQUEST * 1000,
        }
        output = self._channel.run(operations.ASK, who, stdin=json.dumps(asked).encode(), timeout=_REQUEST * 2)
        status, _newline, text = output.decode("utf-8", "replace").partition("\n")
        return (int(status) if status.isdigit() else 0), text

    def wait(self, who: str) -> float:
        """Wait until the API answers.

        :returns: seconds that it took
        :raises CentralError: ``not_healthy``
        """
        begin = time.monotonic()
        while True:
            try:
                status, said = self.ask(who, "GET", "/v1/projects")
            except CentralError as error:
                # A container that has just been started, or starts again and again.
                status, said = 0, error.message
            if 200 <= status < 500 and status != _NOT_FOUND:
                return time.monotonic() - begin
            if time.monotonic() - begin > self._patience:
                how = f"with {status}" if status else f"at all: {said[:200]}"
                raise CentralError(
                    "not_healthy",
                    f"The restored Central did not answer {how}, within {self._patience:g} seconds, where {who} was asked for "
                    f"/v1/projects. Look at `docker compose logs {who}`.",
                )
            time.sleep(_PAUSE)

    def log_in(self, email: str, password: str) -> None:
        """Log in, and out again.

        :raises CentralError: ``not_healthy``
        """
        status, text = self.ask(SERVICE, "POST", "/v1/sessions", body={"email": email, "password": password})
        try:
            token = str(json.loads(text)["token"]) if status == 200 else ""
        except (ValueError, KeyError, TypeError):
            token = ""
        if not token:
            raise CentralError(
                "not_healthy",
                f"{email} cannot log in to the restored Central: the answer was {status}. After a restore the passwords are "
                "those of the backup. Give those, or do without login_email.",
            )
        self.ask(SERVICE, "DELETE", "/v1/sessions/current", headers={"Authorization": f"Bearer {token}"})
