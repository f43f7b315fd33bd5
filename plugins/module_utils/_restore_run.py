# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What central_restore does: a restore under the lease, after whatever an earlier run has left was put back."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from ansible_collections.odkops.central.plugins.module_utils import _enketo_restore_run
from ansible_collections.odkops.central.plugins.module_utils._config_restore import KIND as CONFIG
from ansible_collections.odkops.central.plugins.module_utils._config_restore import finish_config
from ansible_collections.odkops.central.plugins.module_utils._enketo_plan import EnketoPlan
from ansible_collections.odkops.central.plugins.module_utils._enketo_restore import read_address
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import LinkFact
from ansible_collections.odkops.central.plugins.module_utils._lease import held_by, show
from ansible_collections.odkops.central.plugins.module_utils._restore import Restore, RestoreRequest
from ansible_collections.odkops.central.plugins.module_utils._restore_journal import Journal, new_tag, unfinished
from ansible_collections.odkops.central.plugins.module_utils._restore_target import Target
from ansible_collections.odkops.central.plugins.module_utils._restore_undo import recover
from ansible_collections.odkops.central.plugins.module_utils._set_parts import open_set
from ansible_collections.odkops.central.plugins.module_utils._tar_reader import verify_tar_part
from ansible_collections.odkops.central.plugins.module_utils._under_lease import holding

#: what becomes of Enketo: what the set has, or else from the database; the part; from the database; nothing
AUTO, PART, DATABASE, NONE = "auto", "part", "database", "none"
ENKETO = (AUTO, PART, DATABASE, NONE)


@dataclass(frozen=True)
class Source:
    """Where the backup is.

    :param path: a Direct Backup, or the directory of a set
    :param enketo: one of :data:`ENKETO`
    :param enketo_mode: ``export`` or ``rdb``
    :param enketo_secrets: whether the secrets of the part are put back
    :param allow_unauthenticated: accept a set whose manifest has no HMAC although there is a passphrase
    """

    path: str
    enketo: str = AUTO
    enketo_mode: str = "export"
    enketo_secrets: bool = True
    allow_unauthenticated: bool = False


@dataclass(frozen=True)
class _Found:
    """A source that was looked at: its database, what the manifest says of it, and the Enketo part, if there is one."""

    path: str
    sha256: Optional[str]
    enketo: Optional[str]
    enketo_sha256: Optional[str]
    facts: dict[str, Any] = field(default_factory=dict)


def _find(source: Source, passphrase: str | None, sha256: str | None) -> _Found:
    """See what is to be restored.

    :raises CentralError: what is wrong with the set; ``missing_part``
    """
    if not os.path.isdir(source.path):
        if source.enketo == PART:
            raise CentralError("bad_option", "enketo: part needs a set; a Direct Backup has no Enketo part.")
        return _Found(source.path, sha256, None, None)
    opened = open_set(source.path, passphrase, source.allow_unauthenticated)
    database, enketo = opened.require("database"), None
    if source.enketo == PART:
        enketo = opened.require("enketo")
    elif source.enketo == AUTO:
        enketo = opened.part("enketo")
    return _Found(
        path=database.path,
        sha256=database.sha256,
        enketo=enketo.path if enketo else None,
        enketo_sha256=enketo.sha256 if enketo else None,
        facts={"set_id": opened.set_id, "central_name": opened.central, "identity": opened.manifest["identity"]},
    )


def _request(request: RestoreRequest, source: Source, found: _Found) -> RestoreRequest:
    """The request for the engine, with what becomes of Enketo."""
    if source.enketo == NONE:
        return replace(request, path=found.path, sha256=found.sha256)

    def plan(links: list[LinkFact]) -> EnketoPlan:
        address = read_address(request.channel)
        if found.enketo is not None:
            verify_tar_part(found.enketo, request.passphrase, found.enketo_sha256)
        return EnketoPlan(
            domain=address.domain,
            port=address.port,
            path=found.enketo,
            passphrase=request.passphrase,
            links=links,
            mode=source.enketo_mode if found.enketo is not None else "export",
            secrets=source.enketo_secrets,
        )

    return replace(request, path=found.path, sha256=found.sha256, plan_enketo=plan)


