# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``make bench``: the modules against curl, and against openssl and pg_restore, side by side in one run.

Prints a table and the goals; judges nothing by its exit code, but fails when a command does.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import secrets
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.dump import bench_dump
from bench.playbook import bench_playbook
from bench.restore import bench_restore
from bench.subjects import ansible_subject, curl_subject, emptied, goal, module_subject
from bench.timing import Subject, alternate, paired_ratio, table

from support.demo import Demo, DemoError, central, ensure_demo
from support.paths import BIN, ROOT

DEMO = "odkbench"
BENCHES = ("backup", "dump", "verify", "restore", "blobs", "playbook")
MEMORY_GOAL = 150  # MiB, of either module, whatever the size
RELEASES = ("bookworm", "trixie")  # whose pg_dump compresses by gzip, and by zstd
BLOB_SIZE = 1_000_000
ROW_SIZE = 16_666


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument(
        "--release",
        help="of the demo Central: bookworm (gzip) or trixie (zstd). Without it bookworm, but both for the bench of verify",
    )
    parser.add_argument("--megabytes", type=int, default=1000, help="of the demo's database")
    parser.add_argument("--rounds", type=int, default=2, help="how often each command runs (default 2: A B A B)")
    parser.add_argument("--only", choices=BENCHES, help="one of the benches")
    parser.add_argument("--without-ansible", action="store_true", help="leave out the runs through `ansible`")
    return parser.parse_args()


@dataclass(frozen=True)
class Mix:
    """What a demo's database holds.

    :param name: at the end of the demo's name
    :param words: for the table
    :param blobs: bytes of blobs, and
    :param rows: bytes of rows, for each byte that the command line asks for
    """

    name: str
    words: str
    blobs: float
    rows: float


#: Central's dump shrinks rows to a fifth, and makes blobs that do not compress a seventh larger.
MIXES = (
    Mix("", "a database of two thirds blobs, one third rows", 2 / 3, 1 / 3),
    Mix("-rows", "a file of half blobs, half rows", 0.36, 2.2),
)


