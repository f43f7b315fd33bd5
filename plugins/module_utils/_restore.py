# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore as one transaction: the Central is what the backup says, or what it was.

The backup is loaded into a second database while Central still serves. Then Central stops, and the two databases exchange
their names. Whatever fails before the end, by any cause, is undone. What is about to be done is in the journal before it is
done, so that a later run can undo it where this one was killed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from ansible_collections.odkops.central.plugins.module_utils import _enketo_restore as enketo
from ansible_collections.odkops.central.plugins.module_utils._backup_terms import Terms
from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._copy_binary import LargeFiles
from ansible_collections.odkops.central.plugins.module_utils._enketo_answers import ASKED, require_links
from ansible_collections.odkops.central.plugins.module_utils._enketo_plan import EnketoPlan
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import Facts, LinkFact
from ansible_collections.odkops.central.plugins.module_utils._health import NGINX, SERVICE, Health
from ansible_collections.odkops.central.plugins.module_utils._opening import ZIP
from ansible_collections.odkops.central.plugins.module_utils._pg_dump import DumpOptions, dump, rehearse_dump
from ansible_collections.odkops.central.plugins.module_utils._phases import Phases
from ansible_collections.odkops.central.plugins.module_utils._replace import (
    end_sessions_of_users,
    grant,
    mark,
    replace_by_central,
    replace_in_place,
    require_replaceable,
)
from ansible_collections.odkops.central.plugins.module_utils._restore_archive import RestoreArchive
from ansible_collections.odkops.central.plugins.module_utils._restore_journal import COMMITTED, Journal, new_tag
from ansible_collections.odkops.central.plugins.module_utils._restore_operations import PREVIOUS
from ansible_collections.odkops.central.plugins.module_utils._restore_preflight import (
    Backup,
    require_confirmation,
    require_extensions,
    require_known_migrations,
    require_programs,
    require_rights,
    require_space,
)
from ansible_collections.odkops.central.plugins.module_utils._restore_target import Administration, Survey, Target
from ansible_collections.odkops.central.plugins.module_utils._restore_undo import (
    IN_PLACE,
    KIND,
    RESTORE_JS,
    STOPPED,
    SWAP,
    finish,
    undo,
)
from ansible_collections.odkops.central.plugins.module_utils._services import Services
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, Verification, verify_file

# Rows that no migration and nothing else adds or removes while nobody can reach a Central.
_STEADY = ("public.submissions", "public.projects", "public.users", "public.field_keys", "public.public_links")


@dataclass(frozen=True)
class RestoreRequest:
    """What is to be restored, and where.

    :param channel: to the Central
    :param path: of the backup
    :param passphrase: that opens it; None for one that was made without
    :param sha256: what it must have, or None
    :param confirm_domain: the DOMAIN of the Central, typed by whoever asks
    :param strategy: one of STRATEGIES of _restore_undo
    :param administration: with whom databases are made
    :param safety: how a backup of what is there now is made; None for none
    :param plan_enketo: says what becomes of Enketo's links and secrets, given the links of the backup; None to leave them alone
    :param keep_previous: whether the old database is kept
    :param end_sessions: whether the sessions of users end, who then log in again
    :param patience: seconds that Central may take to come up, migrations included
    :param login: e-mail address and password to try at the end, or None
    :param known_bad_blobs: ids of blobs whose content is known to be wrong in the backup
    """

    channel: Channel
    path: str
    passphrase: Optional[str]
    confirm_domain: str
    sha256: Optional[str] = None
    strategy: str = SWAP
    administration: Administration = field(default_factory=Administration)
    safety: Optional[Terms] = None
    plan_enketo: Optional[Callable[[list[LinkFact]], EnketoPlan]] = None
    keep_previous: bool = True
    end_sessions: bool = True
    patience: float = 600
    login: Optional[tuple[str, str]] = None
    known_bad_blobs: frozenset[int] = frozenset()


