# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running the collection's modules: in a process of their own, or inside the test."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from .paths import COLLECTION


@dataclass
class Result:
    """What a module answered.

    ``result`` is the JSON object it printed; empty if it printed none (then ``rc`` and ``stderr`` tell why).
    """

    rc: int
    result: dict[str, Any] = field(default_factory=dict)
    stdout: str = ""
    stderr: str = ""

    @property
    def failed(self) -> bool:
        """The module said ``failed``, or ended without saying anything."""
        return bool(self.result.get("failed", not self.result)) or self.rc != 0

    @property
    def diagnosis(self) -> str | None:
        """The documented code of what was found."""
        return self.result.get("diagnosis")

    def __getitem__(self, key: str) -> Any:
        return self.result[key]


def wire_arguments(args: Mapping[str, Any], check: bool = False, tmpdir: str | None = None) -> bytes:
    """The JSON that Ansible hands to a module."""
    internal: dict[str, Any] = {"_ansible_check_mode": check, "_ansible_no_log": False, "_ansible_diff": True}
    if tmpdir is not None:
        internal.update(_ansible_remote_tmp=tmpdir, _ansible_tmpdir=tmpdir, _ansible_keep_remote_files=False)
    return json.dumps({"ANSIBLE_MODULE_ARGS": {**args, **internal}}).encode()


def module_command(name: str | Path, python: str | Path | None = None) -> list[str]:
    """The command that runs a module as a process of its own; its arguments are read from standard input.

    ``name`` is a module of this collection, or the path of a Python file (for trials).
    """
    interpreter = str(python or sys.executable)
    if isinstance(name, Path) or os.sep in str(name):
        return [interpreter, str(Path(name).resolve())]
    return [interpreter, "-m", f"ansible_collections.{COLLECTION}.plugins.modules.{name}"]


def module_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a module's process: the caller's, less Python's and Ansible's own settings, plus ``env``."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "ANSIBLE_"))}
    return {**inherited, "LC_ALL": "C.UTF-8", "PYTHONWARNINGS": "ignore::DeprecationWarning", **(env or {})}


def parse_answer(stdout: str) -> dict[str, Any]:
    """The last JSON object among the lines of a module's standard output, or an empty one."""
    for line in reversed(stdout.splitlines()):
        if line.lstrip().startswith("{"):
            with contextlib.suppress(json.JSONDecodeError):
                answer = json.loads(line)
                if isinstance(answer, dict):
                    return answer
    return {}


def run_module(
    name: str | Path,
    args: Mapping[str, Any],
    check: bool = False,
    env: Mapping[str, str] | None = None,
    timeout: float = 120,
    python: str | Path | None = None,
    preexec: Callable[[], None] | None = None,
) -> Result:
    """Run a module as Ansible does: a fresh process, its arguments as JSON on standard input, never in argv.

    ``timeout`` is in seconds; past it the process is killed and ``subprocess.TimeoutExpired`` raised.
    ``preexec`` runs in the child before the module starts (limits, another user).
    """
    with tempfile.TemporaryDirectory(prefix="module-") as tmpdir:
        Path(tmpdir).chmod(0o755)
        done = subprocess.run(
            module_command(name, python),
            input=wire_arguments(args, check, tmpdir),
            capture_output=True,
            env=module_environment(env),
            cwd=tmpdir if preexec is None else "/",  # nothing of the checkout is imported or written by chance
            timeout=timeout,
            preexec_fn=preexec,
            check=False,
        )
    stdout, stderr = (stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
    return Result(done.returncode, parse_answer(stdout), stdout, stderr)


@contextlib.contextmanager
def module_args(args: Mapping[str, Any], check: bool = False) -> Iterator[None]:
    """Give ``args`` to an ``AnsibleModule`` made inside this block, on any supported ansible-core.

    ``patch_module_args`` of ansible-core 2.19 does half of this; 2.16 to 2.18 have nothing.
    """
    from ansible.module_utils import basic

    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(basic, "_ANSIBLE_ARGS", wire_arguments(args, check)))
        for name, value in (("_ANSIBLE_PROFILE", "legacy"), ("_PARSED_MODULE_ARGS", None)):
            if hasattr(basic, name):
                patches.enter_context(mock.patch.object(basic, name, value))
        yield


def call_module(main: Callable[[], Any], args: Mapping[str, Any], check: bool = False) -> Result:
    """Call a module's ``main`` inside the test's process, so that what it uses can be patched."""
    stdout = io.StringIO()
    code: Any = 0
    with module_args(args, check), contextlib.redirect_stdout(stdout):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    rc = code if isinstance(code, int) else int(code is not None)
    return Result(rc, parse_answer(stdout.getvalue()), stdout.getvalue())
