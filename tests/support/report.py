# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two steps of ``make demo``: seed data, attachments in S3 and an inventory before the backup, and what to say at its end.

That is: where the newest set is, which parts it has, and how to check each with openssl, pg_restore, tar and rclone.
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

from .demo import Demo, central, ensure_demo
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


PARTS = ("database", "enketo", "config", "blobs")


def pool_command(pool: Path, passphrase_file: Path) -> str:
    """The shell command by which anyone can list the objects of a pool with their SHA-1, decrypted on the way."""
    rclone = shutil.which("rclone", path=str(Path(sys.executable).parent)) or "rclone"
    hidden = f"head -n 1 {shlex.quote(str(passphrase_file))} | tr -d '\\n' | {shlex.quote(rclone)} obscure -"
    settings = {
        "TYPE": "crypt",
        "REMOTE": shlex.quote(str(pool / "objects")),
        "FILENAME_ENCRYPTION": "off",
        "DIRECTORY_NAME_ENCRYPTION": "false",
        "PASSWORD": f'"$({hidden})"',
    }
    lines = ["RCLONE_CONFIG=/dev/null", *(f"RCLONE_CONFIG_POOL_{name}={value}" for name, value in settings.items())]
    return " \\\n    ".join([*lines, f"{shlex.quote(rclone)} hashsum sha1 --download pool:"])


def check_objects(listed: str, names: Path) -> int:
    """How many objects a pool has, each with the SHA-1 in its name; fails where one of the set's is not among them."""
    found = {line.split()[1].rpartition("/")[2]: line.split()[0] for line in listed.splitlines()}
    wanted = [json.loads(line)["key"] for line in names.read_text("utf-8").splitlines()]
    wrong = [name for name in wanted if found.get(name) != name.rpartition("-")[2]]
    if wrong or not wanted:
        raise SystemExit(f"the pool lacks {len(wrong)} objects of the set, or has others in their place: {wrong[:3]}")
    return len(wanted)


def report(demo: Demo, folder: Path, passphrase_file: Path) -> None:
    """Print where a set is, its parts, and the commands that check them, each tried."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    parts, held = manifest["parts"], manifest["database"]
    if set(parts) != set(PARTS):
        raise SystemExit(f"this is not a full set: it has {sorted(parts)}, and lacks {manifest['absent']}")
    part = parts["database"]
    path = folder / part["file"]
    reader = pg_restore_command(demo, str(part["archive_version"]))
    # pg_restore reads no more than the table of contents for a list, and openssl then says that it could not write on.
    listing = check_command(path, passphrase_file, "2>/dev/null", reader, "--list")
    whole = check_command(path, passphrase_file, "", reader, "--file", "/dev/null")
    entries = sum(1 for line in run(listing, "+o").splitlines() if line and not line.startswith(";"))
    run(whole)
    pool = folder.parent.parent / "pool" / str(parts["blobs"]["pool"])
    objects = pool_command(pool, passphrase_file)
    number = check_objects(run(objects), folder / parts["blobs"]["file"])

    print(f"\nThe set is in\n  {folder}\nwith {len(parts)} parts:")
    for name in PARTS:
        about = parts[name]
        more = f" and {number} objects, {about['objects_size']:,} bytes, in {pool}" if name == "blobs" else ""
        print(f"  {name:<9} {about['size']:>10,} bytes  {about['file']}{more}")
    print(
        f"  and       {(folder / 'manifest.json').stat().st_size:>10,} bytes  manifest.json (authenticates all of them)"
    )
    print(f"Central {held['central']['version']}, PostgreSQL {part['server_version']}")
    print(f"Rows: {largest(held['tables'])}, ...")
    print(
        f"\nCheck it without us, with nothing but openssl and pg_restore. What is in it ({entries} entries, just tried):"
    )
    print(f"  {listing}\nand every byte of it, in silence if all is well (just tried):\n  {whole}")
    for name in ("enketo", "config"):
        command = f"{decrypt(folder / parts[name]['file'], passphrase_file)} | tar -t"
        members = run(command).split()
        print(f"the part {name}, {len(members)} files (just tried):\n  {command}")
    print(f"the attachments, each with the SHA-1 that is in its name (just tried, {number}):\n  {objects}")
    print(
        f"\nThe passphrase is in {passphrase_file}. Keep a copy of it elsewhere: without it the backup is worth nothing."
    )


def main() -> None:
    """``python -m support.report prepare|report NAME FOLDER``, with ``FOLDER/backups`` and ``FOLDER/passphrase``."""
    action, name, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    repository, passphrase_file = folder / "backups", folder / "passphrase"
    if action == "prepare":
        ensure_demo(name)
        central("s3", "--name", name)
        demo = Demo.load(name)
        variables = {
            "central_repository": str(repository),
            "central_passphrase_file": str(passphrase_file),
            # The way to Enketo's Redis and secrets and to the configuration. The API alone would give the database.
            "central_project_directory": str(demo["compose_dir"]),
            "central_project": str(demo["compose_project"]),
            # As this host reaches it; bucket and keys are the Central's own.
            "central_s3_server": f"http://127.0.0.1:{demo['ports']['S3_PORT']}",
        }
        write_inventory(folder / "inventory.yml", {name: demo}, **variables)
    else:
        report(Demo.load(name), newest_set(repository, name), passphrase_file)


if __name__ == "__main__":
    main()
