#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_set: opens, seals and discards backup sets."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_set
short_description: Open, seal or discard a backup set of an ODK Central
version_added: 0.1.0
description:
  - A backup set is a directory that holds one backup of one Central, in parts, and a manifest that says what is in it.
  - With O(state=open) this module makes the directory for a new set. Other modules then put the parts into it.
  - With O(state=sealed) it reads each part back from the disk, compares it with its SHA-256, writes the manifest and
    gives the directory its final name. Until then there is no set.
  - With O(state=discarded) it removes what was made of a set that was not sealed.
  - The manifest is authenticated with an HMAC whose key comes from the passphrase, so that nobody can change a set,
    or pass an old one off as new, without the passphrase.
extends_documentation_fragment:
  - odkops.central._passphrase
  - odkops.central._attributes
  - odkops.central._attributes.actiongroup_central
attributes:
  check_mode:
    support: full
    details:
      - With O(state=open), RV(set_id) and RV(path) are examples, since another run gets another id.
      - With O(state=sealed), the parts are read and checked; their directory must exist.
  diff_mode:
    support: none
  idempotent:
    support: partial
    details:
      - O(state=open) always makes a new directory with a new id, and so is never idempotent.
      - O(state=sealed) changes nothing if the set is sealed already and has the same parts.
      - O(state=discarded) changes nothing if there is nothing to discard.
options:
  state:
    description:
      - What becomes of the set.
      - V(open) makes the directory for a new set. It also removes what killed runs have left, see O(stale_after).
      - V(sealed) makes a set of it. On any failure the directory stays unsealed, to be discarded.
      - V(discarded) removes a set that was not sealed, and the directories that are empty without it.
        A sealed set is never removed.
    type: str
    choices: [open, sealed, discarded]
    required: true
  repository:
    description:
      - Absolute path of the directory that holds the sets of any number of Centrals.
    type: path
    required: true
  central:
    description:
      - The name of the Central in the repository.
      - 1 to 128 ASCII letters, digits, dots, underscores and hyphens, with no dot at the start.
    type: str
    required: true
  set_id:
    description:
      - The id of the set, as O(state=open) has returned it.
      - Needed with O(state=sealed) and O(state=discarded).
    type: str
  create_repository:
    description:
      - Whether O(state=open) makes the directory O(repository) if it does not exist.
      - With V(false) it fails instead. This is what you want if O(repository) is on a disk of its own
        that might not be mounted.
    type: bool
    default: true
  stale_after:
    description:
      - After how many hours without any change an unsealed set counts as left by a run that was killed.
      - O(state=open) removes such sets of the same Central.
    type: int
    default: 24
  parts:
    description:
      - The parts of the set by name, needed with O(state=sealed).
      - The names are V(database), V(enketo), V(config) and V(blobs).
      - Each part is a dictionary with V(format); V(size) in bytes; V(sha256) in hexadecimal digits. It may have further
        facts of text, whole numbers and booleans, which are kept in the manifest.
      - The format is V(pgdump.enc), V(pgdump) or V(zip) for the database, V(tar.enc) for Enketo and the configuration,
        and V(jsonl) for the blobs. It decides about the name of the file, such as V(database.pgdump.enc.bin).
      - If the file has another name in the directory of the set, V(file) says which. It is renamed.
    type: dict
    default: {}
  absent:
    description:
      - For each part that the set does not have, a sentence that says why. No part is absent silently.
    type: dict
    default: {}
  identity:
    description:
      - What is known of the Central that was backed up, such as its URL and domain. No secrets.
    type: dict
    default: {}
  database:
    description:
      - What the database held, as M(odkops.central.central_backup) has returned it.
    type: dict
    default: {}
  tools:
    description:
      - Versions of tools that made the backup and that this module does not know, such as V(ansible_core).
    type: dict
    default: {}
  notes:
    description:
      - Sentences for whoever reads the manifest, such as warnings of the backup.
    type: list
    elements: str
    default: []
  pool_lease:
    description:
      - Whether the run must still have the lease on the pool that M(odkops.central.central_blob_backup) has taken for it.
        With V(true), O(state=sealed) fails with the diagnosis V(lease_lost) if it has not, since objects that the set needs
        may have been removed meanwhile.
      - A lease that there is, is kept until the set is sealed in any case, and returned then, or with O(state=discarded).
    type: bool
    default: false
