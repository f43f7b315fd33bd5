# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sets to be exported, and what an export has to be, seen with nothing of the code under test."""

from __future__ import annotations

import hashlib
import shutil
import stat
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._blob_args import open_pool
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry
from ansible_collections.odkops.central.plugins.module_utils._pool_index import PoolIndex
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository
from ansible_collections.odkops.central.plugins.module_utils._seal import SetFacts, seal_set
from ansible_collections.odkops.central.plugins.module_utils._set_export_look import SetExport
from ansible_collections.odkops.central.plugins.module_utils._tar_part import TarPart
from ansible_collections.odkops.central.plugins.modules import central_set_export

from .archives import archives, openssl
from .modules import Result, call_module, run_module
from .s3_servers import (
    PASSPHRASE,
    clean_environment,
    content_of,
    entry_of,
    rclone_program,
    write_list,
)
from .sets import HELD, everything_below

CENTRAL = "central.example.org"
ENKETO = {"secrets/enketo-secret": b"e" * 64, "redis.jsonl": b"{}\n" * 500}
CONFIG = {"checkout/.env": b"DOMAIN=central.example.org\n"}
# Sizes around the blocks of rclone's format, in two directories of the pool.
OBJECTS = {1: 1, 2: 65536, 3: 65537, 999: 20_000, 1000: 200_000, 1001: 2000}


@dataclass
class Source:
    """A repository with one set of one Central."""

    root: Path
    passphrase: str | None
    set_id: str
    entries: list[BlobEntry]

    @property
    def set_path(self) -> Path:
        """The directory of the set."""
        return self.root / CENTRAL / "sets" / self.set_id

    @property
    def pool(self) -> Path:
        """The only pool."""
        (found,) = (self.root / CENTRAL / "pool").iterdir()
        return found

    def object(self, number: int) -> Path:
        """The file of an object."""
        (found,) = self.pool.glob(f"objects/*/blob-{number}-*")
        return found

    def options(self, dest: Path, **others: Any) -> dict[str, Any]:
        """The options of the module."""
        given = {
            "repository": str(self.root),
            "central": CENTRAL,
            "dest": str(dest),
            "passphrase": self.passphrase,
            "rclone_path": rclone_program(),
            **others,
        }
        return {name: value for name, value in given.items() if value is not None}

    def task(self, dest: Path) -> SetExport:
        """What the engine is told."""
        return SetExport(
            Repository(str(self.root)), CENTRAL, "latest", str(dest), self.passphrase, False, rclone_program()
        )

    def copy(self, folder: Path) -> Source:
        """The same elsewhere, to be spoilt."""
        shutil.copytree(self.root, folder, symlinks=True)
        return Source(folder, self.passphrase, self.set_id, self.entries)


