# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m bench.blobs``: central_blob_backup against plain ``rclone copy`` of the same list from the same server.

Then a second run with nothing new, and the same for a synthetic pool of 1,000,000 objects, without a server.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._blob_args import open_pool
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry
from ansible_collections.odkops.central.plugins.module_utils._pool_index import PoolIndex, Row
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository
from bench.timing import Subject, alternate, paired_ratio, table

from support.modules import module_command, module_environment, parse_answer, wire_arguments
from support.s3_servers import (
    ACCESS_KEY,
    BUCKET,
    PASSPHRASE,
    SECRET_KEY,
    S3Server,
    clean_environment,
    fill,
    rclone_program,
    rclone_server,
    write_list,
)

GOAL = 1.3  # of rclone's wall time
SECOND_GOAL = 2.0  # seconds, for the same objects again


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=20_000, help="bytes of each")
    parser.add_argument("--rounds", type=int, default=2, help="how often each command runs (default 2: A B A B)")
    parser.add_argument("--synthetic", type=int, default=1_000_000, help="objects of the pool without a server")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    return parser.parse_args()


def module(folder: Path, address: str, subject: str, check: Any, prepare: Any) -> Subject:
    """The module, as Ansible runs it."""
    args = {
        "repository": str(folder / "repository"),
        "central": "central",
        "list": str(folder / "list"),
        "dest": str(folder / "blobs.jsonl"),
        "passphrase": PASSPHRASE,
        "rclone_path": rclone_program(),
        "s3_server": address,
        "s3_bucket": BUCKET,
        "s3_access_key": ACCESS_KEY,
        "s3_secret_key": SECRET_KEY,
    }
    return Subject(
        subject,
        module_command("central_blob_backup"),
        stdin=wire_arguments(args),
        env=module_environment(),
        prepare=prepare,
        check=check,
    )


def checker(expected: dict[str, Any]) -> Any:
    """Check a module's answer."""

    def check(output: bytes) -> None:
        answer = parse_answer(output.decode("utf-8", "replace"))
        if {name: answer.get(name) for name in expected} != expected:
            raise RuntimeError(f"central_blob_backup answered {json.dumps(answer)[:1000]}")

    return check


def fresh(folder: Path, *names: str) -> None:
    """Remove what the last run has made."""
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "blobs.jsonl").unlink(missing_ok=True)
    (folder / "repository").mkdir(mode=0o700, exist_ok=True)
    # Else what one subject has left to be written is written during the next one.
    os.sync()


def write_list_of(folder: Path, server: S3Server, options: argparse.Namespace) -> list[BlobEntry]:
    """Fill the bucket; returns what is in it."""
    entries = fill(server, range(1, options.objects + 1), size=options.size)
    write_list(folder / "list", entries)
    return entries


def against_rclone(folder: Path, server: S3Server, options: argparse.Namespace) -> list[Subject]:
    """Copy the list by rclone alone, and back it up."""
    names = [entry.name for entry in write_list_of(folder, server, options)]
    (folder / "names").write_text("".join(f"{name}\n" for name in names))
    environment = {
        **clean_environment(),
        "RCLONE_CONFIG": "/dev/null",
        "RCLONE_CONFIG_SRC_TYPE": "s3",
        "RCLONE_CONFIG_SRC_PROVIDER": "Other",
        "RCLONE_CONFIG_SRC_ENDPOINT": server.address,
        "RCLONE_CONFIG_SRC_ACCESS_KEY_ID": ACCESS_KEY,
        "RCLONE_CONFIG_SRC_SECRET_ACCESS_KEY": SECRET_KEY,
    }
    plain = folder / "plain"
    command = [rclone_program(), "copy", "--files-from-raw", str(folder / "names"), "--no-traverse"]
    command += ["--transfers", "32", f"src:{BUCKET}", str(plain)]

    def copied(_output: bytes) -> None:
        found = len(os.listdir(plain))
        if found != options.objects:
            raise RuntimeError(f"rclone has copied {found} objects")

    alone = Subject("rclone copy", command, env=environment, prepare=lambda: fresh(folder, "plain"), check=copied)
    count = {"objects": options.objects, "fetched": options.objects}
    ours = module(
        folder, server.address, "central_blob_backup", checker(count), lambda: fresh(folder, "plain", "repository")
    )
    alternate([alone, ours], options.rounds, folder)
    return [alone, ours]


def synthetic(folder: Path, number: int) -> None:
    """Make a pool of `number` empty files, and the list of them: nothing of them is read in a run without anything due."""
    import time

    entries = (
        BlobEntry(one, hashlib.sha1(b"%d" % one).hexdigest(), hashlib.md5(b"%d" % one).hexdigest(), 20_000)
        for one in range(1, number + 1)
    )
    pool = open_pool(Repository(str(folder / "repository")), "central", PASSPHRASE)
    os.makedirs(pool.objects)
    now = int(time.time())
    with PoolIndex(pool.index_path) as index:
        index.keep("reread", now + 24 * 3600)  # no share is due: the files are empty

        def rows() -> Any:
            for entry in entries:
                path = pool.object_path(entry)
                if entry.id % 1000 in (0, 1):
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
                yield Row(entry, 20_000, now)

        index.add(rows())
    write_list(
        folder / "list",
        (
            BlobEntry(one, hashlib.sha1(b"%d" % one).hexdigest(), hashlib.md5(b"%d" % one).hexdigest(), 20_000)
            for one in range(1, number + 1)
        ),
    )


def main() -> int:
    """Run the benches and print what came of them."""
    options = arguments()
    folder = Path(tempfile.mkdtemp(prefix="blobs-", dir=options.folder))
    try:
        with (
            tempfile.TemporaryDirectory(prefix="s3-", dir="/dev/shm") as memory,
            rclone_server(Path(memory), caching=True) as server,
        ):
            print(
                subprocess.run(
                    [rclone_program(), "version"], capture_output=True, text=True, check=False
                ).stdout.splitlines()[0]
            )
            alone, ours = against_rclone(folder, server, options)
            nothing = {"objects": options.objects, "fetched": 0}
            again = module(folder, server.address, "the same again", checker(nothing), (folder / "blobs.jsonl").unlink)
            alternate([again], options.rounds, folder)
        print(table([alone, ours, again]))
        ratio = paired_ratio(ours, alone)
        print(f"goal: {ratio:.2f} times rclone's time, {'met' if ratio <= GOAL else 'MISSED'} (at most {GOAL})")
        print(
            f"goal: again in {again.wall:.2f} s, {'met' if again.wall < SECOND_GOAL else 'MISSED'} (below {SECOND_GOAL} s)"
        )
        if options.synthetic:
            fresh(folder, "plain", "repository")
            (folder / "list").unlink()
            synthetic(folder, options.synthetic)
            nothing = {"objects": options.synthetic, "fetched": 0}
            many = module(
                folder, "http://127.0.0.1:9", f"nothing new of {options.synthetic:,}", checker(nothing),
                lambda: (folder / "blobs.jsonl").unlink(missing_ok=True),
            )  # fmt: skip
            alternate([many], options.rounds, folder)
            print(table([many]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
