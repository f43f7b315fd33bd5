# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is executed on a Central's host to stop and start its services. Containers are never made anew where they exist."""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils._operation import HOST, RESTORE, Operation

RUNNING, STOP, START = "services-running", "services-stop", "services-start"

_NAMES = r"[a-z0-9][a-z0-9_.-]{0,62}(?: [a-z0-9][a-z0-9_.-]{0,62}){0,19}"

# `ps` knows containers of one-off commands as well, but does not name them here.
_RUNNING = "compose ps --services --filter status=running\n"

_STOP = """\
said=$(compose stop --timeout 30 $1 2>&1) || { printf '%s\\n' "$said" | tail -n 5 >&2; exit 1; }
"""

# `up` makes those that do not exist, as on a host where the Central has never run, and starts those that do. It
# neither builds images nor replaces a container whose settings have changed since it was made.
_START = """\
said=$(compose up --detach --no-build --no-deps --no-recreate $1 2>&1) || { printf '%s\\n' "$said" | tail -n 5 >&2; exit 1; }
"""

#: the parameter is one or more services, separated by a space
OPERATIONS: tuple[Operation, ...] = (
    Operation(RUNNING, HOST, _RUNNING),
    Operation(STOP, HOST, _STOP, (_NAMES,), RESTORE),
    Operation(START, HOST, _START, (_NAMES,), RESTORE),
)
