# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The database and Enketo's Redis against each other: does each Web Forms link that Central gives out work.

``id:<enketoId>`` is a hash with ``openRosaServer`` and ``openRosaId``; ``or:<server>,<form>`` has the id that
goes with both. The server is written there without protocol and ``www.``, in lower case. A link needs both: an
``or:`` without its ``id:`` is answered with 406 for ever, and publishing the form again does not mend it.
Source: enketo/enketo, packages/enketo-express, app/models/survey-model.js, app/lib/utils.js (cleanUrl).

In descriptions a form is named by project and id. Enketo's ids and the tokens of drafts are parts of links, so
they are not shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ansible_collections.odkops.central.plugins.module_utils._enketo_secrets import opens_once_id
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import LinkFact
from ansible_collections.odkops.central.plugins.module_utils._redis_export import Key

# As many as the reader of the database takes for genuine, and as long; and all that was ever deleted.
_MAXIMUM_LINKS = 1_000_000
_MAXIMUM_TEXT = 8192
_SHOWN = 20

_PROJECT = re.compile(r"/projects/(\d{1,10})(?:/|\Z)")


def clean_server(server: str) -> str:
    """Return an OpenRosa server's address as ``or:`` keys have it."""
    without = re.sub(r"\Ahttps?://", "", server.strip(), flags=re.IGNORECASE)
    return re.sub(r"\Awww\.", "", without, flags=re.IGNORECASE).rstrip("/").lower()


@dataclass(frozen=True)
class Survey:
    """What an ``id:`` says: a form, or a draft of one, on a server."""

    #: without protocol, in lower case, such as ``central.example.org/v1/projects/1``
    server: str
    form: str

    @property
    def name(self) -> str:
        """The ``or:`` that goes with it, without ``or:``."""
        return f"{self.server},{self.form}"

    @property
    def host(self) -> str:
        """Host, and port where it is not 443."""
        return self.server.split("/", 1)[0]

    @property
    def project(self) -> int | None:
        """The project of Central's."""
        found = _PROJECT.search(self.server)
        return int(found[1]) if found else None

    @property
    def draft(self) -> bool:
        """Whether it is a draft."""
        return "/v1/test/" in self.server


@dataclass(frozen=True)
class BrokenLink:
    """A link that does not work, or would not after a restore."""

    #: ``no_id``, ``no_or``, ``other_id`` (``or:`` leads to another id), ``other_form`` (``id:`` is another form's)
    problem: str
    project: int | None
    form: str
    draft: bool

    def __str__(self) -> str:
        what = "the draft of " if self.draft else ""
        return f"{what}form {self.form[:100]!r} of project {self.project}: {_PROBLEMS[self.problem]}"


_PROBLEMS = {
    "no_id": "its id: is missing",
    "no_or": "its or: is missing",
    "other_id": "its or: leads to another id",
    "other_form": "its id: belongs to another form",
}


@dataclass
class RedisLinks:
    """The links that Redis holds, gathered from an export."""

    #: by Enketo id
    surveys: dict[str, Survey] = field(default_factory=dict)
    #: Enketo id by ``or:`` key without ``or:``
    ids: dict[str, str] = field(default_factory=dict)

    def take(self, key: Key) -> None:
        """Note the next key of the export.

        :raises CentralError: ``corrupt``
        """
        if key.db != 0 or len(key.key) > _MAXIMUM_TEXT:
            return
        name = key.key.decode("utf-8", "replace")
        if name.startswith("id:") and isinstance(key.value, list):
            fields = {item[0]: item[1] for item in key.value if isinstance(item, tuple)}
            server, form = (
                fields.get(each, b"")[:_MAXIMUM_TEXT].decode("utf-8", "replace")
                for each in (b"openRosaServer", b"openRosaId")
            )
            self.surveys[name[3:]] = Survey(clean_server(server), form.strip())
        elif name.startswith("or:") and isinstance(key.value, bytes):
            self.ids[name[3:]] = key.value[:_MAXIMUM_TEXT].decode("utf-8", "replace")
        if len(self.surveys) > _MAXIMUM_LINKS or len(self.ids) > _MAXIMUM_LINKS:
            raise CentralError("corrupt", "Redis of Enketo holds more links than are taken for genuine.")

    def hosts(self) -> dict[str, int]:
        """Number of links by host: more than one where a Central has changed its domain."""
        found: dict[str, int] = {}
        for survey in self.surveys.values():
            found[survey.host] = found.get(survey.host, 0) + 1
        return dict(sorted(found.items()))

    def broken(self) -> list[BrokenLink]:
        """What Redis alone tells: each ``or:`` whose ``id:`` is missing."""
        found = []
        for name, enketo_id in sorted(self.ids.items()):
            if enketo_id not in self.surveys:
                server, _comma, form = name.partition(",")
                lost = Survey(server, form)
                found.append(BrokenLink("no_id", lost.project, form, lost.draft))
        return found


def check_links(links: Iterable[LinkFact], redis: RedisLinks) -> list[BrokenLink]:
    """Return each link of the database, form or draft, that Redis could not serve.

    :param links: what the database says, as :meth:`Facts.links` gives it
    """
    found = []
    for link in links:
        if link.enketo_id is not None:
            problem = _problem(link, link.enketo_id, redis)
            if problem is not None:
                draft = link.draft_token is not None
                found.append(BrokenLink(problem, link.project_id, link.xml_form_id, draft))
    return found


def _problem(link: LinkFact, enketo_id: str, redis: RedisLinks) -> str | None:
    survey = redis.surveys.get(enketo_id)
    if survey is None:
        return "no_id"
    if survey.form != link.xml_form_id.strip() or survey.project not in (None, link.project_id):
        return "other_form"
    leads_to = redis.ids.get(survey.name)
    if leads_to is None:
        return "no_or"
    return None if leads_to == enketo_id else "other_id"


def require_links(broken: list[BrokenLink]) -> None:
    """Fail where a link is broken.

    :raises CentralError: ``missing_enketo_link``
    """
    if broken:
        shown = [str(link) for link in broken[:_SHOWN]]
        raise CentralError(
            "missing_enketo_link",
            f"Redis of Enketo lacks what {len(broken)} Web Forms link(s) of the database need: {'; '.join(shown)}. "
            "These links do not work in the live Central either, unless Redis was changed meanwhile.",
            broken_links=shown,
            broken_links_count=len(broken),
        )


@dataclass(frozen=True)
class OnceIds:
    """How many of the database's single-submission links a secret opens."""

    total: int
    opened: int


def check_once_ids(links: Iterable[LinkFact], less_secret: bytes) -> OnceIds:
    """Try Enketo's ``enketo-less-secret`` on each single-submission link of the database.

    Links that were made under an earlier secret do not open: they have been dead since it was replaced.

    :raises CentralError: ``wrong_enketo_secret`` where there are such links and it opens none of them
    """
    total = opened = 0
    for link in links:
        if link.once_id is not None and link.enketo_id is not None:
            total += 1
            opened += opens_once_id(link.once_id, link.enketo_id, less_secret)
    if total and not opened:
        raise CentralError(
            "wrong_enketo_secret",
            f"The saved enketo-less-secret opens none of the {total} single-submission link(s) of the database. It is "
            "another Central's, or was replaced; then these links do not work in the live Central either.",
            once_ids=total,
        )
    return OnceIds(total, opened)
