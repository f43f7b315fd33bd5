#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_lease: one backup, restore or drill at a time is at work on an ODK Central."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_lease
short_description: Take, return, show or break the lease on an ODK Central
version_added: 0.1.0
description:
  - One backup, restore or drill at a time is at work on a Central. Each takes the lease on it under the id of its run, and
    returns it at its end.
  - A lease expires when it has not been renewed for O(lifetime) seconds, so a run that was killed is in nobody's way for long.
    Modules that take long renew it while they run. A reboot of the Central's host ends it.
  - The lease is on the Central's host, for one project directory. It is seen by runs on that host and by those of a vault that
    come over SSH, whichever user they are there. It is a note in C(/run/lock), and nothing of the Central is touched.
requirements:
  - "flock (util-linux), on the Central's host"
extends_documentation_fragment:
  - odkops.central._channel
  - odkops.central._channel.ssh
  - odkops.central._attributes
  - odkops.central._attributes.actiongroup_central
attributes:
  check_mode:
    support: full
    details:
      - In check mode the module looks, fails where it would fail, and takes, returns or breaks nothing.
      - What O(wait) would bring is not known then. A lease that is held by another run is a warning if O(wait) is more than 0.
  diff_mode:
    support: none
  idempotent:
    support: full
    details:
      - A run that has the lease and takes it again renews it. This does not count as a change.
options:
  state:
    description:
      - V(held) takes the lease for O(run_id), or renews it if that run has it already. It fails with the diagnosis
        V(lease_held) if another run has it.
      - V(released) returns it, if O(run_id) has it.
      - V(broken) ends the lease of any run, or only that of O(run_id) if that is given. It fails if another run has it. That
        run notices it when it next renews the lease, and fails.
        Only root, and the user of the Central's host who took it, can break a lease.
      - V(shown) changes nothing.
    type: str
    choices: [held, released, broken, shown]
    default: shown
  run_id:
    description:
      - The id of the run, of up to 64 letters, digits, dots, hyphens and underscores. The id of a set is one.
      - Required with O(state=released). With O(state=held), a new one by default, which is returned as RV(run_id).
    type: str
  purpose:
    description:
      - What the run is there for. Others are told so.
    type: str
    choices: [backup, restore, drill]
    default: backup
  holder:
    description:
      - The host where the run is. Others are told so. By default, the name of the host where the module runs.
    type: str
  lifetime:
    description:
      - After how many seconds without renewal the lease expires, 60 to 86400.
      - It has to be longer than anything that the run does without renewing it.
    type: int
    default: 900
  wait:
    description:
      - For how many seconds O(state=held) waits for another run to end.
    type: int
    default: 0
author:
  - Contributors to the odkops.central collection (@odkops)
seealso:
  - module: odkops.central.central_backup
  - module: odkops.central.central_gate
"""

EXAMPLES = r"""
- name: Take the lease on the Central, and wait for another run up to an hour
  odkops.central.central_lease:
    project_directory: /root/central
    state: held
    wait: 3600
  register: lease

- name: Return it
  odkops.central.central_lease:
    project_directory: /root/central
    state: released
    run_id: "{{ lease.run_id }}"

- name: Who is at work on the Central on another host?
  odkops.central.central_lease:
    ssh_host: central.example.org
    ssh_user: odk-backup
  register: lease

- name: Break the lease of a run that is known to be dead
  odkops.central.central_lease:
    project_directory: /root/central
    state: broken
    run_id: 20261122T020000Z-0a1b2c3d
"""

RETURN = r"""
lease:
  description: The lease that is held when the module ends, or null if there is none. In check mode, as it was found.
  returned: success, and with the diagnosis V(lease_held)
  type: dict
  sample:
    run_id: 20261122T020000Z-0a1b2c3d
    purpose: backup
    holder: vault
    user: odk-backup
    since: "2026-11-22T02:00:00.000Z"
    expires: "2026-11-22T02:15:00.000Z"
    expires_in: 900
    lifetime: 900
  contains:
    run_id:
      description: The id of the run that has it.
      type: str
      returned: always
    purpose:
      description: What that run is there for.
      type: str
      returned: always
    holder:
      description: The host where that run is, as it has said.
      type: str
      returned: always
    user:
      description: The user of the Central's host who took it.
      type: str
      returned: always
    since:
      description: When it was taken, in UTC, by the clock of the Central's host.
      type: str
      returned: always
    expires:
      description: When it expires unless it is renewed.
      type: str
      returned: always
    expires_in:
      description: In how many seconds that is.
      type: int
      returned: always
    lifetime:
      description: For how many seconds each renewal is.
      type: int
      returned: always
run_id:
  description: The id of the run that has taken or renewed the lease.
  returned: O(state=held), success
  type: str
  sample: 20261122T020000Z-0a1b2c3d
broken:
  description: The lease that was broken, with the same fields as RV(lease), or null if there was none.
  returned: O(state=broken), success
  type: dict
diagnosis:
  description: V(ok), or the code of what is wrong. All codes are in the collection's documentation of diagnoses.
  returned: always
  type: str
  sample: ok
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.odkops.central.plugins.module_utils._channel_args import (
    CHANNEL_REQUIRED_ONE_OF,
    channel_argument_spec,
    channel_of,
)
from ansible_collections.odkops.central.plugins.module_utils._diagnoses import OK
from ansible_collections.odkops.central.plugins.module_utils._heartbeat import LIFETIME
from ansible_collections.odkops.central.plugins.module_utils._lease import PURPOSES, check_run_id
from ansible_collections.odkops.central.plugins.module_utils._lease_request import LeaseRequest
from ansible_collections.odkops.central.plugins.module_utils._module import run


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **channel_argument_spec(),
            "state": {"type": "str", "choices": ["held", "released", "broken", "shown"], "default": "shown"},
            "run_id": {"type": "str"},
            "purpose": {"type": "str", "choices": list(PURPOSES), "default": "backup"},
            "holder": {"type": "str"},
            "lifetime": {"type": "int", "default": LIFETIME},
            "wait": {"type": "int", "default": 0},
        },
        required_one_of=CHANNEL_REQUIRED_ONE_OF,
        required_if=[("state", "released", ("run_id",))],
        supports_check_mode=True,
    )

    def action() -> dict[str, Any]:
        params = module.params
        request = LeaseRequest(
            channel=channel_of(params),
            run_id=None if params["run_id"] is None else check_run_id(params["run_id"]),
            purpose=params["purpose"],
            holder=params["holder"],
            lifetime=params["lifetime"],
            wait=params["wait"],
            check_mode=module.check_mode,
        )
        return {**request.do(params["state"]), "diagnosis": OK}

    run(module, action)


if __name__ == "__main__":
    main()
