# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The records that a Central's host gives of its configuration, read; _config_operations.py says what they are."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK, Readable

#: Lines are short, but names may have 4 KiB, and targets of links, too.
_LONGEST_LINE = 64 * 1024

#: No host that means well gives more: what it may read is limited in number and size.
MAXIMUM_RECORDS = 20_000
MAXIMUM_BYTES = 2 * 1024 * 1024 * 1024

_FIELDS = {"file": 6, "large": 4, "link": 4, "absent": 3, "special": 3, "more": 3, "output": 2}
_WORDS = frozenset({"git", "no-git", "no-git-command", "no-commit"})


@dataclass(frozen=True)
class Record:
    """One thing that was found, or not.

    :param kind: the first word of the record
    :param origin: why it was looked for
    :param name: a path, or of an ``output`` its name
    :param content: of a ``file`` and an ``output``; None where it is larger than the limit
    :param status: 0, or the exit status of what should have read or printed it
    :param size: in bytes, of a ``file`` and ``large``; for ``more`` the number of files
    :param target: of a ``link``
    :param changed: whether the file changed while it was read
    """

    kind: str
    origin: str = ""
    name: bytes = b""
    content: bytes | None = b""
    status: int = 0
    mode: int = 0o600
    mtime: int = 0
    size: int = 0
    target: bytes = b""
    changed: bool = False


class RecordReader:
    """Reads records from the output of an operation.

    :param limit: bytes of content that are kept of one record
    :raises CentralError: ``operation_failed`` where the output has another form
    """

    def __init__(self, source: Readable, limit: int) -> None:
        self._source = source
        self._limit = limit
        self._rest = b""
        self._read = 0

    def _lines(self) -> Iterator[bytes]:
        """Lines, without splitting what is left of a piece again and again."""
        while True:
            data = self._source.read(CHUNK)
            lines = (self._rest + data).split(b"\n")
            self._rest = lines.pop()
            self._read += len(data)
            if len(self._rest) > _LONGEST_LINE or self._read > MAXIMUM_BYTES:
                raise _strange()
            yield from lines
            if not data:
                if self._rest:
                    raise _strange()
                return

    def __iter__(self) -> Iterator[Record]:
        lines = self._lines()
        for count, line in enumerate(lines):
            if count >= MAXIMUM_RECORDS:
                raise _strange()
            try:
                yield self._record(line.decode("ascii").split(" "), lines)
            except (ValueError, StopIteration) as error:  # Unicode and base64 errors are ValueErrors, too
                raise _strange() from error

    def _record(self, fields: list[str], lines: Iterator[bytes]) -> Record:
        kind = fields[0]
        if len(fields) == 1 and kind in _WORDS:
            return Record(kind)
        if len(fields) != _FIELDS.get(kind):
            raise ValueError("not a record")
        if kind == "more":
            return Record(kind, fields[1], size=int(fields[2]))
        if kind == "output":
            content, _end = self._content(lines, 1)
            return _output(_name(fields[1]), content)
        origin, name = fields[1], _name(fields[2])
        if kind == "file":
            mode, mtime, size = int(fields[3], 8), int(fields[4]), int(fields[5])
            content, end = self._content(lines, 4)
            changed = end[2:] != [str(mtime), str(size)] or (content is not None and len(content) != size)
            return Record(kind, origin, name, content, int(end[1]), mode, mtime, size, changed=changed)
        if kind == "large":
            return Record(kind, origin, name, None, size=int(fields[3]))
        if kind == "link":
            return Record(kind, origin, name, target=_name(fields[3]))
        return Record(kind, origin, name)

    def _content(self, lines: Iterator[bytes], fields: int) -> tuple[bytes | None, list[str]]:
        """Lines of base64 up to the end of the record; None where they are more than the limit."""
        pieces: list[bytes] = []
        size = 0
        for line in lines:
            # The word is no base64 of a whole line: it has three letters.
            if line == b"end" or line.startswith(b"end "):
                end = line.decode("ascii").split(" ")
                if len(end) != fields:
                    raise ValueError("not the end of a record")
                return (b"".join(pieces) if size <= self._limit + 16 else None), end
            data = base64.b64decode(line, validate=True)
            size += len(data)
            if size <= self._limit + 16:
                pieces.append(data)
            else:
                pieces.clear()
        raise ValueError("a record has no end")


def _output(name: bytes, content: bytes | None) -> Record:
    if content is None:
        return Record("output", name=name, content=None)
    printed, _separator, status = content.rpartition(b"\n")
    return Record("output", name=name, content=printed, status=int(status), size=len(printed))


def _name(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _strange() -> CentralError:
    return CentralError(
        "operation_failed",
        "What the Central's host says of its configuration cannot be understood. Its shell, or base64, stat, find or "
        "xargs, are not of the usual kind. Please report it.",
    )