author:
  - Contributors to the odkops.central collection (@odkops)
seealso:
  - module: odkops.central.central_set_info
  - module: odkops.central.central_backup
"""

EXAMPLES = r"""
- name: Open a set
  odkops.central.central_set:
    state: open
    repository: /var/backups/odk-central
    central: central.example.org
  register: opened

- name: Back up the database into it
  odkops.central.central_backup:
    url: https://central.example.org
    email: backup@example.org
    password: "{{ central_password }}"
    passphrase_file: /etc/odk-central-backup/passphrase
    dest: "{{ opened.path }}/database.pgdump.enc.bin"
  register: database

- name: Seal the set
  odkops.central.central_set:
    state: sealed
    repository: /var/backups/odk-central
    central: central.example.org
    set_id: "{{ opened.set_id }}"
    parts:
      database:
        format: "{{ database.format }}"
        size: "{{ database.size }}"
        sha256: "{{ database.sha256 }}"
        method: api
    absent:
      enketo: Not backed up.
      config: Not backed up.
      blobs: This Central keeps its attachments in the database.
    identity:
      url: https://central.example.org
    database:
      tables: "{{ database.tables }}"
      central: "{{ database.central }}"
    passphrase_file: /etc/odk-central-backup/passphrase

- name: Discard the set if something has failed
  odkops.central.central_set:
    state: discarded
    repository: /var/backups/odk-central
    central: central.example.org
    set_id: "{{ opened.set_id }}"
"""

RETURN = r"""
set_id:
  description: The id of the set. It begins with the moment when it was opened, in UTC.
  returned: success
  type: str
  sample: 20261122T020000.123Z-0a1b2c3d
central:
  description: The name of the Central in the repository.
  returned: success
  type: str
  sample: central.example.org
path:
  description: The directory of the set, whose name changes when the set is sealed.
  returned: O(state=open) or O(state=sealed)
  type: str
  sample: /var/backups/odk-central/central.example.org/sets/.20261122T020000.123Z-0a1b2c3d.partial
previous_sizes:
  description: The sizes in bytes of the parts of the newest set there is. Empty if there is none. Not authenticated.
  returned: O(state=open)
  type: dict
  sample: {"database": 573431808}
removed_partials:
  description: The ids of unsealed sets that killed runs had left and that were removed.
  returned: O(state=open)
  type: list
  elements: str
  sample: []
notes:
  description: Sentences about the repository that its administrator should know.
  returned: O(state=open)
  type: list
  elements: str
  sample: []
authenticated:
  description: Whether the manifest has an HMAC. It has none if no passphrase was given.
  returned: O(state=sealed)
  type: bool
  sample: true
seconds:
  description: How long it took from opening the set to sealing it, in whole seconds.
  returned: O(state=sealed)
  type: int
  sample: 62
parts_size:
  description: The size of all parts together, in bytes.
  returned: O(state=sealed)
  type: int
  sample: 573431808
manifest:
  description: The manifest. Its fields are described in C(docs/backup-sets.md) of this collection.
  returned: O(state=sealed)
  type: dict
  sample: {"type": "odk-central-backup-set", "schema": 1}
diagnosis:
  description:
    - What is wrong, as one of the codes in C(docs/diagnoses.md) of this collection.
    - Among them V(disk_full), V(destination_not_writable), V(not_a_repository), V(bad_name), V(not_a_set),
      V(set_sealed), V(missing_part), V(corrupt), V(unexpected_file), V(bad_manifest).
  returned: failure
  type: str
  sample: disk_full
