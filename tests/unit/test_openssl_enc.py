# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The cipher of Central's backups, against the ``openssl`` program both ways."""

from __future__ import annotations

import builtins
import io
import os
import random
import struct
import subprocess
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _openssl_enc
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, MissingLibraryError
from ansible_collections.odkops.central.plugins.module_utils._openssl_enc import (
    ChaCha20Stream,
    EncryptedReader,
    EncryptedWriter,
    decrypt_prefix,
    read_salt,
)

from support.archives import openssl

PASSPHRASES = ["correct horse battery staple", "", "ñ 日本語 🦀", "x" * 400, "'\"$(a)`\\", " leading and trailing "]
SIZES = [0, 1, 63, 64, 65, 4095, 262_144, 300_001]


def decrypt(data: bytes, passphrase: str, piece: int = 1 << 20) -> bytes:
    """All of an encrypted stream, read in pieces."""
    source = io.BytesIO(data)
    reader = EncryptedReader(source, read_salt(source), passphrase)
    found = b""
    while block := reader.read(piece):
        found += block
    return found


def encrypt(data: bytes, passphrase: str, piece: int) -> bytes:
    """The same the other way."""
    writer = EncryptedWriter(passphrase)
    return writer.header() + b"".join(writer.update(data[i : i + piece]) for i in range(0, len(data), piece))


@pytest.mark.parametrize("passphrase", PASSPHRASES)
@pytest.mark.parametrize("size", SIZES)
def test_reads_what_openssl_writes(size: int, passphrase: str) -> None:
    plain = os.urandom(size)
    assert decrypt(openssl(plain, passphrase=passphrase), passphrase, piece=random.randrange(1, 70_000)) == plain


@pytest.mark.parametrize("passphrase", PASSPHRASES)
@pytest.mark.parametrize("size", SIZES)
def test_openssl_reads_what_we_write(size: int, passphrase: str) -> None:
    plain = os.urandom(size)
    piece = random.randrange(1, 70_000)
    assert openssl(encrypt(plain, passphrase, piece), "-d", passphrase=passphrase) == plain


def test_each_stream_has_its_own_salt() -> None:
    assert EncryptedWriter("p").header() != EncryptedWriter("p").header()
    assert EncryptedWriter("p", b"saltsalt").header() == b"Salted__saltsalt"


@pytest.mark.parametrize("counter", [2**32 - 1, 2**32 - 2, 2**32 - 1000, 0, 2**31])
@pytest.mark.parametrize("word", [0, 7, 2**32 - 1])
def test_the_block_counter_wraps_as_in_openssl(counter: int, word: int) -> None:
    key, nonce = bytes(range(32)), b"nonce678"
    iv = struct.pack("<II", counter, word) + nonce
    plain = os.urandom(200_003)
    expected = subprocess.run(
        ["openssl", "enc", "-chacha20", "-K", key.hex(), "-iv", iv.hex()], input=plain, capture_output=True, check=True
    ).stdout
    assert ChaCha20Stream(key, iv).update(plain) == expected
    for step in (1, 63, 64, 65, 640, 64_000):
        stream = ChaCha20Stream(key, iv)
        assert b"".join(stream.update(plain[i : i + step]) for i in range(0, len(plain), step)) == expected
        stream, buffer = ChaCha20Stream(key, iv), bytearray(step + 1)
        found = b""
        for i in range(0, len(plain), step):
            part = plain[i : i + step]
            stream.update_into(part, memoryview(buffer))
            found += buffer[: len(part)]
        assert found == expected
    for offset in (1, 63, 64, 65, 128, 63_937, 64_000, 64_001, 200_002):
        assert ChaCha20Stream(key, iv, offset).update(plain[offset:]) == expected[offset:]


@pytest.mark.parametrize("offset", [0, 1, 4096, 299_999, 300_001])
def test_a_second_reader_begins_anywhere(offset: int) -> None:
    plain = os.urandom(300_001)
    data = openssl(plain, passphrase="p")
    source = io.BytesIO(data[16 + offset :])
    reader = EncryptedReader(source, data[8:16], "p", offset)
    buffer = bytearray(70_000)
    found = b""
    while size := reader.readinto(memoryview(buffer)):
        found += buffer[:size]
    assert found == plain[offset:]


def test_a_header_that_is_none() -> None:
    with pytest.raises(CentralError, match="bad magic number") as caught:
        read_salt(io.BytesIO(b"PK\3\4 and so on, a zip"))
    assert caught.value.diagnosis == "not_a_central_backup"


@pytest.mark.parametrize("length", range(16))
def test_a_header_cut_short(length: int) -> None:
    with pytest.raises(CentralError) as caught:
        read_salt(io.BytesIO(b"Salted__saltsalt"[:length]))
    assert caught.value.diagnosis == "truncated"
    assert f"{length} bytes" in str(caught.value)


def test_a_prefix_is_enough_to_try_a_passphrase() -> None:
    data = openssl(b"PGDMP and more", passphrase="right")
    salt = data[8:16]
    assert decrypt_prefix(salt, data[16:21], "right") == b"PGDMP"
    assert decrypt_prefix(salt, data[16:21], "wrong") != b"PGDMP"


def test_says_so_when_cryptography_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError("No module named 'cryptography'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingLibraryError, match="python3-cryptography") as caught:
        EncryptedWriter("p")
    assert caught.value.library == "cryptography"
    assert caught.value.diagnosis == "missing_required_lib"


def test_says_so_when_chacha20_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.ciphers import Cipher

    def refuse(*_args: Any, **_kwargs: Any) -> Any:
        raise UnsupportedAlgorithm("chacha20 is not supported")

    monkeypatch.setattr(Cipher, "encryptor", refuse)
    with pytest.raises(MissingLibraryError, match="FIPS") as caught:
        _openssl_enc.ChaCha20Stream(bytes(32), bytes(16))
    assert caught.value.diagnosis == "missing_required_lib"
