#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_enketo_backup: saves what Enketo keeps outside of Central's database."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_enketo_backup
short_description: Back up the Web Forms links and secrets of an ODK Central
version_added: 0.1.0
description:
  - Saves what Enketo, the Web Forms of an ODK Central, keeps outside of the database. That is the Redis with the links of
    forms, and three secrets. Without them no link that was given out works after a restore.
  - Redis is asked to save. The module knows that the save has finished and succeeded, and that the file is the one that was
    just written. The file is checked by C(redis-check-rdb) in the container, and once more while it comes
    (header, structure, CRC-64).
  - In addition every key is exported with its type, expiry and value, as lines of JSON, which any version of Redis can be
    filled from. Each key is read at one moment.
  - The secrets must have their exact sizes.
  - All is one file, a tar archive encrypted as Central's own backups are. C(openssl enc -d -chacha20 -pbkdf2) and C(tar)
    open it. The file gets its name only when it is whole, read back, and safe on the disk. On any failure nothing is left.
  - Nothing is written on the Central's host but the file that Redis saves by itself every few minutes.
requirements:
  - cryptography
  - Docker Compose 2, on the Central's host
extends_documentation_fragment:
  - odkops.central._channel
  - odkops.central._channel.ssh
  - odkops.central._channel.lease
  - odkops.central._passphrase
  - odkops.central._passphrase.maker
  - odkops.central._attributes
  - odkops.central._attributes.actiongroup_central
attributes:
  check_mode:
    support: full
    details:
      - In check mode the module asks Redis for its version and the number of its keys, looks at the sizes of the secrets, and
        checks that the destination can be written. Redis is not asked to save, and no secret is read.
  diff_mode:
    support: none
  idempotent:
    support: none
    details:
      - Each run makes another backup. The second run fails if the file of the first is still there.
options:
  dest:
    description:
      - The file that is made, or a directory, in which it is called V(enketo.tar.enc.bin).
        What ends in V(.bin) and is no directory is the file.
      - Missing directories are made, for their owner only.
      - A file that exists is never overwritten.
    type: path
    required: true
  save_timeout:
    description:
      - Seconds that Redis may take to save, with waiting for a save that is already in progress.
    type: int
    default: 300
notes:
  - Redis 5 to 8 are supported, which are those that Central has come with.
author:
  - Contributors to the odkops.central collection (@odkops)
seealso:
  - module: odkops.central.central_backup
  - module: odkops.central.central_set
  - name: ODK documentation, Backing up Central
    description: What belongs to a full system backup.
    link: https://docs.getodk.org/central-backup/
"""

EXAMPLES = r"""
- name: Back up the Web Forms links and secrets of the Central on this host
  odkops.central.central_enketo_backup:
    project_directory: /root/central
    passphrase_file: /etc/odk-central-backup/passphrase
    dest: /var/backups/odk-central/enketo.tar.enc.bin
  register: enketo

- name: Say what is in it
  ansible.builtin.debug:
    msg: "{{ enketo.enketo.links.forms }} links, of Redis {{ enketo.enketo.redis_version }}"

- name: See whether it would go well, and make no backup
  odkops.central.central_enketo_backup:
    project_directory: /root/central
    passphrase_file: /etc/odk-central-backup/passphrase
    dest: /var/backups/odk-central/enketo.tar.enc.bin
  check_mode: true

- name: Back up the Central on another host, where a key is restricted to the collection's forced command
  odkops.central.central_enketo_backup:
    ssh_host: central.example.org
    ssh_user: odk-backup
    ssh_key_file: /etc/odk-central-backup/ssh_key
    passphrase_file: /etc/odk-central-backup/passphrase
    dest: /srv/vault/enketo.tar.enc.bin
"""

RETURN = r"""
path:
  description: Path of the file. In check mode there is none.
  returned: success, not in check mode
  type: str
  sample: /var/backups/odk-central/enketo.tar.enc.bin
format:
  description: Format of the file. Always V(tar.enc).
  returned: success, not in check mode
  type: str
  sample: tar.enc
encrypted:
  description: Whether a passphrase is needed to read the file.
  returned: success, not in check mode
  type: bool
  sample: true
size:
  description: Size of the file in bytes.
  returned: success, not in check mode
  type: int
  sample: 30736
sha256:
  description: SHA-256 of the file, in hexadecimal digits.
  returned: success, not in check mode
  type: str
  sample: c2b2e566a27af4a0debcddb43b6d0b54ddb2697551f3e0e18fd17d0fa23000af
