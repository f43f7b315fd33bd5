#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_config_restore: compares a Central's configuration with a backup, and puts files back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_config_restore
short_description: Compare the configuration of an ODK Central with a backup, and put files back
version_added: 0.1.0
description:
  - Holds the files of a configuration part, as M(odkops.central.central_config_backup) makes it, against those at the Central,
    and says of each whether it is the same.
  - Writes nothing but what O(files) names, since the C(.env) of a new host is not that of the old one. Nothing is removed.
  - All files that differ are written, or none. Each gets its name by a rename, when all of them are on the disk. A run that
    fails puts everything back as it was. One that is killed is put right by the next run, whatever O(files) says then.
  - A file that is there keeps its owner and permissions. One that is not there gets the permissions that it had when it was
    saved, and the owner of the directory that it is put into.
  - Nothing is written through a symbolic link, and nothing outside of the project's directory but extra paths of the backup
    that O(files) names.
requirements:
  - cryptography
  - "coreutils (on the Central's host)"
extends_documentation_fragment:
  - odkops.central._channel
  - odkops.central._channel.ssh
  - odkops.central._channel.lease
  - odkops.central._passphrase
  - odkops.central._attributes
  - odkops.central._attributes.actiongroup_central
attributes:
  check_mode:
    support: full
    details:
      - In check mode the module reads and compares everything, looks whether each file could be written, and writes nothing.
  diff_mode:
    support: full
    details:
      - Shows each file that differs, also those that O(files) does not name, of which the header says so.
      - Values whose names have C(PASS), C(SECRET), C(KEY), C(TOKEN) or the like in them are hidden, see O(show_secrets). Of
        private keys, and of files that are no C(.env), Compose file or template, it shows only that they differ.
  idempotent:
    support: full
options:
  set:
    description:
      - Path of the directory of a sealed set, whose manifest is checked.
      - Exactly one of O(set) and O(path) must be given.
    type: path
  path:
    description:
      - Path of a configuration part, V(config.tar.enc.bin).
    type: path
  allow_unauthenticated:
    description:
      - Accept a set whose manifest has no HMAC although a passphrase is given.
    type: bool
    default: false
  files:
    description:
      - What is to be put back. By default nothing, and the module only compares.
      - V(env) is C(.env), V(override) C(docker-compose.override.yml), V(tls) what is in C(files/local/customssl), V(dkim)
        C(files/mail/rsa.private) and what is in C(files/dkim), V(templates) the two templates of nginx.
      - Anything else is the path of a file or a directory in the backup, relative to the project's directory.
      - An absolute path is that of an extra path of the backup, or of something below it. With O(ssh_host), the gate must have
        been made with the same path.
    type: list
    elements: str
    default: []
  keep_previous:
    description:
      - Keep what was there before as C(NAME.before-TAG) beside each file that is replaced. It may hold secrets.
    type: bool
    default: false
  show_secrets:
    description:
      - Show values in diff mode that are hidden else, and the contents of all files.
    type: bool
    default: false
notes:
  - Docker Compose reads C(.env) and its files when it makes containers. C(docker compose up -d) takes over what was written.
author:
  - Contributors to the odkops.central collection (@odkops)
seealso:
  - module: odkops.central.central_config_backup
"""

EXAMPLES = r"""
- name: See what differs from the backup
  odkops.central.central_config_restore:
    project_directory: /root/central
    set: /var/backups/odk-central/central.example.org/sets/20261122T020000.123Z-0a1b2c3d
    passphrase_file: /etc/odk-central-backup/passphrase
  diff: true

- name: Put certificates, the DKIM key and the changed templates back
  odkops.central.central_config_restore:
    project_directory: /root/central
    set: /var/backups/odk-central/central.example.org/sets/20261122T020000.123Z-0a1b2c3d
    passphrase_file: /etc/odk-central-backup/passphrase
    files: [tls, dkim, templates]

- name: And the configuration of the proxy before it, which the backup has as an extra path
  odkops.central.central_config_restore:
    project_directory: /root/central
    path: /srv/config.tar.enc.bin
    passphrase_file: /etc/odk-central-backup/passphrase
    files: [/etc/haproxy/haproxy.cfg]
    keep_previous: true
