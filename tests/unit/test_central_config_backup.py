# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module central_config_backup, in a process of its own, as Ansible runs it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._gate import render_gate
from ansible_collections.odkops.central.plugins.module_utils._operation import Project
from ansible_collections.odkops.central.plugins.module_utils._tar_part import verify_tar_part

from support import Result, run_module
from support.fake_docker import FakeDocker
from support.gates import fake_ssh, python_for_gates, write_gate

PASSPHRASE = "correct horse battery staple"
SECRET = "hunter2-in-env"


class Host:
    """A Central's host without git and without nginx, and the module."""

    def __init__(self, folder: Path) -> None:
        self.docker = FakeDocker.make(folder / "docker")
        self.docker.prints("config", "", f"# {SECRET}\n")
        self.docker.prints("config", "--format", json.dumps({"name": "odk", "services": {}}))
        self.directory = folder / "central"
        self.directory.mkdir()
        (self.directory / "docker-compose.yml").write_text("services: {}\n")
        (self.directory / ".env").write_text(f"DB_PASSWORD={SECRET}\n")
        self.dest = folder / "sets" / "config.tar.enc.bin"
        self.passphrase_file = folder / "passphrase"
        self.passphrase_file.write_text(PASSPHRASE + "\n")

    def backup(self, check: bool = False, **options: Any) -> Result:
        given: dict[str, Any] = {
            "project_directory": str(self.directory),
            "docker_command": [self.docker.command],
            "passphrase_file": str(self.passphrase_file),
            "dest": str(self.dest),
            **options,
        }
        arguments = {name: value for name, value in given.items() if value is not None}
        return run_module("central_config_backup", arguments, check, env={"PATH": self.docker.environment["PATH"]})


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_backup(host: Host) -> None:
    made = host.backup()
    assert made["changed"], made
    assert made.diagnosis == "ok"
    assert made["path"] == str(host.dest)
    assert host.dest.stat().st_mode & 0o777 == 0o600
    assert host.dest.parent.stat().st_mode & 0o777 == 0o700
    assert verify_tar_part(str(host.dest), PASSPHRASE)["sha256"] == made["sha256"]
    assert made["config"]["files"] == ["checkout/.env", "checkout/docker-compose.yml"]
    assert made["config"]["absent"]["git"] == "The project's directory is no git checkout."


def test_no_secret_is_told(host: Host) -> None:
    for result in (host.backup(), host.backup(check=True)):
        said = result.stdout + result.stderr
        assert SECRET not in said
        assert PASSPHRASE not in said
    for call in host.docker.calls():
        assert not [word for word in call if PASSPHRASE in word or SECRET in word]


def test_dest_may_be_a_directory(host: Host) -> None:
    host.dest.parent.mkdir()
    assert host.backup(dest=str(host.dest.parent))["path"] == str(host.dest)
    assert host.backup(dest=str(host.dest.parent)).diagnosis == "destination_exists"


def test_check_mode_writes_nothing(host: Host) -> None:
    found = host.backup(check=True)
    assert found["changed"]
    assert found["config"]["files"] == ["checkout/.env", "checkout/docker-compose.yml"]
    assert not host.dest.parent.exists()


@pytest.mark.parametrize(
    ("options", "diagnosis"),
    [
        ({"passphrase_file": None}, "no_passphrase"),
        ({"passphrase_file": None, "passphrase": "short"}, "weak_passphrase"),
        ({"passphrase_file": None, "passphrase": 1234567890123456}, "bad_passphrase"),
        ({"project_directory": "/no/such/directory"}, "bad_option"),
        ({"docker_command": ["/no/docker"]}, None),
        ({"extra_paths": ["relative"]}, "bad_option"),
        ({"extra_paths": ["/no/such/path"]}, "unreadable"),
        ({"max_file_size": 0}, "bad_option"),
        ({"max_total_size": -1}, "bad_option"),
        ({"project_directory": None}, None),
    ],
)
def test_what_fails_leaves_nothing(host: Host, options: dict[str, Any], diagnosis: str | None) -> None:
    failed = host.backup(**options)
    if diagnosis is not None:
        assert failed.failed
        assert failed.diagnosis == diagnosis
        assert not host.dest.parent.exists()


def test_without_a_passphrase(host: Host) -> None:
    made = host.backup(passphrase_file=None, allow_unencrypted=True)
    assert made["encrypted"] is False
    assert verify_tar_part(str(host.dest), None)["sha256"] == made["sha256"]


def test_over_ssh(host: Host, tmp_path: Path) -> None:
    extra = tmp_path / "extra.conf"
    extra.write_text("x")
    project = Project(str(host.directory), docker=(host.docker.command,))
    write_gate(host.docker.path / "gate", render_gate(project, python=python_for_gates(), extra_paths=[str(extra)]))
    fake_ssh(host.docker.path)
    ssh: dict[str, Any] = {"ssh_host": "central.example.org", "project_directory": None, "docker_command": None}
    made = host.backup(**ssh, extra_paths=[str(extra)])
    assert made["config"]["files"] == ["checkout/.env", "checkout/docker-compose.yml", f"host{extra}"]
    os.unlink(host.dest)
    assert host.backup(**ssh, extra_paths=["/etc/passwd"]).diagnosis == "operation_refused"
