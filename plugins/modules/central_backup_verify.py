#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_backup_verify: says whether a backup is whole, and what it holds."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_backup_verify
short_description: Say whether a backup or a backup set of an ODK Central is whole, and what it holds
version_added: 0.1.0
description:
  - Reads a backup of an ODK Central from its first byte to its last. It is decrypted, every table is decompressed,
    its rows are counted, and each attachment in it is checked by its SHA-1.
  - No PostgreSQL client is needed, and nothing is written.
  - Or verifies a whole backup set, O(set). The manifest and each part are checked, then the parts against each other. Each
    Web Forms link of the database has its keys in Enketo's Redis, Enketo's secret opens the single-submission links, and each
    object that the database names in S3 is in the pool and has the SHA-1 of its name.
  - Where anything is wrong the module fails. RV(diagnosis) has a code, and the message says what to do.
  - The format of Central's backups has no checksum of its own. Only O(expected_sha256), kept elsewhere
    since the backup was made, finds every change.
requirements:
  - cryptography
  - "zstandard or lz4, for a backup that is compressed so (Debian and Ubuntu: python3-zstandard, python3-lz4)"
  - "isal (optional: faster)"
  - "rclone, for a set with objects of S3, unless O(blobs=presence)"
extends_documentation_fragment:
  - odkops.central._channel
  - odkops.central._channel.ssh
  - odkops.central._channel.lease
  - odkops.central._passphrase
  - odkops.central._attributes
  - odkops.central._attributes.info_module
  - odkops.central._attributes.actiongroup_central
options:
  path:
    description:
      - Path of the backup, on the host where the module runs.
      - Either kind is read, C(*.pgdump.enc.bin) of Central v2026.2 and later, and C(*.zip) of older ones.
      - Exactly one of O(path) and O(set) is needed.
    type: path
  set:
    description:
      - Path of the directory of a backup set, C(<repository>/<central>/sets/<set id>).
      - A set that is not sealed yet is read too, as far as it goes. This is how a backup reads back what it has written.
    type: path
  blobs:
    description:
      - With O(set), how the objects of S3 are looked at in the pool.
      - V(content) decrypts and hashes each of them. V(presence) looks whether each is there with its size.
    type: str
    choices: [content, presence]
    default: content
  blob_list:
    description:
      - With O(set), for one that is not sealed, path of a file that is written. It lists the objects that the database names
        in S3, as M(odkops.central.central_blob_backup) takes it. This is the only thing that this module writes.
    type: path
  allow_unauthenticated:
    description:
      - With O(set), accept a manifest that has no HMAC although a passphrase was given.
    type: bool
    default: false
  rclone_path:
    description:
      - With O(set), path of rclone.
      - By default it is looked for beside the Python that runs the module, and in the PATH.
    type: path
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
notes:
  - The Central is not needed. O(project_directory), O(ssh_host) and the options beside them are for O(lease) only, with which a
    backup keeps its lease while it reads back what it has written.
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

- name: Verify a whole set
  odkops.central.central_backup_verify:
    set: /var/backups/odk-central/central.example.org/sets/20261122T020000.123Z-0a1b2c3d
    passphrase_file: /etc/odk-central-backup/passphrase

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
  description: Path of the backup, or the directory of the set.
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
  returned: success, with O(path)
  type: str
  sample: pgdump.enc
encrypted:
  description: Whether a passphrase is needed to read the backup.
  returned: success, with O(path)
  type: bool
  sample: true
depth:
  description: How thoroughly the backup was verified.
  returned: success, with O(path)
  type: str
  sample: full
archive_version:
  description: Version of the archive's format. An older pg_restore than it needs does not read it.
  returned: success, with O(path)
  type: str
  sample: "1.14"
server_version:
  description: Version of the PostgreSQL server that was dumped.
  returned: success, with O(path)
  type: str
  sample: "14.22"
dump_version:
  description: Version of the pg_dump that made the dump.
  returned: success, with O(path)
  type: str
  sample: "14.22"
compression:
  description: V(gzip), V(zstd), V(lz4) or V(none).
  returned: success, with O(path)
  type: str
  sample: gzip
created:
  description: When the dump began, by the clock and in the time zone of the server.
  returned: success, with O(path)
  type: str
  sample: "2026-11-22T23:11:18"
database:
  description: Name of the database that was dumped.
  returned: success, with O(path)
  type: str
  sample: odk
pg_restore_version:
  description: Version of the C(pg_restore) that was asked.
  returned: success, with O(depth=pg_restore)
  type: str
  sample: "14.22"
size:
  description: Size of the file in bytes.
  returned: success, with O(path), unless O(depth=passphrase)
  type: int
  sample: 222177
sha256:
  description: SHA-256 of the file, in hexadecimal digits.
  returned: success, with O(path), unless O(depth=passphrase)
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
set_id:
  description: The id of the set.
  returned: success, with O(set)
  type: str
  sample: 20261122T020000.123Z-0a1b2c3d
