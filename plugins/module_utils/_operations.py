# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one list of everything that may be executed at a Central."""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils import (
    _config_operations,
    _config_restore_operations,
    _drill_operations,
    _enketo_operations,
    _enketo_restore_operations,
    _health_operations,
    _journal_operations,
    _lease_operations,
    _pg_dump_operations,
    _replace_operations,
    _restore_operations,
    _s3_operations,
    _service_operations,
)
from ansible_collections.odkops.central.plugins.module_utils._operation import Operation

_ALL: tuple[Operation, ...] = (
    *_pg_dump_operations.OPERATIONS,
    *_enketo_operations.OPERATIONS,
    *_enketo_restore_operations.OPERATIONS,
    *_config_operations.OPERATIONS,
    *_config_restore_operations.OPERATIONS,
    *_s3_operations.OPERATIONS,
    *_lease_operations.OPERATIONS,
    *_journal_operations.OPERATIONS,
    *_health_operations.OPERATIONS,
    *_service_operations.OPERATIONS,
    *_restore_operations.OPERATIONS,
    *_replace_operations.OPERATIONS,
    *_drill_operations.OPERATIONS,
)

#: by name
OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in _ALL}

if len(OPERATIONS) != len(_ALL):
    raise AssertionError("two operations have the same name")
