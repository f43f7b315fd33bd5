# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An Ansible callback that writes what happened as JSON lines to the file named by ``RECORD_PATH``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: record
type: aggregate
short_description: Record results as JSON lines for the tests
description: Each result, and the final statistics, become one JSON object per line.
options: {}
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Appends one object per event, so that a run that is cut short leaves what it had."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "record"
    CALLBACK_NEEDS_ENABLED = True

    def _write(self, event: dict[str, Any]) -> None:
        with Path(os.environ["RECORD_PATH"]).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(event, default=str) + "\n")

    def _result(self, status: str, result: Any, **more: Any) -> None:
        self._write(
            {
                "event": "result",
                "status": status,
                "host": result._host.get_name(),
                "task": result._task.get_name(),
                "action": result._task.action,
                "result": json.loads(json.dumps(dict(result._result), default=str)),
                **more,
            }
        )

    def v2_runner_on_ok(self, result: Any) -> None:
        """A task succeeded."""
        self._result("ok", result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """A task failed."""
        self._result("failed", result, ignored=ignore_errors)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """A task was skipped."""
        self._result("skipped", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """A host could not be reached."""
        self._result("unreachable", result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """The end: totals by host, and what ``set_stats`` left."""
        hosts = {host: stats.summarize(host) for host in stats.processed}
        self._write({"event": "stats", "hosts": hosts, "custom": stats.custom})
