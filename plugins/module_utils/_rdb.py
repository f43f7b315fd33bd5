# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checking an RDB file, the snapshot that Redis writes: its header, every opcode, its end, its CRC-64.

``REDIS`` and four digits of version; then opcodes, or a type, a key and a value; then 0xFF and the
CRC-64 of all before it, little-endian, zero where Redis was told to leave it out. Lengths have their
form in the two highest bits of their first byte; the form 3 announces a number or compressed text.
Source: redis/redis, src/rdb.h and src/rdb.c, versions 9 (Redis 5) to 12 (Redis 8.0); 13 (Redis 8.6)
has types and an opcode more, which are of no use to Enketo.

Keys are read, values are passed over. What this reader cannot pass over (a stream, a type of a later
Redis) ends the walk, not the check: the CRC-64 covers the whole file in any case.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Callable

from ansible_collections.odkops.central.plugins.module_utils._crc64 import crc64
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._lzf import lzf_decompress
from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK, Readable

#: the first version with a CRC-64
OLDEST_VERSION = 5

# A longer key or field of the header is none of Enketo's or Redis's.
_MAXIMUM_KEY = 1024 * 1024
_MAXIMUM_AUX = 64
_MAXIMUM_DATABASES = 1024

_TRAILER = 8
_EOF = 0xFF

# The value of a type is a number of strings, or pairs of them, or one string that holds everything.
_ONE_STRING = {0: "string", 9: "hash", 10: "list", 11: "set", 12: "zset", 13: "hash", 16: "hash", 17: "zset", 20: "set"}
_STRINGS = {1: "list", 2: "set", 14: "list"}
_OTHERS = {3: "zset", 4: "hash", 5: "zset", 18: "list", 7: "module", 22: "hash", 23: "hash", 24: "hash", 25: "hash"}
_NAMES = {**_ONE_STRING, **_STRINGS, **_OTHERS, 6: "module", 15: "stream", 19: "stream", 21: "stream"}


class _UnknownError(Exception):
    """The walk ends here: what follows is not known to this reader."""


@dataclass
class RdbFacts:
    """What an RDB file says."""

    #: version of the format: 9 is Redis 5, 10 Redis 7.0, 11 Redis 7.2, 12 Redis 7.4 and 8.0
    version: int = 0
    #: version of the Redis that wrote it, for example ``7.0.15``
    redis_version: str | None = None
    #: when it was written, in seconds since 1970 by Redis's clock
    created: int | None = None
    #: size in bytes
    size: int = 0
    keys: int = 0
    #: how many of the keys expire
    expiring: int = 0
    #: number of keys by type
    types: dict[str, int] = field(default_factory=dict)
    #: number of keys by database
    databases: dict[int, int] = field(default_factory=dict)
    #: whether there is a CRC-64 (which then is right)
    checksum: bool = False
    #: None where the whole file was walked through; else what ended the walk, for example ``type 15 (stream)``
    unknown: str | None = None


OnKey = Callable[[int, bytes, str, bool], object]
"""Called with database, key, type, and whether it expires."""


def _corrupt(problem: str) -> CentralError:
    return CentralError("corrupt", f"The RDB file of Redis is damaged: {problem}. Make another backup.")


def _truncated(size: int) -> CentralError:
    return CentralError(
        "truncated", f"The RDB file of Redis ends after {size} bytes, before its end mark. Make another backup."
    )


