# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running playbooks as a person does, with the results as data beside what was printed."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .paths import BIN, COLLECTION, TESTS


@dataclass
class PlaybookResult:
    """What ``ansible-playbook`` did: exit code, what it printed, and the results as data."""

    rc: int
    stdout: str
    stderr: str
    results: list[dict[str, Any]] = field(default_factory=list)
    """One per host and task: status (ok, failed, skipped, unreachable), host, task, action, result."""
    hosts: dict[str, dict[str, int]] = field(default_factory=dict)
    """By host: ok, changed, failures, unreachable, skipped, rescued, ignored."""
    custom: dict[str, Any] = field(default_factory=dict)
    """What ``set_stats`` left: ``_run`` for the run as a whole, else by host."""

    @property
    def output(self) -> str:
        """All that was printed."""
        return self.stdout + self.stderr

    def of(self, action: str, host: str | None = None) -> list[dict[str, Any]]:
        """The results of a module (full or short name), in order, perhaps of one host only."""
        return [
            entry["result"]
            for entry in self.results
            if entry["action"] in (action, f"{COLLECTION}.{action}", f"ansible.builtin.{action}")
            and host in (None, entry["host"])
        ]


def ansible_environment(work: Path, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """A clean environment for Ansible: no settings of the caller, no injected facts, all its state under ``work``."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "PYTHON"))}
    settings = work / "ansible.cfg"  # empty: in place of the user's own
    settings.touch()
    return {
        **inherited,
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "LC_ALL": "C.UTF-8",
        "HOME": os.environ.get("HOME", str(work)),
        "ANSIBLE_HOME": str(work / "ansible-home"),
        "ANSIBLE_CONFIG": str(settings),
        "ANSIBLE_INJECT_FACT_VARS": "false",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORCE_COLOR": "0",
        "ANSIBLE_NOCOWS": "1",
        "ANSIBLE_RETRY_FILES_ENABLED": "false",
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_SHOW_CUSTOM_STATS": "true",
        "ANSIBLE_CALLBACK_PLUGINS": str(TESTS / "support" / "callback_plugins"),
        "ANSIBLE_CALLBACKS_ENABLED": "record",
        "RECORD_PATH": str(work / "record.jsonl"),
        **(env or {}),
    }


def run_playbook(
    name: str | Path,
    inventory: str | Path,
    extra_vars_file: str | Path | None = None,
    *arguments: str,
    check: bool = False,
    verbosity: int = 0,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
    stdin: str | None = None,
) -> PlaybookResult:
    """Run a playbook of the collection by its name (``backup``), or one by its path.

    ``arguments`` go to ``ansible-playbook`` as they are. Secrets belong into ``extra_vars_file`` or the inventory.
    """
    playbook = str(name) if isinstance(name, Path) or os.sep in name or "." in name else f"{COLLECTION}.{name}"
    command: list[str] = [str(BIN / "ansible-playbook"), "-i", str(inventory), playbook]
    if extra_vars_file is not None:
        command += ["-e", f"@{extra_vars_file}"]
    if check:
        command.append("--check")
    if verbosity:
        command.append("-" + "v" * verbosity)
    with tempfile.TemporaryDirectory(prefix="playbook-") as folder:
        work = Path(folder)
        done = subprocess.run(
            [*command, *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            env=ansible_environment(work, env),
            cwd=work,
            timeout=timeout,
            check=False,
        )
        record = work / "record.jsonl"
        events = _read_events(record.read_text("utf-8").splitlines()) if record.exists() else []
    outcome = PlaybookResult(done.returncode, done.stdout, done.stderr)
    for event in events:
        if event["event"] == "result":
            outcome.results.append(event)
        else:
            outcome.hosts, outcome.custom = event["hosts"], event["custom"]
    return outcome


def _read_events(lines: Sequence[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]
