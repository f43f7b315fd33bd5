# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""drill.yml on a Central that goes on serving. What a drill could do to it is looked at from the Central's side, by others."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import PlaybookResult
from support.by_hand import everything, in_container
from support.demo import Demo, central, sole_user, wait_for
from support.drilling import PASSPHRASE, DrillSite, interrupt
from support.drills import make_record
from support.full_set import enketo_secrets
from support.restoring import get

NAME = os.environ.get("CENTRAL_DRILL_DEMO", "odkdrillp")
SEED = ("--projects", "1", "--forms", "2", "--submissions", "40", "--attachments", "12", "--attachment-size", "3000")

TABLES = """
SELECT json_object_agg(relname, (xpath('/row/d/text()', query_to_xml(format(
    'SELECT count(*) || '' '' || coalesce(md5(string_agg(t::text, chr(10) ORDER BY t::text)), ''-'') AS d FROM public.%I t',
    relname), false, true, '')))[1]::text)
FROM pg_stat_user_tables WHERE schemaname = 'public'
"""

CHECKS = {
    *("set", "isolation", "rows", "migrations", "secrets", "login", "projects", "forms", "submissions"),
    *("objects", "attachments", "links", "web_forms"),
}

pytestmark = [pytest.mark.timeout(3600), pytest.mark.demo]


def state(demo: Demo) -> dict[str, Any]:
    """All that a drill must leave alone: each row, Redis, secrets, objects in S3, containers and when they were started."""
    tables = in_container(demo, "postgres14", "psql -XqAt -v ON_ERROR_STOP=1 -U odk -d odk", TABLES.encode())
    redis = everything(demo)
    for _kind, value, _expiry in redis.values():
        if isinstance(value, dict):
            value.pop("lastAccessed", None)
    ids = demo.compose("ps", "--all", "--quiet").split()
    started = {each["Name"]: each["State"]["StartedAt"] for each in json.loads(demo.docker("inspect", *ids))}
    return {
        "tables": json.loads(tables),
        "redis": redis,
        "secrets": enketo_secrets(demo),
        "objects": demo.execute("s3", "sh", "-c", "cd /objects && find . -type f -exec sha1sum {} + | sort"),
        "started": started,
        "volumes": demo.docker(
            "volume", "ls", "-q", "--filter", f"label=com.docker.compose.project={demo['compose_project']}"
        ),
        "checkout": sorted(os.listdir(demo["compose_dir"])),
    }


def addresses(demo: Demo) -> dict[str, str]:
    """Of the Central's containers, by service."""
    ids = demo.compose("ps", "--quiet").split()
    return {
        each["Config"]["Labels"]["com.docker.compose.service"]: next(
            iter(each["NetworkSettings"]["Networks"].values())
        )["IPAddress"]
        for each in json.loads(demo.docker("inspect", *ids))
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrillSite]:
    keep = bool(os.environ.get("CENTRAL_KEEP"))
    with sole_user(NAME):
        try:
            if not keep:
                central("clean", "--name", NAME)
            for command in ("engine", "images"):
                central(command)
            central("up", "--name", NAME)
            demo = Demo.load(NAME)
            if demo.psql("SELECT count(*) FROM submissions") == "0":
                central("seed", "--name", NAME, *SEED, "--drafts", "1")
                central("s3", "--name", NAME)
            found = DrillSite(Demo.load(NAME), tmp_path_factory.mktemp("drill"))
            backup = found.run("backup", "good")
            assert backup.rc == 0, backup.output
            yield found
            found.run("drill", "good", central_drill_action="clean")
        finally:
            if not keep:
                central("clean", "--name", NAME)


def failed(record: dict[str, Any]) -> list[str]:
    return [check["name"] for check in record["checks"] if check["result"] == "failed"]


def stats(outcome: PlaybookResult) -> dict[str, Any]:
    return dict(outcome.custom["_run"]["odkops_central_drill"])


def test_check_mode_makes_nothing_and_says_what_would_be(site: DrillSite) -> None:
    outcome = site.run("drill", "good", check=True)
    assert outcome.rc == 0, outcome.output
    (said,) = [result["msg"] for result in outcome.of("debug") if "msg" in result]
    assert str(site.set_of("good")) in said
    assert site.left() == []
    assert site.records("good") == []
    refused = site.run("drill", "good", check=True, central_project_directory=str(site.folder))
    assert refused.rc != 0


