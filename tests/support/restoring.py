# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A demo Central that may be destroyed, a backup set of it, and the module that brings it back."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .demo import Demo, central, ensure_demo, sole_user
from .modules import Result, run_module
from .snapshot import psql

PASSPHRASE = "correct horse battery staple 42"
_NOT_FOUND = 404


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_arguments: Any) -> None:
        return None


def _open(demo: Demo, request: urllib.request.Request) -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=demo.ca_path)
    try:
        with urllib.request.urlopen(request, context=context, timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def get(demo: Demo, path: str) -> int:
    """The status with which a page answers through nginx, in the end."""
    until = time.monotonic() + 30
    while True:
        try:
            return _open(demo, urllib.request.Request(demo.url + path))[0]
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def answers(demo: Demo, path: str, token: str | None) -> int:
    """The status with which the API answers."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return _open(demo, urllib.request.Request(demo.url + path, headers=headers))[0]


def login(demo: Demo) -> str:
    """A session of the administrator."""
    body = json.dumps({"email": demo["admin"]["email"], "password": demo["admin"]["password"]}).encode()
    request = urllib.request.Request(demo.url + "/v1/sessions", data=body, headers={"Content-Type": "application/json"})
    status, text = _open(demo, request)
    assert status == 200, text
    return str(json.loads(text)["token"])


def _send(demo: Demo, path: str, form: str, version: str, instance: str, headers: dict[str, str]) -> int:
    xml = f'<data id="{form}" version="{version}"><meta><instanceID>{instance}</instanceID></meta></data>'
    headers = {**headers, "Content-Type": "application/xml"}
    return _open(demo, urllib.request.Request(demo.url + path, data=xml.encode(), headers=headers))[0]


def sender(demo: Demo, project: str, form: str, version: str) -> Callable[[str], int]:
    """What sends submissions to a form with the administrator's password; it gives the status that came back."""
    account = f"{demo['admin']['email']}:{demo['admin']['password']}".encode()
    headers = {"Authorization": f"Basic {base64.b64encode(account).decode()}"}
    path = f"/v1/projects/{project}/forms/{form}/submissions"
    return lambda instance: _send(demo, path, form, version, instance, headers)


@dataclass
class Site:
    """A Central that may be destroyed, and a set of it."""

    demo: Demo
    folder: Path
    #: directory of the set
    set: Path

    @property
    def project(self) -> dict[str, str]:
        """The options that say where the Central is."""
        return {"project_directory": self.demo["compose_dir"], "project": self.demo["compose_project"]}

    def options(self, **options: Any) -> dict[str, Any]:
        """Options of central_restore that go well."""
        common = {"confirm_domain": self.demo["domain"], "passphrase": PASSPHRASE, "skip_safety_backup": True}
        return {**self.project, **common, "start_timeout": 90, **options}

    def restore(self, check: bool = False, **options: Any) -> Result:
        """Restore."""
        return run_module("central_restore", self.options(**options), check=check, timeout=900)

    def run(self, **options: Any) -> Result:
        """Another action than to restore."""
        result = run_module("central_restore", {**self.project, **options}, timeout=900)
        assert not result.failed, result.result.get("msg")
        return result

    def direct_backup(self, name: str) -> Path:
        """A backup of the database alone, as it is now."""
        path = self.folder / f"{name}.pgdump.enc.bin"
        path.unlink(missing_ok=True)
        made = run_module(
            "central_backup", {**self.project, "method": "pg_dump", "dest": str(path), "passphrase": PASSPHRASE}
        )
        assert not made.failed, made.result.get("msg")
        return path

    def copy_of_set(self, folder: Path) -> Path:
        """A copy of the set that may be damaged, in a repository of its own."""
        copy = folder / "repository" / self.set.parent.parent.name / "sets" / self.set.name
        shutil.copytree(self.set, copy)
        return copy

    def link(self) -> str:
        """The address by which a Web Form's page asks Enketo for its form. (The page itself opens whatever the id.)"""
        found = psql(
            self.demo, 'SELECT "enketoId" FROM forms WHERE "enketoId" IS NOT NULL AND "deletedAt" IS NULL LIMIT 1'
        )
        return f"/enketo-passthrough/xform/{found}"

    def sends(self) -> Callable[[str], int]:
        """What sends submissions to a form of the Central; it gives the status that came back."""
        sql = (
            'SELECT f."projectId", f."xmlFormId", d.version FROM forms f JOIN form_defs d ON d.id = f."currentDefId" '
            'WHERE f."deletedAt" IS NULL ORDER BY f.id LIMIT 1'
        )
        return sender(self.demo, *psql(self.demo, sql).split("\t"))

    def sends_as(self, kind: str) -> Callable[[str], int]:
        """What sends submissions as a device does that knows nothing but a token of a ``field_key`` or ``public_link``."""
        sql = (
            'SELECT s.token, f."projectId", f."xmlFormId", d.version FROM sessions s JOIN actors a ON a.id = s."actorId" '
            'JOIN assignments g ON g."actorId" = a.id JOIN forms f ON f."acteeId" = g."acteeId" '
            f"JOIN form_defs d ON d.id = f.\"currentDefId\" WHERE a.type = '{kind}' ORDER BY s.token LIMIT 1"
        )
        token, project, form, version = psql(self.demo, sql).split("\t")
        path = f"/projects/{project}/forms/{form}/submissions"
        path = f"/v1/key/{token}{path}" if kind == "field_key" else f"/v1{path}?st={token}"
        return lambda instance: _send(self.demo, path, form, version, instance, {})

    def break_lease(self) -> None:
        """What a killed run holds is in nobody's way for long; tests do not wait for it."""
        done = run_module("central_lease", {**self.project, "state": "broken"})
        assert not done.failed, done.result.get("msg")

    def backup_that_does_not_come_up(self) -> Path:
        """A backup that was taken while migrations ran: the lock is set, and one is missing, so that service refuses to start."""
        last = psql(self.demo, "SELECT name FROM knex_migrations ORDER BY id DESC LIMIT 1")
        saved = psql(self.demo, f"SELECT id, batch, migration_time FROM knex_migrations WHERE name = '{last}'").split(
            "\t"
        )
        psql(
            self.demo,
            f"UPDATE knex_migrations_lock SET is_locked = 1; DELETE FROM knex_migrations WHERE name = '{last}'",
        )
        try:
            return self.direct_backup("locked-migrations")
        finally:
            row = f"{saved[0]}, '{last}', {saved[1]}, '{saved[2]}'"
            psql(
                self.demo,
                "UPDATE knex_migrations_lock SET is_locked = 0; "
                f"INSERT INTO knex_migrations (id, name, batch, migration_time) VALUES ({row})",
            )

    def destroy(self) -> None:
        """Lose what a disk would take along: rows, links and secrets. Central still runs, and has nothing."""
        psql(self.demo, "DO $$ DECLARE t text; BEGIN FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP "
             "EXECUTE format('TRUNCATE public.%I CASCADE', t); END LOOP; END $$")  # fmt: skip
        self.demo.execute("enketo_redis_main", "redis-cli", "FLUSHALL")
        script = 'cd /etc/secrets && for f in *; do size=$(stat -c %s "$f"); head -c "$size" /dev/zero | tr "\\0" x >"$f"; done'
        self.demo.compose("run", "--rm", "-T", "--no-deps", "--entrypoint", "sh", "secrets", "-c", script)


def _make_set(demo: Demo, folder: Path) -> Path:
    """A sealed set of three parts, made by the modules alone."""
    project = {"project_directory": demo["compose_dir"], "project": demo["compose_project"]}
    common = {"repository": str(folder / "repository"), "central": "restored"}
    opened = run_module("central_set", {**common, "state": "open"})
    assert not opened.failed, opened.result.get("msg")
    path, facts = opened["path"], {}
    for part, module, more in (
        ("database", "central_backup", {"method": "pg_dump", "dest": f"{path}/database.pgdump.enc.bin"}),
        ("enketo", "central_enketo_backup", {"dest": f"{path}/enketo.tar.enc.bin"}),
    ):
        facts[part] = run_module(module, {**project, **more, "passphrase": PASSPHRASE})
        assert not facts[part].failed, facts[part].result.get("msg")
    database = facts["database"].result
    parts = {name: {key: made[key] for key in ("format", "size", "sha256")} for name, made in facts.items()}
    sealed = run_module(
        "central_set",
        {
            **common,
            "state": "sealed",
            "set_id": opened["set_id"],
            "parts": parts,
            "absent": {"config": "not of this test", "blobs": "none"},
            "identity": database["identity"],
            "database": {"tables": database["tables"], "central": database["central"]},
            "passphrase": PASSPHRASE,
        },
    )
    assert not sealed.failed, sealed.result.get("msg")
    return Path(sealed["path"])


@contextlib.contextmanager
def make_site(
    name: str, folder: Path, prepare: Callable[[Demo], None] | None = None, version: str | None = None
) -> Iterator[Site]:
    """Bring a Central up that is this test's alone, and make a set of it. It is removed afterwards.

    :param prepare: what is done to it before the set is made
    :param version: of Central; None for the newest
    """
    with sole_user(name):
        central("clean", "--name", name)
        try:
            if version is not None:
                central("engine")
                central("images")
                central("up", "--name", name, "--central-version", version)
            demo = ensure_demo(name)
            if prepare is not None:
                prepare(demo)
            yield Site(demo, folder, _make_set(demo, folder))
        finally:
            if not os.environ.get("CENTRAL_KEEP"):
                central("clean", "--name", name)
