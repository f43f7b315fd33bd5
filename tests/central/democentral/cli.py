# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from . import engine, faults, images, project, s3, seed, state
from .run import DemoError

DEFAULT_NAME = "odkdemo"


def _name(text: str) -> str:
    """A demo's name: what Docker Compose takes as a project's."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", text):
        raise argparse.ArgumentTypeError("lower-case letters, digits, - and _, at most 40")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="central", description="A demo Central for tests: see tests/central/README.md."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    def named(command: argparse.ArgumentParser, default: str | None = DEFAULT_NAME) -> None:
        command.add_argument(
            "--name", type=_name, default=default, help=f"which demo (default: {default or 'all of this checkout'})"
        )

    one = add(
        "engine", "make sure that a Docker engine and `docker compose` work; install and start them where possible"
    )
    one.add_argument(
        "--python", help="interpreter whose pip fetches the compose plugin (default: .venv, else this one)"
    )

    one = add("images", "build what is missing of the images")
    one.add_argument("--release", default="bookworm", choices=sorted(images.RELEASES))

    one = add("up", "bring a demo up, images included; returns when it answers")
    named(one)
    one.add_argument(
        "--release", choices=sorted(images.RELEASES), help="Debian release (default: bookworm, PostgreSQL 15)"
    )
    one.add_argument("--domain", help="DOMAIN (default: localhost)")
    one.add_argument("--port", type=int, help="HTTPS port on loopback (default: a free one, kept)")
    versions = sorted(project.VERSIONS["known"])
    one.add_argument("--central-version", choices=versions, help="run as another Central (see README, Versions)")

    one = add("seed", "add projects, forms, submissions, attachments, links; each call adds to what is there")
    named(one)
    seed.add_arguments(one)

    named(add("s3", "give a demo an S3 server, and move its attachments there"))

    for name, text in (("down", "stop a demo; its data stays"), ("status", "what a demo is and whether it answers")):
        named(add(name, text))
    named(add("clean", "remove a demo whole; without --name all of this checkout, and the images"), None)

    one = add("fault", "switch a fault on or off (see README, Faults)")
    named(one)
    faults.add_arguments(one)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        _dispatch(options)
    except DemoError as error:
        print(f"central: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("central: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def _dispatch(options: argparse.Namespace) -> None:
    command = options.command
    if command == "engine":
        engine.ensure(options.python)
        return
    if command != "status" and not engine.answers():
        raise DemoError("no Docker engine answers: run `central engine` first")
    if command == "images":
        for name, tag in images.ensure(options.release).items():
            print(f"{name}: {tag}")
    elif command == "up":
        project.up(options.name, options.release, options.domain, options.port, options.central_version)
        print(state.path_of(options.name))
    elif command == "seed":
        seed.seed(options)
    elif command == "s3":
        s3.enable(options.name)
    elif command == "down":
        project.down(options.name)
    elif command == "clean":
        project.clean(options.name)
    elif command == "status":
        print(project.status(options.name))
    elif command == "fault":
        faults.switch(options)
