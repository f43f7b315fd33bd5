# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table "what is in a set" of the README, row by row and phrase by phrase, looked up in a set with other people's tools."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support import by_hand
from support.full_set import EDITED, KEPT, PARTS, Made, enketo_secrets
from support.paths import ROOT

pytest_plugins = ["support.full_set_fixtures"]

#: what joins phrases that are proven
_JOINTS = re.compile(r"(?:\band\b|[\s,;.])*")


def rows() -> dict[str, str]:
    """The table: by part, what it says is in it."""
    text = (ROOT / "README.md").read_text("utf-8")
    section = text[text.index("## What is in a set") :].split("\n## ")[0]
    found = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")
    ]
    assert found[0] == ["part", "what", "without it"]
    assert set("".join(found[1])) == {"-"}
    return {name.strip("`"): what for name, what, _without in found[2:]}


# --- a check for each row: what it has proven, in the words of the README -----------------------------------------


def database(made: Made, _folder: Path) -> set[str]:
    """openssl decrypts it, PostgreSQL's own pg_restore loads it, SQL finds in it what the live database had."""
    demo, copy = made.site.demo, "by_readme"
    by_hand.load(demo, by_hand.decrypted(made.part("database"), made.site.passphrase_file), copy)
    try:
        there = by_hand.counts(demo, copy)
        assert there == made.counts
        for table in ("projects", "forms", "submissions", "users", "config"):
            assert f"public.{table}" in there
        assert min(there[f"public.{table}"] for table in ("projects", "forms", "submissions", "users")) > 0
        assert by_hand.digest_of_submissions(demo, copy) == made.submissions
        settings = b"SELECT key FROM config ORDER BY key"
        ask = "psql -XqAt -v ON_ERROR_STOP=1 -U odk -d "
        assert by_hand.in_container(demo, "postgres14", ask + copy, settings) == (
            by_hand.in_container(demo, "postgres14", ask + "odk", settings)
        )
        kept = b"SELECT count(*) FROM blobs WHERE encode(digest(content, 'sha1'), 'hex') = sha"
        by_hand.in_container(demo, "postgres14", ask + copy, b"CREATE EXTENSION IF NOT EXISTS pgcrypto")
        assert int(by_hand.in_container(demo, "postgres14", ask + copy, kept)) >= KEPT
    finally:
        by_hand.in_container(demo, "postgres14", f"dropdb -U odk --if-exists {copy}")
    methods = {}
    for host in ("full", "plain"):
        (path,) = [one for one in made.site.sets(host) if host == "plain" or one == made.path]
        part = json.loads((path / "manifest.json").read_text("utf-8"))["parts"]["database"]
        methods[part["method"]] = by_hand.decrypted(path / part["file"], made.site.passphrase_file)[:5]
    assert methods == {"api": b"PGDMP", "pg_dump": b"PGDMP"}
    return {
        "all projects",
        "forms",
        "submissions",
        "users",
        "settings",
        "the attachments that are kept in the database",
        "dumped by Central's API or, without an account and faster, by `pg_dump`",
    }


def enketo(made: Made, folder: Path) -> set[str]:
    """openssl and tar open it, Redis loads it and finds it good, and the secrets are those of the volume."""
    members = by_hand.unpacked(made.part("enketo"), made.site.passphrase_file, folder / "enketo")
    for kind in ("id:", "or:"):
        assert any(key.startswith(kind) for key in made.redis)
    assert by_hand.everything_in_rdb(made.site.demo, members["enketo-main.rdb"]) == made.redis
    saved = {name.rpartition("/")[2]: content for name, content in members.items() if name.startswith("secrets/")}
    assert saved == enketo_secrets(made.site.demo)
    assert len(saved) == 3
    return {"the links of Web Forms (Redis)", "Enketo's three secrets"}


def config(made: Made, folder: Path) -> set[str]:
    """openssl and tar open it; its files are those of the checkout, and git applies its patch to the commit it names."""
    place = folder / "config"
    members = by_hand.unpacked(made.part("config"), made.site.passphrase_file, place)
    for name, content in made.checkout.items():
        assert members[f"checkout/{name}"] == content, name
    keys = [name for name in made.checkout if name.endswith(".pem")]
    assert any(b"PRIVATE KEY" in made.checkout[name] for name in keys)
    assert any(b"BEGIN CERTIFICATE" in made.checkout[name] for name in keys)
    assert EDITED[:2] == ("docker-compose.override.yml", "files/mail/rsa.private")
    clone = folder / "clone"
    git = ["git", "-c", "advice.detachedHead=false", "-c", "safe.directory=*"]
    subprocess.run([*git, "clone", "--quiet", made.site.demo["compose_dir"], str(clone)], check=True)
    commit = members["git/commit"].decode().strip()
    subprocess.run([*git, "-C", str(clone), "checkout", "--quiet", commit], check=True)
    subprocess.run([*git, "-C", str(clone), "apply", str(place / "git/changes.diff")], check=True)
    for name in EDITED[2:4]:
        assert (clone / name).read_bytes() == made.checkout[name], name
    assert EDITED[4] in members["git/status"].decode()
    return {"`.env`", "overrides", "TLS and DKIM keys", "edited templates", "what differs from the checkout's commit"}


