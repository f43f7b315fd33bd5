# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL's own pg_restore as a second opinion: it reads the decrypted archive from its standard input."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from types import TracebackType
from typing import IO, Optional

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError

_VERSION = re.compile(r"\(PostgreSQL\) (\S+)")
_VERSION_TIMEOUT = 60
# The end may take a while in a container that is far away; it does not depend on the size of the backup.
_END_TIMEOUT = 600
_SAID_LIMIT = 64 * 1024


class PgRestore:
    """A running pg_restore that simulates a restore. Use it as a context manager, and :meth:`feed` and :meth:`finish`.

    :param command: the program and what stands before it, for example
        ``["docker", "exec", "-i", "central-postgres14-1", "pg_restore"]``
    :raises CentralError: ``missing_pg_restore``
    """

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._said = tempfile.TemporaryFile()
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._gone = False
        #: its version, for example ``14.22``
        self.version = self._ask_version()

    def _ask_version(self) -> str:
        try:
            done = subprocess.run(
                [*self._command, "--version"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_VERSION_TIMEOUT,
                env=_environment(),
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            self._said.close()
            raise _missing(self._command, str(getattr(error, "strerror", None) or "it does not answer")) from error
        found = _VERSION.search(done.stdout.decode("utf-8", "replace"))
        if done.returncode or found is None:
            self._said.close()
            raise _missing(self._command, _last_line(done.stderr) or "it does not tell its version")
        return found[1]

    def __enter__(self) -> PgRestore:
        self._process = subprocess.Popen(
            [*self._command, "--file", "/dev/null"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            env=_environment(),
        )
        return self

    def feed(self, name: str, data: bytes) -> None:
        """Hand over the next piece of the archive.

        :param name: of a file of the directory format, which cannot be read from a stream
        :raises CentralError: ``bad_option``
        """
        if name:
            raise CentralError(
                "bad_option",
                "pg_restore cannot read a dump in the directory format from a stream, so depth=pg_restore is for "
                "*.pgdump.enc.bin only. Use depth=full; or decrypt the zip by central_backup_decrypt, and run "
                "'pg_restore --file /dev/null' on the directory.",
            )
        if not self._gone and self._stdin is not None:
            try:
                self._stdin.write(data)
            except OSError:
                # It has ended early. What it thinks of the archive is asked at the end.
                self._gone = True

    @property
    def _stdin(self) -> Optional[IO[bytes]]:
        return self._process.stdin if self._process is not None else None

    def finish(self) -> str:
        """Hear what pg_restore says.

        :returns: the last line of its warnings, or empty
        :raises CentralError: ``pg_restore_too_old``, ``pg_restore_failed``
        """
        if self._process is None:
            raise AssertionError("finish() before the start")
        self._close_stdin()
        try:
            status = self._process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise CentralError(
                "pg_restore_failed", f"pg_restore {self.version} did not come to an end within {_END_TIMEOUT} seconds."
            ) from error
        said = self._read_said()
        if "unsupported version" in said:
            raise CentralError(
                "pg_restore_too_old",
                f"pg_restore {self.version} is older than the pg_dump that made the backup ({said}). "
                "The backup may be good: name a newer pg_restore, or use depth=full.",
            )
        if status:
            raise CentralError(
                "pg_restore_failed",
                f"pg_restore {self.version} does not accept the archive (exit {status}): {said or 'it says nothing'}. "
                "Use another backup, and report this: our own reader found nothing wrong.",
            )
        return said

    def _close_stdin(self) -> None:
        if self._stdin is not None:
            with contextlib.suppress(OSError):
                self._stdin.close()

    def _read_said(self) -> str:
        self._said.seek(0)
        return _last_line(self._said.read(_SAID_LIMIT))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._close_stdin()
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
        self._said.close()


def _environment() -> dict[str, str]:
    """Messages in English, and nothing that makes libpq connect anywhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C"}


def _last_line(said: bytes) -> str:
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _missing(command: list[str], why: str) -> CentralError:
    return CentralError(
        "missing_pg_restore",
        f"pg_restore cannot be run as '{' '.join(command)}' ({why}). Install the PostgreSQL client "
        "(Debian and Ubuntu: postgresql-client), name a container's in the option pg_restore, or use depth=full.",
    )
