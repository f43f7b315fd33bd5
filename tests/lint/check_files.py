# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks of the files that git has or would have: licence headers, no paths of this machine, no overlong modules."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SPDX = "SPDX-License-Identifier: GPL-3.0-or-later"
HEADER_WITHIN = 8  # lines: a shebang or a coding line may come first
COMMENTED = {
    ".awk",
    ".cfg",
    ".conf",
    ".css",
    ".dockerfile",
    ".js",
    ".mjs",
    ".py",
    ".sh",
    ".sql",
    ".toml",
    ".yaml",
    ".yml",
}
GENERATED = {"changelogs/changelog.yaml", "CHANGELOG.rst"}
LONGEST = 400  # lines of a Python file under plugins/
# Top folders that any Debian has: a checkout right below one of them says nothing about this machine.
STANDARD = {
    "bin",
    "boot",
    "dev",
    "etc",
    "home",
    "lib",
    "media",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "srv",
    "sys",
    "tmp",
}
STANDARD |= {"usr", "var"}


def files() -> list[Path]:
    """What git tracks, and what it would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    paths = (ROOT / name for name in sorted(set(listed.split("\0"))) if name)
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def machine_words() -> list[str]:
    """Words that only this machine knows: where the checkout is, the home folder, package mirrors."""
    words = {str(ROOT)}
    parent = ROOT.parent
    if len(parent.parts) > 2 or (len(parent.parts) == 2 and parent.parts[1] not in STANDARD):
        words.add(str(parent))
    home = Path.home()
    if home.parent == Path("/home"):
        words.add(str(home))
    settings = [
        value for key, value in os.environ.items() if key in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS")
    ]
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=False, capture_output=True, text=True
    )
    settings += re.findall(r"(?:index-url|find-links)='([^']*)'", listed.stdout)
    for setting in settings:
        for place in setting.replace("\\n", " ").split():
            host = re.match(r"https?://(?:[^@/]*@)?([^/:]+)", place)
            if host is None:
                words.add(place.removeprefix("file://"))
            elif host[1] not in ("pypi.org", "localhost"):
                words.add(host[1])
    return sorted(words)


def problems() -> Iterator[str]:
    """One line per finding, ``file:line: what``."""
    machine = re.compile("|".join(rf"(?<![\w./-]){re.escape(word)}(?![\w-])" for word in machine_words()))
    for path in files():
        name = path.relative_to(ROOT).as_posix()
        data = path.read_bytes()
        if b"\0" in data:
            continue
        lines = data.decode("utf-8", "replace").split("\n")
        for number, line in enumerate(lines, 1):
            found = machine.search(line)
            if found:
                yield f"{name}:{number}: a path or host of this machine: {found[0]}"
        commented = path.suffix in COMMENTED or lines[0].startswith("#!")
        if commented and name not in GENERATED and not any(SPDX in line for line in lines[:HEADER_WITHIN]):
            yield f"{name}:1: no licence header ({SPDX})"
        if path.suffix == ".py" and name.startswith("plugins/module_utils/") and len(lines) > LONGEST:
            yield f"{name}:{len(lines)}: longer than {LONGEST} lines"


def main() -> int:
    """Print the findings; 1 if there is any."""
    found = list(problems())
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
