# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sealing a backup set, and looking at sealed ones.

Until its directory is renamed a set does not exist, and it is renamed last: after each part was read back from the
disk and compared with the digest it was made with, and after everything was made durable.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import stat
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from typing import Any, Callable

from ansible_collections.odkops.central.plugins.module_utils import _manifest
from ansible_collections.odkops.central.plugins.module_utils._atomic import AtomicFile, fsync_directory
from ansible_collections.odkops.central.plugins.module_utils._directories import is_real_directory, names_in
from ansible_collections.odkops.central.plugins.module_utils._errors import (
    CentralError,
    reading_error,
    writing_error,
)
from ansible_collections.odkops.central.plugins.module_utils._repository import (
    KEY_ID_SALT_FILE,
    Repository,
    SetEntry,
)
from ansible_collections.odkops.central.plugins.module_utils._set_names import (
    PARTS,
    check_set_id,
    part_file,
    utc_text,
)

_CHUNK = 1024 * 1024
_LIBRARIES = ("cryptography", "requests", "isal", "zstandard", "lz4")


@dataclass(frozen=True)
class SealedSet:
    """A set and its manifest, and whether it was sealed just now."""

    path: str
    manifest: dict[str, Any]
    changed: bool


@dataclass(frozen=True)
class SetFacts:
    """What goes into the manifest beside the parts; docs/backup-sets.md says what each field holds."""

    absent: dict[str, str]
    identity: dict[str, Any]
    database: dict[str, Any]
    tools: dict[str, Any]
    notes: list[str]


