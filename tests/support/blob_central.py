# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A Central of unit tests whose objects are in a real S3 server, and what a backup of them is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._blob_backup import BlobBackup, back_up
from ansible_collections.odkops.central.plugins.module_utils._blob_list import BlobEntry
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pool import Pool
from ansible_collections.odkops.central.plugins.module_utils._rclone import Rclone, S3Settings
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository

from .s3_servers import (
    ACCESS_KEY,
    BUCKET,
    PASSPHRASE,
    SECRET_KEY,
    S3Server,
    write_list,
)

KEY_ID = "0123456789abcdef"


@dataclass
class Central:
    """A Central's repository, and what a run is told."""

    root: Path
    server: S3Server
    rclone: Rclone
    settings: dict[str, Any] = field(default_factory=dict)
    key_id: str | None = KEY_ID
    passphrase: str | None = PASSPHRASE
    asked: list[int] = field(default_factory=list)
    runs: int = 0

    @property
    def pool(self) -> Pool:
        return Pool(Repository(str(self.root)), "central", self.key_id)

    def path_of(self, entry: BlobEntry) -> Path:
        return Path(self.pool.object_path(entry))

    def task(self, entries: list[BlobEntry], **more: Any) -> BlobBackup:
        self.runs += 1
        given = {
            "server": self.server.address,
            "bucket": BUCKET,
            "access_key": ACCESS_KEY,
            "secret_key": SECRET_KEY,
            **self.settings,
        }
        return BlobBackup(
            pool=self.pool,
            passphrase=self.passphrase,
            list_path=str(write_list(self.root / "list", entries)),
            dest=str(self.root / f"blobs-{self.runs}.jsonl"),
            settings=lambda: S3Settings(**given),
            rclone=lambda: self.rclone,
            **more,
        )

    def run(self, entries: list[BlobEntry], **more: Any) -> dict[str, Any]:
        return back_up(self.task(entries, **more))

    def fails(self, entries: list[BlobEntry], **more: Any) -> CentralError:
        task = self.task(entries, **more)
        with pytest.raises(CentralError) as caught:
            back_up(task)
        assert not os.path.exists(task.dest)
        assert SECRET_KEY not in caught.value.message
        assert PASSPHRASE not in caught.value.message
        return caught.value

    def live(self, *there: int) -> Callable[[list[int]], set[int]]:
        """A database that still has these rows."""

        def ask(ids: list[int]) -> set[int]:
            self.asked += ids
            return set(ids) & set(there)

        return ask


def never(*_arguments: Any) -> Any:
    raise AssertionError("this was not to be asked for")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
