# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lease on the pool in the life of a set: from when its objects are looked up to when it is sealed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Callable, Optional

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._heartbeat import LOST
from ansible_collections.odkops.central.plugins.module_utils._pool_lease import PoolLeases
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository


@contextlib.contextmanager
def counting_on_pool(repository: Repository, central: str, set_id: Optional[str]) -> Iterator[None]:
    """Take the lease for the run that makes a set, and keep it while it is at work in the pool.

    It is there afterwards, until the set is sealed or discarded, or it expires.

    :param set_id: None for work that no set is to come of
    :raises CentralError: ``bad_name``, ``pool_busy``, ``lease_lost`` and others, as the methods of :class:`PoolLeases`
    """
    if set_id is None:
        yield
        return
    leases = PoolLeases(repository, central)
    leases.take(set_id)
    with leases.keep(set_id):
        yield


@contextlib.contextmanager
def sealing(
    repository: Repository, central: str, set_id: str, required: bool = False
) -> Iterator[Callable[[], object]]:
    """Keep the lease of a set while it is sealed, and return it at the end.

    It gives what is to be called just before the set gets its name, from which moment on the set itself says what it needs.

    :param required: the set counts on objects, so the lease has to be there; else it is kept if there is one
    :raises CentralError: ``lease_lost``, also from what is to be called; the set must not be sealed then
    """
    leases = PoolLeases(repository, central)
    sealed_before = os.path.lexists(repository.set_path(central, set_id))
    if sealed_before or not (required or leases.has(set_id)):
        yield lambda: None
        return
    safe = False

    def ready() -> None:
        nonlocal safe
        leases.renew(set_id)
        safe = True

    try:
        with leases.keep(set_id):
            yield ready
    except CentralError as error:
        if not safe or error.diagnosis != LOST:
            raise
    # The set is sealed: what is left of the lease expires by itself.
    with contextlib.suppress(CentralError):
        leases.release(set_id)
