#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_restore: puts the database of an ODK Central back, with its Web Forms, or leaves everything as it was."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_restore
short_description: Restore the database and the Web Forms of an ODK Central
version_added: 0.1.0
description:
  - Restores a backup set or a Direct Backup into a Central, whole or not at all.
  - The whole backup is verified first, and everything is looked at that could make the restore fail. Then the backup is loaded
    into a second database, while Central still serves. The number of rows of each table is compared with the backup. Only then
    is Central stopped, for some seconds. The two databases exchange their names in one transaction, Enketo's links and secrets
    are put in, and Central is started again, so that its migrations run.
  - Nobody can reach the Central until it was seen to answer, with the rows that it should have.
  - On any failure everything is put back as it was. If the module is killed, or the connection or the host goes down, the next
    run does that first, or one with O(action=rollback). A journal in the project's directory says how.
  - The old database is kept under another name until somebody removes it. How many submissions only it has is reported.
  - The objects in S3 are restored by M(odkops.central.central_blob_restore) before, configuration by
    M(odkops.central.central_config_restore). The playbook C(odkops.central.restore) does all in the right order.
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
      - In check mode the whole backup is verified, and the whole preflight is done. Nothing is changed.
  diff_mode:
    support: none
  idempotent:
    support: none
    details:
      - Each run restores again. With O(action=rollback) and O(action=remove_previous) a second run changes nothing.
