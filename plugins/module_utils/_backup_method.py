# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""By which of its ways a Direct Backup is made: Central's API, or pg_dump at the Central."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from ansible_collections.odkops.central.plugins.module_utils._backup_terms import Terms
from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._download import Request, download, rehearse
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pg_dump import DumpOptions, dump, rehearse_dump

API = "api"
PG_DUMP = "pg_dump"
AUTO = "auto"
METHODS = (API, PG_DUMP, AUTO)

# What is said of the API before it has sent a byte, where the database can be had all the same. A refused log-in or a certificate
# that is not trusted is not among it: that is for a person to look at.
_OIDC = "oidc_enabled"
_UNREACHABLE = ("connection_failed", "server_error")


@dataclass(frozen=True)
class Ways:
    """How a Central can be reached.

    :param terms: how the backup is to be kept
    :param request: for the API; None where it is not to be used
    :param no_request: why not, in a few words
    :param channel: for pg_dump; None where none was given
    """

    terms: Terms
    request: Optional[Request] = None
    no_request: str = ""
    channel: Optional[Channel] = None
    options: DumpOptions = field(default_factory=DumpOptions)


def make_backup(method: str, ways: Ways, check: bool = False) -> dict[str, Any]:
    """Make a backup by a method, or see whether it could be made.

    :param method: one of :data:`METHODS`
    :param check: make none
    :returns: what :func:`download` or :func:`dump` does (:func:`rehearse` or :func:`rehearse_dump`), ``method``,
        ``method_reason``
    :raises CentralError: with the diagnosis of what is wrong
    """
    if method == API:
        return _by_api(ways, check, "asked for")
    if method == PG_DUMP:
        return _by_pg_dump(ways, check, "asked for")
    if ways.request is None:
        return _by_pg_dump(ways, check, ways.no_request)
    try:
        return _by_api(ways, check, "url and credentials were given")
    except CentralError as error:
        if ways.channel is None or error.diagnosis not in (_OIDC, *_UNREACHABLE):
            raise
        if error.diagnosis == _OIDC:
            return _by_pg_dump(ways, check, "this Central logs people in through OpenID Connect")
        result = _by_pg_dump(ways, check, "its API could not be used")
        result["warnings"].append(f"The backup was made by pg_dump, since the API could not be used. {error.message}")
        return result


def _by_api(ways: Ways, check: bool, reason: str) -> dict[str, Any]:
    if ways.request is None:
        raise CentralError("bad_option", f"method=api needs url and credentials: {ways.no_request}.")
    result = rehearse(ways.request) if check else download(ways.request)
    return {**result, "method": API, "method_reason": reason}


def _by_pg_dump(ways: Ways, check: bool, reason: str) -> dict[str, Any]:
    if ways.channel is None:
        raise CentralError(
            "bad_option",
            "pg_dump needs project_directory, the directory with Central's docker-compose.yml, or ssh_host"
            + (f"; and the API cannot be used: {reason}." if ways.no_request else "."),
        )
    action = rehearse_dump if check else dump
    return {**action(ways.channel, ways.terms, ways.options), "method": PG_DUMP, "method_reason": reason}