def digest_of(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def fill_pool(pool: Path, passphrase: str | None, contents: dict[BlobEntry, bytes], folder: Path) -> None:
    """Encrypt objects with rclone, told as its documentation says."""
    for entry, content in contents.items():
        path = folder / str(entry.id // 1000) / entry.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (pool / "objects").mkdir(parents=True)
    environment = {**clean_environment(), "RCLONE_CONFIG": "/dev/null"}
    target = str(pool / "objects")
    if passphrase is not None:
        hidden = subprocess.run([rclone_program(), "obscure", passphrase], capture_output=True, text=True, check=True)
        environment.update(
            RCLONE_CONFIG_P_TYPE="crypt",
            RCLONE_CONFIG_P_REMOTE=target,
            RCLONE_CONFIG_P_FILENAME_ENCRYPTION="off",
            RCLONE_CONFIG_P_DIRECTORY_NAME_ENCRYPTION="false",
            RCLONE_CONFIG_P_PASSWORD=hidden.stdout.strip(),
        )
        target = "p:"
    subprocess.run([rclone_program(), "copy", str(folder), target], env=environment, check=True, capture_output=True)
    (pool / "lock").touch()
    PoolIndex(str(pool / "index.sqlite")).close()


def make_source(
    folder: Path,
    passphrase: str | None = PASSPHRASE,
    sizes: dict[int, int] | None = None,
    absent: Iterable[BlobEntry] = (),
    only: Iterable[str] = ("database", "enketo", "config", "blobs"),
    **facts: Any,
) -> Source:
    """A repository with a sealed set. The database is real, and openssl has encrypted it."""
    root = folder / "repository"
    contents = {entry_of(n, content_of(n, size)): content_of(n, size) for n, size in (sizes or OBJECTS).items()}
    repository = Repository(str(root))
    opened = repository.open_set(CENTRAL)
    partial, encrypted = Path(opened.path), {"encrypted": passphrase is not None}
    database = partial / "database.pgdump.enc.bin"
    database.write_bytes(openssl(archives(13).read(), passphrase=passphrase or ""))
    parts: dict[str, dict[str, Any]] = {
        "database": {"format": "pgdump.enc", "dump_version": "13.1", **digest_of(database), **encrypted}
    }
    for name, members in (("enketo", ENKETO), ("config", CONFIG)):
        if name in only:
            with TarPart(str(partial / f"{name}.tar.enc.bin"), passphrase) as part:
                for member, content in members.items():
                    part.add(member, content)
                part.commit()
            parts[name] = {"format": "tar.enc", **digest_of(partial / f"{name}.tar.enc.bin"), **encrypted}
    if "blobs" in only:
        pool = open_pool(repository, CENTRAL, passphrase)
        fill_pool(Path(pool.path), passphrase, contents, folder / "plain")
        blobs = write_list(partial / "blobs.jsonl", [*contents, *absent])
        parts["blobs"] = {"format": "jsonl", "pool": pool.name, **digest_of(blobs), **encrypted, **facts}
        parts["blobs"] = {name: value for name, value in parts["blobs"].items() if value is not None}
    missing = {
        name: "Not backed up,\x1b[2J\nin this test." for name in ("enketo", "config", "blobs") if name not in parts
    }
    held = SetFacts(missing, {"url": f"https://{CENTRAL}"}, HELD, {}, ["A note."])
    sealed = seal_set(repository, CENTRAL, opened.set_id, parts, held, passphrase)
    assert sealed.changed
    return Source(root, passphrase, opened.set_id, list(contents))


def export(source: Source, dest: Path, check: bool = False, **options: Any) -> Result:
    return call_module(central_set_export.main, source.options(dest, **options), check=check)


def export_in_process(source: Source, dest: Path, check: bool = False, **options: Any) -> Result:
    """As Ansible does it, with warnings in the result."""
    return run_module("central_set_export", source.options(dest, **options), check=check)


def refused(source: Source, shelf: Path, **options: Any) -> Result:
    """An export that must fail and leave nothing."""
    before = everything_below(source.root)
    result = export(source, shelf / "export", **options)
    assert result.failed
    assert everything_below(shelf) == set(), result.result
    assert everything_below(source.root) == before
    return result


def assert_whole(dest: Path, source: Source) -> None:
    """Look at an export with nothing of the code under test."""
    sums = (dest / "SHA256SUMS").read_text()
    files = {name for name in everything_below(dest) if (dest / name).is_file()}
    assert {line[66:] for line in sums.splitlines()} == files - {"SHA256SUMS"}
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=dest, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout) == (0, b"")
    expected = {
        str(path.relative_to(source.root))
        for path in [*source.set_path.iterdir(), *source.pool.glob("objects/*/*"), *source.root.glob("*/key-id.salt")]
    }
    assert files == expected | {"README.txt", "SHA256SUMS"}
    for name in expected:
        assert (dest / name).read_bytes() == (source.root / name).read_bytes()
    for path in [dest, *dest.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def damage(path: Path, how: str, other: Path) -> None:
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[-1] ^= 1
    elif how == "zeroed":
        data[100:4196] = bytes(4096)
    elif how == "nonce":
        data[20] ^= 1
    elif how == "replaced":
        data[:] = other.read_bytes()
    path.write_bytes(data)
