# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of S3 and of the pool. Their documentation is plugins/doc_fragments/_s3.py."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._atomic import make_directory
from ansible_collections.odkops.central.plugins.module_utils._blob_fetch import FetchOptions
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobListWriter
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._manifest import key_id
from ansible_collections.odkops.central.plugins.module_utils._pool import Pool
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository
from ansible_collections.odkops.central.plugins.module_utils._s3_settings import GivenS3, secret_of
from ansible_collections.odkops.central.plugins.module_utils._seal import salt_of_newest
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, verify_file

S3_MUTUALLY_EXCLUSIVE: tuple[tuple[str, ...], ...] = (("s3_secret_key", "s3_secret_key_file"),)
"""Goes into ``mutually_exclusive`` of each module that uses `s3_argument_spec`."""

_BANDWIDTH = re.compile(r"[0-9]+(?:\.[0-9]+)?[BKMG]?")

# What check mode takes for the key id where there is no salt yet.
_NO_KEY_ID = "0" * 16


def s3_argument_spec() -> dict[str, dict[str, Any]]:
    """The options that say where the objects are, as AnsibleModule takes them."""
    return {
        "s3_server": {"type": "str"},
        "s3_bucket": {"type": "str"},
        # It is no secret, and may be a short word such as "odk", which no_log would blot out in every path.
        "s3_access_key": {"type": "str", "no_log": False},
        "s3_secret_key": {"type": "str", "no_log": True},
        "s3_secret_key_file": {"type": "path", "no_log": False},
        "s3_prefix": {"type": "str"},
        "s3_region": {"type": "str"},
        "s3_ca_path": {"type": "path"},
        "s3_validate_certs": {"type": "bool", "default": True},
    }


def given_of(params: dict[str, Any]) -> GivenS3:
    """What is given of S3. An empty text is not given, but for the prefix.

    :raises CentralError: ``unreadable``, ``bad_passphrase``, ``bad_option``
    """
    return GivenS3(
        server=params["s3_server"] or None,
        bucket=params["s3_bucket"] or None,
        access_key=params["s3_access_key"] or None,
        secret_key=secret_of(params["s3_secret_key"], params["s3_secret_key_file"], "secret key"),
        prefix=params["s3_prefix"],
        region=params["s3_region"] or None,
        ca_path=params["s3_ca_path"],
        validate_certs=params["s3_validate_certs"],
    )


def fetch_options_of(params: dict[str, Any]) -> FetchOptions:
    """How objects are fetched.

    :raises CentralError: ``bad_option``
    """
    if not 1 <= params["transfers"] <= 256:
        raise CentralError("bad_option", f"transfers is {params['transfers']}: give 1 to 256.")
    bandwidth = params["bandwidth_limit"] or None
    if bandwidth is not None and not _BANDWIDTH.fullmatch(bandwidth):
        raise CentralError(
            "bad_option", "bandwidth_limit: give bytes per second with a unit (B, K, M, G), such as 10M for 10 MiB."
        )
    return FetchOptions(transfers=params["transfers"], bandwidth=bandwidth)


def open_pool(repository: Repository, central: str, passphrase: str | None, check_mode: bool = False) -> Pool:
    """Return the pool of `central` for `passphrase`; makes the salt of its key ids, where there is none yet.

    In check mode the repository need not exist: the backup may make it.

    :raises CentralError: ``not_a_repository``, ``bad_name``, ``destination_not_writable``, ``disk_full``
    """
    if not check_mode or os.path.lexists(repository.path):
        repository.require()
    if passphrase is None:
        return Pool(repository, central, None)
    salt = repository.key_id_salt(central)
    if salt is None:
        salt = salt_of_newest(repository, central)
        if check_mode:
            return Pool(repository, central, _NO_KEY_ID if salt is None else key_id(passphrase, salt))
        make_directory(repository.central_path(central))
        salt = repository.make_key_id_salt(central, salt)
    return Pool(repository, central, key_id(passphrase, salt))


@contextmanager
def list_of(
    given: str | None, backup: str | None, expected: Expectation, directory: str, check_mode: bool = False
) -> Iterator[str]:
    """Give the path of a list of objects: the one that is given, or one that is read from a backup of the database.

    :param directory: where the latter is put, until the context ends
    :param check_mode: the backup may not be there yet; then there is no list either
    :raises CentralError: as :func:`verify_file`
    """
    if given is not None:
        yield given
        return
    if backup is None:
        raise CentralError("bad_option", "Give list, or backup.")
    path = os.path.join(directory, "objects.jsonl")
    if check_mode and not os.path.exists(backup):
        yield path
        return
    with BlobListWriter(path) as writer:
        verify_file(backup, expected, writer.on_blob)
        writer.commit()
    try:
        yield path
    finally:
        os.unlink(path)
