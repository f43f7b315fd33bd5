# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rows of seed data: made-up, but of Central's shape, and the same for the same random numbers."""

from __future__ import annotations

import argparse
import base64
import datetime
import hashlib
import json
import random
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .copying import Script
from .project import psql
from .texts import FIELDS, NASTY, form_xml, sentence, submission_xml

NOW = datetime.datetime(2026, 11, 1, 8, 0, tzinfo=datetime.timezone.utc)
FOREVER = "9999-12-31 23:59:59+00"
VERSION = "2026102901"
IDS: tuple[str, ...] = (
    "actors",
    "projects",
    "forms",
    "form_defs",
    "form_schemas",
    "submissions",
    "submission_defs",
    "blobs",
    "datasets",
)
IDS += ("entities", "entity_defs", "entity_def_sources", "comments", "audits")


@dataclass(frozen=True)
class Project:
    """A project that is being seeded."""

    id: int
    actee: str
    name: str


@dataclass(frozen=True)
class Definition:
    """One version of a form; ``token`` marks a draft."""

    id: int
    schema: int
    version: str
    token: str | None


@dataclass(frozen=True)
class Form:
    """A form that is being seeded: its published version first, then perhaps a draft."""

    id: int
    actee: str
    project: Project
    definitions: tuple[Definition, ...]

    @property
    def xml_form_id(self) -> str:
        """Its name in XML."""
        return f"survey-{self.id}"