class Restore:
    """One restore. :meth:`prepare` changes nothing, and :meth:`run` does it."""

    def __init__(self, request: RestoreRequest) -> None:
        self._request = request
        self._tag = new_tag()
        self._services = Services(request.channel)
        self._health = Health(request.channel, request.patience)
        self.phases = Phases()
        self._target: Target
        self._survey: Survey
        self._found: Verification
        self._extensions: dict[str, str]
        self._links: list[LinkFact] = []
        self._large = LargeFiles()
        self._enketo: Optional[EnketoPlan] = None
        self._enketo_changes = self._much_room = False

    # --- before anything is changed ---------------------------------------------------------------------------------

    def prepare(self) -> dict[str, Any]:
        """Verify the whole backup and do the whole preflight.

        :returns: ``backup`` (what :class:`Verification` has), ``target`` (what was found there), ``enketo``, ``warnings``
        :raises CentralError: with the diagnosis of what is wrong; nothing was changed
        """
        request = self._request
        request.administration.check()
        self._target = Target(request.channel, request.administration)
        self._survey = self._target.survey(self._tag)
        require_confirmation(self._survey, request.confirm_domain)
        with self.phases.phase("verify"):
            migrations = self._verify()
        with self.phases.phase("preflight"):
            return self._preflight(migrations)

    def _verify(self) -> list[str]:
        request = self._request
        migrations: list[str] = []

        def take(facts: Facts) -> None:
            migrations.extend(facts.migrations)
            self._links = facts.links()

        expected = Expectation(
            passphrase=request.passphrase,
            sha256=request.sha256,
            known_bad_blobs=request.known_bad_blobs,
        )
        self._found = verify_file(request.path, expected, on_blob=self._large.note, on_facts=take)
        return migrations

    def _preflight(self, migrations: list[str]) -> dict[str, Any]:
        request, survey = self._request, self._survey
        with self._archive() as archive:
            self._extensions = archive.extensions
            version = archive.header.version
        backup = Backup(request.path, self._found.size or 0, version, tuple(migrations), self._extensions)
        require_known_migrations(survey, backup)
        require_programs(survey, backup)
        require_extensions(survey, backup, request.strategy == SWAP)
        free = self._target.free()
        if request.strategy == SWAP:
            require_rights(survey)
        else:
            self._require_way_back()
            require_replaceable(self._target, self._tag, self._found.tables or {}, request.strategy == RESTORE_JS)
        self._much_room = require_space(survey, backup, free)
        warnings = []
        if free is None:
            warnings.append(
                "The database is on a server of its own: whether it has room for a second one was not seen."
            )
        found: dict[str, Any] = {}
        if request.plan_enketo is not None:
            self._enketo = request.plan_enketo(self._links)
            found = enketo.check(request.channel, self._enketo)
            warnings += found.pop("warnings", [])
            self._enketo_changes = bool(found.pop("change"))
        if request.safety is not None:
            rehearse_dump(request.channel, request.safety, DumpOptions())
        return {
            "backup": self._found.as_dict(),
            "target": {
                "identity": survey.identity.as_dict(),
                "server_version": survey.database["version"],
                "size": survey.size,
                "free": free,
                "restored_in": survey.place.name,
                "administrator": survey.administrator["user"],
            },
            "enketo": found,
            "warnings": warnings,
        }

    def _require_way_back(self) -> None:
        """See whether the strategy can be used: it has no old database to go back to."""
        request = self._request
        if request.safety is None and self._survey.database["submissions"]:
            raise CentralError(
                "bad_option",
                f"strategy={request.strategy} replaces the database where it is. The only way back is a backup that is made just "
                "before: give safety_backup.",
            )
        if request.strategy == RESTORE_JS and self._found.format == ZIP:
            raise CentralError(
                "bad_option", "strategy=restore_js takes no zip from this collection. Use swap or in_place."
            )

    def _archive(self) -> RestoreArchive:
        return RestoreArchive(self._request.path, self._request.passphrase or "", str(self._found.sha256))

    # --- the transaction ----------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Restore. To be called after :meth:`prepare`.

        :returns: ``previous`` (name of the old database, or None), ``only_previous`` (submissions that only it has),
            ``sessions_ended``, ``grants_failed``, ``extensions_missing``, ``enketo``, ``safety`` (path, or None), ``warnings``,
            ``phases``, ``downtime``, ``elapsed``
        :raises CentralError: with the diagnosis of what went wrong, after everything was put back; ``rollback_failed``
        """
        request = self._request
        safety = self._save() if request.strategy == SWAP else {}
        journal = Journal.begin(
            request.channel,
            self._tag,
            KIND,
            services=self._services.running(),
            now=self._survey.database["now"],
            enketo=self._enketo_changes,
            keep_previous=request.keep_previous,
            strategy=request.strategy,
            safety=safety.get("path"),
            safety_sha256=safety.get("sha256"),
        )
        try:
            found = self._transaction(journal)
        except BaseException as error:
            self._put_back(journal, error)
            raise
        found.update(self._clean(journal))
        return {**found, "safety": journal.facts.get("safety"), **self.phases.as_dict()}

    def _save(self) -> dict[str, Any]:
        """Make the safety backup. Its path is nobody's before it is whole and verified."""
        if self._request.safety is None:
            return {}
        with self.phases.phase("safety"):
            return dump(self._request.channel, self._request.safety, DumpOptions())

    def _transaction(self, journal: Journal) -> dict[str, Any]:
        request, phase, tag = self._request, self.phases.phase, self._tag
        found = self._beside(journal) if request.strategy == SWAP else {}
        journal.note("stopping")
        self.phases.stopped()
        with phase("stop"):
            self._services.stop("nginx")
            if request.strategy != RESTORE_JS:
                self._services.stop(*STOPPED)
        if request.strategy == SWAP:
            journal.note("swapping")
            with phase("swap"):
                found["previous"] = self._target.swap(tag)
        else:
            # There will be no old database, so all that was acknowledged has to be in the backup: nobody sends any more.
            saved = self._save()
            journal.note("replacing", safety=saved.get("path"), safety_sha256=saved.get("sha256"))
            with phase("load"):
                found.update(self._replace())
        links: dict[str, Any] = {}
        if self._enketo is not None and self._enketo_changes:
            journal.note("enketo")
            with phase("enketo"):
                enketo.keep_previous(request.channel, tag)
                links = enketo.apply(request.channel, self._enketo, tag)
                enketo.verify(request.channel, self._enketo)
        journal.note("starting")
        with phase("start"):
            self._services.start(*STOPPED)
            self._health.wait(SERVICE)
        with phase("health"):
            self._look_inside()
        journal.note("opening")
        with phase("open"):
            self._services.start("nginx")
            self._health.wait(NGINX)
            self.phases.answers()
            self._look_outside()
        journal.note(COMMITTED)
        return {"previous": None, **found, "enketo": links}

    def _beside(self, journal: Journal) -> dict[str, Any]:
        """Make the second database, while Central serves from the first."""
        target, phase, tag = self._target, self.phases.phase, self._tag
        there = self._survey.database["extensions"] or {}
        wished = {name: schema for name, schema in there.items() if name not in self._extensions}
        end_sessions = self._request.end_sessions
        journal.note("loading")
        with phase("load"):
            with self._archive() as archive:
                loaded = target.load(tag, archive, wished, self._large, self._much_room, end_sessions)
            self._compare(loaded.rows, self._found.tables or {})
        with phase("finish"), self._archive() as archive:
            refused = target.grant(tag, archive.grants)
        return {"sessions_ended": loaded.ended, "grants_failed": refused, "extensions_missing": loaded.missing}

    def _replace(self) -> dict[str, Any]:
        """Replace what is in Central's own database, which nobody uses."""
        request, tag, rows, target = self._request, self._tag, self._found.tables or {}, self._target
        with self._archive() as archive:
            if request.strategy == IN_PLACE:
                ended = replace_in_place(target, tag, archive, rows, request.end_sessions)
            else:
                if self._survey.migrations:
                    mark(target, tag)
                replace_by_central(request.channel, tag, request.path, request.passphrase)
                self._services.stop(*STOPPED)
                self._compare(target.count(tag, target.database), rows)
                ended = end_sessions_of_users(target, tag) if request.end_sessions else 0
            refused = grant(target, tag, archive.grants)
        return {"sessions_ended": ended, "grants_failed": refused, "extensions_missing": []}

    def _compare(self, found: dict[str, int], expected: dict[str, int]) -> None:
        """See whether each table has the rows that the backup has."""
        wrong = [name for name, rows in sorted(expected.items()) if found.get(name) != rows]
        if wrong:
            raise CentralError(
                "restore_failed",
                f"What was loaded is not what the backup holds: {wrong[0]} has {found.get(wrong[0])} rows, and the backup "
                f"{expected[wrong[0]]}.",
                tables=wrong[:50],
            )

    def _look_inside(self) -> None:
        """Nobody can reach the Central yet. See whether it is what was restored."""
        expected = {name: rows for name, rows in (self._found.tables or {}).items() if name in _STEADY}
        found = self._target.count(self._tag, self._target.database)
        self._compare({name: found.get(name, rows) for name, rows in expected.items()}, expected)
        blob = self._target.blob(self._tag)
        known = self._request.known_bad_blobs
        if blob is not None and blob[0] not in known and hashlib.sha1(blob[2]).hexdigest() != blob[1]:  # noqa: S324
            raise CentralError("not_healthy", f"The content of the attachment {blob[0]} is not what its SHA-1 says.")
        if self._request.login is not None:
            self._health.log_in(*self._request.login)

    def _look_outside(self) -> None:
        """Open a Web Form as a browser does, where Enketo was restored as well."""
        if self._enketo is not None:
            require_links(self._request.channel, self._enketo.some_ids(ASKED), self._request.patience)

    # --- the ends ---------------------------------------------------------------------------------------------------

    def _put_back(self, journal: Journal, error: BaseException) -> None:
        try:
            kept = undo(self._request.channel, journal, self._target, self._request.passphrase)
        except CentralError as failure:
            raise CentralError(
                "rollback_failed",
                f"The restore failed, and so did putting everything back. First: {error} Then: {failure.message} Remove the "
                "cause, then run restore.yml -e central_restore_action=rollback.",
                stage=journal.stage,
                tag=journal.tag,
            ) from error
        if isinstance(error, CentralError):
            if error.diagnosis == "operation_failed":
                error.diagnosis = "restore_failed"
            error.details.update(rolled_back=True, stage=journal.facts.get("failed_at", journal.stage), **kept)
            error.message += " Everything is as it was before."
            if "put_back_from" in kept:
                error.message += (
                    f" The database was put back from the backup that was made before, {kept['put_back_from']}."
                )
            error.args = (error.message,)

    def _clean(self, journal: Journal) -> dict[str, Any]:
        """The restore has succeeded, whatever happens now. See what only the old database has, and remove what nobody needs."""
        target, tag = self._target, self._tag
        only: Optional[int] = None
        warnings = []
        try:
            if self._survey.database["submissions"] and self._request.strategy == SWAP:
                with self.phases.phase("compare"):
                    only = target.missed(tag, PREVIOUS + tag, target.database)
            finish(self._request.channel, journal, target)
        except CentralError as error:
            warnings.append(
                f"The restore has succeeded, but what it has left could not be looked through or removed: {error.message} The "
                "next run does that, or restore.yml -e central_restore_action=rollback, which puts nothing back then."
            )
        kept = {} if self._request.keep_previous or warnings else {"previous": None}
        return {"only_previous": only, "warnings": warnings, **kept}
