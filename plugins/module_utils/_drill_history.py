# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The drills that were: the records beside a Central's sets, and which Central has waited longest for one.

::

    <repository>/<central>/drills/<drill id>.json    the record, see docs/drill-report.md
    <repository>/<central>/drills/<drill id>.xml     the same for what reads JUnit
    <repository>/<central>/drills/<drill id>.html    the same for people

A record that cannot be read is named and left out: an old drill's damage is no reason not to report of a new one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._directories import is_real_directory, names_in
from ansible_collections.odkops.central.plugins.module_utils._drill_record import (
    MAXIMUM_SIZE,
    drill_id_time,
    failed_checks,
    parse,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository

DRILLS = "drills"

#: How many drills a report looks back on: more than a year of nightly ones.
LOOK_BACK = 400


def drills_path(repository: Repository, central: str) -> str:
    """Return the directory of the drills of `central`. :raises CentralError: ``bad_name``"""
    return os.path.join(repository.central_path(central), DRILLS)


def drill_ids(repository: Repository, central: str) -> list[str]:
    """Return the ids of the drills of `central` that have a record, whatever is in it, the newest first.

    :raises CentralError: ``bad_name``, ``unreadable``, ``not_a_repository``
    """
    if not is_real_directory(repository.central_path(central)):
        return []
    names = (os.path.splitext(name) for name in names_in(drills_path(repository, central)))
    return sorted((stem for stem, kind in names if kind == ".json" and drill_id_time(stem)), reverse=True)


def read_record(repository: Repository, central: str, drill_id: str) -> dict[str, Any]:
    """Read one record.

    :raises CentralError: ``bad_option`` where it is damaged, another drill's or another Central's; ``unreadable``
    """
    path = os.path.join(drills_path(repository, central), f"{drill_id}.json")
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            record = parse(file.read(MAXIMUM_SIZE + 1))
    except OSError as error:
        raise CentralError("unreadable", f"It could not be read: {error.strerror or error}.") from error
    if (record["drill_id"], record["central"]) != (drill_id, central):
        raise CentralError("bad_option", "It is the record of another drill.")
    return record


def read_history(
    repository: Repository, central: str, until: str | None = None, most: int = LOOK_BACK
) -> tuple[list[dict[str, Any]], list[str]]:
    """Read the drills of `central`, the newest first.

    :param until: leave out drills newer than this id
    :param most: read no more than so many
    :returns: the records, and a sentence for each one that could not be read
    :raises CentralError: ``bad_name``, ``unreadable``, ``not_a_repository`` about the directory itself
    """
    records, warnings = [], []
    ids = [drill_id for drill_id in drill_ids(repository, central) if until is None or drill_id <= until]
    for drill_id in ids[:most]:
        try:
            records.append(read_record(repository, central, drill_id))
        except CentralError as error:
            warnings.append(f"The record of the drill {drill_id} of {central} is left out. {error.message}")
    return records, warnings


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """Return what a list of drills says of one."""
    return {
        "drill_id": record["drill_id"],
        "central": record["central"],
        "set_id": record["set"]["set_id"],
        "depth": record["depth"],
        "result": record["result"],
        "started_at": record["started_at"],
        "finished_at": record["finished_at"],
        "elapsed": record["elapsed"],
        "rpo": record["rpo"],
        "rto": record["rto"],
        "size": record["set"]["size"],
        "failed_checks": failed_checks(record),
        "diagnosis": (record["error"] or {}).get("diagnosis"),
    }


def centrals_of(repository: Repository) -> list[str]:
    """Return the names of the Centrals that have sets or drills in `repository`, sorted."""
    found = set(repository.centrals())
    for name in names_in(repository.path):
        with contextlib.suppress(CentralError):  # no name of a Central, or no directory
            if is_real_directory(repository.central_path(name)) and is_real_directory(drills_path(repository, name)):
                found.add(name)
    return sorted(found)


def standing(central: str, records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Say when `central` was last drilled.

    A drill that was skipped for want of time is none, else its Central would go to the end of the queue for nothing. One
    that broke off is one: a Central that cannot be drilled must not keep the others from their turn each night.

    :param records: its drills, the newest first
    """
    done = [record for record in records if record["result"] != "skipped"]
    last = done[0] if done else None
    passed = next((record for record in done if record["result"] == "passed"), None)
    return {
        "central": central,
        "last_drilled": last["started_at"] if last else None,
        "last_drill_id": last["drill_id"] if last else None,
        "last_result": last["result"] if last else None,
        "last_set_id": last["set"]["set_id"] if last else None,
        "last_passed": passed["started_at"] if passed else None,
    }


def longest_ago_first(standings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what :func:`standing` gave in the order in which Centrals are to be drilled.

    First those that never were, then the one that was drilled longest ago, and so on. The order goes by the ids, which begin
    with the time.
    """
    return sorted(standings, key=lambda one: (one["last_drill_id"] or "", one["central"]))
