# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of a Central's configuration, put back by the real scripts: all of them or none, whenever a run ends."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._backup_terms import Terms
from ansible_collections.odkops.central.plugins.module_utils._channel import LocalChannel
from ansible_collections.odkops.central.plugins.module_utils._config_backup import Request, backup
from ansible_collections.odkops.central.plugins.module_utils._config_compare import part_of
from ansible_collections.odkops.central.plugins.module_utils._config_diff import shown
from ansible_collections.odkops.central.plugins.module_utils._config_restore import ConfigRestore, restore_config
from ansible_collections.odkops.central.plugins.module_utils._config_restore_operations import ELSEWHERE, PUT
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._gate import permitted
from ansible_collections.odkops.central.plugins.module_utils._journal_operations import BEGIN
from ansible_collections.odkops.central.plugins.module_utils._operation import BACKUP, RESTORE, Project
from ansible_collections.odkops.central.plugins.module_utils._operations import OPERATIONS
from ansible_collections.odkops.central.plugins.module_utils._restore_journal import Journal
from ansible_collections.odkops.central.plugins.module_utils._tar_part import TarPart

from support.fake_docker import FakeDocker

PASSPHRASE = "correct horse battery staple"
SECRET = "hunter2-and-more"
FILES = {
    "docker-compose.yml": "services: {}\n",
    ".env": f"DOMAIN=old.example.org\nDB_PASSWORD={SECRET}\n",
    "docker-compose.override.yml": "services: {service: {environment: [A=1]}}\n",
    "files/local/customssl/fullchain.pem": "certificate",
    "files/local/customssl/privkey.pem": "key",
    "files/mail/rsa.private": "dkim",
    "files/nginx/odk.conf.template": "server {}\n",
    "files/nginx/client-config.json.template": "{}\n",
    "files/own, with a comma & 'quotes' \u00e9.conf": "mine",
}
DIRECTORIES = ("files", "files/local", "files/local/customssl", "files/mail", "files/nginx")
ALL = ("env", "override", "tls", "dkim", "templates")


