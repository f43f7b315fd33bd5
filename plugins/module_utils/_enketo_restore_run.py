# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restoring Enketo alone: one transaction with its own journal, whole or not at all.

The journal has the kind ``enketo``. What a run has left that was killed is put back by :func:`finish`, which each run does
first.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._backup_terms import Stopwatch
from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._enketo_answers import ASKED, require_links
from ansible_collections.odkops.central.plugins.module_utils._enketo_plan import EnketoPlan
from ansible_collections.odkops.central.plugins.module_utils._enketo_rebuild import Address, parse_address
from ansible_collections.odkops.central.plugins.module_utils._enketo_restore import (
    apply,
    check,
    forget,
    keep_previous,
    read_address,
    undo,
    verify,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import Facts, LinkFact
from ansible_collections.odkops.central.plugins.module_utils._phases import Phases
from ansible_collections.odkops.central.plugins.module_utils._restore_journal import (
    COMMITTED,
    Journal,
    new_tag,
    unfinished,
)
from ansible_collections.odkops.central.plugins.module_utils._services import Services
from ansible_collections.odkops.central.plugins.module_utils._set_parts import open_set
from ansible_collections.odkops.central.plugins.module_utils._tar_reader import verify_tar_part
from ansible_collections.odkops.central.plugins.module_utils._under_lease import holding
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, verify_file

KIND = "enketo"

#: stages of the journal before ``committed``: nothing is changed yet; Redis and the secrets may be
BEGUN, KEPT = "begun", "kept"

# Those that have read the secrets, and nginx, which knows the addresses of the others from when it was started.
_READERS = ("service", "enketo", "nginx")

#: seconds that Enketo may take to come up
_STARTING = 180


@dataclass(frozen=True)
class Request:
    """What is to be restored, and where.

    :param confirm_domain: the target's DOMAIN, as somebody has typed it
    :param path: the Enketo part, or the directory of a set
    :param backup: a Direct Backup, instead
    :param domain: what the links are to be for; the target's DOMAIN unless given
    :param lease: the run whose lease the caller keeps; without one, a lease is taken and given back
    """

    channel: Channel
    confirm_domain: str
    path: str | None = None
    backup: str | None = None
    passphrase: str | None = field(default=None, repr=False)
    mode: str = "export"
    domain: str | None = None
    secrets: bool = True
    save_timeout: int = 300
    lease: str | None = None


def rehearse(request: Request) -> dict[str, Any]:
    """Do all of a restore that changes nothing.

    :returns: as :func:`restore`, with ``changed`` as it would be
    :raises CentralError: with the diagnosis of what is wrong
    """
    watch = Stopwatch()
    journal = Journal.read(request.channel)
    if journal is not None:
        _require_own(journal)
    plan = _plan(request, _confirm(request))
    if journal is not None:
        warning = "A restore of Enketo was not finished. The run would first put everything back as it was before that."
        return {"changed": True, "undone": True, **watch.stop(), "warnings": [warning]}
    found = check(request.channel, plan)
    return {"changed": found.pop("change"), "undone": False, **_result(found), **watch.stop()}


def restore(request: Request) -> dict[str, Any]:
    """Put everything in, or leave everything as it was.

    :returns: ``changed``, ``undone`` (whether an unfinished restore was put back first), what :func:`check` returns,
        ``phases`` (seconds), ``answers``, ``started_at``, ``finished_at``, ``elapsed``, ``warnings``
    :raises CentralError: with the diagnosis of what is wrong; ``rollback_failed`` where the way back failed too
    """
    watch = Stopwatch()
    channel = request.channel
    with holding(channel, request.lease):
        address = _confirm(request)
        undone = finish(channel)
        phases = Phases()
        with phases.phase("check"):
            plan = _plan(request, address)
            found = check(channel, plan)
        change = found.pop("change")
        result = {"changed": change or undone, "undone": undone, **_result(found)}
        if change:
            result.update(_Transaction(channel, plan, phases, request.domain is None).run())
    return {**result, "phases": phases.seconds, **watch.stop()}


def _result(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "answers": None}


def _confirm(request: Request) -> Address:
    """Where the target answers, if its DOMAIN is the one that was typed.

    :raises CentralError: ``wrong_confirmation``
    """
    address = read_address(request.channel)
    if request.confirm_domain != address.domain:
        raise CentralError(
            "wrong_confirmation",
            f"confirm_domain is {request.confirm_domain[:100]!r}, and the Central there is {address.domain}. Its Web Forms links "
            "and secrets would be replaced. Give its DOMAIN if it is the one.",
        )
    return address


# --- what is restored -------------------------------------------------------------------------------------------


def _plan(request: Request, address: Address) -> EnketoPlan:
    if request.domain is not None:
        address = parse_address(request.domain, address.port)
    path, links = None, None
    if request.backup is not None:
        links = _links_of(request.backup, request.passphrase)
    else:
        path = _part_file(request.path or "", request.passphrase)
    return EnketoPlan(
        domain=address.domain,
        port=address.port,
        path=path,
        passphrase=request.passphrase,
        links=links,
        mode=request.mode,
        secrets=request.secrets,
        save_timeout=request.save_timeout,
    )


def _links_of(backup: str, passphrase: str | None) -> list[LinkFact]:
    """What a Direct Backup says of links, once all of it was verified."""
    links: list[LinkFact] = []

    def take_links(facts: Facts) -> None:
        links.extend(facts.links())

    verify_file(backup, Expectation(passphrase=passphrase), on_facts=take_links)
    return links


def _part_file(path: str, passphrase: str | None) -> str:
    """The part's file: `path`, or the one of the set in the directory `path`, compared with the set's manifest."""
    if not os.path.isdir(path):
        return path
    part = open_set(path, passphrase).require("enketo")
    verify_tar_part(part.path, passphrase, part.sha256)
    return part.path


# --- the transaction --------------------------------------------------------------------------------------------


class _Transaction:
    """One restore, from the journal's beginning to its end."""

    def __init__(self, channel: Channel, plan: EnketoPlan, phases: Phases, served: bool) -> None:
        self._channel = channel
        self._plan = plan
        self._phases = phases
        self._served = served
        self._services = Services(channel)

    def run(self) -> dict[str, Any]:
        """Put everything in; whatever goes wrong, everything is as it was."""
        channel, plan = self._channel, self._plan
        running = [name for name in _READERS if name in self._services.running()]
        journal = Journal.begin(channel, new_tag(), KIND, services=running)
        try:
            with self._phases.phase("keep"):
                self._services.stop(*(name for name in running if name == "enketo"))
                kept = keep_previous(channel, journal.tag, plan.save_timeout)
                journal.note(KEPT, **kept)
            with self._phases.phase("apply"):
                made = apply(channel, plan, journal.tag)
            with self._phases.phase("verify"):
                held = verify(channel, plan)
            with self._phases.phase("start"):
                self._services.restart(*running)
                ids = plan.some_ids(ASKED) if self._served else []
                answers = require_links(channel, ids, _STARTING) if "enketo" in running else None
            journal.note(COMMITTED)
        except BaseException as error:
            _way_back(channel, journal, error)
            raise
        with self._phases.phase("clean"):
            forget(channel, journal.tag)
            journal.end()
        return {"put": made["keys"], "keys_after": held["keys"], "restarted": running, "answers": answers}


def _way_back(channel: Channel, journal: Journal, error: BaseException) -> None:
    try:
        _put_back(channel, journal)
    except CentralError as second:
        raise CentralError(
            "rollback_failed",
            f"The restore of Enketo failed: {error} Putting everything back failed as well: {second.message} Remove the "
            "cause; the next run of a restore puts everything back first.",
            first=str(error)[:500],
        ) from error


def _put_back(channel: Channel, journal: Journal) -> None:
    services = Services(channel)
    before = [name for name in _READERS if name in journal.facts.get("services", [])]
    if journal.stage == BEGUN:
        undo(channel, journal.tag)
        services.start(*before)
    else:
        services.stop(*(name for name in before if name == "enketo"))
        undo(channel, journal.tag)
        services.restart(*before)
    journal.end()


def _require_own(journal: Journal) -> None:
    if journal.kind != KIND:
        raise unfinished(journal)


def finish(channel: Channel, journal: Journal | None = None) -> bool:
    """Finish what a run of this kind has left that was ended before: clean up what was committed, put back all else.

    :param journal: the one that was read; it is read unless given
    :returns: whether something was put back
    :raises CentralError: ``restore_unfinished`` where it is a restore of another kind, and as :meth:`Channel.run`
    """
    journal = Journal.read(channel) if journal is None else journal
    if journal is None:
        return False
    _require_own(journal)
    if journal.stage == COMMITTED:
        forget(channel, journal.tag)
        journal.end()
        return False
    _put_back(channel, journal)
    return True
