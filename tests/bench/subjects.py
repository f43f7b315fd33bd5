# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is measured: the modules, and what the ODK docs name instead of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.timing import Subject

from support.demo import Demo
from support.inventory import write_inventory
from support.modules import module_command, module_environment, parse_answer, wire_arguments
from support.paths import BIN


def answer_checker(sizes: dict[str, int], name: str) -> Callable[[bytes], None]:
    """Check a module's answer, and remember the size it tells."""

    def check(output: bytes) -> None:
        text = output.decode("utf-8", "replace")
        answer = parse_answer(text) or _answer_of_ansible(text)
        if answer.get("diagnosis") != "ok":
            raise RuntimeError(f"{name} answered {text[-1000:]}")
        sizes[name] = answer["size"]

    return check


def _answer_of_ansible(text: str) -> dict[str, Any]:
    _head, _arrow, body = text.partition("=> ")
    try:
        return dict(json.loads(body))
    except json.JSONDecodeError:
        return {}


def module_subject(name: str, args: dict[str, Any], prepare: Callable[[], None], sizes: dict[str, int]) -> Subject:
    """A module as Ansible runs it, without Ansible: a process of its own, its arguments on standard input."""
    return Subject(
        f"{name} (module process)",
        module_command(name, BIN / "python"),
        stdin=wire_arguments(args),
        env=module_environment(),
        prepare=prepare,
        check=answer_checker(sizes, name),
    )


def ansible_subject(
    name: str, args: dict[str, Any], prepare: Callable[[], None], sizes: dict[str, int], folder: Path, demo: Demo
) -> Subject:
    """The same through ``ansible``, with its start-up and transport; arguments by a file, as they hold secrets."""
    inventory = write_inventory(folder / "inventory.yml", {demo.name: demo}, module_arguments=args)
    settings = folder / "ansible.cfg"  # empty: in place of the user's own
    settings.touch()
    variables = json.dumps({key: f"{{{{ module_arguments.{key} }}}}" for key in args})
    command = [str(BIN / "ansible"), "-i", str(inventory), "all", "-m", f"odkops.central.{name}", "-a", variables]
    env = {**module_environment(), "ANSIBLE_CONFIG": str(settings), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
    return Subject(f"{name} (through ansible)", command, env=env, prepare=prepare, check=answer_checker(sizes, name))


def emptied(target: Path) -> Callable[[], None]:
    """Makes a directory anew before each run."""

    def prepare() -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(mode=0o700)

    return prepare


def curl_subject(demo: Demo, work: Path, target: Path, passphrase_file: Path, sizes: dict[str, int]) -> Subject:
    """curl with the ODK docs' configuration, through nginx and TLS."""
    login = demo.login
    passphrase = passphrase_file.read_text("utf-8").strip()
    config = work / "curl.conf"
    config.touch(mode=0o600)
    settings = {
        "url": f"{demo.url}/v1/backup",
        "user": f"{login['email']}:{login['password']}",
        "json": json.dumps({"passphrase": passphrase}),
        "output-dir": str(target),
        "cacert": demo.ca_path,
    }
    flags = ["http1.1", "show-error", "silent", "fail", "remote-name", "remote-header-name", "remove-on-error"]
    flags += ["no-clobber", "create-dirs"]
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()] + flags
    config.write_text("\n".join(lines) + "\n", "utf-8")

    def check(_output: bytes) -> None:
        (saved,) = target.iterdir()
        sizes["curl"] = saved.stat().st_size
        if sizes["curl"] < 1_000_000:
            raise RuntimeError(f"curl saved {sizes['curl']} bytes only")

    return Subject(
        "curl --config (the ODK docs' configuration)",
        ["curl", "--config", str(config)],
        prepare=emptied(target),
        check=check,
    )


def goal(what: str, value: float, bound: float, kind: str) -> None:
    """Print a figure beside its goal."""
    met = value >= bound if kind == "at least" else value <= bound
    print(f"{'met   ' if met else 'MISSED'}  {what}: {value:.2f} (goal: {kind} {bound:g})")
