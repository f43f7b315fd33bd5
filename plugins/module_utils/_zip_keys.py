# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys of a legacy zip backup, ``keys.json``, and what they decrypt.

Source of the format: getodk/central-backend, lib/util/crypto.js and lib/util/backup-legacy.js. The
passphrase gives an AES key (PBKDF2-HMAC-SHA256, 128,000 rounds), which decrypts an RSA private key,
which decrypts the AES key (OAEP, SHA-1) of all members of the zip; each member has its own initial
value. AES is of 256 bits, CBC, padded by PKCS#7. Until June 2019 the private key was in PKCS#1
(the npm package ``ursa``), since then in PKCS#8; backups to Google Drive went on with the old key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._errors import (
    CentralError,
    MissingLibraryError,
    empty_passphrase_error,
    passphrase_needed_error,
)
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt

#: ``keys.json`` is not longer than this, in bytes: it has 40 for each table.
MAXIMUM_BYTES = 64 * 1024

ROUNDS = 128_000
BLOCK = 16
_KEY_SIZE = 32

# The PEM text of a private key of 2,048 bits has 1,700 bytes. A longer one could take long to check.
_MAXIMUM_PEM = 4096
_PEM_BEGIN = b"-----BEGIN"


@dataclass(frozen=True)
class _KeyFile:
    """What ``keys.json`` has in it, decoded."""

    public_key: bytes
    #: encrypted
    private_key: bytes
    salt: bytes
    iv: bytes
    #: encrypted
    key: bytes
    ivs: dict[str, bytes]


class Keys:
    """The keys of one backup, opened.

    :param data: the content of ``keys.json``
    :param passphrase: empty for none
    :raises CentralError: ``corrupt``, ``wrong_passphrase``, ``empty_passphrase``, ``missing_required_lib``
    """

    def __init__(self, data: bytes, passphrase: str) -> None:
        found = _parse(data)
        self._key = _unlock(found, _open_private_key(found, passphrase))
        self._ivs = found.ivs

    @property
    def names(self) -> frozenset[str]:
        """The names of the members that have an initial value."""
        return frozenset(self._ivs)

    def decrypt(self, name: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Decrypt the member `name`.

        :raises CentralError: ``corrupt``
        """
        cipher = _cbc(self._key, self._ivs[name])
        held = b""
        for piece in pieces:
            data = held + cipher.update(piece)
            # The last block waits: only the end of the member tells which one is padded.
            cut = max(0, len(data) - BLOCK)
            held = data[cut:]
            if cut:
                yield data[:cut]
        try:
            held += cipher.finalize()
        except ValueError as error:
            raise corrupt(f"the member {name} is not made of whole blocks") from error
        rest = _unpad(held)
        if rest is None:
            raise corrupt(f"the member {name} does not end as its key says")
        if rest:
            yield rest


def _unpad(block: bytes) -> bytes | None:
    """Take PKCS#7 padding off, or None where it is none."""
    size = block[-1] if block else 0
    if not 1 <= size <= BLOCK or block[-size:] != bytes([size]) * size:
        return None
    return block[:-size]


def _parse(data: bytes) -> _KeyFile:
    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
        local = content["local"]
        return _KeyFile(
            public_key=_decode(content["pubkey"]),
            private_key=_decode(content["privkey"]),
            salt=_decode(content["salt"], BLOCK),
            iv=_decode(content["iv"], BLOCK),
            key=_decode(local["key"]),
            ivs={name: _decode(value, BLOCK) for name, value in local["ivs"].items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        # What was wrong is not said: it might repeat a part of the keys.
        raise corrupt("keys.json is not what Central writes") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _decode(text: Any, size: int | None = None) -> bytes:
    data = base64.b64decode(text, validate=True)
    if size is not None and len(data) != size:
        raise binascii.Error("wrong size")
    return data


def _open_private_key(found: _KeyFile, passphrase: str) -> bytes:
    """The private key in PEM."""
    if not 2 * BLOCK <= len(found.private_key) <= _MAXIMUM_PEM or len(found.private_key) % BLOCK:
        raise corrupt("the private key in keys.json cannot be one")
    plain = _decrypt_private_key(found, passphrase)
    if not plain.startswith(_PEM_BEGIN):
        if not passphrase:
            raise passphrase_needed_error()
        if _decrypt_private_key(found, "").startswith(_PEM_BEGIN):
            raise empty_passphrase_error()
        raise CentralError(
            "wrong_passphrase",
            "The passphrase does not open the backup. Give the one that was used when it was made; a backup from "
            "Google Drive has the one that was set when those backups were configured.",
        )
    pem = _unpad(plain)
    if pem is None:
        raise corrupt("the passphrase is right, but the private key in keys.json is damaged")
    return pem


def _decrypt_private_key(found: _KeyFile, passphrase: str) -> bytes:
    key = hashlib.pbkdf2_hmac("sha256", passphrase.encode("utf-8"), found.salt, ROUNDS, _KEY_SIZE)
    cipher = _cbc(key, found.iv)
    plain: bytes = cipher.update(found.private_key)
    return plain


def _unlock(found: _KeyFile, pem: bytes) -> bytes:
    """The AES key of the members."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    try:
        private = serialization.load_pem_private_key(pem, password=None)
        public = serialization.load_pem_public_key(found.public_key)
        if not isinstance(private, rsa.RSAPrivateKey) or not isinstance(public, rsa.RSAPublicKey):
            raise TypeError("not RSA")
        if private.public_key().public_numbers() != public.public_numbers():
            raise ValueError("not a pair")
        oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None)  # noqa: S303
        key = private.decrypt(found.key, oaep)
    except UnsupportedAlgorithm as error:
        raise _missing(
            "The Python library 'cryptography' on this host may not use what Central's older backups are encrypted "
            "with, RSA with SHA-1 (a host in FIPS mode refuses it). Verify the backup on another host.",
            error,
        ) from error
    except (ValueError, TypeError):
        # As above: nothing of a private key goes into a message.
        raise corrupt("the passphrase is right, but the keys in keys.json are damaged") from None
    if len(key) != _KEY_SIZE:
        raise corrupt("the passphrase is right, but the key in keys.json has a wrong size")
    return key


def _cbc(key: bytes, iv: bytes) -> Any:
    """A decryptor of AES in CBC."""
    try:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    except ImportError as error:
        raise _missing(
            "Central's backups are encrypted, and the Python library 'cryptography' is needed to read them. "
            "Install it for the Python that runs this module (Debian and Ubuntu: python3-cryptography).",
            error,
        ) from error
    return Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()


def _missing(message: str, error: Exception) -> MissingLibraryError:
    return MissingLibraryError("cryptography", message, str(error))
