# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The whole of ``odkops.central.backup``: its fixed cost on a small Central, and ten hosts in one inventory.

The ten are all this Central. Each has a directory of its own, since the lease on a Central is for one directory.
"""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from bench.subjects import goal

from support.demo import Demo
from support.inventory import write_inventory
from support.playbooks import run_playbook

GOAL = 25  # seconds
HOSTS = 10


def bench_playbook(demo: Demo, work: Path, passphrase_file: Path, rounds: int) -> None:
    """Run the playbook for one host, then for ten that are all this Central; print the times."""
    variables: dict[str, Any] = {
        "central_passphrase_file": str(passphrase_file),
        "central_project": str(demo["compose_project"]),
    }
    times = {hosts: [_run(demo, work, hosts, variables) for _round in range(rounds)] for hosts in (1, HOSTS)}
    size = int(demo.psql("select pg_database_size(current_database())"))
    print(f"\nodkops.central.backup, database of {size / 1e6:,.0f} MB; database, Enketo and configuration")
    for hosts, seconds in times.items():
        print(
            f"{hosts:>4} host(s): {statistics.median(seconds):6.1f} s ({', '.join(f'{each:.1f}' for each in seconds)})"
        )
    goal("odkops.central.backup of a small Central, seconds", statistics.median(times[1]), GOAL, "below")


def _run(demo: Demo, work: Path, hosts: int, variables: dict[str, Any]) -> float:
    repository = work / "sets"
    shutil.rmtree(repository, ignore_errors=True)
    places = work / "places"
    shutil.rmtree(places, ignore_errors=True)
    names = {f"central{number}": demo for number in range(hosts)}
    for name in names:
        shutil.copytree(demo["compose_dir"], places / name, symlinks=True)
    inventory = write_inventory(
        work / "inventory.yml",
        names,
        central_repository=str(repository),
        central_project_directory={name: str(places / name) for name in names},
        **variables,
    )
    begin = time.monotonic()
    result = run_playbook("odkops.central.backup", inventory, timeout=1800)
    seconds = time.monotonic() - begin
    if result.rc != 0 or len(list(repository.glob("*/sets/*/manifest.json"))) != hosts:
        raise RuntimeError(f"the playbook ended with {result.rc}: {result.stdout[-2000:]}")
    for folder in (repository, places):
        shutil.rmtree(folder, ignore_errors=True)
    return seconds
