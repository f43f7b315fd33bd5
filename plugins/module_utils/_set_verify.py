# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verifying a set: each of its parts, the parts against each other, and all of them against the manifest.

What a backup could not help, because the live Central had it so, is in the manifest: blobs that do not match their SHA-1, links
that Enketo's Redis could not serve. A verification accepts those and no more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Callable

from ansible_collections.odkops.central.plugins.module_utils._blob_list import (
    UPLOADED,
    BlobEntry,
    BlobListWriter,
    read_blob_list,
)
from ansible_collections.odkops.central.plugins.module_utils._directories import is_real_directory
from ansible_collections.odkops.central.plugins.module_utils._enketo_links import check_links, check_once_ids
from ansible_collections.odkops.central.plugins.module_utils._enketo_part import EnketoPart, read_part
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import BlobFact, Facts, LinkFact
from ansible_collections.odkops.central.plugins.module_utils._pool import Pool
from ansible_collections.odkops.central.plugins.module_utils._pool_check import CONTENT, check_objects
from ansible_collections.odkops.central.plugins.module_utils._rclone import Rclone
from ansible_collections.odkops.central.plugins.module_utils._repository import Repository, SetEntry
from ansible_collections.odkops.central.plugins.module_utils._seal import check_file, inspect_set
from ansible_collections.odkops.central.plugins.module_utils._set_names import (
    PART_FILES,
    check_central_name,
    partial_id,
    set_id_time,
)
from ansible_collections.odkops.central.plugins.module_utils._tar_reader import verify_tar_part
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, verify_file

_SHOWN = 20


@dataclass(frozen=True)
class SetRequest:
    """How a set is to be verified.

    :param passphrase: None for a set that was made without one
    :param temporary: a directory for files that are needed meanwhile
    :param rclone: gives rclone, where the contents of objects are to be read
    :param blobs: ``content`` reads each object of the pool, ``presence`` looks whether it is there
    :param blob_list: where the list of the objects that the database names is written, for a set that is not sealed
    :param known_bad_blobs: for a set that is not sealed
    :param allow_unauthenticated: accept a manifest without an HMAC although there is a passphrase
    """

    passphrase: str | None
    temporary: str
    rclone: Callable[[], Rclone]
    blobs: str = CONTENT
    blob_list: str | None = None
    known_bad_blobs: frozenset[int] = frozenset()
    allow_unauthenticated: bool = False


@dataclass(frozen=True)
class Place:
    """Where a set is.

    :param sealed: whether it has its final name
    :param path: absolute
    """

    repository: Repository
    central: str
    set_id: str
    sealed: bool
    path: str


def verify_set(path: str, request: SetRequest) -> dict[str, Any]:
    """Verify the set in the directory `path`, sealed or not.

    :returns: ``set_id``, ``central_name``, ``sealed``, ``authenticated``, ``absent`` (reasons by part), ``parts`` (what each
        part is found to be), ``tables`` and ``central`` (of the database), ``links``, ``objects``, ``warnings``
    :raises CentralError: with the diagnosis of what is wrong; its detail ``part`` says where
    """
    place = place_of(path)
    manifest, authenticated = None, False
    if place.sealed:
        entry = SetEntry(place.central, place.set_id, place.path)
        inspected = inspect_set(entry, request.passphrase, request.allow_unauthenticated)
        manifest, authenticated = inspected["manifest"], inspected["authenticated"]
        parts = manifest["parts"]
    else:
        parts = _parts_there(place.path)
    check = _SetCheck(place, request, parts, manifest)
    found = check.run()
    return {
        "set_id": place.set_id,
        "central_name": place.central,
        "sealed": place.sealed,
        "authenticated": authenticated,
        "absent": {} if manifest is None else manifest["absent"],
        **found,
    }


