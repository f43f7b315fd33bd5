# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""backup.yml and verify.yml against the demo Central; openssl, pg_restore, SQL and the file system check the results."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import Demo, PlaybookResult, run_playbook, write_inventory
from support.inventory import host_variables
from support.paths import ROOT
from support.sets import everything_below

FILE = "database.pgdump.enc.bin"


class Site:
    """An inventory of one Central or more, their repository and their passphrase."""

    def __init__(self, demo: Demo, folder: Path, *names: str) -> None:
        self.demo, self.folder = demo, folder
        self.repository = folder / "repository"
        self.passphrase = f"pass phrase \u00e9\u4e16 '\"$%{{ {secrets.token_hex(12)}"
        self.passphrase_file = folder / "passphrase"
        self.passphrase_file.write_text(self.passphrase + "\n", "utf-8")
        self.passphrase_file.chmod(0o600)
        self.inventory = write_inventory(
            folder / "inventory.json",
            dict.fromkeys(names or ("demo",), demo),
            central_repository=str(self.repository),
            central_passphrase_file=str(self.passphrase_file),
        )

    def change(self, host: str, **variables: Any) -> None:
        """Give a host other variables; None takes one away."""
        inventory = json.loads(self.inventory.read_text("utf-8"))
        inventory["odk_central"]["hosts"][host].update(variables)
        self.inventory.write_text(json.dumps(inventory), "utf-8")

    def run(self, playbook: str, *arguments: str, **more: Any) -> PlaybookResult:
        return run_playbook(playbook, self.inventory, None, *arguments, **more)

    def sets(self, central: str = "demo") -> list[Path]:
        """The directories of the sets, oldest first, looked up with nothing of the code under test."""
        folder = self.repository / central / "sets"
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def assert_no_set_and_no_litter(self) -> None:
        assert everything_below(self.repository) <= set(), "something was left"


@pytest.fixture
def site(demo: Demo, tmp_path: Path) -> Site:
    return Site(demo, tmp_path)


