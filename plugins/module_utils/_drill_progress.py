# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a drill while the drill goes on: begun, added to, broken off. docs/drill-report.md says what is in it."""

from __future__ import annotations

import copy
import os
from datetime import datetime, timezone
from typing import Any, Optional

from ansible_collections.odkops.central.plugins.module_utils._drill_record import ERROR, FAILED
from ansible_collections.odkops.central.plugins.module_utils._drill_stack import new_drill_id
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._manifest import COLLECTION_VERSION
from ansible_collections.odkops.central.plugins.module_utils._set_names import (
    check_central_name,
    set_id_time,
    utc_from_text,
    utc_text,
)
from ansible_collections.odkops.central.plugins.module_utils._set_parts import SealedSet

#: the check that is failed by a set that cannot be restored from
SET_CHECK, SET_TITLE = "set", "The set is what was sealed"

# Where one of these ends a drill it is the set that is not good, and the drill has shown it: the drill has failed.
_OF_THE_SET = frozenset(
    {
        "tampered",
        "bad_manifest",
        "not_a_set",
        "missing_part",
        "corrupt",
        "truncated",
        "blob_mismatch",
        "not_a_central_backup",
    }
)

#: of a drill and of a restore, in their order
_TITLES = {
    "set": "Read the set and compare it with its manifest",
    "files": "Make a certificate and the compose file",
    "stack": "Bring up the drill's containers",
    "postgresql": "Wait for PostgreSQL",
    "restore_verify": "Verify the backup",
    "restore_preflight": "See whether it can be restored",
    "restore_load": "Load the database",
    "restore_check": "Count its rows; settings, statistics, sessions",
    "restore_finish": "Grants",
    "restore_stop": "Stop Central",
    "restore_swap": "Exchange the databases",
    "restore_enketo": "Restore the Web Forms",
    "restore_start": "Start Central, run migrations",
    "restore_health": "See whether it answers inside",
    "restore_open": "Start nginx and open a form",
    "checks": "Check",
}


def begin(central: str, depth: str, path: Optional[str] = None, started_at: Optional[str] = None) -> dict[str, Any]:
    """Return the record of a drill of which no more than this is known.

    :param path: of the set's directory, as far as it is known
    :param started_at: when it began, in UTC; now unless given
    :raises CentralError: ``bad_option``, ``bad_name``
    """
    check_central_name(central)
    started = utc_from_text(started_at) if started_at else datetime.now(timezone.utc)
    if started is None:
        raise CentralError(
            "bad_option", f"started_at: {started_at!r} is not a time in UTC such as 2026-11-23T03:30:12Z."
        )
    name = os.path.basename(os.path.normpath(path or ""))
    made = set_id_time(name)
    return {
        "drill_id": new_drill_id(),
        "central": central,
        "set": {"set_id": None if made is None else name, "path": path or None},
        "depth": depth,
        "started_at": utc_text(started),
        "rpo": None if made is None else round((started - made).total_seconds(), 3),
        "phases": [],
        "checks": [],
        "figures": {},
        "versions": {"collection": COLLECTION_VERSION},
        "host": {"name": os.uname().nodename, "cpus": os.cpu_count(), "memory": _memory()},
        "kept": None,
        "error": None,
    }


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def take_set(record: dict[str, Any], opened: SealedSet) -> None:
    """Add what the manifest of the set says."""
    manifest = opened.manifest
    made = utc_from_text(str(manifest.get("started"))) or set_id_time(opened.set_id)
    started = utc_from_text(record["started_at"])
    if made is not None and started is not None:
        record["rpo"] = round((started - made).total_seconds(), 3)
    record["set"] = {
        "set_id": opened.set_id,
        "path": opened.path,
        "started_at": None if made is None else utc_text(made),
        "authenticated": opened.authenticated,
        "size": sum(int(part["size"]) + int(part.get("objects_size") or 0) for part in manifest["parts"].values()),
        "parts": sorted(manifest["parts"]),
        "absent": manifest["absent"],
    }
    record["versions"].update(
        central=(manifest["database"].get("central") or {}).get("version"),
        postgresql=(manifest["parts"].get("database") or {}).get("server_version"),
    )


