# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way back of a restore: from whichever stage, by the run itself or a later one, everything as it was.

Each step looks at what is there, not at what the journal hopes, and can be repeated.
"""

from __future__ import annotations

import time
from typing import Any, Callable, TypeVar

from ansible_collections.odkops.central.plugins.module_utils import _enketo_restore as enketo
from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._replace import grant, is_marked, replace_in_place, unmark
from ansible_collections.odkops.central.plugins.module_utils._restore_archive import RestoreArchive
from ansible_collections.odkops.central.plugins.module_utils._restore_journal import COMMITTED, Journal, unfinished
from ansible_collections.odkops.central.plugins.module_utils._restore_operations import FAILED
from ansible_collections.odkops.central.plugins.module_utils._restore_target import Administration, Target
from ansible_collections.odkops.central.plugins.module_utils._services import Services
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, verify_file

T = TypeVar("T")

# PostgreSQL, where it was restarted or the host was, takes a while to recover. In seconds.
_PATIENCE = 120
_NOT_UP = ("operation_failed", "service_not_running", "database_unreachable")

#: the kind of journal of a restore of the whole
KIND = "restore"

#: what writes to the database or to Redis, in the order in which they are stopped after nginx
STOPPED = ("service", "enketo")

STAGES = ("begun", "loading", "stopping", "swapping", "replacing", "enketo", "starting", "opening")

#: how the database is replaced: by a second one, in a transaction of its own, or by Central's restore.js
SWAP, IN_PLACE, RESTORE_JS = "swap", "in_place", "restore_js"
STRATEGIES = (SWAP, IN_PLACE, RESTORE_JS)


def undo(channel: Channel, journal: Journal, target: Target, passphrase: str | None) -> dict[str, Any]:
    """Put everything back as it was before the restore that the journal tells of.

    :param passphrase: of the backup that was made before, which is the way back where there is no old database
    :returns: ``failed_database`` and ``only_failed`` (submissions that only it has), where the restored database was open
        to the world and has taken some: it is kept then. ``put_back_from``: the backup whose content is in the database again,
        where that had been replaced in its place
    :raises CentralError: where something cannot be put back; the journal stays, and this can be repeated
    """
    tag, facts = journal.tag, journal.facts
    services = Services(channel)
    if journal.stage not in STAGES:
        # The commit itself failed: from now on a later run is to go back as well, not to finish.
        journal.stage = STAGES[-1]
    journal.note(failed_at=facts.get("failed_at", journal.stage))
    reached = STAGES.index(journal.stage)
    kept: dict[str, Any] = {}
    _bring_up(channel, journal)
    _patiently(lambda: target.end(tag))
    if reached >= STAGES.index("stopping"):
        services.stop("nginx")
        services.stop(*STOPPED)
    if reached >= STAGES.index("swapping") and facts.get("strategy", SWAP) == SWAP:
        target.unswap(tag)
        kept = _keep_what_it_took(journal, target)
    elif reached >= STAGES.index("replacing"):
        kept = _replace_back(journal, target, passphrase)
    if reached >= STAGES.index("enketo") and facts.get("enketo"):
        enketo.undo(channel, tag)
    if reached >= STAGES.index("loading"):
        target.drop(tag, "new")
        if "failed_database" not in kept:
            target.drop(tag, "failed")
    services.start(*facts.get("services", []))
    journal.end()
    return kept


def _replace_back(journal: Journal, target: Target, passphrase: str | None) -> dict[str, Any]:
    """Put back what the backup holds that was made before, if the database is not what it was."""
    tag, facts = journal.tag, journal.facts
    marked = is_marked(target, tag)
    if facts["strategy"] == IN_PLACE and not marked:
        return {}
    if facts["strategy"] == RESTORE_JS and marked:
        unmark(target, tag)
        return {}
    path = facts.get("safety")
    if not path:
        raise CentralError(
            "rollback_failed",
            "The database was replaced, and no backup was made before: there is nothing to put back. Restore the right one.",
        )
    found = verify_file(path, Expectation(passphrase=passphrase, sha256=facts["safety_sha256"]))
    with RestoreArchive(path, passphrase or "", str(found.sha256)) as archive:
        replace_in_place(target, tag, archive, found.tables or {}, end_sessions=False)
        grant(target, tag, archive.grants)
    unmark(target, tag)
    return {"put_back_from": path}


def _keep_what_it_took(journal: Journal, target: Target) -> dict[str, Any]:
    """What a restored database has taken from clients before it was given up is in no other one."""
    name = FAILED + journal.tag
    if name not in [found["name"] for found in target.kept(journal.tag)]:
        return {}
    only = target.missed(journal.tag, name, target.database, str(journal.facts.get("now", "-infinity")))
    return {"failed_database": name, "only_failed": only} if only else {}


def finish(channel: Channel, journal: Journal, target: Target) -> None:
    """Remove what a restore that has succeeded has left, but for the old database where it is to be kept."""
    if journal.facts.get("enketo"):
        enketo.forget(channel, journal.tag)
    if journal.facts.get("strategy", SWAP) != SWAP:
        unmark(target, journal.tag)
    elif not journal.facts.get("keep_previous", True):
        target.drop(journal.tag, "previous")
    journal.end()


def recover(channel: Channel, administration: Administration, passphrase: str | None) -> dict[str, Any] | None:
    """Finish what an earlier run has left: put everything back, or where it had succeeded, clean up.

    :returns: None where there was nothing; else ``tag``, ``since``, ``stage``, ``outcome`` (``rolled_back`` or ``finished``),
        and what :func:`undo` returns
    :raises CentralError: ``bad_journal``, ``restore_unfinished`` where it is of another kind, ``rollback_failed``
    """
    journal = Journal.read(channel)
    if journal is None:
        return None
    if journal.kind != KIND:
        raise unfinished(journal)
    found = {"tag": journal.tag, "since": journal.since, "stage": journal.facts.get("failed_at", journal.stage)}
    try:
        _bring_up(channel, journal)
        target = _patiently(lambda: Target(channel, administration))
        if journal.stage == COMMITTED:
            target.end(journal.tag)
            finish(channel, journal, target)
            return {**found, "outcome": "finished"}
        return {**found, "outcome": "rolled_back", **undo(channel, journal, target, passphrase)}
    except CentralError as error:
        raise CentralError(
            "rollback_failed",
            f"What the restore of {journal.since} has left could not be put back as it was: {error.message} Remove the cause, "
            "then run it again.",
            tag=journal.tag,
            stage=journal.stage,
        ) from error


def _bring_up(channel: Channel, journal: Journal) -> None:
    """Start what the way back needs: after a reboot without Docker's restart policies it may not run."""
    needed = [name for name in journal.facts.get("services", []) if name not in ("nginx", *STOPPED)]
    Services(channel).start(*needed)


def _patiently(act: Callable[[], T]) -> T:
    """Do what needs PostgreSQL, again and again while it may be coming up."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return act()
        except CentralError as error:
            if error.diagnosis not in _NOT_UP or time.monotonic() > until:
                raise
        time.sleep(2)
