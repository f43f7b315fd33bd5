# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A vault on another host pulls full sets: what it has then, what is left on the Central's host, and what is not there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from support import run_module
from support.vault import (
    DOMAIN,
    ETC,
    GATE_USER,
    command,
    published,
)
from support.vault_site import (
    CENTRAL,
    REPOSITORY,
    Made,
    Site,
    left_behind,
)

pytest_plugins = ["support.vault_fixtures"]

# It takes minutes, and compares all of this machine before and after a backup: nothing else may be at work here meanwhile.
pytestmark = [pytest.mark.timeout(600), pytest.mark.long, pytest.mark.demo]


# --- a backup ---------------------------------------------------------------------------------------------------


def test_a_full_set_is_pulled(site: Site, made: Made) -> None:
    _before, _after, outcome = made
    assert outcome.rc == 0, outcome.output
    manifest = site.manifest()
    assert sorted(manifest["parts"]) == ["blobs", "config", "database", "enketo"]
    assert manifest["parts"]["database"]["method"] == "pg_dump"
    assert all(part["encrypted"] for part in manifest["parts"].values())
    assert manifest["identity"]["domain"] == DOMAIN
    assert not [note for note in manifest["notes"] if "off-site" in note or "lease" in note]
    taken = {result["lease"]["user"] for result in outcome.of("central_lease") if result["lease"] is not None}
    assert taken == {GATE_USER}
    assert run_module("central_lease", {"project_directory": str(site.host.project_directory)})["lease"] is None
    submissions = int(site.demo.psql("select count(*) from submissions"))
    assert manifest["database"]["tables"]["public.submissions"] == submissions > 0
    uploaded = int(site.demo.psql("select count(*) from blobs where s3_status = 'uploaded'"))
    assert manifest["parts"]["blobs"]["objects"] == uploaded > 0
    assert "unreachable=0" in outcome.output
    # Nothing was asked of this machine: neither by Ansible's connection to the Central's host, nor on the controller.
    assert not (site.folder / "repository").exists()
    assert not Path(REPOSITORY, CENTRAL).exists()


def test_the_set_is_whole_and_opens_with_openssl(site: Site, made: Made) -> None:
    assert made[2].rc == 0
    verified = site.run("verify")
    assert verified.rc == 0, verified.output
    assert verified.custom["_run"]["odkops_central_verify"][CENTRAL]["authenticated"] is True
    (name,) = site.sets()
    part = f"{REPOSITORY}/{CENTRAL}/sets/{name}/database.pgdump.enc.bin"
    opened = ["openssl", "enc", "-d", "-chacha20", "-pbkdf2", "-pass", f"file:{ETC}/passphrase", "-in", part]
    plain = subprocess.run(["docker", "exec", site.vault.name, *opened], capture_output=True, check=True).stdout
    restore = ["docker", "exec", "-i", site.demo.container("postgres14"), "pg_restore", "--list"]
    assert (
        b"TABLE DATA public submissions" in subprocess.run(restore, input=plain, capture_output=True, check=True).stdout
    )


def test_the_vault_alone_has_it(site: Site, made: Made) -> None:
    below = site.vault.below(f"{REPOSITORY}/{CENTRAL}")
    assert any(path.startswith("pool/") for path in below) or any("objects/" in path for path in below)
    modes = site.vault.execute("find", REPOSITORY, "-perm", "/077", "-not", "-type", "l").splitlines()
    assert modes in ([], [REPOSITORY])
    litter = site.vault.execute("sh", "-c", "find /tmp /var/tmp /root/.ansible/tmp -mindepth 1 | head").splitlines()
    assert litter == []
    assert site.vault.processes("Ansi") == site.vault.processes("ssh -T") == []


def test_nothing_is_left_on_the_centrals_host(made: Made) -> None:
    before, after, outcome = made
    assert outcome.rc == 0
    assert before.keys() == after.keys()
    assert left_behind(before, after) == {}
    assert after["processes of the gate's user"] == []
    assert after["files of the gate's user"] == []


def test_the_centrals_host_has_no_credential_of_the_vault(site: Site, made: Made) -> None:
    """Nor has what -vvv prints, on the controller."""
    private = [site.vault.read(f"{ETC}/{name}").decode().splitlines()[2] for name in ("ssh_key", "other_key")]
    needles = [site.passphrase, site.passphrase[-24:], *private]
    for needle in needles:
        assert needle not in made[2].output
        assert needle not in json.dumps(made[2].results, ensure_ascii=False)
    patterns = site.folder / "patterns"
    patterns.write_text("\n".join(needles) + "\n", "utf-8")
    project = f"label=com.docker.compose.project={site.demo['compose_project']}"
    volumes = command("docker", "volume", "ls", "--filter", project, "--format", "{{.Mountpoint}}").split()
    places = [str(path) for path in (site.host.project_directory, site.host.gate, site.host.home, site.host.log)]
    grep = ["grep", "--recursive", "--files-with-matches", "--fixed-strings", "--text", f"--file={patterns}", "--"]
    done = subprocess.run([*grep, *places, *volumes], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    # So is what is looked for found where it is.
    assert command("docker", "exec", "-i", site.vault.name, *grep[:-2], "--file=-", "--", ETC, stdin="\n".join(needles))


def test_check_mode_makes_nothing(site: Site, made: Made) -> None:
    before = site.vault.below(REPOSITORY)
    outcome = site.run("backup", "--check")
    assert outcome.rc == 0, outcome.output
    assert site.vault.below(REPOSITORY) == before


# --- over HTTPS -------------------------------------------------------------------------------------------------


def test_the_database_over_https(site: Site) -> None:
    """By the API, with an account of Central; what is not in the API comes through the gate as before."""
    demo = site.demo
    site.vault.write(f"{ETC}/ca.pem", Path(demo.ca_path).read_text("utf-8"))
    site.vault.write(f"{ETC}/password", demo["admin"]["password"] + "\n")
    with published(site.host.address, demo["https_port"]):
        outcome = site.run(
            "backup",
            central_name="by-api",
            central_method="api",
            central_url=demo.url,
            central_email=demo["admin"]["email"],
            central_password_file=f"{ETC}/password",
            central_ca_path=f"{ETC}/ca.pem",
            central_parts=["database", "enketo"],
        )
    assert outcome.rc == 0, outcome.output
    manifest = site.manifest("by-api")
    assert sorted(manifest["parts"]) == ["database", "enketo"]
    assert manifest["parts"]["database"]["method"] == "api"
    assert sorted(manifest["absent"]) == ["blobs", "config"]
