#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_gate: lets a vault back an ODK Central up over SSH, and do nothing else."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_gate
short_description: Make the forced command by which a vault backs up an ODK Central over SSH
version_added: 0.1.0
description:
  - Writes a program, the gate, on the host of an ODK Central. It goes into C(authorized_keys) as the forced command of the key
    of a vault. The vault then can ask for the operations of a backup of this Central, and for nothing else.
  - The gate holds all that it may ever execute, each operation a script with parameters of a fixed form. Open it and read.
    No word of what is asked for is seen by a shell, and nothing of the client's environment is used.
  - Each request is written to the system's log, with the address that it came from.
  - Operations for backups only read. They read all of the Central's data, of course, and its secrets.
  - A gate of another version of the collection refuses operations that have changed, with the diagnosis V(gate_outdated).
    Make it anew after each update of the collection.
extends_documentation_fragment:
  - odkops.central._channel
  - odkops.central._attributes
  - odkops.central._attributes.actiongroup_central
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  path:
    description:
      - Path of the gate. Its directory must exist, and nobody but root should be able to write there.
    type: path
    required: true
  state:
    description:
      - Whether the gate is there.
    type: str
    choices: [present, absent]
    default: present
  purposes:
    description:
      - Which operations are permitted. V(backup) only reads. V(restore) changes the Central.
    type: list
    elements: str
    choices: [backup, restore]
    default: [backup]
  config_paths:
    description:
      - Absolute paths of files and directories that the vault may read in addition. See the option
        O(odkops.central.central_config_backup#module:extra_paths).
    type: list
    elements: str
    default: []
  python:
    description:
      - Path of the Python that runs the gate, version 3.9 or later.
    type: path
    default: /usr/bin/python3
author:
  - Contributors to the odkops.central collection (@odkops)
seealso:
  - module: odkops.central.central_config_backup
  - module: odkops.central.central_enketo_backup
"""

EXAMPLES = r"""
- name: Make the gate of the Central on this host
  odkops.central.central_gate:
    path: /usr/local/sbin/odk-central-gate
    project_directory: /root/central
  become: true

- name: Let the key of the vault start it, and nothing else
  ansible.builtin.lineinfile:
    path: /home/odk-backup/.ssh/authorized_keys
    line: 'restrict,command="/usr/local/sbin/odk-central-gate" {{ vault_public_key }}'
    create: true
    owner: root
    group: odk-backup
    mode: "0640"
  become: true
"""

RETURN = r"""
path:
  description: Path of the gate.
  returned: always
  type: str
  sample: /usr/local/sbin/odk-central-gate
operations:
  description: Names of the operations that it permits.
  returned: O(state=present)
  type: list
  elements: str
  sample: [config-files, pg-dump]
diagnosis:
  description: V(ok), or the code of what is wrong. All codes are in the collection's documentation of diagnoses.
  returned: always
  type: str
  sample: ok
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.odkops.central.plugins.module_utils._channel_args import project_argument_spec, project_of
from ansible_collections.odkops.central.plugins.module_utils._diagnoses import OK
from ansible_collections.odkops.central.plugins.module_utils._gate import (
    Gate,
    permitted,
    render_gate,
)
from ansible_collections.odkops.central.plugins.module_utils._module import run
from ansible_collections.odkops.central.plugins.module_utils._operations import OPERATIONS


def _wanted(params: dict[str, Any]) -> str:
    return render_gate(project_of(params), params["purposes"], params["config_paths"], params["python"])


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **project_argument_spec(),
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "purposes": {
                "type": "list",
                "elements": "str",
                "choices": ["backup", "restore"],
                "default": ["backup"],
            },
            "config_paths": {"type": "list", "elements": "str", "default": []},
            "python": {"type": "path", "default": "/usr/bin/python3"},
        },
        required_if=[("state", "present", ("project_directory",))],
        supports_check_mode=True,
    )

    def action() -> dict[str, Any]:
        params = module.params
        gate = Gate(params["path"])
        before = gate.read()
        if params["state"] == "absent":
            changed = gate.remove(module.check_mode)
            return {
                "changed": changed,
                "path": gate.path,
                "diff": {"before": before or "", "after": ""},
                "diagnosis": OK,
            }
        wanted = _wanted(params)
        changed = gate.write(wanted, module.check_mode)
        operations = permitted(OPERATIONS, params["purposes"], params["config_paths"])
        return {
            "changed": changed,
            "path": gate.path,
            "operations": sorted(operation.name for operation in operations),
            "diff": {"before": before or "", "after": wanted},
            "diagnosis": OK,
        }

    run(module, action)


if __name__ == "__main__":
    main()
