#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_drill_stack: a Central for a disaster-recovery drill, apart from everything else."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_drill_stack
short_description: Bring up and remove the isolated ODK Central of a disaster-recovery drill
version_added: 0.1.0
description:
  - Reads a backup set to its last byte, and brings up an empty second ODK Central that it can be restored into, on a host that
    has Docker, the images of Central and the repository.
  - Its compose file is made for it. Of the checkout it takes the images and the read-only files of the services that are known,
    and nothing else. Its network is internal, without a way to the host, it has volumes of its own, publishes no ports, runs no
    cron jobs, and is not started again by Docker. Its nginx has the name and a certificate of DOMAIN, inside only.
  - Before anything is made, and again once the containers exist, that is compared with the Central of the checkout, as it is
    configured and as it runs there. On any overlap nothing is left, with the diagnosis V(drill_not_isolated).
  - The Central of the checkout need not run, and is not touched if it does.
  - A lease on the drill's directory is kept by each module that is given RV(lease). If it expires, a
    process that stays on the host removes the drill. So nothing is left when the controller dies.
  - What earlier drills have left on the host, after a reboot, is removed first.
extends_documentation_fragment:
  - odkops.central._channel
  - odkops.central._passphrase
  - odkops.central._attributes
  - odkops.central._attributes.actiongroup_central
attributes:
  check_mode:
    support: full
    details:
      - In check mode the set is read, the compose file is made in memory and compared, and images, memory and disk are looked at.
  diff_mode:
    support: none
  idempotent:
    support: partial
    details:
      - Each run with O(state=present) makes another drill.
options:
  state:
    description:
      - V(present) brings one up. V(absent) removes the one that O(directory) names, or all that drills have left below O(root).
      - V(kept) ends the lease of the one that O(directory) names, and lets it run until somebody removes it.
    type: str
    choices: [present, absent, kept]
    default: present
  set:
    description:
      - Path of the directory of a set, in its repository. Required if O(state=present).
    type: path
  depth:
    description:
      - How deep the drill is going to be, for its record.
    type: str
    choices: [quick, full]
    default: quick
  root:
    description:
      - Absolute path of a directory for drills on this host. Each has a directory of its own there while it lasts.
    type: path
    default: /var/lib/odkops-drill
  directory:
    description:
      - The directory of a drill, as it was returned.
    type: path
  kept_ones:
    description:
      - With O(state=absent) and without O(directory), remove those as well that were kept on purpose.
    type: bool
    default: false
  cpus:
    description:
      - How many CPUs one of its containers may use. By default half of those that there are.
      - Beside others they get a quarter of their share, whatever this is.
    type: float
  memory:
    description:
      - How many MiB of memory one of its containers may use.
    type: int
    default: 2048
  lifetime:
    description:
      - After how many seconds without a sign of life of the drill it is removed.
    type: int
    default: 180
  rclone_path:
    description:
      - Path of rclone, which M(odkops.central.central_drill_check) needs for objects of S3. Here it is looked for only, before
        anything is made. By default beside the Python of the module, then in C(PATH).
    type: path
  allow_unauthenticated:
    description:
      - Accept a set whose manifest has no HMAC although a passphrase is given.
    type: bool
    default: false
notes:
  - It is not needed, and not possible, to give O(compose_files) or O(project) of the drill itself.
    They are those of the checkout.
author:
  - Contributors to the odkops.central collection (@odkops)
seealso:
  - module: odkops.central.central_restore
  - module: odkops.central.central_drill_check
  - module: odkops.central.central_drill_report
"""

EXAMPLES = r"""
- name: Bring up a Central for a drill
  odkops.central.central_drill_stack:
    project_directory: /root/central
    set: /var/backups/odk-central/central.example.org/sets/20261122T020000.123Z-3f9a1c07
    passphrase_file: /etc/odk-central-backup/passphrase
  register: drill

- name: Restore into it
  odkops.central.central_restore:
    project_directory: "{{ drill.directory }}"
    project: "{{ drill.project }}"
    lease: "{{ drill.lease }}"
    path: /var/backups/odk-central/central.example.org/sets/20261122T020000.123Z-3f9a1c07
    passphrase_file: /etc/odk-central-backup/passphrase
    confirm_domain: "{{ drill.domain }}"
    skip_safety_backup: true

- name: Remove it
  odkops.central.central_drill_stack:
    state: absent
    directory: "{{ drill.directory }}"
"""

RETURN = r"""
record:
  description:
    - The record of the drill, as far as it goes. M(odkops.central.central_drill_check) ends it.
    - If bringing it up has failed, the record says so and is whole.
  returned: O(state=present), if O(set) is where sets are
  type: dict
  sample: {"drill_id": "20261123T033012Z-7c41d2", "central": "central.example.org", "depth": "quick", "rpo": 5412.0}
project:
  description: Name of the drill's Compose project.
  returned: O(state=present), on success
  type: str
  sample: odkops-drill-central-example-org-7c41d2
