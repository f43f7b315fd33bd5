# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A configuration part and the files at a Central, side by side: which are the same, which differ, which only one has."""

from __future__ import annotations

import base64
import hashlib
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._config_operations import EXTRA_PATHS
from ansible_collections.odkops.central.plugins.module_utils._config_part import (
    INDEX,
    INDEX_TYPE,
    MAXIMUM_FILE_SIZE,
    SCHEMA,
    Collector,
    take_files,
)
from ansible_collections.odkops.central.plugins.module_utils._config_records import RecordReader
from ansible_collections.odkops.central.plugins.module_utils._config_restore_operations import LOOK, MOST_NAMES
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._set_parts import open_set
from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK
from ansible_collections.odkops.central.plugins.module_utils._tar_part import open_tar_part, verify_tar_part
from ansible_collections.odkops.central.plugins.module_utils._tar_reader import TarMember

CHECKOUT, HOST = "checkout/", "host/"

SAME, DIFFERS, MISSING, ONLY_HERE, NOT_COMPARED = "same", "differs", "missing here", "only here", "not compared"

#: names for what belongs together; a name with a slash behind it is a directory
GROUPS: dict[str, tuple[str, ...]] = {
    "env": (".env",),
    "override": ("docker-compose.override.yml",),
    "tls": ("files/local/customssl/",),
    "dkim": ("files/mail/rsa.private", "files/dkim/"),
    "templates": ("files/nginx/odk.conf.template", "files/nginx/client-config.json.template"),
}

# Contents that are kept for a difference that people read: of one file, and of all, in bytes.
_SHOWN_SIZE = 256 * 1024
_SHOWN_TOTAL = 16 * 1024 * 1024
_INDEX_SIZE = 64 * 1024 * 1024


@dataclass
class File:
    """A file, in the part or at the Central.

    :param mode: permissions
    :param content: where it is kept, for people to read
    """

    size: int
    sha256: str
    mode: int = 0o600
    content: Optional[bytes] = None


@dataclass
class Files:
    """Files by their names in a part (``checkout/.env``, ``host/etc/hostname``). It takes members as an archive does."""

    files: dict[str, File] = field(default_factory=dict)
    _kept: int = 0

    def add(
        self, name: str, content: bytes, size: int | None = None, mode: int = 0o600, mtime: int | None = None
    ) -> None:
        """Take a file."""
        self.note(name, len(content), hashlib.sha256(content).hexdigest(), mode, content)

    def note(self, name: str, size: int, sha256: str, mode: int, content: bytes | None) -> None:
        """Take a file whose digest is known, and its content where there is still room for it."""
        if content is not None and (size > _SHOWN_SIZE or self._kept + size > _SHOWN_TOTAL):
            content = None
        self._kept += len(content or b"")
        self.files[name] = File(size, sha256, mode, content)


@dataclass(frozen=True)
class ConfigPart:
    """A part that was read to its end and found right."""

    path: str
    passphrase: Optional[str]
    index: dict[str, Any]
    files: dict[str, File]

    def members(self, names: Iterable[str]) -> Iterator[TarMember]:
        """Read the members `names` again, one after the other. What is given is a stream, and has to be read at once."""
        wanted = set(names)
        with open_tar_part(self.path, self.passphrase) as reader:
            for member in reader:
                if member.name in wanted:
                    yield member


def part_of(path: str | None, directory: str | None, passphrase: str | None, allow_unauthenticated: bool) -> ConfigPart:
    """Read the part in the file `path`, or that of the sealed set in `directory`.

    :raises CentralError: ``not_a_set``, ``missing_part``, ``tampered``, ``wrong_passphrase``, ``corrupt`` and others
    """
    sha256 = None
    if directory is not None:
        part = open_set(directory, passphrase, allow_unauthenticated).require("config")
        path, sha256 = part.path, part.sha256
    if path is None:
        raise CentralError("bad_option", "Give set, or path.")
    verify_tar_part(path, passphrase, sha256)
    return _read(path, passphrase)


def _read(path: str, passphrase: str | None) -> ConfigPart:
    found = Files()
    index: Any = None
    with open_tar_part(path, passphrase) as reader:
        for member in reader:
            if member.name == INDEX and member.size <= _INDEX_SIZE:
                index = _json(b"".join(iter(lambda: member.read(CHUNK), b"")))  # noqa: B023
            elif member.name.startswith((CHECKOUT, HOST)):
                small = member.size <= _SHOWN_SIZE
                content = b"".join(iter(lambda: member.read(CHUNK), b"")) if small else None  # noqa: B023
                member.drain()
                found.note(member.name, member.size, member.sha256, member.mode, content)
    if not isinstance(index, dict) or index.get("type") != INDEX_TYPE or index.get("schema") != SCHEMA:
        raise CentralError(
            "unsafe_archive",
            f"{path} is not the configuration of a Central that this version of the collection has saved.",
        )
    return ConfigPart(path, passphrase, index, found.files)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


