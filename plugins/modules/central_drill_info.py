#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_drill_info: lists the drills of ODK Centrals, and who has waited longest for one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_drill_info
short_description: List the disaster-recovery drills of ODK Centrals
version_added: 0.1.0
description:
  - Lists the drills that were reported in a repository by M(odkops.central.central_drill_report), the newest first.
  - Says for each Central when it was last drilled, in the order in which they are to be drilled.
  - A record that is damaged is left out with a warning.
extends_documentation_fragment:
  - odkops.central._attributes
  - odkops.central._attributes.info_module
  - odkops.central._attributes.actiongroup_central
options:
  repository:
    description:
      - Absolute path of the directory that holds the sets.
    type: path
    required: true
  central:
    description:
      - The name of the Central whose drills are wanted. By default those of all Centrals are listed that have sets or drills.
    type: str
  last:
    description:
      - How many drills of each Central are listed, the newest ones. V(0) is all of them.
      - For what RV(centrals) says, the newest 400 are looked at in any case.
    type: int
    default: 100
author:
  - Contributors to the odkops.central collection (@odkops)
seealso:
  - module: odkops.central.central_drill_report
  - module: odkops.central.central_set_info
"""

EXAMPLES = r"""
- name: See which Central has waited longest for a drill
  odkops.central.central_drill_info:
    repository: /var/backups/odk-central
  register: result

- name: Show it
  ansible.builtin.debug:
    msg: "{{ result.centrals[0].central }}: {{ result.centrals[0].last_drilled | default('never', true) }}"

- name: Fail if the last drill of a Central did not pass
  odkops.central.central_drill_info:
    repository: /var/backups/odk-central
    central: central.example.org
    last: 1
  register: result
  failed_when: result.drills | map(attribute='result') | list != ['passed']
"""

RETURN = r"""
drills:
  description: The drills, the newest first for each Central.
  returned: success
  type: list
  elements: dict
  contains:
    drill_id:
      description: The id of the drill.
      returned: always
      type: str
      sample: 20261123T033012Z-7c41d2
    central:
      description: The name of the Central.
      returned: always
      type: str
      sample: central.example.org
    set_id:
      description: The id of the set. V(null) if the drill broke off before it had one.
      returned: always
      type: str
      sample: 20261123T020000.123Z-0a1b2c3d
    depth:
      description: V(quick) or V(full).
      returned: always
      type: str
      sample: full
    result:
      description: V(passed), V(failed), V(error) or V(skipped).
      returned: always
      type: str
      sample: passed
    started_at:
      description: When it began, in UTC.
      returned: always
      type: str
      sample: '2026-11-23T03:30:12.000Z'
    finished_at:
      description: When it ended, in UTC.
      returned: always
      type: str
      sample: '2026-11-23T03:34:55.000Z'
    elapsed:
      description: How long it took, in seconds.
      returned: always
      type: float
      sample: 283.1
    rpo:
      description: The age of the set when the drill began, in seconds. V(null) if it is not known.
      returned: always
      type: float
      sample: 5412
    rto:
      description: After how many seconds Central answered with all its data. V(null) if it never did.
      returned: always
      type: float
      sample: 220.55
    size:
      description: The size of the set, in bytes. V(null) if it is not known.
      returned: always
      type: int
      sample: 573431808
    failed_checks:
      description: The names of the checks that failed.
      returned: always
      type: list
      elements: str
      sample: []
    diagnosis:
      description: Why the drill broke off. V(null) if it did not.
      returned: always
      type: str
      sample: disk_full
    path:
      description: The file of the record. The page and the JUnit file are beside it, with the same name and V(.html), V(.xml).
      returned: always
      type: str
      sample: /var/backups/odk-central/central.example.org/drills/20261123T033012Z-7c41d2.json
centrals:
  description:
    - The Centrals in the order in which they are to be drilled. First come those that never were, then the one that was drilled
      longest ago.
    - A drill that was skipped does not count. One that failed or broke off does, so that it does not keep others from their turn.
  returned: success
  type: list
  elements: dict
  contains:
    central:
      description: The name of the Central.
      returned: always
      type: str
      sample: central.example.org
    last_drilled:
      description: When its last drill began, in UTC. V(null) if it never was drilled.
      returned: always
      type: str
      sample: '2026-11-23T03:30:12.000Z'
    last_drill_id:
      description: The id of that drill.
      returned: always
      type: str
      sample: 20261123T033012Z-7c41d2
    last_result:
      description: What came out of it.
      returned: always
      type: str
      sample: passed
    last_set_id:
      description: The id of the set that was drilled.
      returned: always
      type: str
      sample: 20261123T020000.123Z-0a1b2c3d
    last_passed:
      description: When the last drill that passed began. V(null) if none has, among those that were looked at.
      returned: always
      type: str
      sample: '2026-11-23T03:30:12.000Z'
    count:
      description: How many drills it has.
      returned: always
      type: int
      sample: 40
    newest_set:
      description: The id of its newest set. V(null) if it has none, so that there is nothing to drill.
      returned: always
      type: str
      sample: 20261123T020000.123Z-0a1b2c3d
diagnosis:
  description:
    - What is wrong, as one of the codes in C(docs/diagnoses.md) of this collection.
    - Among them V(not_a_repository), V(bad_name), V(unreadable).
  returned: failure
  type: str
  sample: not_a_repository
"""

import os
import sys
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.odkops.central.plugins.module_utils._drill_history import (
    LOOK_BACK,
    centrals_of,
    drill_ids,
    drills_path,
    longest_ago_first,
    read_history,
    standing,
    summary,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._module import run
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository


def argument_spec() -> dict[str, dict[str, Any]]:
    """Return the options of the module."""
    return {
        "repository": {"type": "path", "required": True},
        "central": {"type": "str"},
        "last": {"type": "int", "default": 100},
    }


def find(params: dict[str, Any]) -> dict[str, Any]:
    """Do what the options ask for; return the module's result."""
    if params["last"] < 0:
        raise CentralError("bad_option", "The option last is a number of drills, and not negative. 0 is all of them.")
    repository = Repository(params["repository"])
    repository.require()
    centrals = centrals_of(repository) if params["central"] is None else [params["central"]]
    drills: list[dict[str, Any]] = []
    standings: list[dict[str, Any]] = []
    warnings: list[str] = []
    for central in centrals:
        last = params["last"] or sys.maxsize
        # The newest ones may all have been skipped.
        records, unread = read_history(repository, central, most=max(last, LOOK_BACK))
        warnings += unread
        folder = drills_path(repository, central)
        drills += [{**summary(one), "path": os.path.join(folder, f"{one['drill_id']}.json")} for one in records[:last]]
        sets = repository.sets(central)
        standings.append(
            {
                **standing(central, records),
                "count": len(drill_ids(repository, central)),
                "newest_set": sets[0].set_id if sets else None,
            }
        )
    return {"changed": False, "drills": drills, "centrals": longest_ago_first(standings), "warnings": warnings}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run(module, lambda: find(module.params))


if __name__ == "__main__":
    main()
