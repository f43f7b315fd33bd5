# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The snapshot of Enketo's Redis on its way: what the operation ``enketo-rdb`` says first, and the file behind it.

First come lines of a word and a value, then an empty line, then the RDB file. Where Redis could not save, the first
lines say so, and nothing follows.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from types import TracebackType

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._rdb import OnKey, RdbFacts, check_rdb
from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK, Prefixed, Readable

_MAXIMUM_HEADER = 64 * 1024
_DEPTH = 4
_LOG = "Look at its log (docker compose logs enketo_redis_main)."


def parse_lines(data: bytes) -> dict[str, str]:
    """Read lines of a word and a value, up to an empty line.

    :raises CentralError: ``corrupt``
    """
    found = {}
    for line in data.decode("utf-8", "replace").splitlines():
        name, space, value = line.partition(" ")
        if not space:
            raise _garbled()
        found[name] = value.strip()
    return found


def _garbled() -> CentralError:
    return CentralError(
        "corrupt", "What came from the Central about its Redis is not what was asked for. Make another backup."
    )


def number(lines: dict[str, str], name: str) -> int:
    """The whole number that `lines` have under `name`.

    :raises CentralError: ``corrupt``
    """
    value = lines.get(name, "")
    if not value.isascii() or not value.isdigit() or len(value) > 18:
        raise _garbled()
    return int(value)


def refuse_failure(lines: dict[str, str]) -> None:
    """Say why Redis has not saved, where the lines of an operation tell that.

    :raises CentralError: ``redis_save_failed``, ``central_disk_full``
    """
    problem = lines.get("failed")
    if problem is None:
        return
    answer = lines.get("answer", "")[:200] or "no answer"
    if problem == "busy":
        raise CentralError(
            "redis_save_failed",
            f"Redis of Enketo was busy with another save for too long ({answer}). {_LOG} Raise save_timeout where it is "
            "only slow.",
        )
    if problem == "missing":
        raise CentralError(
            "redis_save_failed",
            f"Redis of Enketo says that it has saved, but there is no file {answer} in its container. {_LOG}",
        )
    free, memory = (int(lines[name]) if lines.get(name, "").isdigit() else None for name in ("free", "memory"))
    if free is not None and memory is not None and free * 1024 < memory:
        raise CentralError(
            "central_disk_full",
            f"Redis of Enketo could not save ({answer}): its disk has {free * 1024} bytes free, and it may need {memory}. "
            "Make room on the Central's host.",
            free=free * 1024,
            needed=memory,
        )
    raise CentralError("redis_save_failed", f"Redis of Enketo could not save: {answer}. {_LOG}")


@dataclass(frozen=True)
class Saved:
    """What was said of a snapshot before it came."""

    redis_version: str
    #: ``save`` or ``bgsave``
    method: str
    #: seconds since 1970 by Redis's clock, just before it saved
    before: int
    #: of the file, in bytes
    size: int
    #: whether ``redis-check-rdb`` in the container found it whole; None where there is none
    checked: bool | None


def read_header(source: Readable) -> tuple[Saved, Readable]:
    """Read what comes before the file; returns it, and the stream of the file.

    :raises CentralError: ``redis_save_failed``, ``central_disk_full``, ``redis_check_failed``, ``corrupt``, ``truncated``
    """
    data = b""
    while b"\n\n" not in data:
        piece = source.read(CHUNK)
        if not piece:
            raise CentralError(
                "truncated", "What came from the Central about its Redis ends too early. Make another backup."
            )
        data += piece
        if len(data) > _MAXIMUM_HEADER and b"\n\n" not in data[:_MAXIMUM_HEADER]:
            raise _garbled()
    head, rest = data.split(b"\n\n", 1)
    lines = parse_lines(head)
    refuse_failure(lines)
    check = lines.get("check", "")
    if check.startswith("failed"):
        raise CentralError(
            "redis_check_failed",
            f"redis-check-rdb in the container does not accept the file that Redis of Enketo has just written: "
            f"{check[6:].strip()[:200] or 'no reason is known'}. Check the memory and the disk of the Central's host.",
        )
    saved = Saved(
        redis_version=lines.get("redis_version", "")[:32],
        method=lines.get("method", "")[:16],
        before=number(lines, "before"),
        size=number(lines, "size"),
        checked=True if check == "ok" else None,
    )
    return saved, Prefixed(rest, source)


def require_recent(facts: RdbFacts, saved: Saved) -> None:
    """Refuse a file that was not written by the save that was asked for, or after it.

    :raises CentralError: ``redis_save_failed``
    """
    if facts.created is None or facts.created < saved.before:
        raise CentralError(
            "redis_save_failed",
            "The RDB file of Redis is older than the save that was just made: Redis of Enketo writes elsewhere than its "
            "settings dir and dbfilename say, or its clock was set back. Look at its configuration.",
        )


class CheckedRdb:
    """Passes an RDB file on, and checks it meanwhile. Use it as a context manager.

    The last :meth:`read`, which gives nothing, raises what is wrong with the file.

    :param source: the file
    :param on_key: called with each key, in another thread
    """

    def __init__(self, source: Readable, on_key: OnKey | None = None) -> None:
        self._source = source
        self._on_key = on_key
        self._pieces: queue.Queue[bytes] = queue.Queue(_DEPTH)
        self._facts: RdbFacts | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._check, daemon=True)

    def _check(self) -> None:
        pieces = _Pieces(self._pieces)
        try:
            self._facts = check_rdb(pieces, self._on_key)
        except BaseException as error:  # noqa: BLE001  # raised again by read()
            self._error = error
        while pieces.read(1):
            pass  # nobody waits for a full queue

    def read(self, size: int, /) -> bytes:
        """As :meth:`Readable.read`.

        :raises CentralError: ``corrupt``, ``truncated``, and what the source raises
        """
        if self._ended:
            return b""
        data = self._source.read(size)
        self._pieces.put(data)
        if not data:
            self._ended = True
            self._thread.join()
        if self._error is not None:
            raise self._error
        return data

    @property
    def facts(self) -> RdbFacts:
        """What the file says, after it was read to its end."""
        if self._facts is None:
            raise AssertionError("the file was not read to its end")
        return self._facts

    def __enter__(self) -> CheckedRdb:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._ended:
            self._ended = True
            self._pieces.put(b"")
            self._thread.join()


class _Pieces:
    """A queue of pieces as a stream; an empty one ends it."""

    def __init__(self, pieces: queue.Queue[bytes]) -> None:
        self._pieces = pieces
        self._ended = False

    def read(self, size: int, /) -> bytes:
        """As :meth:`Readable.read`, except that it gives a piece as it came."""
        if self._ended:
            return b""
        data = self._pieces.get()
        self._ended = not data
        return data
