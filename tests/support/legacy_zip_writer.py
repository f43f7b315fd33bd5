# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes the zip files of Centrals before v2026.2 from a dump in the directory format, and spoilt ones on request.

The layout follows what the npm packages archiver and compress-commons of those versions write; the keys follow
central-backend's lib/util/crypto.js. Nothing here uses the code under test.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, BinaryIO

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

PASSPHRASE = "correct horse battery staple"
KEEPALIVE = "keepalive"
KEYS = "keys.json"

_TIME, _DATE = 0xB3F3, 0x5D76
_LIMIT = 0xFFFFFFFF


@dataclass(frozen=True)
class Era:
    """How the Centrals of some years wrote their zips."""

    #: whether 32,000 random bytes come first
    keepalive: bool
    #: zlib's level
    level: int
    #: whether the private key is in PKCS#1, as the npm package ursa wrote it
    pkcs1: bool = False


ERAS = {
    "google-2018": Era(keepalive=False, level=9, pkcs1=True),
    "google-2020": Era(keepalive=False, level=9),
    "api-v1.0": Era(keepalive=False, level=9),
    "api-v1.1": Era(keepalive=True, level=9),
    "api-v2026.1": Era(keepalive=True, level=-1),
}


@dataclass
class Record:
    """One member, as it is going to be written. What differs from `data` makes a spoilt file."""

    name: bytes
    #: what the member holds, before compression
    data: bytes
    level: int = 9
    method: int = 8
    flags: int = 8
    #: what stands in the file instead of the compressed data
    stored: bytes | None = None
    crc: int | None = None
    size: int | None = None
    extra: bytes = b""
    #: CRC-32, stored size and size in the local header, where they are to be others
    head: tuple[int, int, int] | None = None
    #: in the central directory, where they are to be other than in the local header
    central_name: bytes | None = None
    central_extra: bytes | None = None
    comment: bytes = b""
    #: what stands behind the data instead of the descriptor
    descriptor: bytes | None = None
    #: bytes behind the member that belong to nothing
    gap: bytes = b""
    #: the central directory's idea of where the member is
    offset: int | None = None
    #: whether the central directory mentions it
    listed: bool = True

    def compressed(self) -> bytes:
        """What stands in the file."""
        if self.stored is not None:
            return self.stored
        if self.method == 0:
            return self.data
        engine = zlib.compressobj(self.level, zlib.DEFLATED, -zlib.MAX_WBITS)
        return engine.compress(self.data) + engine.flush()


def write_zip(records: list[Record], zip64: bool = False, comment: bytes = b"", before: bytes = b"") -> bytes:
    """A zip file as archiver lays it out: sizes behind the data, a central directory, its end.

    :param zip64: with the end that archives of more than 4 GiB have, and sizes of 64 bits in the directory
    """
    out = bytearray(before)
    central = bytearray()
    listed = 0
    for record in records:
        offset = len(out)
        stored = record.compressed()
        crc = zlib.crc32(record.data) if record.crc is None else record.crc
        size = len(record.data) if record.size is None else record.size
        behind = bool(record.flags & 8)
        head = record.head or ((0, 0, 0) if behind else (crc, len(stored), size))
        out += struct.pack("<4s5H3L2H", b"PK\3\4", 20, record.flags, record.method, _TIME, _DATE, *head,
                           len(record.name), len(record.extra))  # fmt: skip
        out += record.name + record.extra + stored
        if record.descriptor is not None:
            out += record.descriptor
        elif behind:
            out += struct.pack("<4s3L", b"PK\7\x08", crc, len(stored), size)
        out += record.gap
        if not record.listed:
            continue
        listed += 1
        central += _central(record, crc, len(stored), size, offset if record.offset is None else record.offset, zip64)
    return bytes(out + central) + end_of(len(out), len(central), listed, zip64, len(comment)) + comment


def _central(record: Record, crc: int, stored: int, size: int, offset: int, zip64: bool) -> bytes:
    name = record.name if record.central_name is None else record.central_name
    extra = record.extra if record.central_extra is None else record.central_extra
    sizes, place = (stored, size), offset
    if zip64 or max(stored, size, offset) > _LIMIT:
        extra += struct.pack("<2H3Q", 1, 24, size, stored, offset)
        # Older versions of compress-commons leave a small offset where it is.
        sizes, place = (_LIMIT, _LIMIT), min(offset, _LIMIT)
    fixed = struct.pack("<4s6H3L5H2L", b"PK\1\2", 0x032D, 45 if zip64 else 20, record.flags, record.method, _TIME, _DATE,
                        crc, *sizes, len(name), len(extra), len(record.comment), 0, 0, 0x81A40020, place)  # fmt: skip
    return fixed + name + extra + record.comment


def end_of(offset: int, size: int, count: int, zip64: bool = False, comment: int = 0) -> bytes:
    """The end of a zip file whose central directory has `size` bytes at `offset`."""
    if not zip64:
        return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, offset, comment)
    return (
        struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
        + struct.pack("<4sLQL", b"PK\6\7", 0, offset + size, 1)
        + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, _LIMIT, _LIMIT, comment)
    )


@cache
def private_key(number: int = 0) -> rsa.RSAPrivateKey:
    """A key of 2,048 bits; the same one for the whole run, since making one is slow."""
    del number
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def encrypt(data: bytes, key: bytes, iv: bytes) -> bytes:
    """AES-256-CBC with PKCS#7."""
    size = 16 - len(data) % 16
    cipher = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return cipher.update(data + bytes([size]) * size) + cipher.finalize()


