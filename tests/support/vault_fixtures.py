# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A plugin of pytest for test files about a vault, which name it in ``pytest_plugins``: both hosts, and one backup for all."""

from __future__ import annotations

import contextlib
import pwd
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .demo import SEED, Demo, central, sole_user
from .playbooks import PlaybookResult
from .s3_servers import ACCESS_KEY, BUCKET, SECRET_KEY, rclone_server
from .vault import (
    DOMAIN,
    ETC,
    GATE_USER,
    CentralHost,
    admit_gate_user,
    central_directory,
    free_port,
    remove_gate_user,
    sshd_of,
    vault_host,
)
from .vault_site import (
    CENTRAL,
    NAME,
    REPOSITORY,
    VAULT,
    Made,
    Site,
    gateway,
    install_gate,
    prepare_vault,
    settled,
    traces,
    write_json,
)


@pytest.fixture(scope="session")
def vault_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A demo Central of our own, whose attachments are in S3. Its domain is known to the vault only."""
    with sole_user(NAME), contextlib.ExitStack() as stack:
        stack.callback(central, "clean", "--name", NAME)
        central("engine")
        central("images")
        central("up", "--name", NAME, "--domain", DOMAIN)
        demo = Demo.load(NAME)
        if demo.psql("select count(*) from submissions") == "0":
            central("seed", "--name", NAME, *SEED)
        server = stack.enter_context(rclone_server(tmp_path_factory.mktemp("s3"), gateway(demo)))
        with Path(demo["compose_dir"], ".env").open("a", encoding="utf-8") as file:
            file.write(
                f"S3_SERVER={server.address}\nS3_ACCESS_KEY={ACCESS_KEY}\nS3_SECRET_KEY={SECRET_KEY}\n"
                f"S3_BUCKET_NAME={BUCKET}\n"
            )
        demo.compose("up", "-d", "--no-build", "service", timeout=300)
        # Nginx resolves service only when it starts.
        demo.compose("restart", "nginx")
        central("up", "--name", NAME)
        demo.execute("service", "node", "lib/bin/s3.js", "upload-pending")
        yield demo


@pytest.fixture(scope="session")
def vault_site(vault_demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The two hosts, prepared by the role."""
    demo, folder = vault_demo, tmp_path_factory.mktemp("vault")
    with contextlib.ExitStack() as stack:
        remove_gate_user()
        # After the vault is gone: a user with a session cannot be removed.
        stack.callback(remove_gate_user)
        vault = stack.enter_context(vault_host(folder / "ssh", demo["images"]["base"]))
        directory = stack.enter_context(central_directory(demo))
        write_json(folder / "project.json", demo["compose_project"])
        install_gate(folder, directory, vault.public_key)
        home = Path(pwd.getpwnam(GATE_USER).pw_dir)
        admit_gate_user(directory, home)
        port, known, log = stack.enter_context(sshd_of(folder / "sshd", vault.gateway))
        host = CentralHost(directory, directory.parent / "gate", home, vault.gateway, port, known, log)
        passphrase = f"of the vault alone \u00e9 {secrets.token_hex(12)}"
        vault.write(f"{ETC}/passphrase", passphrase + "\n")
        vault.write(f"{ETC}/known_hosts", known)
        closed = {"ansible_connection": "ssh", "ansible_host": vault.gateway, "ansible_port": free_port(vault.gateway)}
        variables = {
            # central_ssh_host is ansible_host by default.
            **closed,
            "ansible_ssh_common_args": "-F /dev/null",
            "central_vault": VAULT,
            "central_name": CENTRAL,
            "central_repository": REPOSITORY,
            "central_ssh_user": GATE_USER,
            "central_ssh_port": port,
            "central_ssh_key_file": f"{ETC}/ssh_key",
            "central_ssh_known_hosts_file": f"{ETC}/known_hosts",
            "central_passphrase_file": f"{ETC}/passphrase",
        }
        groups = {
            "all": {"hosts": {VAULT: vault.variables}},
            "odk_central": {"hosts": {"central.example.org": variables}},
        }
        inventory = write_json(folder / "inventory.json", groups)
        prepare_vault(folder, inventory)
        yield Site(demo, vault, host, folder, inventory, passphrase)


@pytest.fixture(scope="session")
def vault_made(vault_site: Site) -> tuple[dict[str, Any], dict[str, Any], PlaybookResult]:
    """A set, and what could be seen of it on the Central's host before and after."""
    site = vault_site
    before = traces(site)
    outcome = site.run("backup", "-vvv")
    return before, settled(site, before), outcome


@pytest.fixture
def site(vault_site: Site) -> Site:
    """Both hosts, for tests that know no other site."""
    return vault_site


@pytest.fixture
def made(vault_made: Made) -> Made:
    """A backup, and what could be seen of it."""
    return vault_made
