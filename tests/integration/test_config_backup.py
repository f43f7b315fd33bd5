# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The configuration of the demo Central: what is in the part, opened by openssl, tar and sha256sum."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._gate import render_gate
from ansible_collections.odkops.central.plugins.module_utils._operation import Project

from support import Demo, run_module
from support.gates import SshServer, python_for_gates, ssh_server, sshd, write_gate


@pytest.fixture
def checkout(demo: Demo) -> Iterator[Path]:
    """The project's directory; what a test changes in it is taken back."""
    directory = Path(str(demo["compose_dir"]))
    template = directory / "files/nginx/client-config.json.template"
    before = template.read_bytes()
    yield directory
    template.write_bytes(before)
    for name in ("my-own.txt", "docker-compose.override.yml"):
        (directory / name).unlink(missing_ok=True)


def options(demo: Demo, dest: Path, passphrase_file: Path) -> dict[str, Any]:
    return {
        "project_directory": demo["compose_dir"],
        "project": demo["compose_project"],
        "passphrase_file": str(passphrase_file),
        "dest": str(dest),
    }


def unpack(part: Path, folder: Path, passphrase_file: Path) -> dict[str, bytes]:
    folder.mkdir()
    script = (
        'openssl enc -d -chacha20 -pbkdf2 -pass "file:$1" -in "$2" | tar -x -C "$3"; cd "$3"; sha256sum -c SHA256SUMS'
    )
    subprocess.run(["sh", "-ec", script, "sh", passphrase_file, part, folder], check=True, capture_output=True)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check(members: dict[str, bytes], checkout: Path, result: Any, demo: Demo) -> None:
    """What must be in the part of any demo whose template was edited, and to which a file was added."""
    for name in (".env", "docker-compose.yml", "files/nginx/client-config.json.template", "my-own.txt"):
        assert members[f"checkout/{name}"] == (checkout / name).read_bytes()
    for path in (checkout / "files/local/customssl").glob("*.pem"):
        assert members[f"checkout/files/local/customssl/{path.name}"] == path.read_bytes()
    assert members["compose/config.yml"].decode().startswith("name: ")
    assert members["version.txt"].startswith(b"versions:")
    index = json.loads(members["config.json"])
    assert index["project"] == result["config"]["project"] == demo["compose_project"]
    assert index["central_version"].startswith("v2026.2.0")
    if (checkout / ".git").exists():
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True
        ).stdout
        assert members["git/commit"].decode() == head
        assert "files/nginx/client-config.json.template" in index["checkout"]["modified"]
        assert b"+my own line" in members["git/changes.diff"]
        assert index["files"]["checkout/my-own.txt"]["origin"] == "untracked"


def edit(checkout: Path) -> None:
    with (checkout / "files/nginx/client-config.json.template").open("a") as file:
        file.write("my own line\n")
    (checkout / "my-own.txt").write_text("mine\n")


def test_on_the_centrals_host(demo: Demo, checkout: Path, tmp_path: Path, passphrase_file: Path) -> None:
    edit(checkout)
    (checkout / "docker-compose.override.yml").write_text("services: {service: {environment: [MINE=1]}}\n")
    dest = tmp_path / "config.tar.enc.bin"
    made = run_module("central_config_backup", options(demo, dest, passphrase_file))
    assert made.diagnosis == "ok", made
    members = unpack(dest, tmp_path / "out", passphrase_file)
    check(members, checkout, made, demo)
    assert b"MINE" in members["compose/config.yml"]
    password = str(demo["admin"]["password"])
    assert password not in made.stdout + made.stderr


def test_from_a_vault(demo: Demo, checkout: Path, tmp_path: Path, passphrase_file: Path) -> None:
    if sshd() is None:
        pytest.skip("no sshd here (Debian and Ubuntu: openssh-server)")
    edit(checkout)
    project = Project(str(demo["compose_dir"]), str(demo["compose_project"]))
    gate = write_gate(tmp_path / "gate", render_gate(project, python=python_for_gates(), extra_paths=["/etc/hostname"]))

    def backup(server: SshServer, **more: Any) -> Any:
        ssh = {
            "ssh_host": "127.0.0.1",
            "ssh_user": server.user,
            "ssh_port": server.port,
            "ssh_key_file": str(server.key),
            "ssh_known_hosts_file": str(server.known_hosts),
        }
        given = {"passphrase_file": str(passphrase_file), "dest": str(tmp_path / "config.tar.enc.bin"), **ssh, **more}
        return run_module("central_config_backup", given)

    with ssh_server(tmp_path / "ssh", gate) as server:
        assert backup(server, extra_paths=["/etc/shadow"]).diagnosis == "operation_refused"
        made = backup(server, extra_paths=["/etc/hostname"])
    assert made.diagnosis == "ok", made
    members = unpack(tmp_path / "config.tar.enc.bin", tmp_path / "out", passphrase_file)
    check(members, checkout, made, demo)
    assert members["host/etc/hostname"] == Path("/etc/hostname").read_bytes()


def test_nginx_that_does_not_run(demo: Demo, tmp_path: Path, passphrase_file: Path) -> None:
    with demo.fault("nginx-stopped"):
        made = run_module(
            "central_config_backup", options(demo, tmp_path / "config.tar.enc.bin", passphrase_file), check=True
        )
    assert made.diagnosis == "ok", made
    assert made["config"]["absent"]["version.txt"] == "nginx, which has it, does not run."
