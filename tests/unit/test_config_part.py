# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The configuration of a Central: read by the real scripts from a checkout with a real git."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._backup_terms import Terms
from ansible_collections.odkops.central.plugins.module_utils._channel import LocalChannel
from ansible_collections.odkops.central.plugins.module_utils._config_backup import Request, backup, rehearse
from ansible_collections.odkops.central.plugins.module_utils._config_operations import MOST_UNTRACKED, OPERATIONS
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._operation import Project
from ansible_collections.odkops.central.plugins.module_utils._tar_part import open_tar_part

from support.fake_docker import FakeDocker

PASSPHRASE = "correct horse battery staple"
SECRET = "hunter2-and-more"
IGNORED = """/.env
/docker-compose.override.yml
/files/local/customssl/*.pem
/files/mail/rsa.private
/files/dkim/*
/ignored
"""
STOCK = {
    "docker-compose.yml": "services: {}\n",
    ".gitignore": IGNORED,
    "files/nginx/odk.conf.template": "server {}\n",
    "files/nginx/client-config.json.template": "{}\n",
    "files/enketo/start-enketo.sh": "#!/bin/sh\n",
}
OWN = {
    ".env": f"DOMAIN=central.example.org\nDB_PASSWORD={SECRET}\n",
    "files/local/customssl/fullchain.pem": "certificate",
    "files/local/customssl/privkey.pem": "key",
    "files/mail/rsa.private": "dkim",
}
VERSION = "versions:\n0123456789abcdef (v2026.1.0)\n 0123456789 client (v2026.1.0)\n"


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=directory, capture_output=True, text=True, check=True)
    return done.stdout


