# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running rclone: it ends when we do, and what it says is understood while it says it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, writing_error
from ansible_collections.odkops.central.plugins.module_utils._rclone import Rclone, base_environment

#: what a line is about; see :func:`classify`
MISSING, DENIED, CREDENTIALS, BUCKET, UNREACHABLE, DISK_FULL, OTHER = (
    *("missing", "denied", "credentials", "bucket"),
    *("unreachable", "disk_full", "other"),
)

# A killed Python closes the pipe that is stdin here, and rclone is ended. `read` is built in: no other process waits.
_WATCHED = """\
exec 3<&0 </dev/null
"$@" 3<&- &
child=$!
(
  while read -r line; do :; done
  kill -TERM "$child"
  sleep 10
  kill -KILL "$child"
) <&3 >/dev/null 2>&1 &
watcher=$!
exec 3<&-
wait "$child"
result=$?
kill "$watcher" 2>/dev/null
exit "$result"
"""

_LONGEST_LINE = 64 * 1024
_KINDS: tuple[tuple[str, str], ...] = (
    (DISK_FULL, "no space left on device|disk quota exceeded|too big for remaining disk space"),
    (CREDENTIALS, "SignatureDoesNotMatch|InvalidAccessKeyId|InvalidClientTokenId|ExpiredToken|InvalidToken"),
    (CREDENTIALS, "AuthorizationHeaderMalformed|RequestTimeTooSkewed|AuthorizationQueryParametersError"),
    (BUCKET, "NoSuchBucket|InvalidBucketName|PermanentRedirect|BucketRegionError"),
    (MISSING, "object not found|NoSuchKey|status ?code: 404"),
    (DENIED, "AccessDenied|Forbidden|status ?code: 403"),
    (
        UNREACHABLE,
        "connection refused|no such host|no route to host|network is unreachable|connection reset|i/o timeout",
    ),
    (UNREACHABLE, "x509|tls: |certificate|context deadline exceeded|server misbehaving|gave HTTP response|EOF"),
)
_PATTERNS = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _KINDS)


@dataclass(frozen=True)
class LogLine:
    """A line of rclone's log."""

    level: str
    message: str
    #: name of the object that it is about, if any
    object: str | None

    @property
    def kind(self) -> str:
        """See :func:`classify`."""
        return classify(self.message)


def classify(message: str) -> str:
    """Say what an error of rclone is about: one of the words above."""
    for kind, pattern in _PATTERNS:
        if pattern.search(message):
            return kind
    return OTHER


def parse_line(line: str) -> LogLine:
    """Read a line of rclone's log, which is JSON but for what versions before 1.64 say last."""
    if line.startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(line)
            name = value.get("object")
            return LogLine(str(value.get("level")), str(value.get("msg")), name if isinstance(name, str) else None)
    return LogLine("text", line, None)


