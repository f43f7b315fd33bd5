#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_set_info: lists and describes backup sets."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_set_info
short_description: List and describe the backup sets of ODK Centrals
version_added: 0.1.0
description:
  - Lists the backup sets of a repository, the newest first, and says what each one holds.
  - Reads and checks the manifests, and sees whether each part is there and has its size.
    It does not read the parts; M(odkops.central.central_backup_verify) does.
  - With a passphrase it also checks each manifest's HMAC.
    That costs a tenth of a second or so for each set, since guessing passphrases is to be expensive.
  - Also lists the sets that are being made, or that killed runs have left unfinished.
extends_documentation_fragment:
  - odkops.central._passphrase
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
      - The name of the Central whose sets are wanted. By default those of all Centrals are listed.
    type: str
  set:
    description:
      - The id of one set, or V(latest). Needs O(central).
      - The module then fails if anything is wrong with that set.
        Without this option it describes what is wrong and does not fail.
    type: str
  allow_unauthenticated:
    description:
      - Whether a set without an HMAC passes although a passphrase is given.
      - Such a set was made without a passphrase, or somebody has taken the HMAC away.
    type: bool
    default: false
author:
  - Contributors to the odkops.central collection (@odkops)
seealso:
  - module: odkops.central.central_set
  - module: odkops.central.central_backup_verify
"""

EXAMPLES = r"""
- name: List all backup sets of a repository
  odkops.central.central_set_info:
    repository: /var/backups/odk-central
  register: result

- name: Check the newest set of one Central
  odkops.central.central_set_info:
    repository: /var/backups/odk-central
    central: central.example.org
    set: latest
    passphrase_file: /etc/odk-central-backup/passphrase
  register: result

- name: Show how many submissions it holds
  ansible.builtin.debug:
    msg: "{{ result.sets[0].manifest.database.tables['public.submissions'] }}"
"""

RETURN = r"""
sets:
  description: The sets, the newest first for each Central.
  returned: success
  type: list
  elements: dict
  contains:
    central:
      description: The name of the Central.
      returned: always
      type: str
      sample: central.example.org
    set_id:
      description: The id of the set.
      returned: always
      type: str
      sample: 20261122T020000.123Z-0a1b2c3d
    path:
      description: The directory of the set.
      returned: always
      type: str
      sample: /var/backups/odk-central/central.example.org/sets/20261122T020000.123Z-0a1b2c3d
    diagnosis:
      description:
        - V(ok), or what is wrong with the set as one of the codes in C(docs/diagnoses.md) of this collection.
        - V(ok) says nothing of the content of the parts, which is not read.
      returned: always
      type: str
      sample: ok
    problem:
      description: What is wrong in one or two sentences, and what to do.
      returned: if RV(sets[].diagnosis) is not V(ok)
      type: str
    authenticated:
      description:
        - V(true) if the manifest's HMAC was checked with the passphrase and is right.
        - V(false) if the manifest has no HMAC, or a wrong one.
        - V(null) if it was not checked, because no passphrase was given or the manifest could not be read.
      returned: always
      type: bool
      sample: true
    key_id:
      description: Tells with which passphrase the set was made. V(null) if it was made without one.
      returned: if the manifest could be read
      type: str
      sample: 5d3f0c9a17b2e460
    started:
      description: When the backup began, in UTC. What was entered into the Central before is in the set.
      returned: if the manifest could be read
      type: str
      sample: '2026-11-22T02:00:00.123Z'
    sealed:
      description: When the set was sealed, in UTC.
      returned: if the manifest could be read
      type: str
      sample: '2026-11-22T02:01:02.456Z'
    parts_size:
      description: The size of all parts together, in bytes.
      returned: if the manifest could be read
      type: int
      sample: 573431808
    parts:
      description: The parts by name, each with the V(path) of its file in addition to what the manifest says.
      returned: if the manifest could be read
      type: dict
      sample: {}
    absent:
      description: For each part that the set does not have, the reason.
      returned: if the manifest could be read
      type: dict
      sample: {"enketo": "Not backed up."}
    manifest:
      description: The whole manifest. Its fields are described in C(docs/backup-sets.md) of this collection.
      returned: if O(set) is given
      type: dict
      sample: {"type": "odk-central-backup-set", "schema": 1}
