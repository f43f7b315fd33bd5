# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backing the configuration of a Central up into a file, or finding out whether that would go well."""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._backup_terms import Stopwatch, Terms
from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._config_part import (
    MAXIMUM_FILE_SIZE,
    MAXIMUM_TOTAL_SIZE,
    Collector,
    collect,
)
from ansible_collections.odkops.central.plugins.module_utils._destination import Destination
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._set_names import part_file
from ansible_collections.odkops.central.plugins.module_utils._tar_part import FORMAT, TarPart

_LARGEST = 1024 * 1024 * 1024
_PATH = re.compile(r"(?:/[^/\n\0]+)+")


@dataclass(frozen=True)
class Request:
    """What is to be backed up, and how.

    :param extra_paths: absolute paths of files and directories on the Central's host
    :param maximum_file_size: bytes; larger files are left out
    :param maximum_total_size: bytes of all files
    """

    channel: Channel
    terms: Terms
    extra_paths: tuple[str, ...] = ()
    maximum_file_size: int = MAXIMUM_FILE_SIZE
    maximum_total_size: int = MAXIMUM_TOTAL_SIZE

    def path(self) -> str:
        """See whether it makes sense, and can be written.

        :returns: the path of the part
        :raises CentralError: ``bad_option``, ``no_passphrase``, ``weak_passphrase``, ``destination_exists``,
            ``destination_not_writable``, ``disk_full``
        """
        self.terms.check()
        for name, size in (("max_file_size", self.maximum_file_size), ("max_total_size", self.maximum_total_size)):
            if not 0 < size <= _LARGEST:
                raise CentralError("bad_option", f"{name} is {size}: give bytes, 1 to {_LARGEST}.")
        for path in self.extra_paths:
            if not _PATH.fullmatch(path) or posixpath.normpath(path) != path:
                raise CentralError("bad_option", f"extra_paths: {path!r} is not a plain absolute path.")
        destination = Destination(self.terms.dest)
        destination.check(self.terms.expected_size or 0)
        if destination.is_file:
            return os.path.abspath(self.terms.dest)
        path = os.path.join(destination.directory, part_file("config", FORMAT))
        if os.path.lexists(path):
            raise CentralError(
                "destination_exists",
                f"{path} exists already and is never overwritten. Move it away, or choose another dest.",
            )
        return path

    def collector(self, part: TarPart | None) -> Collector:
        """What takes the files."""
        return Collector(part, self.maximum_file_size, self.maximum_total_size)


def _result(index: dict[str, Any]) -> dict[str, Any]:
    told = ("central_version", "checkout", "project", "absent", "left_out", "notes")
    return {"config": {**{name: index[name] for name in told}, "files": sorted(index["files"])}}


def rehearse(request: Request) -> dict[str, Any]:
    """Read everything, and write nothing.

    :returns: ``config`` (see :func:`backup`), ``warnings``
    :raises CentralError: with the diagnosis of what is wrong
    """
    request.path()
    found = _result(collect(request.channel, request.collector(None), request.extra_paths))
    return {**found, "warnings": list(found["config"]["notes"])}


def backup(request: Request) -> dict[str, Any]:
    """Make the part.

    :returns: ``path``, ``format``, ``encrypted``, ``size``, ``sha256`` of the part; ``members`` (name and size of each, but
        no digest, which would tell a guesser whether a password in a file is the right one); ``config``: what was found;
        ``started_at``, ``finished_at``, ``elapsed``, ``warnings``
    :raises CentralError: with the diagnosis of what is wrong; nothing is left at the destination then
    """
    path = request.path()
    destination = Destination(request.terms.dest)
    watch = Stopwatch()
    try:
        destination.make()
        with TarPart(path, request.terms.passphrase) as part:
            found = _result(collect(request.channel, request.collector(part), request.extra_paths))
            made = part.commit()
    except BaseException:
        destination.unmake()
        raise
    made["members"] = [{"name": member["name"], "size": member["size"]} for member in made["members"]]
    return {**made, **found, **watch.stop(), "warnings": list(found["config"]["notes"])}
