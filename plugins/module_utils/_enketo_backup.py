# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backing Enketo up into a file, or finding out whether that would go well."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._backup_terms import Stopwatch, Terms
from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._destination import Destination
from ansible_collections.odkops.central.plugins.module_utils._enketo_part import ask_for_secrets, write_part
from ansible_collections.odkops.central.plugins.module_utils._enketo_rdb import number, parse_lines
from ansible_collections.odkops.central.plugins.module_utils._enketo_secrets import parse_sizes
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._set_names import part_file
from ansible_collections.odkops.central.plugins.module_utils._tar_part import FORMAT

_SHOWN = 20
_LONGEST_SAVE = 86400


@dataclass(frozen=True)
class Request:
    """What is to be backed up, and how.

    :param save_timeout: seconds that Redis may take to save
    """

    channel: Channel
    terms: Terms
    save_timeout: int = 300

    def check(self) -> Destination:
        """See whether it makes sense.

        :returns: where the part goes
        :raises CentralError: ``bad_option``, ``no_passphrase``, ``weak_passphrase``, ``destination_exists``,
            ``destination_not_writable``, ``disk_full``
        """
        if not 0 < self.save_timeout <= _LONGEST_SAVE:
            raise CentralError("bad_option", f"save_timeout is {self.save_timeout}: give 1 to {_LONGEST_SAVE} seconds.")
        self.terms.check()
        return Destination(self.terms.dest)


def _path(destination: Destination) -> str:
    if destination.is_file:
        return os.path.abspath(destination.dest)
    return os.path.join(destination.directory, part_file("enketo", FORMAT))


def _check(request: Request) -> tuple[Destination, int]:
    destination = request.check()
    free = destination.check(request.terms.expected_size or 0)
    path = _path(destination)
    if os.path.lexists(path):
        raise CentralError(
            "destination_exists",
            f"{path} exists already and is never overwritten. Move it away, or choose another dest.",
        )
    return destination, free


def rehearse(request: Request) -> dict[str, Any]:
    """Do all of a backup that changes nothing: reach Redis and the secrets, look at the destination.

    :returns: ``free`` (bytes), ``redis_version``, ``keys``, ``warnings``
    :raises CentralError: with the diagnosis of what is wrong
    """
    _destination, free = _check(request)
    lines = parse_lines(request.channel.run("enketo-info", "10").split(b"\n\n", 1)[0])
    parse_sizes(ask_for_secrets(request.channel, "sizes"))
    warnings = []
    room = number(lines, "free") * 1024
    if room < number(lines, "memory"):
        warnings.append(
            f"Redis of Enketo may need {lines['memory']} bytes to save, and its disk has {room} free. "
            "Make room on the Central's host."
        )
    keys = sum(int(count) for count in lines.get("keys", "").split() if count.isdigit())
    return {"free": free, "redis_version": lines.get("redis_version", ""), "keys": keys, "warnings": warnings}


def backup(request: Request) -> dict[str, Any]:
    """Make the part.

    :returns: as :func:`write_part`, with ``started_at``, ``finished_at``, ``elapsed``, ``warnings``
    :raises CentralError: with the diagnosis of what is wrong; nothing is left at the destination then
    """
    destination, _free = _check(request)
    watch = Stopwatch()
    try:
        destination.make()
        made = write_part(request.channel, _path(destination), request.terms.passphrase, request.save_timeout)
    except BaseException:
        destination.unmake()
        raise
    return {**made, **watch.stop(), "warnings": _warnings(made)}


def _warnings(made: dict[str, Any]) -> list[str]:
    warnings = []
    broken = made.pop("broken_links")
    if broken:
        more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        warnings.append(
            f"Redis of Enketo holds {len(broken)} Web Forms link(s) that cannot work, here and after a restore: "
            f"{'; '.join(broken[:_SHOWN])}{more}."
        )
    index = made["enketo"]
    if index["export"]["gone"]:
        warnings.append(
            f"{index['export']['gone']} key(s) of the snapshot of Redis are not in the export that came after it: they were "
            "deleted meanwhile, which Enketo does not do."
        )
    if index["rdb"]["redis_check_rdb"] is None:
        warnings.append(
            "There is no redis-check-rdb in the container, so only the collection has checked the RDB file."
        )
    if index["rdb"]["unknown"] is not None:
        warnings.append(
            f"The RDB file has {index['rdb']['unknown']}, which this collection does not know. Its CRC-64 is right."
        )
    return warnings