"""

from contextlib import nullcontext
from datetime import timedelta
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.odkops.central.plugins.module_utils._args import (
    PASSPHRASE_MUTUALLY_EXCLUSIVE,
    passphrase_argument_spec,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._module import run
from ansible_collections.odkops.central.plugins.module_utils._passphrase import read_passphrase
from ansible_collections.odkops.central.plugins.module_utils._pool_lease import PoolLeases
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository
from ansible_collections.odkops.central.plugins.module_utils._seal import SetFacts, seal_set, sizes_of_newest
from ansible_collections.odkops.central.plugins.module_utils._set_lease import sealing
from ansible_collections.odkops.central.plugins.module_utils._set_names import utc_from_text


def argument_spec() -> dict[str, dict[str, Any]]:
    """Return the options of the module."""
    return {
        "state": {"type": "str", "choices": ["open", "sealed", "discarded"], "required": True},
        "repository": {"type": "path", "required": True},
        "central": {"type": "str", "required": True},
        "set_id": {"type": "str"},
        "create_repository": {"type": "bool", "default": True},
        "stale_after": {"type": "int", "default": 24},
        "parts": {"type": "dict", "default": {}},
        "absent": {"type": "dict", "default": {}},
        "identity": {"type": "dict", "default": {}},
        "database": {"type": "dict", "default": {}},
        "tools": {"type": "dict", "default": {}},
        "notes": {"type": "list", "elements": "str", "default": []},
        "pool_lease": {"type": "bool", "default": False},
        **passphrase_argument_spec(),
    }


def open_set(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Open a set; return the module's result."""
    repository = Repository(params["repository"])
    opened = repository.open_set(
        params["central"],
        create=params["create_repository"],
        stale_after=timedelta(hours=params["stale_after"]),
        check_mode=check_mode,
    )
    return {
        "changed": True,
        "set_id": opened.set_id,
        "path": opened.path,
        "previous_sizes": sizes_of_newest(repository, params["central"]),
        "removed_partials": opened.removed_partials,
        "notes": opened.notes,
    }


def seal(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Seal a set; return the module's result."""
    parts = params["parts"]
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise CentralError("bad_manifest", f"The part {name} must be a dictionary.")
    repository = Repository(params["repository"])
    passphrase = read_passphrase(params["passphrase"], params["passphrase_file"])
    where = repository, params["central"], params["set_id"]
    with nullcontext(lambda: None) if check_mode else sealing(*where, params["pool_lease"]) as ready:
        sealed = seal_set(
            *where,
            parts,
            SetFacts(*(params[name] for name in ("absent", "identity", "database", "tools", "notes"))),
            passphrase,
            check_mode=check_mode,
            ready=ready,
        )
    started, ended = (utc_from_text(sealed.manifest[name]) for name in ("started", "sealed"))
    return {
        "changed": sealed.changed,
        "set_id": params["set_id"],
        "path": sealed.path,
        "authenticated": sealed.manifest["authenticated"],
        "seconds": round((ended - started).total_seconds()) if started and ended else 0,
        # Not "size": where a result has a path, Ansible puts the size of that file or directory there.
        "parts_size": sum(part["size"] for part in sealed.manifest["parts"].values()),
        "manifest": sealed.manifest,
    }


def discard(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Discard a set; return the module's result."""
    repository = Repository(params["repository"])
    changed = repository.discard(params["central"], params["set_id"], check_mode=check_mode)
    if not check_mode:
        changed |= PoolLeases(repository, params["central"]).release(params["set_id"])
    return {"changed": changed, "set_id": params["set_id"]}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=argument_spec(),
        mutually_exclusive=PASSPHRASE_MUTUALLY_EXCLUSIVE,
        required_if=[("state", "sealed", ("set_id", "parts")), ("state", "discarded", ("set_id",))],
        supports_check_mode=True,
    )
    action = {"open": open_set, "sealed": seal, "discarded": discard}[module.params["state"]]
    run(module, lambda: {"central": module.params["central"], **action(module.params, module.check_mode)})


if __name__ == "__main__":
    main()
