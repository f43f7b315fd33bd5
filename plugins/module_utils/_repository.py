# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository: the directory that holds the backup sets of any number of Centrals.

::

    <repository>/<central>/sets/<id>/           a set: a directory with a manifest
    <repository>/<central>/sets/.<id>.partial/  a set that is being made
    <repository>/<central>/key-id.salt          see _manifest.py

A set is made by several module processes one after the other, so no lock can be held while it is made: locks end
with their process. Instead each run works in a directory of its own, and only that run knows its id. What a run
that was killed has left is told by its age: nothing in it has changed for hours. The next run removes it.

The administrator chooses the path of the repository, symbolic links included. Below it, a symbolic link in the
place of a directory is refused.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from ansible_collections.odkops.central.plugins.module_utils._atomic import AtomicFile
from ansible_collections.odkops.central.plugins.module_utils._directories import (
    check_can_make,
    is_real_directory,
    make_directories,
    names_in,
    not_a_repository,
    remove_tree,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, reading_error
from ansible_collections.odkops.central.plugins.module_utils._manifest import MANIFEST_FILE, SALT_BYTES
from ansible_collections.odkops.central.plugins.module_utils._set_names import (
    check_central_name,
    check_set_id,
    new_set_id,
    partial_id,
    partial_name,
    set_id_time,
)

SETS = "sets"
KEY_ID_SALT_FILE = "key-id.salt"
LATEST = "latest"

#: A backup that has changed nothing in its directory for a day has been killed: no dump runs that long.
STALE_AFTER = timedelta(hours=24)


class SetEntry(NamedTuple):
    """A sealed set, as its name says; its manifest is not read yet."""

    central: str
    set_id: str
    path: str


class Partial(NamedTuple):
    """The directory of a set that is being made, or was when its run was killed."""

    central: str
    set_id: str
    path: str
    age: timedelta  # since anything in it has changed


@dataclass(frozen=True)
class OpenedSet:
    """What opening a set has given, or would give."""

    set_id: str
    path: str
    removed_partials: list[str]
    notes: list[str]


class Repository:
    """The repository in the directory `path`.

    :raises CentralError: ``not_a_repository`` where `path` is not absolute, or exists and is no directory
    """

    def __init__(self, path: str) -> None:
        if not os.path.isabs(path):
            raise not_a_repository(path, "the path is not absolute")
        self.path = os.path.realpath(path)
        self.exists = is_real_directory(self.path)

    def require(self) -> None:
        """:raises CentralError: ``not_a_repository`` where there is no such directory"""
        if not self.exists:
            raise not_a_repository(self.path, "it does not exist")

    def central_path(self, central: str) -> str:
        """Return the directory of the Central `central`. :raises CentralError: ``bad_name``"""
        return os.path.join(self.path, check_central_name(central))

    def sets_path(self, central: str) -> str:
        """Return the directory of the sets of `central`. :raises CentralError: ``bad_name``"""
        return os.path.join(self.central_path(central), SETS)

    def set_path(self, central: str, set_id: str) -> str:
        """Return the directory of a sealed set. :raises CentralError: ``bad_name``"""
        check_set_id(set_id)
        return os.path.join(self.sets_path(central), set_id)

    def partial_path(self, central: str, set_id: str) -> str:
        """Return the directory of a set that is being made. :raises CentralError: ``bad_name``"""
        check_set_id(set_id)
        return os.path.join(self.sets_path(central), partial_name(set_id))

    # --- looking ------------------------------------------------------------------------------------------------

    def centrals(self) -> list[str]:
        """Return the names of the Centrals that have a directory of sets here, sorted."""
        found = []
        for name in names_in(self.path):
            sets = os.path.join(self.path, name, SETS)
            with contextlib.suppress(CentralError):
                check_central_name(name)
                if is_real_directory(os.path.join(self.path, name)) and is_real_directory(sets):
                    found.append(name)
        return found

    def sets(self, central: str) -> list[SetEntry]:
        """Return the sealed sets of `central`, the newest first. A directory without a manifest is not a set."""
        is_real_directory(self.central_path(central))
        root = self.sets_path(central)
        found = []
        for name in names_in(root):
            path = os.path.join(root, name)
            if set_id_time(name) is None or os.path.islink(path):
                continue
            if os.path.lexists(os.path.join(path, MANIFEST_FILE)):
                found.append(SetEntry(central, name, path))
        return found[::-1]

    def partials(self, central: str, now: datetime | None = None) -> list[Partial]:
        """Return what is being made for `central`, or was when its run was killed, the newest first."""
        is_real_directory(self.central_path(central))
        root = self.sets_path(central)
        moment = now or datetime.now(timezone.utc)
        found = []
        for name in names_in(root):
            set_id = partial_id(name)
            path = os.path.join(root, name)
            if set_id is None or os.path.islink(path) or not os.path.isdir(path):
                continue
            found.append(Partial(central, set_id, path, moment - _last_change(path, set_id)))
        return found[::-1]

    def find(self, central: str, wanted: str) -> SetEntry:
        """Return the set of `central` that `wanted` names: an id, or ``latest``.

        :raises CentralError: ``set_not_found``, ``not_a_set``, ``not_a_repository``, ``bad_name``
        """
        self.require()
        if wanted == LATEST:
            found = self.sets(central)
            if not found:
                raise CentralError(
                    "set_not_found", f"There is no backup set of {central} in {self.path}. Make one, or check the path."
                )
            return found[0]
        is_real_directory(self.central_path(central))
        is_real_directory(self.sets_path(central))
        path = self.set_path(central, wanted)
        if not is_real_directory(path):
            raise CentralError(
                "set_not_found",
                f"There is no backup set {wanted} of {central} in {self.path}. "
                "central_set_info lists those that there are.",
            )
        if not os.path.lexists(os.path.join(path, MANIFEST_FILE)):
            raise CentralError("not_a_set", f"{path} has no {MANIFEST_FILE}, so it is not a set: it was never sealed.")
        return SetEntry(central, wanted, path)

    # --- making -------------------------------------------------------------------------------------------------

    def open_set(
        self,
        central: str,
        create: bool = True,
        stale_after: timedelta = STALE_AFTER,
        check_mode: bool = False,
    ) -> OpenedSet:
        """Make the directory in which the parts of a new set are put, and remove what killed runs have left.

        :param create: make the repository's own directory too, where it does not exist
        :param check_mode: change nothing; the answer is what would be done, with an id that will not be used
        :raises CentralError: ``bad_name``, ``not_a_repository``, ``destination_not_writable``, ``disk_full``;
            nothing is left then
        """
        sets = self.sets_path(central)
        if not self.exists and not create:
            self.require()
        is_real_directory(self.central_path(central))
        is_real_directory(sets)
        now = datetime.now(timezone.utc)
        stale = [partial for partial in self.partials(central, now) if partial.age > stale_after]
        notes = self._notes(central, now)
        set_id = new_set_id(now)
        path = self.partial_path(central, set_id)
        if check_mode:
            check_can_make(path)
        else:
            for partial in stale:
                remove_tree(partial.path)
            make_directories(path)
            self.exists = True
        return OpenedSet(set_id, path, [partial.set_id for partial in stale], notes)

    def _notes(self, central: str, now: datetime) -> list[str]:
        notes = []
        if self.exists and os.stat(self.path).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            notes.append(f"Other users can write in the repository {self.path}, and so replace or remove sets.")
        newest = next(iter(self.sets(central)), None)
        opened = set_id_time(newest.set_id) if newest else None
        if newest and opened and opened > now + timedelta(minutes=5):
            notes.append(f"The set {newest.set_id} is from the future of this host's clock, and stays the latest one.")
        return notes

    def discard(self, central: str, set_id: str, check_mode: bool = False) -> bool:
        """Remove what was made of a set that is not sealed, and the directories that are empty without it.

        :returns: whether there was anything
        :raises CentralError: ``set_sealed``, ``destination_not_writable``, ``bad_name``, ``not_a_repository``
        """
        path = self.partial_path(central, set_id)
        if os.path.lexists(self.set_path(central, set_id)):
            raise CentralError(
                "set_sealed", f"The set {set_id} of {central} is sealed, and is not discarded. Its run has succeeded."
            )
        there = (
            is_real_directory(self.central_path(central))
            and is_real_directory(self.sets_path(central))
            and is_real_directory(path)
        )
        if there and not check_mode:
            remove_tree(path)
            for empty in (self.sets_path(central), self.central_path(central)):
                with contextlib.suppress(OSError):
                    os.rmdir(empty)
        return there

    def key_id_salt(self, central: str) -> bytes | None:
        """Return the salt of the key ids of `central` here, or None where there is none yet.

        :raises CentralError: ``unreadable``, ``not_a_repository`` where the file holds something else
        """
        path = os.path.join(self.central_path(central), KEY_ID_SALT_FILE)
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                text = file.read(2 * SALT_BYTES + 2)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise reading_error(error, path) from error
        try:
            salt = bytes.fromhex(text.decode("ascii"))
        except ValueError:
            salt = b""
        if len(salt) != SALT_BYTES:
            raise not_a_repository(path, f"it does not hold {SALT_BYTES} bytes in hexadecimal digits")
        return salt

    def make_key_id_salt(self, central: str, salt: bytes | None = None) -> bytes:
        """Keep `salt`, or a random one, as the salt of the key ids of `central`, and return what is kept.

        :raises CentralError: ``disk_full``, ``destination_not_writable``
        """
        salt = salt or secrets.token_bytes(SALT_BYTES)
        try:
            with AtomicFile(os.path.join(self.central_path(central), KEY_ID_SALT_FILE)) as file:
                file.write(salt.hex().encode("ascii") + b"\n")
                file.commit()
        except CentralError as error:
            kept = self.key_id_salt(central) if error.diagnosis == "destination_exists" else None
            if kept is None:
                raise
            return kept  # another run of this moment was faster
        return salt


def _last_change(path: str, set_id: str) -> datetime:
    """Return when anything in the directory `path` was last changed, as far as can be seen."""
    times = [os.lstat(path).st_mtime]
    with contextlib.suppress(OSError):
        for entry in os.scandir(path):
            times.append(entry.stat(follow_symlinks=False).st_mtime)
    newest = datetime.fromtimestamp(max(times), timezone.utc)
    opened = set_id_time(set_id)
    return max(newest, opened) if opened else newest
