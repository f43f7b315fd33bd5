# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All checks of a drill, and those of attachments and Web Forms: what comes from outside the database.

What one check has found wrong is left out of the next, so that a report names the cause and not all that follows from it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, Optional
from urllib.parse import quote

from ansible_collections.odkops.central.plugins.module_utils import _drill_operations as operations
from ansible_collections.odkops.central.plugins.module_utils import _drill_text
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry, read_blob_list
from ansible_collections.odkops.central.plugins.module_utils._drill_data_checks import (
    LONG,
    MUCH,
    NOT_FOUND,
    OK,
    SHOWN,
    DataChecks,
    NothingToCheckError,
    WrongError,
    said,
)
from ansible_collections.odkops.central.plugins.module_utils._drill_record import FULL
from ansible_collections.odkops.central.plugins.module_utils._enketo_links import RedisLinks, check_links
from ansible_collections.odkops.central.plugins.module_utils._pool_check import (
    CONTENT,
    PRESENCE,
    Compared,
    compare_objects,
    lost,
)
from ansible_collections.odkops.central.plugins.module_utils._rclone import find_rclone
from ansible_collections.odkops.central.plugins.module_utils._redis_export import read_netstrings

#: of each kind, in a quick drill
LINKS = 5

_ALL = 999_999_999
_MADE_UP = "odkops0made0up"