class Seeder:
    """Makes up rows, with ids of our own that go on where the database's end."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.options = options
        self.start = _largest_ids(name)
        self.next = {table: last + 1 for table, last in self.start.items()}
        # A second call must make other blobs: Central keeps each content once.
        self.rng = random.Random(f"{options.seed}:{self.start['blobs']}:{self.start['submissions']}")
        self.sized = (
            psql(name, "SELECT count(*) FROM pg_attribute WHERE attrelid = 'blobs'::regclass AND attname = 'size'")
            == "1"
        )
        self.event = int(psql(name, "SELECT event FROM current_event"))
        self.admin = int(psql(name, "SELECT \"actorId\" FROM users WHERE email = 'admin@demo.example'"))
        rows = psql(name, "SELECT system, id FROM roles WHERE system IS NOT NULL").splitlines()
        self.roles = {system: int(number) for system, number in (row.split("|") for row in rows)}
        self.audits: list[tuple[Any, ...]] = []

    def id(self, table: str) -> int:
        """The next id of a table."""
        value = self.next[table]
        self.next[table] += 1
        return value

    def uuid(self) -> str:
        """A random UUID, of our own random numbers."""
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    def token(self) -> str:
        """A session token as Central makes them: 64 characters."""
        return base64.b64encode(self.rng.randbytes(48)).decode().replace("/", "!").replace("+", "$")

    def nasty(self, number: int) -> str:
        """One of the nasty texts."""
        return NASTY[number % len(NASTY)]

    def when(self, number: int) -> str:
        """A time, later for a larger number."""
        return (NOW + datetime.timedelta(seconds=37 * number)).isoformat()

    def audit(self, action: str, actee: str | None, details: object, number: int = 0, notes: str | None = None) -> None:
        """Note an audit row; they are written last."""
        at = self.when(number)
        self.audits.append((self.id("audits"), self.admin, action, actee, details, at, at, 0, notes))

    def write(self, script: Script) -> None:
        """All of it, as one transaction."""
        script.sql("\\set ON_ERROR_STOP on\nBEGIN;")
        projects = self._projects(script)
        forms = self._forms(script, projects)
        self._links(script, projects, forms)
        blobs = self._blobs(script)
        self._submissions(script, forms, blobs)
        self._entities(script, projects)
        self._rest(script, forms)
        columns = ("id", "actorId", "action", "acteeId", "details", "loggedAt", "processed", "failures", "notes")
        script.copy("audits", columns, self.audits)
        for table, last in self.next.items():
            if last - 1 > self.start[table]:
                script.sql(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), {last - 1});")
        script.sql(f"UPDATE current_event SET event = {self.event};")
        script.sql("COMMIT;\nANALYZE;")

    def _actees(self, script: Script, rows: Iterable[Sequence[Any]]) -> None:
        script.copy("actees", ("id", "species", "parent"), rows)

    def _projects(self, script: Script) -> list[Project]:
        projects = [
            Project(self.id("projects"), self.uuid(), f"Project {number + 1}: {self.nasty(number + 3)}")
            for number in range(self.options.projects)
        ]
        self._actees(script, ((project.actee, "project", None) for project in projects))
        rows = ((p.id, p.name, p.actee, self.when(0), self.nasty(number)) for number, p in enumerate(projects))
        script.copy("projects", ("id", "name", "acteeId", "createdAt", "description"), rows)
        for project in projects:
            self.audit("project.create", project.actee, {"data": {"name": project.name}})
        return projects

    def _new_form(self, number: int, project: Project) -> Form:
        definitions = [Definition(self.id("form_defs"), self.id("form_schemas"), VERSION, None)]
        if number < self.options.drafts:
            definitions.append(Definition(self.id("form_defs"), self.id("form_schemas"), "draft 2", self.token()))
        return Form(self.id("forms"), self.uuid(), project, tuple(definitions))

    def _forms(self, script: Script, projects: list[Project]) -> list[Form]:
        forms = [self._new_form(number, projects[number % len(projects)]) for number in range(self.options.forms)]
        self._actees(script, ((form.actee, "form", form.project.actee) for form in forms))
        rows = [(f.id, f.xml_form_id, self.when(1), f.actee, "open", f.project.id, True) for f in forms]
        script.copy("forms", ("id", "xmlFormId", "createdAt", "acteeId", "state", "projectId", "webformsEnabled"), rows)
        script.copy("form_schemas", ("id",), ((d.schema,) for form in forms for d in form.definitions))
        definitions, fields = [], []
        for number, form in enumerate(forms):
            for d in form.definitions:
                title = f"Survey {form.id} {self.nasty(number)}"
                xml = form_xml(form.xml_form_id, d.version, title)
                digests = [hashlib.new(kind, xml.encode()).hexdigest() for kind in ("md5", "sha1", "sha256")]
                published = None if d.token else self.when(2)
                row = (d.id, form.id, xml, *digests, d.version, self.when(1), published, d.token, title, d.schema)
                definitions.append(row)
                fields += [(form.id, path, *rest, order, d.schema) for order, (path, *rest) in enumerate(FIELDS)]
            self.audit("form.create", form.actee, None, number)
            self.audit("form.update.publish", form.actee, {"newDefId": form.definitions[0].id}, number)
        columns = ("id", "formId", "xml", "hash", "sha", "sha256", "version", "createdAt", "publishedAt", "draftToken")
        script.copy("form_defs", (*columns, "name", "schemaId"), definitions)
        script.copy("form_fields", ("formId", "path", "name", "type", "binary", "order", "schemaId"), fields)
        for form in forms:
            draft = form.definitions[1].id if len(form.definitions) > 1 else "NULL"
            current = form.definitions[0].id
            script.sql(f'UPDATE forms SET "currentDefId" = {current}, "draftDefId" = {draft} WHERE id = {form.id};')
        return forms

    def _links(self, script: Script, projects: list[Project], forms: list[Form]) -> None:
        """App users and public links: actors, with sessions that never end, and a role on each form."""
        actors, keys, links, grants = [], [], [], []
        for project in projects:
            own = [form for form in forms if form.project is project]
            for number in range(self.options.app_users):
                actor = (
                    self.id("actors"),
                    "field_key",
                    self.uuid(),
                    f"Device {number + 1} {self.nasty(number)}"[:64],
                    project.actee,
                )
                actors.append(actor)
                keys.append((actor[0], self.admin, project.id))
                grants += [(actor[0], self.roles["app-user"], form.actee) for form in own]
            for form in own:
                for once in (False, True):
                    actor = (
                        self.id("actors"),
                        "public_link",
                        self.uuid(),
                        f"Link of {form.xml_form_id}",
                        form.actee,
                    )
                    actors.append(actor)
                    links.append((actor[0], self.admin, form.id, once))
                    grants.append((actor[0], self.roles["pub-link"], form.actee))
        self._actees(script, ((actor[2], actor[1], actor[4]) for actor in actors))
        rows = ((a, kind, actee, name, self.when(3)) for a, kind, actee, name, _parent in actors)
        script.copy("actors", ("id", "type", "acteeId", "displayName", "createdAt"), rows)
        script.copy("field_keys", ("actorId", "createdBy", "projectId"), keys)
        script.copy("public_links", ("actorId", "createdBy", "formId", "once"), links)
        script.copy("assignments", ("actorId", "roleId", "acteeId"), grants)
        sessions = ((actor[0], self.token(), FOREVER, self.when(3), self.token()) for actor in actors)
        script.copy("sessions", ("actorId", "token", "expiresAt", "createdAt", "csrf"), sessions)
        for actor in actors:
            self.audit(f"{actor[1]}.create", actor[2], {"data": {"displayName": actor[3]}})

    def _blobs(self, script: Script) -> list[int]:
        """Random bytes, which no compressor makes smaller, as photographs are. Returns the ids."""
        count, options = self.options.attachments, self.options
        sizes = [options.attachment_size] * count
        if options.blob_bytes is not None and count:
            each, over = divmod(options.blob_bytes, count)
            sizes = [each + (1 if number < over else 0) for number in range(count)]
        ids = [self.id("blobs") for _ in range(count)]
        columns = ("id", "sha", "content", "contentType", "md5", "s3_status", *(("size",) if self.sized else ()))

        def rows() -> Iterable[Sequence[Any]]:
            for number, (blob, size) in enumerate(zip(ids, sizes)):
                content = self.rng.randbytes(size)
                away = number < options.uploaded
                sha, md5 = hashlib.sha1(content).hexdigest(), hashlib.md5(content).hexdigest()
                row = (blob, sha, None if away else content, "image/jpeg", md5, "uploaded" if away else "pending")
                yield (*row, size) if self.sized else row

        script.copy("blobs", columns, rows())
        return ids

    def _submissions(self, script: Script, forms: list[Form], blobs: list[int]) -> None:
        total = self.options.submissions
        if not total or not forms:
            return
        size = (self.options.rows_bytes or 0) // total
        photos: list[list[tuple[str, int | None]]] = [[] for _ in range(total)]
        for number, blob in enumerate(blobs):
            photos[number % total].append((f"photo-{number + 1}.jpg", blob))
        for number in range(7, total, 40):
            # Announced by the XML, but never sent.
            photos[number].append((f"missing-{number}.jpg", None))
        first, first_def = self.next["submissions"], self.next["submission_defs"]
        instances = [f"uuid:{self.uuid()}" for _ in range(total)]
        form_of = [forms[number % len(forms)] for number in range(total)]

        def submissions() -> Iterable[Sequence[Any]]:
            for number, (form, instance) in enumerate(zip(form_of, instances)):
                state_of = (None, "approved", "hasIssues", None, "rejected", "edited")[number % 6]
                device = None if number % 3 else f"collect:{number:08x}"
                self.event += 1
                row = (self.id("submissions"), form.id, instance, self.when(number), self.admin, device)
                yield (*row, False, state_of, self.event)

        def definitions() -> Iterable[Sequence[Any]]:
            for number, (form, instance) in enumerate(zip(form_of, instances)):
                name = self.nasty(number) if number % 2 else None
                names = [photo for photo, _blob in photos[number]]
                note = self.nasty(number // 2) if number % 5 == 0 else sentence(self.rng, 120)
                xml = submission_xml(self.rng, form.xml_form_id, VERSION, instance, name or "", note, names, size)
                def_id = self.id("submission_defs")
                row = (def_id, first + number, xml, form.definitions[0].id, self.admin, self.when(number), True, True)
                yield (*row, instance, name, "org.odk.collect.android/v2026.1.0" if number % 3 else None)

        columns = (
            "id",
            "formId",
            "instanceId",
            "createdAt",
            "submitterId",
            "deviceId",
            "draft",
            "reviewState",
            "event",
        )
        script.copy("submissions", columns, submissions())
        columns = (
            "id",
            "submissionId",
            "xml",
            "formDefId",
            "submitterId",
            "createdAt",
            "current",
            "root",
            "instanceId",
        )
        script.copy("submission_defs", (*columns, "instanceName", "userAgent"), definitions())
        attached = ((first_def + n, name, blob, False) for n, group in enumerate(photos) for name, blob in group)
        script.copy("submission_attachments", ("submissionDefId", "name", "blobId", "isClientAudit"), attached)
        for number, (form, instance) in enumerate(zip(form_of, instances)):
            details = {"instanceId": instance, "submissionId": first + number, "submissionDefId": first_def + number}
            self.audit("submission.create", form.actee, details, number)
        comments = (
            (self.id("comments"), first + n, self.admin, self.nasty(n) or "-", self.when(n))
            for n in range(0, total, 25)
        )
        script.copy("comments", ("id", "submissionId", "actorId", "body", "createdAt"), comments)

    def _entities(self, script: Script, projects: list[Project]) -> None:
        """One entity list in each project, with a few entities."""
        datasets = [
            (self.id("datasets"), f"people_{p.id}", self.uuid(), self.when(4), p.id, self.when(4)) for p in projects
        ]
        self._actees(script, ((d[2], "dataset", p.actee) for d, p in zip(datasets, projects)))
        script.copy("datasets", ("id", "name", "acteeId", "createdAt", "projectId", "publishedAt"), datasets)
        sources, entities, definitions = [], [], []
        for dataset in datasets:
            for number in range(10):
                source, entity = self.id("entity_def_sources"), self.id("entities")
                sources.append((source, "api"))
                entities.append((entity, self.uuid(), dataset[0], self.when(number), self.admin))
                data = {"first_name": self.nasty(number), "age": str(self.rng.randint(1, 90))}
                row = (self.id("entity_defs"), entity, self.when(number), True, data, self.admin, f"Person {number}")
                definitions.append((*row, True, source, 1, data))
        script.copy("entity_def_sources", ("id", "type"), sources)
        script.copy("entities", ("id", "uuid", "datasetId", "createdAt", "creatorId"), entities)
        columns = (
            "id",
            "entityId",
            "createdAt",
            "current",
            "data",
            "creatorId",
            "label",
            "root",
            "sourceId",
            "version",
        )
        script.copy("entity_defs", (*columns, "dataReceived"), definitions)

    def _rest(self, script: Script, forms: list[Form]) -> None:
        """A setting, a preference, a file of a form with its blob kept by content."""
        script.sql(
            "INSERT INTO config (key, value, \"setAt\") VALUES ('login-appearance', "
            f"'{json.dumps({'title': 'Demo', 'description': NASTY[3]}, ensure_ascii=False)}', now()) ON CONFLICT DO NOTHING;"
            'INSERT INTO user_site_preferences ("userId", "propertyName", "propertyValue") VALUES '
            f"({self.admin}, 'projectSortMode', '\"alphabetical\"') ON CONFLICT DO NOTHING;"
        )
        content = 'name,label\nwell-1,"Well, north"\nwell-2,Brunnen süd\n'.encode()
        sha, md5 = hashlib.sha1(content).hexdigest(), hashlib.md5(content).hexdigest()
        size = (", size", f", {len(content)}") if self.sized else ("", "")
        script.sql(
            f'INSERT INTO blobs (id, sha, md5, content, "contentType"{size[0]}) VALUES '
            f"({self.id('blobs')}, '{sha}', '{md5}', '\\x{content.hex()}', 'text/csv'{size[1]}) ON CONFLICT DO NOTHING;"
        )
        for form in forms[:1]:
            script.sql(
                'INSERT INTO form_attachments ("formId", "formDefId", name, type, "blobId", "updatedAt") '
                f"SELECT {form.id}, {form.definitions[0].id}, 'wells.csv', 'file', id, now() FROM blobs "
                f"WHERE sha = '{sha}' AND \"contentType\" = 'text/csv';"
            )


def _largest_ids(name: str) -> dict[str, int]:
    sql = " UNION ALL ".join(f"SELECT '{table}', coalesce(max(id), 0) FROM {table}" for table in IDS)
    return {table: int(last) for table, last in (line.split("|") for line in psql(name, sql).splitlines())}
