# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Passphrases that do not open a legacy zip, and keys that are none."""

from __future__ import annotations

import base64
import builtins
import hashlib
import io
import json
import os
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, verify_stream
from ansible_collections.odkops.central.plugins.module_utils._zip_keys import Keys
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from support.directory_dumps import directory_dumps
from support.legacy_zip_writer import PASSPHRASE, LegacyBackup, Record, base64_of, encrypt, make, private_key, write_zip
from support.spoilt_zips import Change, failure, quicken_keys, spoilt


@pytest.fixture(autouse=True)
def _quick_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken_keys(monkeypatch)


# Passphrases.


@pytest.mark.parametrize("given", ["wrong", "correct horse battery staple ", "x" * 4000])
def test_wrong_passphrase(given: str) -> None:
    assert failure(make(directory_dumps().read()), given).diagnosis == "wrong_passphrase"


def test_no_passphrase_given() -> None:
    error = failure(make(directory_dumps().read()), None)

    assert error.diagnosis == "wrong_passphrase"
    assert "none was given" in error.message


def test_the_empty_passphrase_opens_it_although_another_was_given() -> None:
    assert failure(make(directory_dumps().read(), passphrase="")).diagnosis == "empty_passphrase"


def test_the_empty_passphrase_is_accepted_where_that_is_allowed() -> None:
    data = make(directory_dumps().read(), passphrase="")

    found = verify_stream(io.BytesIO(data), Expectation(PASSPHRASE, allow_unencrypted=True), stored=io.BytesIO(data))

    assert (found.diagnosis, found.encrypted) == ("ok", False)


# The keys.


def in_keys(**changes: Any) -> Change:
    """Changes fields of keys.json; None takes one away."""

    def change(backup: LegacyBackup) -> None:
        for name, value in changes.items():
            place = backup.keys["local"] if name in ("key", "ivs") else backup.keys
            if value is None:
                del place[name]
            else:
                place[name] = value

    return change


def private(pem: bytes) -> Change:
    """Puts another private key in, properly encrypted."""

    def change(backup: LegacyBackup) -> None:
        salt, iv = (base64.b64decode(backup.keys[name]) for name in ("salt", "iv"))
        key = hashlib.pbkdf2_hmac("sha256", PASSPHRASE.encode(), salt, 128000, 32)
        backup.keys["privkey"] = base64_of(encrypt(pem, key, iv))

    return change


def pem_of(key: Any) -> bytes:
    """PKCS#8."""
    pkcs8 = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption())  # type: ignore[no-any-return]


OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.mark.parametrize("name", ["pubkey", "privkey", "salt", "iv", "local", "key", "ivs"])
@pytest.mark.parametrize("value", [None, 7, [], {"a": "b"}, "not base64!", "QUJD", "é", ""])
def test_a_field_of_the_keys_is_wrong(name: str, value: Any) -> None:
    assert spoilt(in_keys(**{name: value})) == "corrupt"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe{}",
        b'{"local": 1}',
        b"[" * 60_000,
        b'{"salt": ' + b"9" * 50_000 + b"}",
        b'{"salt": NaN}',
    ],
    ids=range(10),
)
def test_the_keys_are_no_keys(content: bytes) -> None:
    assert failure(LegacyBackup(directory_dumps().read()).build(keys=content)).diagnosis == "corrupt"


def test_a_key_is_there_twice() -> None:
    backup = LegacyBackup(directory_dumps().read())
    content = json.dumps(backup.keys).encode()

    data = backup.build(keys=content[:-1] + b', "salt": "' + backup.keys["salt"].encode() + b'"}')

    assert failure(data).diagnosis == "corrupt"


@pytest.mark.parametrize(
    "change",
    [
        private(b"-----BEGIN nothing"),
        private(pem_of(private_key()).replace(b"A", b"B")),
        private(pem_of(private_key())[:1200]),
        private(pem_of(OTHER_KEY)),
        private(pem_of(ec.generate_private_key(ec.SECP256R1()))),
        private(
            private_key().private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"another"),
            )
        ),
        private(b"-----BEGIN" + b"A" * 5000),
        in_keys(key=base64_of(os.urandom(256))),
        in_keys(key=base64_of(b"")),
        in_keys(pubkey=base64_of(b"no key")),
        in_keys(
            pubkey=base64_of(
                OTHER_KEY.public_key().public_bytes(
                    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
                )
            )
        ),
    ],
)
def test_the_passphrase_is_right_but_a_key_is_not(change: Change) -> None:
    assert spoilt(change) == "corrupt"


