# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Enketo's part of the demo Central; openssl, tar, redis-check-rdb, redis-cli, SQL and HTTP check the results."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._enketo_links import check_links, check_once_ids
from ansible_collections.odkops.central.plugins.module_utils._enketo_part import read_part
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import LinkFact

from support import Demo, Result, run_module, run_playbook
from support.demo import wait_for
from support.modules import module_command, wire_arguments

REDIS = "enketo_redis_main"
SIZES = {"enketo-secret": 64, "enketo-less-secret": 32, "enketo-api-key": 128}
NAME = "enketo.tar.enc.bin"


class Site:
    """A Central, where its part goes, and the passphrase."""

    def __init__(self, demo: Demo, folder: Path, passphrase: str, passphrase_file: Path) -> None:
        self.demo, self.folder, self.passphrase = demo, folder, passphrase
        self.path = folder / "set" / NAME
        self.options: dict[str, Any] = {
            "project_directory": demo["compose_dir"],
            "project": demo["compose_project"],
            "passphrase_file": str(passphrase_file),
            "dest": str(self.path),
        }

    def run(self, check: bool = False, **options: Any) -> Result:
        return run_module("central_enketo_backup", {**self.options, **options}, check=check)

    def cli(self, *words: str) -> str:
        return self.demo.execute(REDIS, "redis-cli", "--raw", *words).removesuffix("\n")

    def unpacked(self) -> Path:
        """What is in the part, by openssl and tar, checked by sha256sum."""
        folder = self.folder / "by hand"
        folder.mkdir()
        script = (
            'openssl enc -d -chacha20 -pbkdf2 -pass env:P -in "$1" | tar -x && sha256sum --check --quiet SHA256SUMS'
        )
        subprocess.run(
            ["bash", "-o", "pipefail", "-c", script, "bash", str(self.path)],
            cwd=folder,
            env={**os.environ, "P": self.passphrase},
            check=True,
        )
        return folder

    def links(self) -> list[LinkFact]:
        """What the database says, by SQL."""
        forms = """SELECT json_agg(json_build_array("enketoId", "enketoOnceId", "projectId", "xmlFormId", NULL)) FROM forms
            WHERE "enketoId" IS NOT NULL"""
        drafts = """SELECT json_agg(json_build_array(d."enketoId", NULL, f."projectId", f."xmlFormId", d."draftToken"))
            FROM form_defs d JOIN forms f ON f.id = d."formId" WHERE d."enketoId" IS NOT NULL"""
        return [LinkFact(*row) for sql in (forms, drafts) for row in json.loads(self.demo.psql(sql) or "null") or []]

    def everything(self) -> dict[str, object]:
        """What Redis holds, by redis-cli."""
        held: dict[str, object] = {}
        for key in self.cli("KEYS", "*").split("\n"):
            kind = self.cli("TYPE", key)
            command = {
                "string": ("GET", key),
                "hash": ("HGETALL", key),
                "list": ("LRANGE", key, "0", "-1"),
                "set": ("SMEMBERS", key),
                "zset": ("ZRANGE", key, "0", "-1", "WITHSCORES"),
            }[kind]
            lines = self.cli(*command).split("\n")
            held[key] = dict(zip(lines[::2], lines[1::2])) if kind == "hash" else lines
        return held

    def secrets(self) -> dict[str, bytes]:
        """The secrets, read by docker."""
        command = ["docker", "exec", self.demo.container("enketo"), "cat"]
        return {
            name: subprocess.run([*command, f"/etc/secrets/{name}"], capture_output=True, check=True).stdout
            for name in SIZES
        }

    @contextmanager
    def stopped(self, service: str) -> Iterator[None]:
        self.demo.compose("stop", "--timeout", "5", service)
        try:
            yield
        finally:
            self.demo.start_again(service)

    def answers(self, link: str) -> int:
        """What Enketo itself says to a link."""
        command = [
            "curl",
            "-s",
            "-k",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            f"{self.demo.url}/enketo-passthrough/{link}",
        ]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.fixture
def site(demo: Demo, tmp_path: Path, passphrase: str, passphrase_file: Path) -> Site:
    return Site(demo, tmp_path, passphrase, passphrase_file)


