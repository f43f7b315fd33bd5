# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Links for another address, and links from what a database says."""

from __future__ import annotations

import subprocess

import pytest
from ansible_collections.odkops.central.plugins.module_utils._enketo_links import RedisLinks, check_links
from ansible_collections.odkops.central.plugins.module_utils._enketo_rebuild import (
    Address,
    Wanted,
    count_once_ids,
    parse_address,
    plan_rekeying,
    rebuild,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import LinkFact
from ansible_collections.odkops.central.plugins.module_utils._redis_export import Key
from ansible_collections.odkops.central.plugins.module_utils._redis_load import Expected, Transaction

HERE = Address("Central.example.org")
NOW = "2026-11-22T02:00:00.000Z"


def survey(enketo_id: str, server: str, form: str, **more: str) -> Key:
    fields = {"openRosaServer": server, "openRosaId": form, **more}
    return Key(0, f"id:{enketo_id}".encode(), "hash", None, sorted((k.encode(), v.encode()) for k, v in fields.items()))


def leads(name: str, enketo_id: str) -> Key:
    return Key(0, f"or:{name}".encode(), "string", None, enketo_id.encode())


def links_of(keys: list[Key]) -> RedisLinks:
    links = RedisLinks()
    for key in keys:
        links.take(key)
    return links


@pytest.mark.parametrize(
    ("given", "host", "origin"),
    [
        ("central.example.org", "central.example.org", "https://central.example.org"),
        ("WWW.Example.org", "example.org", "https://WWW.Example.org"),
        ("localhost:8443", "localhost:8443", "https://localhost:8443"),
        ("localhost:443", "localhost", "https://localhost"),
    ],
)
def test_an_address_as_enketo_writes_it(given: str, host: str, origin: str) -> None:
    address = parse_address(given)
    assert (address.host, address.origin) == (host, origin)


@pytest.mark.parametrize(
    "given", ["", "a b", "https://x.org", "x.org/", "x:0", "x:99999", "x:", "-x", "x\n", "x:44\u0663"]
)
def test_what_is_no_address(given: str) -> None:
    with pytest.raises(CentralError) as caught:
        parse_address(given)
    assert caught.value.diagnosis == "bad_option"


def test_keys_of_another_host_are_changed_and_nothing_else() -> None:
    keys = [
        survey("A", "https://www.Old.example.org:8443/v1/projects/1", "simple", theme="x"),
        leads("old.example.org:8443/v1/projects/1,simple", "A"),
        survey("D", "https://old.example.org:8443/v1/test/ToKeN/projects/1/forms/a%20b/draft", "a b"),
        leads("old.example.org:8443/v1/test/token/projects/1/forms/a%20b/draft,a b", "D"),
        Key(0, b"su:A", "list", None, [b"old.example.org:8443/v1/projects/1"]),
        Key(3, b"or:old.example.org:8443/v1/projects/1,x", "string", None, b"A"),
    ]
    plan = plan_rekeying(links_of(keys), HERE)
    assert [plan.apply(key) for key in keys] == [
        survey("A", "https://Central.example.org/v1/projects/1", "simple", theme="x"),
        leads("central.example.org/v1/projects/1,simple", "A"),
        survey("D", "https://Central.example.org/v1/test/ToKeN/projects/1/forms/a%20b/draft", "a b"),
        leads("central.example.org/v1/test/token/projects/1/forms/a%20b/draft,a b", "D"),
        *keys[4:],
    ]
    assert (plan.dropped, plan.conflicts) == (frozenset(), 0)


def test_where_the_target_has_keys_already_nothing_is_changed() -> None:
    keys = [leads("old.example.org/v1/projects/1,f", "A"), leads("central.example.org/v1/projects/1,f", "B")]
    plan = plan_rekeying(links_of(keys), HERE)
    assert [plan.apply(key) for key in keys] == keys


@pytest.mark.parametrize(("known", "stays"), [((), "B"), ((LinkFact("A", None, 1, "f", None),), "A")])
def test_two_keys_that_become_one(known: tuple[LinkFact, ...], stays: str) -> None:
    """The database decides, else the host with more links."""
    keys = [
        leads("old.example.org/v1/projects/1,f", "A"),
        leads("newer.example.org/v1/projects/1,f", "B"),
        leads("newer.example.org/v1/projects/1,g", "C"),
        leads("old.example.org/v1/projects/1,h", "E"),
        leads("newer.example.org/v1/projects/1,h", "E"),
    ]
    plan = plan_rekeying(links_of(keys), HERE, known)
    made = [key for key in map(plan.apply, keys) if key is not None]
    assert sorted(made, key=lambda key: key.key) == [
        leads("central.example.org/v1/projects/1,f", stays),
        leads("central.example.org/v1/projects/1,g", "C"),
        leads("central.example.org/v1/projects/1,h", "E"),
    ]
    assert (len(plan.dropped), plan.conflicts) == (2, 1)


FORM = LinkFact("A", "once", 7, "simple", None, 1)
DRAFT = LinkFact("D", None, 7, "a b/\u00e9'(", "ToKeN", 1, False, True)


def test_links_as_central_registers_them() -> None:
    made = rebuild(Wanted.of([FORM, DRAFT], HERE), [], NOW)
    new = {"submissions": "0", "launchDate": NOW, "active": "true", "theme": ""}
    path = "projects/7/forms/a%20b%2F%C3%A9'(/draft"
    assert sorted(made.keys, key=lambda key: key.key) == [
        survey("A", "https://Central.example.org/v1/projects/7", "simple", **new),
        survey("D", f"https://Central.example.org/v1/test/ToKeN/{path}", "a b/\u00e9'(", **new),
        leads("central.example.org/v1/projects/7,simple", "A"),
        leads(f"central.example.org/v1/test/token/{path.lower()},a b/\u00e9'(", "D"),
    ]
    assert (made.there, made.added, made.corrected) == (0, 2, 0)
    assert check_links([FORM, DRAFT], links_of(made.keys)) == []
    assert rebuild(Wanted.of([FORM, DRAFT], HERE), made.keys, "later").keys == []


def test_what_redis_has_is_kept_and_what_is_wrong_corrected() -> None:
    old = survey("A", "https://old.example.org/v1/projects/7", "simple", submissions="12", theme="grid", active="false")
    current = [old, leads("central.example.org/v1/projects/7,simple", "another")]
    made = rebuild(Wanted.of([FORM], HERE), current, NOW)
    server, more = (
        "https://Central.example.org/v1/projects/7",
        {"submissions": "12", "theme": "grid", "active": "false"},
    )
    assert made.keys == [
        survey("A", server, "simple", **more, launchDate=NOW),
        leads("central.example.org/v1/projects/7,simple", "A"),
    ]
    assert (made.there, made.added, made.corrected) == (0, 0, 1)


def test_of_two_forms_with_one_name_the_one_leads_that_is_not_in_the_trash() -> None:
    """Then the later one."""
    trash = [
        LinkFact(each, None, 7, "simple", None, number, True)
        for each, number in (("old", 1), ("older", 0), ("late", 9))
    ]
    wanted = Wanted.of([*trash, LinkFact("now", None, 7, "simple", None, 2)], HERE)
    made = {key.key: key.value for key in rebuild(wanted, [], NOW).keys}
    assert made.pop(b"or:central.example.org/v1/projects/7,simple") == b"now"
    assert set(made) == {b"id:now", b"id:old", b"id:older", b"id:late"}
    assert wanted.superseded == 3
    late = {key.key: key.value for key in rebuild(Wanted.of(trash, HERE), [], NOW).keys}
    assert late[b"or:central.example.org/v1/projects/7,simple"] == b"late"


def test_a_definition_that_is_no_draft_any_more_claims_no_form() -> None:
    wanted = Wanted.of([FORM, LinkFact("X", None, 7, "simple", None, 9, False, True)], HERE)
    assert [link.enketo_id for link in wanted.links] == ["A"]
    assert wanted.unknown == 1


def test_single_submission_links_are_counted_exactly() -> None:
    secret = "s" * 32
    command = ["openssl", "enc", "-aes-192-cbc", "-md", "md5", "-nosalt", "-pass", f"pass:{secret}"]
    once = subprocess.run(
        command, input=b"A", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    ).stdout.hex()
    facts = [
        FORM,
        LinkFact("A", once, 7, "x", None),
        LinkFact("B", None, 7, "y", None),
        LinkFact(None, once, 7, "z", None),
    ]
    assert count_once_ids(facts, secret.encode()) == (2, 1)
    assert count_once_ids(facts, None) == (2, 0)


# --- transactions -----------------------------------------------------------------------------------------------


def wire(transaction: Transaction) -> bytes:
    data = b""
    while piece := transaction.read(7):
        data += piece
    return data


def test_a_transaction_that_breaks_off_has_no_exec() -> None:
    def keys():  # type: ignore[no-untyped-def]
        yield leads("x", "y")
        raise CentralError("corrupt", "the end is damaged")

    transaction = Transaction(keys(), True)
    data = b""
    with pytest.raises(CentralError):
        while piece := transaction.read(1 << 16):
            data += piece
    assert b"EXEC" not in data
    whole = wire(Transaction([leads("x", "y")], True))
    assert whole.count(b"EXEC") == 1
    assert whole.endswith(b"*1\r\n$4\r\nEXEC\r\n")
    assert whole.startswith(b"*1\r\n$5\r\nMULTI\r\n*1\r\n$8\r\nFLUSHALL\r\n")
    assert b"FLUSH" not in wire(Transaction([leads("x", "y")], False))


def test_what_differs_is_told_apart() -> None:
    keys = [leads("a", "1"), leads("b", "2"), survey("c", "s", "f", lastAccessed="1"), leads("d", "4")]
    expected = Expected(passing=b"lastAccessed")
    for key in keys:
        expected.add(key)
    held = [keys[0], leads("b", "other"), survey("c", "s", "f", lastAccessed="2"), leads("more", "5"), keys[0]]
    strict, lenient = expected.compare(held, lambda: 0), expected.compare(held, lambda: 0, strict=False)
    assert (strict.missing, strict.other, strict.surplus) == (1, 2, 1)
    assert (lenient.missing, lenient.other, lenient.surplus) == (1, 1, 1)
    assert not expected.compare(keys, lambda: 0)
    with pytest.raises(CentralError):
        expected.add(keys[0])


def test_a_key_that_has_expired_meanwhile_is_not_missed() -> None:
    expected = Expected()
    expected.add(Key(0, b"k", "string", 1000, b"v"))
    assert not expected.compare([], lambda: 1000)
    assert expected.compare([], lambda: 999).missing == 1
    assert expected.compare([Key(0, b"k", "string", None, b"v")], lambda: 0).other == 1
