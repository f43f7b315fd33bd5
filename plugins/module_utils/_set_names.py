# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names in a repository: of Centrals, of sets, of parts, and the times that they carry.

Every name that becomes part of a path comes through here, so that none can lead out of the repository.
"""

from __future__ import annotations

import re
import secrets
from datetime import datetime, timezone

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError

#: The parts of a set, in the order in which they are taken.
PARTS = ("database", "enketo", "config", "blobs")

#: The file of each part, by its format. ``zip`` is what Central sent before v2026.2.
PART_FILES = {
    ("database", "pgdump.enc"): "database.pgdump.enc.bin",
    ("database", "pgdump"): "database.pgdump",
    ("database", "zip"): "database.zip",
    ("enketo", "tar.enc"): "enketo.tar.enc.bin",
    ("config", "tar.enc"): "config.tar.enc.bin",
    ("blobs", "jsonl"): "blobs.jsonl",
}

_CENTRAL = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_SET_ID = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)\.(\d{3})Z-[0-9a-f]{8}", re.ASCII)
_UTC = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|\+00:?00)", re.ASCII)
_PARTIAL = re.compile(r"\.(?P<id>[^/]+)\.partial")


def check_central_name(name: str) -> str:
    """Return `name` if a Central may be called so in a repository.

    :raises CentralError: ``bad_name``
    """
    if not _CENTRAL.fullmatch(name):
        raise CentralError(
            "bad_name",
            f"{name!r} cannot be the name of a Central in a repository: use 1 to 128 letters, digits, "
            "dots, underscores and hyphens of ASCII, and no dot at the start.",
        )
    return name


def new_set_id(now: datetime) -> str:
    """Return the id of a set that is opened at `now` (aware; the vault's clock), such as
    ``20261122T020000.123Z-0a1b2c3d``. The random end keeps two runs of one millisecond apart."""
    utc = now.astimezone(timezone.utc)
    return f"{utc:%Y%m%dT%H%M%S}.{utc.microsecond // 1000:03d}Z-{secrets.token_hex(4)}"


def set_id_time(set_id: str) -> datetime | None:
    """Return when the set `set_id` was opened, in UTC, or None where that is no id of a set."""
    match = _SET_ID.fullmatch(set_id)
    if match is None:
        return None
    year, month, day, hour, minute, second, milli = (int(group) for group in match.groups())
    try:
        return datetime(year, month, day, hour, minute, second, milli * 1000, timezone.utc)
    except ValueError:
        return None


def check_set_id(set_id: str) -> datetime:
    """Return when the set `set_id` was opened, in UTC; thereby know that it is the id of a set.

    :raises CentralError: ``bad_name``
    """
    opened = set_id_time(set_id)
    if opened is None:
        raise CentralError(
            "bad_name",
            f"{set_id!r} is not the id of a set. An id is like 20261122T020000.123Z-0a1b2c3d; "
            "central_set_info lists those that there are.",
        )
    return opened


def partial_name(set_id: str) -> str:
    """Return the name of the directory of the set `set_id` while it is being made."""
    return f".{set_id}.partial"


def partial_id(name: str) -> str | None:
    """Return the id of the set that the directory `name` is being made for, or None."""
    match = _PARTIAL.fullmatch(name)
    if match is None or set_id_time(match["id"]) is None:
        return None
    return match["id"]


def part_file(part: str, file_format: str) -> str:
    """Return the name that the file of `part` has in a sealed set.

    :raises CentralError: ``bad_name`` where there is no such part or it has no such format
    """
    try:
        return PART_FILES[part, file_format]
    except KeyError:
        raise CentralError("bad_name", f"A set has no part {part!r} of format {file_format!r}.") from None


def utc_text(moment: datetime) -> str:
    """Return `moment` (aware) as ISO 8601 text in UTC with milliseconds: ``2026-11-22T02:00:00.123Z``."""
    utc = moment.astimezone(timezone.utc)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z"


def utc_from_text(text: str) -> datetime | None:
    """Return the moment that the ISO 8601 text `text` names, or None unless it is one in UTC (``Z`` or ``+00:00``).

    What :func:`utc_text` has written is one.
    """
    match = _UTC.fullmatch(text)
    if match is None:
        return None
    try:
        begin = datetime.strptime(match[1], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    return begin.replace(microsecond=int((match[2] or "0").ljust(6, "0")[:6]))