def test_a_part_opens_by_hand_and_holds_everything(site: Site) -> None:
    result = site.run()
    assert not result.failed, result.result
    assert result["changed"]
    assert result["diagnosis"] == "ok"
    assert result["path"] == str(site.path)
    assert result["size"] == site.path.stat().st_size
    assert site.path.stat().st_mode & 0o777 == 0o600
    assert site.path.parent.stat().st_mode & 0o777 == 0o700
    folder = site.unpacked()
    for name, content in site.secrets().items():
        assert (folder / "secrets" / name).read_bytes() == content
        assert len(content) == SIZES[name]
    rdb = (folder / "enketo-main.rdb").read_bytes()
    checking = ["docker", "exec", "-i", site.demo.container(REDIS), "sh", "-c"]
    script = "cat >/tmp/checked.rdb && redis-check-rdb /tmp/checked.rdb; status=$?; rm /tmp/checked.rdb; exit $status"
    checked = subprocess.run([*checking, script], input=rdb, capture_output=True, check=False)
    assert checked.returncode == 0
    held = site.everything()
    assert f"[info] {len(held)} keys read".encode() in checked.stdout
    exported: dict[str, object] = {}
    for line in (folder / "redis.jsonl").read_text("utf-8").splitlines():
        key = json.loads(line)
        exported[key["key"]] = (
            dict(key["value"]) if key["type"] == "hash" else [key["value"]] if key["type"] == "string" else key["value"]
        )
    assert exported == held
    index = json.loads((folder / "index.json").read_text("utf-8"))
    assert index == result["enketo"]
    assert index["links"]["broken"] == 0
    assert index["links"]["hosts"] == {f"localhost:{site.demo['https_port']}": index["links"]["ids"]}
    for member in result["members"]:
        assert (folder / member["name"]).stat().st_size == member["size"]
    print(f"central_enketo_backup: {len(held)} keys, {result['size']} bytes, {result['elapsed']} s in the engine")


def test_the_part_and_the_database_agree(site: Site) -> None:
    assert not site.run().failed
    links = site.links()
    part = read_part(str(site.path), site.passphrase)
    assert sum(1 for link in links if link.enketo_id) >= 3
    assert check_links(links, part.links) == []
    once = check_once_ids(links, part.less_secret)
    assert once.total == once.opened >= 3
    with pytest.raises(CentralError):
        check_once_ids(links, part.less_secret[::-1])


def test_check_mode_changes_nothing_and_reads_no_secret(site: Site) -> None:
    saved, time_of_file = site.cli("LASTSAVE"), "stat -c %Y.%i /data/enketo-main.rdb 2>&1 || true"
    before = site.demo.execute(REDIS, "sh", "-c", time_of_file)
    time.sleep(1.1)
    result = site.run(check=True)
    assert not result.failed, result.result
    assert result["changed"]
    assert result["keys"] == len(site.everything())
    assert result["redis_version"] == site.cli("INFO", "server").split("redis_version:")[1].split()[0]
    assert site.cli("LASTSAVE") == saved
    assert site.demo.execute(REDIS, "sh", "-c", time_of_file) == before
    assert not site.path.parent.exists()


def test_what_was_written_a_moment_ago_is_in_both(site: Site) -> None:
    """Redis by itself would save it in five minutes."""
    site.cli("SET", "in:just-now", "x\ny", "PX", "600000")
    try:
        assert not site.run().failed
    finally:
        site.cli("DEL", "in:just-now")
    folder = site.unpacked()
    assert b"in:just-now" in (folder / "enketo-main.rdb").read_bytes()
    line = next(line for line in (folder / "redis.jsonl").read_text().splitlines() if "in:just-now" in line)
    assert json.loads(line)["value"] == "x\ny"
    assert abs(json.loads(line)["expires_at"] / 1000 - time.time() - 600) < 60


@contextmanager
def lost(site: Site, key: str) -> Iterator[None]:
    """A key that is away for a while."""
    site.cli("RENAME", key, "kept:" + key)
    try:
        yield
    finally:
        site.cli("RENAME", "kept:" + key, key)


def test_an_or_without_its_id_is_named(site: Site) -> None:
    link = site.links()[0]
    assert link.enketo_id is not None
    with lost(site, f"id:{link.enketo_id}"):
        result = site.run()
    assert not result.failed
    assert result["enketo"]["links"]["broken"] == 1
    warning = json.dumps(result["warnings"])
    assert f"form '{link.xml_form_id}' of project {link.project_id}: its id: is missing" in warning
    assert link.enketo_id not in json.dumps(result.result)
    part = read_part(str(site.path), site.passphrase)
    assert [each.problem for each in check_links(site.links(), part.links)] == ["no_id"]


