#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_backup_verify: says whether a backup is whole, and what it holds."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_backup_verify
short_description: Say whether a backup of an ODK Central is whole, and what it holds
version_added: 0.1.0
description:
  - Reads a backup of an ODK Central from its first byte to its last. It is decrypted, every table is decompressed,
    its rows are counted, and each attachment in it is checked by its SHA-1.
  - No PostgreSQL client is needed, and nothing is written.
  - Where anything is wrong the module fails. RV(diagnosis) has a code, and the message says what to do.
  - The format of Central's backups has no checksum of its own. Only O(expected_sha256), kept elsewhere
    since the backup was made, finds every change.
requirements:
  - cryptography
  - "zstandard or lz4, for a backup that is compressed so (Debian and Ubuntu: python3-zstandard, python3-lz4)"
  - "isal (optional: faster)"
extends_documentation_fragment:
  - odkops.central._passphrase
  - odkops.central._attributes
  - odkops.central._attributes.info_module
  - odkops.central._attributes.actiongroup_central
options:
  path:
    description:
      - Path of the backup, on the host where the module runs.
      - Either kind is read, C(*.pgdump.enc.bin) of Central v2026.2 and later, and C(*.zip) of older ones.
    type: path
    required: true
  depth:
    description:
      - V(passphrase) looks only whether the passphrase opens the backup, and reads its first bytes.
      - V(full) reads all of it.
      - V(pg_restore) does the same, and has PostgreSQL's own C(pg_restore) read it also, as the ODK documentation recommends.
        For C(*.pgdump.enc.bin) only.
    type: str
    choices: [passphrase, full, pg_restore]
    default: full
  pg_restore:
    description:
      - The command that runs C(pg_restore), for O(depth=pg_restore), as a list. The archive is given to its standard input.
      - It must not be older than the C(pg_dump) that made the backup, whose version is RV(dump_version).
    type: list
    elements: str
    default: [pg_restore]
  expected_sha256:
    description:
      - The SHA-256 that the file must have, in hexadecimal digits.
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
  - module: odkops.central.central_backup
"""

EXAMPLES = r"""
- name: Verify a backup
  odkops.central.central_backup_verify:
    path: /var/backups/odk-central/central-backup-2026-11-22T23-11-18.733Z.pgdump.enc.bin
    passphrase_file: /etc/odk-central-backup/passphrase
  register: verified

- name: Say what is in it
  ansible.builtin.debug:
    msg: "Central {{ verified.central.version }} with {{ verified.tables['public.submissions'] }} submissions"

- name: Ask the pg_restore of the Central itself as well
  odkops.central.central_backup_verify:
    path: /var/backups/odk-central/central-backup-2026-11-22T23-11-18.733Z.pgdump.enc.bin
    passphrase_file: /etc/odk-central-backup/passphrase
    depth: pg_restore
    pg_restore: [docker, exec, -i, central-service-1, pg_restore]

- name: See in a moment whether a passphrase is the right one
  odkops.central.central_backup_verify:
    path: /srv/old/backup-2022-05-01T02:00:00Z.zip
    passphrase: "{{ old_passphrase }}"
    depth: passphrase
"""

RETURN = r"""
path:
  description: Path of the backup.
  returned: always
  type: str
  sample: /var/backups/odk-central/central-backup-2026-11-22T23-11-18.733Z.pgdump.enc.bin
diagnosis:
  description: V(ok), or the code of what is wrong. All codes are in the collection's documentation of diagnoses.
  returned: always
  type: str
  sample: ok
format:
  description: V(pgdump.enc), or V(zip) from a Central older than v2026.2.
  returned: success
  type: str
  sample: pgdump.enc
encrypted:
  description: Whether a passphrase is needed to read the backup.
  returned: success
  type: bool
  sample: true
depth:
  description: How thoroughly the backup was verified.
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
  description: Version of the pg_dump that made the dump.
  returned: success
  type: str
  sample: "14.22"
compression:
  description: V(gzip), V(zstd), V(lz4) or V(none).
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
pg_restore_version:
  description: Version of the C(pg_restore) that was asked.
  returned: success, with O(depth=pg_restore)
  type: str
  sample: "14.22"
size:
  description: Size of the file in bytes.
  returned: success, unless O(depth=passphrase)
  type: int
  sample: 222177
sha256:
  description: SHA-256 of the file, in hexadecimal digits.
  returned: success, unless O(depth=passphrase)
  type: str
  sample: c2b2e566a27af4a0debcddb43b6d0b54ddb2697551f3e0e18fd17d0fa23000af
tables:
  description: Number of rows by table.
  returned: success, unless O(depth=passphrase)
  type: dict
  sample: {"public.forms": 4, "public.submissions": 200}
central:
  description: What the dump says of the Central, as M(odkops.central.central_backup) returns it.
  returned: success, unless O(depth=passphrase)
  type: dict
  sample:
    version: v2026.1.0
    migration: 20260810-01-backfill-blob-size.js
    migrations: 214
    blobs: {"pending": 12, "uploaded": 136}
    enketo_ids: 3
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.odkops.central.plugins.module_utils._args import PASSPHRASE_MUTUALLY_EXCLUSIVE
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._module import run
from ansible_collections.odkops.central.plugins.module_utils._pg_restore import PgRestore
from ansible_collections.odkops.central.plugins.module_utils._verify import DEPTHS, verify_file
from ansible_collections.odkops.central.plugins.module_utils._verify_args import expectation_of, reader_argument_spec


def _verify(params: dict[str, Any]) -> dict[str, Any]:
    expected = expectation_of(params)
    if params["depth"] != "pg_restore":
        return verify_file(params["path"], expected).as_dict()
    if not params["pg_restore"]:
        raise CentralError("bad_option", "pg_restore is an empty list. Give the command, for example [pg_restore].")
    with PgRestore(params["pg_restore"]) as second:
        found = verify_file(params["path"], expected, plain=second.feed).as_dict()
        said = second.finish()
    warnings = [f"pg_restore {second.version} accepts the archive, and says: {said}"] if said else []
    return {**found, "pg_restore_version": second.version, "warnings": warnings}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **reader_argument_spec(),
            "path": {"type": "path", "required": True},
            "depth": {"type": "str", "choices": list(DEPTHS), "default": "full"},
            "pg_restore": {"type": "list", "elements": "str", "default": ["pg_restore"]},
        },
        mutually_exclusive=PASSPHRASE_MUTUALLY_EXCLUSIVE,
        supports_check_mode=True,
    )

    def action() -> dict[str, Any]:
        path = module.params["path"]
        try:
            found = _verify(module.params)
        except CentralError as error:
            error.details.setdefault("path", path)
            raise
        return {**{name: value for name, value in found.items() if value is not None}, "path": path, "changed": False}

    run(module, action)


if __name__ == "__main__":
    main()
