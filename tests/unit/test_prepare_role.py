# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role prepare in check mode on this host, which takes itself for several hosts of several releases."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import PlaybookResult, run_playbook

RCLONE = "rclone v{}\n- os/version: debian 12.5 (64 bit)\n"
OFFERED = "Package: rclone\nVersion: {}\nDescription: rsync for cloud storage\n"

# What gathers facts elsewhere.
FACTS = """#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule(argument_spec={"facts": {"type": "dict"}}, supports_check_mode=True)
module.exit_json(changed=False, ansible_facts=module.params["facts"])
"""


@dataclass(frozen=True)
class Host:
    """A host.

    :param release: its distribution and version
    :param rclone: the version that is there
    :param offered: the version that apt has
    """

    release: tuple[str, str]
    rclone: str | None = None
    offered: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)

    def entry(self, folder: Path) -> dict[str, Any]:
        """Make its programs; returns it as an inventory has it."""
        folder.mkdir()
        text = RCLONE.format(self.rclone)
        _program(folder / "rclone", "exit 127" if self.rclone is None else f"cat <<'EOF'\n{text}EOF")
        text = OFFERED.format(self.offered)
        known = "" if self.offered is None else f"case $* in *rclone*) cat <<'EOF'\n{text}EOF\nexit 0;; esac"
        _program(folder / "apt-cache", f"{known}\necho 'E: No packages found' >&2\nexit 100")
        return {
            "facts": {"distribution": self.release[0], "distribution_version": self.release[1]},
            "path": f"{folder}:{os.environ['PATH']}",
            **self.variables,
        }


def _program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


DEBIAN, NOBLE, JAMMY = ("Debian", "12.5"), ("Ubuntu", "24.04"), ("Ubuntu", "22.04")
UNKNOWN = {
    "older": Host(("Debian", "11.9")),
    "newer": Host(("Ubuntu", "26.04")),
    "fedora": Host(("Fedora", "42")),
}
WRONG = {
    "relative": Host(DEBIAN, variables={"prepare_venv_path": "relative"}),
    "top": Host(DEBIAN, variables={"prepare_venv_path": "/opt"}),
    "shell": Host(DEBIAN, variables={"prepare_venv_path": "/opt/x; id"}),
}
KNOWN = {
    "debian": Host(DEBIAN, None, "1.60.1+dfsg-2+b5"),
    "noble": Host(NOBLE, "1.53.3", "1:1.60.1-1"),
    "own": Host(DEBIAN, "1.75.2"),
    "jammy": Host(JAMMY, None, "1.53.3-4ubuntu1.22.04.3"),
    "old": Host(JAMMY, "1.53.3-DEV", "1.9.0-1"),
    "nothing": Host(JAMMY),
    "pypi": Host(DEBIAN, "1.75.2", "1.60.1", {"prepare_venv": True}),
    "without": Host(DEBIAN, variables={"prepare_rclone": False}),
}
LIBRARIES = {"python3-requests", "python3-cryptography", "python3-zstandard", "python3-lz4"}
VENV = {"python3-venv", "python3-packaging"}


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepare") / "opt"


@pytest.fixture(scope="module")
def done(opt: Path) -> PlaybookResult:
    """One run for all of them."""
    folder = opt.parent
    (folder / "library").mkdir()
    (folder / "library" / "some_facts.py").write_text(FACTS)
    hosts = {name: host.entry(folder / name) for name, host in {**UNKNOWN, **WRONG, **KNOWN}.items()}
    shared = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "prepare_venv_path": f"{opt}/venv",
    }
    (folder / "inventory.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": shared}}))
    play = {
        "hosts": "all",
        "gather_facts": False,
        "environment": {"PATH": "{{ path }}"},
        "tasks": [
            {"some_facts": {"facts": "{{ facts }}"}},
            {"ansible.builtin.include_role": {"name": "odkops.central.prepare"}},
        ],
    }
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    return run_playbook(folder / "play.yml", folder / "inventory.yml", None, "--forks", "4", check=True, timeout=550)


def packages(done: PlaybookResult, host: str) -> set[str]:
    asked = next(e for e in done.results if e["host"] == host and e["task"].endswith("Install packages"))
    return set(asked["result"]["invocation"]["module_args"]["package"] or [])


def said(done: PlaybookResult, host: str) -> str:
    return " ".join(str(result.get("msg")) for result in done.of("debug", host) if "msg" in result)


def failure(done: PlaybookResult, host: str) -> str:
    return str(next(e["result"]["msg"] for e in done.results if e["host"] == host and e["status"] == "failed"))


@pytest.mark.parametrize("host", UNKNOWN)
def test_other_distributions_get_one_sentence(done: PlaybookResult, host: str) -> None:
    sentence = failure(done, host)
    assert sentence.startswith("This role knows Debian 12 and 13 and Ubuntu 22.04 and 24.04, and this host is ")
    assert sentence.count(". ") == 0
    assert "docs/prepare.md" in sentence
    assert done.of("apt", host) == []


@pytest.mark.parametrize("host", WRONG)
def test_an_environment_in_a_place_that_cannot_be(done: PlaybookResult, host: str) -> None:
    assert failure(done, host).startswith("prepare_venv_path: ")
    assert done.of("apt", host) == []


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("debian", LIBRARIES | {"rclone"}),
        ("noble", LIBRARIES | {"rclone"}),
        ("own", LIBRARIES),
        ("jammy", LIBRARIES | VENV),
        ("old", LIBRARIES | VENV),
        ("nothing", LIBRARIES | VENV),
        ("pypi", VENV),
        ("without", LIBRARIES),
    ],
)
def test_what_comes_from_where(done: PlaybookResult, opt: Path, host: str, wanted: set[str]) -> None:
    assert done.hosts[host]["failures"] == 0, done.output
    assert packages(done, host) == wanted | {"openssh-client"}
    environment = wanted >= VENV
    assert (f"central_rclone_path: {opt}/venv/bin/rclone" in said(done, host)) == environment
    assert (f"ansible_python_interpreter: {opt}/venv/bin/python" in said(done, host)) == (host == "pypi")
    assert (f"{opt}/venv would be made" in said(done, host)) == environment
    if environment:
        assert done.hosts[host]["changed"] >= 1


def test_check_mode_makes_nothing(done: PlaybookResult, opt: Path) -> None:
    assert done.hosts
    assert not opt.exists()