def base64_of(data: bytes) -> str:
    """As Node's ``toString('base64')``."""
    return base64.b64encode(data).decode("ascii")


@dataclass
class LegacyBackup:
    """A backup: the parts of a zip file, to be changed before :meth:`build`.

    :param files: the files of the dump by name
    """

    files: Mapping[str, bytes]
    passphrase: str = PASSPHRASE
    era: Era = ERAS["api-v1.1"]
    seed: int = 0
    #: the content of keys.json, once it is known
    keys: dict[str, Any] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    #: the AES key of the members
    key: bytes = b""

    def __post_init__(self) -> None:
        chance = random.Random(self.seed)
        self.key = chance.randbytes(32)
        private = private_key()
        public = private.public_key()
        salt, iv = chance.randbytes(16), chance.randbytes(16)
        form = serialization.PrivateFormat.TraditionalOpenSSL if self.era.pkcs1 else serialization.PrivateFormat.PKCS8
        pem = private.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        secret = hashlib.pbkdf2_hmac("sha256", self.passphrase.encode(), salt, 128000, 32)
        spki = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
        ivs = {name: chance.randbytes(16) for name in sorted(self.files)}
        self.keys = {
            "pubkey": base64_of(spki),
            "privkey": base64_of(encrypt(pem, secret, iv)),
            "salt": base64_of(salt),
            "iv": base64_of(iv),
            "local": {
                "key": base64_of(public.encrypt(self.key, oaep)),
                "ivs": {name: base64_of(value) for name, value in ivs.items()},
            },
        }
        if self.era.keepalive:
            self.records.append(Record(KEEPALIVE.encode(), chance.randbytes(32000), self.era.level))
        for name in sorted(self.files):
            data = encrypt(self.files[name], self.key, ivs[name])
            self.records.append(Record(name.encode(), data, self.era.level))

    def record(self, name: str) -> Record:
        """The member `name`."""
        return next(record for record in self.records if record.name == name.encode())

    def change(self, name: str, /, **changes: Any) -> LegacyBackup:
        """Replace the member `name` by a changed one."""
        index = self.records.index(self.record(name))
        self.records[index] = replace(self.records[index], **changes)
        return self

    def build(self, keys: bool | bytes = True, **options: Any) -> bytes:
        """The zip file.

        :param keys: whether keys.json is there, or its content
        :param options: those of :func:`write_zip`
        """
        content = json.dumps(self.keys, separators=(",", ":")).encode() if isinstance(keys, bool) else keys
        last = [Record(KEYS.encode(), content, self.era.level)] if keys is not False else []
        return write_zip([*self.records, *last], **options)


def make(files: Mapping[str, bytes], change: Callable[[LegacyBackup], object] | None = None, **options: Any) -> bytes:
    """A whole backup, changed by `change` before it is written.

    :param options: those of :class:`LegacyBackup`
    """
    backup = LegacyBackup(files, **options)
    if change is not None:
        change(backup)
    return backup.build()


def write_large(file: BinaryIO, files: Mapping[str, Callable[[], Any]], passphrase: str = PASSPHRASE) -> None:
    """A backup of any size, written as it is made.

    :param files: gives the pieces of each file of the dump
    """
    backup = LegacyBackup(dict.fromkeys(files, b""), passphrase)
    backup.records.clear()
    entries = []
    for name, pieces in files.items():
        offset = file.tell()
        file.write(struct.pack("<4s5H3L2H", b"PK\3\4", 20, 8, 8, _TIME, _DATE, 0, 0, 0, len(name), 0) + name.encode())
        start = file.tell()
        iv = base64.b64decode(backup.keys["local"]["ivs"][name])
        cipher = Cipher(algorithms.AES(backup.key), modes.CBC(iv)).encryptor()
        # Without effort: what is encrypted gets no smaller, and large files are made for their size.
        engine = zlib.compressobj(0, zlib.DEFLATED, -zlib.MAX_WBITS)
        plain = size = crc = 0

        def add(data: bytes) -> None:
            nonlocal size, crc
            size, crc = size + len(data), zlib.crc32(data, crc)
            file.write(engine.compress(data))  # noqa: B023

        for piece in pieces():
            plain += len(piece)
            add(cipher.update(piece))
        rest = 16 - plain % 16
        add(cipher.update(bytes([rest]) * rest) + cipher.finalize())
        file.write(engine.flush())
        stored = file.tell() - start
        form = "<4sL2Q" if max(stored, size) > _LIMIT else "<4s3L"
        file.write(struct.pack(form, b"PK\7\x08", crc, stored, size))
        entries.append(_central(Record(name.encode(), b""), crc, stored, size, offset, max(stored, size) > _LIMIT))
    content = json.dumps(backup.keys).encode()
    offset = file.tell()
    record = Record(KEYS.encode(), content)
    packed = record.compressed()
    file.write(
        struct.pack("<4s5H3L2H", b"PK\3\4", 20, 8, 8, _TIME, _DATE, 0, 0, 0, len(KEYS), 0) + record.name + packed
    )
    file.write(struct.pack("<4s3L", b"PK\7\x08", zlib.crc32(content), len(packed), len(content)))
    entries.append(_central(record, zlib.crc32(content), len(packed), len(content), offset, offset > _LIMIT))
    offset = file.tell()
    file.write(b"".join(entries) + end_of(offset, sum(map(len, entries)), len(entries), offset > _LIMIT))
