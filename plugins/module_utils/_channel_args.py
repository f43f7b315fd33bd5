# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that say where a Central runs. Their documentation is plugins/doc_fragments/_channel.py."""

from __future__ import annotations

import contextlib
import os
import re
from contextlib import AbstractContextManager
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._channel import Channel, LocalChannel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._lease import check_run_id
from ansible_collections.odkops.central.plugins.module_utils._operation import Project
from ansible_collections.odkops.central.plugins.module_utils._ssh_channel import SshChannel, SshTarget
from ansible_collections.odkops.central.plugins.module_utils._under_lease import under_lease

#: goes into ``required_one_of`` of each module that cannot do without a channel
CHANNEL_REQUIRED_ONE_OF: tuple[tuple[str, ...], ...] = (("project_directory", "ssh_host"),)

_PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]*")


def project_argument_spec() -> dict[str, dict[str, Any]]:
    """The options that say where a Central is on its own host, as AnsibleModule takes them."""
    return {
        "project_directory": {"type": "path"},
        "project": {"type": "str"},
        "compose_files": {"type": "list", "elements": "str", "default": []},
        "docker_command": {"type": "list", "elements": "str", "default": ["docker"]},
    }


def channel_argument_spec() -> dict[str, dict[str, Any]]:
    """The same, and those for a Central on another host."""
    return {
        **project_argument_spec(),
        "ssh_host": {"type": "str"},
        "ssh_user": {"type": "str"},
        "ssh_port": {"type": "int"},
        "ssh_key_file": {"type": "path", "no_log": False},
        "ssh_known_hosts_file": {"type": "path"},
    }


def leased_channel_argument_spec() -> dict[str, dict[str, Any]]:
    """The same, and the run whose lease is kept while the module is at work. See :func:`leased`."""
    return {**channel_argument_spec(), "lease": {"type": "str"}}


def project_of(params: dict[str, Any]) -> Project:
    """The Central's compose project on its own host.

    :raises CentralError: ``bad_option``
    """
    directory, project, docker = params["project_directory"], params["project"], params["docker_command"]
    if not directory or not os.path.isabs(directory):
        raise CentralError(
            "bad_option",
            "project_directory: give the absolute path of the directory with Central's docker-compose.yml.",
        )
    if project is not None and not _PROJECT.fullmatch(project):
        raise CentralError(
            "bad_option",
            f"project: {project!r} is not the name of a compose project: lower-case letters, digits, hyphens and "
            "underscores. `docker compose ls` shows it.",
        )
    if not docker or not all(docker) or docker[0].startswith("-"):
        raise CentralError("bad_option", "docker_command: give the command as a list, such as [sudo, -n, docker].")
    if not all(params["compose_files"]):
        raise CentralError("bad_option", "compose_files: a path in it is empty.")
    return Project(os.path.normpath(directory), project, tuple(params["compose_files"]), tuple(docker))


def channel_of(params: dict[str, Any]) -> Channel:
    """How operations are executed at the Central: over SSH where ``ssh_host`` is given, else here.

    :raises CentralError: ``bad_option``, ``unreadable``
    """
    if params["ssh_host"] is not None:
        return SshChannel(
            SshTarget(
                host=params["ssh_host"],
                user=params["ssh_user"],
                port=params["ssh_port"],
                key_file=params["ssh_key_file"],
                known_hosts_file=params["ssh_known_hosts_file"],
            )
        )
    return LocalChannel(project_of(params))


def has_channel(params: dict[str, Any]) -> bool:
    """Whether the options say where the Central runs."""
    return params["ssh_host"] is not None or params["project_directory"] is not None


def leased(params: dict[str, Any], check_mode: bool) -> AbstractContextManager[None]:
    """Return a context in which the lease is kept that ``lease`` names; one that does nothing where it names none.

    In check mode nobody has taken one.

    :raises CentralError: ``bad_option``; from the context, ``lease_lost`` and as the channel does
    """
    if params["lease"] is None:
        return contextlib.nullcontext()
    run_id = check_run_id(params["lease"])
    if not has_channel(params):
        raise CentralError(
            "bad_option", "lease is kept on the Central's host: give project_directory or ssh_host, or no lease."
        )
    return contextlib.nullcontext() if check_mode else under_lease(channel_of(params), run_id)