# --- what is asked for ------------------------------------------------------------------------------------------


def chosen(part: ConfigPart, wanted: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the members that `wanted` names, each with the path that it lies below (empty in the project's directory).

    :param wanted: groups; files and directories of the project, relative to its directory; extra paths, absolute
    :returns: these, and groups of which the part has nothing
    :raises CentralError: ``bad_option`` where something else is named that the part does not have
    """
    found: dict[str, str] = {}
    empty = []
    for one in wanted:
        if one in GROUPS:
            names = [name for path in GROUPS[one] for name in _below(part, CHECKOUT + path.rstrip("/"))]
            if not names:
                empty.append(one)
            root = ""
        else:
            plain = posixpath.normpath(one)
            outside = plain.startswith("/")
            if plain in (".", "/") or plain.startswith(("..", "//")) or re.search(r"[\x00-\x1f]", plain):
                raise CentralError("bad_option", f"files: {one!r} is neither a group nor the path of a file.")
            names = _below(part, HOST + plain[1:] if outside else CHECKOUT + plain)
            root = plain if outside else ""
            if not names:
                raise CentralError(
                    "bad_option",
                    f"files: the backup has no {one}. It has: {', '.join(map(path_of, sorted(part.files)))}.",
                )
        found.update({name: root for name in names if name not in found})
    return found, empty


def _below(part: ConfigPart, name: str) -> list[str]:
    return [member for member in part.files if member == name or member.startswith(name + "/")]


def path_of(member: str) -> str:
    """Return the path that a member has at the Central: relative to the project's directory, or absolute."""
    return member[len(CHECKOUT) :] if member.startswith(CHECKOUT) else member[len(HOST) - 1 :]


# --- what is there ----------------------------------------------------------------------------------------------


def compare(channel: Channel, part: ConfigPart, wanted: dict[str, str]) -> tuple[dict[str, str], dict[str, File]]:
    """Hold the part against what is at the Central.

    :param wanted: see :func:`chosen`; of what is outside of the project's directory, only that is looked at
    :returns: the state of each file by its member's name, and the files that are there
    :raises CentralError: as the channel; ``unreadable``, ``operation_failed``
    """
    here = Files()
    limit = max([MAXIMUM_FILE_SIZE, *(file.size for file in part.files.values())])
    collector = Collector(here, limit, 2**62)
    take_files(channel, collector, str(limit))
    collector.check()
    # Its own output of git is none of the files.
    here.files = {name: file for name, file in here.files.items() if name in collector.files}
    rest = [name for name in part.files if name.startswith(CHECKOUT) and name not in here.files]
    for names in in_calls((path_of(name), 0) for name in rest):
        with channel.stream(LOOK, str(limit), names) as stream:
            _take(RecordReader(stream, limit), here, CHECKOUT)
    for root in sorted({root for root in wanted.values() if root}):
        with channel.stream(EXTRA_PATHS, str(limit), root) as stream:
            _take(RecordReader(stream, limit), here, HOST)
    states = {}
    for name, file in part.files.items():
        there = here.files.get(name)
        if name.startswith(HOST) and name not in wanted:
            states[name] = NOT_COMPARED
        elif there is None:
            states[name] = MISSING
        else:
            states[name] = SAME if there.sha256 == file.sha256 else DIFFERS
    states.update({name: ONLY_HERE for name in here.files if name not in states})
    return states, here.files


def _take(records: RecordReader, here: Files, folder: str) -> None:
    for record in records:
        name = folder + record.name.decode("utf-8", "backslashreplace").lstrip("/")
        if record.kind == "file":
            if record.status != 0:
                raise CentralError(
                    "unreadable", f"{path_of(name)} cannot be read on the Central's host. Use become, or another user."
                )
            # Of a file that is too large, what was read of it is enough to differ.
            here.add(name, record.content or b"", mode=record.mode)
        elif record.kind in ("special", "large"):
            here.note(name, record.size, "", 0, None)


def encoded(path: str) -> str:
    """Return a path as the operations take it."""
    return base64.b64encode(path.encode("utf-8")).decode("ascii")


def in_calls(items: Iterable[tuple[str, int]]) -> Iterator[str]:
    """Give paths, each with a number behind it, as the parameters of as many calls as it takes."""
    call: list[str] = []
    for path, number in items:
        item = f"{encoded(path)}:{number}"
        if call and sum(map(len, call)) + len(call) + len(item) > MOST_NAMES:
            yield ",".join(call)
            call = []
        call.append(item)
    if call:
        yield ",".join(call)
