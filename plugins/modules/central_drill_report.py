#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_drill_report: writes what came out of a drill, for machines and for people."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_drill_report
short_description: Write the report of a disaster-recovery drill of an ODK Central
version_added: 0.1.0
description:
  - Writes three files beside the sets of the Central, into C(<repository>/<central>/drills). They are the record of the drill
    as JSON, the same as JUnit XML, and one HTML page that needs nothing else.
  - The page has the drills before this one in it, from their records.
  - The record is checked first. If it contradicts itself, such as a drill that passed with a check that failed, no report is
    written.
extends_documentation_fragment:
  - odkops.central._attributes
  - odkops.central._attributes.actiongroup_central
attributes:
  check_mode:
    support: full
    details:
      - In check mode the module checks the record, makes the report, and does not write it.
        The paths that it returns are those that the files would have.
  diff_mode:
    support: none
  idempotent:
    support: full
    details:
      - The files are written if their content is to change.
options:
  repository:
    description:
      - Absolute path of the directory that holds the sets. It has to exist.
    type: path
    required: true
  central:
    description:
      - The name of the Central in the repository. The record has to be of it.
    type: str
    required: true
  record:
    description:
      - The record of the drill. Its fields are described in C(docs/drill-report.md) of this collection.
      - It must hold no secret. All of it is written to the files.
      - A record with the id of a drill that was reported before replaces that report.
    type: dict
    required: true
author:
  - Contributors to the odkops.central collection (@odkops)
seealso:
  - module: odkops.central.central_drill_info
  - module: odkops.central.central_set_info
"""

EXAMPLES = r"""
- name: Write the report of a drill
  odkops.central.central_drill_report:
    repository: /var/backups/odk-central
    central: central.example.org
    record: "{{ drill_record }}"
  register: report

- name: Give its summary to AWX and to the plays that follow
  ansible.builtin.set_stats:
    data:
      central_drill: "{{ report.summary }}"
"""

RETURN = r"""
paths:
  description: The files of the report.
  returned: success
  type: dict
  sample:
    json: /var/backups/odk-central/central.example.org/drills/20261123T033012Z-7c41d2.json
    xml: /var/backups/odk-central/central.example.org/drills/20261123T033012Z-7c41d2.xml
    html: /var/backups/odk-central/central.example.org/drills/20261123T033012Z-7c41d2.html
  contains:
    json:
      description: The record.
      returned: always
      type: str
    xml:
      description: The same as JUnit XML.
      returned: always
      type: str
    html:
      description: The same as a page for people, with the drills before.
      returned: always
      type: str
summary:
  description: What came out, small enough for M(ansible.builtin.set_stats).
  returned: success
  type: dict
  sample:
    drill_id: 20261123T033012Z-7c41d2
    central: central.example.org
    result: passed
    rto: 220.55
    rto_text: 3 min 41 s
  contains:
    drill_id:
      description: The id of the drill.
      returned: always
      type: str
    central:
      description: The name of the Central.
      returned: always
      type: str
    set_id:
      description: The id of the set. V(null) if the drill broke off before it had one.
      returned: always
      type: str
    depth:
      description: V(quick) or V(full).
      returned: always
      type: str
    result:
      description:
        - V(passed), V(failed) if a check failed, V(error) if the drill broke off, V(skipped) if there was no time for it.
      returned: always
      type: str
    started_at:
      description: When the drill began, in UTC.
      returned: always
      type: str
    finished_at:
      description: When it ended, in UTC.
      returned: always
      type: str
    elapsed:
      description: How long it took, in seconds.
      returned: always
      type: float
    rpo:
      description: The age of the set when the drill began, in seconds. V(null) if it is not known.
      returned: always
      type: float
    rpo_text:
      description: The same for people.
      returned: always
      type: str
    rto:
      description: After how many seconds Central answered with all its data. V(null) if it never did.
      returned: always
      type: float
    rto_text:
      description: The same for people.
      returned: always
      type: str
    size:
      description: The size of the set, in bytes. V(null) if it is not known.
      returned: always
      type: int
    checks:
      description: How many checks V(passed), V(failed) and were V(skipped).
      returned: always
      type: dict
    failed_checks:
      description: The names of the checks that failed.
      returned: always
      type: list
      elements: str
    diagnosis:
      description: Why the drill broke off. V(null) if it did not.
      returned: always
      type: str
    kept:
      description: The Compose project of the drill, if it was kept. V(null) if it was removed.
      returned: always
      type: str
    report:
      description: The path of the page.
      returned: always
      type: str
history:
  description: The drills of this Central up to now, this one among them.
  returned: success
  type: dict
  contains:
    count:
      description: How many there are.
      returned: always
      type: int
      sample: 40
    last:
      description: The last ten, this one first, with the fields of RV(summary) that are of the drill itself.
      returned: always
      type: list
      elements: dict
diagnosis:
  description:
    - What is wrong, as one of the codes in C(docs/diagnoses.md) of this collection.
    - Among them V(bad_option) if the record is not usable, V(bad_name), V(not_a_repository), V(destination_not_writable),
      V(disk_full).
  returned: failure
  type: str
  sample: bad_option
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.odkops.central.plugins.module_utils._drill_report import write_report
from ansible_collections.odkops.central.plugins.module_utils._module import run
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository


def argument_spec() -> dict[str, dict[str, Any]]:
    """Return the options of the module."""
    return {
        "repository": {"type": "path", "required": True},
        "central": {"type": "str", "required": True},
        "record": {"type": "dict", "required": True},
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    params = module.params
    run(
        module,
        lambda: write_report(Repository(params["repository"]), params["central"], params["record"], module.check_mode),
    )


if __name__ == "__main__":
    main()
