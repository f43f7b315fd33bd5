# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Enketo's links and secrets put back into a Central, step by step.

:func:`check`, :func:`keep_previous`, :func:`apply`, :func:`verify`, and then :func:`forget`, or :func:`undo` at any time.
Nothing may write to Redis from keep_previous to the end, so `enketo` has to be stopped by then. Who calls these keeps the
journal, and starts `service`, `enketo` and `nginx` anew when it is over: they read the secrets when they start only.
"""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._enketo_operations import REDIS, SECRETS
from ansible_collections.odkops.central.plugins.module_utils._enketo_part import RDB, read_secrets
from ansible_collections.odkops.central.plugins.module_utils._enketo_plan import DATABASE, RDB_MODE, EnketoPlan
from ansible_collections.odkops.central.plugins.module_utils._enketo_rdb import number, parse_lines, refuse_failure
from ansible_collections.odkops.central.plugins.module_utils._enketo_rebuild import (
    HTTPS,
    Address,
    count_once_ids,
    parse_address,
)
from ansible_collections.odkops.central.plugins.module_utils._enketo_restore_operations import SECRETS_END
from ansible_collections.odkops.central.plugins.module_utils._enketo_secrets import LESS_SECRET
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._redis_export import read_netstrings
from ansible_collections.odkops.central.plugins.module_utils._redis_load import Transaction
from ansible_collections.odkops.central.plugins.module_utils._services import Services
from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK

__all__ = ["EnketoPlan", "apply", "check", "forget", "keep_previous", "read_address", "undo", "verify"]

#: seconds that Redis may take to load its file
_LOADING = 300
_ONCE = 300

# What each version of Redis writes, and the latest that it reads. Source: redis/redis, src/rdb.h, RDB_VERSION.
_FORMATS = (((5,), 9), ((7,), 10), ((7, 2), 11), ((7, 4), 12), ((8, 6), 13))


def read_address(channel: Channel) -> Address:
    """Where the Central behind a channel answers, from the environment of its ``service``.

    :raises CentralError: ``service_not_running``, ``bad_option``, and as :meth:`Channel.run`
    """
    try:
        output = channel.run("enketo-address")
    except CentralError as error:
        if error.diagnosis != "service_not_running":
            raise
        output = channel.run("enketo-address-once", timeout=_ONCE)
    lines = parse_lines(output)
    port = lines.get("HTTPS_PORT", "")
    return parse_address(lines.get("DOMAIN", ""), int(port) if port.isdigit() and len(port) < 6 else HTTPS)


def _look(channel: Channel, patience: int = 10) -> dict[str, str]:
    """What Redis says of itself, once it has loaded its file."""
    until = time.monotonic() + patience
    while True:
        try:
            lines = channel.run("enketo-look", str(patience), timeout=patience + 60)
            return parse_lines(lines.split(b"\n\n", 1)[0])
        except CentralError as error:
            waits = error.diagnosis in ("operation_failed", "service_not_running")
            if not waits or patience <= 10 or time.monotonic() >= until:
                raise
            time.sleep(0.3)


def _held_secrets(channel: Channel) -> dict[str, bytes] | None:
    """The target's secrets; None where they are not all there, or none that Enketo would start with."""
    try:
        return read_secrets(channel)
    except CentralError as error:
        if error.diagnosis != "bad_secret":
            raise
    return None


# --- preflight --------------------------------------------------------------------------------------------------


def check(channel: Channel, plan: EnketoPlan) -> dict[str, Any]:
    """Do all that can be done without changing anything: read the part, ask Redis, compare.

    :returns: ``redis_version``, ``keys`` (that Redis holds), ``wanted`` (keys that it is to hold, or to get), ``differs`` (in
        words; empty where nothing is to be done in Redis), ``secrets`` (names of those that differ), ``change`` (whether there
        is anything to do), and :meth:`EnketoPlan.figures`, ``once_links``, ``warnings``
    :raises CentralError: what is wrong with the part; ``bad_option``, ``rdb_too_new``, ``redis_not_supported``,
        ``central_disk_full``, ``bad_secret``, ``service_not_running``, ...
    """
    plan.require()
    lines = _look(channel)
    _refuse_redis(lines)
    _refuse_little_room(plan, lines)
    if plan.mode == RDB_MODE:
        _refuse_rdb(channel, plan, lines)
    held = _held_secrets(channel)
    given = plan.new_secrets
    # A container is needed to ask where `enketo` does not run, and that there is one.
    differing = [name for name in SECRETS if given and (held is None or held[name] != given[name])]
    difference = _compare(channel, plan, strict=False)
    if plan.mode == RDB_MODE:
        difference = difference or "whether the values are the same cannot be told from the file"
    secrets = given or held
    total, opened = count_once_ids(plan.links or (), None if secrets is None else secrets[LESS_SECRET])
    keys = sum(int(count) for count in lines.get("keys", "").split() if count.isdigit())
    return {
        "redis_version": lines.get("redis_version", ""),
        "keys": keys,
        "differs": difference,
        "secrets": differing,
        "change": bool(difference or differing),
        **plan.figures(),
        "once_links": {"total": total, "opened": opened, "lost": total - opened},
        "warnings": plan.warnings() + _warn_of(plan, total - opened, held),
    }


