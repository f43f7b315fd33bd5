# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration of a Central, collected.

What becomes a member of the part:

- ``checkout/...``: files of the project's directory: ``.env``, the override, keys and certificates, templates, what
  differs from the checkout's commit, and what git does not know and does not ignore;
- ``host/...``: the extra paths;
- ``git/...``: commit, description, branch, status, changes, and commits that are nowhere else;
- ``compose/...``: the project as Docker Compose resolves it, its images, the version of Compose;
- ``version.txt``: what nginx says is installed;
- ``config.json``: what all of this is, and what is absent or left out, and why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._config_operations import EXTRA_PATHS
from ansible_collections.odkops.central.plugins.module_utils._config_records import Record, RecordReader
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._tar_reader import name_problem

INDEX = "config.json"
INDEX_TYPE = "odk-central-config"
SCHEMA = 1

MIB = 1024 * 1024
MAXIMUM_FILE_SIZE = 10 * MIB
MAXIMUM_TOTAL_SIZE = 200 * MIB
#: of what a single command prints, such as the changes of the checkout
_MAXIMUM_OUTPUT = 64 * MIB
_SHOWN = 10

#: why a file that a stock Central need not have is not there
_USUALLY_ABSENT = {
    "docker-compose.override.yml": "There is none.",
    "files/dkim": "There is no such directory; from v2023.4 on the DKIM key is files/mail/rsa.private.",
    "files/mail/rsa.private": "There is none: mail is not signed by DKIM, or by another server.",
    "files/local/customssl": "There is no such directory.",
    "files/allow-postgres14-upgrade": "There is none; a Central that has come from before v2023.2 has it.",
}
_WHY_NO_GIT = {
    "no-git": "The project's directory is no git checkout.",
    "no-git-command": "There is no git on the Central's host.",
    "no-commit": "git cannot tell the commit of the checkout.",
}
# The mounts of a stock Central that are not below the project's directory.
_STOCK_BINDS = ("/data/transfer", "/var/run/docker.sock", "/run/docker.sock", "/etc/localtime", "/etc/timezone")
_VERSION = re.compile(r"^[0-9a-f]{7,40} \((?P<version>[^)\s]{1,100})\)", re.MULTILINE)


class Archive(Protocol):
    """What takes the members: a TarPart, or nothing."""

    def add(
        self, name: str, content: bytes, size: int | None = None, mode: int = 0o600, mtime: int | None = None
    ) -> Any:
        """Append a member."""