def test_the_private_key_is_damaged_behind_its_beginning() -> None:
    def change(backup: LegacyBackup) -> None:
        raw = bytearray(base64.b64decode(backup.keys["privkey"]))
        raw[-1] ^= 1
        backup.keys["privkey"] = base64_of(bytes(raw))

    assert spoilt(change) == "corrupt"


@pytest.mark.parametrize("size", [0, 5, 16, 24, 33])
def test_the_key_of_the_members_has_a_wrong_size(size: int) -> None:

    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
    short = private_key().public_key().encrypt(os.urandom(size), oaep)

    assert spoilt(in_keys(key=base64_of(short))) == "corrupt"


def test_the_keys_are_missing() -> None:
    data = LegacyBackup(directory_dumps().read()).build(keys=False)

    assert failure(data).diagnosis == "keys_missing"


def test_another_kind_of_zip() -> None:
    document = [Record(b"[Content_Types].xml", b"<xml/>"), Record(b"word/document.xml", b"x" * 100_000)]

    assert failure(write_zip(document)).diagnosis == "keys_missing"


def test_the_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError("No module named 'cryptography'")
        return real(name, *arguments, **options)

    data = make(directory_dumps().read())
    monkeypatch.setattr(builtins, "__import__", without)

    error = failure(data)

    assert (error.diagnosis, error.details) == ("missing_required_lib", {"library": "cryptography"})


def test_a_host_that_may_not_use_rsa_with_sha1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one in FIPS mode."""

    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise UnsupportedAlgorithm("SHA1 is not supported")

    data = make(directory_dumps().read())
    monkeypatch.setattr(padding, "OAEP", refuse)

    error = failure(data)

    assert error.diagnosis == "missing_required_lib"
    assert "FIPS" in error.message


@pytest.mark.parametrize("pieces", [[], [b""], [b"x"], [b"x" * 15], [bytes(16), b"x"], [bytes(32)]])
def test_what_is_not_made_of_whole_blocks_does_not_decrypt(pieces: list[bytes]) -> None:
    backup = LegacyBackup(directory_dumps().read())
    keys = Keys(json.dumps(backup.keys).encode(), PASSPHRASE)

    with pytest.raises(CentralError) as caught:
        list(keys.decrypt("toc.dat", pieces))

    assert caught.value.diagnosis == "corrupt"


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 31, 32, 33, 1000])
@pytest.mark.parametrize("step", [1, 7, 16, 17, 5000])
def test_pieces_of_any_size_decrypt(size: int, step: int) -> None:
    backup = LegacyBackup(directory_dumps().read())
    keys = Keys(json.dumps(backup.keys).encode(), PASSPHRASE)
    plain = os.urandom(size)
    iv = base64.b64decode(backup.keys["local"]["ivs"]["toc.dat"])
    secret = encrypt(plain, backup.key, iv)

    pieces = list(keys.decrypt("toc.dat", [secret[at : at + step] for at in range(0, len(secret), step)]))

    assert b"".join(pieces) == plain
    assert b"" not in pieces


def raw(plain: bytes, key: bytes, iv: bytes) -> bytes:
    """AES-256-CBC without padding."""
    cipher = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return cipher.update(plain) + cipher.finalize()


@pytest.mark.parametrize(
    "end", [b"\0", b"\2", b"\1\2", b"\3\2\3", b"\x11", b"\xff", b"\x0f" * 14, b"\x11" * 17, b" " * 32]
)
def test_padding_that_is_none(end: bytes) -> None:
    backup = LegacyBackup(directory_dumps().read())
    keys = Keys(json.dumps(backup.keys).encode(), PASSPHRASE)
    iv = base64.b64decode(backup.keys["local"]["ivs"]["toc.dat"])

    with pytest.raises(CentralError) as caught:
        list(keys.decrypt("toc.dat", [raw(b"x" * (48 - len(end)) + end, backup.key, iv)]))

    assert caught.value.diagnosis == "corrupt"


def test_the_private_key_is_followed_by_what_is_no_padding() -> None:
    """Spaces behind a key are none of its business for who parses it, but Central never writes them."""

    def change(backup: LegacyBackup) -> None:
        salt, iv = (base64.b64decode(backup.keys[name]) for name in ("salt", "iv"))
        key = hashlib.pbkdf2_hmac("sha256", PASSPHRASE.encode(), salt, 128000, 32)
        pem = pem_of(private_key())
        backup.keys["privkey"] = base64_of(raw(pem + b" " * (48 - len(pem) % 16), key, iv))

    assert spoilt(change) == "corrupt"
