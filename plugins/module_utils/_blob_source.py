# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the objects of a backup are: the list of a set, its pool, and whose they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pool import Pool
from ansible_collections.odkops.central.plugins.module_utils._s3_place import (
    Owner,
    S3Place,
    domain_of,
    newest_owner,
)
from ansible_collections.odkops.central.plugins.module_utils._seal import check_file
from ansible_collections.odkops.central.plugins.module_utils._set_parts import open_set


@dataclass(frozen=True)
class BlobSource:
    """The objects of a backup.

    :param list_path: see _blob_list.py
    :param owner: the Central that the backup is of
    """

    list_path: str
    pool: Pool
    owner: Owner

    def require(self, passphrase: str | None) -> None:
        """See whether the pool is there, and can be opened.

        :raises CentralError: ``missing_blob``, ``no_passphrase``
        """
        if self.pool.encrypted and not passphrase:
            raise CentralError(
                "no_passphrase", "The objects are encrypted. Give passphrase or passphrase_file, that of the backup."
            )
        if not self.pool.exists:
            raise CentralError(
                "missing_blob",
                f"There is no pool {self.pool.path}, which should hold the objects of the backup. Check the repository, and "
                "that the passphrase is the one that the backup was made with.",
            )


def source_of_set(path: str, passphrase: str | None, allow_unauthenticated: bool = False) -> Optional[BlobSource]:
    """Return where the objects of the sealed set in the directory `path` are; None where its database names none.

    :raises CentralError: ``not_a_set``, ``missing_part``, ``corrupt``, ``tampered``, and as _seal.inspect_set
    """
    opened = open_set(path, passphrase, allow_unauthenticated)
    manifest, part = opened.manifest, opened.part("blobs")
    if part is None:
        in_s3 = ((manifest["database"].get("central") or {}).get("blobs") or {}).get("uploaded") or 0
        if in_s3:
            raise CentralError(
                "missing_part",
                f"The database of the set names {in_s3} attachments in S3, and the set was made without them: "
                f"{opened.why_absent('blobs')}",
                part="blobs",
            )
        return None
    check_file(part.path, "blobs", part.size, part.sha256)
    own, newest = S3Place.recorded(part.facts), newest_owner(opened.repository, opened.central)
    # It may have moved its objects since; and a set from before they were noted does not say where they were.
    owner = Owner(domain_of(manifest["identity"]), ((own,) if own else ()) + newest.places)
    pool = Pool(opened.repository, opened.central, part.facts["pool"] if part.facts["encrypted"] else None)
    return BlobSource(part.path, pool, owner)
