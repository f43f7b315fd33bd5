# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The roles config and prepare, as a playbook includes them."""

from __future__ import annotations

import getpass
import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _manifest
from ansible_collections.odkops.central.plugins.module_utils._tar_part import verify_tar_part

from support import Demo, PlaybookResult, run_playbook, write_inventory

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMj32QThEh0Esd8ROtgcNRAIs1v2fJACgRqrrxtMqOm7 vault"


def include(folder: Path, role: str, entry_point: str, then: list[dict[str, Any]] | None = None) -> Path:
    """A playbook that does nothing but that."""
    task = {
        "name": "Include",
        "ansible.builtin.include_role": {"name": f"odkops.central.{role}", "tasks_from": entry_point},
    }
    play = {"name": "Test", "hosts": "all", "gather_facts": False, "tasks": [task, *(then or [])]}
    path = folder / "playbook.yml"
    path.write_text(json.dumps([play]))
    return path


def test_the_part_and_the_fact_for_the_manifest(demo: Demo, tmp_path: Path) -> None:
    passphrase = f"pass phrase \u00e9 '\"{{ {secrets.token_hex(12)}"
    inventory = write_inventory(
        tmp_path / "inventory.json",
        {"demo": demo},
        central_project_directory=demo["compose_dir"],
        central_project=demo["compose_project"],
        central_passphrase_file=str(tmp_path / "passphrase"),
        config_directory=str(tmp_path),
        config_extra_paths=["/etc/hostname"],
    )
    (tmp_path / "passphrase").write_text(passphrase + "\n")
    tell = {"name": "Tell", "ansible.builtin.debug": {"var": "config_part"}}
    playbook = include(tmp_path, "config", "backup", [tell])
    done = run_playbook(playbook, inventory, verbosity=3)
    assert done.rc == 0, done.output
    part = done.of("debug")[-1]["config_part"]
    _manifest.check_plain(part)
    found = verify_tar_part(str(tmp_path / "config.tar.enc.bin"), passphrase, part["sha256"])
    assert {name: part[name] for name in ("format", "size", "encrypted")} == {
        name: found[name] for name in ("format", "size", "encrypted")
    }
    assert "host/etc/hostname" in part["files"]
    assert passphrase not in done.output
    assert str(demo["admin"]["password"]) not in done.output


def test_check_mode_sets_nothing(demo: Demo, tmp_path: Path) -> None:
    inventory = write_inventory(
        tmp_path / "inventory.json",
        {"demo": demo},
        central_project_directory=demo["compose_dir"],
        central_project=demo["compose_project"],
        central_passphrase=secrets.token_hex(12),
        config_directory=str(tmp_path / "new"),
    )
    done = run_playbook(include(tmp_path, "config", "backup"), inventory, check=True)
    assert done.rc == 0, done.output
    assert not (tmp_path / "new").exists()


def prepare(tmp_path: Path, **variables: Any) -> PlaybookResult:
    """The gate's entry point in check mode: it would change this machine."""
    (tmp_path / "sbin").mkdir(exist_ok=True)
    given = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "central_project_directory": "/srv/central",
        "central_vault_public_key": PUBLIC_KEY,
        "prepare_gate_path": str(tmp_path / "sbin" / "gate"),
        **variables,
    }
    inventory = tmp_path / "inventory.json"
    inventory.write_text(json.dumps({"all": {"hosts": {"central": given}}}))
    return run_playbook(include(tmp_path, "prepare", "gate"), inventory, check=True)


def test_what_the_gate_would_change(tmp_path: Path) -> None:
    done = prepare(tmp_path)
    assert done.rc == 0, done.output
    assert done.of("central_gate")[0]["changed"]
    assert not (tmp_path / "sbin" / "gate").exists()
    done = prepare(tmp_path, prepare_gate_user=getpass.getuser(), prepare_gate_manage_user=False)
    assert done.rc == 0, done.output


@pytest.mark.parametrize(
    "variables",
    [
        {"central_vault_public_key": PUBLIC_KEY + "\nssh-ed25519 AAAA other"},
        {"central_vault_public_key": 'command="sh" ' + PUBLIC_KEY},
        {"central_vault_public_key": "-----BEGIN OPENSSH PRIVATE KEY-----"},
        {"prepare_gate_from": ['127.0.0.1",command="sh']},
        {"prepare_gate_user": "-x"},
        {"prepare_gate_path": '/x/gate",command="sh'},
    ],
)
def test_what_would_let_others_in_is_refused(tmp_path: Path, variables: dict[str, Any]) -> None:
    done = prepare(tmp_path, **variables)
    assert done.rc != 0
    assert "bad_option" in done.output
