# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One demo: its checkout folder, its containers, its life."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import secrets
import shutil
import socket
import ssl
import time
from pathlib import Path
from typing import Any

from . import certificates, images, state
from .paths import CHECKOUT, TEMPLATE, project_of
from .run import DemoError, run, say, succeeds

START_SECONDS = 180
NOT_COPIED = {"server", "enketo"}
VERSIONS = json.loads((TEMPLATE / "server/lib/model/versions.json").read_text("utf-8"))
NEWEST: str = VERSIONS["newest"]


def checkout_of(name: str) -> Path:
    """The folder with ``docker-compose.yml`` and ``.env``: what a stock Central's checkout is."""
    return state.folder_of(name) / "central"


def compose(name: str, *arguments: str, check: bool = True, stdin: str | None = None) -> str:
    """Run ``docker compose`` on a demo; returns what it printed."""
    folder = checkout_of(name)
    command = ["docker", "compose", "-p", project_of(name), "--project-directory", str(folder)]
    return run([*command, *arguments], cwd=folder, check=check, stdin=stdin).stdout


def container(name: str, service: str) -> str:
    """The name of a service's container, for plain ``docker exec``: quicker than compose's."""
    return f"{project_of(name)}-{service}-1"


def psql(name: str, sql: str, check: bool = True) -> str:
    """Run SQL as the role odk; unaligned tuples."""
    command = ["docker", "exec", "-i", container(name, "postgres14"), "psql", "-XqAt", "-v", "ON_ERROR_STOP=1"]
    return run([*command, "-U", "odk", "-d", "odk", "-f", "-"], stdin=sql, check=check).stdout.rstrip("\n")


def up(name: str, release: str | None, domain: str | None, port: int | None, version: str | None) -> dict[str, Any]:
    """Bring a demo up, or make sure that it is; returns its state."""
    known = state.load(name)
    chosen = release or known.get("release") or "bookworm"
    images.check_release(chosen)
    if known.get("release", chosen) != chosen:
        raise DemoError(
            f"{name} is a demo of {known['release']}: `central clean --name {name}` first, or another --name"
        )
    wanted = images.tags(chosen)
    template = _template_digest()
    asked = (domain in (None, known.get("domain")), port in (None, known.get("https_port")), version is None)
    if known.get("images") == wanted and known.get("template") == template and all(asked) and _serves(known):
        _ensure_users(name, known)
        return known
    started = time.monotonic()
    images.ensure(chosen)
    with state.lock(name):
        known = {**state.load(name)}
        _prepare(name, known, chosen, domain or known.get("domain") or "localhost", port, version)
        known.update(images=wanted, template=template, pg_major=images.RELEASES[chosen])
        if "admin" not in known:
            # Not up yet, but the ports stay should this be interrupted.
            state.save(name, {key: value for key, value in known.items() if key != "url"})
        _start(name, known, wanted)
        _ensure_users(name, known)
        state.save(name, known)
    say(f"{name} is up after {time.monotonic() - started:.1f} s: {known['url']}")
    return known