def place_of(path: str) -> Place:
    """Say which set is in the directory `path`, by its name and where it lies.

    :raises CentralError: ``not_a_set``, ``bad_name``, ``not_a_repository``
    """
    whole = os.path.abspath(path)
    if not is_real_directory(whole):
        raise CentralError(
            "not_a_set", f"There is no directory {path}. central_set_info lists the sets of a repository."
        )
    sets, name = os.path.split(whole)
    central_path, middle = os.path.split(sets)
    root, central = os.path.split(central_path)
    unsealed = partial_id(name)
    if middle != "sets" or (unsealed is None and set_id_time(name) is None):
        raise CentralError(
            "not_a_set",
            f"{path} is not the directory of a set: its path has to be <repository>/<central>/sets/<set id>. "
            "Do not rename sets; to move one elsewhere, use central_set_export.",
        )
    check_central_name(central)
    return Place(Repository(root), central, unsealed or name, unsealed is None, whole)


def _parts_there(directory: str) -> dict[str, dict[str, Any]]:
    """The parts of a set that is not sealed, by the names of their files."""
    there = set(os.listdir(directory))
    return {
        part: {"file": file, "format": form}
        for (part, form), file in PART_FILES.items()
        if file in there and part != "blobs"
    }


class _SetCheck:
    """One verification."""

    def __init__(
        self,
        place: Place,
        request: SetRequest,
        parts: Mapping[str, Mapping[str, Any]],
        manifest: Mapping[str, Any] | None,
    ) -> None:
        self._place = place
        self._request = request
        self._parts = parts
        self._manifest = manifest
        self._links: list[LinkFact] = []
        self._warnings: list[str] = []

    def run(self) -> dict[str, Any]:
        """Check all parts that there are."""
        steps = {"database": self._database, "enketo": self._enketo, "config": self._config, "blobs": self._blobs}
        found: dict[str, Any] = {"parts": {}, "tables": {}, "central": {}, "links": None, "objects": None}
        for part, step in steps.items():
            if part in self._parts:
                try:
                    found["parts"][part] = step(found)
                except CentralError as error:
                    error.details.setdefault("part", part)
                    path = self._path(error.details["part"])
                    if path not in error.message:
                        error.message = f"{path}: {error.message}"
                    raise
        return {**found, "warnings": self._warnings}

    def _path(self, part: str) -> str:
        return os.path.join(self._place.path, self._parts[part]["file"])

    def _database(self, found: dict[str, Any]) -> dict[str, Any]:
        said = {} if self._manifest is None else self._manifest["database"]
        known = frozenset(said.get("central", {}).get("bad_blobs", [])) | self._request.known_bad_blobs
        expected = Expectation(
            passphrase=self._request.passphrase,
            sha256=self._parts["database"].get("sha256"),
            known_bad_blobs=known,
            allow_unencrypted=self._manifest is None,
        )

        def take(facts: Facts) -> None:
            self._links = facts.links()

        with self._listed() as on_blob:
            result = verify_file(self._path("database"), expected, on_blob, on_facts=take).as_dict()
        for name in ("tables", "central"):
            if name in said and said[name] != result[name]:
                raise CentralError(
                    "corrupt",
                    f"The database of the set {self._place.set_id} does not hold what its manifest says: {name} differ. "
                    "Use another set.",
                )
            found[name] = result.pop(name)
        return {key: value for key, value in result.items() if value is not None}

    def _listed(self) -> _Objects:
        if "blobs" in self._parts:
            part, path = self._parts["blobs"], self._path("blobs")
            check_file(path, "blobs", part["size"], part["sha256"])
            return _Compared(path)
        if self._request.blob_list is not None:
            return _Written(self._request.blob_list)
        return _Objects()

    def _enketo(self, found: dict[str, Any]) -> dict[str, Any]:
        result = self._tar("enketo")
        part = read_part(self._path("enketo"), self._request.passphrase)
        found["links"] = self._compare_links(part)
        return {**result, "index": part.index}

    def _compare_links(self, part: EnketoPart) -> dict[str, Any]:
        """The links of the database against Redis and the secret. What the manifest does not know of is an error."""
        said = self._parts["enketo"].get("checked") or {}
        broken = [str(link) for link in check_links(self._links, part.links)]
        lonely = [str(link) for link in part.links.broken()]
        try:
            once = check_once_ids(self._links, part.less_secret)
            total, opened, secret = once.total, once.opened, ""
        except CentralError as error:
            total, opened, secret = error.details["once_ids"], 0, error.message
        if self._manifest is not None:
            if len(broken) > said.get("broken", 0) or len(lonely) > said.get("without_id", 0):
                raise CentralError(
                    "missing_enketo_link",
                    f"Links of Web Forms are lost in the set {self._place.set_id}, though they were there when it was made: "
                    f"{'; '.join((broken or lonely)[:_SHOWN])}. Use another set.",
                    broken_links=(broken or lonely)[:_SHOWN],
                )
            if opened < said.get("once_opened", 0):
                raise CentralError(
                    "wrong_enketo_secret", f"In the set {self._place.set_id}: {secret or 'some do not open'}"
                )
        if broken:
            self._warnings.append(
                f"Enketo's Redis lacks what {len(broken)} Web Forms link(s) of the database need, so these links do not work in "
                f"the live Central: {'; '.join(broken[:_SHOWN])}. The backup has what there is."
            )
        if lonely:
            self._warnings.append(
                f"In Enketo's Redis {len(lonely)} form(s) have an or: key without its id:, and answer 406: "
                f"{'; '.join(lonely[:_SHOWN])}."
            )
        if secret:
            self._warnings.append(secret)
        return {
            "checked": sum(1 for link in self._links if link.enketo_id is not None),
            "broken": len(broken),
            "without_id": len(lonely),
            "once_ids": total,
            "once_opened": opened,
        }

    def _config(self, _found: dict[str, Any]) -> dict[str, Any]:
        return self._tar("config")

    def _tar(self, part: str) -> dict[str, Any]:
        return verify_tar_part(self._path(part), self._request.passphrase, self._parts[part].get("sha256"))

    def _blobs(self, found: dict[str, Any]) -> dict[str, Any]:
        part, path = self._parts["blobs"], self._path("blobs")
        pool = Pool(self._place.repository, self._place.central, part["pool"] if part["encrypted"] else None)
        found["objects"] = check_objects(
            pool, path, self._request.passphrase, self._request.blobs, self._request.rclone, self._request.temporary
        )
        return {"format": part["format"], "size": part["size"], "sha256": part["sha256"]}


