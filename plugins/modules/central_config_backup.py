#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_config_backup: saves what an ODK Central's host has besides data."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_config_backup
short_description: Back up the configuration of an ODK Central
version_added: 0.1.0
description:
  - Saves what makes of a fresh checkout of ODK Central this very installation, as one file.
    It is a tar archive encrypted as Central's own backups are. C(openssl enc -d -chacha20 -pbkdf2) and C(tar) open it.
  - From the project's directory come C(.env), C(docker-compose.yml) and its override, C(files/local/customssl), the DKIM key
    (C(files/mail/rsa.private), or C(files/dkim) before v2023.4), and the templates of nginx.
  - From git come the checkout's commit, its status, all changes against that commit as a patch, the changed files
    themselves, files that git does not know and does not ignore, and as a bundle the commits that no remote branch and no tag
    holds. Where there is no git, all of C(files), and the Compose files and Dockerfiles, are taken.
  - From Docker Compose come the project as it resolves it, and the images in use. From nginx comes C(version.txt).
  - What is not there, or is left out, is named with the reason in the result and in the part. A file that is there and
    cannot be read fails the backup. So does one of the named files that changes while it is read.
  - Nothing in the checkout is changed. Hooks, and programs that its git configuration names for differences, are not executed.
requirements:
  - cryptography
  - Docker Compose 2, on the Central's host
  - "git (optional), on the Central's host"
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
      - In check mode the module reads everything, and writes nothing.
  diff_mode:
    support: none
  idempotent:
    support: none
    details:
      - Each run makes another backup. The second run fails if the file of the first is still there.
options:
  dest:
    description:
      - The file that is made, or a directory, in which it is called V(config.tar.enc.bin).
        What ends in V(.bin) and is no directory is the file.
      - Missing directories are made, for their owner only.
      - A file that exists is never overwritten.
    type: path
    required: true
  extra_paths:
    description:
      - Absolute paths of further files and directories on the Central's host, such as the configuration of a proxy before it.
        Links in them are followed.
      - A path that is not there fails the backup.
      - With O(ssh_host), the gate must have been made with the same paths, since it lets nothing else be read.
    type: list
    elements: str
    default: []
  max_file_size:
    description:
      - A file of more bytes is left out, and named in RV(config.left_out).
    type: int
    default: 10485760
  max_total_size:
    description:
      - Files with which the part would have more bytes are left out, and named in RV(config.left_out).
    type: int
    default: 209715200
notes:
  - Certificates of Let's Encrypt are in a volume of nginx without a name, and are not saved. Central gets new ones.
author:
  - Contributors to the odkops.central collection (@odkops)
seealso:
  - module: odkops.central.central_backup
  - module: odkops.central.central_enketo_backup
  - module: odkops.central.central_set
  - name: ODK documentation, Backing up Central
    description: What belongs to a full system backup.
    link: https://docs.getodk.org/central-backup/
"""

EXAMPLES = r"""
- name: Back up the configuration of the Central on this host
  odkops.central.central_config_backup:
    project_directory: /root/central
    passphrase_file: /etc/odk-central-backup/passphrase
    dest: /var/backups/odk-central/config.tar.enc.bin
  register: config

- name: Say what differs from the release
  ansible.builtin.debug:
    msg: "{{ config.config.checkout.describe }}, changed: {{ config.config.checkout.modified }}"

- name: With the configuration of a proxy on the same host
  odkops.central.central_config_backup:
    project_directory: /root/central
    extra_paths: [/etc/haproxy, /etc/cron.d/central]
    passphrase_file: /etc/odk-central-backup/passphrase
    dest: /var/backups/odk-central/config.tar.enc.bin

- name: Back up the Central on another host, where a key is restricted to the collection's forced command
  odkops.central.central_config_backup:
    ssh_host: central.example.org
    ssh_user: odk-backup
    ssh_key_file: /etc/odk-central-backup/ssh_key
    passphrase_file: /etc/odk-central-backup/passphrase
    dest: /srv/vault/config.tar.enc.bin
"""

RETURN = r"""
path:
  description: Path of the file. In check mode there is none.
  returned: success, not in check mode
  type: str
  sample: /var/backups/odk-central/config.tar.enc.bin
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
  sample: 61456
sha256:
  description: SHA-256 of the file, in hexadecimal digits.
  returned: success, not in check mode
  type: str
  sample: c2b2e566a27af4a0debcddb43b6d0b54ddb2697551f3e0e18fd17d0fa23000af
members:
  description:
    - The files in the archive, each with its size in bytes.
    - Their digests are in the archive only, since that of a file with a password would tell a guesser whether he is right.
  returned: success, not in check mode
  type: list
  elements: dict
  sample:
    - name: checkout/.env
      size: 412
config:
  description: What was found. The archive's member C(config.json) says the same, and more of each file.
  returned: success
  type: dict
  sample:
    central_version: v2026.1.0
    project: central
    checkout:
      commit: 4f5943d0c0ffee00000000000000000000000000
      describe: v2026.1.0
      branch: HEAD
      modified: [files/nginx/odk.conf.template]
      untracked: 0
      unpublished_commits: false
    files: [checkout/.env, checkout/docker-compose.yml, checkout/files/nginx/odk.conf.template]
    absent: {docker-compose.override.yml: There is none.}
    left_out: {}
    notes: []
  contains:
    central_version:
      description: Version of Central that nginx serves, or null if it does not say.
      type: str
      returned: always
    project:
      description: Name of the Compose project, or null if this version of Compose does not say.
      type: str
      returned: always
    checkout:
      description:
        - What git says of the checkout, or null if it is none. C(commit), C(describe) (the nearest tag), C(branch),
          C(modified) (paths of changed files), C(untracked) (number of files and directories that git does not know), and
          C(unpublished_commits), whether it has commits that no remote branch and no tag holds.
      type: dict
      returned: always
    files:
      description: Names of the archive's members that are files of the host.
      type: list
      elements: str
      returned: always
    absent:
      description: What was looked for and is not there, with the reason.
      type: dict
      returned: always
    left_out:
      description: What is there and not in the archive, with the reason.
      type: dict
      returned: always
    notes:
      description: What else an administrator should know. The module gives these as warnings, too.
      type: list
      elements: str
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
diagnosis:
  description:
    - V(ok), or the code of what is wrong. All codes are in the collection's documentation of diagnoses.
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
from ansible_collections.odkops.central.plugins.module_utils._config_backup import Request, backup, rehearse
from ansible_collections.odkops.central.plugins.module_utils._config_part import MAXIMUM_FILE_SIZE, MAXIMUM_TOTAL_SIZE
from ansible_collections.odkops.central.plugins.module_utils._diagnoses import OK
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
        extra_paths=tuple(params["extra_paths"]),
        maximum_file_size=params["max_file_size"],
        maximum_total_size=params["max_total_size"],
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **leased_channel_argument_spec(),
            **passphrase_argument_spec(),
            **maker_argument_spec(),
            "dest": {"type": "path", "required": True},
            "extra_paths": {"type": "list", "elements": "str", "default": []},
            "max_file_size": {"type": "int", "default": MAXIMUM_FILE_SIZE},
            "max_total_size": {"type": "int", "default": MAXIMUM_TOTAL_SIZE},
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