class Checks(DataChecks):
    """One run of all checks."""

    def run(self) -> None:
        """Do all of them. What one finds wrong keeps none of the others from being done."""
        full = self._subject.depth == FULL
        self._facts = json.loads(
            self._channel.run(
                operations.FACTS, self._subject.seed, str(_ALL if full else self._subject.sample), timeout=LONG
            )
        )
        self._check("isolation", "The drill is apart from everything else", self._isolation)
        self._check("rows", "Rows by table are those of the manifest", self._rows)
        self._check("migrations", "The service has migrated the database", self._migrations)
        self._check("secrets", "Enketo's secrets are those of the set, and open its links", self._secrets)
        self._check("login", "An administrator can log in", self._login)
        self._check("projects", "The API has all projects", self._projects)
        self._check("forms", "The API has all forms", self._forms)
        self._check("submissions", "The API has all submissions", self._submissions)
        self._check("objects", "The pool has all objects of S3", self._objects)
        self._check("attachments", "Attachments come with their SHA-1", self._attachments)
        self._check("links", "Redis has what each Web Forms link needs", self._links)
        self._check("web_forms", "Web Forms open", self._web_forms)

    # --- attachments ------------------------------------------------------------------------------------------------

    def _objects(self) -> tuple[Any, Any, str]:
        subject, part = self._subject, self._subject.manifest["parts"].get("blobs")
        named = {int(line) for line in self._channel.run(operations.OBJECTS, timeout=LONG, limit=MUCH).split()}
        if part is None or subject.pool is None:
            why = subject.manifest["absent"].get("blobs") or "It does not say why."
            if named and not subject.objects_elsewhere:
                raise WrongError(
                    f"The content of {len(named)} attachments is in S3, and the set does not have it. {why} If you keep it "
                    "elsewhere by means of your own, say so with central_drill_objects_elsewhere.",
                    len(named),
                    0,
                )
            raise NothingToCheckError(why)
        found = self._compare(self._blob_list(named), CONTENT if subject.depth == FULL else PRESENCE)
        # The list has taken out all that it has.
        self._lost = {*found.missing, *found.wrong}
        if self._lost:
            raise WrongError(lost(subject.pool, found).message, found.checked, found.checked - len(self._lost))
        if named:
            shown = ", ".join(map(str, sorted(named)[:SHOWN]))
            raise WrongError(
                f"By the database {len(named)} more attachments are in S3, which the list of the set does not have: {shown}.",
                found.checked + len(named),
                found.checked,
            )
        self.figures.update(objects=found.checked, bytes=found.size)
        how = "read and compared by SHA-1" if subject.depth == FULL else "there with their sizes"
        return found.checked, found.checked, f"{found.checked} objects, {_drill_text.size(found.size)}, {how}."

    def _compare(self, entries: Iterable[BlobEntry], depth: str) -> Compared:
        """Objects against the pool."""
        subject = self._subject
        if subject.pool is None:
            return Compared()
        with tempfile.TemporaryDirectory(prefix="odkops-drill-") as folder:
            rclone_path = subject.rclone_path
            return compare_objects(
                subject.pool, entries, subject.passphrase, depth, lambda: find_rclone(rclone_path), folder
            )

    def _blob_list(self, taken: Optional[set[int]] = None) -> Iterator[BlobEntry]:
        """What the set's list has. The ids are removed from `taken` meanwhile."""
        for entry in read_blob_list(f"{self._subject.path}/{self._subject.manifest['parts']['blobs']['file']}"):
            if taken is not None:
                taken.discard(entry.id)
            yield entry

    def _attachments(self) -> tuple[Any, Any, str]:
        self._require_login()
        subject, whole = self._subject, self._facts["sample"]
        if not whole:
            raise NothingToCheckError("There is no submission with an attachment.")
        sample = [each for each in whole if f"blob-{each['blob']}-{each['sha']}" not in self._lost]
        in_s3 = {each["blob"] for each in sample if each["in_s3"]}
        known: dict[int, BlobEntry] = {}
        if in_s3 and subject.pool is not None:
            # One that had been purged from the Central when the objects were fetched is none of the set's. One that the list does
            # not have at all was said to be missing before.
            known = {entry.id: entry for entry in self._blob_list() if entry.id in in_s3 and entry.absent is None}
        served = known if subject.serving is not None else {}
        asked = [each for each in sample if not each["in_s3"] or each["blob"] in served]
        message = self._of_the_pool(known) if known and subject.serving is None else ""
        if in_s3 and subject.pool is None:
            message = f" {len(in_s3)} in S3 were not tried, since the set has no objects."
        if not asked:
            raise NothingToCheckError(f"No attachment could be downloaded.{message}")
        if served and subject.serving is not None:
            with subject.serving(served.values()):
                answers = self._download(asked)
        else:
            answers = self._download(asked)
        size = self._compare_downloads(asked, answers)
        self.figures.update(attachments=len(asked), attachment_bytes=size)
        all_of_them, volume = self._facts["attachments"], _drill_text.size(size)
        from_pool = sum(1 for each in asked if each["in_s3"])
        return (
            len(asked),
            len(asked),
            f"{len(asked)} of {all_of_them}, {volume}, {from_pool} of them from the pool.{message}",
        )

    def _of_the_pool(self, known: dict[int, BlobEntry]) -> str:
        """Read objects where they lie, since they cannot be downloaded, and say so. A full drill has read all of them."""
        found = Compared() if self._subject.depth == FULL else self._compare(known.values(), CONTENT)
        if found.missing or found.wrong:
            bad = sorted([*found.missing, *found.wrong])
            raise WrongError(
                f"{', '.join(bad[:SHOWN])} in the pool is not what it was.", len(known), len(known) - len(bad)
            )
        return (
            f" {len(known)} in S3 were read from the pool and compared, and not downloaded: this rclone has no S3 server "
            "(1.65 and later have one)."
        )

    def _compare_downloads(self, asked: list[dict[str, Any]], answers: list[dict[str, Any]]) -> int:
        """See whether they are what the database says, and return their bytes."""
        wrong = [
            (each, answer)
            for each, answer in zip(asked, answers)
            if answer["status"] != OK or answer.get("sha1") != each["sha"]
        ]
        if wrong:
            each, answer = wrong[0]
            raise WrongError(
                f"{len(wrong)} of {len(asked)} attachments are not what they were, the blob {each['blob']} first: "
                f"{said(answer) if answer['status'] != OK else 'another SHA-1'}.",
                len(asked),
                len(asked) - len(wrong),
            )
        return sum(int(answer.get("size") or 0) for answer in answers)

    def _download(self, sample: list[dict[str, Any]]) -> list[dict[str, Any]]:
        paths = (
            f"/v1/projects/{each['project']}/forms/{quote(each['form'], safe='')}/submissions/"
            f"{quote(each['instance'], safe='')}/attachments/{quote(each['name'], safe='')}"
            for each in sample
        )
        return self._get(*paths, follow=True)

    # --- Web Forms --------------------------------------------------------------------------------------------------

    def _links(self) -> tuple[Any, Any, str]:
        links = self._all_links()
        if not links:
            raise NothingToCheckError("No form has a Web Forms link.")
        redis = RedisLinks()
        with self._channel.stream("enketo-export") as stream:
            for key in read_netstrings(stream):
                redis.take(key)
        broken = check_links(links, redis)
        self._broken = {(each.project or 0, each.form, each.draft) for each in broken}
        enketo = self._subject.manifest["parts"].get("enketo") or {}
        before = int((enketo.get("checked") or {}).get("broken", 0))
        self.figures["links"] = len(links)
        if len(broken) > before:
            raise WrongError(
                f"{len(broken)} links do not work: {'; '.join(map(str, broken[:SHOWN]))}.",
                len(links) - before,
                len(links) - len(broken),
            )
        remark = f" {len(broken)} did not work when the backup was made, either." if broken else ""
        return len(links), len(links) - len(broken), f"{len(links)} forms and drafts.{remark}"

    def _web_forms(self) -> tuple[Any, Any, str]:
        """Some of each kind, and one that there is not. A page opens whatever its id is, so that its form is asked for."""
        asked: list[dict[str, Any]] = [_form(_MADE_UP, "")]
        kinds: dict[str, int] = {}
        for kind, requests in (
            ("forms", self._of_forms(self._facts["links"], False)),
            ("drafts", self._of_forms(self._facts["drafts"], True)),
            ("single submission", self._singles()),
            ("public links", self._of_public_links()),
        ):
            chosen = requests if self._subject.depth == FULL else self._chosen(requests)
            kinds[kind] = len(chosen)
            asked += chosen
        if len(asked) == 1:
            raise NothingToCheckError("No form has a Web Forms link that could be opened.")
        made_up, *answers = self._ask(asked)
        if made_up["status"] != NOT_FOUND:
            raise WrongError(f"Enketo knows a link that was made up: {said(made_up)}.", NOT_FOUND, made_up["status"])
        closed = [(request, answer) for request, answer in zip(asked[1:], answers) if answer["status"] != OK]
        if closed:
            request, answer = closed[0]
            remark = ""
            if "enketo" not in self._subject.manifest["parts"] and any(
                each["who"] == "enketo" for each, _answer in closed
            ):
                remark = " The set has no Enketo part, and single-submission links open with the secrets in it only."
            raise WrongError(
                f"{len(closed)} of {len(answers)} Web Forms do not open, that of {request['what']} first: {said(answer)}."
                f"{remark}",
                len(answers),
                len(answers) - len(closed),
            )
        each = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
        return len(answers), len(answers), f"{each}; and one that was made up does not."

    def _chosen(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A few, spread evenly."""
        step = max(1, len(requests) // LINKS)
        return requests[::step][:LINKS]

    def _of_forms(self, links: list[list[Any]], draft: bool) -> list[dict[str, Any]]:
        # A form wants a log-in, which Enketo passes on; a draft has its token in its address.
        cookie = {} if draft else {"Cookie": f"session={self._token}; __Host-session={self._token}"}
        return [
            _form(enketo_id, f"{'the draft of ' if draft else ''}form {form!r} of project {project}", headers=cookie)
            for project, form, enketo_id, _once, _token, opens in links
            if opens and (project, form, draft) not in self._broken and enketo_id and (draft or self._token)
        ]

    def _singles(self) -> list[dict[str, Any]]:
        if not self._secret_fits:
            return []
        return [
            {
                "who": "enketo",
                "path": f"/-/single/{quote(once, safe='')}",
                "what": f"form {form!r} of project {project}",
            }
            for project, form, _enketo_id, once, _token, _open in self._facts["links"]
            if once
        ]

    def _of_public_links(self) -> list[dict[str, Any]]:
        return [
            _form(enketo_id, f"a public link of form {form!r} of project {project}", token)
            for project, form, enketo_id, once, token in self._facts["public_links"]
            if not once and enketo_id and (project, form, False) not in self._broken
        ]


def _form(enketo_id: str, what: str, token: str = "", headers: Optional[dict[str, str]] = None) -> dict[str, Any]:
    """The request by which Enketo is asked for the form of a link, through nginx."""
    query = f"?st={quote(token, safe='')}" if token else ""
    return {
        "who": "nginx",
        "method": "POST",
        "path": f"/-/transform/xform/{quote(enketo_id, safe='')}{query}",
        "headers": {**(headers or {}), "Content-Length": "0"},
        "what": what,
    }
