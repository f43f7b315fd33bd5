# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Helpers that the unit and the integration tests share: see the fixtures in ``tests/conftest.py``."""

from __future__ import annotations

from .demo import Demo, DemoError, ensure_demo
from .inventory import write_inventory
from .modules import Result, call_module, module_args, run_module
from .playbooks import PlaybookResult, run_playbook

__all__ = [
    "Demo",
    "DemoError",
    "PlaybookResult",
    "Result",
    "call_module",
    "ensure_demo",
    "module_args",
    "run_module",
    "run_playbook",
    "write_inventory",
]