partials:
  description: The sets that are being made, or that killed runs have left unfinished.
  returned: success
  type: list
  elements: dict
  contains:
    central:
      description: The name of the Central.
      returned: always
      type: str
    set_id:
      description: The id that the set would have.
      returned: always
      type: str
    path:
      description: Its directory.
      returned: always
      type: str
    age:
      description: For how many seconds nothing in it has changed.
      returned: always
      type: int
set_path:
  description: The directory of the set in which something is wrong.
  returned: failure, if O(set) is given and there is such a set
  type: str
diagnosis:
  description:
    - What is wrong, as one of the codes in C(docs/diagnoses.md) of this collection.
    - Among them V(not_a_repository), V(set_not_found), V(not_a_set), V(manifest_too_new), V(tampered),
      V(unauthenticated), V(wrong_passphrase), V(missing_part), V(corrupt).
  returned: failure
  type: str
  sample: tampered
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.odkops.central.plugins.module_utils._args import (
    PASSPHRASE_MUTUALLY_EXCLUSIVE,
    passphrase_argument_spec,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._module import run
from ansible_collections.odkops.central.plugins.module_utils._passphrase import read_passphrase
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository, SetEntry
from ansible_collections.odkops.central.plugins.module_utils._seal import inspect_set


def argument_spec() -> dict[str, dict[str, Any]]:
    """Return the options of the module."""
    return {
        "repository": {"type": "path", "required": True},
        "central": {"type": "str"},
        "set": {"type": "str"},
        "allow_unauthenticated": {"type": "bool", "default": False},
        **passphrase_argument_spec(),
    }


def describe(entry: SetEntry, passphrase: str | None, allow_unauthenticated: bool) -> dict[str, Any]:
    """Describe a set, manifest included.

    :raises CentralError: where something is wrong with it
    """
    try:
        found = inspect_set(entry, passphrase, allow_unauthenticated)
    except CentralError as error:
        error.details.setdefault("set_path", entry.path)
        raise
    manifest = found["manifest"]
    return {
        **entry._asdict(),
        "diagnosis": "ok",
        "authenticated": found["authenticated"],
        "key_id": manifest["authentication"]["key_id"] if manifest["authenticated"] else None,
        "started": manifest["started"],
        "sealed": manifest["sealed"],
        "parts_size": sum(part["size"] for part in manifest["parts"].values()),
        "parts": {
            name: {**part, "path": os.path.join(entry.path, part["file"])} for name, part in manifest["parts"].items()
        },
        "absent": manifest["absent"],
        "manifest": manifest,
    }


def describe_any(entry: SetEntry, passphrase: str | None, allow_unauthenticated: bool) -> dict[str, Any]:
    """Describe a set, or what is wrong with it, without the manifest."""
    try:
        description = describe(entry, passphrase, allow_unauthenticated)
    except CentralError as error:
        untrusted = error.diagnosis in ("tampered", "unauthenticated")
        return {
            **entry._asdict(),
            "diagnosis": error.diagnosis,
            "problem": error.message,
            "authenticated": False if untrusted else None,
        }
    del description["manifest"]
    return description


def find(params: dict[str, Any]) -> dict[str, Any]:
    """Do what the options ask for; return the module's result."""
    passphrase = read_passphrase(params["passphrase"], params["passphrase_file"])
    allow = params["allow_unauthenticated"]
    repository = Repository(params["repository"])
    repository.require()
    centrals = repository.centrals() if params["central"] is None else [params["central"]]
    if params["set"] is not None:
        sets = [describe(repository.find(params["central"], params["set"]), passphrase, allow)]
    else:
        sets = [describe_any(entry, passphrase, allow) for central in centrals for entry in repository.sets(central)]
    return {
        "changed": False,
        "sets": sets,
        "partials": [
            {
                "central": partial.central,
                "set_id": partial.set_id,
                "path": partial.path,
                "age": int(partial.age.total_seconds()),
            }
            for central in centrals
            for partial in repository.partials(central)
        ],
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=argument_spec(),
        mutually_exclusive=PASSPHRASE_MUTUALLY_EXCLUSIVE,
        required_by={"set": ("central",)},
        supports_check_mode=True,
    )
    run(module, lambda: find(module.params))


if __name__ == "__main__":
    main()
