# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong between here and Central, told apart."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ansible_collections.odkops.central.plugins.module_utils._api_url import Transport
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._openssl_enc import HEADER_SIZE

if TYPE_CHECKING:
    import requests

# Codes of Central's problems (lib/util/problem.js).
_HTTPS_ONLY = 401.3
_NO_BASIC = 401.5

_OIDC = (
    "This Central logs people in through OpenID Connect, so no password opens its API. "
    "Use method: pg_dump with project_directory or ssh_host, which needs no account, or give the token of a session that a "
    "browser opened (auth_method: token)."
)


def not_a_central(base: str, why: str) -> CentralError:
    """What answers is no Central."""
    return CentralError(
        "not_a_central", f"What answers at {base} is no ODK Central: {why}. Check url: the address of the site."
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all that it wraps, as requests and urllib3 wrap them."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        current = waiting.pop()
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting += [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]


def _cause(error: BaseException, kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    return next((found for found in _chain(error) if isinstance(found, kinds)), None)


def _names(error: BaseException) -> set[str]:
    return {type(found).__name__ for found in _chain(error)}


def transport_error(error: BaseException, base: str, transport: Transport, received: int | None = None) -> CentralError:
    """Turn an exception of requests, urllib3 or the socket into a :class:`CentralError`.

    :param received: bytes of the backup that had arrived, or None before it began
    """
    if isinstance(error, CentralError):
        return error
    names = _names(error)
    certificate = _cause(error, (ssl.SSLCertVerificationError,))
    if isinstance(certificate, ssl.SSLCertVerificationError):
        return CentralError(
            "tls_not_trusted",
            f"The certificate of {base} is not trusted: {certificate.verify_message}. "
            "Give the CA's certificate as ca_path, or mend the server's certificate.",
        )
    if "ConnectTimeout" in names or "ConnectTimeoutError" in names:
        return CentralError(
            "timeout", f"{base} did not take the connection within {transport.connect_timeout:g} seconds."
        )
    if names & {"ReadTimeout", "ReadTimeoutError", "timeout", "TimeoutError"}:
        behind = "" if received is None else f" after {received} bytes"
        return CentralError(
            "timeout",
            f"{base} sent nothing for {transport.read_timeout:g} seconds{behind}. Look for locks and load in its database; "
            "raise read_timeout where a dump starts slowly.",
        )
    if received == HEADER_SIZE:
        return CentralError(
            "dump_failed",
            "pg_dump failed at once on the server: the connection broke behind the 16 bytes of the header. "
            "Look at the log of the service container (docker compose logs service).",
        )
    if received is not None:
        return CentralError(
            "truncated",
            f"The connection to {base} broke after {received} bytes of the backup. Look at the logs of service, "
            "nginx and postgres14 there, and make another one.",
        )
    if _cause(error, (ssl.SSLError,)) is not None:
        return CentralError(
            "connection_failed", f"{base} does not speak TLS as it should: {_cause(error, (ssl.SSLError,))}."
        )
    name = _cause(error, (socket.gaierror,))
    if name is not None:
        return CentralError("connection_failed", f"The name in {base} could not be resolved. Check url and DNS.")
    if _cause(error, (ConnectionRefusedError,)) is not None:
        return CentralError(
            "connection_failed", f"{base} refused the connection. Check url, and that nginx runs there."
        )
    found = _cause(error, (OSError,))
    # An exception of requests is an OSError too, and its text may hold the whole request.
    said = next((e.strerror for e in _chain(error) if isinstance(e, OSError) and e.strerror), None)
    return CentralError(
        "connection_failed",
        f"The connection to {base} failed ({said or type(found or error).__name__}). Check url, the firewall, "
        "and that nginx and service run there.",
    )


def _problem(body: bytes) -> tuple[float | None, str]:
    """Code and message of Central's way of saying no, or (None, "") where it is not Central's."""
    try:
        value = json.loads(body)
        return float(value["code"]), str(value["message"])[:300]
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None, ""


def answer_error(response: requests.Response, path: str, base: str, body: bytes) -> CentralError:
    """Turn an answer other than 200 into a :class:`CentralError`.

    :param body: the start of the answer's text
    """
    status = response.status_code
    code, message = _problem(body)
    details: dict[str, Any] = {"status": status}
    if status in (301, 302, 303, 307, 308):
        target = response.headers.get("Location", "")[:200]
        return CentralError(
            "not_a_central", f"{base} redirects to {target}. Give the address that it redirects to as url.", **details
        )
    if status == 401:
        return _unauthorized(code, base, details)
    if status == 403 and code is not None:
        return CentralError(
            "permission_denied",
            "Central refuses the backup to this account (403): it lacks the right backup.run. "
            "Use an account with the site-wide role Administrator.",
            **details,
        )
    if status == 404 and code is not None and path == "/v1/sessions":
        return CentralError("oidc_enabled", _OIDC, **details)
    if status == 404 and code is not None and path == "/v1/users/current":
        return CentralError(
            "permission_denied", "The token is not that of a person, so it may not make backups.", **details
        )
    if status == 504:
        return CentralError(
            "timeout",
            f"The proxy at {base} gave up waiting for Central (504). A lock in the database may hold the dump up.",
            **details,
        )
    if status >= 500:
        said = f": {message}" if message else ""
        return CentralError(
            "server_error",
            f"{base} failed with status {status}{said}. Look at the logs of service, nginx and postgres14 there.",
            **details,
        )
    if status == 400 and code is not None:
        return CentralError("server_error", f"Central did not understand the request ({message}).", **details)
    why = f"it answers {path} with status {status}"
    if status == 421:
        why += ", as Central's proxy does for a name that is not its DOMAIN"
    error = not_a_central(base, why)
    error.details.update(details)
    return error


def _unauthorized(code: float | None, base: str, details: dict[str, Any]) -> CentralError:
    if code == _NO_BASIC:
        return CentralError("oidc_enabled", _OIDC, **details)
    if code == _HTTPS_ONLY:
        return CentralError(
            "insecure_http",
            f"Central takes this kind of log-in over https only, and {base} is not. Use https.",
            **details,
        )
    if code is None:
        error = not_a_central(base, "it asks for a log-in of its own (401), as a proxy with a password does")
        error.details.update(details)
        return error
    return CentralError(
        "authentication_failed",
        "Central refused the log-in (401): the e-mail address, the password or the token is wrong, or the session is over.",
        **details,
    )
