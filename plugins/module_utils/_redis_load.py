# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting keys into a Redis in one transaction, and comparing what it holds with what it should.

Sent is Redis's own protocol (RESP): MULTI, the commands, EXEC. EXEC goes only when everything before it was given, so
that a sender who dies, or a source that turns out to be damaged at its end, changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Callable

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._redis_export import Key

_MAXIMUM_KEYS = 5_000_000
#: elements of a key in one command
_AT_ONCE = 1000
#: what is gathered before it is sent, in bytes
_PIECE = 64 * 1024

_ADD = {"list": b"RPUSH", "set": b"SADD", "zset": b"ZADD", "hash": b"HSET"}

Command = list[bytes]


def commands_of(key: Key) -> Iterator[Command]:
    """What makes a key that is not there, in the database that is selected."""
    value = key.value
    if isinstance(value, bytes):
        yield [b"SET", key.key, value]
    else:
        for start in range(0, len(value), _AT_ONCE):
            yield [_ADD[key.type], key.key, *_words(key.type, value[start : start + _AT_ONCE])]
    if key.expires_at is not None:
        yield [b"PEXPIREAT", key.key, b"%d" % key.expires_at]


def _words(kind: str, items: list[bytes] | list[tuple[bytes, bytes]]) -> Iterator[bytes]:
    for item in items:
        if isinstance(item, bytes):
            yield item
        else:  # ZADD takes the score first
            yield from (item[::-1] if kind == "zset" else item)


class Transaction:
    """A transaction as a stream, to be read once.

    :param keys: what is put in; each replaces the key of its name
    :param replace_all: remove everything else, in all databases
    """

    def __init__(self, keys: Iterable[Key], replace_all: bool) -> None:
        self._commands = self._all(keys, replace_all)
        self._ready = b""
        #: commands that were given, each of which is answered
        self.commands = 0
        #: keys that were given
        self.keys = 0

    def _all(self, keys: Iterable[Key], replace_all: bool) -> Iterator[Command]:
        yield [b"MULTI"]
        if replace_all:
            yield [b"FLUSHALL"]
        selected = 0
        for key in keys:
            if key.db != selected:
                yield [b"SELECT", b"%d" % key.db]
                selected = key.db
            if not replace_all:
                yield [b"DEL", key.key]
            yield from commands_of(key)
            self.keys += 1
        yield [b"EXEC"]

    def read(self, size: int, /) -> bytes:
        """As :meth:`Readable.read`."""
        if not self._ready:
            pieces: list[bytes] = []
            held = 0
            for command in self._commands:
                self.commands += 1
                piece = b"*%d\r\n" % len(command)
                piece += b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in command)
                pieces.append(piece)
                held += len(piece)
                if held >= _PIECE:
                    break
            self._ready = b"".join(pieces)
        data, self._ready = self._ready[:size], self._ready[size:]
        return data


# --- comparing --------------------------------------------------------------------------------------------------


def _number(*texts: bytes) -> int:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(b"%d:" % len(text))
        digest.update(text)
    return int.from_bytes(digest.digest(), "big")


def _score(text: bytes) -> bytes:
    """A score in one form: before Redis 7.2, 0.1 is printed as 0.10000000000000001."""
    try:
        return repr(float(text)).encode()
    except ValueError:
        return text


def _content(key: Key, without: bytes | None = None) -> int:
    """A digest of type and value.

    :param without: a field of hashes that does not count
    """
    value = key.value
    if isinstance(value, bytes):
        return _number(key.type.encode(), value)
    items: list[tuple[bytes, ...]]
    if key.type == "zset":
        items = [(item[0], _score(item[1])) for item in value if isinstance(item, tuple)]
    else:
        items = [(item,) if isinstance(item, bytes) else item for item in value]
    if key.type == "hash":
        items = [item for item in items if item[0] != without]
    ordered = items if key.type == "list" else sorted(items)
    return _number(key.type.encode(), *(part for item in ordered for part in item))


@dataclass(frozen=True)
class Difference:
    """How what Redis holds differs from what it should hold: numbers of keys."""

    missing: int = 0
    other: int = 0
    surplus: int = 0

    def __bool__(self) -> bool:
        return bool(self.missing or self.other or self.surplus)

    def __str__(self) -> str:
        return f"{self.missing} key(s) are missing, {self.other} have another value, {self.surplus} should not be there"


# Before Redis 7, when a key expires is known to some milliseconds only.
_TOLERANCE = 1000


@dataclass
class Expected:
    """What a Redis should hold: digests of keys and values, some 300 bytes for each key.

    :param names_only: values were not known, and are not compared
    :param passing: a field of hashes that changes by itself; see :meth:`compare`
    """

    names_only: bool = False
    passing: bytes | None = None
    _keys: dict[int, tuple[int, int, int | None]] = field(default_factory=dict)

    def add(self, key: Key) -> None:
        """Expect `key`.

        :raises CentralError: ``corrupt`` where it is expected already, or there are too many
        """
        contents = (0, 0) if self.names_only else (_content(key), _content(key, self.passing))
        self._add(key.db, key.key, contents, key.expires_at)

    def add_name(self, db: int, key: bytes, expires_at: int | None) -> None:
        """Expect a key whose value is not known."""
        self._add(db, key, (0, 0), expires_at)

    def _add(self, db: int, key: bytes, contents: tuple[int, int], expires_at: int | None) -> None:
        name = _number(b"%d" % db, key)
        if name in self._keys:
            raise CentralError("corrupt", "The export of Redis has a key twice. Use another backup.")
        if len(self._keys) >= _MAXIMUM_KEYS:
            raise CentralError(
                "corrupt", f"The export of Redis has more than {_MAXIMUM_KEYS} keys, which cannot be genuine."
            )
        self._keys[name] = (*contents, expires_at)

    def __len__(self) -> int:
        return len(self._keys)

    def compare(self, keys: Iterable[Key], now: Callable[[], int], strict: bool = True) -> Difference:
        """Compare with what a Redis holds.

        :param keys: all that it holds; one may come twice, as SCAN gives it
        :param strict: whether the field counts that changes by itself
        :param now: gives its clock, in milliseconds since 1970, after all has come. What has expired by then may be missing
        """
        other = surplus = 0
        seen: set[int] = set()
        for key in keys:
            name = _number(b"%d" % key.db, key.key)
            if name in seen:
                continue
            seen.add(name)
            wanted = self._keys.get(name)
            if wanted is None:
                surplus += 1
            elif not self.names_only:
                same = wanted[0] == _content(key) if strict else wanted[1] == _content(key, self.passing)
                other += not same or not _same_time(wanted[2], key.expires_at)
        gone = [wanted[2] for name, wanted in self._keys.items() if name not in seen]
        expiring = [expires_at for expires_at in gone if expires_at is not None]
        clock = now() if expiring else 0
        missing = len(gone) - sum(expires_at <= clock for expires_at in expiring)
        return Difference(missing, other, surplus)


def _same_time(first: int | None, second: int | None) -> bool:
    if first is None or second is None:
        return first is second
    return abs(first - second) <= _TOLERANCE
