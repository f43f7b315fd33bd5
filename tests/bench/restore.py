# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``central_restore`` against what a person does by hand: openssl, pg_restore and psql into an empty database.

The module's time counts from the end of its verification: preflight, counts, statistics and swap are in it, of which nothing is
done by hand. What Central takes to start is printed apart: it is Central's own, and by hand it would come on top as well.
"""

from __future__ import annotations

import shlex
import statistics
import subprocess
import time
from argparse import Namespace
from pathlib import Path

from bench.subjects import goal

from support.demo import Demo
from support.modules import run_module

GOAL = 0.8  # of the time by hand
_BY_HAND = "odkbench_by_hand"

# Phases in which Central's services start, and are asked.
_STARTING = ("start", "health", "open")


def bench_restore(demo: Demo, work: Path, passphrase_file: Path, options: Namespace) -> None:
    """Measure in turn, and print."""
    project = {"project_directory": str(demo["compose_dir"]), "project": str(demo["compose_project"])}
    path = work / "to-restore.pgdump.enc.bin"
    path.unlink(missing_ok=True)
    made = run_module(
        "central_backup",
        {**project, "method": "pg_dump", "dest": str(path), "passphrase_file": str(passphrase_file)},
        timeout=1800,
    )
    if made.failed:
        raise RuntimeError(f"no backup could be made: {made.result.get('msg')}")
    size = int(demo.psql("select pg_database_size(current_database())"))
    print(f"\nrestore: a database of {size / 1e6:,.0f} MB, a file of {path.stat().st_size / 1e6:,.0f} MB")
    by_hand, ours, wholes, downtimes = [], [], [], []
    for number in range(1, options.rounds + 1):
        by_hand.append(_by_hand(demo, path, passphrase_file))
        print(f"  round {number}  openssl | pg_restore | psql, by hand   {by_hand[-1]:7.2f} s", flush=True)
        result = run_module(
            "central_restore",
            {
                **project,
                "path": str(path),
                "passphrase_file": str(passphrase_file),
                "confirm_domain": demo["domain"],
                "skip_safety_backup": True,
            },
            timeout=1800,
        )
        if result.failed:
            raise RuntimeError(f"central_restore failed: {result.result.get('msg')}")
        # By hand there is no old database that stays; it is removed, as the administrator will, when that is not measured.
        removed = run_module("central_restore", {**project, "action": "remove_previous"}, timeout=600)
        if removed.failed:
            raise RuntimeError(f"the old database could not be removed: {removed.result.get('msg')}")
        verified = result["phases"]["verify"]
        wholes.append(result["elapsed"] - verified)
        ours.append(wholes[-1] - sum(result["phases"].get(name, 0) for name in _STARTING))
        downtimes.append(result["downtime"])
        phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result["phases"].items())
        print(f"  round {number}  central_restore                        {ours[-1]:7.2f} s", flush=True)
        print(f"           {wholes[-1]:.2f} s until Central has started and answers;", end=" ")
        print(f"it did not answer for {downtimes[-1]:.2f} s; verification before it {verified:.2f} s")
        print(f"           {phases}")
    print(
        f"medians: by hand {statistics.median(by_hand):.2f} s, central_restore {statistics.median(ours):.2f} s, ",
        end="",
    )
    print(
        f"{statistics.median(wholes):.2f} s until Central answers, which was away for {statistics.median(downtimes):.2f} s"
    )
    ratio = statistics.median(a / b for a, b in zip(ours, by_hand))
    goal("central_restore / by hand, wall, without verification and Central's start", ratio, GOAL, "at most")


def _by_hand(demo: Demo, path: Path, passphrase_file: Path) -> float:
    """Seconds that it takes in the container that has the database."""
    demo.psql(f"drop database if exists {_BY_HAND}")
    demo.psql(f"create database {_BY_HAND} owner odk")
    decrypt = ["openssl", "enc", "-d", "-chacha20", "-pbkdf2", "-pass", f"file:{passphrase_file}", "-in", str(path)]
    load = "pg_restore --no-owner --file - | psql -U odk -q -v ON_ERROR_STOP=1 -d " + _BY_HAND + " >/dev/null"
    inside = ["docker", "exec", "-i", demo.container("postgres14"), "bash", "-o", "pipefail", "-c", load]
    begin = time.monotonic()
    try:
        command = f"{shlex.join(decrypt)} | {shlex.join(inside)}"
        subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True, timeout=1800)
        return time.monotonic() - begin
    finally:
        demo.psql(f"drop database if exists {_BY_HAND}")