def shortened(message: str, secrets: Sequence[str] = ()) -> str:
    """Return what rclone said as one line for a person, without any of `secrets`."""
    text = " ".join(message.split())
    for secret in sorted((secret for secret in secrets if secret), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = re.sub(r",? ?(request id|host id|RequestID|HostID): ?[^,\s]*", "", text)
    return text if len(text) <= 300 else text[:300] + "..."


class RcloneJob:
    """One run of rclone, as a context manager. Leaving it early ends the process.

    :param arguments: of rclone; no secrets
    :param environment: what it gets beside :func:`base_environment`: remotes, with their secrets, and settings
    :param output: where its standard output goes
    :param log: where its log goes instead of :meth:`lines`
    """

    def __init__(
        self,
        rclone: Rclone,
        arguments: Sequence[str],
        environment: dict[str, str],
        output: IO[bytes] | None = None,
        log: IO[bytes] | None = None,
    ) -> None:
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHED, "rclone-watch", rclone.path, *arguments, "--use-json-log"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL if output is None else output,
                stderr=subprocess.PIPE if log is None else log,
                env={**base_environment(), **environment},
                umask=0o077,
                start_new_session=True,
            )
        except OSError as error:
            raise CentralError("missing_rclone", f"{rclone.path} could not be started: {error}.") from error

    def lines(self) -> Iterator[LogLine]:
        """What it says, as it says it, until it has ended."""
        pipe = self._process.stderr
        if pipe is None:
            return
        while raw := pipe.readline(_LONGEST_LINE):
            line = raw.decode("utf-8", "replace").strip()
            if line:
                yield parse_line(line)

    def wait(self) -> int:
        """Wait until it has ended; returns its exit status."""
        return self._process.wait()

    def close(self) -> None:
        """End it, if it still runs, and see it ended."""
        for pipe in (self._process.stdin, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()

    def __enter__(self) -> RcloneJob:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


class HashRun:
    """Hashes files of a remote by reading them. Several can run at the same time.

    :param kind: ``sha1`` or ``md5``
    :param location: what to read, such as ``pool:``
    :param directory: where temporary files without a name are made if memory cannot hold them; they hold names and hashes
    :param names: path of a file with the names to read; all that is there if None
    :param checkers: how many files are read at the same time
    """

    def __init__(
        self,
        rclone: Rclone,
        kind: str,
        location: str,
        environment: dict[str, str],
        directory: str,
        names: str | None = None,
        checkers: int = 8,
    ) -> None:
        self.kind = kind
        self._directory = directory
        with contextlib.ExitStack() as stack:
            self._output = stack.enter_context(_scratch(directory))
            self._log = stack.enter_context(_scratch(directory))
            arguments = ["hashsum", kind, "--download", location, "--checkers", str(checkers), "--retries", "1"]
            if names is not None:
                arguments += ["--files-from-raw", names, "--no-traverse"]
            settings = {**environment, "RCLONE_BUFFER_SIZE": "0", "RCLONE_LOW_LEVEL_RETRIES": "1"}
            self._job = stack.enter_context(RcloneJob(rclone, arguments, settings, self._output, self._log))
            self._stack = stack.pop_all()

    def finish(self) -> tuple[Iterator[tuple[str, str]], dict[str, str]]:
        """Wait for the end.

        :returns: hash in hexadecimal digits and name of each file that could be read; and why others could not, by name
        :raises CentralError: ``rclone_failed`` where it did not end by itself
        """
        status = self._job.wait()
        self._log.seek(0)
        problems: dict[str, str] = {}
        last = "nothing was said"
        for raw in self._log:
            line = parse_line(raw.decode("utf-8", "replace").strip())
            last = line.message or last
            if line.level == "error" and line.object:
                problems[line.object] = shortened(line.message)
        if classify(last) == DISK_FULL:
            raise writing_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), self._directory)
        if status != 0 and not problems:
            raise CentralError(
                "rclone_failed", f"rclone ended with status {status} while it read the pool: {shortened(last)}."
            )
        self._output.seek(0)
        return self._hashes(), problems

    def _hashes(self) -> Iterator[tuple[str, str]]:
        for raw in self._output:
            found, _space, name = raw.decode("utf-8", "surrogateescape").rstrip("\n").partition("  ")
            if re.fullmatch(r"[0-9a-f]{32,40}", found):
                yield found, name

    def close(self) -> None:
        """End it, and remove what it has written."""
        self._stack.close()

    def __enter__(self) -> HashRun:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _scratch(directory: str) -> IO[bytes]:
    """Return a file for some hundred KB of output: in memory, so that a full disk cannot cut it short unnoticed."""
    try:
        return os.fdopen(os.memfd_create("odkops-rclone", os.MFD_CLOEXEC), "w+b")
    except (AttributeError, OSError):
        try:
            return tempfile.TemporaryFile(dir=directory)
        except OSError as error:
            raise writing_error(error, directory) from error
