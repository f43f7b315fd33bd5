# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of a drill, those of the database and of the API: whether what was restored is what was backed up, and whether it works.

Each check has one thing to say.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from ansible_collections.odkops.central.plugins.module_utils import _drill_operations as operations
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry
from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._drill_record import FAILED, PASSED, SKIPPED
from ansible_collections.odkops.central.plugins.module_utils._enketo_links import check_once_ids
from ansible_collections.odkops.central.plugins.module_utils._enketo_part import read_part, read_secrets
from ansible_collections.odkops.central.plugins.module_utils._enketo_secrets import LESS_SECRET
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import LinkFact
from ansible_collections.odkops.central.plugins.module_utils._pool import Pool

SHOWN = 20
LONG = 24 * 3600.0
OK, NOT_FOUND = 200, 404
#: bytes that the Central may answer together
MUCH = 512 * 1024 * 1024

# What has nothing to do with the set: the drill's Central, or its host, is gone.
_OF_THE_HOST = frozenset(
    {"process_killed", "service_not_running", "docker_unavailable", "lease_lost", "central_disk_full", "disk_full"}
)

_BATCH = 1000
_REQUEST = 60


class WrongError(Exception):
    """A check has failed."""

    def __init__(self, message: str, expected: Any = None, found: Any = None) -> None:
        super().__init__(message)
        self.expected, self.found = expected, found


class NothingToCheckError(Exception):
    """There is nothing to check, or it cannot be checked."""


@dataclass
class Subject:
    """What is checked.

    :param channel: to the drill's Central
    :param manifest: of the set
    :param path: of the set's directory
    :param tables: rows by table of the restored database, counted before the service migrated it
    :param isolation: looks once more whether the drill is apart, and returns its figures
    :param reach: host and port of what must not be reached
    :param objects_elsewhere: whether a set without the objects of S3 is no fault
    :param serving: given the objects of the sample, a context in which the Central finds them; None where rclone cannot serve
    """

    channel: Channel
    manifest: dict[str, Any]
    path: str
    passphrase: Optional[str] = field(repr=False)
    depth: str
    sample: int
    seed: str
    ca: str
    tables: dict[str, int]
    isolation: Callable[[], dict[str, int]]
    reach: list[tuple[str, int]]
    systems: set[str]
    objects_elsewhere: bool = False
    pool: Optional[Pool] = None
    rclone_path: Optional[str] = None
    serving: Optional[Callable[[Iterable[BlobEntry]], Any]] = None