class _Objects:
    """What is done with the objects that the database names: nothing. A context manager that gives a callback."""

    def __enter__(self) -> Callable[[BlobFact], None] | None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_exception: object) -> None:
        pass


class _Written(_Objects):
    """They are written into a list."""

    def __init__(self, path: str) -> None:
        self._writer = BlobListWriter(path)

    def __enter__(self) -> Callable[[BlobFact], None]:
        self._writer.__enter__()
        return self._writer.on_blob

    def __exit__(self, kind: type[BaseException] | None, *_exception: object) -> None:
        try:
            if kind is None:
                self._writer.commit()
        finally:
            self._writer.__exit__()


class _Compared(_Objects):
    """They are compared with the list of the set, which has the same order."""

    def __init__(self, path: str) -> None:
        self._entries: Iterator[BlobEntry] = read_blob_list(path)

    def __enter__(self) -> Callable[[BlobFact], None]:
        return self._take

    def _take(self, blob: BlobFact) -> None:
        if blob.s3_status == UPLOADED:
            entry = next(self._entries, None)
            if entry is None or (entry.id, entry.sha1) != (blob.id, blob.sha) or entry.md5 not in (None, blob.md5):
                raise _list_differs(f"the database names blob-{blob.id}-{blob.sha}")

    def __exit__(self, kind: type[BaseException] | None, *_exception: object) -> None:
        if kind is None and (entry := next(self._entries, None)) is not None:
            raise _list_differs(f"the list names {entry.name}")


def _list_differs(where: str) -> CentralError:
    return CentralError(
        "corrupt",
        f"The set's list of objects is not that of its database: {where}, and the other does not. Use another set.",
        part="blobs",
    )
