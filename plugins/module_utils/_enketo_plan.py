# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restore is to make of Enketo's Redis and secrets, and from what."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Callable

from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._enketo_links import RedisLinks, check_links
from ansible_collections.odkops.central.plugins.module_utils._enketo_part import EXPORT, RDB, EnketoPart, read_part
from ansible_collections.odkops.central.plugins.module_utils._enketo_rebuild import (
    HTTPS,
    Address,
    Rebuilding,
    Rekeying,
    Wanted,
    hosts_of,
    plan_rekeying,
    rebuild,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, reading_error
from ansible_collections.odkops.central.plugins.module_utils._facts import LinkFact
from ansible_collections.odkops.central.plugins.module_utils._rdb import RdbFacts, check_rdb
from ansible_collections.odkops.central.plugins.module_utils._redis_export import Key, read_lines, read_netstrings
from ansible_collections.odkops.central.plugins.module_utils._redis_load import Difference, Expected
from ansible_collections.odkops.central.plugins.module_utils._set_names import utc_text
from ansible_collections.odkops.central.plugins.module_utils._tar_reader import (
    TarMember,
    open_tar_part,
    verify_tar_part,
)

#: where the links come from
PART, DATABASE = "part", "database"

#: how they are put into Redis
EXPORT_MODE, RDB_MODE = "export", "rdb"
MODES = (EXPORT_MODE, RDB_MODE)

# What somebody edits at this moment; Enketo gives it 30 seconds.
_EDITED = b"in:"
# Enketo notes in the hash of a form when somebody has opened it.
_VISITED = b"lastAccessed"

_SHOWN = 20
# A link from the database becomes two keys.
_SIZE_OF_LINK = 1024


@dataclass(frozen=True)
class StagedFile:
    """A member of the part that is sent as a file: size in bytes, SHA-256 in hexadecimal digits."""

    size: int
    sha256: str


@dataclass
class EnketoPlan:
    """What is put back, and where.

    From a part, Redis gets what the part has and nothing else, and the secrets are replaced. From the links of a database
    alone, Redis gets what these need and keeps the rest, and the secrets stay.

    :param domain: DOMAIN of the target, or what it will be
    :param port: its HTTPS_PORT
    :param path: the Enketo part of a set; None where the links of the database are all there is
    :param passphrase: of the part
    :param links: what the database says; with a part, it decides where two keys become one, and is compared
    :param mode: ``export``: every key by itself, into a Redis of any version; ``rdb``: Redis's own file
    :param secrets: whether the secrets of the part are put back
    :param save_timeout: seconds that Redis may take to save
    """

    domain: str
    port: int = HTTPS
    path: str | None = None
    passphrase: str | None = field(default=None, repr=False)
    links: list[LinkFact] | None = None
    mode: str = EXPORT_MODE
    secrets: bool = True
    save_timeout: int = 300
    _part: EnketoPart | None = field(default=None, init=False, repr=False)
    _rekeying: Rekeying | None = field(default=None, init=False, repr=False)
    _expected: Expected | None = field(default=None, init=False, repr=False)
    _wanted: Wanted | None = field(default=None, init=False, repr=False)
    _rebuilding: Rebuilding = field(default_factory=Rebuilding, init=False, repr=False)
    _launched: str = field(default_factory=lambda: utc_text(datetime.now(timezone.utc)), init=False, repr=False)
    _broken: list[str] = field(default_factory=list, init=False, repr=False)

    @property
    def source(self) -> str:
        """``part`` or ``database``."""
        return DATABASE if self.path is None else PART

    @property
    def address(self) -> Address:
        """Where the target answers."""
        return Address(self.domain, self.port)

    # --- the part -----------------------------------------------------------------------------------------------

    @property
    def part(self) -> EnketoPart:
        """The part, all of it read and checked once.

        :raises CentralError: as :func:`read_part`
        """
        if self._part is None:
            self._part = read_part(self.path or "", self.passphrase)
        return self._part

    @property
    def rdb(self) -> RdbFacts:
        """What the part's RDB file says."""
        return self.part.rdb

    @property
    def rdb_file(self) -> StagedFile:
        """The part's RDB file.

        :raises CentralError: as :func:`verify_tar_part`
        """
        members: Any = verify_tar_part(self.path or "", self.passphrase)["members"]
        found = next(member for member in members if member["name"] == RDB)
        return StagedFile(found["size"], found["sha256"])

    @contextlib.contextmanager
    def member(self, name: str) -> Iterator[TarMember]:
        """A member of the part as a stream."""
        with open_tar_part(self.path or "", self.passphrase) as members:
            found = next((member for member in members if member.name == name), None)
            if found is None:
                raise AssertionError(f"a part that was read before has no {name}")
            yield found

    @property
    def size(self) -> int:
        """About as many bytes are put into Redis."""
        if self.path is None:
            return _SIZE_OF_LINK * len(self.links or ())
        try:
            return os.stat(self.path).st_size
        except OSError as error:
            raise reading_error(error, self.path) from error

    @property
    def new_secrets(self) -> dict[str, bytes]:
        """The secrets that are put back, by name; none where they stay."""
        return self.part.secrets if self.source == PART and self.secrets else {}

    @property
    def rekeying(self) -> Rekeying:
        """How keys of the part are changed."""
        if self._rekeying is None:
            self._rekeying = plan_rekeying(self.part.links, self.address, self.links or ())
        return self._rekeying

    def require(self) -> None:
        """See whether the plan makes sense, and read what it rests on.

        :raises CentralError: ``bad_option``, ``unsupported_key``, and as :func:`read_part`
        """
        if self.mode not in MODES or (self.source == DATABASE and (self.links is None or self.mode == RDB_MODE)):
            raise CentralError(
                "bad_option", "mode: rdb needs the Enketo part of a backup set; from a database links are rebuilt."
            )
        if self.source == DATABASE:
            self._wanted = Wanted.of(self.links or (), self.address)
            return
        hosts = hosts_of(self.part.links)
        if self.mode == RDB_MODE and hosts and self.address.host not in hosts:
            raise CentralError(
                "bad_option",
                f"mode: the file of Redis can only be put back as it is, and its links are for {', '.join(hosts)}, while the "
                f"target is {self.address.host}. Use mode export, which gives them the other address.",
            )
        if self.mode == RDB_MODE and self.rdb.unknown is not None:
            raise CentralError(
                "unsupported_key",
                f"The file of Redis in the backup has {self.rdb.unknown}, so that it cannot be known whether it was loaded "
                "whole. Use mode export.",
            )

    # --- keys ---------------------------------------------------------------------------------------------------

    def keys(self, channel: Channel) -> contextlib.closing[Generator[Key, None, None]]:
        """The keys that are put in, as a generator that is to be closed. It ends only where its source is whole.

        :param channel: to the Central, which is asked what it has where links are rebuilt
        """
        return contextlib.closing(self._of_part() if self.source == PART else self._of_database(channel))

    def _of_part(self) -> Generator[Key, None, None]:
        rekeying = self.rekeying
        with open_tar_part(self.path or "", self.passphrase) as members:
            for member in members:
                if member.name == EXPORT:
                    for key in read_lines(member):
                        made = None if key.key.startswith(_EDITED) else rekeying.apply(key)
                        if made is not None:
                            yield made

    def _of_database(self, channel: Channel) -> Generator[Key, None, None]:
        with channel.stream("enketo-export") as stream:
            rebuilding = rebuild(self._needed(), read_netstrings(stream), self._launched)
        yield from rebuilding.keys

    def _needed(self) -> Wanted:
        if self._wanted is None:
            self._wanted = Wanted.of(self.links or (), self.address)
        return self._wanted

    def expected(self) -> Expected:
        """What Redis is to hold, from a part."""
        if self._expected is None:
            self._expected = self._expect_rdb() if self.mode == RDB_MODE else self._expect_export()
        return self._expected

    def _expect_export(self) -> Expected:
        expected, found = Expected(passing=_VISITED), RedisLinks()
        for key in self._of_part():
            expected.add(key)
            found.take(key)
        self._broken = [str(link) for link in check_links(self.links or (), found)]
        return expected

    def _expect_rdb(self) -> Expected:
        expected = Expected(names_only=True)

        def take(db: int, key: bytes, _type: str, expires: bool) -> None:
            if not key.startswith(_EDITED):
                expected.add_name(db, key, 0 if expires else None)

        with self.member(RDB) as rdb:
            check_rdb(rdb, take)
        return expected

    def compare(self, keys: Iterable[Key], now: Callable[[], int], strict: bool) -> Difference | str:
        """Compare what Redis holds with what it is to hold.

        :param now: gives Redis's clock, in milliseconds since 1970
        :param strict: whether it counts when somebody has last opened a form
        :returns: what is false where nothing differs, and says as a text what does
        """
        held = (key for key in keys if not key.key.startswith(_EDITED))
        if self.source == PART:
            return self.expected().compare(held, now, strict)
        self._rebuilding = rebuild(self._needed(), held, self._launched)
        made = self._rebuilding
        return f"{made.added} link(s) are missing, {made.corrected} lead elsewhere" if made.keys else ""

    def some_ids(self, count: int) -> list[str]:
        """Enketo's ids of a few links that are to open at the target: forms of Central, drafts only where there are no others."""
        if self.source == DATABASE:
            links = [link for link in self._needed().links if link.leads]
            found = [(link.name, link.enketo_id) for link in links]
        else:
            rekeying, surveys = self.rekeying, self.part.links.surveys
            found = [
                (rekeying.new_name(name), enketo_id)
                for name, enketo_id in self.part.links.ids.items()
                if name not in rekeying.dropped and enketo_id in surveys and surveys[enketo_id].name == name
            ]
        ours = [(("/v1/test/" in name), each) for name, each in found if name.startswith(f"{self.address.host}/v1/")]
        return [each for _draft, each in sorted(ours)[:count] if each.isalnum() and each.isascii()]

    # --- in words -----------------------------------------------------------------------------------------------

    def figures(self) -> dict[str, Any]:
        """``source``, ``mode``, ``wanted``, ``address``; ``rekeyed``, or ``rebuilt``. After :meth:`compare`."""
        found: dict[str, Any] = {"source": self.source, "mode": self.mode, "address": self.address.host}
        if self.source == PART:
            links = self.part.links
            of_hosts = sum(1 for name in links.ids if name.split("/", 1)[0] in self.rekeying.hosts)
            return {
                **found,
                "wanted": len(self.expected()),
                "rekeyed": {
                    "from": sorted(self.rekeying.hosts),
                    "links": of_hosts - len(self.rekeying.dropped),
                    "dropped": len(self.rekeying.dropped),
                    "conflicts": self.rekeying.conflicts,
                },
                "rebuilt": None,
            }
        made, needed = self._rebuilding, self._needed()
        return {
            **found,
            "wanted": len(made.keys),
            "rekeyed": None,
            "rebuilt": {
                "links": len(needed.links),
                "there": made.there,
                "added": made.added,
                "corrected": made.corrected,
                "superseded": needed.superseded,
                "unknown": needed.unknown,
            },
        }

    def warnings(self) -> list[str]:
        """What an administrator should know. After :meth:`compare`."""
        if self.source == DATABASE:
            unknown = self._needed().unknown
            text = f"{unknown} id(s) of drafts that are none any more cannot be rebuilt: the database has not kept their address."
            return [text] if unknown else []
        warnings = []
        if self.rekeying.conflicts:
            warnings.append(
                f"{self.rekeying.conflicts} form(s) had links under more than one address. One of each leads to its form by "
                "name now; the database's, where it is known, else that of the address with more links."
            )
        lonely = self.part.links.broken()
        if lonely:
            warnings.append(f"In the backup {len(lonely)} form(s) have an or: key without its id:, and answer 406.")
        if self._broken:
            more = f" and {len(self._broken) - _SHOWN} more" if len(self._broken) > _SHOWN else ""
            warnings.append(
                f"The backup of Enketo lacks what {len(self._broken)} Web Forms link(s) of the database need: "
                f"{'; '.join(self._broken[:_SHOWN])}{more}."
            )
        return warnings
