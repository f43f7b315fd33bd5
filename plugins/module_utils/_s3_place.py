# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where objects are, as far as that tells one Central's from another's: server, bucket, prefix, and no keys.

A Central that purges an attachment deletes its object by its name. Where two Centrals have the same server, bucket and prefix,
as a Central and its copy on another host would, either one's purge deletes what the other still needs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Optional
from urllib.parse import urlsplit

from ansible_collections.odkops.central.plugins.module_utils import _manifest
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._rclone import S3Settings
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository

_PORTS = {"http": 80, "https": 443}
_AMAZON = (".amazonaws.com", ".amazonaws.com.cn")
# Manifests that are looked through for the place of a Central's objects, the newest first.
_NEWEST = 10


@dataclass(frozen=True)
class S3Place:
    """Where a Central keeps its objects.

    :param server: the address, lower-case, without a port that says nothing
    """

    server: str
    bucket: str
    prefix: str

    @classmethod
    def of(cls, settings: S3Settings) -> S3Place:
        """Where these settings lead."""
        parts = urlsplit(settings.server)
        port = f":{parts.port}" if parts.port not in (None, _PORTS.get(parts.scheme)) else ""
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return cls(f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}", settings.bucket, settings.prefix)

    @classmethod
    def recorded(cls, part: Mapping[str, Any] | None) -> Optional[S3Place]:
        """What the entry of the part ``blobs`` in a manifest says; None where it says nothing."""
        found = (part or {}).get("s3")
        if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in _FIELDS):
            return None
        return cls(**{name: found[name] for name in _FIELDS})

    def as_dict(self) -> dict[str, str]:
        """As the manifest has it."""
        return asdict(self)

    def is_same(self, other: S3Place) -> bool:
        """Whether objects of one name would be the same object in both, as far as the addresses tell."""
        return (_who(self.server), self.bucket, self.prefix) == (_who(other.server), other.bucket, other.prefix)

    def __str__(self) -> str:
        return f"{self.server}, bucket {self.bucket}" + (f", prefix {self.prefix}" if self.prefix else "")


_FIELDS = ("server", "bucket", "prefix")


def _who(server: str) -> str:
    """Return who keeps the buckets of an address: http or https is no difference, and all of Amazon has one set of names."""
    address = server.partition("://")[2]
    host = address.partition("/")[0]
    return "amazon" if host.endswith(_AMAZON) else address


@dataclass(frozen=True)
class Owner:
    """A Central, and where it keeps its objects; empty for what is not known.

    :param places: more than one where it may have moved them
    """

    domain: str
    places: tuple[S3Place, ...]


def newest_owner(repository: Repository, central: str) -> Owner:
    """Return what the newest sets of `central` say of it. Their HMACs are not looked at.

    The DOMAIN is that of the newest set that has one, and so is the place.
    """
    domain = ""
    place: Optional[S3Place] = None
    for entry in repository.sets(central)[:_NEWEST]:
        try:
            manifest = _manifest.read(os.path.join(entry.path, _manifest.MANIFEST_FILE))
        except CentralError:
            continue
        domain = domain or domain_of(manifest["identity"])
        place = place or S3Place.recorded(manifest["parts"].get("blobs"))
        if domain and place:
            break
    return Owner(domain, () if place is None else (place,))


def domain_of(identity: Mapping[str, Any]) -> str:
    """Return the DOMAIN that the identity in a manifest has, else the host of its address; empty where it has neither."""
    domain, url = identity.get("domain"), identity.get("url")
    if isinstance(domain, str) and domain:
        return _plain(domain)
    return _plain(urlsplit(url).hostname or "") if isinstance(url, str) else ""


def _plain(domain: str) -> str:
    return domain.lower().rstrip(".")


def refuse_sharing(source: Owner, domain: str, place: S3Place) -> None:
    """Refuse to let two Centrals have the same objects.

    :param source: the Central that the backup is of
    :param domain: of the Central whose objects are to be put back; empty where it is not known
    :param place: where they are to be put
    :raises CentralError: ``shared_bucket``
    """
    if source.domain and domain and _plain(source.domain) == _plain(domain):
        return
    if source.places and not any(one.is_same(place) for one in source.places):
        return
    own = source.domain or "a Central that it does not name"
    other = domain or "a Central that is not named (give project_directory, ssh_host or domain)"
    if source.places:
        why = f"and both would have them in the same place: {place}."
    else:
        why = f"and the backup does not say where that one keeps its objects, so that it may be here: {place}."
    raise CentralError(
        "shared_bucket",
        f"The backup is of {own}, the objects are for {other}, {why} What either one purges then, the other has lost. Give the "
        "new Central a bucket or a prefix of its own; if the old one is out of service for good, say source_retired=true.",
        source_domain=source.domain,
        target_domain=domain,
        s3=place.as_dict(),
    )
