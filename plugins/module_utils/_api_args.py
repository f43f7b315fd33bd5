# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that say how to reach a Central. Their documentation is plugins/doc_fragments/_api.py."""

from __future__ import annotations

from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._api import AUTH_METHODS, Credentials
from ansible_collections.odkops.central.plugins.module_utils._api_url import Transport
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._passphrase import read_secret_file

#: goes into ``mutually_exclusive`` of each module that uses :func:`api_argument_spec`
API_MUTUALLY_EXCLUSIVE: tuple[tuple[str, ...], ...] = (("password", "password_file"),)

#: goes into ``required_if``
API_REQUIRED_IF: tuple[tuple[Any, ...], ...] = (
    ("auth_method", "session", ("email",)),
    ("auth_method", "session", ("password", "password_file"), True),
    ("auth_method", "basic", ("email",)),
    ("auth_method", "basic", ("password", "password_file"), True),
    ("auth_method", "token", ("token",)),
)


def api_argument_spec() -> dict[str, dict[str, Any]]:
    """The options, as AnsibleModule takes them."""
    return {
        "url": {"type": "str", "required": True},
        "auth_method": {"type": "str", "choices": list(AUTH_METHODS), "default": "session"},
        "email": {"type": "str"},
        "password": {"type": "str", "no_log": True},
        "password_file": {"type": "path", "no_log": False},
        "token": {"type": "str", "no_log": True},
        "allow_http": {"type": "bool", "default": False},
        "validate_certs": {"type": "bool", "default": True},
        "ca_path": {"type": "path"},
        "connect_timeout": {"type": "float", "default": 10},
        "read_timeout": {"type": "float", "default": 300},
    }


def transport_of(params: dict[str, Any]) -> Transport:
    """How to reach the Central.

    :raises CentralError: ``bad_option``
    """
    for name in ("connect_timeout", "read_timeout"):
        if not 0 < params[name] <= 86400:
            raise CentralError(
                "bad_option", f"{name} is {params[name]:g}: give seconds, more than 0 and at most 86400."
            )
    return Transport(
        url=params["url"].strip(),
        allow_http=params["allow_http"],
        validate_certs=params["validate_certs"],
        ca_path=params["ca_path"],
        connect_timeout=params["connect_timeout"],
        read_timeout=params["read_timeout"],
    )


def credentials_of(params: dict[str, Any]) -> Credentials:
    """Who asks.

    :raises CentralError: ``unreadable``, ``bad_passphrase``, ``bad_option``
    """
    password = params["password"]
    if params["password_file"] is not None and params["auth_method"] != "token":
        password = read_secret_file(params["password_file"], "password")
    token = params["token"]
    if params["auth_method"] == "token" and not (token.isascii() and token.isprintable() and " " not in token):
        raise CentralError(
            "bad_option", "token has characters that no token of Central has. Check what it was copied from."
        )
    if params["auth_method"] != "token" and not password:
        raise CentralError("bad_option", "The password is empty. Give the account's password.")
    return Credentials(method=params["auth_method"], email=params["email"], password=password, token=token)
