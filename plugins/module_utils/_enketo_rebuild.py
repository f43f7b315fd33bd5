# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Web Forms links made to fit a Central: for another address, or anew from what the database says of them.

Enketo's ids are in the database, and the addresses that Central has registered them under follow from it:
``https://DOMAIN/v1/projects/<project>`` for a form, and for a draft
``https://DOMAIN/v1/test/<token>/projects/<project>/forms/<form>/draft``, with the form's id percent-encoded.
Source: getodk/central-backend, lib/model/query/forms.js, lib/external/enketo.js; enketo/enketo,
packages/enketo-express, app/models/survey-model.js.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from ansible_collections.odkops.central.plugins.module_utils._enketo_links import RedisLinks, clean_server
from ansible_collections.odkops.central.plugins.module_utils._enketo_secrets import opens_once_id
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import LinkFact
from ansible_collections.odkops.central.plugins.module_utils._redis_export import Key

HTTPS = 443

# A name with dots, or an IPv4 address; Central takes nothing else for DOMAIN.
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_PROTOCOL = re.compile(r"https?://", re.IGNORECASE)

# What encodeURIComponent of JavaScript leaves as it is, beside letters and digits.
_UNENCODED = "-_.!~*'()"


@dataclass(frozen=True)
class Address:
    """Where a Central answers.

    :param domain: its DOMAIN
    :param port: its HTTPS_PORT
    """

    domain: str
    port: int = HTTPS

    @property
    def origin(self) -> str:
        """As Central puts it in front of a path: ``https://central.example.org``, with the port where it is not 443."""
        return f"https://{self.domain}" + ("" if self.port == HTTPS else f":{self.port}")

    @property
    def host(self) -> str:
        """As the keys ``or:`` begin: in lower case, without ``www.``."""
        return clean_server(self.origin)


def parse_address(text: str, port: int = HTTPS) -> Address:
    """Read a domain as somebody gives it, ``central.example.org`` or ``central.example.org:8443``.

    :param port: where it has none
    :raises CentralError: ``bad_option``
    """
    domain, colon, given = text.partition(":")
    number = int(given) if given.isascii() and given.isdigit() and len(given) < 6 else 0
    if not _DOMAIN.fullmatch(domain) or (colon and not 0 < number < 65536):
        raise CentralError(
            "bad_option",
            f"domain: {text[:100]!r} is no domain. Give it as in Central's .env, such as central.example.org, and with the port "
            "where HTTPS_PORT is not 443.",
        )
    return Address(domain, number if colon else port)


# --- another address --------------------------------------------------------------------------------------------


def _host_of(name: str) -> str:
    return name.split("/", 1)[0]


def hosts_of(links: RedisLinks) -> dict[str, int]:
    """Number of keys ``or:`` and ``id:`` by the host in them."""
    found: dict[str, int] = {}
    for host in [survey.host for survey in links.surveys.values()] + [_host_of(name) for name in links.ids]:
        if host:
            found[host] = found.get(host, 0) + 1
    return dict(sorted(found.items()))