def test_a_sound_set_passes_while_the_central_serves_untouched(site: DrillSite) -> None:
    demo = site.demo
    demo.psql("ALTER SYSTEM SET log_connections = on")
    demo.psql("SELECT pg_reload_conf()")
    before, since = state(demo), len(demo.docker("logs", demo.container("postgres14")))
    answers: list[int] = []
    done = threading.Event()

    def ask() -> None:
        while not done.wait(0.5):
            try:
                answers.append(get(demo, "/v1/config/public"))
            except urllib.error.URLError:
                answers.append(0)

    client = threading.Thread(target=ask)
    client.start()
    try:
        outcome = site.run("drill", "good", central_drill_depth="full")
    finally:
        done.set()
        client.join()
    assert outcome.rc == 0, outcome.output
    assert set(answers) == {200}

    (record,) = site.records("good")
    assert (record["result"], record["depth"], record["kept"], record["error"]) == ("passed", "full", None, None)
    assert {check["name"] for check in record["checks"]} == CHECKS
    assert {check["result"] for check in record["checks"]} == {"passed"}
    figures = record["figures"]
    assert (figures["submissions"], figures["forms"], figures["attachments"]) == (40, 2, 12)
    assert figures["rows"] == sum(
        json.loads((site.set_of("good") / "manifest.json").read_text())["database"]["tables"].values()
    )
    assert 0 < record["rto"] < record["elapsed"]
    assert stats(outcome)["good"]["ok"] is True

    # The Central's side: nothing has changed, and nobody has come who had never come before.
    assert state(demo) == before
    log = demo.docker("logs", demo.container("postgres14"))[since:]
    came = set(re.findall(r"connection received: host=(\S+)", log))
    assert came <= {"[local]", *addresses(demo).values()}
    assert site.left() == []

    secret = [PASSPHRASE, demo["s3"]["secret_key"], *(value.decode() for value in enketo_secrets(demo).values())]
    for path in (site.repository / "good" / "drills").iterdir():
        assert not [word for word in secret if word in path.read_text("utf-8")]
    assert not [word for word in secret if word in outcome.output]


def test_each_spoilt_set_fails_at_exactly_what_is_wrong_with_it(site: DrillSite) -> None:
    names = {
        "one-row": "rows",
        "one-blob": "objects",
        "one-link": "links",
        "one-secret": "secrets",
        "one-byte": "set",
        "one-word": "set",
    }
    for name in names:
        site.copy("good", name)
    with (site.set_of("one-byte") / "config.tar.enc.bin").open("r+b") as part:
        part.seek(1000)
        byte = part.read(1)
        part.seek(1000)
        part.write(bytes([byte[0] ^ 1]))
    manifest_path = site.set_of("one-word") / "manifest.json"
    manifest_path.write_text(manifest_path.read_text("utf-8").replace('"public.forms":', '"public.norms":'), "utf-8")
    site.reseal("one-row", lambda manifest: manifest["database"]["tables"].update({"public.submissions": 41}))
    pool = sorted((site.repository / "one-blob" / "pool").rglob("blob-*.bin"))
    pool[0].unlink()

    def another_id(member: str, content: bytes) -> bytes:
        """The id of a form is another one, so that the link with the old one leads nowhere."""
        if member != "redis.jsonl":
            return content
        gone = re.search(rb'"id:(\w+)"(?!.*/draft)', content)
        assert gone
        return content.replace(gone[0], b'"id:' + gone[1][::-1] + b'"')

    site.rewrite_enketo("one-link", another_id)
    site.rewrite_enketo(
        "one-secret", lambda member, content: b"x" * len(content) if member.endswith("less-secret") else content
    )
    hosts = {name: site.host(central_name=name) for name in names}
    hosts["one-row"]["central_drill_keep"] = "on_failure"
    # This one is sound, and its host is lost once it was checked.
    site.copy("good", "lost")
    hosts["lost"] = site.host(
        central_name="lost",
        central_drill_lifetime=60,
        ansible_connection="{{ 'ssh' if drill_checked.record is defined else 'local' }}",
        ansible_host="127.0.0.1",
        ansible_port=1,
    )
    before = state(site.demo)
    outcome = site.run("drill", hosts=hosts)
    assert outcome.rc != 0
    for name, check in names.items():
        (record,) = site.records(name)
        assert (record["result"], failed(record)) == ("failed", [check]), record
        assert record["set"]["set_id"] == site.set_of(name).name
        assert stats(outcome)[name]["failed_checks"] == [check]
    assert state(site.demo) == before
    lost = stats(outcome)["lost"]
    assert (lost["ok"], lost["diagnosis"], site.records("lost")) == (False, "host_unreachable", [])
    wait_for(lambda: not [name for name in site.left() if "lost" in name], 120)
    # One of them was to stay.
    (record,) = site.records("one-row")
    assert record["kept"].startswith("odkops-drill-one-row-")
    assert {Path(path).name for path in site.left() if path.startswith("/")} == {record["kept"].split("drill-", 1)[1]}


