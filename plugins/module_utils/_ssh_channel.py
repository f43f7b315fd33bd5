# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The channel of a vault: operations are asked of the gate on the Central's host, over SSH.

The gate is a forced command (_gate.py): whatever is asked, it executes one of the operations it knows, or nothing.
What is sent is ``NAME/DIGEST argument ...``, quoted as for a shell; the digest tells it whether both mean the same.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.odkops.central.plugins.module_utils._channel import ProcessChannel
from ansible_collections.odkops.central.plugins.module_utils._channel_errors import ssh_failure
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, reading_error
from ansible_collections.odkops.central.plugins.module_utils._operation import Operation

_HOST = re.compile(r"[A-Za-z0-9_:\[][A-Za-z0-9_.:%\]-]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*\$?")

#: in bytes; the gate takes no more, and Linux twice that in one string
MAXIMUM_REQUEST = 64 * 1024

#: seconds until a connection must have been made; and the beat by which a dead one is noticed, within two minutes
CONNECT_TIMEOUT = 30
_ALIVE_INTERVAL, _ALIVE_COUNT = 15, 8

# Nothing is asked of a person, nothing is forwarded, no connection is shared, and no banner is taken for an error.
_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": str(CONNECT_TIMEOUT),
    "ServerAliveInterval": str(_ALIVE_INTERVAL),
    "ServerAliveCountMax": str(_ALIVE_COUNT),
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "ControlMaster": "no",
    "ControlPath": "none",
    "RequestTTY": "no",
    "RemoteCommand": "none",
    "LogLevel": "ERROR",
}


@dataclass(frozen=True)
class SshTarget:
    """How the Central's host is reached.

    What is None comes from the configuration of ssh for this user.

    :param host: a name, an address, or a Host of ssh's configuration
    :param user: the user there, whose authorized_keys names the gate
    :param port: number of the TCP port
    :param key_file: path of the private key, without a passphrase
    :param known_hosts_file: path of the file with the host's key; the only one that is looked at then
    """

    host: str
    user: str | None = None
    port: int | None = None
    key_file: str | None = None
    known_hosts_file: str | None = None

    def check(self) -> None:
        """See whether all of it can be.

        :raises CentralError: ``bad_option``, ``unreadable``
        """
        if not _HOST.fullmatch(self.host):
            raise CentralError("bad_option", f"ssh_host: {self.host!r} is neither the name nor the address of a host.")
        if self.user is not None and not _USER.fullmatch(self.user):
            raise CentralError("bad_option", f"ssh_user: {self.user!r} is not the name of a user.")
        if self.port is not None and not 0 < self.port < 65536:
            raise CentralError("bad_option", f"ssh_port: {self.port} is not the number of a port.")
        for path in (self.key_file, self.known_hosts_file):
            if path is not None:
                # ssh says little when it cannot read them, and then goes on without.
                try:
                    with open(path, "rb") as file:
                        file.read(1)
                except OSError as error:
                    raise reading_error(error, path) from error

    def command(self) -> list[str]:
        """Return the command that runs what follows on the host."""
        options = dict(_OPTIONS)
        if self.known_hosts_file is not None:
            # A path with spaces is quoted as in a file of configuration.
            options["UserKnownHostsFile"] = f'"{os.path.abspath(self.known_hosts_file)}"'
            options["GlobalKnownHostsFile"] = "/dev/null"
        if self.key_file is not None:
            options["IdentitiesOnly"] = "yes"
            options["IdentityAgent"] = "none"
        command = ["ssh", "-T"]
        for name, value in options.items():
            command += ["-o", f"{name}={value}"]
        if self.key_file is not None:
            command += ["-i", os.path.abspath(self.key_file)]
        if self.user is not None:
            command += ["-l", self.user]
        if self.port is not None:
            command += ["-p", str(self.port)]
        return [*command, "--", self.host]


class SshChannel(ProcessChannel):
    """Asks the gate on the Central's host to execute operations.

    :param target: how the host is reached
    :param operations: those that there are, by name; all of the collection's unless given
    :raises CentralError: ``bad_option``, ``unreadable``
    """

    def __init__(self, target: SshTarget, operations: Mapping[str, Operation] | None = None) -> None:
        super().__init__(operations)
        target.check()
        self._target = target

    def _command(self, operation: Operation, arguments: Sequence[str]) -> tuple[list[str], str | None]:
        request = shlex.join([f"{operation.name}/{operation.digest}", *arguments])
        if len(request.encode("utf-8", "surrogateescape")) > MAXIMUM_REQUEST:
            raise CentralError(
                "operation_refused",
                f"The arguments of the operation {operation.name} are too long to be sent over SSH.",
                operation=operation.name,
            )
        return [*self._target.command(), request], None

    def _failure(self, operation: Operation, status: int, said: str) -> CentralError:
        return ssh_failure(operation, status, said, self._target.host)
