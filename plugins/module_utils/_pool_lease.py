# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Leases on the pools of a Central: the sets that are being made, and count on objects which are there.

::

    <repository>/<central>/pool/leases/<set id>.json    the lease of a run: holder, since, renewed, lifetime, boot, uptime
    <repository>/<central>/pool/leases/lock             locked (flock(2)) while a lease is taken, and while a prune is at work

A run takes one before it asks what the pool has, and returns it when its set is sealed or discarded. Until a set is sealed
nothing else says which objects it needs, so whatever removes objects does that inside of :meth:`PoolLeases.closed`: it is told
the leases that live, and none is taken meanwhile. Any number of runs may have one at the same time.

A lease that is not renewed expires. Within one boot of the vault that is judged by a clock which nobody sets. A lease of another
boot, or of another host that has the same repository, is judged by the vault's clock, whichever way it is wrong.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._atomic import AtomicFile, make_directory
from ansible_collections.odkops.central.plugins.module_utils._directories import is_real_directory, names_in
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, reading_error, writing_error
from ansible_collections.odkops.central.plugins.module_utils._heartbeat import INTERVAL, LIFETIME, LOST, Heartbeat
from ansible_collections.odkops.central.plugins.module_utils._lease import this_host
from ansible_collections.odkops.central.plugins.module_utils._pool import POOL
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository
from ansible_collections.odkops.central.plugins.module_utils._set_names import (
    check_set_id,
    set_id_time,
    utc_from_text,
    utc_text,
)

LEASES, LOCK = "leases", "lock"

_END = ".json"
#: a lease is much smaller
_LARGEST = 4096
#: seconds to wait for a prune
_WAIT = 300.0
_POLL = 0.1
#: as long as others may lock in passing
_AT_LEAST = 1.0
#: seconds that a prune gives a lease which has just expired
_GRACE = 60.0


@dataclass(frozen=True)
class PoolLease:
    """The lease of one run.

    :param set_id: of the set that it makes
    :param holder: the host where it runs
    :param since: when it was taken, by the clock of that host
    :param renewed: when it was last renewed, by that clock
    :param lifetime: seconds that a renewal gives
    :param boot: the boot of that host
    :param uptime: seconds from that boot to the last renewal
    """

    set_id: str
    holder: str
    since: datetime
    renewed: datetime
    lifetime: float
    boot: str
    uptime: float

    def lives(self, now: datetime, boot: str, uptime: float, grace: float = 0) -> bool:
        """Whether it has not expired at a moment of this host, and for `grace` seconds."""
        if self.boot and self.boot == boot:
            return 0 <= uptime - self.uptime < self.lifetime + grace
        # It may be of a host whose clock is ahead. One from a time far ahead is of a clock that was wrong.
        return abs((now - self.renewed).total_seconds()) < self.lifetime + grace

    def as_dict(self) -> dict[str, Any]:
        """As its file has it."""
        return {
            "set_id": self.set_id,
            "holder": self.holder,
            "since": utc_text(self.since),
            "renewed": utc_text(self.renewed),
            "lifetime": self.lifetime,
            "boot": self.boot,
            "uptime": self.uptime,
        }

    @classmethod
    def from_text(cls, text: bytes, set_id: str) -> PoolLease | None:
        """Return the lease that a file holds; None where it holds none of `set_id`."""
        try:
            found = json.loads(text)
            since, renewed = utc_from_text(found["since"]), utc_from_text(found["renewed"])
            lifetime, uptime = float(found["lifetime"]), float(found["uptime"])
            holder, boot = str(found["holder"]), str(found["boot"])
            of_set = found["set_id"] == set_id
        except (ValueError, KeyError, TypeError):
            return None
        if since is None or renewed is None or not of_set:
            return None
        return cls(set_id, holder, since, renewed, lifetime, boot, uptime)