def tool_versions() -> dict[str, Any]:
    """Return the versions of what makes a set on this host; None for a library that is not installed."""
    versions: dict[str, Any] = {"collection": _manifest.COLLECTION_VERSION, "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            versions[library] = None
    return versions


def check_file(path: str, part: str, size: int, sha256: str, durable: bool = False) -> os.stat_result:
    """Read the file of a part and compare it with its size in bytes and its SHA-256 in hexadecimal digits.

    :param durable: also make it readable for its owner alone and see it to the disk
    :returns: what stat(2) says of the file
    :raises CentralError: ``missing_part``, ``corrupt``, ``unreadable``
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if not os.path.lexists(path) or os.path.islink(path):
            raise _missing(part, path) from error
        raise reading_error(error, path) from error
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise _missing(part, path)
        if found.st_size != size:
            raise _corrupt(part, path, f"it has {found.st_size} bytes, and should have {size}")
        try:
            if durable:
                os.fchmod(file.fileno(), 0o600)
                os.fsync(file.fileno())
        except OSError as error:
            raise writing_error(error, path) from error
        digest = hashlib.sha256()
        buffer = bytearray(_CHUNK)
        try:
            for count in iter(lambda: file.readinto(buffer) or 0, 0):
                digest.update(memoryview(buffer)[:count])
        except OSError as error:
            raise reading_error(error, path) from error
    if digest.hexdigest() != sha256:
        raise _corrupt(part, path, f"its SHA-256 is {digest.hexdigest()}, and should be {sha256}")
    return found


def _missing(part: str, path: str) -> CentralError:
    return CentralError(
        "missing_part",
        f"The part {part} of the set is not there: {path} is no plain file. Use another set, or make a new one.",
        part=part,
    )


def _corrupt(part: str, path: str, why: str) -> CentralError:
    return CentralError(
        "corrupt",
        f"The part {part} of the set, {path}, is not what was backed up: {why}. Use another set, or make a new one.",
        part=part,
    )


def seal_set(
    repository: Repository,
    central: str,
    set_id: str,
    parts: dict[str, dict[str, Any]],
    facts: SetFacts,
    passphrase: str | None,
    check_mode: bool = False,
    ready: Callable[[], object] = lambda: None,
) -> SealedSet:
    """Make a set of the directory that was opened as `set_id`: all of it, or nothing.

    Each part has ``format``, ``size`` and ``sha256``, and further facts; ``file``, its name in that directory, where
    that is not yet the one that it has in a set.
    A set that is sealed already, of the same parts, is left as it is.

    :param ready: called just before the set gets its name; it is not sealed if that raises
    :raises CentralError: ``not_a_set``, ``missing_part``, ``corrupt``, ``unexpected_file``, ``bad_manifest``,
        ``set_sealed``, ``disk_full``, ``destination_not_writable``; the directory is unsealed then, to be discarded
    """
    repository.require()
    final = repository.set_path(central, set_id)
    partial = repository.partial_path(central, set_id)
    for directory in (repository.central_path(central), repository.sets_path(central)):
        is_real_directory(directory)
    if os.path.lexists(final):
        return _sealed_before(final, central, set_id, parts)
    if not is_real_directory(partial):
        raise CentralError(
            "not_a_set", f"There is no unfinished set {set_id} of {central} in {repository.path}. Open one."
        )
    unknown = sorted(set(parts) - set(PARTS))
    if unknown or not parts:
        problem = f"A set has no part {unknown[0]!r}." if unknown else "A set without any part is none."
        raise CentralError("bad_manifest", problem)
    _remove_old_manifest(partial, check_mode)
    opened = finished = check_set_id(set_id)
    entries: dict[str, dict[str, Any]] = {}
    for part in (name for name in PARTS if name in parts):
        entries[part], written = _take_part(partial, part, parts[part], check_mode)
        finished = max(finished, written)
    _refuse_others(partial, entries, parts, check_mode)
    manifest = _manifest.build(
        set_id=set_id,
        central=central,
        started=utc_text(opened),
        finished=utc_text(finished),
        sealed=utc_text(datetime.now(timezone.utc)),
        parts=entries,
        absent=facts.absent,
        identity=facts.identity,
        database=facts.database,
        tools={**tool_versions(), **facts.tools},
        notes=facts.notes,
    )
    if not check_mode:
        manifest = _write_and_rename(repository, central, manifest, partial, final, passphrase, ready)
    return SealedSet(final, manifest, True)


def _sealed_before(final: str, central: str, set_id: str, parts: dict[str, dict[str, Any]]) -> SealedSet:
    is_real_directory(final)
    manifest = _manifest.read(os.path.join(final, _manifest.MANIFEST_FILE))
    _manifest.check(manifest, set_id, central, None)
    if {name: part["sha256"] for name, part in manifest["parts"].items()} != {
        name: part.get("sha256") for name, part in parts.items()
    }:
        raise CentralError(
            "set_sealed", f"The set {set_id} of {central} is sealed already, with other parts. Open a new one."
        )
    return SealedSet(final, manifest, False)


def _remove_old_manifest(partial: str, check_mode: bool) -> None:
    """Remove the manifest that a run killed while it sealed has left, so that it can be sealed again."""
    if not check_mode:
        path = os.path.join(partial, _manifest.MANIFEST_FILE)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise writing_error(error, path) from error


def _take_part(partial: str, part: str, given: dict[str, Any], check_mode: bool) -> tuple[dict[str, Any], datetime]:
    """Check the file of `part` and give it the name it has in a set. Return its entry and when it was written."""
    entry = dict(given)
    try:
        entry["file"] = part_file(part, str(entry["format"]))
        source, sha256 = str(given.get("file", entry["file"])), str(entry["sha256"])
        entry["size"] = int(entry["size"])
    except (KeyError, TypeError, ValueError) as error:
        raise CentralError(
            "bad_manifest", f"The part {part} of the set lacks its format, size or sha256: {error}."
        ) from error
    if source != os.path.basename(source) or source in ("", ".", ".."):
        raise CentralError(
            "bad_name", f"The file of the part {part} must be a plain name in the set's directory, not {source!r}."
        )
    path, named = os.path.join(partial, source), os.path.join(partial, entry["file"])
    if not os.path.lexists(path) and os.path.lexists(named):
        path = named  # a run was killed after it had renamed this one
    found = check_file(path, part, entry["size"], sha256, durable=not check_mode)
    if path != named and not check_mode:
        if os.path.lexists(named):
            raise CentralError("unexpected_file", f"{named} is in the way of the part {part}. Discard the set.")
        try:
            os.rename(path, named)
        except OSError as error:
            raise writing_error(error, named) from error
    return entry, datetime.fromtimestamp(found.st_mtime, timezone.utc)


def _refuse_others(
    partial: str, entries: dict[str, dict[str, Any]], parts: dict[str, dict[str, Any]], check_mode: bool
) -> None:
    known = {entry["file"] for entry in entries.values()}
    if check_mode:
        known |= {str(part.get("file", "")) for part in parts.values()} | {_manifest.MANIFEST_FILE}
    others = sorted(set(names_in(partial)) - known)
    if others:
        raise CentralError(
            "unexpected_file",
            f"{os.path.join(partial, others[0])} is no part of the set. Discard the set and back up again.",
        )


def _write_and_rename(
    repository: Repository,
    central: str,
    manifest: dict[str, Any],
    partial: str,
    final: str,
    passphrase: str | None,
    ready: Callable[[], object],
) -> dict[str, Any]:
    salt = repository.key_id_salt(central) if passphrase is not None else None
    makes_salt = passphrase is not None and salt is None
    try:
        if makes_salt:
            salt = repository.make_key_id_salt(central, salt_of_newest(repository, central))
        sealed = _manifest.seal(manifest, passphrase, salt)
        with AtomicFile(os.path.join(partial, _manifest.MANIFEST_FILE)) as file:
            file.write(_manifest.render(sealed))
            file.commit()
        ready()
        _rename(partial, final)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(partial, _manifest.MANIFEST_FILE))
        if makes_salt:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(repository.central_path(central), KEY_ID_SALT_FILE))
        raise
    return sealed


def salt_of_newest(repository: Repository, central: str) -> bytes | None:
    """Find the key id salt in the newest set: should its file be lost, key ids stay what they were."""
    for entry in repository.sets(central):
        with contextlib.suppress(CentralError):
            authentication = _manifest.read(os.path.join(entry.path, _manifest.MANIFEST_FILE))["authentication"]
            if authentication is not None:
                return bytes.fromhex(authentication["key_id_salt"])
    return None


def _rename(partial: str, final: str) -> None:
    try:
        fsync_directory(partial)
        if os.path.lexists(final):
            raise CentralError("set_sealed", f"{final} has come into being meanwhile. Discard this set.")
        os.rename(partial, final)
        fsync_directory(os.path.dirname(final))
    except OSError as error:
        if not os.path.lexists(partial):
            with contextlib.suppress(OSError):
                os.rename(final, partial)
        raise writing_error(error, final) from error


# --- looking ----------------------------------------------------------------------------------------------------


def inspect_set(entry: SetEntry, passphrase: str | None, allow_unauthenticated: bool = False) -> dict[str, Any]:
    """Read and check the manifest of `entry`, and see whether each part is there with its size.

    The content of the parts is not read: that is the work of a verification.

    :returns: ``authenticated`` (see _manifest.check) and ``manifest``
    :raises CentralError: as _manifest.read and _manifest.check; ``missing_part``, ``corrupt``
    """
    is_real_directory(entry.path)
    manifest = _manifest.read(os.path.join(entry.path, _manifest.MANIFEST_FILE))
    authenticated = _manifest.check(manifest, entry.set_id, entry.central, passphrase, allow_unauthenticated)
    for name, part in manifest["parts"].items():
        path = os.path.join(entry.path, part["file"])
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            raise _missing(name, path) from None
        except OSError as error:
            raise reading_error(error, path) from error
        if not stat.S_ISREG(found.st_mode):
            raise _missing(name, path)
        if found.st_size != part["size"]:
            raise _corrupt(name, path, f"it has {found.st_size} bytes, and should have {part['size']}")
    return {"authenticated": authenticated, "manifest": manifest}


def sizes_of_newest(repository: Repository, central: str) -> dict[str, int]:
    """Return the sizes in bytes of the parts of the newest set whose manifest can be read, or nothing.

    They say how much room a backup needs, and are not checked against the HMAC.
    """
    for entry in repository.sets(central):
        with contextlib.suppress(CentralError):
            manifest = _manifest.read(os.path.join(entry.path, _manifest.MANIFEST_FILE))
            return {name: int(part["size"]) for name, part in manifest["parts"].items()}
    return {}
