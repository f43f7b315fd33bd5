# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A sealed set that something is restored from: its manifest, and where its parts lie."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Optional

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository, SetEntry
from ansible_collections.odkops.central.plugins.module_utils._seal import inspect_set
from ansible_collections.odkops.central.plugins.module_utils._set_verify import place_of


@dataclass(frozen=True)
class Part:
    """A part, as the manifest has it.

    :param path: of its file
    :param size: in bytes
    :param facts: all that the manifest says of it
    """

    path: str
    size: int
    sha256: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class SealedSet:
    """A set whose manifest was checked. The content of its parts was not.

    :param central: the name under which the Central is kept in the repository
    :param authenticated: whether the passphrase has authenticated the manifest
    """

    repository: Repository
    central: str
    set_id: str
    manifest: dict[str, Any]
    path: str
    authenticated: bool

    def part(self, name: str) -> Optional[Part]:
        """The part `name`: ``database``, ``enketo``, ``config`` or ``blobs``; None where the set was made without it."""
        facts = self.manifest["parts"].get(name)
        if facts is None:
            return None
        return Part(os.path.join(self.path, facts["file"]), facts["size"], facts["sha256"], facts)

    def why_absent(self, name: str) -> str:
        """What the manifest says of a part that the set does not have."""
        return str(self.manifest["absent"].get(name, "it does not say why"))

    def require(self, name: str) -> Part:
        """The part `name`.

        :raises CentralError: ``missing_part``
        """
        part = self.part(name)
        if part is None:
            raise CentralError(
                "missing_part",
                f"The set {self.set_id} has no part {name} ({self.why_absent(name)}). Use another set.",
                part=name,
            )
        return part


def open_set(path: str, passphrase: str | None, allow_unauthenticated: bool = False) -> SealedSet:
    """Return the sealed set in the directory `path`.

    :raises CentralError: ``not_a_set``, and as _set_verify.place_of and _seal.inspect_set
    """
    place = place_of(path)
    if not place.sealed:
        raise CentralError("not_a_set", f"{path} is not sealed, so it is no set yet.")
    entry = SetEntry(place.central, place.set_id, place.path)
    found = inspect_set(entry, passphrase, allow_unauthenticated)
    return SealedSet(
        place.repository, place.central, place.set_id, found["manifest"], place.path, found["authenticated"]
    )