def test_an_id_without_its_or_is_named(site: Site) -> None:
    link = site.links()[0]
    server = f"localhost:{site.demo['https_port']}/v1/projects/{link.project_id}"
    with lost(site, f"or:{server},{link.xml_form_id}"):
        assert not site.run().failed
    part = read_part(str(site.path), site.passphrase)
    assert [each.problem for each in check_links(site.links(), part.links)] == ["no_or"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ('printf x >>"$1"', "has 33 bytes"),
        ('head -c 31 "$1" >"$1.x" && echo >>"$1.x" && cat "$1.x" >"$1" && rm "$1.x"', "ends with a line break"),
        ('rm "$1"', "is not there"),
    ],
)
def test_a_secret_of_the_wrong_size_is_named(site: Site, script: str, said: str) -> None:
    file = "/etc/secrets/enketo-less-secret"
    site.demo.execute("enketo", "cp", file, "/tmp/kept")
    try:
        site.demo.execute("enketo", "sh", "-c", script, "sh", file)
        for check in (False, True):
            result = site.run(check=check)
            if said == "ends with a line break" and check:
                continue  # sizes only
            assert result.failed
            assert result.diagnosis == "bad_secret"
            assert said in result["msg"]
    finally:
        site.demo.execute("enketo", "sh", "-c", f"cat /tmp/kept >{file}; rm /tmp/kept")
    assert not site.path.parent.exists()


def test_secrets_are_read_where_enketo_does_not_run(site: Site) -> None:
    expected = site.secrets()
    with site.stopped("enketo"):
        result = site.run()
    assert not result.failed, result.result
    folder = site.unpacked()
    assert {name: (folder / "secrets" / name).read_bytes() for name in SIZES} == expected


def test_a_redis_that_does_not_run_is_named(site: Site) -> None:
    with site.stopped(REDIS):
        for check in (False, True):
            result = site.run(check=check)
            assert result.failed
            assert result.diagnosis == "service_not_running"
    assert not site.path.parent.exists()


@contextmanager
def small_central(site: Site) -> Iterator[Path]:
    """A project of its own with as much of a Central as is asked: a Redis with 2 MB of disk, and secrets."""
    folder = site.folder / "small"
    folder.mkdir()
    image = f"{site.demo['compose_project']}-{REDIS}"
    secrets = "; ".join(f"head -c {size} /dev/zero | tr '\\0' x >/etc/secrets/{name}" for name, size in SIZES.items())
    command = ["redis-server", "--dir", "/data", "--dbfilename", "enketo-main.rdb", "--save", ""]
    services = {
        REDIS: {"image": image, "tmpfs": ["/data:size=2m"], "command": command},
        "enketo": {"image": image, "entrypoint": ["sh", "-c", f"mkdir -p /etc/secrets; {secrets}; exec sleep 600"]},
    }
    (folder / "docker-compose.yml").write_text(json.dumps({"services": services}), "utf-8")
    compose = ["docker", "compose", "-p", "odkops-small", "--project-directory", str(folder)]
    try:
        subprocess.run([*compose, "up", "-d", "--no-build"], check=True, capture_output=True)
        wait_for(lambda: subprocess.run([*compose, "exec", "-T", REDIS, "redis-cli", "PING"], check=True))
        yield folder
    finally:
        subprocess.run([*compose, "down", "--volumes", "--timeout", "1"], check=True, capture_output=True)


def test_a_full_disk_in_the_container_is_named(site: Site) -> None:
    with small_central(site) as folder:
        options = {"project_directory": str(folder), "project": "odkops-small"}
        assert not site.run(**options, dest=str(site.folder / "first.bin")).failed
        noise = "head -c 2000000 /dev/urandom | od -An -tx1 | tr -d ' \\n' | redis-cli -x SET noise"
        container = f"odkops-small-{REDIS}-1"
        subprocess.run(["docker", "exec", container, "sh", "-c", noise], check=True, capture_output=True)
        result = site.run(**options)
        assert result.diagnosis == "central_disk_full", result.result
        assert result["free"] <= 2 * 1024 * 1024 < result["needed"]
        listed = subprocess.run(
            ["docker", "exec", container, "ls", "/data"], check=True, capture_output=True, text=True
        )
        assert listed.stdout.split() == ["enketo-main.rdb"]
    assert not site.path.parent.exists()


