# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Looking for secrets: in the arguments of all processes while something runs, and in files that it has left."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

#: bytes of a file that is searched
_LARGEST = 16 * 1024 * 1024


class Needles:
    """Secrets by what they are, and the ways in which they may have been written down."""

    def __init__(self, secrets: Mapping[str, str | bytes]) -> None:
        self.forms: dict[str, set[bytes]] = {}
        for name, secret in secrets.items():
            raw = secret if isinstance(secret, bytes) else secret.encode()
            assert len(raw) >= 12, f"{name} is too short to be told from chance"
            self.forms[name] = {raw, raw.hex().encode(), *_in_base64(raw)}
            with contextlib.suppress(UnicodeDecodeError):
                self.forms[name].add(json.dumps(raw.decode())[1:-1].encode())

    def within(self, content: bytes) -> set[str]:
        """Which of them are in `content`."""
        return {name for name, forms in self.forms.items() if any(form in content for form in forms)}


def _in_base64(raw: bytes) -> Iterator[bytes]:
    """What base64 makes of bytes that stand anywhere in a longer text: for each alignment, what does not depend on it."""
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + raw)
        start, end = -(-shift * 8 // 6), (shift + len(raw)) * 8 // 6
        yield text[start:end]
        yield base64.urlsafe_b64encode(b"\0" * shift + raw)[start:end]


class Watch(threading.Thread):
    """Looks at the arguments of every process of this machine, containers included, as any user could.

    As root it looks at their environments, too, which only their own user could.
    """

    def __init__(self, needles: Needles) -> None:
        super().__init__(daemon=True)
        self.needles, self.samples = needles, 0
        self.found: set[str] = set()
        #: the names of secrets that were in environments, and the ids of the users whose processes those were
        self.environments: set[tuple[str, int]] = set()
        #: of all processes that were seen
        self.seen: set[bytes] = set()
        self._ended = threading.Event()

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Sample until the end."""
        while not self._ended.is_set():
            self.samples += 1
            for name in os.listdir("/proc"):
                if name.isdigit():
                    with contextlib.suppress(OSError):
                        self._look(Path("/proc", name, "cmdline").read_bytes())
                        environment = Path("/proc", name, "environ")
                        owner = environment.stat().st_uid
                        self.environments |= {
                            (secret, owner) for secret in self.needles.within(environment.read_bytes())
                        }
            time.sleep(0.03)

    def _look(self, arguments: bytes) -> None:
        if arguments not in self.seen:
            self.seen.add(arguments)
            self.found |= {f"{name}: {arguments[:300]!r}" for name in self.needles.within(arguments)}


def files_with(needles: Needles, folders: Iterable[Path], holders: Iterable[Path]) -> dict[str, set[str]]:
    """Files in or below `folders` (files are taken as well) that hold a secret, but for those that have to.

    :param holders: files and folders that hold secrets on purpose
    """
    allowed = set(holders)
    found: dict[str, set[str]] = {}
    for folder in folders:
        for path in _files(folder, allowed):
            with contextlib.suppress(OSError):
                facts = path.lstat()
                if stat.S_ISREG(facts.st_mode) and facts.st_size <= _LARGEST:
                    there = needles.within(path.read_bytes())
                    if there:
                        found[str(path)] = there
    return found


def entries(folders: Iterable[Path]) -> set[Path]:
    """What is directly in some folders, of those that there are."""
    found: set[Path] = set()
    for folder in folders:
        with contextlib.suppress(OSError):
            found.update(folder.iterdir())
    return found


def _files(folder: Path, without: set[Path]) -> Iterator[Path]:
    if folder in without:
        return
    if folder.is_file():
        yield folder
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if Path(root, name) not in without]
        yield from (path for name in files if (path := Path(root, name)) not in without)
