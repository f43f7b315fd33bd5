# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``make bench``: the modules against curl, and against openssl and pg_restore, side by side in one run.

Prints a table and the goals; judges nothing by its exit code, but fails when a command does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import secrets
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.timing import Subject, alternate, paired_ratio, table

from support.demo import Demo, DemoError, central
from support.inventory import write_inventory
from support.modules import module_command, module_environment, parse_answer, wire_arguments
from support.paths import BIN, ROOT

DEMO = "odkbench"
MEMORY_GOAL = 150  # MiB, of either module, whatever the size
BLOB_SIZE = 1_000_000


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--release", default="bookworm", help="of the demo Central: bookworm (gzip) or trixie (zstd)")
    parser.add_argument("--megabytes", type=int, default=1000, help="of the demo's database: two thirds are blobs")
    parser.add_argument("--rounds", type=int, default=2, help="how often each command runs (default 2: A B A B)")
    parser.add_argument("--only", choices=("backup", "verify"), help="one of the two benches")
    parser.add_argument("--without-ansible", action="store_true", help="leave out the runs through `ansible`")
    return parser.parse_args()


def bench_demo(release: str, megabytes: int) -> Demo:
    """A demo Central of our own, seeded with so many megabytes (10^6): two thirds blobs, one third rows."""
    name = DEMO if release == "bookworm" else f"{DEMO}-{release}"
    central("engine")
    central("images", "--release", release)
    central("up", "--name", name, "--release", release)
    demo = Demo.load(name)
    blobs = megabytes * 1_000_000 * 2 // 3
    rows = megabytes * 1_000_000 - blobs
    if int(demo.psql("select coalesce(sum(length(content)), 0) from blobs")) < blobs * 0.99:
        print(f"seeding {name}: {blobs:,} bytes of blobs and {rows:,} bytes of rows", flush=True)
        central(
            "seed", "--name", name, "--projects", "3", "--forms", "5", "--submissions", "20000",
            "--attachments", str(blobs // BLOB_SIZE), "--blob-bytes", str(blobs), "--rows-bytes", str(rows),
        )  # fmt: skip
    return demo


def database_size(demo: Demo) -> int:
    """Bytes that PostgreSQL says the database takes."""
    return int(demo.psql("select pg_database_size('odk')"))


def version(*command: str) -> str:
    """The first line that a program prints of its version."""
    import subprocess

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


def answer_checker(sizes: dict[str, int], name: str) -> Callable[[bytes], None]:
    """Check a module's answer, and remember the size it tells."""

    def check(output: bytes) -> None:
        text = output.decode("utf-8", "replace")
        answer = parse_answer(text) or _answer_of_ansible(text)
        if answer.get("diagnosis") != "ok":
            raise RuntimeError(f"{name} answered {text[-1000:]}")
        sizes[name] = answer["size"]

    return check


def _answer_of_ansible(text: str) -> dict[str, Any]:
    _head, _arrow, body = text.partition("=> ")
    try:
        return dict(json.loads(body))
    except json.JSONDecodeError:
        return {}


def module_subject(name: str, args: dict[str, Any], prepare: Callable[[], None], sizes: dict[str, int]) -> Subject:
    """A module as Ansible runs it, without Ansible: a process of its own, its arguments on standard input."""
    return Subject(
        f"{name} (module process)",
        module_command(name, BIN / "python"),
        stdin=wire_arguments(args),
        env=module_environment(),
        prepare=prepare,
        check=answer_checker(sizes, name),
    )


def ansible_subject(
    name: str, args: dict[str, Any], prepare: Callable[[], None], sizes: dict[str, int], folder: Path, demo: Demo
) -> Subject:
    """The same through ``ansible``, with its start-up and transport; arguments by a file, as they hold secrets."""
    inventory = write_inventory(folder / "inventory.yml", {demo.name: demo}, module_arguments=args)
    settings = folder / "ansible.cfg"  # empty: in place of the user's own
    settings.touch()
    variables = json.dumps({key: f"{{{{ module_arguments.{key} }}}}" for key in args})
    command = [str(BIN / "ansible"), "-i", str(inventory), "all", "-m", f"odkops.central.{name}", "-a", variables]
    env = {**module_environment(), "ANSIBLE_CONFIG": str(settings), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
    return Subject(f"{name} (through ansible)", command, env=env, prepare=prepare, check=answer_checker(sizes, name))


def bench_backup(demo: Demo, work: Path, passphrase_file: Path, options: argparse.Namespace) -> list[Subject]:
    """``central_backup`` against curl with the ODK docs' configuration, both through nginx and TLS."""
    target = work / "download"
    login = demo.login
    passphrase = passphrase_file.read_text("utf-8").strip()
    config = work / "curl.conf"
    config.touch(mode=0o600)
    settings = {
        "url": f"{demo.url}/v1/backup",
        "user": f"{login['email']}:{login['password']}",
        "json": json.dumps({"passphrase": passphrase}),
        "output-dir": str(target),
        "cacert": demo.ca_path,
    }
    flags = ["http1.1", "show-error", "silent", "fail", "remote-name", "remote-header-name", "remove-on-error"]
    flags += ["no-clobber", "create-dirs"]
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()] + flags
    config.write_text("\n".join(lines) + "\n", "utf-8")

    def prepare() -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(mode=0o700)

    def check(_output: bytes) -> None:
        (saved,) = target.iterdir()
        if saved.stat().st_size < 1_000_000:
            raise RuntimeError(f"curl saved {saved.stat().st_size} bytes only")

    sizes: dict[str, int] = {}
    args = {**login, "dest": str(target), "passphrase_file": str(passphrase_file)}
    subjects = [
        Subject(
            "curl --config (the ODK docs' configuration)",
            ["curl", "--config", str(config)],
            prepare=prepare,
            check=check,
        ),
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


def bench_verify(demo: Demo, work: Path, passphrase_file: Path, options: argparse.Namespace) -> list[Subject]:
    """``central_backup_verify`` against the ODK docs' openssl and pg_restore, on one file."""
    saved = work / "download"
    if not saved.is_dir() or not any(saved.iterdir()):
        saved.mkdir(mode=0o700, exist_ok=True)
        args = {**demo.login, "dest": str(saved), "passphrase_file": str(passphrase_file)}
        module_subject("central_backup", args, lambda: None, {}).run(work)
    (path,) = saved.iterdir()
    inside: list[str] = []
    seen, secret = str(path), str(passphrase_file)
    if options.release != "bookworm":  # the pg_restore of this host may be too old for the archive
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
    print(f"\nVerify: a file of {path.stat().st_size / 1e6:,.0f} MB")
    alternate(subjects, max(options.rounds, 3), work)
    if not options.without_ansible:
        subjects.append(ansible_subject("central_backup_verify", args, prepare, sizes, work, demo))
        alternate(subjects[-1:], 1, work)
    if inside:
        demo.execute("service", "rm", "-rf", str(Path(seen).parent))
    print(f"\n{table(subjects)}")
    faster = 3.0 if options.release == "bookworm" else 1.5
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


def goal(what: str, value: float, bound: float, kind: str) -> None:
    """Print a figure beside its goal."""
    met = value >= bound if kind == "at least" else value <= bound
    print(f"{'met   ' if met else 'MISSED'}  {what}: {value:.2f} (goal: {kind} {bound:g})")


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
    try:
        demo = bench_demo(options.release, options.megabytes)
    except DemoError as error:
        print(error, file=sys.stderr)
        return 1
    floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{machine()}\npeaks are those of the largest single process; {floor:.0f} MiB is the least that can be seen")
    try:
        if options.only in (None, "backup"):
            bench_backup(demo, work, passphrase_file, options)
        if options.only in (None, "verify"):
            bench_verify(demo, work, passphrase_file, options)
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