@dataclass
class Collector:
    """Takes records, and knows afterwards what there was.

    :param archive: where members go; None to look only
    """

    archive: Archive | None
    maximum_file_size: int = MAXIMUM_FILE_SIZE
    maximum_total_size: int = MAXIMUM_TOTAL_SIZE
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    total: int = 0
    _unreadable: list[str] = field(default_factory=list)
    _changed: list[str] = field(default_factory=list)

    # --- members ------------------------------------------------------------------------------------------------

    def _add(self, name: str, content: bytes, mode: int = 0o600, mtime: int | None = None) -> bool:
        if self.total + len(content) > self.maximum_total_size:
            return False
        self.total += len(content)
        if self.archive is not None:
            self.archive.add(name, content, mode=mode, mtime=mtime)
        return True

    def take(self, record: Record, folder: str) -> None:
        """Take one record of a file; `folder` is where it goes in the part."""
        shown = _shown(record.name, folder)
        if record.kind == "more":
            self.notes.append(
                f"There are {record.size} files ({record.origin}), of which only the first ones in the order of their names "
                "are in the part. Move what does not belong there, or name directories as extra paths."
            )
        elif record.kind == "absent":
            if record.origin == "fixed":
                self.absent[shown] = _USUALLY_ABSENT.get(_text(record.name) or "", "It is not there.")
            elif record.origin == "extra":
                self._unreadable.append(f"{shown} (it is not there)")
        elif record.kind == "special":
            self.left_out[shown] = "It is neither a file nor a link that leads to one."
        elif record.kind == "link":
            self.left_out[shown] = f"It is a symbolic link to {_shown(record.target)}, which is not followed."
        elif record.kind == "large":
            self.left_out[shown] = f"It has {record.size} bytes, more than the {self.maximum_file_size} allowed."
        elif record.kind == "file":
            self._take_file(record, folder, shown)

    def _take_file(self, record: Record, folder: str, shown: str) -> None:
        if record.status != 0:
            self._unreadable.append(shown)
            return
        relative = _relative(record.name)
        name = None if relative is None else f"{folder}/{relative}"
        problem = "it is not UTF-8" if name is None else name_problem(name)
        if name is None or problem is not None:
            self.left_out[shown] = f"Its name cannot be kept: {problem}."
            return
        if name in self.files:
            return
        if record.changed:
            if record.origin in ("fixed", "edited"):
                self._changed.append(shown)
                return
            self.notes.append(f"{shown} changed while it was read.")
        if record.content is None:
            self.left_out[shown] = f"It has more than the {self.maximum_file_size} bytes allowed."
        elif self._add(name, record.content, record.mode, record.mtime):
            self.files[name] = {
                "origin": record.origin,
                "mode": f"{record.mode:04o}",
                "mtime": record.mtime,
                "size": len(record.content),
            }
        else:
            self.left_out[shown] = (
                f"With it, the part would have more than the {self.maximum_total_size} bytes allowed."
            )

    def take_output(self, record: Record, why_absent: str) -> None:
        """Take what a command printed."""
        name = record.name.decode("utf-8")
        if record.content is None:
            self.absent[name] = f"It has more than {_MAXIMUM_OUTPUT} bytes."
        elif record.status != 0:
            self.absent[name] = f"{why_absent} (exit status {record.status})."
        elif not record.content.strip():
            self.outputs[name] = ""  # nothing to say, such as no changes
        elif self._add(name, record.content):
            self.outputs[name] = record.content.decode("utf-8", "replace")
        else:
            self.absent[name] = f"With it, the part would have more than the {self.maximum_total_size} bytes allowed."

    def check(self) -> None:
        """See whether all could be read that is there.

        :raises CentralError: ``unreadable``, ``operation_failed``
        """
        if self._unreadable:
            names = ", ".join(self._unreadable[:_SHOWN]) + (", ..." if len(self._unreadable) > _SHOWN else "")
            raise CentralError(
                "unreadable",
                f"Files of the Central's configuration cannot be read on its host: {names}. Use become, or let the "
                "user of the gate read them.",
                files=self._unreadable,
            )
        if self._changed:
            raise CentralError(
                "operation_failed",
                f"Files of the Central's configuration changed while they were read: {', '.join(self._changed)}. "
                "Somebody works there: try again.",
            )


def _text(name: bytes) -> str | None:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _relative(name: bytes) -> str | None:
    text = _text(name)
    if text is None:
        return None
    return text[2:] if text.startswith("./") else text.lstrip("/")


def _shown(name: bytes, folder: str = "") -> str:
    """`name` for people: printable, and text in any case."""
    text = name.decode("utf-8", "backslashreplace")
    text = text[2:] if text.startswith("./") else text
    text = "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in text)
    return text if folder != "host" or text.startswith("/") else f"/{text}"


# --- what is asked ----------------------------------------------------------------------------------------------