def rehearse(request: RestoreRequest, source: Source, lease: str | None = None) -> dict[str, Any]:
    """Do all of a restore that changes nothing.

    :param lease: the run that has the lease; None for none
    :returns: ``changed``, ``unfinished`` (the journal of an earlier run, or None), what :meth:`Restore.prepare` returns
    :raises CentralError: with the diagnosis of what would make it fail
    """
    held = show(request.channel)
    if held is not None and held.run_id != lease:
        raise held_by(held)
    journal = Journal.read(request.channel)
    found = _find(source, request.passphrase, request.sha256)
    prepared = Restore(_request(request, source, found)).prepare()
    return {"changed": True, "unfinished": _shown(journal), "set": found.facts, **prepared}


def restore(request: RestoreRequest, source: Source, lease: str | None = None) -> dict[str, Any]:
    """Restore, or leave everything as it was.

    :returns: ``changed``, ``recovered`` (see :func:`recover`), what :meth:`Restore.prepare` and :meth:`Restore.run` return
    :raises CentralError: with the diagnosis of what went wrong, and the details ``phases``, ``downtime`` and ``elapsed``
    """
    with holding(request.channel, lease):
        recovered = finish_unfinished(request)
        found = _find(source, request.passphrase, request.sha256)
        run = Restore(_request(request, source, found))
        try:
            prepared = run.prepare()
            done = run.run()
        except CentralError as error:
            error.details.update(run.phases.as_dict())
            raise
    done["enketo"] = {**prepared.pop("enketo"), **done["enketo"]}
    done["warnings"] = [*prepared.pop("warnings"), *done["warnings"]]
    return {"changed": True, "recovered": recovered, "set": found.facts, **prepared, **done}


def rollback(request: RestoreRequest, lease: str | None = None) -> dict[str, Any]:
    """Finish what an earlier run has left, and restore nothing.

    :returns: ``changed``, ``recovered`` (None where nothing was left)
    :raises CentralError: ``rollback_failed``, ``lease_held``, ...
    """
    with holding(request.channel, lease):
        recovered = finish_unfinished(request)
    return {"changed": recovered is not None, "recovered": recovered}


def rehearse_rollback(request: RestoreRequest) -> dict[str, Any]:
    """Say what :func:`rollback` would do.

    :returns: ``changed``, ``unfinished``
    """
    journal = Journal.read(request.channel)
    return {"changed": journal is not None, "unfinished": _shown(journal)}


def finish_unfinished(request: RestoreRequest) -> dict[str, Any] | None:
    """As :func:`recover`, for a restore of any kind."""
    journal = Journal.read(request.channel)
    if journal is not None and journal.kind == _enketo_restore_run.KIND:
        undone = _enketo_restore_run.finish(request.channel, journal)
        return {**(_shown(journal) or {}), "outcome": "rolled_back" if undone else "finished"}
    if journal is not None and journal.kind == CONFIG:
        finish_config(request.channel, journal)
        return {**(_shown(journal) or {}), "outcome": "rolled_back"}
    return recover(request.channel, request.administration, request.passphrase)


def remove_previous(
    request: RestoreRequest, names: list[str], rehearsed: bool, lease: str | None = None
) -> dict[str, Any]:
    """Remove databases that restores have kept.

    :param names: which; all of them where there are none
    :param lease: the run that has the lease; None to take one and give it back
    :returns: ``changed``, ``removed`` (names), ``kept`` (what is there afterwards: name, size in bytes, comment)
    :raises CentralError: ``bad_option`` where there is none of such a name
    """
    with holding(request.channel, lease) if not rehearsed else contextlib.nullcontext():
        target = Target(request.channel, request.administration)
        tag = new_tag()
        there = target.kept(tag)
        unknown = sorted(set(names) - {found["name"] for found in there})
        if unknown:
            raise CentralError("bad_option", f"previous: there is no database {unknown[0]} that a restore has kept.")
        journal = Journal.read(request.channel)
        removed = []
        for name in sorted(names) or [found["name"] for found in there]:
            _prefix, which, of = name.split("_", 2)
            if journal is not None and journal.tag == of:
                raise unfinished(journal)
            if not rehearsed:
                target.drop(of, which)
            removed.append(name)
        kept = [found for found in there if found["name"] not in removed]
    return {"changed": bool(removed), "removed": removed, "kept": kept}


def _shown(journal: Journal | None) -> dict[str, Any] | None:
    if journal is None:
        return None
    return {"tag": journal.tag, "since": journal.since, "stage": journal.facts.get("failed_at", journal.stage)}
