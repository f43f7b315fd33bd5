#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_drill_check: checks the Central that a disaster-recovery drill has restored."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_drill_check
short_description: Check the restored ODK Central of a disaster-recovery drill, and end the drill's record
version_added: 0.1.0
description:
  - Checks the Central that M(odkops.central.central_drill_stack) has brought up and M(odkops.central.central_restore) has
    restored into. What is checked is in the collection's documentation, C(docs/drill.md).
  - That a check has failed is no failure of the module. The record says so, in C(result) and in C(checks).
  - With O(error) it checks nothing, and ends the record of a drill that broke off. Without O(record), of one that broke off
    before it had any.
  - It makes an account in the drill's own database to log in with.
extends_documentation_fragment:
  - odkops.central._channel
  - odkops.central._passphrase
  - odkops.central._attributes
  - odkops.central._attributes.actiongroup_central
attributes:
  check_mode:
    support: none
    details:
      - In check mode there is no restored Central to be checked.
  diff_mode:
    support: none
  idempotent:
    support: none
options:
  directory:
    description:
      - The drill's directory, as M(odkops.central.central_drill_stack) has returned it.
    type: path
  lease:
    description:
      - The id of the run that has the lease on that directory, likewise.
    type: str
  set:
    description:
      - Path of the directory of the set that was restored. Required unless O(error) is given.
    type: path
  record:
    description:
      - The beginning of the record, as M(odkops.central.central_drill_stack) has returned it. Required unless O(error) is given.
    type: dict
  central:
    description:
      - Name of the Central in the repository. Required without O(record).
    type: str
  depth:
    description:
      - How deep the drill was going to be, for a record that is made here.
    type: str
    choices: [quick, full]
    default: quick
  started_at:
    description:
      - When the drill began, in UTC, for a record that is made here, such as V(2026-11-23T03:30:12Z). By default it began now.
    type: str
  restored:
    description:
      - What M(odkops.central.central_restore) has returned. With O(error), for the time that it took.
    type: dict
    default: {}
  error:
    description:
      - Why the drill broke off, C(diagnosis) and C(message).
    type: dict
  sample:
    description:
      - How many attachments a quick drill downloads. A full one downloads all of them.
    type: int
    default: 20
  objects_elsewhere:
    description:
      - The objects of S3 are kept elsewhere by other means, so that a set without them is no fault.
    type: bool
    default: false
  rclone_path:
    description:
      - Path of rclone, for objects of S3. By default it is looked for beside the Python of the module, then in C(PATH).
    type: path
  allow_unauthenticated:
    description:
      - Accept a set whose manifest has no HMAC although a passphrase is given.
    type: bool
    default: false
author:
  - Contributors to the odkops.central collection (@odkops)
seealso:
  - module: odkops.central.central_drill_stack
  - module: odkops.central.central_drill_report
"""

EXAMPLES = r"""
- name: Check what was restored
  odkops.central.central_drill_check:
    project_directory: /root/central
    directory: "{{ drill.directory }}"
    lease: "{{ drill.lease }}"
    set: "{{ drill.record.set.path }}"
    passphrase_file: /etc/odk-central-backup/passphrase
    record: "{{ drill.record }}"
    restored: "{{ restored }}"
  register: checked
"""

RETURN = r"""
record:
  description:
    - The record of the drill, whole. C(docs/drill-report.md) of this collection describes it.
    - If the checks could not be made, the record says so.
  returned: always, unless the options are wrong
  type: dict
  sample: {"drill_id": "20261123T033012Z-7c41d2", "result": "passed", "rto": 41.2}
diagnosis:
  description: V(ok), or the code of what is wrong. All codes are in the collection's documentation of diagnoses.
  returned: always
  type: str
  sample: ok
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.odkops.central.plugins.module_utils._args import (
    PASSPHRASE_MUTUALLY_EXCLUSIVE,
    passphrase_argument_spec,
)
from ansible_collections.odkops.central.plugins.module_utils._channel_args import project_argument_spec, project_of
from ansible_collections.odkops.central.plugins.module_utils._diagnoses import OK
from ansible_collections.odkops.central.plugins.module_utils._drill_progress import (
    begin,
    break_off,
    require_begun,
)
from ansible_collections.odkops.central.plugins.module_utils._drill_record import DEPTHS, QUICK
from ansible_collections.odkops.central.plugins.module_utils._drill_run import CheckRequest, DrillSet, check_under_lease
from ansible_collections.odkops.central.plugins.module_utils._module import run
from ansible_collections.odkops.central.plugins.module_utils._passphrase import read_passphrase


def _check(params: dict[str, Any]) -> dict[str, Any]:
    error = params["error"]
    if error is not None:
        record = (params["record"] and require_begun(params["record"])) or begin(
            params["central"], params["depth"], params["set"], params["started_at"]
        )
        diagnosis, message = str(error.get("diagnosis") or "failed"), str(error.get("message") or "It failed.")
        return break_off(record, diagnosis, message, params["restored"])
    request = CheckRequest(
        drilled=DrillSet(
            params["set"],
            read_passphrase(params["passphrase"], params["passphrase_file"]),
            params["allow_unauthenticated"],
        ),
        checkout=project_of(params),
        directory=params["directory"],
        record=params["record"],
        restored=params["restored"],
        sample=params["sample"],
        objects_elsewhere=params["objects_elsewhere"],
        rclone_path=params["rclone_path"],
    )
    return check_under_lease(request, params["lease"])


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **project_argument_spec(),
            **passphrase_argument_spec(),
            "directory": {"type": "path"},
            "lease": {"type": "str"},
            "set": {"type": "path"},
            "record": {"type": "dict"},
            "central": {"type": "str"},
            "depth": {"type": "str", "choices": list(DEPTHS), "default": QUICK},
            "started_at": {"type": "str"},
            "restored": {"type": "dict", "default": {}},
            "error": {"type": "dict"},
            "sample": {"type": "int", "default": 20},
            "objects_elsewhere": {"type": "bool", "default": False},
            "rclone_path": {"type": "path"},
            "allow_unauthenticated": {"type": "bool", "default": False},
        },
        mutually_exclusive=PASSPHRASE_MUTUALLY_EXCLUSIVE,
        supports_check_mode=False,
    )
    params = module.params
    if params["error"] is None:
        needed = ["project_directory", "directory", "lease", "set", "record"]
    else:
        needed = [] if params["record"] else ["central"]
    missing = [name for name in needed if not params[name]]
    if missing:
        what = f"Give {', '.join(missing)}{', or error' if params['error'] is None else ', or record'}."
        module.fail_json(msg=what, diagnosis="bad_option", changed=False)

    def action() -> dict[str, Any]:
        return {"changed": False, "record": _check(params), "diagnosis": OK}

    run(module, action)


if __name__ == "__main__":
    main()
