#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_backup: downloads a Direct Backup and keeps it if it is whole."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_backup
short_description: Download a Direct Backup of an ODK Central, verified
version_added: 0.1.0
description:
  - Asks an ODK Central for a Direct Backup (C(POST /v1/backup)), which is its database, and saves it.
  - The backup is verified while it streams in. It is decrypted, every table is decompressed and its rows are counted.
    A dump that was cut short on the server is found even where HTTP said that all went well.
  - The file gets its name only when it is whole, verified, and safe on the disk. On any failure nothing is left.
  - The database is not the whole of a Central. Enketo's data and keys, the configuration, and attachments in
    S3-compatible storage are not in a Direct Backup.
requirements:
  - requests
  - cryptography
  - "zstandard, where PostgreSQL 16 or newer makes the dump (Debian and Ubuntu: python3-zstandard)"
  - "isal (optional: verification is faster)"
extends_documentation_fragment:
  - odkops.central._api
  - odkops.central._passphrase
  - odkops.central._passphrase.maker
  - odkops.central._attributes
  - odkops.central._attributes.actiongroup_central
attributes:
  check_mode:
    support: full
    details:
      - In check mode the module logs in, looks whether the account may make backups, checks that the destination can be
        written and has room, and logs out. No dump is made.
      - The log-in is an entry in Central's server audit log, in check mode also.
  diff_mode:
    support: none
  idempotent:
    support: none
    details:
      - Each run makes another backup. With the path of a file as O(dest), the second run fails, since that file exists.
options:
  dest:
    description:
      - Where the backup is saved, on the host where the module runs.
      - A path that ends in V(.pgdump.enc.bin), V(.bin), V(.zip), V(.enc), V(.pgdump), V(.dump) or V(.bak) and is
        no directory is the file itself.
        Anything else is a directory, in which the file gets the name that the server gives it,
        with hyphens for the characters that some file systems refuse.
      - Missing directories are made, for their owner only.
      - A file that exists is never overwritten.
      - A Central older than v2026.2 sends a zip file. Where O(dest) is a file that ends in V(.pgdump.enc.bin),
        the end of its name becomes V(.zip) then, and the other way round. RV(path) says what it is.
        Neither of the two may exist.
    type: path
    required: true
  expected_size:
    description:
      - How many bytes the backup will probably have. The module fails before it starts where not so much
        and a tenth more is free.
      - By default the size of the newest backup in the same directory.
    type: int
  known_bad_blobs:
    description:
      - Ids of attachments whose content does not match their SHA-1 in the live database itself.
        Without this, a backup with such an attachment counts as damaged (RV(diagnosis=blob_mismatch)).
    type: list
    elements: int
    default: []
notes:
  - With O(auth_method=session) the session is open while the database is dumped, so its row is in the backup.
    In a Central that is restored from it within 24 hours, the token of that session would be good again.
  - A Central older than v2026.2 writes its dump, unencrypted, into C(/tmp) of the container C(service) before it sends it.
    If the download is broken off it leaves the dump there. Look for C(/tmp/tmp-*) in that container then.
author:
  - Contributors to the odkops.central collection (@odkops)
seealso:
  - module: odkops.central.central_backup_verify
  - name: ODK documentation, Backing up Central
    description: What a Direct Backup holds, and what it does not.
    link: https://docs.getodk.org/central-backup/
"""

EXAMPLES = r"""
- name: Save a backup under the name that the server gives it
  odkops.central.central_backup:
    url: https://central.example.org
    email: backup@example.org
    password_file: /etc/odk-central-backup/password
    passphrase_file: /etc/odk-central-backup/passphrase
    dest: /var/backups/odk-central
  register: backup

- name: Say where it is
  ansible.builtin.debug:
    msg: "{{ backup.path }}: {{ backup.size }} bytes, {{ backup.tables['public.submissions'] }} submissions"

- name: Check the log-in, the rights, the destination and the space, and make no backup
  odkops.central.central_backup:
    url: https://central.example.org
    email: backup@example.org
    password_file: /etc/odk-central-backup/password
    passphrase_file: /etc/odk-central-backup/passphrase
    dest: /var/backups/odk-central
  check_mode: true

- name: A server with a certificate of one's own, and a name for the file
  odkops.central.central_backup:
    url: https://central.internal:8443
    ca_path: /etc/ssl/certs/internal-ca.pem
    auth_method: basic
    email: backup@example.org
    password: "{{ central_password }}"
    passphrase: "{{ central_passphrase }}"
    dest: /var/backups/odk-central/before-upgrade.pgdump.enc.bin
"""

RETURN = r"""
path:
  description: Path of the backup. In check mode, nothing is saved and there is no path.
  returned: success, not in check mode
  type: str
  sample: /var/backups/odk-central/central-backup-2026-11-22T23-11-18.733Z.pgdump.enc.bin
started_at:
  description: When the backup was asked for, in UTC. What was saved in Central after that is not in it.
  returned: success, not in check mode
  type: str
  sample: "2026-11-22T23:11:18.512Z"
finished_at:
  description: When the backup was whole and safe on the disk, in UTC.
  returned: success, not in check mode
  type: str
  sample: "2026-11-22T23:11:41.020Z"
elapsed:
  description: Seconds from asking to having it.
  returned: success, not in check mode
  type: float
  sample: 22.508
