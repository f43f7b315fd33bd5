# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a Central is reached, and over what."""

from __future__ import annotations

import ipaddress
import os
import ssl
from dataclasses import dataclass
from typing import Optional
from urllib.parse import urlsplit

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError


@dataclass(frozen=True)
class Transport:
    """How to reach a Central.

    :param url: the address of the site, such as ``https://central.example.org``
    :param allow_http: permit plain HTTP to another host
    :param validate_certs: check the server's certificate
    :param ca_path: certificates to trust instead of the system's, PEM
    :param connect_timeout: seconds until the connection must stand
    :param read_timeout: seconds that may pass without a byte from the server
    """

    url: str
    allow_http: bool = False
    validate_certs: bool = True
    ca_path: Optional[str] = None
    connect_timeout: float = 10.0
    read_timeout: float = 300.0

    def verify(self) -> bool | str:
        """The value of `verify` for requests: the system's certificates unless told otherwise."""
        if not self.validate_certs:
            return False
        if self.ca_path is not None:
            return self.ca_path
        if os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE"):
            return True
        system = ssl.get_default_verify_paths()
        return system.cafile or system.capath or True


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_url(transport: Transport) -> tuple[str, bool]:
    """The address to put paths behind, and whether it is plain HTTP.

    :raises CentralError: ``bad_option``, ``insecure_http``, ``unreadable``
    """
    try:
        parts = urlsplit(transport.url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise CentralError("bad_option", f"url is not an address ({error}). {_EXAMPLE}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise CentralError("bad_option", f"url is not an http or https address. {_EXAMPLE}")
    if parts.username is not None or parts.password is not None:
        raise CentralError(
            "bad_option", "url has a user name or password in it, where logs would show it. Use email and password."
        )
    if parts.path.rstrip("/") or parts.query or parts.fragment:
        raise CentralError(
            "bad_option", f"url has a path behind the host: give the address of the site only. {_EXAMPLE}"
        )
    plain = parts.scheme == "http"
    if plain and not transport.allow_http and not _is_loopback(host):
        raise CentralError(
            "insecure_http",
            f"{host} would be reached by plain HTTP, with password, passphrase and all data in clear on the network. "
            "Use https, or allow_http=true if that network is yours.",
        )
    if transport.ca_path is not None and not os.access(transport.ca_path, os.R_OK):
        raise CentralError("unreadable", f"ca_path {transport.ca_path} does not exist or cannot be read by this user.")
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}" + (f":{port}" if port is not None else ""), plain


_EXAMPLE = "It looks like https://central.example.org."
