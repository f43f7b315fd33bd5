# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module central_enketo_backup as Ansible runs it, with a Docker that is not one. All else is an integration test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support import run_module
from support.fake_docker import FakeDocker
from support.redis_servers import Redis

PASSPHRASE = "correct horse battery staple 42"


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Of a Central whose containers do not run."""
    project = tmp_path / "central"
    project.mkdir()
    (project / "docker-compose.yml").touch()
    docker = FakeDocker.make(tmp_path / "docker")
    return {
        "project_directory": str(project),
        "docker_command": [docker.command],
        "passphrase": PASSPHRASE,
        "dest": str(tmp_path / "set" / "enketo.tar.enc.bin"),
    }


@pytest.mark.parametrize("check", [False, True])
def test_containers_that_do_not_run(options: dict[str, Any], check: bool) -> None:
    result = run_module("central_enketo_backup", options, check=check)
    assert result.failed
    assert result.diagnosis == "service_not_running"
    assert not result["changed"]
    assert not Path(options["dest"]).parent.exists()


def test_redis_that_runs_and_secrets_that_are_not_there(options: dict[str, Any]) -> None:
    docker = FakeDocker(Path(options["docker_command"][0]).parent)
    for service in ("enketo_redis_main", "secrets"):
        (docker.path / "services" / service).mkdir(parents=True)
    with Redis(7).server() as server:
        server.pipe([b"SET", b"k", b"v"])
        for check in (False, True):
            result = run_module("central_enketo_backup", options, check=check, env=server.environment)
            assert result.diagnosis == "bad_secret"
            assert "/etc/secrets/enketo-secret is not there" in result["msg"]
        assert not server.rdb.exists()
    assert PASSPHRASE not in (docker.path / "calls").read_text()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"project_directory": None}, "one of the following is required: project_directory, ssh_host"),
        ({"passphrase": 83}, "not a text but a number"),
        ({"passphrase": "short"}, "too weak"),
        ({"passphrase": None}, "No passphrase was given"),
        ({"passphrase_file": "/x"}, "mutually exclusive"),
        ({"save_timeout": 0}, "save_timeout is 0"),
        ({"dest": None}, "missing required arguments: dest"),
        ({"project": "No Such Name"}, "project"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], changes: dict[str, Any], said: str) -> None:
    given = {name: value for name, value in {**options, **changes}.items() if value is not None}
    result = run_module("central_enketo_backup", given)
    assert result.failed
    assert said in result["msg"]
