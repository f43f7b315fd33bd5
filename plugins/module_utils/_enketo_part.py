# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Enketo part of a set: what Redis and the secrets volume hold, made and read back.

``enketo-main.rdb`` is Redis's own snapshot, ``redis.jsonl`` the logical export, ``secrets/`` the three secrets as they
are, ``index.json`` what is in the others. Snapshot and export are of different moments, first the one and then the
other; each is checked by itself.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._enketo_links import RedisLinks
from ansible_collections.odkops.central.plugins.module_utils._enketo_operations import SECRETS
from ansible_collections.odkops.central.plugins.module_utils._enketo_rdb import (
    CheckedRdb,
    Saved,
    read_header,
    require_recent,
)
from ansible_collections.odkops.central.plugins.module_utils._enketo_secrets import (
    LESS_SECRET,
    check_secret,
    parse_contents,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._rdb import RdbFacts, check_rdb
from ansible_collections.odkops.central.plugins.module_utils._redis_export import (
    Key,
    line_of,
    read_lines,
    read_netstrings,
)
from ansible_collections.odkops.central.plugins.module_utils._set_names import utc_text
from ansible_collections.odkops.central.plugins.module_utils._streams import Readable, read_exactly
from ansible_collections.odkops.central.plugins.module_utils._tar_part import TarPart
from ansible_collections.odkops.central.plugins.module_utils._tar_reader import TarMember, open_tar_part

TYPE = "odk-central-enketo"
SCHEMA = 1

RDB = "enketo-main.rdb"
EXPORT = "redis.jsonl"
INDEX = "index.json"
SECRETS_DIRECTORY = "secrets/"

_MAXIMUM_INDEX = 4 * 1024 * 1024
_MAXIMUM_KEYS = 5_000_000


class _Seen:
    """Which keys came by, as sixteen bytes each."""

    def __init__(self) -> None:
        self._digests: set[int] = set()

    @staticmethod
    def _digest(db: int, key: bytes) -> int:
        return int.from_bytes(hashlib.blake2b(key, digest_size=16, key=b"%d" % db).digest(), "big")

    def add(self, db: int, key: bytes) -> bool:
        """Whether the key is new."""
        digest = self._digest(db, key)
        if digest in self._digests:
            return False
        self._digests.add(digest)
        if len(self._digests) > _MAXIMUM_KEYS:
            raise CentralError(
                "corrupt", f"Redis of Enketo has more than {_MAXIMUM_KEYS} keys, which cannot be genuine."
            )
        return True

    def discard(self, db: int, key: bytes) -> None:
        self._digests.discard(self._digest(db, key))

    def __len__(self) -> int:
        return len(self._digests)


@dataclass
class ExportFacts:
    """What an export holds, gathered key by key."""

    keys: int = 0
    expiring: int = 0
    types: Counter[str] = field(default_factory=Counter)
    links: RedisLinks = field(default_factory=RedisLinks)

    def take(self, key: Key) -> None:
        """Note the next key."""
        self.keys += 1
        self.expiring += key.expires_at is not None
        self.types[key.type] += 1
        self.links.take(key)

    def as_dict(self) -> dict[str, Any]:
        """The counts."""
        return {"keys": self.keys, "expiring": self.expiring, "types": dict(sorted(self.types.items()))}


class _Lines:
    """Keys as a stream of lines of JSON."""

    def __init__(self, keys: Iterator[Key], facts: ExportFacts, permanent: _Seen) -> None:
        self._keys = keys
        self._facts = facts
        self._seen = _Seen()
        self._permanent = permanent
        self._line = b""

    def read(self, size: int, /) -> bytes:
        """As :meth:`Readable.read`."""
        while not self._line:
            key = next(self._keys, None)
            if key is None:
                return b""
            if self._seen.add(key.db, key.key):  # SCAN may give a key twice
                self._permanent.discard(key.db, key.key)
                self._facts.take(key)
                self._line = line_of(key)
        data, self._line = self._line[:size], self._line[size:]
        return data


@dataclass(frozen=True)
class EnketoPart:
    """What a part holds, after all of it was read and checked."""

    index: dict[str, Any]
    links: RedisLinks
    #: by name
    secrets: dict[str, bytes] = field(repr=False)
    #: what the RDB file says
    rdb: RdbFacts

    @property
    def less_secret(self) -> bytes:
        """What the ids of single-submission links are made with."""
        return self.secrets[LESS_SECRET]


def read_secrets(channel: Channel) -> dict[str, bytes]:
    """Enketo's three secrets by name, from where they are.

    :raises CentralError: ``bad_secret``, and as :meth:`Channel.run`
    """
    return parse_contents(ask_for_secrets(channel, "contents"))


def ask_for_secrets(channel: Channel, what: str) -> bytes:
    """What the operation ``enketo-secrets`` says; where `enketo` does not run, from a container of their own.

    :param what: ``sizes`` or ``contents``
    """
    try:
        return channel.run("enketo-secrets", what)
    except CentralError as error:
        if error.diagnosis != "service_not_running":
            raise
    return channel.run("enketo-secrets-apart", what, timeout=300)


def write_part(channel: Channel, path: str, passphrase: str | None, save_timeout: int) -> dict[str, Any]:
    """Make the part in the file `path`, which must not exist.

    :param save_timeout: seconds that Redis may take to save
    :returns: as :meth:`TarPart.commit`, and ``enketo``, the index
    :raises CentralError: with the diagnosis of what is wrong; nothing is left then
    """
    with TarPart(path, passphrase) as part:
        secrets = read_secrets(channel)
        for name, content in secrets.items():
            part.add(SECRETS_DIRECTORY + name, content)
        permanent = _Seen()
        saved, rdb = _add_rdb(channel, part, save_timeout, permanent)
        known = rdb.unknown is None
        facts = ExportFacts()
        started = _now()
        with channel.stream("enketo-export") as stream:
            part.add(EXPORT, _Lines(read_netstrings(stream), facts, permanent))
        index = {
            "type": TYPE,
            "schema": SCHEMA,
            "redis_version": saved.redis_version,
            "rdb": _describe(saved, rdb),
            "export": {
                **facts.as_dict(),
                "started": started,
                "finished": _now(),
                # What the snapshot has, and the export, which came later, has not. It should be nothing.
                "gone": len(permanent) if known else None,
            },
            "links": {
                "ids": len(facts.links.surveys),
                "forms": len(facts.links.ids),
                "broken": len(facts.links.broken()),
                "hosts": facts.links.hosts(),
            },
            "secrets": {name: len(content) for name, content in secrets.items()},
        }
        part.add(INDEX, json.dumps(index, indent=2, sort_keys=True).encode() + b"\n")
        made = part.commit()
    return {**made, "enketo": index, "broken_links": [str(link) for link in facts.links.broken()]}


def _add_rdb(channel: Channel, part: TarPart, save_timeout: int, permanent: _Seen) -> tuple[Saved, RdbFacts]:
    def note(db: int, key: bytes, _type: str, expires: bool) -> None:
        if not expires:
            permanent.add(db, key)

    with channel.stream("enketo-rdb", str(save_timeout), "auto", idle_timeout=save_timeout + 120) as stream:
        saved, source = read_header(stream)
        with CheckedRdb(source, note) as checked:
            part.add(RDB, checked, size=saved.size)
        require_recent(checked.facts, saved)
        return saved, checked.facts


def _describe(saved: Saved, rdb: RdbFacts) -> dict[str, Any]:
    created = datetime.fromtimestamp(rdb.created or 0, timezone.utc)
    return {
        "version": rdb.version,
        "size": rdb.size,
        "created": utc_text(created),
        "method": saved.method,
        "keys": rdb.keys,
        "expiring": rdb.expiring,
        "types": rdb.types,
        "checksum": rdb.checksum,
        "redis_check_rdb": saved.checked,
        # what ended the walk through it; null where all of it was walked through
        "unknown": rdb.unknown,
    }


def _now() -> str:
    return utc_text(datetime.now(timezone.utc))


# --- reading back -----------------------------------------------------------------------------------------------


def read_part(path: str, passphrase: str | None) -> EnketoPart:
    """Read the whole part in the file `path`, and check each of its members.

    :raises CentralError: as :func:`open_tar_part`; ``bad_secret``, ``corrupt``, ``truncated``, ``not_a_central_backup``
    """
    facts = ExportFacts()
    rdb: RdbFacts | None = None
    index: Any = None
    secrets: dict[str, bytes] = {}
    with open_tar_part(path, passphrase) as members:
        for member in members:
            if member.name == RDB:
                rdb = check_rdb(member)
            elif member.name == EXPORT:
                _take_all(member, facts)
            elif member.name == INDEX:
                index = _index(member)
            else:
                secrets.update(_secret(member))
    if rdb is None or index is None or set(secrets) != set(SECRETS):
        raise CentralError("corrupt", f"{path} is not a whole Enketo part: members are missing. Use another set.")
    _compare(path, index, rdb, facts)
    return EnketoPart(index, facts.links, secrets, rdb)


def _take_all(source: Readable, facts: ExportFacts) -> None:
    for key in read_lines(source):
        facts.take(key)


def _index(member: TarMember) -> dict[str, Any]:
    try:
        if member.size > _MAXIMUM_INDEX:
            raise ValueError
        read = json.loads(read_exactly(member, member.size).decode("utf-8"))
        found: dict[str, Any] = read if isinstance(read, dict) else {}
        schema = found.get("schema")
        if found.get("type") != TYPE or not isinstance(schema, int) or isinstance(schema, bool):
            raise ValueError
    except (ValueError, RecursionError) as error:
        raise CentralError("corrupt", "The index of the Enketo part is none. Use another set.") from error
    if schema > SCHEMA:
        raise CentralError(
            "manifest_too_new",
            f"The Enketo part has version {schema}, and this collection reads up to {SCHEMA}. "
            "Update the collection odkops.central.",
        )
    return found


def _secret(member: TarMember) -> dict[str, bytes]:
    directory, name = member.name[: len(SECRETS_DIRECTORY)], member.name[len(SECRETS_DIRECTORY) :]
    if directory != SECRETS_DIRECTORY or name not in SECRETS:
        raise CentralError(
            "not_a_central_backup",
            f"The part is no Enketo part: it has a member {member.name[:100]!r}. Check the path.",
        )
    content = read_exactly(member, min(member.size, 2 * SECRETS[name]))
    check_secret(name, content)
    return {name: content}


def _compare(path: str, index: dict[str, Any], rdb: RdbFacts, facts: ExportFacts) -> None:
    held: dict[str, dict[str, Any]] = {
        "export": facts.as_dict(),
        "rdb": {"keys": rdb.keys, "size": rdb.size, "types": rdb.types},
    }
    for name, found in held.items():
        said = index.get(name)
        if not isinstance(said, dict) or any(said.get(each) != value for each, value in found.items()):
            raise CentralError("corrupt", f"{path} does not hold what its index says. Use another set.")