class _Input:
    """The bytes of the file in order. Its last eight are held back, and the CRC-64 of the others is kept."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._buffer = b""
        self._position = 0
        self._held = b""
        self.size = 0
        self.crc = 0

    def _fill(self) -> bool:
        data = self._source.read(CHUNK)
        if not data:
            return False
        self.size += len(data)
        data = self._held + data
        ready, self._held = data[:-_TRAILER], data[-_TRAILER:]
        self.crc = crc64(ready, self.crc)
        self._buffer = self._buffer[self._position :] + ready
        self._position = 0
        return True

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes, which are few."""
        while len(self._buffer) - self._position < size:
            if not self._fill():
                raise _truncated(self.size)
        start, self._position = self._position, self._position + size
        return self._buffer[start : self._position]

    def byte(self) -> int:
        if self._position >= len(self._buffer):
            return self.take(1)[0]
        self._position += 1
        return self._buffer[self._position - 1]

    def skip(self, size: int) -> None:
        """Pass over `size` bytes, however many."""
        while True:
            there = len(self._buffer) - self._position
            if size <= there:
                self._position += size
                return
            size -= there
            self._position = len(self._buffer)
            if not self._fill():
                raise _truncated(self.size)

    def at_end(self) -> bool:
        """Whether nothing is left but the trailer."""
        while self._position >= len(self._buffer):
            if not self._fill():
                return True
        return False

    def drain(self) -> int:
        """Read to the end; returns the last byte before the trailer, or -1 where there is none."""
        last = -1
        while True:
            if self._buffer:
                last = self._buffer[-1]
            self._position = len(self._buffer)
            if not self._fill():
                return last

    def trailer(self) -> int:
        """The CRC-64 that the file says it has, after its end was reached."""
        if len(self._held) < _TRAILER:
            raise _truncated(self.size)
        return int(struct.unpack("<Q", self._held)[0])


class _Walk:
    """Goes through a file from behind its first nine bytes to its end mark."""

    def __init__(self, source: _Input, facts: RdbFacts, on_key: OnKey | None) -> None:
        self._input = source
        self._facts = facts
        self._on_key = on_key
        self._database = 0
        self._expires = False
        self._aux = 0
        self._types: Counter[str] = Counter()
        self._databases: Counter[int] = Counter()

    def run(self) -> None:
        """Walk to the end mark.

        :raises _UnknownError: at what is not known
        :raises CentralError: ``corrupt``, ``truncated``
        """
        try:
            while True:
                opcode = self._input.byte()
                if opcode == _EOF:
                    return
                if opcode < 0xF0:
                    self._key(opcode)
                else:
                    self._opcode(opcode)
        finally:
            self._facts.types = dict(sorted(self._types.items()))
            self._facts.databases = dict(sorted(self._databases.items()))

    def _opcode(self, opcode: int) -> None:
        if opcode == 0xFA:
            self._auxiliary(self._string(), self._string())
        elif opcode == 0xFB:  # sizes of the tables
            self._length()
            self._length()
        elif opcode == 0xFC:  # expires, in milliseconds
            self._input.skip(8)
            self._expires = True
        elif opcode == 0xFD:  # expires, in seconds
            self._input.skip(4)
            self._expires = True
        elif opcode == 0xFE:
            self._database = self._length()
        elif opcode == 0xF9:  # how often used
            self._input.skip(1)
        elif opcode == 0xF8:  # how long unused
            self._length()
        elif opcode == 0xF7:  # of a module
            self._length()
            self._module()
        elif opcode == 0xF5:  # a library of functions
            self._skip_string()
        elif opcode == 0xF4:  # sizes of a slot
            for _size in range(3):
                self._length()
        else:
            raise _UnknownError(f"opcode {opcode}")

    def _auxiliary(self, name: bytes, value: bytes) -> None:
        self._aux += 1
        if self._aux > _MAXIMUM_AUX:
            raise _corrupt("it has more fields in its header than Redis writes")
        if name == b"redis-ver":
            self._facts.redis_version = value[:32].decode("ascii", "replace")
        elif name == b"ctime" and value.isdigit() and len(value) < 12:
            self._facts.created = int(value)

    def _key(self, kind: int) -> None:
        name = _NAMES.get(kind)
        if name is None:
            raise _UnknownError(f"type {kind}")
        key = self._string()
        self._value(kind, name)
        self._facts.keys += 1
        self._facts.expiring += self._expires
        self._types[name] += 1
        self._databases[self._database] += 1
        if len(self._databases) > _MAXIMUM_DATABASES:
            raise _corrupt("it has more databases than are taken for genuine")
        if self._on_key is not None:
            self._on_key(self._database, key, name, self._expires)
        self._expires = False

    def _value(self, kind: int, name: str) -> None:
        if kind in _ONE_STRING:
            self._skip_string()
        elif kind in _STRINGS:
            self._skip_strings(self._length())
        elif kind == 4:
            self._skip_strings(2 * self._length())
        elif kind in (3, 5):
            for _member in range(self._length()):
                self._skip_string()
                self._input.skip(8 if kind == 5 else self._old_score())
        elif kind == 18:
            for _node in range(self._length()):
                self._length()
                self._skip_string()
        elif kind in (22, 24):
            self._input.skip(8 if kind == 24 else 0)
            for _field in range(self._length()):
                self._length()
                self._skip_strings(2)
        elif kind in (23, 25):
            self._input.skip(8 if kind == 25 else 0)
            self._skip_string()
        elif kind == 7:
            self._length()
            self._module()
        else:
            raise _UnknownError(f"type {kind} ({name})")

    def _old_score(self) -> int:
        """The size of a score that is written as text; three of the sizes stand for what is no number."""
        size = self._input.byte()
        return 0 if size > 252 else size

    def _module(self) -> None:
        while True:
            opcode = self._length()
            if opcode == 0:
                return
            if opcode in (1, 2):
                self._length()
            elif opcode in (3, 4):
                self._input.skip(4 * (opcode - 2))
            elif opcode == 5:
                self._skip_string()
            else:
                raise _corrupt("the value of a module has an impossible opcode")

    def _form(self) -> tuple[bool, int]:
        """A length, or, as True, the kind of a special string."""
        first = self._input.byte()
        form = first >> 6
        if form == 0:
            return False, first
        if form == 1:
            return False, (first & 0x3F) << 8 | self._input.byte()
        if form == 3:
            return True, first & 0x3F
        if first == 0x80:
            return False, int.from_bytes(self._input.take(4), "big")
        if first == 0x81:
            return False, int.from_bytes(self._input.take(8), "big")
        raise _corrupt("a length has an impossible form")

    def _length(self) -> int:
        special, value = self._form()
        if special:
            raise _corrupt("there is no length where one belongs")
        return value

    def _skip_strings(self, count: int) -> None:
        while count > 0:
            self._skip_string()
            count -= 1

    def _skip_string(self) -> None:
        special, value = self._form()
        if not special:
            self._input.skip(value)
        elif value in (0, 1, 2):
            self._input.skip(1 << value)
        elif value == 3:
            compressed, _plain = self._length(), self._length()
            self._input.skip(compressed)
        else:
            raise _corrupt("a string has an impossible encoding")

    def _string(self) -> bytes:
        special, value = self._form()
        if not special:
            return self._input.take(self._short(value))
        if value in (0, 1, 2):
            return b"%d" % int.from_bytes(self._input.take(1 << value), "little", signed=True)
        if value != 3:
            raise _corrupt("a string has an impossible encoding")
        compressed, plain = self._short(self._length()), self._short(self._length())
        try:
            return lzf_decompress(self._input.take(compressed), plain)
        except ValueError as error:
            raise _corrupt("a compressed key cannot be decompressed") from error

    def _short(self, size: int) -> int:
        if size > _MAXIMUM_KEY:
            raise _corrupt(f"it has a key of {size} bytes")
        return size


