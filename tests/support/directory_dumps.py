# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Dumps in the directory format that real pg_dump made, as Central's legacy zips have them inside.

Made once, then kept in ``.cache/``. The databases, and what SQL says of them, are those of ``archives.py``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from functools import cache
from pathlib import Path

from .archives import _NEW, _OLD, _SQL, Truth, _fill
from .postgresql import CACHE, PostgreSQL

#: the dumps of each major: database and compression
_DUMPS = {
    15: (("small", "gzip"), ("small", "none"), ("nasty", "gzip"), ("nasty", "none")),
    17: (("small", "gzip"), ("small", "lz4"), ("small", "zstd"), ("nasty", "zstd"), ("nasty", "lz4")),
}


class DirectoryDumps:
    """The dumps of one major."""

    def __init__(self, major: int) -> None:
        self.postgresql = PostgreSQL(major)
        self._major = major
        sources = [*sorted(_SQL.glob("*.sql")), *(Path(__file__).with_name(f"{name}.py") for name in _SOURCES)]
        mark = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
        self._folder = CACHE / "directory-dumps" / f"{major}-{mark}"
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self._folder / "complete").exists():
                self._make()

    def read(self, database: str = "small", method: str = "gzip") -> dict[str, bytes]:
        """The files of a dump by name."""
        return {path.name: path.read_bytes() for path in sorted((self._folder / f"{database}-{method}").iterdir())}

    def truth(self, database: str = "small") -> Truth:
        """What SQL said of the database when it was dumped."""
        found = json.loads((self._folder / f"{database}.json").read_text("utf-8"))
        return Truth(found["tables"], [tuple(blob) for blob in found["blobs"]], found["server"])

    def _make(self) -> None:
        options = _OLD if self._major < 16 else _NEW
        with self.postgresql.server() as server:
            for database in ("small", "nasty"):
                truth = _fill(server, database)
                (self._folder / f"{database}.json").write_text(json.dumps(truth), "utf-8")
            for database, method in _DUMPS[self._major]:
                inside = f"/tmp/{database}-{method}"
                outside = self.postgresql.root / inside[1:]
                shutil.rmtree(outside, ignore_errors=True)
                # As Central ran it: four at once.
                server.programs.run(
                    "pg_dump",
                    *server._connection,
                    *("--format=directory", "--jobs=4", f"--compress={options[method]}", "--file", inside, database),
                )
                shutil.copytree(outside, self._folder / outside.name, dirs_exist_ok=True)
                shutil.rmtree(outside)
        (self._folder / "complete").touch()


_SOURCES = ("archives", "directory_dumps", "postgresql")


@cache
def directory_dumps(major: int = 15) -> DirectoryDumps:
    """The dumps of a major, made on first use."""
    return DirectoryDumps(major)