free:
  description: Bytes that are free at the destination.
  returned: success, in check mode
  type: int
  sample: 84825604096

diagnosis:
  description: V(ok), or the code of what is wrong. All codes are in the collection's documentation of diagnoses.
  returned: always
  type: str
  sample: ok
format:
  description: V(pgdump.enc), or V(zip) from a Central older than v2026.2.
  returned: success, not in check mode
  type: str
  sample: pgdump.enc
encrypted:
  description: Whether a passphrase is needed to read the backup.
  returned: success, not in check mode
  type: bool
  sample: true
depth:
  description: How thoroughly the backup was verified. Always V(full).
  returned: success, not in check mode
  type: str
  sample: full
archive_version:
  description: Version of the archive's format. An older pg_restore than it needs does not read it.
  returned: success, not in check mode
  type: str
  sample: "1.14"
server_version:
  description: Version of the PostgreSQL server that was dumped.
  returned: success, not in check mode
  type: str
  sample: "14.22"
dump_version:
  description: Version of the pg_dump that made the dump.
  returned: success, not in check mode
  type: str
  sample: "14.22"
compression:
  description: V(gzip), V(zstd), V(lz4) or V(none).
  returned: success, not in check mode
  type: str
  sample: gzip
created:
  description: When the dump began, by the clock and in the time zone of the server.
  returned: success, not in check mode
  type: str
  sample: "2026-11-22T23:11:18"
database:
  description: Name of the database that was dumped.
  returned: success, not in check mode
  type: str
  sample: odk
size:
  description: Size of the file in bytes.
  returned: success, not in check mode
  type: int
  sample: 222177
sha256:
  description: SHA-256 of the file, in hexadecimal digits. The format has no checksum of its own, so keep this one elsewhere.
  returned: success, not in check mode
  type: str
  sample: c2b2e566a27af4a0debcddb43b6d0b54ddb2697551f3e0e18fd17d0fa23000af
tables:
  description: Number of rows by table.
  returned: success, not in check mode
  type: dict
  sample: {"public.forms": 4, "public.submissions": 200}
central:
  description: What the dump says of the Central.
  returned: success, not in check mode
  type: dict
  sample:
    version: v2026.1.0
    migrations: 214
  contains:
    version:
      description: Version of Central when it last started after an upgrade. Null where the Central is too old to note it.
      type: str
      returned: always
    backend_version:
      description: Version of its back end at that time.
      type: str
      returned: always
    frontend_version:
      description: Version of its front end at that time.
      type: str
      returned: always
    migration:
      description: The latest migration of its database. A Central without this migration cannot take the backup.
      type: str
      returned: always
    migrations:
      description: Number of its migrations.
      type: int
      returned: always
    blobs:
      description: Number of attachments by status. Those V(uploaded) are in S3-compatible storage and not in the backup.
      type: dict
      returned: always
    blobs_in_database:
      description: Number of attachments whose content is in the backup. Each was checked by its SHA-1.
      type: int
      returned: always
    bad_blobs:
      description: Ids of those whose content is not what its SHA-1 says, which O(known_bad_blobs) named.
      type: list
      elements: int
      returned: always
    enketo_ids:
      description: Number of forms with a Web Forms link.
      type: int
      returned: always
    enketo_once_ids:
      description: Number of forms with a link for single submissions.
      type: int
      returned: always
    enketo_draft_ids:
      description: Number of drafts with a Web Forms link.
      type: int
      returned: always
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.odkops.central.plugins.module_utils._api_args import (
    API_MUTUALLY_EXCLUSIVE,
    API_REQUIRED_IF,
    api_argument_spec,
    credentials_of,
    transport_of,
)
from ansible_collections.odkops.central.plugins.module_utils._args import (
    PASSPHRASE_MUTUALLY_EXCLUSIVE,
    maker_argument_spec,
    passphrase_argument_spec,
)
from ansible_collections.odkops.central.plugins.module_utils._diagnoses import OK
from ansible_collections.odkops.central.plugins.module_utils._download import Request, download, rehearse
from ansible_collections.odkops.central.plugins.module_utils._module import run
from ansible_collections.odkops.central.plugins.module_utils._passphrase import read_passphrase


def _request(params: dict[str, Any]) -> Request:
    return Request(
        transport=transport_of(params),
        credentials=credentials_of(params),
        dest=params["dest"],
        passphrase=read_passphrase(params["passphrase"], params["passphrase_file"]),
        allow_unencrypted=params["allow_unencrypted"],
        allow_weak_passphrase=params["allow_weak_passphrase"],
        expected_size=params["expected_size"],
        known_bad_blobs=frozenset(params["known_bad_blobs"]),
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **api_argument_spec(),
            **passphrase_argument_spec(),
            **maker_argument_spec(),
            "dest": {"type": "path", "required": True},
            "expected_size": {"type": "int"},
            "known_bad_blobs": {"type": "list", "elements": "int", "default": []},
        },
        mutually_exclusive=[*API_MUTUALLY_EXCLUSIVE, *PASSPHRASE_MUTUALLY_EXCLUSIVE],
        required_if=API_REQUIRED_IF,
        supports_check_mode=True,
    )

    def action() -> dict[str, Any]:
        request = _request(module.params)
        if module.check_mode:
            return {**rehearse(request), "diagnosis": OK, "changed": True}
        return {**download(request), "changed": True}

    run(module, action)


if __name__ == "__main__":
    main()