def check_rdb(source: Readable, on_key: OnKey | None = None) -> RdbFacts:
    """Read an RDB file to the end of `source`, and check it. Memory does not depend on its size.

    :param on_key: called with each key in the order of the file, as far as the walk goes
    :raises CentralError: ``corrupt``, ``truncated``
    """
    data = _Input(source)
    facts = RdbFacts()
    head = data.take(9)
    if not head.startswith(b"REDIS") or not head[5:].isdigit():
        raise _corrupt("it does not begin as one")
    facts.version = int(head[5:])
    if facts.version < OLDEST_VERSION:
        raise _corrupt(f"it has version {facts.version}, which no Redis of Enketo's writes")
    try:
        _Walk(data, facts, on_key).run()
    except _UnknownError as stop:
        facts.unknown = str(stop)
        if data.drain() != _EOF:
            raise _corrupt(f"it has {facts.unknown}, and no end mark") from stop
    else:
        if not data.at_end():
            raise _corrupt("something follows its end mark")
    stored = data.trailer()
    facts.size = data.size
    facts.checksum = stored != 0
    if facts.checksum and stored != data.crc:
        raise _corrupt("its CRC-64 does not match")
    if facts.unknown is not None and not facts.checksum:
        raise _corrupt(f"it has {facts.unknown}, and no CRC-64 to rely on")
    return facts