central_name:
  description: The name of the Central in the repository.
  returned: success, with O(set)
  type: str
  sample: central.example.org
sealed:
  description: Whether the set is sealed.
  returned: success, with O(set)
  type: bool
  sample: true
authenticated:
  description: Whether the manifest has the HMAC that the passphrase makes. Null where it has one and no passphrase was given.
  returned: success, with O(set)
  type: bool
  sample: true
absent:
  description: For each part that the set does not have, why.
  returned: success, with O(set)
  type: dict
  sample: {"blobs": "The database keeps all attachments itself and names no objects in S3."}
parts:
  description: What each part was found to be.
  returned: success, with O(set)
  type: dict
  sample: {"config": {"format": "tar.enc", "encrypted": true, "size": 40960}}
part:
  description: The part in which something is wrong.
  returned: failure, with O(set), if it is a part
  type: str
  sample: enketo
links:
  description: The links of Web Forms, database and Redis against each other. Null without an Enketo part.
  returned: success, with O(set)
  type: dict
  contains:
    checked:
      description: How many forms and drafts have a link.
      type: int
      returned: always
    broken:
      description: How many of those Redis could not serve. They did not work in the live Central either.
      type: int
      returned: always
    without_id:
      description: How many V(or:) keys of Redis lack their V(id:).
      type: int
      returned: always
    once_ids:
      description: How many single-submission links there are.
      type: int
      returned: always
    once_opened:
      description: How many of them Enketo's secret opens.
      type: int
      returned: always
  sample: {"checked": 3, "broken": 0, "without_id": 0, "once_ids": 2, "once_opened": 2}
objects:
  description: The objects of S3 in the pool. Null where the set names none.
  returned: success, with O(set)
  type: dict
  contains:
    checked:
      description: How many are there, and right.
      type: int
      returned: always
    absent:
      description: How many are not, as the set itself says. They were purged, or known to be lost.
      type: int
      returned: always
    size:
      description: Of their contents, in bytes.
      type: int
      returned: always
    depth:
      description: As O(blobs).
      type: str
      returned: always
  sample: {"checked": 20000, "absent": 0, "size": 409600000, "depth": "content"}
"""

from functools import cache
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.odkops.central.plugins.module_utils._args import PASSPHRASE_MUTUALLY_EXCLUSIVE
from ansible_collections.odkops.central.plugins.module_utils._channel_args import leased, leased_channel_argument_spec
from ansible_collections.odkops.central.plugins.module_utils._diagnoses import OK
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._module import run
from ansible_collections.odkops.central.plugins.module_utils._passphrase import read_passphrase
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


def _verify_set(params: dict[str, Any], temporary: str, check_mode: bool) -> dict[str, Any]:
    if params["depth"] != "full" or params["expected_sha256"] is not None:
        raise CentralError("bad_option", "depth and expected_sha256 are for path. A set is read as a whole.")
    # Only here, since a file alone needs none of it.
    from ansible_collections.odkops.central.plugins.module_utils._rclone import Rclone, find_rclone
    from ansible_collections.odkops.central.plugins.module_utils._set_verify import SetRequest, verify_set

    @cache
    def rclone() -> Rclone:
        return find_rclone(params["rclone_path"])

    request = SetRequest(
        passphrase=read_passphrase(params["passphrase"], params["passphrase_file"]),
        temporary=temporary,
        rclone=rclone,
        blobs=params["blobs"],
        blob_list=None if check_mode else params["blob_list"],
        known_bad_blobs=frozenset(params["known_bad_blobs"]),
        allow_unauthenticated=params["allow_unauthenticated"],
    )
    return {**verify_set(params["set"], request), "changed": params["blob_list"] is not None}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **reader_argument_spec(),
            **leased_channel_argument_spec(),
            "path": {"type": "path"},
            "set": {"type": "path"},
            "blobs": {"type": "str", "choices": ["content", "presence"], "default": "content"},
            "blob_list": {"type": "path"},
            "allow_unauthenticated": {"type": "bool", "default": False},
            "rclone_path": {"type": "path"},
            "depth": {"type": "str", "choices": list(DEPTHS), "default": "full"},
            "pg_restore": {"type": "list", "elements": "str", "default": ["pg_restore"]},
        },
        mutually_exclusive=[*PASSPHRASE_MUTUALLY_EXCLUSIVE, ("path", "set")],
        required_one_of=[("path", "set")],
        required_by={"blob_list": "set"},
        supports_check_mode=True,
    )

    def action() -> dict[str, Any]:
        params = module.params
        path = params["path"] or params["set"]
        try:
            with leased(params, module.check_mode):
                if params["set"] is not None:
                    return {**_verify_set(params, module.tmpdir, module.check_mode), "path": path, "diagnosis": OK}
                found = _verify(params)
        except CentralError as error:
            error.details.setdefault("path", path)
            raise
        return {**{name: value for name, value in found.items() if value is not None}, "path": path, "changed": False}

    run(module, action)


if __name__ == "__main__":
    main()