def blobs(made: Made, folder: Path) -> set[str]:
    """What the dump names is in the list, and rclone and the passphrase open each of them in the pool."""
    listed = [json.loads(line) for line in made.part("blobs").read_text("utf-8").splitlines()]
    named = made.manifest["database"]["central"]["blobs"]["uploaded"]
    plain = by_hand.decrypted(made.part("database"), made.site.passphrase_file)
    sql = by_hand.in_container(made.site.demo, "service", "pg_restore --data-only --table=blobs --file=-", plain)
    (header,) = re.findall(r"^COPY public\.blobs \((.*)\) FROM stdin;$", sql.decode(), re.MULTILINE)
    columns = header.replace('"', "").split(", ")
    table = sql.decode().split("FROM stdin;\n", 1)[1].split("\n\\.\n", 1)[0]
    dumped = [dict(zip(columns, line.split("\t"))) for line in table.splitlines()]
    wanted = {f"blob-{row['id']}-{row['sha']}": row for row in dumped if row["s3_status"] == "uploaded"}
    assert {entry["key"] for entry in listed} == set(wanted)
    assert len(listed) == named > 0
    opened = by_hand.open_pool(made.pool, made.site.passphrase_file, folder / "pool")
    for entry in listed:
        content = opened[entry["key"]]
        assert entry["sha1"] == wanted[entry["key"]]["sha"] == by_hand.sha1(content)
        assert entry["md5"] == wanted[entry["key"]]["md5"] == hashlib.md5(content).hexdigest()
    # The pool lies beside the sets, and belongs to none of them.
    assert made.pool.parent.parent == made.path.parent.parent
    assert made.pool.name == made.manifest["parts"]["blobs"]["pool"]
    return {"each object in S3 that the database names, by name, SHA-1 and MD5", "in a pool that all sets share"}


def manifest(made: Made, _folder: Path) -> set[str]:
    """It is JSON; sha256sum agrees with its digests, openssl with its HMAC."""
    assert set(made.manifest["parts"]) == set(PARTS)
    (other,) = made.site.sets("plain")
    alone = json.loads((other / "manifest.json").read_text("utf-8"))
    assert set(alone["parts"]) | set(alone["absent"]) == set(PARTS)
    assert all(len(reason) > 20 for reason in alone["absent"].values())
    sums = "".join(f"{part['sha256']}  {part['file']}\n" for part in made.manifest["parts"].values())
    command = ["sha256sum", "--check", "--strict", "--quiet"]
    summed = subprocess.run(command, input=sums, cwd=made.path, capture_output=True, text=True, check=False)
    assert (summed.returncode, summed.stdout) == (0, ""), summed.stderr
    script = [str(ROOT / "docs" / "check-manifest.sh"), str(made.path / "manifest.json")]
    for passphrase, good in ((made.site.passphrase_file, True), (ROOT / "LICENSE", False)):
        done = subprocess.run(["bash", *script, str(passphrase)], capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is good, done.stdout + done.stderr
    return {"what is in the set and what is not, and why", "digests", "an HMAC from your passphrase"}


CHECKS: dict[str, Callable[[Made, Path], set[str]]] = {
    "database": database,
    "enketo": enketo,
    "config": config,
    "blobs": blobs,
    "manifest.json": manifest,
}


def test_each_row_has_a_check_and_each_check_a_row() -> None:
    assert list(rows()) == list(CHECKS)


@pytest.mark.parametrize("name", list(CHECKS))
def test_what_a_row_says_is_so(made: Made, tmp_path: Path, name: str) -> None:
    """Each phrase of it: what nobody has proven must not stand there."""
    left = rows()[name]
    for phrase in sorted(CHECKS[name](made, tmp_path), key=len, reverse=True):
        assert phrase in left, f"the README no longer says {phrase!r} of {name}"
        left = left.replace(phrase, "", 1)
    assert _JOINTS.fullmatch(left), f"nothing proves this of {name}: {left!r}"
