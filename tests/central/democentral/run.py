# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running other programs, and telling what goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


class DemoError(Exception):
    """Something that stops the command; its text is all that the user sees."""


def say(text: str) -> None:
    """Tell the user what is being done, on standard error: standard output is for results."""
    print(f"central: {text}", file=sys.stderr, flush=True)


def run(
    command: Sequence[str],
    *,
    stdin: str | bytes | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end with its output captured; :class:`DemoError` with that output when it fails.

    ``env`` is added to our own environment. With ``check=False`` a program that is absent or too slow counts as
    failed (exit codes 127 and 124).
    """
    data = stdin.encode() if isinstance(stdin, str) else stdin
    try:
        done = subprocess.run(
            list(command),
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            cwd=cwd,
            env={**os.environ, **env} if env else None,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        if check:
            raise DemoError(f"{command[0]} is not installed") from None
        return subprocess.CompletedProcess(list(command), 127, "", f"{command[0]} is not installed")
    except subprocess.TimeoutExpired:
        if check:
            raise DemoError(f"{' '.join(command)} took more than {timeout:g} s") from None
        return subprocess.CompletedProcess(list(command), 124, "", "timeout")
    out, err = (part.decode("utf-8", "replace") for part in (done.stdout, done.stderr))
    if check and done.returncode:
        raise DemoError(f"{' '.join(command)} exited {done.returncode}\n{out}{err}".rstrip())
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def succeeds(command: Sequence[str], timeout: float = 30) -> bool:
    """Whether a program exists and ends with 0."""
    return run(command, check=False, timeout=timeout).returncode == 0