class PoolLeases:
    """The leases on the pools of `central`.

    :raises CentralError: ``bad_name``, ``not_a_repository``
    """

    def __init__(self, repository: Repository, central: str) -> None:
        self._central = repository.central_path(central)
        self._pool = os.path.join(self._central, POOL)
        self.path = os.path.join(self._pool, LEASES)
        for directory in (self._central, self._pool, self.path):
            is_real_directory(directory)

    def _file(self, set_id: str) -> str:
        check_set_id(set_id)
        return os.path.join(self.path, set_id + _END)

    # --- what is there ------------------------------------------------------------------------------------------

    def live(self, grace: float = 0) -> list[PoolLease]:
        """Return the leases that have not expired, by set id. Others may be taken meanwhile, see :meth:`closed`.

        :param grace: seconds for which those that have expired count, too
        :raises CentralError: ``unreadable``, ``not_a_repository``
        """
        now, boot, uptime = _now(), _boot(), _uptime()
        found = []
        for name in names_in(self.path):
            set_id = name[: -len(_END)]
            if not name.endswith(_END) or set_id_time(set_id) is None:
                continue
            lease = self._read(set_id)
            if lease is not None and lease.lives(now, boot, uptime, grace):
                found.append(lease)
        return found

    def has(self, set_id: str) -> bool:
        """Whether the run that makes a set has taken a lease, though it may have expired since."""
        return self._read(set_id) is not None

    def _read(self, set_id: str) -> PoolLease | None:
        """Return the lease of a set; None where there is none. What is damaged is none: it is written whole or not at all."""
        path = self._file(set_id)
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    return None
                return PoolLease.from_text(file.read(_LARGEST), set_id)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise reading_error(error, path) from error

    # --- of a run -----------------------------------------------------------------------------------------------

    def take(self, set_id: str, lifetime: float = LIFETIME, wait: float = _WAIT) -> PoolLease:
        """Take the lease for the run that makes a set; one that it has already is renewed.

        :param lifetime: seconds after which it expires
        :param wait: seconds to wait for a prune that is at work
        :raises CentralError: ``pool_busy``, ``disk_full``, ``destination_not_writable``, ``bad_name``
        """
        self._file(set_id)
        with self._locked(wait):
            lease = self._read(set_id)
            since = None if lease is None else lease.since
            self._remove_expired(set_id)
            return self._write(set_id, lifetime, since)

    def renew(self, set_id: str) -> PoolLease:
        """Renew the lease of a set.

        It does not wait for a prune: that one knows of this lease.

        :raises CentralError: ``lease_lost``, ``disk_full``, ``destination_not_writable``, ``unreadable``
        """
        lease = self._read(set_id)
        if lease is None or not lease.lives(_now(), _boot(), _uptime()):
            raise CentralError(
                LOST,
                f"The lease of the set {set_id} on the pool {self._pool} has expired or was removed, so objects that the set "
                "needs may have been removed too. Begin the backup again.",
            )
        return self._write(set_id, lease.lifetime, lease.since)

    def release(self, set_id: str) -> bool:
        """Return the lease of a set, and remove the directories that are empty without it.

        It waits for nobody: a prune that is at work goes on without it.

        :returns: whether there was one
        :raises CentralError: ``destination_not_writable``
        """
        path = self._file(set_id)
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise writing_error(error, path) from error
        self._tidy()
        return True

    def keep(self, set_id: str, interval: float = INTERVAL) -> Heartbeat:
        """Return a context in which the lease of a set is renewed.

        :raises CentralError: when it is entered or left, ``lease_lost``
        """
        lease = self._read(set_id)
        return Heartbeat(lambda: self.renew(set_id), LIFETIME if lease is None else lease.lifetime, interval)

    def _write(self, set_id: str, lifetime: float, since: datetime | None) -> PoolLease:
        now = _now()
        lease = PoolLease(set_id, this_host(), since or now, now, lifetime, _boot(), _uptime())
        with AtomicFile(self._file(set_id), clobber=True) as file:
            file.write(json.dumps(lease.as_dict(), sort_keys=True).encode("ascii") + b"\n")
            file.commit()
        return lease

    def _remove_expired(self, but: str) -> None:
        """Remove what killed runs have left. The caller has locked."""
        live = {lease.set_id for lease in self.live(_GRACE)} | {but}
        for name in names_in(self.path):
            path, set_id = os.path.join(self.path, name), name[: -len(_END)]
            with contextlib.suppress(OSError):
                if name.startswith(".") and name.endswith(".partial"):
                    abandoned = abs(time.time() - os.lstat(path).st_mtime) > LIFETIME
                else:
                    abandoned = name.endswith(_END) and set_id_time(set_id) is not None and set_id not in live
                if abandoned:
                    os.unlink(path)

    # --- one at a time ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def closed(self, wait: float = 0) -> Iterator[list[PoolLease]]:
        """Return a context in which no lease is taken, for whatever removes objects; it is given those that live.

        What it holds ends with its process, however that dies.

        :param wait: seconds to wait for another one
        :raises CentralError: ``pool_busy``, ``disk_full``, ``destination_not_writable``
        """
        with self._locked(wait):
            # One that is renewed in its last moment is not overlooked.
            yield self.live(_GRACE)
        self._tidy()

    @contextlib.contextmanager
    def _locked(self, wait: float) -> Iterator[None]:
        until = time.monotonic() + max(wait, _AT_LEAST)
        while (descriptor := self._try_lock()) is None:
            if time.monotonic() >= until:
                raise CentralError(
                    "pool_busy",
                    f"Another run is at work in the pool {self._pool}, and removes objects or begins a backup. Let it end, "
                    "and begin this one again.",
                )
            time.sleep(_POLL)
        try:
            yield
        finally:
            os.close(descriptor)

    def _make(self) -> bool:
        """Make the directories that are not there; returns whether nobody has tidied one of them away at that moment."""
        make_directory(os.path.dirname(self._central))
        for directory in (self._central, self._pool, self.path):
            try:
                os.mkdir(directory, 0o700)
            except FileExistsError:
                continue
            except FileNotFoundError:
                return False
            except OSError as error:
                raise writing_error(error, directory) from error
        return True

    def _try_lock(self) -> int | None:
        """Return the descriptor of the lock, which is held until it is closed; None where somebody else has it."""
        path = os.path.join(self.path, LOCK)
        if not self._make():
            return None
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return None  # the directory was tidied away this very moment
        except OSError as error:
            raise writing_error(error, path) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            pass  # a file system without locks
        try:
            same = os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
        except FileNotFoundError:
            same = False
        if same:
            return descriptor
        os.close(descriptor)
        return None

    def _tidy(self) -> None:
        """Remove the directory of leases where nobody needs it, so that a backup that was discarded leaves nothing."""
        if not os.path.isdir(self.path) or set(names_in(self.path)) - {LOCK}:
            return
        descriptor = self._try_lock()
        if descriptor is None:
            return
        try:
            if not set(names_in(self.path)) - {LOCK}:
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(self.path, LOCK))
                    os.rmdir(self.path)
                    os.rmdir(self._pool)
                    os.rmdir(self._central)
        finally:
            os.close(descriptor)


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _boot() -> str:
    """Return which boot of this host this is; nothing where the kernel does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _uptime() -> float:
    """Return seconds since this boot, the time in which the host slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
