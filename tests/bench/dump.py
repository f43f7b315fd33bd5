# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``central_backup`` with ``method: pg_dump`` against curl of ``/v1/backup`` on the same database.

What it made is then restored by PostgreSQL's own pg_restore of the same major, and its rows are counted.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from argparse import Namespace
from pathlib import Path

from bench.subjects import curl_subject, emptied, goal, module_subject
from bench.timing import Subject, alternate, paired_ratio, table

from support.demo import Demo

GOAL = 0.25  # of curl's wall time
MEMORY_GOAL = 150  # MiB
_RESTORED = "odkbench_restored"


def bench_dump(demo: Demo, work: Path, passphrase_file: Path, options: Namespace) -> list[Subject]:
    """Measure, restore, print."""
    target = work / "download"
    sizes: dict[str, int] = {}
    args = {
        "method": "pg_dump",
        "project_directory": str(demo["compose_dir"]),
        "project": str(demo["compose_project"]),
        "dest": str(target),
        "passphrase_file": str(passphrase_file),
    }
    subjects = [
        curl_subject(demo, work, target, passphrase_file, sizes),
        module_subject("central_backup", args, emptied(target), sizes),
    ]
    print(
        f"\npg_dump: the same database, {int(demo.psql('select pg_database_size(current_database())')) / 1e6:,.0f} MB"
    )
    alternate(subjects, options.rounds, work)
    print(f"\n{table(subjects)}\nfile of curl: {sizes['curl'] / 1e6:,.0f} MB, of central_backup: ", end="")
    print(f"{sizes['central_backup'] / 1e6:,.0f} MB; the module's time includes compression and verification")
    goal("central_backup with pg_dump / curl, wall", paired_ratio(subjects[1], subjects[0]), GOAL, "at most")
    goal("their files", sizes["central_backup"] / sizes["curl"], 1.0, "at most")
    goal("central_backup with pg_dump, peak MiB", subjects[1].peak, MEMORY_GOAL, "below")
    (path,) = target.iterdir()
    restore(demo, path, passphrase_file)
    return subjects


def restore(demo: Demo, path: Path, passphrase_file: Path) -> None:
    """Restore a backup into a new database by the container's own pg_restore; fail where rows differ."""
    demo.psql(f"drop database if exists {_RESTORED}")
    demo.psql(f"create database {_RESTORED} owner odk")
    container = demo.container("postgres14")
    decrypt = ["openssl", "enc", "-d", "-chacha20", "-pbkdf2", "-pass", f"file:{passphrase_file}", "-in", str(path)]
    load = [
        "docker",
        "exec",
        "-i",
        container,
        "pg_restore",
        "-U",
        "odk",
        "--no-owner",
        "--exit-on-error",
        "-d",
        _RESTORED,
    ]
    try:
        subprocess.run(
            ["bash", "-o", "pipefail", "-c", f"{shlex.join(decrypt)} | {shlex.join(load)}"], check=True, timeout=1800
        )
        tables = ("blobs", "submissions", "submission_defs", "actors")
        pairs = ", ".join(f"'{table}', (select count(*) from {table})" for table in tables)
        counted = f"select json_build_object({pairs})"
        program = ["docker", "exec", container, "psql", "-U", "odk", "-d", _RESTORED, "-Atc", counted]
        found = json.loads(subprocess.run(program, check=True, capture_output=True, timeout=600).stdout)
        expected = json.loads(demo.psql(counted))
        if found != expected:
            raise RuntimeError(f"pg_restore made {found} of it, and the database has {expected}")
        print(f"restored by pg_restore into another database: {found}, as in the first")
    finally:
        demo.psql(f"drop database if exists {_RESTORED}")
