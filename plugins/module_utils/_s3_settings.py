# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a Central's objects are: given, or read at the Central. The keys pass through memory only."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass
from typing import Any, Optional
from urllib.parse import urlsplit

from ansible_collections.odkops.central.plugins.module_utils._blob_list import MAXIMUM_ID, BlobEntry, BlobListWriter
from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._passphrase import read_secret_file
from ansible_collections.odkops.central.plugins.module_utils._rclone import S3Settings
from ansible_collections.odkops.central.plugins.module_utils._s3_operations import (
    BLOBS_IN_DATABASE,
    BLOBS_IN_S3,
    IDS_AT_ONCE,
    S3_SETTINGS,
)
from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_PREFIX = re.compile(r"(?:[^/\x00-\x20\x7f]+/)*[^/\x00-\x20\x7f]*")
_ROW = re.compile(rb"([1-9][0-9]{0,9})\t([0-9a-f]{40})\t(?:([0-9a-f]{32})|\\N)\t(?:([0-9]{1,15})|\\N)")
_TEXT = ("server", "bucket", "access_key", "secret_key", "prefix")


@dataclass(frozen=True)
class GivenS3:
    """What the administrator says of S3; None for what the Central itself knows."""

    server: Optional[str] = None
    bucket: Optional[str] = None
    access_key: Optional[str] = None
    secret_key: Optional[str] = None
    prefix: Optional[str] = None
    region: Optional[str] = None
    ca_path: Optional[str] = None
    validate_certs: bool = True

    @property
    def complete(self) -> bool:
        """Whether the Central has not to be asked. Without a prefix given there is none then."""
        return all((self.server, self.bucket, self.access_key, self.secret_key))


def secret_of(value: str | None, path: str | None, what: str) -> str | None:
    """Return a key that was given by value or by the path of a file that holds it.

    :raises CentralError: ``unreadable``, ``bad_passphrase``, ``bad_option``
    """
    if path is None:
        return value or None
    found = read_secret_file(path, what)
    if not found:
        raise CentralError("bad_option", f"{path} is empty. Write the {what} into it.")
    return found


def settings_of(given: GivenS3, channel: Channel | None) -> S3Settings:
    """Return the settings: what is given, and the Central's own for the rest.

    :param channel: None where no Central can be asked
    :raises CentralError: ``bad_option`` where something is still missing or cannot be; as the channel
    """
    own: dict[str, str] = {}
    if not given.complete and channel is not None:
        own = parse_settings(channel.run(S3_SETTINGS))
    found = {name: getattr(given, name) if getattr(given, name) is not None else own.get(name, "") for name in _TEXT}
    missing = [f"s3_{name}" for name in _TEXT[:4] if not found[name]]
    if missing:
        where = "The Central has no such setting, and" if channel is not None else "No Central was asked, and"
        raise CentralError(
            "bad_option",
            f"{where} {', '.join(missing)} is not given, so the objects that the database names cannot be fetched. Give "
            "s3_server, s3_bucket, s3_access_key and s3_secret_key, or the project of the Central that has them.",
        )
    check(found)
    return S3Settings(**found, region=given.region or "", ca_path=given.ca_path, validate_certs=given.validate_certs)


def parse_settings(data: bytes) -> dict[str, str]:
    """Read what the operation ``s3-settings`` answers.

    :raises CentralError: ``operation_failed``
    """
    try:
        value: Any = json.loads(data)
        return {name: str(value.get(name) or "") for name in _TEXT}
    except (ValueError, AttributeError, RecursionError) as error:
        raise CentralError("operation_failed", "The Central's answer about its S3 settings makes no sense.") from error


def check(found: dict[str, str]) -> None:
    """Refuse what cannot be, or what rclone would take for something else.

    :raises CentralError: ``bad_option``
    """
    problem = None
    parts = urlsplit(found["server"])
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        problem = "s3_server has to be an address such as https://s3.eu-west-1.amazonaws.com"
    elif not _BUCKET.fullmatch(found["bucket"]):
        problem = "s3_bucket cannot be the name of a bucket"
    elif not _PREFIX.fullmatch(found["prefix"]) or any(part in (".", "..") for part in found["prefix"].split("/")):
        problem = "s3_prefix cannot begin with a slash, or have two of them, blanks, or a part of dots only"
    elif any(ord(character) < 33 for name in ("access_key", "secret_key") for character in found[name]):
        problem = "the access key or the secret key has a blank or a line break in it"
    if problem:
        raise CentralError("bad_option", f"The S3 settings are wrong: {problem}.")


def in_clear(settings: S3Settings) -> bool:
    """Whether the objects cross a network unencrypted."""
    parts = urlsplit(settings.server)
    if parts.scheme == "https":
        return False
    with_address = parts.hostname or ""
    try:
        return not ipaddress.ip_address(with_address).is_loopback
    except ValueError:
        return with_address != "localhost"


def still_in_database(channel: Channel, ids: list[int]) -> set[int]:
    """Return those of `ids` that the live database still has.

    :raises CentralError: as the channel; ``operation_failed``
    """
    found: set[int] = set()
    for start in range(0, len(ids), IDS_AT_ONCE):
        asked = ids[start : start + IDS_AT_ONCE]
        answer = channel.run(BLOBS_IN_DATABASE, ",".join(map(str, asked)), timeout=120)
        try:
            there = {int(line) for line in answer.split()}
        except ValueError as error:
            raise _no_sense() from error
        found |= there & set(asked)
    return found


def list_live(channel: Channel, path: str) -> None:
    """Write the list of the objects that the live database says are in S3, for check mode: there is no dump then.

    :param path: of the file, which must not exist
    :raises CentralError: as the channel; ``operation_failed``, ``disk_full``
    """
    pending = b""
    with BlobListWriter(path) as writer, channel.stream(BLOBS_IN_S3, idle_timeout=300) as stream:
        while data := stream.read(CHUNK):
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                writer.add(_live_entry(line))
        if pending:
            raise _no_sense()
        writer.commit()


def _live_entry(line: bytes) -> BlobEntry:
    match = _ROW.fullmatch(line)
    if match is None or int(match[1]) > MAXIMUM_ID:
        raise _no_sense()
    number, sha1, md5, size = (None if value is None else value.decode("ascii") for value in match.groups())
    return BlobEntry(int(number or 0), sha1 or "", md5, None if size is None else int(size))


def _no_sense() -> CentralError:
    return CentralError("operation_failed", "The Central's answer about its blobs makes no sense.")
