# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two steps of ``make demo``: seed data and an inventory before the backup, and what to say at its end.

That is: where the newest set is, what is in it, and how to check it with openssl and pg_restore.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from .demo import Demo, ensure_demo
from .inventory import write_inventory


def newest_set(repository: Path, name: str) -> Path:
    """The newest sealed set of a Central."""
    return max(path.parent for path in (repository / name / "sets").glob("[!.]*/manifest.json"))


def pg_restore_command(demo: Demo, archive_version: str) -> list[str]:
    """``pg_restore`` of this host where it can read the archive, else that of the demo's service container."""
    program = shutil.which("pg_restore")
    if program:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"(\d+)", said)
        # The first major release of PostgreSQL that reads each version of the archive format.
        needed = {"1.14": 12, "1.15": 16, "1.16": 17}.get(archive_version, 17)
        if found and int(found[1]) >= needed:
            return ["pg_restore"]
    return ["docker", "exec", "-i", demo.container("service"), "pg_restore"]


def decrypt(path: Path, passphrase_file: Path) -> str:
    """The shell command by which anyone can decrypt a part."""
    command = ["openssl", "enc", "-d", "-chacha20", "-pbkdf2", "-pass", f"file:{passphrase_file}", "-in", str(path)]
    return shlex.join(command)


def check_command(database: Path, passphrase_file: Path, redirection: str, reader: list[str], *options: str) -> str:
    """The shell command by which anyone can check the database part."""
    return (
        f"{decrypt(database, passphrase_file)} {redirection}".rstrip() + f" \\\n    | {shlex.join([*reader, *options])}"
    )


def run(command: str, pipefail: str = "-o") -> str:
    """Run a shell command as printed; any program of it that fails is a failure (``+o``: only the last one counts)."""
    bash = ["bash", pipefail, "pipefail", "-c", command]
    done = subprocess.run(bash, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"this command failed ({done.returncode}):\n  {command}\n{done.stderr}")
    return done.stdout


def largest(tables: dict[str, Any], count: int = 8) -> str:
    """The tables with the most rows."""
    order = sorted(tables.items(), key=lambda item: (-int(item[1]), item[0]))[:count]
    return ", ".join(f"{table.removeprefix('public.')} {rows}" for table, rows in order)


def report(demo: Demo, folder: Path, passphrase_file: Path) -> None:
    """Print where a set is, what is in it, and the commands that check it, each tried."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    part, held = manifest["parts"]["database"], manifest["database"]
    path = folder / part["file"]
    reader = pg_restore_command(demo, str(part["archive_version"]))
    # pg_restore reads no more than the table of contents for a list, and openssl then says that it could not write on.
    listing = check_command(path, passphrase_file, "2>/dev/null", reader, "--list")
    whole = check_command(path, passphrase_file, "", reader, "--file", "/dev/null")
    entries = sum(1 for line in run(listing, "+o").splitlines() if line and not line.startswith(";"))
    run(whole)

    print(f"\nThe set is in\n  {folder}\nand holds")
    for file in sorted(folder.iterdir()):
        print(f"  {file.stat().st_size:>12,} bytes  {file.name}")
    for name, reason in manifest["absent"].items():
        print(f"  absent: {name}. {reason}")
    print(f"Central {held['central']['version']}, PostgreSQL {part['server_version']}")
    print(f"Rows: {largest(held['tables'])}, ...")
    print(
        f"\nCheck it without us, with nothing but openssl and pg_restore. What is in it ({entries} entries, just tried):"
    )
    print(f"  {listing}\nand every byte of it, in silence if all is well (just tried):\n  {whole}")
    for name in ("enketo", "config"):
        command = f"{decrypt(folder / manifest['parts'][name]['file'], passphrase_file)} | tar -t"
        members = run(command).split()
        print(f"the part {name}, {len(members)} files (just tried):\n  {command}")
    print(
        f"\nThe passphrase is in {passphrase_file}. Keep a copy of it elsewhere: without it the backup is worth nothing."
    )


def main() -> None:
    """``python -m support.report prepare|report NAME FOLDER``, with ``FOLDER/backups`` and ``FOLDER/passphrase``."""
    action, name, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    repository, passphrase_file = folder / "backups", folder / "passphrase"
    if action == "prepare":
        demo = ensure_demo(name)
        variables = {
            "central_repository": str(repository),
            "central_passphrase_file": str(passphrase_file),
            # The way to Enketo's Redis and secrets and to the configuration. The API alone would give the database.
            "central_project_directory": str(demo["compose_dir"]),
            "central_project": str(demo["compose_project"]),
        }
        write_inventory(folder / "inventory.yml", {name: demo}, **variables)
    else:
        report(Demo.load(name), newest_set(repository, name), passphrase_file)


if __name__ == "__main__":
    main()