directory:
  description: The drill's own directory, with its compose file.
  returned: O(state=present), on success, not in check mode
  type: str
  sample: /var/lib/odkops-drill/central-example-org-7c41d2
domain:
  description: DOMAIN of the drill's Central.
  returned: O(state=present), on success
  type: str
  sample: central.example.org
lease:
  description: The id of the run that has the lease on the directory.
  returned: O(state=present), on success, not in check mode
  type: str
guard:
  description: What was compared, C(containers), C(volumes), C(networks), and how many secrets of the Central (C(compared)).
  returned: O(state=present), on success, not in check mode
  type: dict
  sample: {"containers": 8, "volumes": 4, "networks": 1, "compared": 7}
known_bad_blobs:
  description: Ids of attachments that were known to be wrong when the set was made, for M(odkops.central.central_restore).
  returned: O(state=present), on success, not in check mode
  type: list
  elements: int
  sample: []
images:
  description: The images that would be used, by service.
  returned: O(state=present), on success, in check mode
  type: dict
removed:
  description:
    - With O(state=present), the Compose projects of earlier drills that were removed, or would be.
    - With O(state=absent), what was removed.
  returned: success, unless O(state=kept)
  type: list
  elements: str
  sample: []
diagnosis:
  description: V(ok), or the code of what is wrong. All codes are in the collection's documentation of diagnoses.
  returned: always
  type: str
  sample: ok
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.odkops.central.plugins.module_utils._args import (
    PASSPHRASE_MUTUALLY_EXCLUSIVE,
    passphrase_argument_spec,
)
from ansible_collections.odkops.central.plugins.module_utils._channel_args import project_argument_spec, project_of
from ansible_collections.odkops.central.plugins.module_utils._diagnoses import OK
from ansible_collections.odkops.central.plugins.module_utils._drill_docker import Docker
from ansible_collections.odkops.central.plugins.module_utils._drill_record import DEPTHS, QUICK
from ansible_collections.odkops.central.plugins.module_utils._drill_removal import (
    keep,
    leftovers,
    remove,
    remove_leftovers,
    stack_at,
)
from ansible_collections.odkops.central.plugins.module_utils._drill_run import DrillSet, rehearse, start
from ansible_collections.odkops.central.plugins.module_utils._drill_stack import LIFETIME, DrillRequest
from ansible_collections.odkops.central.plugins.module_utils._module import run
from ansible_collections.odkops.central.plugins.module_utils._passphrase import read_passphrase


def _present(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    drilled = DrillSet(
        params["set"],
        read_passphrase(params["passphrase"], params["passphrase_file"]),
        params["allow_unauthenticated"],
    )
    request = DrillRequest(
        checkout=project_of(params),
        root=params["root"],
        cpus=params["cpus"],
        memory=params["memory"] * 1024**2,
        lifetime=params["lifetime"],
        rclone_path=params["rclone_path"],
    )
    return (rehearse if check_mode else start)(drilled, request, params["depth"])


def _absent(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    docker = Docker(tuple(params["docker_command"]))
    if params["directory"] is not None:
        if check_mode:
            there = os.path.isdir(params["directory"])
            return {"changed": there, "removed": [f"directory {params['directory']}"] if there else []}
        removed = remove(docker, stack_at(params["directory"]))
    elif check_mode:
        removed = [stack.project for stack in leftovers(docker, params["root"], params["kept_ones"])]
    else:
        removed = remove_leftovers(docker, params["root"], params["kept_ones"])
    return {"changed": bool(removed), "removed": removed}


def _kept(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    if not check_mode:
        keep(stack_at(params["directory"]))
    return {"changed": True}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **project_argument_spec(),
            **passphrase_argument_spec(),
            "state": {"type": "str", "choices": ["present", "absent", "kept"], "default": "present"},
            "set": {"type": "path"},
            "depth": {"type": "str", "choices": list(DEPTHS), "default": QUICK},
            "root": {"type": "path", "default": "/var/lib/odkops-drill"},
            "directory": {"type": "path"},
            "kept_ones": {"type": "bool", "default": False},
            "cpus": {"type": "float"},
            "memory": {"type": "int", "default": 2048},
            "lifetime": {"type": "int", "default": LIFETIME},
            "rclone_path": {"type": "path"},
            "allow_unauthenticated": {"type": "bool", "default": False},
        },
        mutually_exclusive=PASSPHRASE_MUTUALLY_EXCLUSIVE,
        required_if=[("state", "present", ("project_directory", "set")), ("state", "kept", ("directory",))],
        supports_check_mode=True,
    )

    def action() -> dict[str, Any]:
        act = {"present": _present, "absent": _absent, "kept": _kept}[module.params["state"]]
        return {**act(module.params, module.check_mode), "diagnosis": OK}

    run(module, action)


if __name__ == "__main__":
    main()
