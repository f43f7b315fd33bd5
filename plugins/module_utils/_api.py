# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of Central's HTTP API that a backup needs: log in, look at one's rights, download, log out.

Source: getodk/central-backend, lib/resources/sessions.js, lib/resources/users.js,
lib/resources/backup.js, lib/http/preprocessors.js, lib/util/problem.js.
"""

from __future__ import annotations

import base64
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Optional

from ansible_collections.odkops.central.plugins.module_utils._api_errors import (
    answer_error,
    not_a_central,
    transport_error,
)
from ansible_collections.odkops.central.plugins.module_utils._api_url import Transport, check_url
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, MissingLibraryError
from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK

if TYPE_CHECKING:
    import requests

#: the ways of telling Central who asks
AUTH_METHODS = ("session", "basic", "token")

#: the right that POST /v1/backup needs
BACKUP_RIGHT = "backup.run"

_JSON_LIMIT = 4 * 1024 * 1024


@dataclass(frozen=True)
class Credentials:
    """Who asks.

    :param method: ``session`` (a session is opened, and closed at the end), ``basic``, or ``token``
    """

    method: str = "session"
    email: Optional[str] = None
    password: Optional[str] = None
    token: Optional[str] = None


def _load_requests() -> Any:
    try:
        import requests
    except ImportError as error:
        raise MissingLibraryError(
            "requests",
            "The Python library 'requests' is needed to talk to Central. Install it for the Python that runs this "
            "module (Debian and Ubuntu: python3-requests).",
            str(error),
        ) from error
    return requests


class Client:
    """A connection to one Central. Use it as a context manager; the session that it opens is closed again.

    :raises CentralError: ``insecure_http``, ``bad_option``, ``missing_required_lib``
    """

    def __init__(self, transport: Transport, credentials: Credentials) -> None:
        self._requests = _load_requests()
        self._transport = transport
        self._credentials = credentials
        self._base, self._plain_http = check_url(transport)
        self._session: requests.Session = self._requests.Session()
        self._authorization: str | None = None
        self._opened = False
        #: what went wrong without harm, for the administrator to read
        self.warnings: list[str] = []

    def __enter__(self) -> Client:
        try:
            self._log_in()
        except BaseException:
            self._session.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._log_out()
        finally:
            self._session.close()

    def request(self, method: str, path: str, body: Any = None, stream: bool = False) -> requests.Response:
        """Send a request; anything but a status of 200 is an error.

        :param path: for example ``/v1/backup``
        :param body: sent as JSON
        :param stream: the answer's body is read by the caller, who closes the answer
        :raises CentralError: as documented for each cause
        """
        headers = {"Accept-Encoding": "identity", "User-Agent": "odkops.central"}
        if self._plain_http:
            # Central takes Basic only from a proxy that says it speaks https to the world.
            headers["X-Forwarded-Proto"] = "https"
        if method == "GET":
            headers["X-Extended-Metadata"] = "true"
        try:
            with warnings.catch_warnings():
                # urllib3's, for validate_certs=false: it was asked for.
                warnings.filterwarnings("ignore", message="Unverified HTTPS request")
                response: requests.Response = self._session.request(
                    method,
                    self._base + path,
                    json=body,
                    headers=headers,
                    auth=self._authorize,
                    timeout=(self._transport.connect_timeout, self._transport.read_timeout),
                    verify=self._transport.verify(),
                    allow_redirects=False,
                    stream=True,
                )
        except (self._requests.RequestException, OSError, UnicodeError) as error:
            raise transport_error(error, self._base, self._transport) from error
        if response.status_code == 200 and stream:
            return response
        with response:
            if response.status_code == 200:
                response._content = self._read_body(response)  # pylint: disable=protected-access
                return response
            raise answer_error(response, path, self._base, self._excerpt(response))

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Given to requests even where there is nothing to add: else it looks into ~/.netrc."""
        if self._authorization is not None:
            request.headers["Authorization"] = self._authorization
        return request

    def _read_body(self, response: requests.Response) -> bytes:
        try:
            data: bytes = response.raw.read(_JSON_LIMIT + 1)
        except Exception as error:
            raise transport_error(error, self._base, self._transport) from error
        if len(data) > _JSON_LIMIT:
            raise not_a_central(self._base, "its answer is far too long")
        return data

    def _excerpt(self, response: requests.Response) -> bytes:
        """The start of an error's text; that it cannot be read changes nothing."""
        try:
            data: bytes = response.raw.read(64 * 1024)
        except Exception:  # noqa: BLE001  # of requests, urllib3, http.client, ssl or socket
            return b""
        return data

    def _json(self, response: requests.Response) -> dict[str, Any]:
        try:
            value = response.json()
        except ValueError as error:
            raise not_a_central(self._base, "its answer is not JSON") from error
        if not isinstance(value, dict):
            raise not_a_central(self._base, "its answer is not a JSON object")
        return value

    def _log_in(self) -> None:
        given = self._credentials
        if given.method == "token":
            self._authorization = f"Bearer {given.token}"
            return
        if given.method == "basic":
            pair = f"{given.email}:{given.password}".encode()
            self._authorization = "Basic " + base64.b64encode(pair).decode("ascii")
            return
        answer = self._json(
            self.request("POST", "/v1/sessions", {"email": given.email, "password": given.password}),
        )
        token = answer.get("token")
        if not isinstance(token, str) or not token or not token.isprintable():
            raise not_a_central(self._base, "its answer to the log-in has no token")
        self._authorization = f"Bearer {token}"
        self._opened = True

    def _log_out(self) -> None:
        if not self._opened:
            return
        self._opened = False
        try:
            self.request("DELETE", "/v1/sessions/current")
        except CentralError as error:
            self.warnings.append(f"The session that was opened at Central could not be closed: {error.message}")

    def check_right(self) -> None:
        """Make sure that this account may make backups.

        :raises CentralError: ``permission_denied``, ``authentication_failed``, ...
        """
        answer = self._json(self.request("GET", "/v1/users/current"))
        rights = answer.get("verbs")
        if not isinstance(rights, list):
            self.warnings.append("This Central does not say what the account may do; only a backup can show it.")
        elif BACKUP_RIGHT not in rights:
            raise CentralError(
                "permission_denied",
                f"The account may not make backups: it lacks the right {BACKUP_RIGHT}. "
                "Use an account with the site-wide role Administrator.",
            )

    def backup(self, passphrase: str | None) -> Download:
        """Start a Direct Backup.

        :param passphrase: None or empty for none
        :raises CentralError: as documented for each cause
        """
        # Always a JSON object: Central ignores a body of another type, and the passphrase with it.
        body = {"passphrase": passphrase} if passphrase else {}
        response = self.request("POST", "/v1/backup", body, stream=True)
        kind = response.headers.get("Content-Type", "")
        if kind.startswith(("text/html", "application/json")):
            with response:
                raise not_a_central(self._base, f"it answered the request for a backup with {kind}")
        return Download(response, self._base, self._transport)


class Download:
    """The body of a backup on its way. Use it as a context manager."""

    def __init__(self, response: requests.Response, base: str, transport: Transport) -> None:
        self._response = response
        self._base = base
        self._transport = transport
        # By pieces as they come, so that what arrived before a connection breaks is not lost with it.
        self._pieces: Iterator[bytes] = response.raw.stream(CHUNK, decode_content=False)
        self._piece = b""
        self._received = 0

    @property
    def disposition(self) -> str:
        """The header that names the file, or empty."""
        return self._response.headers.get("Content-Disposition", "")

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; empty when the server has closed the stream, which does not mean that it is whole.

        :raises CentralError: ``timeout``, ``truncated``, ``dump_failed``
        """
        if not self._piece:
            try:
                self._piece = next(self._pieces, b"")
            except Exception as error:
                raise transport_error(error, self._base, self._transport, self._received) from error
            self._received += len(self._piece)
        data, self._piece = self._piece[:size], self._piece[size:]
        return data

    def __enter__(self) -> Download:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._response.close()