def take_phases(record: dict[str, Any], seconds: dict[str, float], offset: Optional[float] = None) -> None:
    """Add phases that came one after the other.

    :param seconds: how long each took
    :param offset: seconds from the drill's beginning to theirs; the end of the last phase unless given
    """
    if offset is None:
        offset = max((each["start"] + each["seconds"] for each in record["phases"]), default=0.0)
    for name, taken in seconds.items():
        title = _TITLES.get(name, name.removeprefix("restore_").replace("_", " ").capitalize())
        record["phases"].append({"name": name, "title": title, "start": round(offset, 3), "seconds": round(taken, 3)})
        offset += taken


def restore_phases(restored: dict[str, Any]) -> dict[str, float]:
    """The phases of what central_restore has returned, by the names that they have in a record.

    :raises CentralError: ``bad_option``
    """
    try:
        return {f"restore_{name}": float(taken) for name, taken in (restored.get("phases") or {}).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise CentralError("bad_option", "restored: its phases are not seconds by name.") from error


def require_begun(record: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the beginning of a record, if it is one.

    :raises CentralError: ``bad_option``
    """
    fields = (("set", dict), ("versions", dict), ("figures", dict), ("phases", list), ("checks", list))
    wrong = [name for name, kind in fields if not isinstance(record.get(name), kind)]
    wrong += [
        name for name in ("phases", "checks") if not all(isinstance(each, dict) for each in record.get(name) or ())
    ]
    wrong += [name for name in ("drill_id", "central", "depth", "started_at") if not isinstance(record.get(name), str)]
    if wrong:
        raise CentralError(
            "bad_option", f"record: {wrong[0]} is not what central_drill_stack returns. Give its record as it is."
        )
    return copy.deepcopy(record)


def since(record: dict[str, Any]) -> float:
    """Seconds since the drill began."""
    started = utc_from_text(str(record["started_at"]))
    return 0.0 if started is None else max(0.0, (datetime.now(timezone.utc) - started).total_seconds())


def end(record: dict[str, Any], result: str, rto: Optional[float]) -> dict[str, Any]:
    """Return the record of a drill that has come to its end."""
    return {
        **record,
        "result": result,
        "finished_at": utc_text(datetime.now(timezone.utc)),
        "elapsed": round(since(record), 3),
        "rto": None if rto is None else round(rto, 3),
        "error": None,
    }


def break_off(
    record: dict[str, Any], diagnosis: str, message: str, restored: Optional[dict[str, Any]] = None
) -> dict[str, Any]:
    """Return the record of a drill that did not come to the end of its checks.

    :param restored: what central_restore has returned, where the record does not have its phases
    """
    ended = {**record, "phases": list(record["phases"]), "checks": list(record["checks"])}
    if not any(each["name"].startswith("restore_") for each in ended["phases"]):
        take_phases(ended, restore_phases(restored or {}))
        if ended.get("rto") is None and (restored or {}).get("diagnosis") == "ok":
            # It answered, and was lost while it was checked.
            ended["rto"] = max((each["start"] + each["seconds"] for each in ended["phases"]), default=None)
    if diagnosis in _OF_THE_SET:
        wrong = {"name": SET_CHECK, "title": SET_TITLE, "result": FAILED, "found": diagnosis, "message": message}
        ended["checks"] = [each for each in ended["checks"] if each["name"] != SET_CHECK] + [wrong]
    failed = any(each["result"] == FAILED for each in ended["checks"])
    return {
        **end(ended, FAILED if failed else ERROR, ended.get("rto")),
        "error": {"diagnosis": diagnosis, "message": message},
    }
