#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_enketo_restore: puts back what Enketo keeps outside of Central's database."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_enketo_restore
short_description: Restore the Web Forms links and secrets of an ODK Central
version_added: 0.1.0
description:
  - Puts back what Enketo, the Web Forms of an ODK Central, keeps outside of the database. That is the Redis with the links of
    forms, and three secrets.
  - From the Enketo part of a backup set, Redis gets all that the part has and nothing else. That is one transaction, so that
    Redis holds either what it held before or all of the new. Where the links in the part are for another address than the
    target's, they are changed to the target's.
  - From a bare Direct Backup, which has nothing of Enketo, the links of forms and drafts are made anew from the ids in the
    database. What Redis has beside them stays, and so do the target's secrets. Single-submission links work only if they were
    made with the secret that the target has. The module counts those that do not.
  - Everything is verified before anything is changed. Everything is read back afterwards and compared. Then C(service),
    C(enketo) and C(nginx) are started anew, as far as they ran before, and Enketo is asked for some of the links.
  - On any failure Redis, the secrets and the services are put back as they were. If the module is killed, or the host goes
    down, the next run of this module does that first. What it needs for that is kept in the volumes of the Central until
    the restore is over.
  - Web Forms do not answer for some seconds meanwhile. The API answers until C(service) is started anew at the end.
requirements:
  - cryptography
  - Docker Compose 2, on the Central's host
extends_documentation_fragment:
  - odkops.central._channel
  - odkops.central._channel.ssh
  - odkops.central._passphrase
  - odkops.central._attributes
  - odkops.central._attributes.actiongroup_central
attributes:
  check_mode:
    support: full
    details:
      - In check mode everything is done that changes nothing. The backup is read to its end, the target is asked what it has,
        its C(redis-check-rdb) is asked about the file if O(mode=rdb), and all keys and secrets are compared.
  diff_mode:
    support: none
  idempotent:
    support: partial
    details:
      - Nothing is changed where Redis and the secrets are what they are to be.
      - If O(mode=rdb), each run puts the file in, since whether Redis has the same values cannot be told from the file.
options:
  path:
    description:
      - The Enketo part of a backup set, V(enketo.tar.enc.bin), or the directory of the set. If it is the directory, the set's
        manifest is checked as well.
      - Exactly one of O(path) and O(backup) is needed.
    type: path
  backup:
    description:
      - A Direct Backup of the Central, C(.pgdump.enc.bin) or C(.zip), from whose ids the links are made anew.
    type: path
  confirm_domain:
    description:
      - The DOMAIN of the target, typed by somebody who knows that its links and secrets are going to be replaced.
        The module refuses to run if it is not the one that the target has.
    type: str
    required: true
  mode:
    description:
      - V(export) puts in each key by itself. Any version of Redis takes it, and links can be changed to another address.
      - V(rdb) lets Redis load the file that the Redis of the backup has saved. The target's Redis must not be older.
        Whether it loads the file is found out before Redis is stopped.
    type: str
    choices: [export, rdb]
    default: export
  domain:
    description:
      - The domain that the links are to be for, such as V(central.example.org), with V(:port) if C(HTTPS_PORT) is not 443.
      - Only for a target that is going to get another DOMAIN. By default the target's own.
    type: str
  secrets:
    description:
      - Whether the three secrets are put back, too. Without V(enketo-less-secret) no single-submission link works that was
        given out. From O(backup) there are none.
    type: bool
    default: true
  save_timeout:
    description:
      - Seconds that Redis may take to save.
    type: int
    default: 300
  lease:
    description:
      - The id of the run that has the lease on the Central, as M(odkops.central.central_lease) returns it.
        The module keeps it from expiring while it is at work.
      - By default the module takes the lease itself, and gives it back. It fails with the diagnosis V(lease_held) if somebody
        else has it.
    type: str
notes:
  - Redis 5 to 8 are supported, which are those that Central has come with.
  - Over SSH the gate on the Central's host has to permit restores.
author:
  - Contributors to the odkops.central collection (@odkops)
seealso:
  - module: odkops.central.central_enketo_backup
  - name: ODK documentation, Backing up Central
    description: What belongs to a full system backup.
    link: https://docs.getodk.org/central-backup/
"""

EXAMPLES = r"""
- name: Put the Web Forms links and secrets of a set back
  odkops.central.central_enketo_restore:
    project_directory: /root/central
    path: /var/backups/odk-central/central.example.org/sets/20261122T020000.123Z-3f9a1c07
    passphrase_file: /etc/odk-central-backup/passphrase
    confirm_domain: central.example.org

- name: See what would be done
  odkops.central.central_enketo_restore:
    project_directory: /root/central
    path: /var/backups/odk-central/enketo.tar.enc.bin
    passphrase_file: /etc/odk-central-backup/passphrase
    confirm_domain: central.example.org
  check_mode: true

- name: Make the links anew after a restore of a Direct Backup
  odkops.central.central_enketo_restore:
    project_directory: /root/central
    backup: /var/backups/central-backup.pgdump.enc.bin
    passphrase_file: /etc/odk-central-backup/passphrase
    confirm_domain: central.example.org
  register: enketo

- name: Say what does not come back
  ansible.builtin.debug:
    msg: "{{ enketo.once_links.lost }} of {{ enketo.once_links.total }} single-submission links are lost"
"""

RETURN = r"""
undone:
  description: Whether a restore that was not finished was put back first, or would be in check mode.
  returned: success
  type: bool
  sample: false
