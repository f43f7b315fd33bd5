# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A drill from its beginning to its record: what the modules of a drill do.

How its record grows: _drill_progress.py.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from ansible_collections.odkops.central.plugins.module_utils import _drill_text
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry
from ansible_collections.odkops.central.plugins.module_utils._channel import LocalChannel
from ansible_collections.odkops.central.plugins.module_utils._drill_checks import Checks
from ansible_collections.odkops.central.plugins.module_utils._drill_compose import CA, COMPOSE
from ansible_collections.odkops.central.plugins.module_utils._drill_data_checks import Subject
from ansible_collections.odkops.central.plugins.module_utils._drill_docker import Docker
from ansible_collections.odkops.central.plugins.module_utils._drill_guard import Production, require_apart_in_docker
from ansible_collections.odkops.central.plugins.module_utils._drill_objects import Serving, can_serve, serving
from ansible_collections.odkops.central.plugins.module_utils._drill_progress import (
    SET_CHECK,
    SET_TITLE,
    begin,
    break_off,
    end,
    require_begun,
    restore_phases,
    since,
    take_phases,
    take_set,
)
from ansible_collections.odkops.central.plugins.module_utils._drill_record import FAILED, PASSED
from ansible_collections.odkops.central.plugins.module_utils._drill_removal import leftovers, stack_at
from ansible_collections.odkops.central.plugins.module_utils._drill_stack import DrillRequest, Preparation, bring_up
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._lease import check_run_id
from ansible_collections.odkops.central.plugins.module_utils._operation import Project
from ansible_collections.odkops.central.plugins.module_utils._phases import Phases
from ansible_collections.odkops.central.plugins.module_utils._pool import Pool
from ansible_collections.odkops.central.plugins.module_utils._rclone import find_rclone
from ansible_collections.odkops.central.plugins.module_utils._seal import check_file
from ansible_collections.odkops.central.plugins.module_utils._set_parts import open_set
from ansible_collections.odkops.central.plugins.module_utils._set_verify import place_of
from ansible_collections.odkops.central.plugins.module_utils._under_lease import under_lease


@dataclass(frozen=True)
class DrillSet:
    """The set that is drilled.

    :param path: its directory, in its repository
    :param passphrase: None for a set that was made without one
    """

    path: str
    passphrase: Optional[str] = field(repr=False)
    allow_unauthenticated: bool = False


def _read(drilled: DrillSet, record: dict[str, Any]) -> dict[str, Any]:
    """Compare each part of the set with its manifest, to the last byte, and return the manifest.

    :raises CentralError: ``not_a_set``, ``tampered``, ``wrong_passphrase``, ``missing_part``, ``corrupt``, ...
    """
    begun = time.monotonic()
    opened = open_set(drilled.path, drilled.passphrase, drilled.allow_unauthenticated)
    take_set(record, opened)
    opened.require("database")
    size, parts = 0, opened.manifest["parts"]
    for name, part in parts.items():
        check_file(os.path.join(opened.path, part["file"]), name, part["size"], part["sha256"])
        size += part["size"]
    record["checks"].append(
        {
            "name": SET_CHECK,
            "title": SET_TITLE,
            "result": PASSED,
            "expected": len(parts),
            "found": len(parts),
            "message": f"{_drill_text.size(size)} in {len(parts)} parts have the SHA-256 of the manifest"
            + (", which the passphrase authenticates." if opened.authenticated else "."),
            "seconds": round(time.monotonic() - begun, 3),
        }
    )
    return opened.manifest


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
        compressed_size=int(manifest["parts"]["database"]["size"]),
        data_size=(manifest["database"].get("central") or {}).get("data_size"),
    )


def _begin(drilled: DrillSet, depth: str) -> dict[str, Any]:
    place = place_of(drilled.path)
    return begin(place.central, depth, place.path)


