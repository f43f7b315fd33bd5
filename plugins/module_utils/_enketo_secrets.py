# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Enketo's three secrets, which a Central makes once and which have exact sizes.

``enketo-less-secret`` encrypts the ids of single-submission links: without it, no such link works again.
``enketo-secret`` signs cookies, and ``enketo-api-key`` is what `service` and `enketo` know each other by.
Source: getodk/central, files/enketo/generate-secrets.sh and start-enketo.sh; enketo/enketo,
packages/enketo-express, app/lib/utils.js (insecureAes192Encrypt).
"""

from __future__ import annotations

import hashlib

from ansible_collections.odkops.central.plugins.module_utils._enketo_operations import SECRETS
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, MissingLibraryError

LESS_SECRET = "enketo-less-secret"  # noqa: S105  # a name

_BLOCK = 16
_KEY_SIZE = 24


def _bad(name: str, problem: str) -> CentralError:
    return CentralError(
        "bad_secret",
        f"Enketo's secret /etc/secrets/{name} {problem}. It has {SECRETS[name]} bytes and no line break at its end, "
        "or Enketo does not start. Look at the volume `secrets` of the Central.",
        secret=name,
    )


def check_secret(name: str, content: bytes) -> None:
    """Refuse what cannot be the secret `name`.

    :raises CentralError: ``bad_secret``
    """
    if len(content) != SECRETS[name]:
        raise _bad(name, f"has {len(content)} bytes")
    if content.endswith((b"\n", b"\r")):
        raise _bad(name, "ends with a line break")


def parse_sizes(output: bytes) -> None:
    """Check what the operation ``enketo-secrets`` says of sizes.

    :raises CentralError: ``bad_secret``, ``corrupt``
    """
    lines = output.split(b"\n")
    for name in SECRETS:
        line = lines.pop(0) if lines else b""
        _check_size(name, line)
    if lines != [b""]:
        raise _garbled()


def parse_contents(output: bytes) -> dict[str, bytes]:
    """Read what the operation ``enketo-secrets`` gives.

    :returns: the secrets by name, each of its exact size
    :raises CentralError: ``bad_secret``, ``corrupt``
    """
    found = {}
    for name, size in SECRETS.items():
        line, _end, output = output.partition(b"\n")
        _check_size(name, line)
        found[name], output = output[:size], output[size:]
        check_secret(name, found[name])
    if output:
        raise _garbled()
    return found


def _check_size(name: str, line: bytes) -> None:
    said, _space, size = line.partition(b" ")
    if said != name.encode():
        raise _garbled()
    if size.strip() == b"absent":
        raise _bad(name, "is not there")
    if not size.strip().isdigit() or len(size) > 20:
        raise _garbled()
    if int(size) != SECRETS[name]:
        raise _bad(name, f"has {int(size)} bytes")


def _garbled() -> CentralError:
    return CentralError(
        "corrupt", "What came from the Central as Enketo's secrets is not what was asked for. Make another backup."
    )


def _key_and_iv(password: bytes) -> tuple[bytes, bytes]:
    """What OpenSSL's EVP_BytesToKey makes of a password: MD5, one round, no salt."""
    both = block = b""
    while len(both) < _KEY_SIZE + _BLOCK:
        block = hashlib.md5(block + password, usedforsecurity=False).digest()
        both += block
    return both[:_KEY_SIZE], both[_KEY_SIZE : _KEY_SIZE + _BLOCK]


def opens_once_id(once_id: str, enketo_id: str, less_secret: bytes) -> bool:
    """Whether the id of a form's single-submission link is what this secret makes of the form's Enketo id.

    :param once_id: AES-192-CBC of the Enketo id, in hexadecimal digits
    :raises CentralError: ``missing_required_lib``
    """
    try:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    except ImportError as error:
        raise MissingLibraryError(
            "cryptography",
            "Checking Enketo's single-submission links needs the Python library 'cryptography'. "
            "Install it for the Python that runs this module (Debian and Ubuntu: python3-cryptography).",
            str(error),
        ) from error
    key, iv = _key_and_iv(less_secret)
    plain = enketo_id.encode("utf-8")
    padding = _BLOCK - len(plain) % _BLOCK
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    expected = encryptor.update(plain + bytes([padding]) * padding) + encryptor.finalize()
    return expected.hex() == once_id.lower()
