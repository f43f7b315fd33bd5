# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes what a drill leaves behind: the record, JUnit XML, and the page, beside the sets of its Central."""

from __future__ import annotations

import os
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._atomic import AtomicFile, make_directory
from ansible_collections.odkops.central.plugins.module_utils._directories import check_can_make, is_real_directory
from ansible_collections.odkops.central.plugins.module_utils._drill_history import (
    drill_ids,
    drills_path,
    read_history,
    summary,
)
from ansible_collections.odkops.central.plugins.module_utils._drill_junit import junit
from ansible_collections.odkops.central.plugins.module_utils._drill_page import page
from ansible_collections.odkops.central.plugins.module_utils._drill_record import counted, render, validated
from ansible_collections.odkops.central.plugins.module_utils._drill_text import duration
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository

#: The record comes first: the other two can be made of it again.
KINDS = ("json", "xml", "html")

#: How many earlier drills the module's result has.
LAST = 10


def _content(path: str) -> bytes | None:
    """Return what is in the file `path`, or None where there is none that is ours to compare with."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return file.read()
    except OSError:
        return None


def _write(path: str, data: bytes) -> None:
    with AtomicFile(path, clobber=True) as file:
        file.write(data)
        file.commit()


def write_report(repository: Repository, central: str, record: Any, check_mode: bool = False) -> dict[str, Any]:
    """Write the report of the drill `record`, or see that it could be written.

    Written again with the same record it changes nothing; with another one of the same id it is replaced, as when a stack that
    was kept has been removed.

    :returns: ``changed``, ``paths``, ``summary``, ``history``, ``warnings``: see the module central_drill_report
    :raises CentralError: ``bad_option`` about the record; ``bad_name``, ``not_a_repository``,
        ``destination_not_writable``, ``disk_full``
    """
    known = validated(record)
    if known["central"] != central:
        raise CentralError("bad_option", f"The drill record is of {known['central']}, not of {central}.")
    repository.require()
    folder = drills_path(repository, central)
    is_real_directory(repository.central_path(central))
    there = is_real_directory(folder)
    drill_id = known["drill_id"]
    earlier, warnings = read_history(repository, central, until=drill_id)
    history = [known, *(one for one in earlier if one["drill_id"] != drill_id)]
    paths = {kind: os.path.join(folder, f"{drill_id}.{kind}") for kind in KINDS}
    contents = {"json": render(known), "xml": junit(known), "html": page(known, history, len(warnings))}
    stale = [kind for kind in KINDS if _content(paths[kind]) != contents[kind]]
    if check_mode and not there:
        check_can_make(folder)
    elif check_mode and stale and not os.access(folder, os.W_OK | os.X_OK):
        raise CentralError(
            "destination_not_writable", f"This user may not write in {folder}. Use another user or another repository."
        )
    elif not check_mode:
        make_directory(folder)
        for kind in stale:
            _write(paths[kind], contents[kind])
    ids = {*drill_ids(repository, central), drill_id}
    return {
        "changed": bool(stale),
        "paths": paths,
        "summary": _summary(known, paths["html"]),
        "history": {"count": len(ids), "last": [summary(one) for one in history[:LAST]]},
        "warnings": warnings,
    }


def _summary(record: dict[str, Any], path: str) -> dict[str, Any]:
    counts = counted(record["checks"])
    return {
        **summary(record),
        "checks": counts,
        "rpo_text": duration(record["rpo"]),
        "rto_text": duration(record["rto"]),
        "kept": record["kept"],
        "report": path,
    }
