# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a drill: a certificate for its DOMAIN by an authority that nobody else trusts, and what else its services read."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone

from ansible_collections.odkops.central.plugins.module_utils._drill_compose import CA, COMPOSE, CRONTAB, DH, TLS
from ansible_collections.odkops.central.plugins.module_utils._errors import MissingLibraryError, writing_error

# The group ffdhe2048 of RFC 7919, so that nginx need not look for one of its own, which takes a minute.
_GROUP = """\
-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""

_VALID = timedelta(days=30)


def _certificates(domain: str) -> tuple[bytes, bytes, bytes]:
    """The authority's certificate, the server's, and the server's key, in PEM. The authority's key is forgotten."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise MissingLibraryError(
            "cryptography",
            "A drill needs the Python library cryptography on its host (Debian and Ubuntu: python3-cryptography).",
            str(error),
        ) from error

    now = datetime.now(timezone.utc)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "odkops.central drill")])
    common = x509.CertificateBuilder().issuer_name(authority).not_valid_before(now - timedelta(days=1))
    root = (
        common.not_valid_after(now + _VALID)
        .subject_name(authority)
        .serial_number(x509.random_serial_number())
        .public_key(authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    leaf = (
        common.not_valid_after(now + _VALID)
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, domain[:64])]))
        .serial_number(x509.random_serial_number())
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(domain)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return root.public_bytes(pem), leaf.public_bytes(pem), private


def write_files(directory: str, domain: str, compose: bytes) -> None:
    """Write all of them into the drill's working directory, which is new and nobody else's.

    :raises CentralError: ``missing_required_lib``, ``disk_full``, ``destination_not_writable``
    """
    root, leaf, key = _certificates(domain)
    files = {
        CA: (root, 0o644),
        f"{TLS}/fullchain.pem": (leaf + root, 0o644),
        f"{TLS}/privkey.pem": (key, 0o600),
        f"{DH}/nginx.pem": (_GROUP.encode(), 0o644),
        CRONTAB: (b"# None: a drill does nothing by the clock.\n", 0o644),
        COMPOSE: (compose, 0o600),
    }
    path = directory
    try:
        for name in (TLS, DH):
            os.mkdir(os.path.join(directory, name), 0o755)
        for name, (content, mode) in files.items():
            path = os.path.join(directory, name)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
                # Whatever the umask: processes of other users in the containers read some of them.
                os.fchmod(file.fileno(), mode)
    except OSError as error:
        raise writing_error(error, path) from error