@dataclass
class Rekeying:
    """How the keys of an export are to be changed, so that a Central at another address finds them.

    Enketo serves no other address than its own, so that keys of another one are of no use there.

    :param address: of the target
    :param hosts: keys of these hosts are changed; none where the export has keys of the target
    :param dropped: ``or:`` keys (without ``or:``) that are left out, since another one has the same name then
    :param conflicts: how many of those lead to another id than the one that stays
    """

    address: Address
    hosts: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()
    conflicts: int = 0

    def apply(self, key: Key) -> Key | None:
        """Return what `key` becomes, which may be itself; None where it is left out."""
        if key.db != 0 or not self.hosts:
            return key
        if key.key.startswith(b"or:"):
            name = key.key[3:].decode("utf-8", "surrogateescape")
            if name in self.dropped:
                return None
            return replace(key, key=b"or:" + self.new_name(name).encode("utf-8", "surrogateescape"))
        if key.key.startswith(b"id:") and key.type == "hash":
            return replace(key, value=[self._field(item) for item in key.value if isinstance(item, tuple)])
        return key

    def new_name(self, name: str) -> str:
        """The name of an ``or:`` key, without ``or:``, at the target."""
        host, slash, rest = name.partition("/")
        return f"{self.address.host}/{rest}" if slash and host in self.hosts else name

    def _field(self, item: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
        if item[0] != b"openRosaServer":
            return item
        server = item[1].decode("utf-8", "surrogateescape").strip()
        if _host_of(clean_server(server)) not in self.hosts:
            return item
        _host, slash, path = _PROTOCOL.sub("", server, count=1).partition("/")
        return item[0], f"{self.address.origin}{slash}{path}".encode("utf-8", "surrogateescape")


def plan_rekeying(links: RedisLinks, address: Address, wanted: Iterable[LinkFact] = ()) -> Rekeying:
    """Find out what has to be changed.

    Where two keys get the same name, such as after a Central has changed its address before, the one stays that leads to the
    id in the database; else the one of the host with more keys.

    :param links: what the export holds
    :param wanted: what the database says, where it is known
    """
    hosts = hosts_of(links)
    if address.host in hosts or not hosts:
        return Rekeying(address)
    plan = Rekeying(address, frozenset(hosts))
    by_name: dict[str, list[str]] = {}
    for name in links.ids:
        by_name.setdefault(plan.new_name(name), []).append(name)
    ids = {link.name: link.enketo_id for link in Wanted.of(wanted, address).links}
    dropped: list[str] = []
    for new, names in by_name.items():
        if len(names) > 1:
            ranked = sorted(
                names, key=lambda name: (links.ids[name] == ids.get(new), hosts.get(_host_of(name), 0), name)
            )
            dropped += ranked[:-1]
            plan.conflicts += len({links.ids[name] for name in names}) - 1
    plan.dropped = frozenset(dropped)
    return plan


# --- anew -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WantedLink:
    """A link as it has to be in Redis.

    :param server: as Central has registered it, such as ``https://central.example.org/v1/projects/1``
    :param leads: whether its ``or:`` leads to it; not where a later form has the same project and id
    """

    enketo_id: str
    server: str
    form: str
    leads: bool = True

    @property
    def name(self) -> str:
        """Its ``or:`` key without ``or:``."""
        return f"{clean_server(self.server)},{self.form.strip()}"


def _server(link: LinkFact, address: Address) -> str | None:
    """Where Central has registered it; None where that is not known: a definition that is no draft any more."""
    if link.draft_token is not None:
        form = quote(link.xml_form_id, safe=_UNENCODED)
        return f"{address.origin}/v1/test/{link.draft_token}/projects/{link.project_id}/forms/{form}/draft"
    return None if link.of_definition else f"{address.origin}/v1/projects/{link.project_id}"


@dataclass
class Wanted:
    """The links that a database needs.

    :param superseded: links of a form in the trash whose project and id a later form has. Central asks Enketo for a form by
        these two and gets the id that there is; so they have ids of their own only where Enketo had lost the first one
    :param unknown: ids of which the database does not say any more what they were for
    """

    links: list[WantedLink] = field(default_factory=list)
    superseded: int = 0
    unknown: int = 0

    @classmethod
    def of(cls, facts: Iterable[LinkFact], address: Address) -> Wanted:
        """What the links of a database are at an address. A form that is not in the trash goes first, then the latest."""
        made = cls()
        leading: dict[str, str] = {}
        seen: set[str] = set()
        for fact in sorted(facts, key=lambda fact: (not fact.deleted, fact.form_id), reverse=True):
            if fact.enketo_id is None or fact.enketo_id in seen:
                continue
            server = _server(fact, address)
            if server is None:
                made.unknown += 1
                continue
            seen.add(fact.enketo_id)
            link = WantedLink(fact.enketo_id, server, fact.xml_form_id)
            if leading.setdefault(link.name, link.enketo_id) != link.enketo_id:
                made.superseded += 1
                link = replace(link, leads=False)
            made.links.append(link)
        return made


@dataclass
class Rebuilding:
    """Which keys are to be set, so that the links of a database work.

    What Redis has and the database does not contradict stays: numbers of submissions, themes, links of forms that came later.

    :param keys: each of them replaces the one of its name
    :param there: links that need nothing
    :param added: links that are made anew
    :param corrected: links that have keys, of another address or another form, or that lead elsewhere
    """

    keys: list[Key] = field(default_factory=list)
    there: int = 0
    added: int = 0
    corrected: int = 0


def rebuild(wanted: Wanted, current: Iterable[Key], launched: str) -> Rebuilding:
    """Compare the links that are needed with those that there are.

    :param current: what Redis holds now
    :param launched: when new ones were made, in ISO 8601
    """
    ids = {link.enketo_id for link in wanted.links}
    names = {link.name for link in wanted.links}
    hashes: dict[str, list[tuple[bytes, bytes]]] = {}
    leads: dict[str, bytes] = {}
    taken: set[bytes] = set()
    for key in current:
        name = key.key.decode("utf-8", "surrogateescape")
        if key.db != 0:
            continue
        if name[:3] == "id:" and name[3:] in ids:
            taken.add(key.key)
            if isinstance(key.value, list):
                hashes[name[3:]] = [item for item in key.value if isinstance(item, tuple)]
        elif name[:3] == "or:" and name[3:] in names:
            taken.add(key.key)
            if isinstance(key.value, bytes) and key.expires_at is None:
                leads[name[3:]] = key.value
    made = Rebuilding()
    for link in wanted.links:
        keys = _missing(link, hashes.get(link.enketo_id), leads.get(link.name), launched)
        made.keys += keys
        if not keys:
            made.there += 1
        elif any(key.key in taken for key in keys):
            made.corrected += 1
        else:
            made.added += 1
    return made


def _missing(
    link: WantedLink, there: list[tuple[bytes, bytes]] | None, leads: bytes | None, launched: str
) -> list[Key]:
    keys = []
    fields = dict(there or [])
    server = fields.get(b"openRosaServer", b"").decode("utf-8", "replace")
    form = fields.get(b"openRosaId", b"").decode("utf-8", "replace")
    if clean_server(server) != clean_server(link.server) or form.strip() != link.form.strip():
        new = {b"submissions": b"0", b"launchDate": launched.encode(), b"active": b"true", b"theme": b""}
        new.update(fields)
        new.update({b"openRosaServer": link.server.encode(), b"openRosaId": link.form.encode()})
        keys.append(Key(0, b"id:" + link.enketo_id.encode(), "hash", None, sorted(new.items())))
    if link.leads and leads != link.enketo_id.encode():
        keys.append(Key(0, b"or:" + link.name.encode(), "string", None, link.enketo_id.encode()))
    return keys


def count_once_ids(facts: Iterable[LinkFact], less_secret: bytes | None) -> tuple[int, int]:
    """How many single-submission links a database has, and how many of them a secret opens.

    :param less_secret: None where there is none that could be read
    """
    total = opened = 0
    for fact in facts:
        if fact.once_id is not None and fact.enketo_id is not None:
            total += 1
            opened += less_secret is not None and opens_once_id(fact.once_id, fact.enketo_id, less_secret)
    return total, opened