def _template_digest() -> str:
    digest = hashlib.sha256()
    for path in _template_files():
        digest.update(f"{path.relative_to(TEMPLATE)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _template_files() -> list[Path]:
    files = [path for path in TEMPLATE.rglob("*") if path.is_file()]
    return sorted(path for path in files if path.relative_to(TEMPLATE).parts[0] not in NOT_COPIED)


def _prepare(
    name: str, known: dict[str, Any], release: str, domain: str, port: int | None, version: str | None
) -> None:
    """Write the checkout folder, ports, certificate; fills ``known``."""
    folder = checkout_of(name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in _template_files():
        relative = path.relative_to(TEMPLATE)
        target = folder / ("." + relative.stem if relative.name == "gitignore.template" else relative)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_bytes() != path.read_bytes():
            shutil.copyfile(path, target)  # in place: single files are mounted
        target.chmod(path.stat().st_mode & 0o755)
    (folder / "files/allow-postgres14-upgrade").touch()
    ports = _ports(name, known, port)
    known.update(
        name=name,
        release=release,
        domain=domain,
        https_port=ports["HTTPS_PORT"],
        url=f"https://{domain}:{ports['HTTPS_PORT']}",
        http_url=f"http://{domain}:{ports['HTTP_PORT']}",
        service_url=f"http://127.0.0.1:{ports['SERVICE_PORT']}",
        compose_project=project_of(name),
        compose_dir=str(folder),
        ports=ports,
    )
    known["ca_path"] = str(certificates.ensure(state.folder_of(name) / "ca", domain, folder / "files/local/customssl"))
    settings: dict[str, str | None] = {
        "COMPOSE_PROJECT_NAME": project_of(name),
        "DOMAIN": domain,
        **{key: str(value) for key, value in ports.items()},
    }
    if version is not None:
        settings["DEMO_CENTRAL_VERSION"] = None if version == NEWEST else version
    if not (folder / ".env").exists():
        settings = {"SYSADMIN_EMAIL": "admin@demo.example", "SSL_TYPE": "customssl", **settings}
    set_env(name, settings)
    _commit(folder)


def set_env(name: str, settings: dict[str, str | None]) -> None:
    """Set lines of the checkout's ``.env`` (``None`` removes one); the others, and comments, stay."""
    path = checkout_of(name) / ".env"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if line.split("=", 1)[0].strip() not in settings]
    text = "\n".join([*kept, *(f"{key}={value}" for key, value in settings.items() if value is not None), ""])
    if path.exists() and path.read_text("utf-8") == text:
        return
    partial = path.with_name(".env.partial")
    partial.write_text(text, "utf-8")
    partial.chmod(0o600)
    partial.rename(path)


def _ports(name: str, known: dict[str, Any], port: int | None) -> dict[str, int]:
    """Ports of the demo: those it has, unless it is down and somebody else took them meanwhile."""
    ports: dict[str, int] = dict(known.get("ports") or {})
    running = run(["docker", "ps", "-q", "--filter", f"name=^{container(name, 'nginx')}$"]).stdout.strip()
    keys = ["HTTP_PORT", "HTTPS_PORT", "SERVICE_PORT", *(["S3_PORT"] if "S3_PORT" in ports else [])]
    for key, candidate in zip(keys, state.free_ports(len(keys))):
        if key not in ports or not (running or state.is_free(ports[key])):
            ports[key] = candidate
    if port is not None:
        ports["HTTPS_PORT"] = port
    return ports


def _commit(folder: Path) -> None:
    """Make the folder a git checkout, as an administrator's is; where git is not installed it is a plain folder."""
    if not shutil.which("git"):
        return
    who = {
        f"GIT_{role}_{field}": value
        for role in ("AUTHOR", "COMMITTER")
        for field, value in (("NAME", "Demo Central"), ("EMAIL", "demo@example.org"), ("DATE", "2026-11-01T00:00:00Z"))
    }
    isolated = {
        **who,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_DIR": str(folder / ".git"),
    }
    git = ["git", "-C", str(folder), "--work-tree", str(folder), "-c", "commit.gpgsign=false"]
    if not (folder / ".git").is_dir():
        run(["git", "init", "-q", "--initial-branch=master", str(folder)], env={**isolated})
    run([*git, "add", "--all"], env=isolated)
    if not succeeds([*git, "--git-dir", str(folder / ".git"), "diff", "--cached", "--quiet"]):
        run([*git, "commit", "-q", "--no-verify", "-m", f"Central {NEWEST} (demo)"], env=isolated)
        run([*git, "tag", "--force", NEWEST], env=isolated)


def _start(name: str, known: dict[str, Any], wanted: dict[str, str]) -> None:
    project = project_of(name)
    for service, image in images.SERVICES.items():
        # The name that compose gives to what it builds: under stock's compose file no `image:` is needed.
        run(["docker", "tag", wanted[image], f"{project}-{service}"])
    try:
        compose(name, "up", "--detach", "--no-build", "--remove-orphans", "--quiet-pull")
    except DemoError as error:
        raise DemoError(f"{name} did not start: {error}") from None
    restart_nginx_if_needed(name)
    deadline = time.monotonic() + START_SECONDS
    while not _serves(known):
        if time.monotonic() > deadline:
            logs = compose(name, "logs", "--no-color", "--tail", "8", check=False)
            raise DemoError(f"{name} does not answer at {known['url']} after {START_SECONDS} s. Logs:\n{logs}")
        time.sleep(0.2)


def restart_nginx_if_needed(name: str) -> None:
    """Restart nginx where it is older than what it talks to: it resolves names only when it starts."""
    started = {service: _started(name, service) for service in ("service", "enketo", "nginx")}
    if started["nginx"] < max(started.values()):
        compose(name, "restart", "nginx")


def _started(name: str, service: str) -> str:
    """When a service's container was started: ISO 8601, to be compared as text."""
    return run(["docker", "inspect", "-f", "{{.State.StartedAt}}", container(name, service)]).stdout.strip()


def _serves(known: dict[str, Any]) -> bool:
    """Whether nginx answers for the API, by TLS, under its name, with 200. The name need not resolve."""
    if "url" not in known or not Path(str(known.get("ca_path"))).exists():
        return False
    try:
        context = ssl.create_default_context(cafile=known["ca_path"])
        with socket.create_connection(("127.0.0.1", known["https_port"]), timeout=10) as plain:
            connection = http.client.HTTPConnection(known["domain"], known["https_port"])
            connection.sock = context.wrap_socket(plain, server_hostname=known["domain"])
            connection.request("GET", "/v1/config/public")
            return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


def wait_until_it_serves(name: str, seconds: float = START_SECONDS) -> None:
    """Wait until a demo answers; :class:`DemoError` after ``seconds``."""
    known, deadline = state.require(name), time.monotonic() + seconds
    while not _serves(known):
        if time.monotonic() > deadline:
            raise DemoError(f"{name} does not answer at {known['url']}")
        time.sleep(0.2)


def _ensure_users(name: str, known: dict[str, Any]) -> None:
    """An administrator and a user without rights; passwords that the database no longer has are set again."""
    rows = psql(
        name, 'SELECT u.email, u.password FROM users u JOIN actors a ON a.id = u."actorId" AND a."deletedAt" IS NULL'
    )
    stored = dict(line.split("|", 1) for line in rows.splitlines())
    changed = False
    for role, email in (("admin", "admin@demo.example"), ("user", "collector@demo.example")):
        entry = known.setdefault(role, {"email": email, "password": secrets.token_urlsafe(18)})
        if email in stored and entry.get("hash") == stored[email]:
            continue
        command = ["docker", "exec", "-i", container(name, "service"), "odk-cmd", "--email", email]
        run([*command, "user-set-password" if email in stored else "user-create"], stdin=entry["password"] + "\n")
        if role == "admin":
            run([*command, "user-promote"])
        entry["hash"] = psql(name, f"SELECT password FROM users WHERE email = '{email}'")
        changed = True
    if changed:
        state.save(name, known)


def down(name: str) -> None:
    """Stop and remove a demo's containers and networks; volumes and state stay."""
    if (checkout_of(name) / "docker-compose.yml").exists():
        compose(name, "down", "--remove-orphans")


def clean(name: str | None) -> None:
    """Remove one demo whole, or all demos of this checkout and the images."""
    for project in _projects():
        if name is None or project == project_of(name):
            _remove_project(project)
    for each in state.names() if name is None else [name]:
        shutil.rmtree(state.folder_of(each), ignore_errors=True)
        state.path_of(each).unlink(missing_ok=True)
    if name is None:
        images.remove()


def _projects() -> set[str]:
    """Compose projects of this checkout that the engine has anything of."""
    label = '{{.Label "com.docker.compose.project"}}'
    found: set[str] = set()
    for kind in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
        found |= set(run(["docker", *kind, "--format", label]).stdout.split())
    listed = run(["docker", "image", "ls", "--format", "{{.Repository}}"]).stdout.split()
    found |= {image[: -len("-service")] for image in listed if image.endswith(f"-{CHECKOUT}-service")}
    return {project for project in found if project.endswith(f"-{CHECKOUT}")}


def _remove_project(project: str) -> None:
    say(f"removing {project}: containers, volumes, networks, image names")
    mine = ["--filter", f"label=com.docker.compose.project={project}"]
    containers = run(["docker", "ps", "--all", "--quiet", *mine]).stdout.split()
    if containers:
        run(["docker", "rm", "--force", "--volumes", *containers])
    for kind in ("volume", "network"):
        for item in run(["docker", kind, "ls", "--quiet", *mine]).stdout.split():
            run(["docker", kind, "rm", item])
    run(["docker", "image", "rm", *(f"{project}-{service}" for service in (*images.SERVICES, "s3"))], check=False)


def status(name: str) -> str:
    """What a demo is and whether it answers, for a person."""
    known = state.load(name)
    if "url" not in known:
        return f"{name}: not made"
    listed = run(
        ["docker", "ps", "--all", "--filter", f"label=com.docker.compose.project={project_of(name)}"]
        + ["--format", '{{.Label "com.docker.compose.service"}}: {{.Status}}']
    ).stdout
    lines = [
        f"{name} ({known['release']}, PostgreSQL {known['pg_major']}): {'answers' if _serves(known) else 'does not answer'}"
    ]
    lines += [f"  {key}: {known[key]}" for key in ("url", "service_url", "ca_path", "compose_project", "compose_dir")]
    return "\n".join([*lines, *(f"  {line}" for line in sorted(listed.splitlines()))])