options:
  action:
    description:
      - V(restore) restores.
      - V(rollback) finishes what a run has left that was killed, and restores nothing. Nearly always everything is put back as
        it was before that run. Had it succeeded already, what it had not tidied up is.
      - V(remove_previous) removes old databases that restores have kept.
    type: str
    choices: [restore, rollback, remove_previous]
    default: restore
  path:
    description:
      - The directory of a backup set, or a Direct Backup of Central, C(.pgdump.enc.bin) or C(.zip).
      - Needed if O(action=restore).
    type: path
  confirm_domain:
    description:
      - The DOMAIN of the Central whose database is to be replaced, typed by somebody who knows that.
        The module refuses to run if it is not the one that the Central has.
      - Needed if O(action=restore).
    type: str
  strategy:
    description:
      - V(swap) loads a second database beside the first, and exchanges their names. This is what the description above tells of.
      - V(in_place) replaces all that Central's user owns in its own database, in one transaction, while Central is stopped.
        Extensions and what belongs to others stay. It is for servers where no second database can be made. The way back, once
        the transaction is committed, is the backup that is made before, so that O(safety_backup) is needed. It is made when
        Central is stopped already, so that all is in it that was ever acknowledged.
      - V(restore_js) lets Central's own C(restore.js) do it (from v2026.2 on, no zip). It needs a superuser who is not the one
        that the server was made with, so that a stock server and a plain role are refused. The way back is the same as with
        V(in_place).
    type: str
    choices: [swap, in_place, restore_js]
    default: swap
  expected_sha256:
    description:
      - What the SHA-256 of a Direct Backup must be. For a set the manifest says it.
    type: str
  enketo:
    description:
      - What becomes of Enketo's links.
      - V(auto) puts back the Enketo part of a set. If there is none, as in a Direct Backup, the links are made anew
        from the ids in the database.
      - V(part) insists on the part. V(database) makes them anew in any case. V(none) leaves Enketo alone.
    type: str
    choices: [auto, part, database, none]
    default: auto
  enketo_mode:
    description:
      - How the Enketo part is put back, see O(odkops.central.central_enketo_restore#module:mode).
    type: str
    choices: [export, rdb]
    default: export
  enketo_secrets:
    description:
      - Whether Enketo's three secrets are put back with the part.
    type: bool
    default: true
  safety_backup:
    description:
      - A directory on the host where the module runs. There a Direct Backup of what the Central has now is made first,
        encrypted with the same passphrase.
      - Exactly one of O(safety_backup) and O(skip_safety_backup) is needed if O(action=restore).
    type: path
  skip_safety_backup:
    description:
      - Do without one, since a full backup was just made, or because there is nothing that is worth it.
    type: bool
    default: false
  keep_previous:
    description:
      - Whether the old database stays, as C(odkops_previous_) and a number. It needs as much room as it did before.
    type: bool
    default: true
  previous:
    description:
      - The names of the old databases that O(action=remove_previous) removes. By default all of them.
    type: list
    elements: str
    default: []
  end_sessions:
    description:
      - Whether logins end that were made before the backup, so that everybody has to log in again.
      - App users and public links are sessions for Central as well. They are never ended.
    type: bool
    default: true
  maintenance_user:
    description:
      - A user of the database server who may make and rename databases, if Central's own may not. That is so on a server of
        one's own, set up as the documentation of ODK says.
      - On the stock server Central's own user may.
    type: str
  maintenance_password:
    description:
      - The password of O(maintenance_user).
    type: str
  maintenance_database:
    description:
      - The database to connect to meanwhile. By default V(postgres), or V(template1).
    type: str
  start_timeout:
    description:
      - Seconds that Central may take to come up, its migrations included.
    type: int
    default: 900
  login_email:
    description:
      - An account to log in with at the end, to see that it works. Its password is the one of the backup.
    type: str
  login_password:
    description:
      - Its password.
    type: str
  known_bad_blobs:
    description:
      - Ids of attachments whose content is known to be other than their SHA-1 says.
    type: list
    elements: int
    default: []
  allow_unauthenticated:
    description:
      - Accept a set whose manifest has no HMAC although a passphrase is given.
    type: bool
    default: false
  lease:
    description:
      - The id of the run that has the lease on the Central, as M(odkops.central.central_lease) returns it.
        The module keeps it from expiring while it is at work.
      - By default the module takes the lease itself, and gives it back. It fails with the diagnosis V(lease_held) if somebody
        else has it.
    type: str
notes:
  - Let it run with C(async), so that a lost connection to the host does not end it.
  - Over SSH the gate on the Central's host has to permit restores.
author:
  - Contributors to the odkops.central collection (@odkops)
seealso:
  - module: odkops.central.central_backup_verify
  - module: odkops.central.central_enketo_restore
  - name: ODK documentation, Restoring a backup
    description: What Central's own restore does.
    link: https://docs.getodk.org/central-backup/
"""

EXAMPLES = r"""
- name: See whether a restore would go well
  odkops.central.central_restore:
    project_directory: /root/central
    path: /var/backups/odk-central/central.example.org/sets/20261122T020000.123Z-3f9a1c07
    passphrase_file: /etc/odk-central-backup/passphrase
    confirm_domain: central.example.org
    safety_backup: /var/backups/odk-central/safety
  check_mode: true

- name: Restore, and go on if the connection is lost
  odkops.central.central_restore:
    project_directory: /root/central
    path: /var/backups/odk-central/central.example.org/sets/20261122T020000.123Z-3f9a1c07
    passphrase_file: /etc/odk-central-backup/passphrase
    confirm_domain: central.example.org
    safety_backup: /var/backups/odk-central/safety
  async: 86400
  poll: 10
  register: restored

- name: Say what is only in the old database
  ansible.builtin.debug:
    msg: "{{ restored.only_previous }} submissions are in {{ restored.previous }} only"

- name: Put everything back after a restore that was killed
  odkops.central.central_restore:
    project_directory: /root/central
    action: rollback

- name: Remove the old database when nobody misses anything
  odkops.central.central_restore:
    project_directory: /root/central
    action: remove_previous
"""

RETURN = r"""
backup:
  description: What the backup was found to be, as M(odkops.central.central_backup_verify) returns it.
  returned: success, if O(action=restore)
  type: dict
set:
  description: The set's id and Central, and the identity of that Central. Empty for a Direct Backup.
  returned: success, if O(action=restore)
  type: dict
  sample: {"set_id": "20261122T020000.123Z-3f9a1c07", "central_name": "central.example.org"}
target:
  description:
    - What was found at the Central. C(identity) is which one it is, C(server_version) that of PostgreSQL, C(size) the bytes of
      its database, C(free) the bytes that were free beside it (V(null) on a server of its own), C(restored_in) the image
      whose C(pg_restore) was used, C(administrator) the user who made the databases.
  returned: success, if O(action=restore)
  type: dict
enketo:
  description: What became of Enketo, as M(odkops.central.central_enketo_restore) returns it.
  returned: success, if O(action=restore)
  type: dict
unfinished:
  description: The C(tag), C(since) and C(stage) of a restore that was not finished, or V(null).
  returned: success, in check mode
  type: dict
recovered:
  description:
    - What was done about an earlier restore that was not finished, or V(null). C(outcome) is V(rolled_back) or V(finished).
    - C(failed_database) is there if clients had sent something to the restored database already. It was kept then.
      C(only_failed) is the number of submissions that only it has.
    - C(put_back_from) is the path of the backup that was put back, if the database had been replaced in its place.
  returned: success, not in check mode
  type: dict
safety:
  description: Path of the backup of what was there before, or V(null).
  returned: success, if O(action=restore), not in check mode
  type: str
  sample: /var/backups/odk-central/safety/central-backup-2026-11-23T03-12-09.120Z.pgdump.enc.bin
previous:
  description: Name of the old database. V(null) if it was not kept.
  returned: success, if O(action=restore), not in check mode
  type: str
  sample: odkops_previous_f535fc241d73
only_previous:
  description: Number of submissions that only the old database has. V(null) if it had no tables.
  returned: success, if O(action=restore), not in check mode
  type: int
  sample: 3
sessions_ended:
  description: Number of logins that were ended.
  returned: success, if O(action=restore), not in check mode
  type: int
  sample: 4
grants_failed:
  description: What PostgreSQL said of grants in the backup that could not be made, mostly to roles that are not here.
  returned: success, if O(action=restore), not in check mode
  type: list
  elements: str
extensions_missing:
  description: PostgreSQL extensions that the old database has, the backup does not need, and that could not be made.
  returned: success, if O(action=restore), not in check mode
  type: list
  elements: str
phases:
  description: Seconds that each phase took.
  returned: if O(action=restore), not in check mode, also on failure
  type: dict
  sample: {"verify": 4.1, "preflight": 2.0, "safety": 12.8, "load": 20.3, "finish": 2.1, "stop": 2.4, "swap": 1.1,
    "enketo": 2.2, "start": 6.3, "health": 1.2, "open": 1.7, "compare": 0.8}
downtime:
  description: Seconds from stopping Central until it answered again. That is 0 after a failure.
  returned: if O(action=restore), not in check mode, also on failure
  type: float
  sample: 14.9
elapsed:
  description: Seconds from beginning to end.
  returned: if O(action=restore), not in check mode, also on failure
  type: float
  sample: 57.8
rolled_back:
  description: Whether everything was put back as it was after a failure.
  returned: failure, when something had been begun
  type: bool
stage:
  description: How far it had come.
  returned: failure, when something had been begun
  type: str
  sample: swapping
removed:
  description: Names of the databases that were removed.
  returned: success, if O(action=remove_previous)
  type: list
  elements: str
kept:
  description: The old databases that are still there, each with C(name), C(size) in bytes and C(comment).
  returned: success, if O(action=remove_previous)
  type: list
  elements: dict
diagnosis:
  description:
    - V(ok), or the code of what is wrong. All codes are in the collection's documentation of diagnoses.
    - Among them V(wrong_confirmation), V(newer_central), V(restore_impossible), V(restore_failed), V(central_disk_full),
      V(not_healthy), V(rollback_failed), V(lease_held), and all that M(odkops.central.central_backup_verify) has.
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
from ansible_collections.odkops.central.plugins.module_utils._backup_terms import Terms
from ansible_collections.odkops.central.plugins.module_utils._channel_args import (
    CHANNEL_REQUIRED_ONE_OF,
    channel_of,
    leased,
    leased_channel_argument_spec,
)
from ansible_collections.odkops.central.plugins.module_utils._diagnoses import OK
from ansible_collections.odkops.central.plugins.module_utils._enketo_plan import MODES
from ansible_collections.odkops.central.plugins.module_utils._module import run
from ansible_collections.odkops.central.plugins.module_utils._passphrase import read_passphrase
from ansible_collections.odkops.central.plugins.module_utils._restore import RestoreRequest
from ansible_collections.odkops.central.plugins.module_utils._restore_run import (
    ENKETO,
    Source,
    rehearse,
    rehearse_rollback,
    remove_previous,
    restore,
    rollback,
)
from ansible_collections.odkops.central.plugins.module_utils._restore_target import Administration
from ansible_collections.odkops.central.plugins.module_utils._restore_undo import STRATEGIES


def _request(params: dict[str, Any]) -> RestoreRequest:
    passphrase = read_passphrase(params["passphrase"], params["passphrase_file"])
    safety = None
    if params["safety_backup"] is not None and params["action"] == "restore":
        safety = Terms(
            dest=params["safety_backup"],
            passphrase=passphrase,
            allow_unencrypted=passphrase is None,
            allow_weak_passphrase=True,
        )
    login = None if params["login_email"] is None else (params["login_email"], params["login_password"] or "")
    return RestoreRequest(
        channel=channel_of(params),
        path="",
        passphrase=passphrase,
        confirm_domain=params["confirm_domain"] or "",
        sha256=params["expected_sha256"],
        strategy=params["strategy"],
        administration=Administration(
            params["maintenance_user"], params["maintenance_password"], params["maintenance_database"]
        ),
        safety=safety,
        keep_previous=params["keep_previous"],
        end_sessions=params["end_sessions"],
        patience=params["start_timeout"],
        login=login,
        known_bad_blobs=frozenset(params["known_bad_blobs"]),
    )


def _source(params: dict[str, Any]) -> Source:
    return Source(
        path=params["path"],
        enketo=params["enketo"],
        enketo_mode=params["enketo_mode"],
        enketo_secrets=params["enketo_secrets"],
        allow_unauthenticated=params["allow_unauthenticated"],
    )


def _act(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    request = _request(params)
    if params["action"] == "rollback":
        return rehearse_rollback(request) if check_mode else rollback(request, params["lease"])
    if params["action"] == "remove_previous":
        return remove_previous(request, params["previous"], check_mode, params["lease"])
    act = rehearse if check_mode else restore
    return act(request, _source(params), params["lease"])


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **leased_channel_argument_spec(),
            **passphrase_argument_spec(),
            "action": {"type": "str", "choices": ["restore", "rollback", "remove_previous"], "default": "restore"},
            "path": {"type": "path"},
            "confirm_domain": {"type": "str"},
            "strategy": {"type": "str", "choices": list(STRATEGIES), "default": "swap"},
            "expected_sha256": {"type": "str"},
            "enketo": {"type": "str", "choices": list(ENKETO), "default": "auto"},
            "enketo_mode": {"type": "str", "choices": list(MODES), "default": "export"},
            "enketo_secrets": {"type": "bool", "default": True, "no_log": False},
            "safety_backup": {"type": "path"},
            "skip_safety_backup": {"type": "bool", "default": False},
            "keep_previous": {"type": "bool", "default": True},
            "previous": {"type": "list", "elements": "str", "default": []},
            "end_sessions": {"type": "bool", "default": True},
            "maintenance_user": {"type": "str"},
            "maintenance_password": {"type": "str", "no_log": True},
            "maintenance_database": {"type": "str"},
            "start_timeout": {"type": "int", "default": 900},
            "login_email": {"type": "str"},
            "login_password": {"type": "str", "no_log": True},
            "known_bad_blobs": {"type": "list", "elements": "int", "default": []},
            "allow_unauthenticated": {"type": "bool", "default": False},
        },
        mutually_exclusive=PASSPHRASE_MUTUALLY_EXCLUSIVE,
        required_one_of=CHANNEL_REQUIRED_ONE_OF,
        required_if=[("action", "restore", ("path", "confirm_domain"))],
        required_together=[("login_email", "login_password")],
        supports_check_mode=True,
    )
    params = module.params
    if params["action"] == "restore" and (params["safety_backup"] is None) == (not params["skip_safety_backup"]):
        module.fail_json(
            msg="Give either safety_backup, a directory for a backup of what is there now, or skip_safety_backup=true.",
            diagnosis="bad_option",
            changed=False,
        )

    def action() -> dict[str, Any]:
        with leased(params, module.check_mode):
            return {**_act(params, module.check_mode), "diagnosis": OK}

    run(module, action)


if __name__ == "__main__":
    main()