@pytest.fixture(scope="module")
def made(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site with a set that nobody changes."""
    site = Site(demo, tmp_path_factory.mktemp("made"))
    outcome = site.run("backup")
    assert outcome.rc == 0, outcome.output
    return site


def summary(outcome: PlaybookResult) -> str:
    """What was printed for people."""
    return "\n".join("\n".join(result["msg"]) for result in outcome.of("debug") if isinstance(result.get("msg"), list))


def failure(outcome: PlaybookResult, host: str = "demo") -> str:
    """What the playbook says at its end."""
    return str(outcome.of("fail", host)[-1]["msg"])


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- backup.yml -------------------------------------------------------------------------------------------------


def test_a_set_and_then_another(site: Site, demo: Demo) -> None:
    first = site.run("backup")
    assert first.rc == 0, first.output
    (path,) = site.sets()
    assert sorted(entry.name for entry in path.iterdir()) == [FILE, "manifest.json"]
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    part = manifest["parts"]["database"]
    assert part["sha256"] == sha256(path / FILE)
    assert part["size"] == (path / FILE).stat().st_size
    assert part["encrypted"] is True
    for table in ("submissions", "forms", "blobs", "audits", "users", "form_defs"):
        # The log-ins of this run are audits of their own.
        counted = int(demo.psql(f"select count(*) from {table}"))
        held = manifest["database"]["tables"][f"public.{table}"]
        assert held == counted or (table == "audits" and 0 <= counted - held <= 2), table
    assert manifest["database"]["central"]["migrations"] == int(demo.psql("select count(*) from knex_migrations"))
    assert manifest["identity"] == {
        "domain": "localhost",
        "inventory_hostname": "demo",
        "url": demo.url,
    }
    assert set(manifest["absent"]) == {"enketo", "config", "blobs"}
    assert manifest["started"] <= manifest["finished"] <= manifest["sealed"]
    assert part["server_version"].startswith(demo.psql("show server_version").split()[0])

    for entry in (site.repository, *site.repository.rglob("*")):
        assert stat.S_IMODE(entry.stat().st_mode) == (0o700 if entry.is_dir() else 0o600), entry

    printed = summary(first)
    for words in (
        str(path),
        f"version {manifest['database']['central']['version']}",
        f"{manifest['database']['tables']['public.submissions']:,} submissions",
        f"Recovery point: {manifest['started']}",
        f"key id is {manifest['authentication']['key_id']}",
        "Absent: enketo.",
        "does not survive a lost disk",
    ):
        assert words in printed
    stats = first.custom["_run"]["odkops_central_backup"]["demo"]
    assert stats["ok"] is True
    assert (stats["set_id"], stats["path"], stats["size"]) == (path.name, str(path), part["size"])
    assert all(isinstance(value, (str, int, bool)) for value in stats.values())

    second = site.run("backup", "-e", "central_repository_elsewhere=true")
    assert second.rc == 0, second.output
    assert site.sets()[0] == path
    assert len(site.sets()) == 2
    assert json.loads((path / "manifest.json").read_text("utf-8")) == manifest
    assert "does not survive" not in summary(second)
    again = json.loads((site.sets()[1] / "manifest.json").read_text("utf-8"))
    assert again["authentication"]["key_id"] == manifest["authentication"]["key_id"]


def test_what_the_dump_warned_of_is_a_note(site: Site, demo: Demo) -> None:
    """Here: the API was asked for, and pg_dump was taken."""
    site.change(
        "demo",
        central_url="http://127.0.0.1:9",
        central_allow_http=True,
        central_project_directory=demo["compose_dir"],
        central_project=demo["compose_project"],
        central_parts=["database"],
    )
    outcome = site.run("backup")
    assert outcome.rc == 0, outcome.output
    (path,) = site.sets()
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    assert manifest["parts"]["database"]["method"] == "pg_dump"
    (note,) = [note for note in manifest["notes"] if "since the API could not be used" in note]
    assert f"Note: {note}" in summary(outcome)


def test_a_person_can_open_and_check_it_without_the_collection(made: Site, demo: Demo) -> None:
    (path,) = made.sets()
    script = ["bash", str(ROOT / "docs" / "check-manifest.sh"), str(path / "manifest.json"), str(made.passphrase_file)]
    checked = subprocess.run(script, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    with (path / FILE).open("rb") as file:
        plain = subprocess.run(
            ["openssl", "enc", "-d", "-chacha20", "-pbkdf2", "-pass", f"file:{made.passphrase_file}"],
            stdin=file,
            capture_output=True,
            check=True,
        ).stdout
    container = demo.compose("ps", "-q", "service").strip()
    listed = subprocess.run(
        ["docker", "exec", "-i", container, "pg_restore", "--list"], input=plain, capture_output=True, check=True
    ).stdout.decode()
    assert "TABLE DATA public submissions" in listed


def test_passphrase_as_a_variable(site: Site) -> None:
    variables = site.folder / "variables.json"
    variables.write_text(json.dumps({"central_passphrase": site.passphrase, "central_passphrase_file": ""}), "utf-8")
    assert site.run("backup", "-e", f"@{variables}").rc == 0
    verified = site.run("verify")  # the file holds the same passphrase
    assert verified.rc == 0, verified.output


def test_wrong_password(site: Site) -> None:
    site.change("demo", central_password="not the password")
    outcome = site.run("backup")
    assert outcome.rc != 0
    assert "authentication_failed" in failure(outcome)
    site.assert_no_set_and_no_litter()
    stats = outcome.custom["_run"]["odkops_central_backup"]["demo"]
    assert (stats["ok"], stats["diagnosis"]) == (False, "authentication_failed")
    assert stats["message"] in failure(outcome)


def test_a_failure_leaves_the_sets_there_are(site: Site) -> None:
    assert site.run("backup").rc == 0
    before = {path: sha256(path) for path in site.repository.rglob("*") if path.is_file()}
    site.change("demo", central_email=site.demo["user"]["email"], central_password=site.demo["user"]["password"])
    outcome = site.run("backup")
    assert outcome.rc != 0
    assert "permission_denied" in failure(outcome)
    assert {path: sha256(path) for path in site.repository.rglob("*") if path.is_file()} == before
    assert len(site.sets()) == 1


def test_a_dump_that_dies_half_way_behind_nginx(site: Site) -> None:
    with site.demo.fault("dump-dies", "--after", "100000"):
        outcome = site.run("backup")
    assert outcome.rc != 0
    assert "truncated" in failure(outcome)
    site.assert_no_set_and_no_litter()


def test_a_variable_that_is_missing(site: Site) -> None:
    inventory = json.loads(site.inventory.read_text("utf-8"))
    del inventory["odk_central"]["hosts"]["demo"]["central_url"]
    site.inventory.write_text(json.dumps(inventory), "utf-8")
    outcome = site.run("backup")
    assert outcome.rc != 0
    assert "Set central_project_directory for demo" in failure(outcome)
    assert "or central_url, its address" in failure(outcome)
    assert not site.repository.exists()


@pytest.mark.parametrize("playbook", ["backup", "verify"])
def test_a_passphrase_that_yaml_has_read_as_a_number(site: Site, playbook: str) -> None:
    site.change("demo", central_passphrase=1234567890123456, central_passphrase_file="")
    outcome = site.run(playbook)
    assert outcome.rc != 0
    assert "Put it in quotes" in failure(outcome)
    assert "1234567890123456" not in outcome.output
    assert not site.repository.exists()


def test_repository_that_cannot_be_used(site: Site) -> None:
    site.repository.write_text("a file")
    outcome = site.run("backup")
    assert outcome.rc != 0
    assert "not_a_repository" in failure(outcome)
    assert site.repository.read_text() == "a file"


def test_repository_whose_disk_is_not_mounted(site: Site) -> None:
    outcome = site.run("backup", "-e", "central_repository_create=false")
    assert outcome.rc != 0
    assert "not_a_repository" in failure(outcome)
    assert not site.repository.exists()


def test_unencrypted_only_when_asked_for(site: Site) -> None:
    site.change("demo", central_passphrase_file="")
    refused = site.run("backup")
    assert refused.rc != 0
    assert "no_passphrase" in failure(refused)
    site.assert_no_set_and_no_litter()
    made = site.run("backup", "-e", "central_allow_unencrypted=true")
    assert made.rc == 0, made.output
    assert "NOT AUTHENTICATED" in summary(made)
    assert made.custom["_run"]["odkops_central_backup"]["demo"]["authenticated"] is False
    verified = site.run("verify")
    assert verified.rc == 0, verified.output
    assert "NOT AUTHENTICATED" in summary(verified)
    # Whoever expects a passphrase is not content with a set that has none.
    site.change("demo", central_passphrase_file=str(site.passphrase_file))
    expected = site.run("verify")
    assert expected.rc != 0
    assert "unauthenticated" in failure(expected)


def test_check_mode(site: Site) -> None:
    outcome = site.run("backup", check=True)
    assert outcome.rc == 0, outcome.output
    assert not site.repository.exists()
    assert "Nothing was made" in outcome.stdout
    assert "odkops_central_backup" not in outcome.custom.get("_run", {})
    site.change("demo", central_password="not the password")
    refused = site.run("backup", check=True)
    assert refused.rc != 0
    assert "authentication_failed" in failure(refused)
    assert not site.repository.exists()


def test_two_hosts_one_of_which_fails(demo: Demo, tmp_path: Path) -> None:
    site = Site(demo, tmp_path, "bad", "good")
    site.change("bad", central_password="not the password")
    site.change("good", central_name="Central.of-the_North")
    outcome = site.run("backup")
    assert outcome.rc != 0
    assert outcome.hosts["bad"]["failures"] == 1
    assert outcome.hosts["good"]["failures"] == 0
    assert site.sets("bad") == []
    assert not (site.repository / "bad").exists()
    assert len(site.sets("Central.of-the_North")) == 1
    stats = outcome.custom["_run"]["odkops_central_backup"]
    assert {name: one["ok"] for name, one in stats.items()} == {"bad": False, "Central.of-the_North": True}
    verified = site.run("verify")
    assert verified.rc != 0
    assert "set_not_found" in failure(verified, "bad")
    assert verified.hosts["good"]["failures"] == 0


def test_what_a_killed_run_has_left_is_removed_by_a_later_one(site: Site) -> None:
    left = site.repository / "demo" / "sets" / ".20200101T000000.000Z-00000000.partial"
    left.mkdir(parents=True)
    (left / FILE).write_bytes(b"half of it")
    moment = time.time() - 30 * 3600
    for path in (left / FILE, left):
        os.utime(path, (moment, moment))
    assert site.run("backup").rc == 0
    assert not left.exists()
    assert len(site.sets()) == 1


# --- verify.yml -------------------------------------------------------------------------------------------------


def test_verify(made: Site) -> None:
    outcome = made.run("verify")
    assert outcome.rc == 0, outcome.output
    assert outcome.hosts["demo"]["changed"] == 0
    assert f"Verified backup set: {made.sets()[0]}" in summary(outcome)
    assert outcome.custom["_run"]["odkops_central_verify"]["demo"]["authenticated"] is True


def test_verify_all_of_them_where_there_is_one(made: Site) -> None:
    assert len(made.sets()) == 1
    outcome = made.run("verify", "-e", "central_set=all")
    assert outcome.rc == 0, outcome.output
    assert f"Verified backup set: {made.sets()[0]}" in summary(outcome)


def test_verify_a_set_by_its_id(made: Site) -> None:
    assert made.run("verify", "-e", f"central_set={made.sets()[0].name}").rc == 0
    absent = made.run("verify", "-e", "central_set=20260101T000000.000Z-00000000")
    assert absent.rc != 0
    assert "set_not_found" in failure(absent)


def test_verify_with_another_passphrase(made: Site, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("a passphrase of another Central\n")
    outcome = made.run("verify", "-e", f"central_passphrase_file={other}")
    assert outcome.rc != 0
    assert "wrong_passphrase" in failure(outcome)


@contextlib.contextmanager
def flipped(path: Path, position: int) -> Iterator[None]:
    """A file with one bit changed, and put right afterwards."""
    good = path.read_bytes()
    bad = bytearray(good)
    bad[position] ^= 1
    path.write_bytes(bad)
    try:
        yield
    finally:
        path.write_bytes(good)


def test_verify_finds_one_changed_bit_in_the_database(made: Site) -> None:
    part = made.sets()[0] / FILE
    for position in (part.stat().st_size // 2, part.stat().st_size - 1):
        with flipped(part, position):
            outcome = made.run("verify")
        assert outcome.rc != 0
        # What the bit hits decides about the code; the length of a block may be among it.
        assert re.search(r"good\. (tampered|corrupt|truncated|wrong_passphrase): ", failure(outcome)), failure(outcome)


def test_verify_finds_a_changed_manifest(made: Site) -> None:
    manifest = made.sets()[0] / "manifest.json"
    good = manifest.read_bytes()
    try:
        manifest.write_bytes(good.replace(b'"encrypted": true', b'"encrypted": false'))
        outcome = made.run("verify")
    finally:
        manifest.write_bytes(good)
    assert outcome.rc != 0
    assert "tampered" in failure(outcome)
    assert outcome.custom["_run"]["odkops_central_verify"]["demo"]["diagnosis"] == "tampered"


def test_verify_finds_an_old_set_under_a_new_name(demo: Demo, made: Site, tmp_path: Path) -> None:
    site = Site(demo, tmp_path)
    (site.repository / "demo").mkdir(parents=True)
    subprocess.run(["cp", "-a", str(made.repository / "demo" / "sets"), str(site.repository / "demo")], check=True)
    (old,) = site.sets()
    old.rename(old.with_name("20991231T000000.000Z-00000000"))
    outcome = site.run("verify", "-e", f"central_passphrase_file={made.passphrase_file}")
    assert outcome.rc != 0
    assert "tampered" in failure(outcome)


# --- secrets ----------------------------------------------------------------------------------------------------


class Watch(threading.Thread):
    """Looks at what other users could see of this machine's processes: arguments of all, environments of our own."""

    def __init__(self, needles: list[bytes]) -> None:
        super().__init__(daemon=True)
        self.needles, self.found, self.samples, self.ended = needles, set[str](), 0, threading.Event()

    def run(self) -> None:
        ours = {os.getpid()}
        while not self.ended.is_set():
            self.samples += 1
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    if int((process / "stat").read_bytes().rpartition(b")")[2].split()[1]) in ours:
                        ours.add(int(process.name))
                    self.look(process / "cmdline")
                    if int(process.name) in ours:
                        self.look(process / "environ")
            time.sleep(0.002)

    def look(self, path: Path) -> None:
        content = path.read_bytes()
        if any(needle in content for needle in self.needles):
            self.found.add(f"{path}: {content[:200]!r}")


@pytest.mark.parametrize(("way", "succeeds"), [("variable", True), ("file", True), ("variable", False)])
def test_no_secret_is_left_anywhere(site: Site, way: str, succeeds: bool) -> None:
    """Neither in what -vvv prints, nor in results, arguments, environments, or any file but those that hold it."""
    # An argument that is wrong makes Ansible print what it knows of the others.
    variables = site.folder / "variables.json"
    given: dict[str, Any] = {} if succeeds else {"central_known_bad_blobs": "not a list of numbers"}
    if way == "variable":
        given.update(central_passphrase=site.passphrase, central_passphrase_file="")
    variables.write_text(json.dumps(given), "utf-8")
    state = site.folder / "state"
    state.mkdir()
    where = {
        "ANSIBLE_HOME": str(state / "home"),
        "ANSIBLE_LOCAL_TEMP": str(state / "local"),
        "ANSIBLE_REMOTE_TEMP": str(state / "remote"),
        "ANSIBLE_LOG_PATH": str(state / "log"),
        "TMPDIR": str(state),
    }
    watch = Watch([site.passphrase.encode(), str(host_variables(site.demo)["central_password"]).encode()])
    watch.start()
    try:
        made = site.run("backup", "-e", f"@{variables}", verbosity=3, env=where)
        verified = site.run("verify", "-e", f"@{variables}", verbosity=3, env=where)
    finally:
        watch.ended.set()
        watch.join()
    assert (made.rc == 0, verified.rc == 0) == (succeeds, succeeds), made.output + verified.output
    assert watch.samples > 20
    assert watch.found == set()
    results = json.dumps([made.results, made.custom, verified.results, verified.custom], ensure_ascii=False)
    # Printed text escapes some of its characters, so the random end of the passphrase is looked for as well.
    needles = [*watch.needles, site.passphrase[-12:].encode()]
    for name, text in {"made": made.output, "verified": verified.output, "results": results}.items():
        for needle in needles:
            assert needle not in text.encode(), name
    holders = {site.inventory, site.passphrase_file, variables}
    for path in site.folder.rglob("*"):
        if path.is_file() and path not in holders:
            content = path.read_bytes()
            assert not any(needle in content for needle in needles), path
