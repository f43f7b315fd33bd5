#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_set_export: writes one directory with a set and its objects, for handing on."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_set_export
short_description: Export a backup set of an ODK Central with all that belongs to it
version_added: 0.1.0
description:
  - Writes one directory with a backup set, byte for byte, and the objects of the pool that its list of objects names.
    The directory needs nothing else but the passphrase, which is not in it.
  - The directory is itself a repository with one set, so that all modules of this collection work on it.
  - C(README.txt) in it says how to open each part with openssl, tar and rclone.
    C(SHA256SUMS) has the digest of every other file.
  - The manifest is checked with the passphrase first. Each part is compared with the manifest while it is copied, and
    read back. Each object is copied encrypted, as it is; the copy is then read through the decryption, and its SHA-1 must
    be the one in its name.
  - The directory gets its name when all of it is written, checked and safe on the disk. On any failure nothing is left.
    What a killed run has left is hidden, is not a set, and is removed by the next run with the same O(dest).
requirements:
  - "rclone 1.60 or later and cryptography, for a set with objects in an encrypted pool"
extends_documentation_fragment:
  - odkops.central._passphrase
  - odkops.central._attributes
  - odkops.central._attributes.actiongroup_central
attributes:
  check_mode:
    support: full
    details:
      - In check mode the module checks the manifest and the digest of each part, sees by their files whether all objects
        are there with their sizes, and whether O(dest) can be made and has room. It does not read the objects.
  diff_mode:
    support: none
  idempotent:
    support: none
    details:
      - A second run fails, since O(dest) exists.
options:
  repository:
    description:
      - Absolute path of the directory that holds the sets and the pools.
    type: path
    required: true
  central:
    description:
      - The name of the Central in the repository.
    type: str
    required: true
  set:
    description:
      - The id of the set, or V(latest).
    type: str
    default: latest
  dest:
    description:
      - Path of the directory that is made.
      - It must not exist. Nothing is ever overwritten.
      - The directory above it must exist, outside O(repository), on a file system that knows owners and permissions.
    type: path
    required: true
  allow_unauthenticated:
    description:
      - Whether a set without an HMAC is exported although a passphrase is given.
      - Such a set was made without a passphrase, or somebody has taken the HMAC away.
    type: bool
    default: false
  rclone_path:
    description:
      - Path of rclone.
      - By default it is looked for beside the Python that runs the module, and in the PATH.
    type: path
notes:
  - A set that was made with a passphrase is exported with that passphrase only, since it cannot be checked without.
  - The pool is not locked. Backups may run meanwhile.
author:
  - Contributors to the odkops.central collection (@odkops)
seealso:
  - module: odkops.central.central_set_info
  - module: odkops.central.central_backup_verify
"""

EXAMPLES = r"""
- name: Export the newest set of a Central
  odkops.central.central_set_export:
    repository: /var/backups/odk-central
    central: central.example.org
    dest: /mnt/disk/central-2026-11-22
    passphrase_file: /etc/odk-central-backup/passphrase
  register: exported

- name: See how much room it needs, and whether all objects are there
  odkops.central.central_set_export:
    repository: /var/backups/odk-central
    central: central.example.org
    dest: /mnt/disk/central-2026-11-22
    passphrase_file: /etc/odk-central-backup/passphrase
  check_mode: true

- name: Check what was exported, as any repository
  odkops.central.central_set_info:
    repository: "{{ exported.path }}"
    central: central.example.org
    set: "{{ exported.set_id }}"
    passphrase_file: /etc/odk-central-backup/passphrase
"""

RETURN = r"""
diagnosis:
  description:
    - V(ok), or what is wrong as one of the codes in C(docs/diagnoses.md) of this collection.
    - Among them V(destination_exists), V(disk_full), V(set_not_found), V(tampered), V(wrong_passphrase), V(unauthenticated),
      V(missing_part), V(missing_blob), V(corrupt), V(missing_rclone).
  returned: always
  type: str
  sample: ok
path:
  description: The directory that was made, or would be made.
  returned: success
  type: str
  sample: /mnt/disk/central-2026-11-22
set_id:
  description: The id of the set.
  returned: success
  type: str
  sample: 20261122T020000.123Z-0a1b2c3d
authenticated:
  description:
    - V(true) if the manifest's HMAC was checked with the passphrase and is right, V(false) if the set has none.
  returned: success
  type: bool
  sample: true
files:
  description: How many files the directory has, all included.
  returned: success
  type: int
  sample: 20009
objects:
  description: How many objects were exported.
  returned: success
  type: int
  sample: 20000
objects_absent:
  description:
    - How many objects the list of the set marks as purged from the Central before they were backed up, or as lost.
  returned: success
  type: int
  sample: 0
total_size:
  description: The size of all files together, in bytes.
  returned: success, not in check mode
  type: int
  sample: 983449600
needed:
  description: How many bytes it takes on the disk at most, as far as files tell.
  returned: success in check mode, or if there is too little room
  type: int
  sample: 1024458752
free:
  description: How many bytes are free where O(dest) is.
  returned: as RV(needed)
  type: int
  sample: 80451227648
missing:
  description: How many objects are missing in the pool.
  returned: failure, if objects are missing or damaged
  type: int
  sample: 1
missing_objects:
  description: Names of the first 20 of them.
  returned: failure, if objects are missing or damaged
  type: list
  elements: str
  sample: [blob-7-9e7c24020c89ba7df8fd52688b91ea110c294314]
wrong:
  description: How many objects of the pool are damaged.
  returned: failure, if objects are missing or damaged
  type: int
  sample: 0
wrong_objects:
  description: Names of the first 20 of them.
  returned: failure, if objects are missing or damaged
  type: list
  elements: str
  sample: []
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.odkops.central.plugins.module_utils._args import (
    PASSPHRASE_MUTUALLY_EXCLUSIVE,
    passphrase_argument_spec,
)
from ansible_collections.odkops.central.plugins.module_utils._module import run
from ansible_collections.odkops.central.plugins.module_utils._passphrase import read_passphrase
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository
from ansible_collections.odkops.central.plugins.module_utils._set_export import export_set, rehearse
from ansible_collections.odkops.central.plugins.module_utils._set_export_look import SetExport


def argument_spec() -> dict[str, dict[str, Any]]:
    """Return the options of the module."""
    return {
        "repository": {"type": "path", "required": True},
        "central": {"type": "str", "required": True},
        "set": {"type": "str", "default": "latest"},
        "dest": {"type": "path", "required": True},
        "allow_unauthenticated": {"type": "bool", "default": False},
        "rclone_path": {"type": "path"},
        **passphrase_argument_spec(),
    }


def export(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Do what the options ask for; return the module's result."""
    task = SetExport(
        repository=Repository(params["repository"]),
        central=params["central"],
        wanted=params["set"],
        dest=os.path.abspath(params["dest"]),
        passphrase=read_passphrase(params["passphrase"], params["passphrase_file"]),
        allow_unauthenticated=params["allow_unauthenticated"],
        rclone_path=params["rclone_path"],
    )
    done = rehearse(task) if check_mode else export_set(task)
    return {**done, "changed": True, "diagnosis": "ok"}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=argument_spec(),
        mutually_exclusive=PASSPHRASE_MUTUALLY_EXCLUSIVE,
        supports_check_mode=True,
    )
    run(module, lambda: export(module.params, module.check_mode))


if __name__ == "__main__":
    main()
