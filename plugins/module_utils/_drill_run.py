# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A drill from its beginning to its record: what the modules of a drill do.

The record is begun by :func:`begin`, before there is anything else, and ended by :func:`check` or by :func:`break_off`.
docs/drill-report.md says what is in it.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Optional

from ansible_collections.odkops.central.plugins.module_utils import _drill_text
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry
from ansible_collections.odkops.central.plugins.module_utils._channel import LocalChannel
from ansible_collections.odkops.central.plugins.module_utils._drill_checks import Checks
from ansible_collections.odkops.central.plugins.module_utils._drill_compose import CA, COMPOSE
from ansible_collections.odkops.central.plugins.module_utils._drill_data_checks import FAILED, PASSED, Subject
from ansible_collections.odkops.central.plugins.module_utils._drill_docker import Docker
from ansible_collections.odkops.central.plugins.module_utils._drill_guard import Production, require_apart_in_docker
from ansible_collections.odkops.central.plugins.module_utils._drill_objects import Serving, can_serve, serving
from ansible_collections.odkops.central.plugins.module_utils._drill_removal import (
    leftovers,
    stack_at,
)
from ansible_collections.odkops.central.plugins.module_utils._drill_stack import (
    DrillRequest,
    Preparation,
    bring_up,
    new_drill_id,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._lease import check_run_id
from ansible_collections.odkops.central.plugins.module_utils._manifest import COLLECTION_VERSION
from ansible_collections.odkops.central.plugins.module_utils._operation import Project
from ansible_collections.odkops.central.plugins.module_utils._phases import Phases
from ansible_collections.odkops.central.plugins.module_utils._pool import Pool
from ansible_collections.odkops.central.plugins.module_utils._rclone import find_rclone
from ansible_collections.odkops.central.plugins.module_utils._repository import SetEntry
from ansible_collections.odkops.central.plugins.module_utils._seal import check_file, inspect_set
from ansible_collections.odkops.central.plugins.module_utils._set_names import set_id_time, utc_from_text, utc_text
from ansible_collections.odkops.central.plugins.module_utils._set_verify import place_of
from ansible_collections.odkops.central.plugins.module_utils._under_lease import under_lease

_ERROR = "error"

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


@dataclass(frozen=True)
class DrillSet:
    """The set that is drilled.

    :param path: its directory, in its repository
    :param passphrase: None for a set that was made without one
    """

    path: str
    passphrase: Optional[str] = field(repr=False)
    allow_unauthenticated: bool = False


def _now() -> datetime:
    return datetime.now(timezone.utc)


def begin(drilled: DrillSet, depth: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The beginning of a record, and the manifest of the set.

    :raises CentralError: ``not_a_set``, ``tampered``, ``wrong_passphrase``, ``missing_part``, ``corrupt``, ...
    """
    started = _now()
    place = place_of(drilled.path)
    entry = SetEntry(place.central, place.set_id, place.path)
    found = inspect_set(entry, drilled.passphrase, drilled.allow_unauthenticated)
    manifest = found["manifest"]
    if "database" not in manifest["parts"]:
        raise CentralError("missing_part", f"The set {place.set_id} has no database. Use another set.", part="database")
    moment = utc_from_text(str(manifest.get("started"))) or set_id_time(place.set_id) or started
    central = manifest["database"].get("central") or {}
    record = {
        "drill_id": new_drill_id(),
        "central": place.central,
        "set": {
            "set_id": place.set_id,
            "path": place.path,
            "started_at": utc_text(moment),
            "authenticated": found["authenticated"],
            "size": sum(int(part["size"]) + int(part.get("objects_size") or 0) for part in manifest["parts"].values()),
            "parts": sorted(manifest["parts"]),
            "absent": manifest["absent"],
        },
        "depth": depth,
        "started_at": utc_text(started),
        "rpo": round((started - moment).total_seconds(), 3),
        "phases": [],
        "checks": [],
        "figures": {},
        "versions": {
            "central": central.get("version"),
            "postgresql": manifest["parts"]["database"].get("server_version"),
            "collection": COLLECTION_VERSION,
        },
        "host": {"name": os.uname().nodename, "cpus": os.cpu_count(), "memory": _memory()},
        "kept": None,
        "error": None,
    }
    return record, manifest


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read_all(record: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Compare each part with the manifest, to the last byte.

    :raises CentralError: ``missing_part``, ``corrupt``
    """
    begun = time.monotonic()
    size = 0
    for name, part in manifest["parts"].items():
        check_file(os.path.join(record["set"]["path"], part["file"]), name, part["size"], part["sha256"])
        size += part["size"]
    record["checks"].append(
        {
            "name": "set",
            "title": "The set is what was sealed",
            "result": PASSED,
            "expected": len(manifest["parts"]),
            "found": len(manifest["parts"]),
            "message": f"{_drill_text.size(size)} in {len(manifest['parts'])} parts have the SHA-256 of the manifest"
            + (", which the passphrase authenticates." if record["set"]["authenticated"] else "."),
            "seconds": round(time.monotonic() - begun, 3),
        }
    )


def _request(request: DrillRequest, record: dict[str, Any], manifest: dict[str, Any]) -> DrillRequest:
    """What the set says of what is to be brought up. :raises CentralError: ``missing_rclone``"""
    identity = manifest["identity"]
    if "blobs" in manifest["parts"]:
        # For the checks, hours later perhaps.
        find_rclone(request.rclone_path)
    return replace(
        request,
        central=record["central"],
        domain=identity.get("domain") or None,
        identity=identity,
        objects="blobs" in manifest["parts"],
        database_size=int(manifest["parts"]["database"]["size"]),
    )


def rehearse(drilled: DrillSet, request: DrillRequest, depth: str) -> dict[str, Any]:
    """Look at everything that could keep a drill from coming up, and make nothing.

    :returns: ``changed``, ``record`` (its beginning), ``project`` and ``domain`` as they would be, ``images``,
        ``removed`` (stacks that would be)
    :raises CentralError: as :func:`start`
    """
    record, manifest = begin(drilled, depth)
    _read_all(record, manifest)
    prepared = Preparation(_request(request, record, manifest), record["drill_id"])
    left = leftovers(prepared.docker, request.root)
    return {
        "changed": True,
        "record": record,
        "project": prepared.plan.project,
        "domain": prepared.plan.domain,
        "images": dict(prepared.plan.images),
        "removed": [stack.project for stack in left],
    }


def start(drilled: DrillSet, request: DrillRequest, depth: str) -> dict[str, Any]:
    """Read the set, and bring up a Central that it can be restored into.

    :returns: ``changed``, ``record`` (its beginning), ``known_bad_blobs`` (of the manifest), and what :func:`bring_up` returns
    :raises CentralError: with the detail ``record`` where the set could be read
    """
    record, manifest = begin(drilled, depth)
    phases = Phases()
    try:
        with phases.phase("set"):
            _read_all(record, manifest)
        prepared = Preparation(_request(request, record, manifest), record["drill_id"])
        docker = prepared.docker
        record["versions"].update(
            docker=docker.run("version", "--format", "{{.Server.Version}}").strip(),
            compose=docker.run("compose", "version", "--short").strip(),
        )
        found = bring_up(prepared, phases)
    except CentralError as error:
        _take_phases(record, phases.seconds, 0.0)
        error.details["record"] = break_off(record, error.diagnosis, error.message)
        raise
    _take_phases(record, phases.seconds, 0.0)
    known = (manifest["database"].get("central") or {}).get("bad_blobs") or []
    return {"changed": True, "record": record, "known_bad_blobs": known, **found}


def _take_phases(record: dict[str, Any], seconds: dict[str, float], offset: float) -> None:
    """Add phases that came one after the other, from `offset` seconds after the drill's beginning on."""
    for name, taken in seconds.items():
        title = _TITLES.get(name, name.removeprefix("restore_").replace("_", " ").capitalize())
        record["phases"].append({"name": name, "title": title, "start": round(offset, 3), "seconds": round(taken, 3)})
        offset += taken


# --- the end --------------------------------------------------------------------------------------------------------


def _since(record: dict[str, Any]) -> float:
    started = utc_from_text(str(record["started_at"]))
    return 0.0 if started is None else max(0.0, (_now() - started).total_seconds())


def break_off(record: dict[str, Any], diagnosis: str, message: str) -> dict[str, Any]:
    """The record of a drill that did not come to its checks."""
    failed = [each for each in record["checks"] if each["result"] == FAILED]
    return {
        **record,
        "result": FAILED if failed else _ERROR,
        "finished_at": utc_text(_now()),
        "elapsed": round(_since(record), 3),
        "rto": None,
        "error": {"diagnosis": diagnosis, "message": message},
    }


@dataclass(frozen=True)
class CheckRequest:
    """What is checked, and how.

    :param checkout: the Central that must stay untouched
    :param directory: the drill's own
    :param restored: what central_restore has returned
    :param sample: attachments of a quick drill
    """

    drilled: DrillSet
    checkout: Project
    directory: str
    record: dict[str, Any]
    restored: dict[str, Any]
    sample: int = 20
    rclone_path: Optional[str] = None

    @property
    def project(self) -> Project:
        """The drill's compose project."""
        stack = stack_at(self.directory)
        return Project(stack.directory, stack.project, (COMPOSE,), self.checkout.docker)


def check_under_lease(request: CheckRequest, lease: str) -> dict[str, Any]:
    """As :func:`check`, while the lease is kept.

    :raises CentralError: ``lease_lost``, and as :func:`check`
    """
    with under_lease(LocalChannel(request.project), check_run_id(lease)):
        return check(request)


def check(request: CheckRequest) -> dict[str, Any]:
    """Check the restored Central, and end the record.

    :returns: the record
    :raises CentralError: where it could not be checked at all
    """
    record = dict(request.record)
    came_up = _since(record)
    restored = {f"restore_{name}": float(taken) for name, taken in (request.restored.get("phases") or {}).items()}
    checks = _checks(request, record)
    try:
        _take_phases(record, restored, max(0.0, came_up - sum(restored.values())))
        begun = time.monotonic()
        checks.run()
        _take_phases(record, {"checks": time.monotonic() - begun}, came_up)
    finally:
        record["checks"] = record["checks"] + checks.results
        record["figures"] = {**record["figures"], **checks.figures}
    failed = any(each["result"] == FAILED for each in record["checks"])
    return {
        **record,
        "result": FAILED if failed else PASSED,
        "finished_at": utc_text(_now()),
        "elapsed": round(_since(record), 3),
        "rto": round(came_up, 3),
        "error": None,
    }


def _checks(request: CheckRequest, record: dict[str, Any]) -> Checks:
    drilled, directory = request.drilled, request.project.directory
    place = place_of(drilled.path)
    entry = SetEntry(place.central, place.set_id, place.path)
    manifest = inspect_set(entry, drilled.passphrase, drilled.allow_unauthenticated)["manifest"]
    docker, channel = Docker(request.checkout.docker), LocalChannel(request.project)
    document = _read_compose(directory)
    keys = document["services"]["service"]["environment"]
    source = json.loads(docker.compose(request.checkout, "config", "--format", "json"))
    production = Production.of(source, manifest["identity"], docker)
    pool, serve = None, None
    if "blobs" in manifest["parts"]:
        name = str(manifest["parts"]["blobs"].get("pool"))
        pool = Pool(place.repository, place.central, None if name == "unencrypted" else name)
        rclone = find_rclone(request.rclone_path)
        if can_serve(rclone):
            how = Serving(
                docker,
                channel,
                str(request.project.name),
                directory,
                pool,
                rclone,
                drilled.passphrase,
                (keys["S3_ACCESS_KEY"], keys["S3_SECRET_KEY"]),
            )

            def serve(entries: Iterable[BlobEntry]) -> Any:
                return serving(how, entries)

    with open(os.path.join(directory, CA), encoding="ascii") as file:
        authority = file.read()
    return Checks(
        Subject(
            channel=channel,
            manifest=manifest,
            path=place.path,
            passphrase=drilled.passphrase,
            depth=record["depth"],
            sample=request.sample,
            seed=re.sub(r"[^0-9A-Za-z.-]", "", place.set_id)[:64],
            ca=authority,
            tables=dict((request.restored.get("backup") or {}).get("tables") or {}),
            isolation=lambda: require_apart_in_docker(docker, str(request.project.name), production),
            reach=production.servers,
            systems=production.systems,
            pool=pool,
            rclone_path=request.rclone_path,
            serving=serve,
        )
    )


def _read_compose(directory: str) -> Any:
    with open(os.path.join(directory, COMPOSE), encoding="utf-8") as file:
        return json.load(file)
