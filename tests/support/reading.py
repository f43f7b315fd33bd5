# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shared by the tests of reading in two parts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils._reading_processes import ReadingProcesses


def change_between_readings(monkeypatch: pytest.MonkeyPatch, path: Path, change: str) -> None:
    """Change a file once its second part has been read for what is in it, and before it is read for the digest.

    :param change: ``cut`` (by 100,000 bytes), ``grown``, or ``other`` (in a thousand bytes of these 100,000)
    """
    size = path.stat().st_size
    made: list[ReadingProcesses] = []
    init, start = ReadingProcesses.__init__, ReadingProcesses.start

    def noted(self: ReadingProcesses, *args: object) -> None:
        made.append(self)
        init(self, *args)  # type: ignore[arg-type]

    def change_then_start(self: ReadingProcesses) -> None:
        if self is made[1]:  # of the first part: those of the second one are made before
            os.waitid(os.P_PID, made[0]._processes[0], os.WEXITED | os.WNOWAIT)
            with path.open("r+b") as file:
                if change == "cut":
                    file.truncate(size - 100_000)
                else:
                    file.seek(size if change == "grown" else size - 100_000)
                    file.write(bytes(1000))
        start(self)

    monkeypatch.setattr(ReadingProcesses, "__init__", noted)
    monkeypatch.setattr(ReadingProcesses, "start", change_then_start)
