# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting files of a Central's configuration back: those that are asked for, all of them or none.

A journal at the Central says what was begun, see _restore_journal.py. What is undone or finished goes by what there is beside the
files, see _config_restore_operations.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._config_compare import (
    DIFFERS,
    MISSING,
    ConfigPart,
    File,
    chosen,
    compare,
    encoded,
    in_calls,
    path_of,
)
from ansible_collections.odkops.central.plugins.module_utils._config_diff import shown
from ansible_collections.odkops.central.plugins.module_utils._config_restore_operations import (
    CHECK,
    ELSEWHERE,
    FORGET,
    PUT,
    SUMS,
    SWAP,
    UNDO,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._restore_journal import (
    COMMITTED,
    Journal,
    new_tag,
    unfinished,
)

KIND = "config"

# A name gets an ending of up to 50 characters while it waits, and may have 255.
_LONGEST_NAME = 200
_IN_THE_WAY = {
    "link": "it is a symbolic link there",
    "special": "there is a directory, or something else that is no file",
    "through-link": "a directory on the way there is a symbolic link",
    "through-file": "something on the way there is no directory",
    "no-directory": "the directory of the path does not exist there: make it first",
}
_COMPOSE_READS = (".env", "docker-compose.yml", "docker-compose.override.yml")


@dataclass(frozen=True)
class ConfigRestore:
    """What is to be done.

    :param files: what is to be put back, see _config_compare.py; nothing by default
    :param keep_previous: keep what was there as ``NAME.before-TAG``
    :param show_secrets: in the differences
    """

    channel: Channel
    part: ConfigPart
    files: tuple[str, ...] = ()
    keep_previous: bool = False
    show_secrets: bool = False


@dataclass(frozen=True)
class _Item:
    """A file that is to be written."""

    member: str
    #: the path that it lies below; empty in the project's directory
    root: str
    #: how many directories have to be made for it
    missing: int = 0


def restore_config(task: ConfigRestore, check_mode: bool = False) -> dict[str, Any]:
    """Compare, and write what is asked for and differs, after undoing what a run has left that was ended.

    :returns: ``changed``; ``files``: of each ``name``, ``state`` and ``written`` (in check mode: whether it would be);
        ``kept``: where the previous files are; ``recovered``: whether a run before was undone or finished; ``diff``; ``warnings``
    :raises CentralError: ``bad_option``, ``unsafe_path``, ``restore_unfinished``, as the channel, and as the parts of it.
        Everything is as it was then, or the next run makes it so
    """
    wanted, empty = chosen(task.part, task.files)
    recovered, warnings = _finish_before(task.channel, check_mode)
    warnings += [f"The backup has nothing of the group {one}; what there is stays." for one in empty]
    states, here = compare(task.channel, task.part, wanted)
    items = [_Item(name, root) for name, root in wanted.items() if states[name] in (DIFFERS, MISSING)]
    items = _preflight(task.channel, items)
    kept: list[str] = []
    if items and not check_mode:
        kept = _write(task, items, {item.member for item in items if states[item.member] == DIFFERS}, warnings)
    written = {item.member for item in items}
    if any(path_of(name) in _COMPOSE_READS for name in written):
        warnings.append(
            "Docker Compose reads what was written when it makes containers: `docker compose up -d` takes it over."
        )
    names = sorted(states, key=path_of)
    return {
        "changed": bool(items) or recovered,
        "files": [{"name": path_of(name), "state": states[name], "written": name in written} for name in names],
        "kept": kept,
        "recovered": recovered,
        "diff": list(_differences(task, states, here, written)),
        "warnings": warnings,
    }


def _differences(
    task: ConfigRestore, states: dict[str, str], here: dict[str, File], written: set[str]
) -> Iterator[dict[str, str]]:
    """What Ansible shows in diff mode, of what differs."""
    for name in sorted(states, key=path_of):
        if states[name] not in (DIFFERS, MISSING):
            continue
        before, after = here.get(name), task.part.files[name]
        # What is too large to be kept is not shown either: None would say that it is not there.
        contents = [None if file is None else file.content or b"\0" for file in (before, after)]
        if after.size == 0:
            contents[1] = b""
        if before is not None and before.size == 0:
            contents[0] = b""
        first, second = shown(path_of(name), contents[0], contents[1], task.show_secrets)
        path = path_of(name)
        yield {
            "before_header": f"{path} (at the Central)",
            "after_header": f"{path} (in the backup{'' if name in written else ', not asked for'})",
            "before": first,
            "after": second,
        }


# --- before -----------------------------------------------------------------------------------------------------


def _finish_before(channel: Channel, check_mode: bool) -> tuple[bool, list[str]]:
    journal = Journal.read(channel)
    if journal is None:
        return False, []
    if journal.kind != KIND:
        raise unfinished(journal)
    if check_mode:
        return True, [
            "A run before was ended while it wrote, and would be undone first. Files are compared as they are now."
        ]
    finish_config(channel, journal)
    return True, ["A run before was ended while it wrote. Its files were put back, or finished, as its journal says."]


def finish_config(channel: Channel, journal: Journal) -> None:
    """Undo a restore of the configuration that was begun, or tidy up behind one that has succeeded; remove its journal.

    :raises CentralError: ``bad_journal``, and as the channel; the journal is still there then
    """
    try:
        items = [_Item(str(item["member"]), str(item["root"]), int(item["missing"])) for item in journal.facts["items"]]
        keep = bool(journal.facts["keep_previous"])
    except (KeyError, TypeError, ValueError) as error:
        raise CentralError(
            "bad_journal",
            "The journal of a restore of the configuration cannot be understood by this version of the collection.",
        ) from error
    if journal.stage == COMMITTED:
        _forget(channel, journal.tag, items, keep)
    else:
        _undo(channel, journal.tag, items)
    journal.end()


def _preflight(channel: Channel, items: list[_Item]) -> list[_Item]:
    """See whether each file can be written where it belongs; returns them with the directories that they lack."""
    ready, refused = [], []
    for group in _groups(items):
        answers = _lines(channel, CHECK, group)
        for item, answer in zip(group, answers):
            kind, missing, length = answer.split(" ")
            if kind in _IN_THE_WAY:
                refused.append(f"{path_of(item.member)} ({_IN_THE_WAY[kind]})")
            elif int(length) > _LONGEST_NAME:
                refused.append(f"{path_of(item.member)} (its name is too long)")
            ready.append(_Item(item.member, item.root, int(missing)))
    if refused:
        raise CentralError(
            "unsafe_path",
            f"Not written, since they may lead elsewhere or cannot be files there: {', '.join(refused)}. Nothing was changed.",
            files=refused,
        )
    return ready


# --- writing ----------------------------------------------------------------------------------------------------


def _write(task: ConfigRestore, items: list[_Item], replaced: set[str], warnings: list[str]) -> list[str]:
    tag = new_tag()
    facts = [{"member": item.member, "root": item.root, "missing": item.missing} for item in items]
    try:
        journal = Journal.begin(task.channel, tag, KIND, items=facts, keep_previous=task.keep_previous)
        _put(task, tag, items)
        journal.note("swapping")
        for group in _groups(items):
            _call(task.channel, SWAP, group, tag)
        _verify(task, items)
        journal.note(COMMITTED)
    except BaseException as error:
        if _settle(task.channel, tag, error):
            return _kept(task, tag, replaced)
        raise
    try:
        _forget(task.channel, tag, items, task.keep_previous)
        journal.end()
    except CentralError as error:
        warnings.append(
            f"All files are written. What was kept meanwhile is left to the next run to be removed: {error.message}"
        )
    return _kept(task, tag, replaced)


def _settle(channel: Channel, tag: str, error: BaseException) -> bool:
    """Undo, or finish where the journal says at the Central that all was done; returns which. The next run does it else."""
    try:
        found = Journal.read(channel)
        if found is not None and found.tag == tag:
            finish_config(channel, found)
            return found.stage == COMMITTED
    except CentralError as second:
        if isinstance(error, CentralError):
            error.message += (
                f" Putting back what was there failed as well, and is left to the next run: {second.message}"
            )
    return False


def _kept(task: ConfigRestore, tag: str, replaced: set[str]) -> list[str]:
    return sorted(f"{path_of(name)}.before-{tag}" for name in replaced) if task.keep_previous else []


def _put(task: ConfigRestore, tag: str, items: list[_Item]) -> None:
    by_member = {item.member: item for item in items}
    for member in task.part.members(by_member):
        item, file = by_member[member.name], task.part.files[member.name]
        operation, last = _of(PUT, item.root)
        arguments = [tag, f"{file.mode:04o}", str(file.size), file.sha256, encoded(path_of(member.name)), *last]
        with task.channel.stream(operation, *arguments, stdin=member) as stream:
            while stream.read(1024):
                pass


def _verify(task: ConfigRestore, items: list[_Item]) -> None:
    for group in _groups(items):
        for item, found in zip(group, _lines(task.channel, SUMS, group)):
            if found != task.part.files[item.member].sha256:
                raise CentralError(
                    "operation_failed",
                    f"{path_of(item.member)} is not what was written, just after it was. Look who else works there.",
                )


def _undo(channel: Channel, tag: str, items: list[_Item]) -> None:
    for group in reversed(list(_groups(items))):
        _call(channel, UNDO, group, tag)


def _forget(channel: Channel, tag: str, items: list[_Item], keep: bool) -> None:
    for group in _groups(items):
        _call(channel, FORGET, group, tag, "keep" if keep else "drop")


# --- calls ------------------------------------------------------------------------------------------------------


def _groups(items: list[_Item]) -> Iterator[list[_Item]]:
    """Files below the same path, as many as one call takes."""
    for root in sorted({item.root for item in items}):
        left = [item for item in items if item.root == root]
        for call in in_calls((path_of(item.member), item.missing) for item in left):
            number = call.count(",") + 1
            yield left[:number]
            left = left[number:]


def _of(operation: str, root: str) -> tuple[str, list[str]]:
    return (operation + ELSEWHERE, [root]) if root else (operation, [])


def _call(channel: Channel, operation: str, group: list[_Item], *before: str) -> bytes:
    name, last = _of(operation, group[0].root)
    (names,) = in_calls((path_of(item.member), item.missing) for item in group)
    return channel.run(name, *before, names, *last, timeout=300)


def _lines(channel: Channel, operation: str, group: list[_Item]) -> list[str]:
    lines = _call(channel, operation, group).decode("ascii", "replace").splitlines()
    if len(lines) != len(group):
        raise CentralError(
            "operation_failed", "What the Central's host says of its files cannot be understood. Please report it."
        )
    return lines
