# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a drill while the drill goes on: begun, added to, broken off. docs/drill-report.md says what is in it."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from typing import Any, Optional

from ansible_collections.odkops.central.plugins.module_utils._drill_record import ERROR, FAILED
from ansible_collections.odkops.central.plugins.module_utils._drill_stack import new_drill_id
from ansible_collections.odkops.central.plugins.module_utils._manifest import COLLECTION_VERSION
from ansible_collections.odkops.central.plugins.module_utils._set_names import set_id_time, utc_from_text, utc_text
from ansible_collections.odkops.central.plugins.module_utils._set_parts import SealedSet

#: the check that is failed by a set that cannot be restored from
SET_CHECK, SET_TITLE = "set", "The set is what was sealed"

# Where one of these ends a drill it is the set that is not good, and the drill has shown it: the drill has failed.
_OF_THE_SET = frozenset(
    {"tampered", "bad_manifest", "missing_part", "corrupt", "truncated", "blob_mismatch", "not_a_central_backup"}
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
    "restore_check": "Count its rows",
    "restore_finish": "Grants, statistics, sessions",
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
    """
    started = utc_from_text(started_at or "") or datetime.now(timezone.utc)
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
    """The phases of what central_restore has returned, by the names that they have in a record."""
    return {f"restore_{name}": float(taken) for name, taken in (restored.get("phases") or {}).items()}


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
    if diagnosis in _OF_THE_SET:
        wrong = {"name": SET_CHECK, "title": SET_TITLE, "result": FAILED, "found": diagnosis, "message": message}
        ended["checks"] = [each for each in ended["checks"] if each["name"] != SET_CHECK] + [wrong]
    failed = any(each["result"] == FAILED for each in ended["checks"])
    return {
        **end(ended, FAILED if failed else ERROR, record.get("rto")),
        "error": {"diagnosis": diagnosis, "message": message},
    }