def _warn_of(plan: EnketoPlan, lost: int, held: dict[str, bytes] | None) -> list[str]:
    warnings = []
    if lost:
        whose = "restored" if plan.new_secrets else "target's"
        warnings.append(
            f"{lost} single-submission link(s) of the database do not open with the {whose} enketo-less-secret and cannot be "
            "rebuilt: they were made with another one, which only a backup of Enketo has. All other links are not affected."
        )
    if held is None and not plan.new_secrets:
        warnings.append(
            "The target's own secrets are not all there, or have wrong sizes, so that Enketo does not start."
        )
    return warnings


def _refuse_redis(lines: dict[str, str]) -> None:
    problem = ""
    if lines.get("place") != "ok":
        problem = "keeps its file elsewhere than in the working directory of its container (dir)"
    elif lines.get("aof") != "0":
        problem = "keeps an append-only file, from which it would be loaded instead (appendonly)"
    elif lines.get("role") not in ("master", ""):
        problem = "is a copy of another Redis (replicaof)"
    if problem:
        raise CentralError(
            "redis_not_supported",
            f"Redis of Enketo at the target {problem}, other than Central sets it up. Change its configuration.",
        )


def _refuse_little_room(plan: EnketoPlan, lines: dict[str, str]) -> None:
    """A copy of what there is, what comes, and the file that Redis writes beside its last one."""
    free, memory = number(lines, "free") * 1024, number(lines, "memory")
    needed = 2 * memory + 3 * plan.size
    if free < needed:
        raise CentralError(
            "central_disk_full",
            f"Restoring Enketo may need {needed} bytes on the disk of its Redis, and {free} are free. "
            "Make room on the Central's host.",
            free=free,
            needed=needed,
        )


def _refuse_rdb(channel: Channel, plan: EnketoPlan, lines: dict[str, str]) -> None:
    """Ask the target's own redis-check-rdb; where there is none, go by the versions."""
    said = ""
    with plan.member(RDB) as rdb, channel.stream("enketo-rdb-check", stdin=rdb) as stream:
        while data := stream.read(CHUNK):
            said += data.decode("utf-8", "replace")
    version = plan.rdb.version
    too_new = said.startswith("new ")
    if said.startswith("absent"):
        mine = tuple(int(piece) for piece in lines.get("redis_version", "").split(".")[:2] if piece.isdigit())
        too_new = version > max((each for since, each in _FORMATS if mine >= since), default=0)
    if too_new:
        raise CentralError(
            "rdb_too_new",
            f"The file of Redis in the backup has version {version} of its format and was written by Redis "
            f"{plan.rdb.redis_version or 'of an unknown version'}; the target's Redis {lines.get('redis_version', '')} does "
            "not load it. Use mode export, which any Redis can take, or upgrade the target.",
            rdb_version=version,
        )
    if not said.startswith(("ok", "absent")):
        raise CentralError(
            "redis_check_failed",
            f"redis-check-rdb of the target does not accept the file of Redis in the backup: {said.strip()[:200]}. "
            "Use mode export, or another backup.",
        )


def _compare(channel: Channel, plan: EnketoPlan, strict: bool) -> str:
    """How Redis differs from what it is to be, in words; empty where it does not."""

    def now() -> int:
        # Its seconds are whole ones: what expires within this one may be gone.
        return 1000 * (number(_look(channel), "time") + 1)

    with channel.stream("enketo-export") as stream:
        difference = plan.compare(read_netstrings(stream), now, strict)
    return str(difference) if difference else ""


# --- change -----------------------------------------------------------------------------------------------------


def keep_previous(channel: Channel, tag: str, save_timeout: int = 300) -> dict[str, Any]:
    """Keep what the target has now, in its own volumes, on the disk. What was kept under this tag already stays.

    :returns: ``rdb_size``, in bytes
    :raises CentralError: ``redis_save_failed``, ``central_disk_full``, ``service_not_running``, ...
    """
    output = channel.run("enketo-keep", str(save_timeout), tag, timeout=save_timeout + 120)
    size = 0
    for block in output.split(b"\n\n"):
        lines = parse_lines(block)
        refuse_failure(lines)
        size = number(lines, "kept") if "kept" in lines else size
    if not size:
        raise CentralError("redis_save_failed", "Redis of Enketo has saved nothing. Look at its log.")
    channel.run("enketo-secrets-keep", tag, timeout=_ONCE)
    return {"rdb_size": size}