def rehearse(drilled: DrillSet, request: DrillRequest, depth: str) -> dict[str, Any]:
    """Look at everything that could keep a drill from coming up, and make nothing.

    :returns: ``changed``, ``record`` (its beginning), ``project`` and ``domain`` as they would be, ``images``,
        ``removed`` (stacks that would be)
    :raises CentralError: as :func:`start`
    """
    record = _begin(drilled, depth)
    manifest = _read(drilled, record)
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
    :raises CentralError: with the detail ``record``, which is whole then
    """
    record = _begin(drilled, depth)
    phases = Phases()
    try:
        with phases.phase("set"):
            manifest = _read(drilled, record)
        prepared = Preparation(_request(request, record, manifest), record["drill_id"])
        docker = prepared.docker
        record["versions"].update(
            docker=docker.run("version", "--format", "{{.Server.Version}}").strip(),
            compose=docker.run("compose", "version", "--short").strip(),
        )
        found = bring_up(prepared, phases)
    except CentralError as error:
        take_phases(record, phases.seconds)
        error.details["record"] = break_off(record, error.diagnosis, error.message)
        raise
    take_phases(record, phases.seconds)
    known = (manifest["database"].get("central") or {}).get("bad_blobs") or []
    return {"changed": True, "record": record, "known_bad_blobs": known, **found}


# --- the end --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CheckRequest:
    """What is checked, and how.

    :param checkout: the Central that must stay untouched
    :param directory: the drill's own
    :param restored: what central_restore has returned
    :param sample: attachments of a quick drill
    :param objects_elsewhere: whether a set without the objects of S3 is no fault
    """

    drilled: DrillSet
    checkout: Project
    directory: str
    record: dict[str, Any]
    restored: dict[str, Any]
    sample: int = 20
    objects_elsewhere: bool = False
    rclone_path: Optional[str] = None

    @property
    def project(self) -> Project:
        """The drill's compose project."""
        stack = stack_at(self.directory)
        return Project(stack.directory, stack.project, (COMPOSE,), self.checkout.docker)


def check_under_lease(request: CheckRequest, lease: str) -> dict[str, Any]:
    """Check the restored Central while the lease is kept, and end the record.

    :returns: the record
    :raises CentralError: where it could not be checked at all, with the detail ``record``, which is whole then; ``lease_lost``
    """
    record = require_begun(request.record)
    came_up = since(record)
    record["rto"] = round(came_up, 3)
    restored = restore_phases(request.restored)
    take_phases(record, restored, max(0.0, came_up - sum(restored.values())))
    try:
        with under_lease(LocalChannel(request.project), check_run_id(lease)):
            _check(request, record)
    except CentralError as error:
        error.details["record"] = break_off(record, error.diagnosis, error.message)
        raise
    failed = any(each["result"] == FAILED for each in record["checks"])
    return end(record, FAILED if failed else PASSED, came_up)


def _check(request: CheckRequest, record: dict[str, Any]) -> None:
    """Do all checks, and add what they have found to the record, whether all could be done or not."""
    offset, begun = since(record), time.monotonic()
    checks = _checks(request, record)
    try:
        checks.run()
    finally:
        take_phases(record, {"checks": time.monotonic() - begun}, offset)
        record["checks"] += checks.results
        record["figures"] = {**record["figures"], **checks.figures}


def _checks(request: CheckRequest, record: dict[str, Any]) -> Checks:
    drilled, directory = request.drilled, request.project.directory
    opened = open_set(drilled.path, drilled.passphrase, drilled.allow_unauthenticated)
    manifest = opened.manifest
    docker, channel = Docker(request.checkout.docker), LocalChannel(request.project)
    document = _read_compose(directory)
    keys = document["services"]["service"]["environment"]
    source = json.loads(docker.compose(request.checkout, "config", "--format", "json"))
    production = Production.of(source, manifest["identity"], docker)
    pool, serve = None, None
    if "blobs" in manifest["parts"]:
        name = str(manifest["parts"]["blobs"].get("pool"))
        pool = Pool(opened.repository, opened.central, None if name == "unencrypted" else name)
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
            path=opened.path,
            passphrase=drilled.passphrase,
            depth=record["depth"],
            sample=request.sample,
            seed=re.sub(r"[^0-9A-Za-z.-]", "", opened.set_id)[:64],
            ca=authority,
            tables=dict((request.restored.get("backup") or {}).get("tables") or {}),
            isolation=lambda: require_apart_in_docker(docker, str(request.project.name), production),
            reach=production.servers,
            systems=production.systems,
            objects_elsewhere=request.objects_elsewhere,
            pool=pool,
            rclone_path=request.rclone_path,
            serving=serve,
        )
    )


def _read_compose(directory: str) -> Any:
    with open(os.path.join(directory, COMPOSE), encoding="utf-8") as file:
        return json.load(file)
