# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Faults by real means: what breaks a Central in production, switched on and off."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from . import state
from .project import compose, container, psql, restart_nginx_if_needed, set_env, wait_until_it_serves
from .run import DemoError, run

Fault = Callable[[str, bool, argparse.Namespace], None]

SHIM = "/usr/local/bin/pg_dump"
LOCK_NAME = "demo-fault-lock"

#: Stands before the real pg_dump in PATH. `--version` must go on working: the service asks for it first.
SHIM_HEAD = """#!/bin/bash
# Put here by `central fault`; the real program is /usr/bin/pg_dump.
case " $* " in *" --version "*) exec /usr/bin/pg_dump "$@" ;; esac
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``central fault``."""
    parser.add_argument("fault", choices=sorted(FAULTS))
    parser.add_argument("switch", choices=("on", "off"))
    parser.add_argument(
        "--after", type=int, default=100_000, metavar="BYTES", help="dump-dies: after so much of its output"
    )
    parser.add_argument("--rate", type=int, default=100_000, metavar="BYTES", help="dump-slow: bytes a second")
    parser.add_argument("--table", default="blobs", help="locked-table: which one")
    parser.add_argument("--to", default="v2026.1.0", metavar="VERSION", help="old-version: which one")


def switch(options: argparse.Namespace) -> None:
    """Switch a fault on or off; off is safe whatever the state."""
    state.require(options.name)
    with state.lock(options.name):
        FAULTS[options.fault](options.name, options.switch == "on", options)


def _shim(name: str, body: str | None) -> None:
    """Put a script in pg_dump's place in the service's container, or take it away."""
    write = f"cat > {SHIM}.new && chmod 755 {SHIM}.new && mv {SHIM}.new {SHIM}"
    script = write if body is not None else f"rm -f {SHIM}"
    text = SHIM_HEAD + body if body is not None else ""
    run(["docker", "exec", "-i", container(name, "service"), "sh", "-c", script], stdin=text)


def _dump_dies(name: str, on: bool, options: argparse.Namespace) -> None:
    """pg_dump is killed (SIGKILL) when it has written so many bytes."""
    body = f'/usr/bin/pg_dump "$@" | head -c {options.after}\nkill -KILL $$\n'
    _shim(name, body if on else None)


def _dump_fails(name: str, on: bool, options: argparse.Namespace) -> None:
    """pg_dump fails before its first byte: 200 and 16 bytes."""
    _shim(name, 'exec /usr/bin/pg_dump --dbname=no_such_database "$@"\n' if on else None)


def _dump_slow(name: str, on: bool, options: argparse.Namespace) -> None:
    """pg_dump's output arrives slowly."""
    piece = max(options.rate // 10, 1)
    perl = f"$| = 1; while (read(STDIN, my $b, {piece})) {{ print $b; select(undef, undef, undef, 0.1) }}"
    _shim(name, f"set -o pipefail\n/usr/bin/pg_dump \"$@\" | perl -e '{perl}'\n" if on else None)


def _locked_table(name: str, on: bool, options: argparse.Namespace) -> None:
    """A table is locked: pg_dump waits for it, and the client for the first byte."""
    psql(name, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{LOCK_NAME}'")
    if not on:
        return
    if not options.table.replace("_", "").isalnum():
        raise DemoError(f"--table {options.table}: not a table's name")
    sql = f'BEGIN; LOCK TABLE "{options.table}" IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(3600);'
    holder = ["docker", "exec", "--detach", "-e", f"PGAPPNAME={LOCK_NAME}", container(name, "postgres14")]
    run([*holder, "psql", "-U", "odk", "-d", "odk", "-c", sql])
    held = (
        "SELECT count(*) FROM pg_locks WHERE granted AND mode = 'AccessExclusiveLock'"
        f" AND relation = '\"{options.table}\"'::regclass"
    )
    deadline = time.monotonic() + 20
    while psql(name, held) == "0":
        if time.monotonic() > deadline:
            raise DemoError(f"the table {options.table} could not be locked")
        time.sleep(0.1)


def _environment(name: str, settings: dict[str, str | None]) -> None:
    """Change lines of ``.env`` and let compose make the containers anew that it concerns."""
    set_env(name, settings)
    compose(name, "up", "--detach", "--no-build")
    restart_nginx_if_needed(name)


def _all(name: str, on: bool, options: argparse.Namespace) -> None:
    """Everything off, whatever was on: for the beginning of a test run, after one that was killed."""
    if on:
        raise DemoError("`all` can only be switched off")
    for service in ("service", "postgres14"):
        if _paused(name, service):
            compose(name, "unpause", service)
    _environment(name, dict.fromkeys(("OIDC_ENABLED", "DEMO_CENTRAL_VERSION")))
    wait_until_it_serves(name)
    _shim(name, None)
    _locked_table(name, False, options)


def _paused(name: str, service: str) -> bool:
    state_of = ["docker", "inspect", "-f", "{{.State.Paused}}", container(name, service)]
    return run(state_of, check=False).stdout.strip() == "true"


def _oidc(name: str, on: bool, options: argparse.Namespace) -> None:
    """OpenID Connect is on: no POST /v1/sessions, no Basic."""
    _environment(name, {"OIDC_ENABLED": "true" if on else None})
    wait_until_it_serves(name)


def _old_version(name: str, on: bool, options: argparse.Namespace) -> None:
    """The service is of an older release than the database: it refuses to start."""
    _environment(name, {"DEMO_CENTRAL_VERSION": options.to if on else None})
    if not on:
        wait_until_it_serves(name)
        return
    restarts = ["docker", "inspect", "-f", "{{.RestartCount}}", container(name, "service")]
    deadline = time.monotonic() + 30
    while run(restarts).stdout.strip() == "0":
        if time.monotonic() > deadline:
            raise DemoError(f"the service runs as {options.to}: its database is not newer than that")
        time.sleep(0.2)


def _service(action: tuple[str, str], service: str) -> Fault:
    def apply(name: str, on: bool, options: argparse.Namespace) -> None:
        if action[0] == "pause" and _paused(name, service) == on:
            return  # compose calls it an error to pause what is paused
        compose(name, action[0 if on else 1], service)
        if not on:
            restart_nginx_if_needed(name)
            wait_until_it_serves(name)

    return apply


FAULTS: dict[str, Fault] = {
    "all": _all,
    "dump-dies": _dump_dies,
    "dump-fails": _dump_fails,
    "dump-slow": _dump_slow,
    "locked-table": _locked_table,
    "oidc": _oidc,
    "old-version": _old_version,
    "service-stopped": _service(("stop", "start"), "service"),
    "database-stopped": _service(("stop", "start"), "postgres14"),
    "database-frozen": _service(("pause", "unpause"), "postgres14"),
    "nginx-stopped": _service(("stop", "start"), "nginx"),
    "enketo-stopped": _service(("stop", "start"), "enketo"),
}