def test_a_killed_run_leaves_nothing(site: Site) -> None:
    """Neither a file, nor a process in the container."""
    processes = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c '[r]edis-cli' || true"
    site.cli("CONFIG", "SET", "rdb-key-save-delay", "500000")  # half a second for each key
    try:
        module = subprocess.Popen(
            module_command("central_enketo_backup"), stdin=subprocess.PIPE, start_new_session=True
        )
        assert module.stdin is not None
        module.stdin.write(wire_arguments(site.options))
        module.stdin.close()
        wait_for(lambda: site.demo.execute(REDIS, "sh", "-c", processes).strip() != "0")
        module.kill()
        module.wait()
        wait_for(lambda: site.demo.execute(REDIS, "sh", "-c", processes).strip() == "0", 30)
    finally:
        wait_for(lambda: site.cli("CONFIG", "SET", "rdb-key-save-delay", "0") == "OK")
    assert not site.path.exists()
    assert not site.run().failed


def test_a_stream_in_redis_is_named(site: Site) -> None:
    site.cli("XADD", "strange:secret-token", "*", "f", "v")
    try:
        result = site.run()
    finally:
        site.cli("DEL", "strange:secret-token")
    assert result.diagnosis == "unsupported_key"
    assert "(strange:...)" in result["msg"]
    assert "secret-token" not in json.dumps(result.result)
    assert not site.path.parent.exists()


def test_no_secret_is_shown(site: Site) -> None:
    result = site.run()
    shown = result.stdout + result.stderr
    secrets = [site.passphrase, *(content.decode() for content in site.secrets().values())]
    secrets += [link.enketo_id or "" for link in site.links()]
    assert [secret for secret in secrets if secret in shown] == []


def test_a_restore_by_hand_as_documented(site: Site) -> None:
    """docs/enketo.md, after everything was lost."""
    assert not site.run().failed
    folder = site.unpacked()
    before, secrets = site.everything(), site.secrets()
    link = next(link for link in site.links() if link.once_id)
    addresses = (f"xform/{link.enketo_id}", f"single/{link.once_id}")
    assert [site.answers(address) for address in addresses] == [200, 200]
    site.cli("FLUSHALL")
    site.demo.execute("enketo", "sh", "-c", "rm /etc/secrets/*")
    site.demo.compose("run", "--rm", "-T", "--no-deps", "secrets")
    assert site.secrets() != secrets
    # Enketo reads its secrets when it starts. With the new ones it opens no single submission of before.
    site.demo.start_again("enketo")
    wait_for(lambda: [site.answers(address) for address in addresses] == [404, 404])
    page = (Path(__file__).parents[2] / "docs" / "enketo.md").read_text("utf-8")
    script = page.split("## Restoring by hand", 1)[1].split("sha256sum --check SHA256SUMS\n", 1)[1].split("\n\n", 1)[0]
    compose = f"docker compose -p {site.demo['compose_project']} --project-directory '{site.demo['compose_dir']}'"
    subprocess.run(
        ["bash", "-e", "-c", script.replace("docker compose", compose)], cwd=folder, check=True, capture_output=True
    )
    wait_for(lambda: site.cli("PING") == "PONG")
    assert site.everything() == before
    assert site.secrets() == secrets
    wait_for(lambda: [site.answers(address) for address in addresses] == [200, 200])


def test_the_role_leaves_what_a_manifest_needs(site: Site) -> None:
    site.path.parent.mkdir(mode=0o700)
    playbook = site.folder / "play.json"
    task = {
        "ansible.builtin.include_role": {"name": "odkops.central.enketo", "tasks_from": "backup"},
        "vars": {"enketo_directory": str(site.path.parent)},
    }
    show = {"ansible.builtin.debug": {"var": "enketo_part"}}
    play = {"hosts": "all", "gather_facts": False, "tasks": [task, show]}
    playbook.write_text(json.dumps([play]), "utf-8")
    inventory = site.folder / "inventory.json"
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "central_project_directory": site.demo["compose_dir"],
        "central_project": site.demo["compose_project"],
        "central_passphrase_file": site.options["passphrase_file"],
    }
    inventory.write_text(json.dumps({"all": {"hosts": {"demo": variables}}}), "utf-8")
    rehearsed = run_playbook(playbook, inventory, None, "--check")
    assert rehearsed.rc == 0, rehearsed.output
    assert not site.path.exists()
    done = run_playbook(playbook, inventory)
    assert done.rc == 0, done.output
    part = done.of("debug")[-1]["enketo_part"]
    assert (part["format"], part["size"]) == ("tar.enc", site.path.stat().st_size)
    assert part["secrets"] == SIZES
    assert part["links"]["ids"] == len([link for link in site.links() if link.enketo_id])
    again = run_playbook(playbook, inventory)
    assert again.rc != 0
    assert "destination_exists" in json.dumps(again.of("central_enketo_backup"))
