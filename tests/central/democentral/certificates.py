# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A certificate authority of the demo's own, and nginx's certificate by it."""

from __future__ import annotations

import os
from pathlib import Path

from .run import run

DAYS = "3650"


def ensure(folder: Path, domain: str, target: Path) -> Path:
    """Make what is missing; returns the authority's certificate.

    ``folder`` keeps the authority (0700); ``target`` gets ``fullchain.pem`` and ``privkey.pem`` as stock wants them
    for SSL_TYPE=customssl. The certificate is for ``domain``, localhost and 127.0.0.1.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    if not (ca.exists() and ca_key.exists()):
        subject = ["-subj", "/O=odkops.central tests/CN=Demo Central CA"]
        extensions = [
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ]
        out = ["-keyout", f"{ca_key}.partial", "-out", f"{ca}.partial"]
        run(["openssl", "req", "-x509", "-days", DAYS, *curve, *subject, *extensions, *out])
        _install(f"{ca_key}.partial", ca_key, 0o600)
        _install(f"{ca}.partial", ca, 0o644)
    chain, key = target / "fullchain.pem", target / "privkey.pem"
    if not (chain.exists() and key.exists() and _is_for(chain, domain, ca)):
        request, extra = folder / "request.pem", folder / "extensions"
        run(
            [
                "openssl",
                "req",
                "-new",
                *curve,
                "-subj",
                f"/CN={domain}",
                "-keyout",
                f"{key}.partial",
                "-out",
                str(request),
            ]
        )
        extra.write_text(
            f"subjectAltName=DNS:{domain},DNS:localhost,IP:127.0.0.1\n"
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n",
            "utf-8",
        )
        sign = ["-CA", str(ca), "-CAkey", str(ca_key), "-CAcreateserial", "-days", DAYS, "-extfile", str(extra)]
        run(["openssl", "x509", "-req", "-in", str(request), *sign, "-out", f"{chain}.partial"])
        _install(f"{key}.partial", key, 0o600)
        _install(f"{chain}.partial", chain, 0o644)
    return ca


def _install(partial: str, final: Path, mode: int) -> None:
    Path(partial).chmod(mode)
    os.replace(partial, final)


def _is_for(chain: Path, domain: str, ca: Path) -> bool:
    """Whether a certificate is by our authority and names the domain."""
    names = run(["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", str(chain)], check=False).stdout
    signed = run(["openssl", "verify", "-CAfile", str(ca), str(chain)], check=False).returncode == 0
    return signed and f"DNS:{domain}," in names.replace(" ", "")