members:
  description: The files in the archive, each with its size in bytes and its SHA-256.
  returned: success, not in check mode
  type: list
  elements: dict
  sample:
    - name: enketo-main.rdb
      size: 4711
      sha256: 0d1b2c3a4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9
enketo:
  description: What is in the file, as its member C(index.json) says.
  returned: success, not in check mode
  type: dict
  sample:
    redis_version: 8.6.2
    links: {"forms": 12, "ids": 12, "broken": 0, "hosts": {"central.example.org": 12}}
  contains:
    redis_version:
      description: Version of Redis. A file that it saved does not load in an older one. The export does.
      type: str
      returned: always
    rdb:
      description:
        - The file that Redis saved, with C(version) of its format, C(size) in bytes, C(created), C(keys), C(expiring) and
          C(types).
        - C(method) is V(save) or V(bgsave). C(checksum) says whether it has a CRC-64. C(redis_check_rdb) is V(null) if the
          container has no such program. C(unknown) names what the collection's own check could not walk through.
      type: dict
      returned: always
    export:
      description:
        - The export, with C(keys), C(expiring), C(types), and when it C(started) and C(finished).
        - C(gone) is the number of keys that the RDB file has and the export, which came later, has not.
      type: dict
      returned: always
    links:
      description:
        - The Web Forms links, drafts among them. C(forms) is the number of C(or:) keys, C(ids) that of C(id:) keys,
          C(broken) that of C(or:) keys whose C(id:) is missing, and C(hosts) their number by the host in their address.
      type: dict
      returned: always
    secrets:
      description: The secrets by name, each with its size in bytes.
      type: dict
      returned: always
started_at:
  description: When the backup was begun, in UTC.
  returned: success, not in check mode
  type: str
  sample: "2026-11-22T23:11:18.512Z"
finished_at:
  description: When the backup was whole and safe on the disk, in UTC.
  returned: success, not in check mode
  type: str
  sample: "2026-11-22T23:11:19.020Z"
elapsed:
  description: Seconds from beginning to end.
  returned: success, not in check mode
  type: float
  sample: 0.508
free:
  description: Bytes that are free at the destination.
  returned: success, in check mode
  type: int
  sample: 84825604096
redis_version:
  description: Version of Redis.
  returned: success, in check mode
  type: str
  sample: 8.6.2
keys:
  description: Number of keys that Redis holds.
  returned: success, in check mode
  type: int
  sample: 25
diagnosis:
  description:
    - V(ok), or the code of what is wrong. All codes are in the collection's documentation of diagnoses.
    - Among them V(redis_save_failed), V(central_disk_full), V(redis_check_failed), V(bad_secret), V(unsupported_key),
      V(service_not_running).
  returned: always
  type: str
  sample: ok
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.odkops.central.plugins.module_utils._args import (
    PASSPHRASE_MUTUALLY_EXCLUSIVE,
    maker_argument_spec,
    passphrase_argument_spec,
)
from ansible_collections.odkops.central.plugins.module_utils._backup_terms import Terms
from ansible_collections.odkops.central.plugins.module_utils._channel_args import (
    CHANNEL_REQUIRED_ONE_OF,
    channel_of,
    leased,
    leased_channel_argument_spec,
)
from ansible_collections.odkops.central.plugins.module_utils._diagnoses import OK
from ansible_collections.odkops.central.plugins.module_utils._enketo_backup import Request, backup, rehearse
from ansible_collections.odkops.central.plugins.module_utils._module import run
from ansible_collections.odkops.central.plugins.module_utils._passphrase import read_passphrase


def _request(params: dict[str, Any]) -> Request:
    return Request(
        channel=channel_of(params),
        terms=Terms(
            dest=params["dest"],
            passphrase=read_passphrase(params["passphrase"], params["passphrase_file"]),
            allow_unencrypted=params["allow_unencrypted"],
            allow_weak_passphrase=params["allow_weak_passphrase"],
        ),
        save_timeout=params["save_timeout"],
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **leased_channel_argument_spec(),
            **passphrase_argument_spec(),
            **maker_argument_spec(),
            "dest": {"type": "path", "required": True},
            "save_timeout": {"type": "int", "default": 300},
        },
        mutually_exclusive=PASSPHRASE_MUTUALLY_EXCLUSIVE,
        required_one_of=CHANNEL_REQUIRED_ONE_OF,
        supports_check_mode=True,
    )

    def action() -> dict[str, Any]:
        act = rehearse if module.check_mode else backup
        with leased(module.params, module.check_mode):
            return {**act(_request(module.params)), "diagnosis": OK, "changed": True}

    run(module, action)


if __name__ == "__main__":
    main()