def collect(channel: Channel, collector: Collector, extra_paths: Sequence[str] = ()) -> dict[str, Any]:
    """Read the configuration of a Central.

    :returns: the content of ``config.json``, which has become the last member but the sums
    :raises CentralError: as the channel; ``unreadable``, ``operation_failed``
    """
    limit = str(collector.maximum_file_size)
    git = take_files(channel, collector, limit)
    for path in extra_paths:
        with channel.stream(EXTRA_PATHS, limit, path) as stream:
            for record in RecordReader(stream, collector.maximum_file_size):
                collector.take(record, "host")
    with channel.stream("config-compose") as stream:
        for record in RecordReader(stream, _MAXIMUM_OUTPUT):
            collector.take_output(record, "This version of Docker Compose does not tell it")
    if "compose/config.yml" in collector.absent:
        collector.notes.append("Docker Compose could not resolve the project. Run `docker compose config` to see why.")
    _take_version(channel, collector)
    collector.check()
    index = {
        "type": INDEX_TYPE,
        "schema": SCHEMA,
        "central_version": _central_version(collector),
        "checkout": _checkout(collector) if git else None,
        "project": _project(collector, extra_paths),
        "files": collector.files,
        "absent": collector.absent,
        "left_out": collector.left_out,
        "notes": collector.notes,
    }
    content = json.dumps(index, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"
    if collector.archive is not None:
        collector.archive.add(INDEX, content)
    return index


def take_files(channel: Channel, collector: Collector, limit: str) -> bool:
    """Read what is in the project's directory, and say whether git knows about it."""
    git = False
    with channel.stream("config-files", limit) as stream:
        for record in RecordReader(stream, max(collector.maximum_file_size, _MAXIMUM_OUTPUT)):
            if record.kind == "output":
                collector.take_output(record, "git could not tell it")
            elif record.kind == "git":
                git = True
            elif record.kind in _WHY_NO_GIT:
                collector.absent["git"] = _WHY_NO_GIT[record.kind]
            else:
                collector.take(record, "checkout")
    return git


def _take_version(channel: Channel, collector: Collector) -> None:
    try:
        with channel.stream("config-version") as stream:
            for record in RecordReader(stream, MIB):
                collector.take_output(record, "The container of nginx does not have it")
    except CentralError as error:
        if error.diagnosis not in ("service_not_running", "not_a_compose_project"):
            raise
        collector.absent["version.txt"] = "nginx, which has it, does not run."


def _central_version(collector: Collector) -> str | None:
    """What version.txt says in its first line but one, such as ``v2026.1.0``."""
    found = _VERSION.search(collector.outputs.get("version.txt", ""))
    return found["version"] if found else None


def _checkout(collector: Collector) -> dict[str, Any]:
    said = {name: collector.outputs.get(f"git/{name}", "").strip() for name in ("commit", "describe", "branch")}
    status = collector.outputs.get("git/status", "").splitlines()
    unpublished = "git/unpublished.bundle"
    if unpublished in collector.absent:
        collector.notes.append(
            "The checkout has commits that no remote branch and no tag holds, and they are not in the part: "
            f"{collector.absent[unpublished]}"
        )
    for name in ("commit", "status", "changes.diff"):
        if f"git/{name}" in collector.absent:
            collector.notes.append(
                f"What differs from the checkout's commit is not known for certain: git/{name} is absent."
            )
    return {
        **said,
        "modified": sorted(line[3:] for line in status if not line.startswith("??")),
        "untracked": sum(1 for line in status if line.startswith("??")),
        "unpublished_commits": bool(collector.outputs.get(unpublished)) or unpublished in collector.absent,
    }


def _project(collector: Collector, extra_paths: Sequence[str]) -> str | None:
    """The project's name, as Compose says it; notes what it mounts that is not in the part."""
    try:
        resolved = json.loads(collector.outputs.get("compose/config.json", ""))
        services = list(resolved.get("services", {}).items())
        name = resolved.get("name")
        directories = collector.outputs.get("compose/directory", "").split("\n")
        outside = sorted(
            {
                f"{mount['source']} ({service})"
                for service, about in services
                for mount in about.get("volumes") or []
                if mount.get("type") == "bind" and not _covered(str(mount["source"]), [*directories, *extra_paths])
            }
        )
    except (ValueError, AttributeError, KeyError, TypeError):
        return None
    if outside:
        collector.notes.append(
            "Directories and files of the host are mounted into containers and are not in the part: "
            f"{', '.join(outside)}. Name as extra paths what a restore needs."
        )
    return name if isinstance(name, str) else None


def _covered(source: str, places: Sequence[str]) -> bool:
    return any(
        source == place or source.startswith(place.rstrip("/") + "/") for place in [*_STOCK_BINDS, *places] if place
    )