source:
  description: Where the links came from, V(part) or V(database).
  returned: success
  type: str
  sample: part
mode:
  description: How they were put in.
  returned: success
  type: str
  sample: export
address:
  description: The host that the links are for, as Enketo's keys have it.
  returned: success
  type: str
  sample: central.example.org
redis_version:
  description: Version of the target's Redis.
  returned: success
  type: str
  sample: 8.6.2
keys:
  description: Number of keys that Redis held before.
  returned: success
  type: int
  sample: 0
wanted:
  description: Number of keys that Redis was to hold, or to get if O(backup) was given.
  returned: success
  type: int
  sample: 25
differs:
  description: What had to be changed in Redis, in words. Empty if nothing.
  returned: success
  type: str
  sample: 25 key(s) are missing, 0 have another value, 0 should not be there
secrets:
  description: The names of the secrets that had to be replaced.
  returned: success
  type: list
  elements: str
  sample: [enketo-secret, enketo-less-secret, enketo-api-key]
rekeyed:
  description:
    - What became of links for other addresses. C(from) has these hosts, C(links) the number of C(or:) keys that were changed,
      C(dropped) of those that were left out because another one has the same name now, and C(conflicts) of those of them that
      led to another id.
  returned: success, when O(path) was given
  type: dict
  sample: {"from": ["old.example.org"], "links": 12, "dropped": 0, "conflicts": 0}
rebuilt:
  description:
    - The links that the database needs. C(links) is their number. C(there) needed nothing, C(added) were made anew, and
      C(corrected) had keys that said something else. C(superseded) are among them, links of a deleted form whose project and id a
      later form has. C(unknown) is the number of ids in the database that no link can be made of.
  returned: success, when O(backup) was given
  type: dict
  sample: {"links": 14, "there": 0, "added": 14, "corrected": 0, "superseded": 0, "unknown": 0}
once_links:
  description:
    - The single-submission links of the database. C(total) is their number, C(opened) of those that the secret opens, and
      C(lost) of the others. All are 0 if no database was given.
  returned: success
  type: dict
  sample: {"total": 12, "opened": 12, "lost": 0}
put:
  description: Number of keys that were put in.
  returned: when something was changed
  type: int
  sample: 25
keys_after:
  description: Number of keys that Redis held afterwards.
  returned: when something was changed
  type: int
  sample: 25
restarted:
  description: The services that were started anew.
  returned: when something was changed
  type: list
  elements: str
  sample: [service, enketo, nginx]
answers:
  description: How many links Enketo was asked for, and how many of them it opened. None if Enketo did not run before.
  returned: success
  type: dict
  sample: {"asked": 5, "opened": 5}
phases:
  description: Seconds that each phase took.
  returned: success, not in check mode
  type: dict
  sample: {"check": 1.8, "keep": 12.1, "apply": 1.2, "verify": 0.9, "start": 9.7, "clean": 1.4}
started_at:
  description: When the restore was begun, in UTC.
  returned: success
  type: str
  sample: "2026-11-22T23:11:18.512Z"
finished_at:
  description: When it was over, in UTC.
  returned: success
  type: str
  sample: "2026-11-22T23:11:39.020Z"
elapsed:
  description: Seconds from beginning to end.
  returned: success
  type: float
  sample: 20.508
diagnosis:
  description:
    - V(ok), or the code of what is wrong. All codes are in the collection's documentation of diagnoses.
    - Among them V(wrong_confirmation), V(rdb_too_new), V(redis_not_supported), V(redis_load_failed), V(restore_differs),
      V(not_healthy), V(rollback_failed), V(restore_unfinished), V(bad_secret), V(lease_held).
  returned: always
  type: str
  sample: ok
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
from ansible_collections.odkops.central.plugins.module_utils._diagnoses import OK
from ansible_collections.odkops.central.plugins.module_utils._enketo_plan import MODES
from ansible_collections.odkops.central.plugins.module_utils._enketo_restore_run import Request, rehearse, restore
from ansible_collections.odkops.central.plugins.module_utils._module import run
from ansible_collections.odkops.central.plugins.module_utils._passphrase import read_passphrase


def _request(params: dict[str, Any]) -> Request:
    return Request(
        channel=channel_of(params),
        confirm_domain=params["confirm_domain"],
        path=params["path"],
        backup=params["backup"],
        passphrase=read_passphrase(params["passphrase"], params["passphrase_file"]),
        mode=params["mode"],
        domain=params["domain"],
        secrets=params["secrets"],
        save_timeout=params["save_timeout"],
        lease=params["lease"],
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **leased_channel_argument_spec(),
            **passphrase_argument_spec(),
            "path": {"type": "path"},
            "backup": {"type": "path"},
            "confirm_domain": {"type": "str", "required": True},
            "mode": {"type": "str", "choices": list(MODES), "default": "export"},
            "domain": {"type": "str"},
            "secrets": {"type": "bool", "default": True, "no_log": False},
            "save_timeout": {"type": "int", "default": 300},
        },
        mutually_exclusive=[*PASSPHRASE_MUTUALLY_EXCLUSIVE, ("path", "backup")],
        required_one_of=[*CHANNEL_REQUIRED_ONE_OF, ("path", "backup")],
        supports_check_mode=True,
    )

    def action() -> dict[str, Any]:
        act = rehearse if module.check_mode else restore
        with leased(module.params, module.check_mode):
            return {**act(_request(module.params)), "diagnosis": OK}

    run(module, action)


if __name__ == "__main__":
    main()
