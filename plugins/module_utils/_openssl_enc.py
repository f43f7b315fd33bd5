# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The format of ``openssl enc -chacha20 -pbkdf2``, read and written.

``Salted__``, 8 bytes of salt, then the data XORed with the ChaCha20 key stream. Key (32 bytes) and
initial value (16 bytes) are PBKDF2-HMAC-SHA256 of the passphrase, 10,000 rounds
(OpenSSL: openssl-enc(1), apps/enc.c). The initial value is a 32-bit little-endian block counter and
three words of nonce. The format has no checksum of any kind.

The counter starts anywhere, and a long stream may run past its end. OpenSSL then goes on from zero
with the next word raised by one (crypto/evp/e_chacha20_poly1305.c); the ``cryptography`` library
refuses. :class:`ChaCha20Stream` does what OpenSSL does.
"""

from __future__ import annotations

import functools
import hashlib
import os
import struct
from typing import TYPE_CHECKING

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, MissingLibraryError
from ansible_collections.odkops.central.plugins.module_utils._streams import Readable, read_exactly

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import CipherContext

MAGIC = b"Salted__"
SALT_SIZE = 8
HEADER_SIZE = len(MAGIC) + SALT_SIZE
ROUNDS = 10_000

_KEY_SIZE = 32
_IV_SIZE = 16
_BLOCK = 64


@functools.lru_cache(maxsize=4)
def derive(passphrase: str, salt: bytes) -> tuple[bytes, bytes]:
    """Key (32 bytes) and initial value (16 bytes) of a passphrase and a salt, as openssl-enc(1) derives them."""
    both = hashlib.pbkdf2_hmac("sha256", passphrase.encode("utf-8"), salt, ROUNDS, _KEY_SIZE + _IV_SIZE)
    return both[:_KEY_SIZE], both[_KEY_SIZE:]


class ChaCha20Stream:
    """ChaCha20 as OpenSSL's EVP does it, whatever the length; encrypting and decrypting are the same.

    :param key: 32 bytes
    :param iv: 16 bytes: block counter (32 bits, little-endian), nonce (96 bits)
    :param offset: bytes of the stream that are passed over
    :raises CentralError: ``missing_required_lib`` where ``cryptography`` is absent or may not use ChaCha20
    """

    def __init__(self, key: bytes, iv: bytes, offset: int = 0) -> None:
        self._key = key
        blocks, begun = divmod(offset, _BLOCK)
        counter, word = struct.unpack("<II", iv[:8])
        carry, self._counter = divmod(counter + blocks, 2**32)
        self._word = (word + carry) % 2**32
        self._rest = iv[8:]
        self._start()
        self.update(bytes(begun))

    def _start(self) -> None:
        iv = struct.pack("<II", self._counter, self._word) + self._rest
        self._context = _context(self._key, iv)
        #: bytes that this run of the counter can still serve
        self._left = (2**32 - self._counter) * _BLOCK

    def update(self, data: bytes) -> bytes:
        """The next ``len(data)`` bytes, encrypted or decrypted."""
        if len(data) < self._left:
            self._left -= len(data)
            return self._context.update(data)
        head, tail = data[: self._left], data[self._left :]
        result = self._context.update(head)
        self._counter, self._word = 0, (self._word + 1) % 2**32
        self._start()
        return result + self.update(tail)

    def update_into(self, data: bytes, view: memoryview) -> None:
        """As :meth:`update`, into the first ``len(data)`` bytes of `view`: half the time, since nothing is copied."""
        if len(data) < self._left:
            self._left -= len(data)
            self._context.update_into(data, view)
        else:
            view[: len(data)] = self.update(data)


def _context(key: bytes, iv: bytes) -> CipherContext:
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
    except ImportError as error:
        raise MissingLibraryError(
            "cryptography",
            "Central's backups are encrypted, and the Python library 'cryptography' is needed to read them. "
            "Install it for the Python that runs this module (Debian and Ubuntu: python3-cryptography).",
            str(error),
        ) from error
    try:
        return Cipher(algorithms.ChaCha20(key, iv), mode=None).encryptor()
    except UnsupportedAlgorithm as error:
        raise MissingLibraryError(
            "cryptography",
            "The Python library 'cryptography' on this host may not use ChaCha20, the cipher of Central's backups "
            "(a host in FIPS mode refuses it). Verify the backup on another host.",
            str(error),
        ) from error


class EncryptedReader:
    """Decrypts a stream in the format of ``openssl enc -chacha20 -pbkdf2``.

    :param source: the stream, placed behind its header
    :param salt: the eight bytes of the header
    :param passphrase: empty for a backup that was made without one
    :param offset: so many bytes behind the header the stream is placed
    """

    def __init__(self, source: Readable, salt: bytes, passphrase: str, offset: int = 0) -> None:
        self._source = source
        self._cipher = ChaCha20Stream(*derive(passphrase, salt), offset)

    def read(self, size: int, /) -> bytes:
        """As :meth:`Readable.read`."""
        data = self._source.read(size)
        return self._cipher.update(data) if data else b""

    def readinto(self, view: memoryview, /) -> int:
        """As :meth:`read`, into `view`; returns how many bytes, 0 at the end."""
        data = self._source.read(len(view))
        if data:
            self._cipher.update_into(data, view)
        return len(data)


class EncryptedWriter:
    """Encrypts as ``openssl enc -chacha20 -pbkdf2`` does. :meth:`header` comes first.

    :param passphrase: empty for none, as Central does
    :param salt: eight random bytes unless given
    """

    def __init__(self, passphrase: str, salt: bytes | None = None) -> None:
        self._salt = os.urandom(SALT_SIZE) if salt is None else salt
        self._cipher = ChaCha20Stream(*derive(passphrase, self._salt))

    def header(self) -> bytes:
        """The 16 bytes in front of the data."""
        return MAGIC + self._salt

    def update(self, data: bytes) -> bytes:
        """The next ``len(data)`` bytes, encrypted."""
        return self._cipher.update(data)


def read_salt(source: Readable) -> bytes:
    """Read the header of an encrypted stream.

    :returns: the salt, 8 bytes
    :raises CentralError: ``not_a_central_backup``, ``truncated``
    """
    header = read_exactly(source, HEADER_SIZE)
    if not header.startswith(MAGIC[: len(header)]):
        raise CentralError(
            "not_a_central_backup",
            "The file does not begin as Central's encrypted backups do (openssl calls it 'bad magic number').",
        )
    if len(header) < HEADER_SIZE:
        raise CentralError("truncated", f"The file is cut short after {len(header)} bytes, inside its first header.")
    return header[len(MAGIC) :]


def decrypt_prefix(salt: bytes, data: bytes, passphrase: str) -> bytes:
    """Decrypt the first bytes `data` of a stream, to see whether a passphrase opens it."""
    return ChaCha20Stream(*derive(passphrase, salt)).update(data)