class DataChecks:
    """Those of the database and of the API, and what all checks need."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._channel = subject.channel
        #: as they are in the record of a drill
        self.results: list[dict[str, Any]] = []
        self.figures: dict[str, int] = {}
        self._facts: dict[str, Any] = {}
        self._token = ""
        self._secret_fits = True
        self._broken: set[tuple[int, str, bool]] = set()
        #: names of objects that are not in the pool as they were
        self._lost: set[str] = set()

    def _check(self, name: str, title: str, act: Callable[[], tuple[Any, Any, str]]) -> None:
        begin = time.monotonic()
        result, expected, found = PASSED, None, None
        try:
            expected, found, message = act()
        except WrongError as wrong:
            result, expected, found, message = FAILED, wrong.expected, wrong.found, str(wrong)
        except NothingToCheckError as without:
            result, message = SKIPPED, str(without)
        except CentralError as error:
            if error.diagnosis in _OF_THE_HOST:
                raise
            result, message, found = FAILED, error.message, error.diagnosis
        self.results.append(
            {
                "name": name,
                "title": title,
                "result": result,
                "expected": expected,
                "found": found,
                "message": message,
                "seconds": round(time.monotonic() - begin, 3),
            }
        )

    # --- where it is ------------------------------------------------------------------------------------------------

    def _isolation(self) -> tuple[Any, Any, str]:
        subject = self._subject
        figures = subject.isolation()
        if self._facts["identifier"] in subject.systems:
            raise WrongError("The service uses the database server of the Central that was backed up.")
        reached = []
        if subject.reach:
            lines = "".join(f"{host} {port}\n" for host, port in subject.reach)
            answers = self._channel.run(operations.REACH, stdin=lines.encode(), timeout=60).decode().split()
            reached = [f"{host}:{port}" for (host, port), word in zip(subject.reach, answers) if word == "open"]
            if len(answers) != len(subject.reach):
                raise WrongError("It could not be tried whether the drill reaches others.")
        if reached:
            raise WrongError(f"The drill can reach {', '.join(reached[:SHOWN])}.", 0, len(reached))
        sentence = (
            f"{figures['containers']} containers, {figures['volumes']} volumes and {figures['networks']} network are its own, "
            f"none has any of {figures['compared']} secrets of the Central, and none of {len(subject.reach)} other servers "
            "can be reached."
        )
        return 0, 0, sentence

    # --- the database -----------------------------------------------------------------------------------------------

    def _rows(self) -> tuple[Any, Any, str]:
        expected, found = self._subject.manifest["database"]["tables"], self._subject.tables
        wrong = {
            name: (expected.get(name), found.get(name))
            for name in sorted({*expected, *found})
            if expected.get(name) != found.get(name)
        }
        self.figures.update(tables=len(found), rows=sum(found.values()))
        if wrong:
            name, (wanted, there) = next(iter(wrong.items()))
            raise WrongError(
                f"{len(wrong)} table(s) differ from the manifest. {name} has {there} rows, and should have {wanted}.",
                {each: pair[0] for each, pair in list(wrong.items())[:SHOWN]},
                {each: pair[1] for each, pair in list(wrong.items())[:SHOWN]},
            )
        total = sum(found.values())
        return total, total, f"{len(found)} tables with {total} rows, counted before the service migrated them."

    def _migrations(self) -> tuple[Any, Any, str]:
        known = self._channel.run(operations.MIGRATIONS).decode("utf-8", "replace").split()
        applied = self._facts["migrations"] or []
        before = self._subject.tables.get("public.knex_migrations", 0)
        missing = sorted(set(known) - set(applied))
        if missing or not known:
            raise WrongError(
                f"{len(missing)} migrations of this Central were not run, {missing[0]} first."
                if missing
                else "The migrations of this Central cannot be listed.",
                len(known),
                len(applied),
            )
        return len(known), len(applied), f"{len(applied) - before} were run now, {before} had been before the backup."

    def _all_links(self) -> list[LinkFact]:
        return [
            LinkFact(enketo_id, once_id, project, form, token, of_definition=token is not None)
            for project, form, enketo_id, once_id, token, _open in [*self._facts["links"], *self._facts["drafts"]]
        ]

    def _secrets(self) -> tuple[Any, Any, str]:
        held = read_secrets(self._channel)
        part = self._subject.manifest["parts"].get("enketo")
        if part is None:
            raise NothingToCheckError("The set has no Enketo part, so that there are no secrets to compare.")
        wanted = read_part(f"{self._subject.path}/{part['file']}", self._subject.passphrase).secrets
        other = sorted(name for name in wanted if held.get(name) != wanted[name])
        if other:
            self._secret_fits = False
            raise WrongError(f"{', '.join(other)} is not what the set has.", len(wanted), len(wanted) - len(other))
        opened_once = (part.get("checked") or {}).get("once_opened", 0)
        links = [link for link in self._all_links() if not link.draft]
        try:
            once = check_once_ids(links, held[LESS_SECRET])
        except CentralError as error:
            self._secret_fits = False
            raise WrongError(
                "enketo-less-secret opens none of the single-submission links of the database: it is another Central's.",
                error.details.get("once_ids"),
                0,
            ) from error
        # Links in the trash were counted when the backup was made.
        if once.total == len([link for link in links if link.once_id]) and once.opened < min(opened_once, once.total):
            self._secret_fits = False
            raise WrongError(
                "Some single-submission links do not open that did when the backup was made.", opened_once, once.opened
            )
        return once.total, once.opened, f"3 secrets, which open {once.opened} of {once.total} single-submission links."

    # --- the API ----------------------------------------------------------------------------------------------------

    def _ask(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answers in the order of the requests: ``status``, ``size``, ``sha1``, ``body``, ``error``."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(requests), _BATCH):
            batch = requests[start : start + _BATCH]
            asked = json.dumps({"ca": self._subject.ca, "requests": batch}).encode()
            output = self._channel.run(operations.ASK, str(_REQUEST), stdin=asked, timeout=LONG, limit=MUCH)
            answers = sorted((json.loads(line) for line in output.splitlines()), key=lambda each: each["number"])
            if len(answers) != len(batch):
                raise WrongError("Not all requests were answered.", len(batch), len(answers))
            found += answers
        return found

    def _get(self, *paths: str, **more: Any) -> list[dict[str, Any]]:
        headers = {"Authorization": f"Bearer {self._token}", "X-Extended-Metadata": "true"}
        return self._ask([{"who": "nginx", "path": path, "headers": headers, **more} for path in paths])

    def _require_login(self) -> None:
        if not self._token:
            raise NothingToCheckError("Nobody could log in.")

    def _login(self) -> tuple[Any, Any, str]:
        email, password = f"drill-{secrets.token_hex(6)}@drill.invalid", secrets.token_hex(16)
        self._channel.run(operations.ACCOUNT, email, stdin=f"{password}\n".encode(), timeout=120)
        body = {"email": email, "password": password}
        (answer,) = self._ask([{"who": "nginx", "method": "POST", "path": "/v1/sessions", "body": body, "keep": True}])
        if answer["status"] != OK:
            raise WrongError(
                f"The account that was made for the drill cannot log in through nginx: {said(answer)}.",
                OK,
                answer["status"],
            )
        self._token = str(json.loads(answer["body"])["token"])
        (me,) = self._get("/v1/users/current")
        if me["status"] != OK:
            raise WrongError(f"What was logged in is not let in: {said(me)}.", OK, me["status"])
        return OK, OK, "With an account that was made in the drill's own database, through nginx."

    def _projects(self) -> tuple[Any, Any, str]:
        self._require_login()
        (answer,) = self._get("/v1/projects", keep=True)
        if answer["status"] != OK:
            raise WrongError(f"The projects cannot be listed: {said(answer)}.", OK, answer["status"])
        number, expected = len(json.loads(answer["body"])), int(self._facts["projects"])
        self.figures["projects"] = number
        if number != expected:
            raise WrongError("The API has another number of projects than the database.", expected, number)
        return expected, number, f"{number} projects."

    def _listed(self) -> dict[tuple[int, str], int]:
        """Submissions by project and form, as the API has them."""
        self._require_login()
        ids = sorted({each[0] for each in self._facts["forms"]})
        answers = self._get(*(f"/v1/projects/{each}/forms" for each in ids), keep=True)
        found = {}
        for project, answer in zip(ids, answers):
            if answer["status"] != OK:
                raise WrongError(
                    f"The forms of project {project} cannot be listed: {said(answer)}.", OK, answer["status"]
                )
            for form in json.loads(answer["body"]):
                found[(project, str(form["xmlFormId"]))] = int(form.get("submissions") or 0)
        return found

    def _forms(self) -> tuple[Any, Any, str]:
        found, expected = set(self._listed()), {(each[0], each[1]) for each in self._facts["forms"]}
        self.figures["forms"] = len(found)
        if found != expected:
            project, form = sorted(found ^ expected)[0]
            raise WrongError(
                f"The API has other forms than the database, {form!r} of project {project} first.",
                len(expected),
                len(found),
            )
        return len(expected), len(found), f"{len(found)} forms."

    def _submissions(self) -> tuple[Any, Any, str]:
        found = self._listed()
        expected = {(each[0], each[1]): int(each[3]) for each in self._facts["forms"] if each[2]}
        wrong = [each for each, number in sorted(expected.items()) if found.get(each, 0) != number]
        total, there = sum(expected.values()), sum(found.get(each, 0) for each in expected)
        self.figures["submissions"] = there
        if wrong:
            project, form = wrong[0]
            raise WrongError(
                f"The API has another number of submissions of the form {form!r} of project {project}.", total, there
            )
        return total, there, f"{there} submissions of {len(expected)} forms."


def said(answer: dict[str, Any]) -> str:
    return f"HTTP {answer['status']}" if answer["status"] else f"no answer ({answer.get('error', '')[:200]})"
