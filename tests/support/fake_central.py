# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An HTTP server on loopback that answers what a test wrote down, for servers that the demo Central cannot be."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Union

TOKEN = "t" * 64

Answer = Union["Reply", Callable[["Handler"], None]]


@dataclass
class Reply:
    """A whole answer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def as_json(value: Any, status: int = 200) -> Reply:
    """An answer as Central gives it."""
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json; charset=utf-8"})


def problem(code: float, message: str = "no") -> Reply:
    """An error as Central gives it."""
    return as_json({"code": code, "message": message}, int(code))


@dataclass
class Request:
    """What was asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Handler(BaseHTTPRequestHandler):
    """Looks the answer up."""

    protocol_version = "HTTP/1.1"
    server: Server

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append(Request(self.command, self.path, headers, self.rfile.read(length)))
        answer = self.server.answers.get(f"{self.command} {self.path}", problem(404.1))
        if callable(answer):
            self.close_connection = True
            answer(self)
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


class Server(ThreadingHTTPServer):
    """Knows its answers, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[Request] = []
        self.answers: dict[str, Answer] = {
            "POST /v1/sessions": as_json({"token": TOKEN}),
            "DELETE /v1/sessions/current": as_json({"success": True}),
            "GET /v1/users/current": as_json({"id": 5, "verbs": ["backup.run", "config.read"]}),
        }

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def asked(self) -> list[str]:
        """Method and path of each request so far."""
        return [f"{request.method} {request.path}" for request in self.requests]


@contextlib.contextmanager
def fake_central() -> Iterator[Server]:
    """A running server, stopped at the end."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