def write(directory: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")


@pytest.fixture
def docker(tmp_path: Path) -> FakeDocker:
    docker = FakeDocker.make(tmp_path / "docker", "nginx")
    docker.prints("config", "", f"name: odk\nservices: {{}}\n# {SECRET}\n")
    docker.prints("config", "--format", json.dumps({"name": "odk", "services": {}}))
    docker.prints("images", "--format", "[]")
    docker.prints("version", "--short", "2.40.3\n")
    (docker.service("nginx") / "version.txt").write_text(VERSION)
    return docker


@pytest.fixture
def central(tmp_path: Path) -> Path:
    """A checkout with a tag, as the ODK documentation has it installed."""
    directory = tmp_path / "it's central"
    directory.mkdir()
    write(directory, STOCK)
    git(directory, "init", "-q")
    git(directory, "add", ".")
    git(directory, "commit", "-q", "-m", "stock")
    git(directory, "tag", "v2026.1.0")
    write(directory, OWN)
    (directory / ".env").chmod(0o640)
    return directory


@dataclass
class Backup:
    """Makes parts of the checkout."""

    channel: LocalChannel
    dest: Path

    def request(self, **options: Any) -> Request:
        return Request(self.channel, Terms(str(self.dest), PASSPHRASE), **options)

    def make(self, **options: Any) -> dict[str, Any]:
        self.dest.unlink(missing_ok=True)
        return backup(self.request(**options))

    def members(self, **options: Any) -> dict[str, bytes]:
        self.make(**options)
        with open_tar_part(str(self.dest), PASSPHRASE) as reader:
            return {member.name: b"".join(iter(lambda: member.read(4096), b"")) for member in reader}  # noqa: B023

    def fails(self, **options: Any) -> CentralError:
        with pytest.raises(CentralError) as caught:
            self.make(**options)
        assert not self.dest.exists()
        return caught.value


@pytest.fixture
def config(tmp_path: Path, central: Path, docker: FakeDocker) -> Backup:
    operations = {operation.name: operation for operation in OPERATIONS}
    # The directory that stands for nginx's container is not its root.
    version = operations["config-version"]
    operations["config-version"] = replace(version, script=version.script.replace("/usr/share/nginx/html/", "./"))
    project = Project(str(central), "odk", docker=(docker.command,))
    return Backup(LocalChannel(project, operations), tmp_path / "set" / "config.tar.enc.bin")


def checkout(members: dict[str, bytes]) -> dict[str, bytes]:
    return {name[9:]: data for name, data in members.items() if name.startswith("checkout/")}


def test_a_stock_checkout(config: Backup, central: Path) -> None:
    members = config.members()
    commit = git(central, "rev-parse", "HEAD")
    assert checkout(members) == {
        name: {**STOCK, **OWN}[name].encode()
        for name in [
            "docker-compose.yml",
            "files/nginx/odk.conf.template",
            "files/nginx/client-config.json.template",
            *OWN,
        ]
    }
    assert members["git/commit"] == commit.encode()
    assert members["git/describe"] == b"v2026.1.0\n"
    assert members["version.txt"] == VERSION.encode()
    assert set(members) - {f"checkout/{name}" for name in checkout(members)} == {
        "git/commit",
        "git/describe",
        "git/branch",
        "compose/config.yml",
        "compose/config.json",
        "compose/images.json",
        "compose/version",
        "compose/directory",
        "version.txt",
        "config.json",
    }
    index = json.loads(members["config.json"])
    assert index["files"]["checkout/.env"]["mode"] == "0640"
    assert index["files"]["checkout/.env"]["origin"] == "fixed"
    assert index["absent"].keys() == {"docker-compose.override.yml", "files/allow-postgres14-upgrade", "files/dkim"}
    assert index["left_out"] == {}
    assert index["notes"] == []


def test_the_result(config: Backup, central: Path) -> None:
    made = config.make()
    assert made["format"] == "tar.enc"
    assert made["config"]["central_version"] == "v2026.1.0"
    assert made["config"]["project"] == "odk"
    assert made["config"]["checkout"] == {
        "commit": git(central, "rev-parse", "HEAD").strip(),
        "describe": "v2026.1.0",
        "branch": git(central, "rev-parse", "--abbrev-ref", "HEAD").strip(),
        "modified": [],
        "untracked": 0,
        "unpublished_commits": False,
    }
    assert "checkout/.env" in made["config"]["files"]
    assert SECRET not in json.dumps(made)
    assert all(set(member) == {"name", "size"} for member in made["members"])


def test_what_was_edited_and_what_was_added(config: Backup, central: Path) -> None:
    write(central, {"files/enketo/start-enketo.sh": "#!/bin/sh\n# mine\n", "docker-compose.yml": "services: {a: {}}\n"})
    write(central, {"my own.conf": "added", "-n": "dash", "scripts/é\nline": "strange", "ignored": "not wanted"})
    (central / "files/nginx/odk.conf.template").unlink()
    (central / "link").symlink_to("/etc/passwd")
    os.mkfifo(central / "pipe")
    members = config.members()
    found = checkout(members)
    assert found["files/enketo/start-enketo.sh"] == b"#!/bin/sh\n# mine\n"
    assert found["docker-compose.yml"] == b"services: {a: {}}\n"
    assert found["my own.conf"] == b"added"
    assert found["-n"] == b"dash"
    assert "ignored" not in found
    assert "link" not in found
    diff = members["git/changes.diff"].decode()
    assert "+# mine" in diff
    assert "deleted file" in diff
    index = json.loads(members["config.json"])
    assert index["absent"]["files/nginx/odk.conf.template"] == "It is not there."
    assert index["left_out"]["link"].startswith("It is a symbolic link to /etc/passwd")
    assert index["left_out"]["scripts/é\\x0aline"].startswith("Its name cannot be kept")
    assert index["checkout"]["modified"] == [
        "docker-compose.yml",
        "files/enketo/start-enketo.sh",
        "files/nginx/odk.conf.template",
    ]
    assert index["checkout"]["untracked"] == 4
    assert index["files"]["checkout/my own.conf"]["origin"] == "untracked"


def test_the_changes_can_be_applied(config: Backup, central: Path, tmp_path: Path) -> None:
    (central / "files/nginx/odk.conf.template").write_bytes(bytes(range(256)))
    write(central, {"docker-compose.yml": "services: {a: {}}\n"})
    (tmp_path / "changes.diff").write_bytes(config.members()["git/changes.diff"])
    git(tmp_path, "clone", "-q", str(central), "fresh")
    git(tmp_path / "fresh", "apply", str(tmp_path / "changes.diff"))
    assert (tmp_path / "fresh/files/nginx/odk.conf.template").read_bytes() == bytes(range(256))
    assert (tmp_path / "fresh/docker-compose.yml").read_text() == "services: {a: {}}\n"


def test_commits_that_are_nowhere_else(config: Backup, central: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(central), "upstream")
    git(central, "commit", "-q", "--allow-empty", "-m", "my own")
    (tmp_path / "bundle").write_bytes(config.members()["git/unpublished.bundle"])
    git(tmp_path / "upstream", "fetch", "-q", str(tmp_path / "bundle"), "HEAD:refs/heads/restored")
    assert git(tmp_path / "upstream", "rev-parse", "restored") == git(central, "rev-parse", "HEAD")
    assert config.make()["config"]["checkout"]["unpublished_commits"] is True


def test_keys_in_their_old_and_their_new_place(config: Backup, central: Path) -> None:
    (central / "files/mail/rsa.private").unlink()
    write(central, {"files/dkim/rsa.private": "old", "files/dkim/config": "old config"})
    members = config.members()
    assert checkout(members)["files/dkim/rsa.private"] == b"old"
    assert checkout(members)["files/dkim/config"] == b"old config"
    absent = json.loads(members["config.json"])["absent"]
    assert "files/dkim" not in absent
    assert "DKIM" in absent["files/mail/rsa.private"]


def test_links_in_fixed_places_are_followed(config: Backup, central: Path, tmp_path: Path) -> None:
    write(tmp_path, {"elsewhere/env": "DOMAIN=x\n", "certificates/a.pem": "a"})
    (central / ".env").unlink()
    (central / ".env").symlink_to(tmp_path / "elsewhere/env")
    (central / "files/local/customssl/linked.pem").symlink_to(tmp_path / "certificates/a.pem")
    (central / "files/local/customssl/broken.pem").symlink_to("nowhere")
    found = checkout(config.members())
    assert found[".env"] == b"DOMAIN=x\n"
    assert found["files/local/customssl/linked.pem"] == b"a"


@pytest.mark.parametrize("how", ["no-git", "no-commit", "no-git-command"])
def test_without_git(
    config: Backup, central: Path, docker: FakeDocker, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "no-git-command":
        tools = docker.path / "tools"
        tools.mkdir()
        for name in "sh base64 stat find xargs tr sort head wc cat readlink dirname".split():
            path = shutil.which(name)
            assert path is not None
            (tools / name).symlink_to(path)
        monkeypatch.setenv("PATH", str(tools))
    else:
        shutil.rmtree(central / ".git")
        if how == "no-commit":
            git(central, "init", "-q")
    write(central, {"docker-compose.override.yml": "mine", "files/new": "new", "other.txt": "unrelated"})
    members = config.members()
    assert checkout(members) == {
        name: content.encode()
        for name, content in {**STOCK, **OWN, "docker-compose.override.yml": "mine", "files/new": "new"}.items()
        if name != ".gitignore"
    }
    index = json.loads(members["config.json"])
    assert index["checkout"] is None
    assert "git" in index["absent"]


def test_nearly_nothing_is_there(config: Backup, central: Path, docker: FakeDocker) -> None:
    for name in [".git", "files", ".env", ".gitignore"]:
        path = central / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(docker.service("nginx"))
    for name in ("config-", "config---format", "images---format", "version---short"):
        (docker.path / name).unlink()
    made = config.make()
    assert made["config"]["files"] == ["checkout/docker-compose.yml"]
    assert made["config"]["central_version"] is None
    assert set(made["config"]["absent"]) >= {
        ".env",
        "git",
        "version.txt",
        "compose/config.yml",
        "files/local/customssl",
    }


def test_version_txt_that_nginx_does_not_have(config: Backup, docker: FakeDocker) -> None:
    (docker.service("nginx") / "version.txt").unlink()
    made = config.make()
    assert "version.txt" in made["config"]["absent"]
    assert made["config"]["central_version"] is None


def test_limits(config: Backup, central: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(central, {"big.sql": "x" * 5000, "a": "x" * 900, "b": "y" * 900})
    made = config.make(maximum_file_size=4999)
    assert made["config"]["left_out"] == {"big.sql": "It has 5000 bytes, more than the 4999 allowed."}
    assert "checkout/big.sql" in config.make(maximum_file_size=5000)["config"]["files"]
    # config.json and the sums do not count.
    total = sum(member["size"] for member in made["members"] if member["name"] != "config.json")
    assert config.make(maximum_file_size=4999, maximum_total_size=total)["config"] == made["config"]
    small = config.make(maximum_file_size=4999, maximum_total_size=total - 1)
    assert {**small["config"]["left_out"], **small["config"]["absent"]} != {
        **made["config"]["left_out"],
        **made["config"]["absent"],
    }


def test_too_many_files(config: Backup, central: Path) -> None:
    write(central, {f"many/{number:04}": "" for number in range(MOST_UNTRACKED + 20)})
    made = config.make()
    assert len([name for name in made["config"]["files"] if "/many/" in name]) == MOST_UNTRACKED
    assert any(f"{MOST_UNTRACKED + 20} files" in note for note in made["warnings"])


def test_extra_paths(config: Backup, tmp_path: Path) -> None:
    write(tmp_path, {"etc/one.conf": "1", "etc/more/two.conf": "2", "etc/more/deep/three": "3"})
    one, more = str(tmp_path / "etc/one.conf"), str(tmp_path / "etc/more")
    members = config.members(extra_paths=(one, more))
    assert {name[5:]: data for name, data in members.items() if name.startswith("host/")} == {
        one[1:]: b"1",
        f"{more[1:]}/two.conf": b"2",
        f"{more[1:]}/deep/three": b"3",
    }


def test_an_extra_path_that_is_not_there_fails(config: Backup) -> None:
    failed = config.fails(extra_paths=("/no/such/path",))
    assert failed.diagnosis == "unreadable"
    assert "/no/such/path" in failed.message


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/a//b", "/", "/a\nb", "/a/"])
def test_extra_paths_that_make_no_sense(config: Backup, path: str) -> None:
    assert config.fails(extra_paths=(path,)).diagnosis == "bad_option"


def test_mounts_that_are_not_in_the_part_are_named(config: Backup, docker: FakeDocker, central: Path) -> None:
    mounts = ["/data/transfer", f"{central}/files/x", "/etc/letsencrypt", "/srv/extra/deep"]
    volumes = [{"type": "bind", "source": source, "target": "/x"} for source in mounts]
    services = {"service": {"volumes": [*volumes, {"type": "volume", "source": "secrets"}]}, "nginx": {}}
    docker.prints("config", "--format", json.dumps({"name": "odk", "services": services}))
    (note,) = config.make()["warnings"]
    assert "/etc/letsencrypt (service), /srv/extra/deep (service)." in note
    assert "/data/transfer" not in note


def test_a_file_that_cannot_be_read_fails(config: Backup, central: Path, docker: FakeDocker) -> None:
    """root can read everything, so base64 is one that cannot."""
    tool = docker.path / "base64"
    tool.write_text(
        '#!/bin/sh\ncase $(readlink /proc/self/fd/0) in */.env) echo "Permission denied" >&2; exit 1 ;; esac\n'
        f'exec {shutil.which("base64")} "$@"\n'
    )
    tool.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", docker.environment["PATH"])
        failed = config.fails()
    assert failed.diagnosis == "unreadable"
    assert ".env" in failed.message


def test_a_file_that_changes_meanwhile(config: Backup, central: Path, docker: FakeDocker) -> None:
    tool = docker.path / "base64"
    tool.write_text(
        f'#!/bin/sh\ncase $(readlink /proc/self/fd/0) in */{{}}) echo more >>"$(readlink /proc/self/fd/0)" ;; esac\n'
        f'exec {shutil.which("base64")} "$@"\n'.replace("{}", "growing.log")
    )
    tool.chmod(0o755)
    write(central, {"growing.log": "begun\n"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", docker.environment["PATH"])
        made = config.make()
        assert made["warnings"] == ["growing.log changed while it was read."]
        tool.write_text(tool.read_text().replace("growing.log", ".env"))
        assert config.fails().diagnosis == "operation_failed"


def test_a_checkout_of_another_user(config: Backup, central: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    subprocess.run(["chown", "-R", "12345:12345", central], check=True)
    assert config.make()["config"]["checkout"]["describe"] == "v2026.1.0"


def test_nothing_in_the_checkout_is_executed_nor_changed(config: Backup, central: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\nexec cat\n")
    trap.chmod(0o755)
    for name in ("core.fsmonitor", "diff.external", "core.pager", "pager.diff", "diff.trap.textconv"):
        git(central, "config", name, str(trap))
    write(central, {".gitattributes": "* diff=trap\n", "docker-compose.yml": "changed\n"})
    before = {path: path.stat().st_mtime_ns for path in central.rglob("*") if path.is_file()}
    config.make()
    assert not (tmp_path / "sprung").exists()
    assert {path: path.stat().st_mtime_ns for path in central.rglob("*") if path.is_file()} == before


def test_check_mode_reads_everything_and_writes_nothing(config: Backup) -> None:
    found = rehearse(config.request())
    assert found["config"]["checkout"]["describe"] == "v2026.1.0"
    assert not config.dest.parent.exists()
    made = config.make()
    assert made["config"] == found["config"]


def test_a_channel_that_breaks_leaves_nothing(config: Backup, docker: FakeDocker) -> None:
    (docker.path / "broken").write_text("Cannot connect to the Docker daemon\n")
    assert config.fails().diagnosis == "docker_unavailable"
    assert not config.dest.parent.exists()
