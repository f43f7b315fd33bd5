# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Inventories that make a demo Central a host of the group ``odk_central``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .demo import Demo


def host_variables(demo: Demo) -> dict[str, Any]:
    """What the playbooks must know of a demo Central: it is reached from this machine, with this Python."""
    return {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "central_url": demo.login["url"],
        "central_email": demo.login["email"],
        "central_password": demo.login["password"],
        "central_ca_path": demo.login["ca_path"],
    }


def write_inventory(path: Path, hosts: Mapping[str, Demo], /, **variables: Any) -> Path:
    """Write an inventory (YAML; JSON is a subset), 0600 as it holds passwords, and return its path.

    ``hosts``: by host name. ``variables``: of the group, for example ``central_repository``; a value that is a
    mapping whose keys are host names gives each host its own.
    """
    entries: dict[str, dict[str, Any]] = {name: host_variables(demo) for name, demo in hosts.items()}
    shared: dict[str, Any] = {}
    for key, value in variables.items():
        if isinstance(value, Mapping) and value and set(value) <= set(entries):
            for name, own in value.items():
                entries[name][key] = own
        else:
            shared[key] = value
    inventory = {"odk_central": {"hosts": entries, "vars": shared}}
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(json.dumps(inventory, indent=2) + "\n", "utf-8")
    return path