def write(directory: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")


def look(directory: Path) -> dict[str, tuple[str, int, bytes | str]]:
    """All that is below a directory, hidden files included: kind, permissions, and content."""
    found: dict[str, tuple[str, int, bytes | str]] = {}
    for path in sorted(directory.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if path.is_symlink():
            found[str(path.relative_to(directory))] = ("link", mode, os.readlink(path))
        elif path.is_dir():
            found[str(path.relative_to(directory))] = ("directory", mode, b"")
        else:
            found[str(path.relative_to(directory))] = ("file", mode, path.read_bytes())
    return found


@dataclass
class Site:
    """A part of one Central, and another Central."""

    docker: FakeDocker
    part: Path
    directory: Path
    extra: Path

    def channel(self) -> LocalChannel:
        return LocalChannel(Project(str(self.directory), "odk", docker=(self.docker.command,)))

    def restore(self, *files: str, check_mode: bool = False, channel: Any = None, **more: Any) -> dict[str, Any]:
        part = part_of(str(self.part), None, PASSPHRASE, False)
        return restore_config(ConfigRestore(channel or self.channel(), part, files, **more), check_mode)

    def states(self, *files: str) -> dict[str, str]:
        return {file["name"]: file["state"] for file in self.restore(*files, check_mode=True)["files"]}

    def fails(self, *files: str, **more: Any) -> CentralError:
        before = look(self.directory)
        with pytest.raises(CentralError) as caught:
            self.restore(*files, **more)
        assert look(self.directory) == before
        return caught.value

    def text(self, name: str) -> str:
        return (self.directory / name).read_text("utf-8")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    docker = FakeDocker.make(tmp_path / "docker")
    docker.prints("config", "", "name: odk\n")
    docker.prints("config", "--format", json.dumps({"name": "odk", "services": {}}))
    old, extra = tmp_path / "old", tmp_path / "proxy"
    write(old, FILES)
    (old / ".env").chmod(0o640)
    write(extra, {"haproxy.cfg": "old proxy", "errors/503.http": "sorry"})
    channel = LocalChannel(Project(str(old), "odk", docker=(docker.command,)))
    part = tmp_path / "config.tar.enc.bin"
    backup(Request(channel, Terms(str(part), PASSPHRASE), (str(extra),)))
    new = tmp_path / "it's new"
    write(new, {**FILES, ".env": "DOMAIN=new.example.org\nDB_PASSWORD=other\n", "files/mine.conf": "x"})
    (new / ".env").chmod(0o600)
    for name in ("docker-compose.override.yml", "files/mail/rsa.private"):
        (new / name).unlink()
    (new / "files/mail").rmdir()
    (extra / "haproxy.cfg").write_text("new proxy")
    return Site(docker, part, new, extra)


def test_states_and_nothing_is_written_unless_asked_for(site: Site) -> None:
    before = look(site.directory)
    found = site.restore()
    assert look(site.directory) == before
    assert found["changed"] is False
    states = {file["name"]: file["state"] for file in found["files"]}
    assert states == {
        **dict.fromkeys(FILES, "same"),
        ".env": "differs",
        "docker-compose.override.yml": "missing here",
        "files/mail/rsa.private": "missing here",
        "files/mine.conf": "only here",
        f"{site.extra}/haproxy.cfg": "not compared",
        f"{site.extra}/errors/503.http": "not compared",
    }
    assert SECRET not in json.dumps(found)


def test_what_is_asked_for_is_put_back(site: Site) -> None:
    assert site.restore(*ALL, check_mode=True)["changed"] is True
    assert "old" not in site.text(".env")
    done = site.restore(*ALL)
    assert done["changed"] is True
    assert {file["name"] for file in done["files"] if file["written"]} == {
        ".env",
        "docker-compose.override.yml",
        "files/mail/rsa.private",
    }
    found = look(site.directory)
    assert found == {
        **{name: ("file", 0o644, content.encode()) for name, content in FILES.items()},
        # A file that was there keeps its permissions.
        ".env": ("file", 0o600, FILES[".env"].encode()),
        "files/mine.conf": ("file", 0o644, b"x"),
        **dict.fromkeys(DIRECTORIES, ("directory", 0o755, b"")),
    }
    assert "docker compose up -d" in str(done["warnings"])
    again = site.restore(*ALL)
    assert (again["changed"], again["warnings"]) == (False, [])


def test_permissions_of_what_was_not_there(site: Site) -> None:
    (site.directory / ".env").unlink()
    site.restore("env")
    assert stat.S_IMODE((site.directory / ".env").stat().st_mode) == 0o640


def test_owners(site: Site) -> None:
    os.chown(site.directory / ".env", 1234, 1235)
    os.chown(site.directory / "files", 1236, 1237)
    site.restore("env", "dkim")
    for name, owner in {
        ".env": (1234, 1235),
        "files/mail": (1236, 1237),
        "files/mail/rsa.private": (1236, 1237),
    }.items():
        found = (site.directory / name).stat()
        assert (found.st_uid, found.st_gid) == owner, name


def test_a_name_of_any_kind_and_a_directory(site: Site) -> None:
    odd = next(name for name in FILES if "comma" in name)
    (site.directory / odd).unlink()
    (site.directory / "files/nginx/odk.conf.template").write_text("changed")
    site.restore(odd, "files/nginx")
    assert (site.text(odd), site.text("files/nginx/odk.conf.template")) == ("mine", "server {}\n")


def test_previous_files_are_kept_if_asked_for(site: Site) -> None:
    done = site.restore("env", "dkim", keep_previous=True)
    (kept,) = done["kept"]
    assert kept.startswith(".env.before-")
    assert "new.example.org" in site.text(kept)
    assert (site.directory / kept).stat().st_mode & 0o777 == 0o600
    assert [name for name in look(site.directory) if "odkops" in name] == []


def test_extra_paths(site: Site) -> None:
    proxy = str(site.extra)
    assert site.states(proxy)[f"{proxy}/haproxy.cfg"] == "differs"
    (site.extra / "errors/503.http").unlink()
    (site.extra / "errors").rmdir()
    assert site.fails(f"{proxy}/errors/503.http").diagnosis == "unsafe_path"
    site.restore(f"{proxy}/errors")
    assert (site.extra / "haproxy.cfg").read_text() == "new proxy"
    assert (site.extra / "errors/503.http").read_text() == "sorry"
    assert site.restore(proxy)["changed"] is True
    assert (site.extra / "haproxy.cfg").read_text() == "old proxy"
    assert sorted(look(site.extra)) == ["errors", "errors/503.http", "haproxy.cfg"]
    assert site.restore(proxy)["changed"] is False


@pytest.mark.parametrize(
    "name",
    ["nothing", "../x", "/etc/passwd", "files/../../x", ".", "/", "..", "a\nb", "//etc/passwd", "files/mine.conf"],
)
def test_what_the_backup_does_not_have(site: Site, name: str) -> None:
    assert site.fails(name).diagnosis == "bad_option"


def test_a_group_of_which_there_is_nothing(site: Site) -> None:
    """What is there stays: nothing is removed."""
    old = site.directory.parent / "old"
    (old / "docker-compose.override.yml").unlink()
    site.part.unlink()
    backup(
        Request(
            LocalChannel(Project(str(old), "odk", docker=(site.docker.command,))), Terms(str(site.part), PASSPHRASE)
        )
    )
    write(site.directory, {"docker-compose.override.yml": "mine"})
    done = site.restore("override")
    assert (done["changed"], site.text("docker-compose.override.yml")) == (False, "mine")
    assert "override" in str(done["warnings"])


def test_links_are_not_followed(site: Site, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "env").write_text("theirs")
    (site.directory / ".env").unlink()
    (site.directory / ".env").symlink_to(outside / "env")
    (site.directory / "files/mail").symlink_to(outside)
    for name in ("env", "dkim"):
        error = site.fails(name)
        assert (error.diagnosis, "link" in error.message) == ("unsafe_path", True)
    assert sorted(path.name for path in outside.iterdir()) == ["env"]
    assert (outside / "env").read_text() == "theirs"
    (site.directory / ".env").unlink()
    (site.directory / ".env").mkdir()
    assert site.fails("env").diagnosis == "unsafe_path"


@pytest.mark.parametrize("name", ["checkout/.git/hooks/pre-commit", "checkout/.odkops-restore/journal.json"])
def test_places_that_nothing_is_written_to(site: Site, name: str) -> None:
    index = {"type": "odk-central-config", "schema": 1, "files": {name: {}}}
    site.part.unlink()
    with TarPart(str(site.part), PASSPHRASE) as part:
        part.add(name, b"#!/bin/sh\n")
        part.add("config.json", json.dumps(index).encode())
        part.commit()
    with pytest.raises(CentralError):
        site.restore(name.removeprefix("checkout/"))
    assert not (site.directory / name.removeprefix("checkout/")).exists()


def test_a_part_that_is_another_or_damaged(site: Site) -> None:
    whole = site.part.read_bytes()
    site.part.write_bytes(whole[:-600])
    assert site.fails("env").diagnosis == "truncated"
    site.part.write_bytes(whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:])
    assert site.fails("env").diagnosis in ("corrupt", "unsafe_archive")
    site.part.unlink()
    with TarPart(str(site.part), PASSPHRASE) as part:
        part.add("checkout/.env", b"x")
        part.commit()
    assert site.fails("env").diagnosis == "unsafe_archive"


# --- a run that ends too early ----------------------------------------------------------------------------------


class EndingError(CentralError):
    """What happens to a run."""

    def __init__(self) -> None:
        super().__init__("connection_failed", "The connection broke.")


class Dying:
    """A channel that ends at an operation, before or after it was executed; a dead run executes nothing more.

    Counted is from the one that begins the journal: before it, nothing is changed.
    """

    def __init__(self, channel: LocalChannel, at: int, after: bool, dead: bool) -> None:
        self.channel, self.at, self.after, self.dead, self.calls, self.ended = channel, at, after, dead, 0, False

    @contextlib.contextmanager
    def _call(self, name: str) -> Iterator[None]:
        if self.ended and self.dead:
            raise EndingError
        if self.calls == 0 and name != BEGIN:
            yield
            return
        number, self.calls = self.calls, self.calls + 1
        if number == self.at and not self.after:
            self.ended = True
            raise EndingError
        yield
        if number == self.at:
            self.ended = True
            raise EndingError

    def run(self, *arguments: Any, **more: Any) -> bytes:
        with self._call(arguments[0]):
            return self.channel.run(*arguments, **more)

    @contextlib.contextmanager
    def stream(self, *arguments: Any, **more: Any) -> Iterator[Any]:
        with self._call(arguments[0]), self.channel.stream(*arguments, **more) as stream:
            yield stream


def states(found: dict[str, Any]) -> dict[str, Any]:
    """The files of a directory without what a run keeps beside them."""
    return {name: about for name, about in found.items() if "odkops" not in name}


@pytest.mark.parametrize("dead", [True, False], ids=["dead", "failing"])
def test_a_run_that_ends_at_any_operation(site: Site, dead: bool) -> None:
    """A failing run puts everything back itself; what a dead one has left, the next one undoes, or finishes."""
    wanted = ("env", "dkim", str(site.extra))

    def everything() -> tuple[Any, Any]:
        return look(site.directory), look(site.extra)

    def reset() -> None:
        write(site.directory, {".env": "DOMAIN=new.example.org\nDB_PASSWORD=other\n"})
        (site.directory / "files/mail/rsa.private").unlink()
        (site.directory / "files/mail").rmdir()
        (site.extra / "haproxy.cfg").write_text("new proxy")

    before = everything()
    site.restore(*wanted)
    after = everything()
    reset()
    assert everything() == before
    outcomes = set()
    for at in range(200):
        for late in (False, True) if dead else (True,):
            dying = Dying(site.channel(), at, late, dead)
            try:
                site.restore(*wanted, channel=dying)
            except EndingError:
                assert dead or everything() == before, (at, late)
            else:
                # Behind the point of no return, what is left is tidied by the next run.
                assert states(everything()[0]) == states(after[0]), (at, late)
            site.restore()
            assert Journal.read(site.channel()) is None
            found = everything()
            assert found in (before, after), (at, late)
            outcomes.add(found == after)
            if found == after:
                reset()
        if not dying.ended:
            break
    assert not dying.ended
    assert outcomes == {True, False}


def test_a_file_that_does_not_come_whole(site: Site) -> None:
    """The end of what is sent proves nothing."""
    channel = site.channel()
    digest = "0" * 64
    for size, content in (("10", b"short"), ("5", b"wrong")):
        with pytest.raises(CentralError, match="come whole"):
            channel.run(PUT, "0a1b2c3d4e5f", "0600", size, digest, "LmVudg==", stdin=content)
    assert [name for name in look(site.directory) if "odkops" in name] == []


def test_the_journal_of_another_restore(site: Site) -> None:
    journal = Journal.begin(site.channel(), "0a1b2c3d4e5f", "restore")
    assert site.fails("env").diagnosis == "restore_unfinished"
    journal.end()


def test_check_mode_undoes_nothing(site: Site) -> None:
    items = [{"member": "checkout/.env", "root": "", "missing": 0}]
    Journal.begin(site.channel(), "0a1b2c3d4e5f", "config", items=items, keep_previous=False)
    before = look(site.directory)
    found = site.restore("env", check_mode=True)
    assert (found["recovered"], look(site.directory)) == (True, before)
    done = site.restore()
    assert (done["recovered"], done["changed"]) == (True, True)
    assert Journal.read(site.channel()) is None


def test_a_gate_permits_only_its_paths() -> None:
    def names(*purposes: str, extra: tuple[str, ...] = ()) -> set[str]:
        return {operation.name for operation in permitted(OPERATIONS, purposes, extra)}

    assert not {name for name in names(BACKUP, extra=("/etc/x",)) if name.startswith("config-put")}
    assert not {name for name in names(BACKUP, RESTORE) if name.endswith(ELSEWHERE)}
    (put,) = (one for one in permitted(OPERATIONS, (RESTORE,), ("/etc/x",)) if one.name == PUT + ELSEWHERE)
    put.check(["0a1b2c3d", "0600", "1", "0" * 64, "Lw==", "/etc/x"])
    with pytest.raises(CentralError):
        put.check(["0a1b2c3d", "0600", "1", "0" * 64, "Lw==", "/etc"])


# --- what is shown ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".env", "A=1\nDB_PASSWORD=SECRET\nB=2\n"),
        (".env", "A=1\nexport S3_SECRET_KEY='SECRET'\n"),
        (".env", 'MY_KEY="first line\nSECRET\nlast"\nB=2\n'),
        (".env", "API_TOKEN=SECRET\nURL=https://x.example.org/?t=SECRET\n"),
        (".env", "DATABASE_URL=postgres://odk:SECRET@db.example.org/odk\n"),
        (
            "docker-compose.override.yml",
            "services:\n  db:\n    environment:\n      POSTGRES_PASSWORD: SECRET\n      B: 2\n",
        ),
        ("docker-compose.override.yml", "services: {db: {environment: {B: 2, DB_PASSWORD: SECRET}}}\n"),
        ("docker-compose.override.yml", "x:\n  - DB_PASSWORD=SECRET\n"),
        ("docker-compose.override.yml", "x:\n  private_key: |\n    first\n    SECRET\n  b: 2\n"),
        ("docker-compose.override.yml", "x:\n  api_key:\n    SECRET\n  b: 2\n"),
        (".env", "A_PASSWORD=\\\nSECRET\nB=2\n"),
        ("files/local/customssl/privkey.pem", "SECRET"),
        ("files/own.template", "-----BEGIN PRIVATE KEY-----\nSECRET\n"),
        ("/etc/haproxy/haproxy.cfg", "stats auth admin:SECRET\n"),
        (".env", "A=1\0SECRET\n"),
    ],
)
def test_secrets_are_not_shown(name: str, text: str) -> None:
    old, new = text.replace("SECRET", "hunter2-old").encode(), text.replace("SECRET", "hunter3-new").encode()
    before, after = shown(name, old, new)
    assert "hunter" not in before + after
    if "URL" not in text:
        assert before != after
    assert "differs" in after or "URL" in text
    if "B=2" in text:
        assert "B=2" in before
    assert "hunter3-new" in shown(name, old, new, secrets=True)[1]
    assert "hunter" not in "".join(shown(name, None, new))
    assert shown(name, None, new)[0] == ""


def test_what_is_no_secret_is_shown() -> None:
    old, new = b"DOMAIN=a.example.org\nDB_PASSWORD=same-one\n", b"DOMAIN=b.example.org\nDB_PASSWORD=same-one\n"
    before, after = shown(".env", old, new)
    assert before == "DOMAIN=a.example.org\nDB_PASSWORD=(hidden)\n"
    assert after == "DOMAIN=b.example.org\nDB_PASSWORD=(hidden)\n"
    nginx = b"location / {\n  proxy_pass http://service:8383;\n}\n"
    assert shown("files/nginx/odk.conf.template", nginx, nginx)[0] == nginx.decode()


def test_the_difference_of_a_run(site: Site) -> None:
    found = {one["before_header"].split(" ")[0]: one for one in site.restore("env", check_mode=True)["diff"]}
    assert found[".env"]["after"] == "DOMAIN=old.example.org\nDB_PASSWORD=(hidden, differs)\n"
    assert "not asked for" in found["docker-compose.override.yml"]["after_header"]
    assert found["docker-compose.override.yml"]["before"] == ""
    assert "dkim" not in found["files/mail/rsa.private"]["after"]
    assert SECRET not in json.dumps(found)
