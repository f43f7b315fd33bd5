# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The argument specs that go with these fragments are in plugins/module_utils/_channel_args.py.
# Private to the collection: it may change at any time.

"""Options that say where a Central runs, shared by several modules."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of the options of a channel to a Central."""

    # For whatever works on the Central's own host.
    DOCUMENTATION = r"""
options:
  project_directory:
    description:
      - Absolute path of the directory with Central's C(docker-compose.yml), on the host where the Central runs.
    type: path
  project:
    description:
      - Name of the Compose project.
      - By default what Docker Compose makes of the directory and of C(COMPOSE_PROJECT_NAME) in C(.env).
    type: str
  compose_files:
    description:
      - The files of the Compose project, relative to O(project_directory).
      - By default what Docker Compose finds, C(docker-compose.yml) and C(docker-compose.override.yml).
    type: list
    elements: str
    default: []
  docker_command:
    description:
      - The command that Docker is called with, as a list. C(compose) and its arguments follow it.
      - Give V([sudo, -n, docker]) where the user of the task may use Docker through sudo only.
    type: list
    elements: str
    default: [docker]
"""

    # For whatever may also reach a Central on another host.
    SSH = r"""
options:
  ssh_host:
    description:
      - The host where the Central runs, if the module runs on another one, such as a vault.
        A name, an address, or a V(Host) of SSH's configuration.
      - There the gate must be installed, a forced command that executes nothing but the operations of a backup.
        The entry point C(gate) of the role P(odkops.central.prepare#role) does that.
      - The gate knows the Central, so that O(project_directory), O(project), O(compose_files) and O(docker_command)
        are not used then.
    type: str
  ssh_user:
    description: The user on O(ssh_host) whose C(authorized_keys) name the gate.
    type: str
  ssh_port:
    description: The port of the SSH server on O(ssh_host).
    type: int
  ssh_key_file:
    description:
      - Path of the private key on the host where the module runs. It must not have a passphrase.
      - By default the keys that SSH finds by itself.
    type: path
  ssh_known_hosts_file:
    description:
      - Path of a file with the host key of O(ssh_host). No other file is looked at then.
      - By default the known hosts of the user and of the system. A host key that is not known is never accepted.
    type: path
"""

    # For whatever takes long, and so keeps the lease that somebody else has taken.
    LEASE = r"""
options:
  lease:
    description:
      - The id of the run that has the lease on the Central, as M(odkops.central.central_lease) returns it.
        The module keeps it from expiring while it is at work.
      - It fails with the diagnosis V(lease_lost) if the run has lost it, since another one may be at work there then.
        If that was not known before the end, a file that is whole may have been written.
      - By default no lease is asked for. In check mode this is not used.
    type: str
"""
