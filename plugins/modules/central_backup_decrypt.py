#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_backup_decrypt: makes of a backup what pg_restore reads."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_backup_decrypt
short_description: Decrypt a backup of an ODK Central for pg_restore
version_added: 0.1.0
description:
  - Decrypts a backup of an ODK Central into a standard dump of PostgreSQL, which C(pg_restore) reads.
    Use it to look into a backup, or to hand a database to an administrator who does not have this collection.
  - A backup of Central v2026.2 or later becomes one file in pg_dump's custom format.
    A C(*.zip) of an older Central becomes a directory in pg_dump's directory format.
  - The backup is verified while it is decrypted, as M(odkops.central.central_backup_verify) does it. The result gets its
    name only when it is whole, verified, and safe on the disk. On any failure nothing is left.
  - What is written is B(not encrypted). It holds all submissions, attachments, password hashes and log-in tokens of the
    Central. Only its owner can read it (file 0600, directory 0700). Remove it when you no longer need it.
requirements:
  - cryptography
  - "zstandard or lz4, for a backup that is compressed so (Debian and Ubuntu: python3-zstandard, python3-lz4)"
  - "isal (optional: faster)"
extends_documentation_fragment:
  - odkops.central._passphrase
  - odkops.central._attributes
  - odkops.central._attributes.actiongroup_central
attributes:
  check_mode:
    support: full
    details:
      - In check mode the module reads and verifies the whole backup, and checks that O(dest) can be written
        and has room. It writes nothing.
  diff_mode:
    support: none
  idempotent:
    support: none
    details:
      - A second run fails, since O(dest) exists.
options:
  src:
    description:
      - Path of the backup, on the host where the module runs.
      - Either kind is read, C(*.pgdump.enc.bin) of Central v2026.2 and later, and C(*.zip) of older ones.
    type: path
    required: true
  dest:
    description:
      - Path of the file, or for a C(*.zip) of the directory, that is made.
      - It must not exist. Nothing is ever overwritten.
      - The directory above it must exist, with as much room as O(src) takes.
    type: path
    required: true
  expected_sha256:
    description:
      - The SHA-256 that the file O(src) must have, in hexadecimal digits.
    type: str
  known_bad_blobs:
    description:
      - Ids of attachments whose content does not match their SHA-1 in the live database itself.
    type: list
    elements: int
    default: []
author:
  - Contributors to the odkops.central collection (@odkops)
seealso:
  - module: odkops.central.central_backup_verify
  - module: odkops.central.central_backup
  - name: PostgreSQL documentation, pg_restore
    description: The program that reads what this module writes.
    link: https://www.postgresql.org/docs/current/app-pgrestore.html
"""

EXAMPLES = r"""
- name: Make a file for pg_restore
  odkops.central.central_backup_decrypt:
    src: /var/backups/odk-central/central-backup-2026-11-22T23-11-18.733Z.pgdump.enc.bin
    dest: /srv/restore/central.pgdump
    passphrase_file: /etc/odk-central-backup/passphrase
  register: decrypted

- name: Show what is in it
  ansible.builtin.command:
    argv: [pg_restore, --list, "{{ decrypted.dest }}"]
  changed_when: false

- name: Make a directory for pg_restore of a backup of an older Central
  odkops.central.central_backup_decrypt:
    src: /srv/old/backup-2022-05-01T02:00:00Z.zip
    dest: /srv/restore/central-2022.d
    passphrase: "{{ old_passphrase }}"

- name: Read and verify the whole backup, and see whether there is room, but write nothing
  odkops.central.central_backup_decrypt:
    src: /srv/old/backup-2022-05-01T02:00:00Z.zip
    dest: /srv/restore/central-2022.d
    passphrase: "{{ old_passphrase }}"
  check_mode: true
"""

RETURN = r"""
path:
  description:
    - Path of the backup, O(src).
    - The owner, group and mode that Ansible adds to a result are those of this file, not of RV(dest).
  returned: always
  type: str
  sample: /var/backups/odk-central/central-backup-2026-11-22T23-11-18.733Z.pgdump.enc.bin
dest:
  description: Path of what was made. In check mode, what would be made.
  returned: always
  type: str
  sample: /srv/restore/central.pgdump
dump_format:
  description:
    - V(custom) where O(dest) is a file in pg_dump's custom format.
    - V(directory) where it is a directory in pg_dump's directory format.
  returned: success
  type: str
  sample: custom
diagnosis:
  description: V(ok), or the code of what is wrong. All codes are in the collection's documentation of diagnoses.
  returned: always
  type: str
  sample: ok
format:
  description: Format of the backup. V(pgdump.enc), or V(zip) from a Central older than v2026.2.
  returned: success
  type: str
  sample: pgdump.enc
encrypted:
  description: Whether a passphrase is needed to read the backup.
  returned: success
  type: bool
  sample: true
depth:
  description: How thoroughly the backup was verified. Always V(full).
  returned: success
  type: str
  sample: full
archive_version:
  description: Version of the archive's format. An older pg_restore than it needs does not read it.
  returned: success
  type: str
  sample: "1.14"
server_version:
  description: Version of the PostgreSQL server that was dumped.
  returned: success
  type: str
  sample: "14.22"
dump_version:
  description: Version of the pg_dump that made the dump. Use a pg_restore that is not older.
  returned: success
  type: str
  sample: "14.22"
compression:
  description: V(gzip), V(zstd), V(lz4) or V(none). What is written stays compressed so.
  returned: success
  type: str
  sample: gzip
created:
  description: When the dump began, by the clock and in the time zone of the server.
  returned: success
  type: str
  sample: "2026-11-22T23:11:18"
database:
  description: Name of the database that was dumped.
  returned: success
  type: str
  sample: odk
size:
  description: Size of the backup in bytes.
  returned: success
  type: int
  sample: 222177
sha256:
  description: SHA-256 of the backup, in hexadecimal digits.
  returned: success
  type: str
  sample: c2b2e566a27af4a0debcddb43b6d0b54ddb2697551f3e0e18fd17d0fa23000af
tables:
  description: Number of rows by table.
  returned: success
  type: dict
  sample: {"public.forms": 4, "public.submissions": 200}
central:
  description: What the dump says of the Central, as M(odkops.central.central_backup) returns it.
  returned: success
  type: dict
  sample:
    version: v2026.1.0
    migration: 20260810-01-backfill-blob-size.js
    migrations: 214
    blobs: {"pending": 12, "uploaded": 136}
    enketo_ids: 3
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.odkops.central.plugins.module_utils._args import PASSPHRASE_MUTUALLY_EXCLUSIVE
from ansible_collections.odkops.central.plugins.module_utils._decrypt import decrypt, rehearse
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._module import run
from ansible_collections.odkops.central.plugins.module_utils._verify_args import expectation_of, reader_argument_spec


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **reader_argument_spec(),
            "src": {"type": "path", "required": True},
            "dest": {"type": "path", "required": True},
        },
        mutually_exclusive=PASSPHRASE_MUTUALLY_EXCLUSIVE,
        supports_check_mode=True,
    )

    def action() -> dict[str, Any]:
        src, dest = module.params["src"], os.path.abspath(module.params["dest"])
        act = rehearse if module.check_mode else decrypt
        # AnsibleModule adds size, mode and owner of what `path` names, else of `dest`: here they are those of the backup.
        try:
            return {**act(src, dest, expectation_of(module.params)), "changed": True}
        except CentralError as error:
            error.details.setdefault("path", src)
            error.details.setdefault("dest", dest)
            raise

    run(module, action)


if __name__ == "__main__":
    main()