"""

RETURN = r"""
diagnosis:
  description: V(ok), or the code of what is wrong. All codes are in the collection's documentation of diagnoses.
  returned: always
  type: str
  sample: ok
files:
  description:
    - Each file of the backup, and each that the backup would have of what is at the Central now.
  returned: success
  type: list
  elements: dict
  sample:
    - name: .env
      state: differs
      written: false
    - name: files/mail/rsa.private
      state: missing here
      written: true
  contains:
    name:
      description: Path relative to the project's directory, or absolute.
      returned: always
      type: str
    state:
      description:
        - V(same), V(differs), V(missing here) or V(only here), before anything was written.
        - V(not compared) for extra paths that O(files) does not name.
      returned: always
      type: str
    written:
      description: Whether it was written, or would be in check mode.
      returned: always
      type: bool
kept:
  description: Where the files are that were replaced, if O(keep_previous) is given.
  returned: success
  type: list
  elements: str
  sample: [.env.before-0a1b2c3d4e5f]
recovered:
  description: Whether a run before was ended while it wrote, and was put right.
  returned: success
  type: bool
  sample: false
saved:
  description: What the backup says of the Central that it was made of.
  returned: success
  type: dict
  sample: {"central_version": "v2026.1.0", "commit": "4f5943d0c0ffee00000000000000000000000000", "project": "central"}
  contains:
    central_version:
      description: Its version, or null.
      returned: always
      type: str
    commit:
      description: The commit that was checked out, or null.
      returned: always
      type: str
    project:
      description: The name of the Compose project, or null.
      returned: always
      type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.odkops.central.plugins.module_utils._args import (
    PASSPHRASE_MUTUALLY_EXCLUSIVE,
    passphrase_argument_spec,
)
from ansible_collections.odkops.central.plugins.module_utils._channel_args import (
    CHANNEL_REQUIRED_ONE_OF,
    channel_of,
    leased,
    leased_channel_argument_spec,
)
from ansible_collections.odkops.central.plugins.module_utils._config_compare import part_of
from ansible_collections.odkops.central.plugins.module_utils._config_restore import ConfigRestore, restore_config
from ansible_collections.odkops.central.plugins.module_utils._diagnoses import OK
from ansible_collections.odkops.central.plugins.module_utils._module import run
from ansible_collections.odkops.central.plugins.module_utils._passphrase import read_passphrase


def argument_spec() -> dict[str, dict[str, Any]]:
    """Return the options of the module."""
    return {
        "set": {"type": "path"},
        "path": {"type": "path"},
        "allow_unauthenticated": {"type": "bool", "default": False},
        "files": {"type": "list", "elements": "str", "default": []},
        "keep_previous": {"type": "bool", "default": False},
        "show_secrets": {"type": "bool", "default": False, "no_log": False},
        **leased_channel_argument_spec(),
        **passphrase_argument_spec(),
    }


def _restore(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    passphrase = read_passphrase(params["passphrase"], params["passphrase_file"])
    part = part_of(params["path"], params["set"], passphrase, params["allow_unauthenticated"])
    task = ConfigRestore(
        channel=channel_of(params),
        part=part,
        files=tuple(params["files"]),
        keep_previous=params["keep_previous"],
        show_secrets=params["show_secrets"],
    )
    done = restore_config(task, check_mode)
    checkout = part.index.get("checkout") or {}
    saved = {name: part.index.get(name) for name in ("central_version", "project")}
    return {**done, "saved": {**saved, "commit": checkout.get("commit")}}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=argument_spec(),
        mutually_exclusive=[*PASSPHRASE_MUTUALLY_EXCLUSIVE, ("set", "path")],
        required_one_of=[*CHANNEL_REQUIRED_ONE_OF, ("set", "path")],
        supports_check_mode=True,
    )

    def action() -> dict[str, Any]:
        with leased(module.params, module.check_mode):
            return {**_restore(module.params, module.check_mode), "diagnosis": OK}

    run(module, action)


if __name__ == "__main__":
    main()