def bench_demo(release: str, megabytes: int, mix: Mix) -> Demo:
    """A demo Central of our own, seeded with so many megabytes (10^6)."""
    name = (DEMO if release == "bookworm" else f"{DEMO}-{release}") + mix.name
    central("engine")
    central("images", "--release", release)
    central("up", "--name", name, "--release", release)
    demo = Demo.load(name)
    blobs, rows = int(megabytes * 1e6 * mix.blobs), int(megabytes * 1e6 * mix.rows)
    if int(demo.psql("select coalesce(sum(length(content)), 0) from blobs")) < blobs * 0.99:
        print(f"seeding {name}: {blobs:,} bytes of blobs and {rows:,} bytes of rows", flush=True)
        central(
            "seed", "--name", name, "--projects", "3", "--forms", "5", "--submissions", str(rows // ROW_SIZE),
            "--attachments", str(blobs // BLOB_SIZE), "--blob-bytes", str(blobs), "--rows-bytes", str(rows),
        )  # fmt: skip
    return demo


def database_size(demo: Demo) -> int:
    """Bytes that PostgreSQL says the database takes."""
    return int(demo.psql("select pg_database_size('odk')"))


def version(*command: str) -> str:
    """The first line that a program prints of its version."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).splitlines()[0].strip()


def machine() -> str:
    """One line on where this was measured, one on with what."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) // 1024
    accelerator = version(str(BIN / "python"), "-c", "import isal; print(isal.__version__)")
    return (
        f"machine: {len(os.sched_getaffinity(0))} cores, {model}, {memory} MiB, Linux {platform.release()}\n"
        f"with: Python {platform.python_version()}, isal {accelerator}; {version('openssl', 'version')}; "
        f"{version('curl', '--version').split(' (')[0]}; {version('pg_restore', '--version')}"
    )


def bench_backup(demo: Demo, work: Path, passphrase_file: Path, options: argparse.Namespace) -> list[Subject]:
    """``central_backup`` against curl with the ODK docs' configuration, both through nginx and TLS."""
    target = work / "download"
    prepare = emptied(target)
    sizes: dict[str, int] = {}
    args = {**demo.login, "dest": str(target), "passphrase_file": str(passphrase_file)}
    subjects = [
        curl_subject(demo, work, target, passphrase_file, sizes),
        module_subject("central_backup", args, prepare, sizes),
    ]
    print(f"\nDownload: {demo.url}/v1/backup, database of {database_size(demo) / 1e6:,.0f} MB")
    alternate(subjects, options.rounds, work)
    if not options.without_ansible:
        subjects.append(ansible_subject("central_backup", args, prepare, sizes, work, demo))
        alternate(subjects[-1:], 1, work)
    print(
        f"\n{table(subjects)}\nfile: {sizes['central_backup'] / 1e6:,.0f} MB; the module's time includes verification"
    )
    goal("central_backup / curl, wall", paired_ratio(subjects[1], subjects[0]), 1.1, "at most")
    goal("central_backup, peak MiB", subjects[1].peak, MEMORY_GOAL, "below")
    return subjects


def bench_verify(
    demo: Demo, work: Path, passphrase_file: Path, options: argparse.Namespace, mix: Mix, release: str
) -> list[Subject]:
    """``central_backup_verify`` against the ODK docs' openssl and pg_restore, on one file, as Central itself makes it."""
    saved = work / "download"
    args = {**demo.login, "dest": str(saved), "passphrase_file": str(passphrase_file)}
    module_subject("central_backup", args, emptied(saved), {}).run(work)
    (path,) = saved.iterdir()
    inside: list[str] = []
    seen, secret = str(path), str(passphrase_file)
    if release != "bookworm":  # the pg_restore of this host may be too old for the archive
        inside, seen, secret = copy_into_container(demo, path, passphrase_file)
    pipeline = (
        f"openssl enc -d -chacha20 -pbkdf2 -pass {shlex.quote(f'file:{secret}')} -in {shlex.quote(seen)}"
        " | pg_restore --file /dev/null"
    )

    def prepare() -> None:
        with path.open("rb") as stream:  # the same page cache for both
            while stream.read(1 << 20):
                pass

    sizes: dict[str, int] = {}
    args = {"path": str(path), "passphrase_file": str(passphrase_file)}
    subjects = [
        Subject(
            "openssl enc -d | pg_restore --file /dev/null",
            [*inside, "bash", "-o", "pipefail", "-c", pipeline],
            prepare=prepare,
        ),
        module_subject("central_backup_verify", args, prepare, sizes),
    ]
    print(f"\nVerify ({release}): {path.stat().st_size / 1e6:,.0f} MB, of {mix.words}")
    alternate(subjects, max(options.rounds, 3), work)
    if not options.without_ansible:
        subjects.append(ansible_subject("central_backup_verify", args, prepare, sizes, work, demo))
        alternate(subjects[-1:], 1, work)
    if inside:
        demo.execute("service", "rm", "-rf", str(Path(seen).parent))
    print(f"\n{table(subjects)}")
    faster = 3.0 if release == "bookworm" else 1.5
    goal(
        "openssl and pg_restore / central_backup_verify, wall",
        paired_ratio(subjects[0], subjects[1]),
        faster,
        "at least",
    )
    goal("central_backup_verify, peak MiB", subjects[1].peak, MEMORY_GOAL, "below")
    return subjects


def copy_into_container(demo: Demo, path: Path, passphrase_file: Path) -> tuple[list[str], str, str]:
    """Copy a backup and its passphrase into the service's container.

    Returns the command that runs a program there, and the two paths there. Wall time is comparable; processor time and
    memory are those of the ``docker`` client only.
    """
    folder = "/tmp/odkbench"
    demo.execute("service", "mkdir", "-p", folder)
    for source, name in ((path, "backup"), (passphrase_file, "passphrase")):
        demo.compose("cp", str(source), f"service:{folder}/{name}", timeout=600)
    print("(openssl and pg_restore run in the demo's container: their cpu and peak figures are not shown truly)")
    return ["docker", "exec", demo.container("service")], f"{folder}/backup", f"{folder}/passphrase"


def main() -> int:
    """Bring up what is needed, measure, print."""
    options = arguments()
    work = ROOT / ".bench"
    work.mkdir(mode=0o700, exist_ok=True)
    passphrase_file = work / "passphrase"
    if not passphrase_file.exists():
        passphrase_file.touch(mode=0o600)
        passphrase_file.write_text(secrets.token_urlsafe(24) + "\n", "utf-8")
    shutil.rmtree(work / "download", ignore_errors=True)
    wanted = BENCHES if options.only is None else (options.only,)
    try:
        if set(wanted) & {"backup", "dump", "verify", "restore"}:
            demo = bench_demo(options.release or RELEASES[0], options.megabytes, MIXES[0])
    except DemoError as error:
        print(error, file=sys.stderr)
        return 1
    floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{machine()}\npeaks are those of the largest single process; {floor:.0f} MiB is the least that can be seen")
    try:
        if "backup" in wanted:
            bench_backup(demo, work, passphrase_file, options)
        if "dump" in wanted:
            bench_dump(demo, work, passphrase_file, options)
        if "verify" in wanted:
            for release in (options.release,) if options.release else RELEASES:
                for mix in MIXES:
                    mixed = bench_demo(release, options.megabytes, mix)
                    bench_verify(mixed, work, passphrase_file, options, mix, release)
        if "restore" in wanted:
            bench_restore(demo, work, passphrase_file, options)
        if "blobs" in wanted:
            # A process of its own: it imports what would make this one large, see bench.timing.
            blobs = [sys.executable, "-m", "bench.blobs", "--rounds", str(options.rounds)]
            if subprocess.run(blobs, check=False).returncode != 0:
                return 1
        if "playbook" in wanted:
            bench_playbook(ensure_demo(), work, passphrase_file, options.rounds)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(work / "download", ignore_errors=True)
        for name in ("curl.conf", "inventory.yml", "stdin"):
            (work / name).unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