def reached(site: DrillSite, container: str, *targets: tuple[str, int]) -> list[tuple[str, int]]:
    """To which of these somebody in the network of a container gets through, by bash's own means."""
    script = "\n".join(
        f"(timeout 3 bash -c 'exec 3<>/dev/tcp/{host}/{port}' 2>/dev/null && echo {host} {port}) &"
        for host, port in targets
    )
    image = json.loads(site.demo.docker("inspect", site.demo.container("service")))[0]["Image"]
    command = (
        "run",
        "--rm",
        "--network",
        f"container:{container}",
        "--entrypoint",
        "bash",
        image,
        "-c",
        f"{script}\nwait",
    )
    lines = (line.split() for line in site.demo.docker(*command).splitlines())
    return sorted((host, int(port)) for host, port in lines)


def test_no_container_of_a_drill_reaches_the_central_or_anything_outside(site: DrillSite) -> None:
    (record,) = site.records("one-row")
    demo, there = site.demo, addresses(site.demo)
    running = demo.docker(
        "ps", "--format", "{{.Names}}", "--filter", f"label=org.odkops.drill={record['drill_id']}"
    ).split()
    assert len(running) >= 6
    (network,) = json.loads(demo.docker("network", "inspect", f"{record['kept']}_default"))
    host = (
        network["IPAM"]["Config"][0].get("Gateway") or network["IPAM"]["Config"][0]["Subnet"].rsplit(".", 1)[0] + ".1"
    )
    (bridge,) = json.loads(demo.docker("network", "inspect", "bridge"))
    outside = [
        (there["postgres14"], 5432),
        (there["s3"], 9000),
        (there["nginx"], 443),
        (host, 22),
        (bridge["IPAM"]["Config"][0]["Gateway"], int(demo["ports"]["S3_PORT"])),
        ("1.1.1.1", 443),
    ]
    # The means are good: from the Central itself they get through, and in the drill to its own database.
    assert reached(site, demo.container("service"), *outside[:2]) == sorted(outside[:2])
    service = next(name for name in running if "-service-" in name)
    assert reached(site, service, ("postgres14", 5432)) == [("postgres14", 5432)]
    for container in running:
        assert reached(site, container, *outside) == [], container
    # Its nginx is what the DOMAIN leads to.
    inspected = json.loads(demo.docker("inspect", *running))
    aliases = {
        alias
        for each in inspected
        if "-nginx-" in each["Name"]
        for alias in each["NetworkSettings"]["Networks"][f"{record['kept']}_default"]["Aliases"]
    }
    assert demo["domain"] in aliases
    cleaned = site.run("drill", "good", central_drill_action="clean")
    assert cleaned.rc == 0, cleaned.output
    assert site.left() == []


# Ctrl-C ends what is at work on this machine, too, which removes what it has made. After SIGKILL there is the warden only.
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_drill_cut_off_is_removed_and_the_longest_undrilled_came_first(
    site: DrillSite, number: signal.Signals
) -> None:
    for name in ("drilled", "never"):
        if not (site.repository / name).exists():
            site.copy("good", name)
    record = make_record(central="drilled")
    folder = site.repository / "drilled" / "drills"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / f"{record['drill_id']}.json").write_text(json.dumps(record), "utf-8")
    process = site.start("drilled", "never", central_drill_lifetime=60)
    try:
        wait_for(lambda: any("-enketo_redis_main-" in entry for entry in site.left()), 90)
        assert all("never" in entry for entry in site.left())
        interrupt(process, number)
        assert process.returncode != 0
        wait_for(lambda: not site.left(), 180)
        assert site.records("never") == []
    finally:
        if process.poll() is None:
            interrupt(process, signal.SIGKILL)