def apply(channel: Channel, plan: EnketoPlan, tag: str) -> dict[str, Any]:
    """Put in what the plan says, and see it to the disk. :func:`keep_previous` comes first.

    :returns: ``keys`` that were put in, ``secrets`` (names of those that were replaced)
    :raises CentralError: ``redis_load_failed``, ``redis_save_failed``, ``central_disk_full``, ...
    """
    keys = _load_rdb(channel, plan, tag) if plan.mode == RDB_MODE else _load_keys(channel, plan)
    return {"keys": keys, "secrets": _put_secrets(channel, plan, tag)}


def _load_keys(channel: Channel, plan: EnketoPlan) -> int:
    with plan.keys(channel) as keys:
        transaction = Transaction(keys, plan.source != DATABASE)
        with channel.stream("enketo-load", stdin=transaction) as stream:
            output = b""
            while data := stream.read(CHUNK):
                output += data
    lines = parse_lines(output.split(b"\n\n", 1)[0])
    if lines.get("errors") != "0" or lines.get("replies") != str(transaction.commands):
        raise CentralError(
            "redis_load_failed",
            f"Redis of Enketo did not take the transaction with {transaction.keys} key(s): {lines.get('said') or 'no answer'}. "
            "Look at its log (docker compose logs enketo_redis_main), and at its settings maxmemory and databases.",
        )
    _save(channel, plan.save_timeout)
    return transaction.keys


def _save(channel: Channel, save_timeout: int) -> None:
    output = channel.run("enketo-save", str(save_timeout), timeout=save_timeout + 120)
    blocks = [parse_lines(block) for block in output.split(b"\n\n")]
    for lines in blocks:
        refuse_failure(lines)
    if not any("saved" in lines for lines in blocks):
        raise CentralError("redis_save_failed", "Redis of Enketo does not say whether it has saved. Look at its log.")


def _load_rdb(channel: Channel, plan: EnketoPlan, tag: str) -> int:
    facts = plan.rdb_file
    with (
        plan.member(RDB) as rdb,
        channel.stream("enketo-rdb-stage", tag, str(facts.size), facts.sha256, stdin=rdb) as end,
    ):
        while end.read(CHUNK):
            pass
    _install(channel, tag, "new")
    return plan.rdb.keys


def _install(channel: Channel, tag: str, which: str) -> None:
    """Let Redis begin anew with a file. It saves when it stops, so the file is replaced afterwards."""
    services = Services(channel)
    services.stop(REDIS)
    channel.run("enketo-rdb-install", tag, which, timeout=_ONCE)
    services.start(REDIS)
    _look(channel, _LOADING)


def _put_secrets(channel: Channel, plan: EnketoPlan, tag: str) -> list[str]:
    given = plan.new_secrets
    if not given:
        return []
    data = b"".join(given[name] for name in SECRETS) + SECRETS_END
    output = channel.run("enketo-secrets-put", tag, stdin=data, timeout=_ONCE).decode("utf-8", "replace")
    return [name for name in SECRETS if name in output.split()]


def verify(channel: Channel, plan: EnketoPlan) -> dict[str, Any]:
    """Read everything back, and compare it with what was asked for. Nothing may have written to Redis since.

    :returns: ``keys`` that Redis holds
    :raises CentralError: ``restore_differs``
    """
    difference = _compare(channel, plan, strict=True)
    if difference:
        raise CentralError(
            "restore_differs",
            f"Redis of Enketo does not hold what was put in: {difference}. Look whether something else writes to it.",
        )
    given = plan.new_secrets
    if given and read_secrets(channel) != given:
        raise CentralError(
            "restore_differs", "Enketo's secrets are not those that were put in. Look at the volume secrets."
        )
    lines = _look(channel)
    return {"keys": sum(int(count) for count in lines.get("keys", "").split() if count.isdigit())}


# --- back -------------------------------------------------------------------------------------------------------


def undo(channel: Channel, tag: str) -> bool:
    """Put back what :func:`keep_previous` has kept under this tag, and remove all that was left. Can be done again.

    :returns: whether there was anything to put back; where nothing was kept, nothing was changed
    :raises CentralError: as :meth:`Channel.run`; then it has to be done again
    """
    secrets = channel.run("enketo-secrets-undo", tag, timeout=_ONCE).strip() == b"undone"
    redis = channel.run("enketo-redis-kept", tag, timeout=_ONCE).strip() == b"kept"
    if redis:
        _install(channel, tag, "before")
    forget(channel, tag)
    return secrets or redis


def forget(channel: Channel, tag: str) -> None:
    """Remove what was kept under this tag, and all else that a restore leaves.

    :raises CentralError: as :meth:`Channel.run`
    """
    channel.run("enketo-redis-forget", tag, timeout=_ONCE)
    channel.run("enketo-secrets-forget", tag, timeout=_ONCE)
