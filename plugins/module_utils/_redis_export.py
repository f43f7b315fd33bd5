# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The logical export of a Redis: every key with its type, expiry and value, as one line of JSON each.

``{"db":0,"key":"id:abc","type":"hash","expires_at":null,"value":[["active","true"],["theme",""]]}``

- ``type`` is ``string``, ``list``, ``set``, ``zset`` or ``hash``; anything else is refused, since nothing that Enketo
  writes is of another type.
- ``value`` is a text; a list of texts (list, set); or of pairs: member and score (zset), field and value (hash).
  Scores are texts as Redis prints them, which it reads back as the same number. Sets and pairs are sorted.
- ``expires_at`` is in milliseconds since 1970, by Redis's clock.
- A text that is not UTF-8 is ``{"base64": "..."}``.

Each key was read at one moment, different keys at different moments, since Redis is not stopped. A line says all
that is needed to make its key anew by DEL, one of SET, RPUSH, SADD, ZADD, HSET, and PEXPIREAT.

What comes from the Central's side are netstrings (``5:hello``): ``database`` and a number; or a type, a key, when it
expires (or nothing), how many texts its value is, and these; at last ``end``. See _enketo_operations.py.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Union

from ansible_collections.odkops.central.plugins.module_utils._enketo_operations import (
    MAXIMUM_BYTES,
    MAXIMUM_ELEMENTS,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK, Readable

_ONE = ("string",)
_LISTS = ("list", "set")
_PAIRS = ("zset", "hash")
TYPES = (*_ONE, *_LISTS, *_PAIRS)

_MAXIMUM_KEY = 1024 * 1024
#: a line of JSON cannot be longer: a control character takes six bytes, and the rest is little
MAXIMUM_LINE = 6 * (MAXIMUM_BYTES + _MAXIMUM_KEY) + 64 * MAXIMUM_ELEMENTS

Value = Union[bytes, list[bytes], list[tuple[bytes, bytes]]]


@dataclass(frozen=True)
class Key:
    """A key of Redis with everything that it is."""

    db: int
    key: bytes
    #: one of :data:`TYPES`
    type: str
    #: in milliseconds since 1970, or None where it does not expire
    expires_at: int | None
    #: a text; a list of them; or, for zset and hash, of pairs
    value: Value


def _broken(problem: str) -> CentralError:
    return CentralError(
        "corrupt", f"What came from the Central as the export of Redis is damaged: {problem}. Make another backup."
    )


class _Netstrings:
    """Reads netstrings; line feeds between them are allowed."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._buffer = b""
        self._position = 0

    def _fill(self) -> None:
        data = self._source.read(CHUNK)
        if not data:
            raise CentralError(
                "truncated", "What came from the Central as the export of Redis ends too early. Make another backup."
            )
        self._buffer = self._buffer[self._position :] + data
        self._position = 0

    def take(self, limit: int) -> bytes:
        """The next text, of at most `limit` bytes."""
        size = 0
        digits = 0
        while True:
            if self._position == len(self._buffer):
                self._fill()
            byte = self._buffer[self._position]
            self._position += 1
            if byte == 0x3A and digits:
                break
            if byte == 0x0A and not digits:
                continue
            if not 0x30 <= byte <= 0x39 or digits > 9:
                raise _broken("there is no length where one belongs")
            size = size * 10 + byte - 0x30
            digits += 1
        if size > limit:
            raise _broken(f"a text has {size} bytes")
        if len(self._buffer) - self._position < size:
            return self._long(size)
        start, self._position = self._position, self._position + size
        return self._buffer[start : self._position]

    def _long(self, size: int) -> bytes:
        pieces = []
        while size:
            if self._position == len(self._buffer):
                self._fill()
            piece = self._buffer[self._position : self._position + size]
            self._position += len(piece)
            size -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def number(self) -> int:
        """The next text, which is a whole number."""
        text = self.take(20)
        if not text.isdigit():
            raise _broken("there is no number where one belongs")
        return int(text)

    def end(self) -> None:
        """Nothing but line feeds may follow. The source is read to its end, where it tells whether all went well."""
        rest = self._buffer[self._position :]
        while True:
            if rest.strip(b"\n"):
                raise _broken("something follows its end")
            rest = self._source.read(CHUNK)
            if not rest:
                return


def read_netstrings(source: Readable) -> Iterator[Key]:
    """Read what the operation ``enketo-export`` gives. A key may come twice: SCAN allows itself that.

    Memory is bounded by the largest key, whose value has at most :data:`MAXIMUM_BYTES` bytes.

    :raises CentralError: ``unsupported_key``, ``corrupt``, ``truncated``
    """
    texts = _Netstrings(source)
    database: int | None = None
    while True:
        word = texts.take(16)
        if word == b"end":
            texts.end()
            return
        if word == b"database":
            database = texts.number()
            continue
        kind = word.decode("ascii", "replace")
        key = texts.take(_MAXIMUM_KEY)
        expires = texts.take(20)
        count = texts.number()
        if kind == "refused" and count == 1:
            raise _unsupported(key, texts.take(200))
        if kind not in TYPES or database is None or count > 2 * MAXIMUM_ELEMENTS or not (expires or b"0").isdigit():
            raise _broken("it has a record of an impossible form")
        items = []
        left = MAXIMUM_BYTES
        for _item in range(count):
            item = texts.take(left)
            left -= len(item)
            items.append(item)
        yield Key(database, key, kind, int(expires) if expires else None, _value(kind, items))


def _value(kind: str, items: list[bytes]) -> Value:
    if kind in _ONE:
        if len(items) != 1:
            raise _broken("a string is not one text")
        return items[0]
    if not items or (kind in _PAIRS and len(items) % 2):
        raise _broken("it has a record of an impossible form")
    if kind in _PAIRS:
        return sorted(zip(items[::2], items[1::2]))
    return sorted(items) if kind == "set" else items


def _unsupported(key: bytes, problem: bytes) -> CentralError:
    # Of a key no more than its beginning: what follows may be the token of a draft.
    name = key.split(b":", 1)[0][:32].decode("utf-8", "replace")
    return CentralError(
        "unsupported_key",
        f"Redis of Enketo holds a key ({name}:...) that is {problem.decode('utf-8', 'replace')}, which Enketo does not "
        "write and the export does not take. Find out what put it there, and remove it.",
    )


# --- JSON lines -------------------------------------------------------------------------------------------------


def _to_json(text: bytes) -> str | dict[str, str]:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(text).decode("ascii")}


def line_of(key: Key) -> bytes:
    """Return the line of JSON for `key`, with its line feed."""
    value: Any
    if isinstance(key.value, bytes):
        value = _to_json(key.value)
    else:
        value = [_to_json(item) if isinstance(item, bytes) else [_to_json(part) for part in item] for item in key.value]
    line = {"db": key.db, "key": _to_json(key.key), "type": key.type, "expires_at": key.expires_at, "value": value}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode("utf-8") + b"\n"


def _bad_line() -> CentralError:
    return CentralError("corrupt", "The export of Redis has a line that is not one of it. Use another backup.")


def _from_json(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8")
    if isinstance(value, dict) and set(value) == {"base64"} and isinstance(value["base64"], str):
        return base64.b64decode(value["base64"], validate=True)
    raise _bad_line()


def _pair(value: Any) -> tuple[bytes, bytes]:
    if not isinstance(value, list) or len(value) != 2:
        raise _bad_line()
    return _from_json(value[0]), _from_json(value[1])


def key_of(line: bytes) -> Key:
    """Read a line that :func:`line_of` wrote.

    :raises CentralError: ``corrupt``
    """
    try:
        found = json.loads(line.decode("utf-8"))
        if not isinstance(found, dict) or set(found) != {"db", "key", "type", "expires_at", "value"}:
            raise _bad_line()
        db, kind, expires, value = found["db"], found["type"], found["expires_at"], found["value"]
        whole = (db, 0 if expires is None else expires)
        if any(isinstance(each, bool) or not isinstance(each, int) or each < 0 for each in whole):
            raise _bad_line()
        if kind in _ONE:
            read: Value = _from_json(value)
        elif not isinstance(value, list) or not value:
            raise _bad_line()
        elif kind in _LISTS:
            read = [_from_json(item) for item in value]
        elif kind in _PAIRS:
            read = [_pair(item) for item in value]
        else:
            raise _bad_line()
        return Key(db, _from_json(found["key"]), kind, expires, read)
    except (ValueError, RecursionError, binascii.Error) as error:
        raise _bad_line() from error


def read_lines(source: Readable) -> Iterator[Key]:
    """Read an export. Memory is bounded by its longest line, at most :data:`MAXIMUM_LINE` bytes.

    :raises CentralError: ``corrupt``, ``truncated``
    """
    pieces: list[bytes] = []
    size = 0
    while data := source.read(CHUNK):
        *lines, rest = data.split(b"\n")
        for line in lines:
            yield key_of(b"".join((*pieces, line)))
            pieces, size = [], 0
        pieces.append(rest)
        size += len(rest)
        if size > MAXIMUM_LINE:
            raise _bad_line()
    if size:
        raise CentralError("truncated", "The export of Redis ends in the middle of a line. Use another backup.")
