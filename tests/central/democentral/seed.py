# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``central seed``: one transaction, the same for the same arguments and the same database before it."""

from __future__ import annotations

import argparse
import subprocess
import time

from . import state
from .copying import Script
from .project import container, psql
from .run import DemoError, run, say
from .seeder import Seeder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``central seed``. All numbers are totals of this call."""
    parser.add_argument("--projects", type=int, default=1)
    parser.add_argument("--forms", type=int, default=3, help="over all projects (default: 3)")
    parser.add_argument("--submissions", type=int, default=200, help="over all forms (default: 200)")
    parser.add_argument(
        "--attachments", type=int, default=60, help="over all submissions, each its own blob (default: 60)"
    )
    parser.add_argument("--attachment-size", type=int, default=20_000, metavar="BYTES", help="of each (default: 20000)")
    parser.add_argument("--blob-bytes", type=int, metavar="TOTAL", help="of all attachments, instead of a size of each")
    parser.add_argument(
        "--rows-bytes", type=int, metavar="TOTAL", help="of all submissions' XML (default: as it comes)"
    )
    parser.add_argument("--uploaded", type=int, default=0, metavar="N", help="so many blobs are marked as being in S3")
    parser.add_argument("--drafts", type=int, default=1, help="so many forms also have a draft (default: 1)")
    parser.add_argument("--app-users", type=int, default=2, help="of each project (default: 2)")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (default: 1)")


def seed(options: argparse.Namespace) -> None:
    """Add seed data to a demo, then let the service ask Enketo for the links of new forms."""
    name = options.name
    state.require(name)
    if min(options.projects, options.forms, options.submissions, options.attachments, options.attachment_size) < 0:
        raise DemoError("numbers must not be negative")
    if (options.forms and not options.projects) or (options.submissions and not options.forms):
        raise DemoError("forms need a project, submissions need a form")
    started = time.monotonic()
    with state.lock(name):
        seeder = Seeder(name, options)
        command = ["docker", "exec", "-i", container(name, "postgres14"), "psql", "-Xq", "-o", "/dev/null"]
        with subprocess.Popen(
            [*command, "-U", "odk", "-d", "odk"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdin is not None and process.stderr is not None
            try:
                with process.stdin:
                    seeder.write(Script(process.stdin))
            except BrokenPipeError:
                pass  # psql says why
            errors = process.stderr.read().decode("utf-8", "replace")
        if process.returncode:
            raise DemoError(f"seeding {name} failed, nothing of it was kept:\n{errors}")
        print(run(["docker", "exec", container(name, "service"), "node", "lib/bin/enketo-ids.js"]).stdout.strip())
    size = psql(name, "SELECT pg_size_pretty(pg_database_size('odk'))")
    say(f"{name} seeded in {time.monotonic() - started:.1f} s; the database takes {size}")
