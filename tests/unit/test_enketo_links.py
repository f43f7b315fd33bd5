# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Links and secrets of Enketo against what the database says of them."""

from __future__ import annotations

import subprocess

import pytest
from ansible_collections.odkops.central.plugins.module_utils._enketo_links import (
    OnceIds,
    RedisLinks,
    check_links,
    check_once_ids,
    clean_server,
    require_links,
)
from ansible_collections.odkops.central.plugins.module_utils._enketo_secrets import (
    opens_once_id,
    parse_contents,
    parse_sizes,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import LinkFact
from ansible_collections.odkops.central.plugins.module_utils._redis_export import Key

LESS_SECRET = b"abcdefghijklmnopqrstuvwxyz012345"
SERVER = "https://Central.Example.org:8443/v1/projects/7"
DRAFT = "https://Central.Example.org:8443/v1/test/ToKeN/projects/7/forms/simple/draft"


def survey(enketo_id: str, server: str = SERVER, form: str = "simple", db: int = 0) -> Key:
    fields = [(b"openRosaId", form.encode()), (b"openRosaServer", server.encode()), (b"active", b"true")]
    return Key(db, f"id:{enketo_id}".encode(), "hash", None, sorted(fields))


def leads(to: str, server: str = SERVER, form: str = "simple") -> Key:
    return Key(0, f"or:{clean_server(server)},{form}".encode(), "string", None, to.encode())


def links_of(*keys: Key) -> RedisLinks:
    links = RedisLinks()
    for key in keys:
        links.take(key)
    return links


FORM = LinkFact("AbC", None, 7, "simple", None)
OF_DRAFT = LinkFact("DeF", None, 7, "simple", "ToKeN")
WHOLE = (survey("AbC"), leads("AbC"), survey("DeF", DRAFT), leads("DeF", DRAFT))


@pytest.mark.parametrize(
    ("server", "clean"),
    [
        ("https://www.Example.org/v1/projects/1", "example.org/v1/projects/1"),
        ("HTTP://Example.org:80/", "example.org:80"),
        ("https://WWW.example.org", "example.org"),
        ("https://wwww.example.org", "wwww.example.org"),
        ("example.org/v1", "example.org/v1"),
        ("", ""),
    ],
)
def test_addresses_are_written_as_enketo_writes_them(server: str, clean: str) -> None:
    assert clean_server(server) == clean


def test_links_that_work() -> None:
    redis = links_of(*WHOLE)
    assert check_links([FORM, OF_DRAFT, LinkFact(None, "once", 1, "x", None)], redis) == []
    assert redis.broken() == []
    assert redis.hosts() == {"central.example.org:8443": 2}
    require_links([])


@pytest.mark.parametrize(
    ("link", "keys", "problem"),
    [
        (FORM, [], "no_id"),
        (FORM, [leads("AbC")], "no_id"),
        (FORM, [survey("AbC")], "no_or"),
        (FORM, [survey("AbC", db=1), leads("AbC")], "no_id"),
        (FORM, [survey("AbC"), leads("XyZ")], "other_id"),
        (FORM, [survey("AbC", form="other"), leads("AbC", form="other")], "other_form"),
        (FORM, [survey("AbC", SERVER.replace("7", "71")), leads("AbC")], "other_form"),
        (FORM, [survey("abc"), leads("AbC")], "no_id"),
        (OF_DRAFT, [survey("DeF", DRAFT), leads("AbC")], "no_or"),
        (OF_DRAFT, [leads("DeF", DRAFT)], "no_id"),
    ],
)
def test_a_link_that_does_not_work_is_named(link: LinkFact, keys: list[Key], problem: str) -> None:
    broken = check_links([link], links_of(*keys))
    assert [(each.problem, each.project, each.form, each.draft) for each in broken] == [
        (problem, 7, "simple", link is OF_DRAFT)
    ]
    with pytest.raises(CentralError, match="form 'simple' of project 7") as raised:
        require_links(broken)
    assert raised.value.diagnosis == "missing_enketo_link"
    assert raised.value.details["broken_links_count"] == 1
    for secret in ("AbC", "DeF", "ToKeN", "token"):
        assert secret not in str(raised.value)


def test_an_or_without_its_id_is_seen_without_the_database() -> None:
    broken = links_of(*WHOLE[1:], leads("Lost", SERVER, "a,b")).broken()
    assert [(each.problem, each.project, each.form) for each in broken] == [
        ("no_id", 7, "a,b"),
        ("no_id", 7, "simple"),
    ]


def test_of_many_broken_links_twenty_are_shown() -> None:
    many = [LinkFact(f"id{number}", None, number, "f", None) for number in range(1000)]
    with pytest.raises(CentralError, match=r"1000 Web Forms link\(s\)") as raised:
        require_links(check_links(many, RedisLinks()))
    assert len(raised.value.details["broken_links"]) == 20


def once_id(enketo_id: str, secret: bytes) -> str:
    """As the tests' description of Enketo says: by openssl."""
    command = ["openssl", "enc", "-aes-192-cbc", "-md", "md5", "-nosalt", "-pass", "stdin"]
    # -pass stdin takes the first line, and the rest is the data.
    done = subprocess.run(command, input=secret + b"\n" + enketo_id.encode(), capture_output=True, check=True)
    return done.stdout.hex()


def test_single_submission_links_open_as_openssl_makes_them() -> None:
    enketo_id = "aBcDeFgHiJkLmNoPqRsTuVwXyZ01234"
    made = once_id(enketo_id, LESS_SECRET)
    assert len(made) == 64
    assert opens_once_id(made, enketo_id, LESS_SECRET)
    assert opens_once_id(made.upper(), enketo_id, LESS_SECRET)
    assert not opens_once_id(made, enketo_id, LESS_SECRET[::-1])
    assert not opens_once_id(made, enketo_id[::-1], LESS_SECRET)
    assert not opens_once_id("\u00e9", enketo_id, LESS_SECRET)


def test_the_right_secret_opens_links_of_the_database() -> None:
    links = [LinkFact(f"id{n}", once_id(f"id{n}", LESS_SECRET), 1, "f", None) for n in range(3)]
    older = LinkFact("old", once_id("old", b"x" * 32), 1, "g", None)
    assert check_once_ids([*links, older, LinkFact("no once", None, 1, "h", None)], LESS_SECRET) == OnceIds(4, 3)
    assert check_once_ids([], LESS_SECRET) == OnceIds(0, 0)
    with pytest.raises(CentralError, match=r"none of the 4 single-submission link\(s\)") as raised:
        check_once_ids([*links, older], b"y" * 32)
    assert raised.value.diagnosis == "wrong_enketo_secret"


SIZES = b"enketo-secret 64\nenketo-less-secret 32\nenketo-api-key 128\n"
CONTENTS = (
    b"enketo-secret 64\n" + b"a" * 64 + b"enketo-less-secret 32\n" + b"b" * 32 + b"enketo-api-key 128\n" + b"c" * 128
)


def test_secrets_are_read() -> None:
    parse_sizes(SIZES)
    assert parse_contents(CONTENTS) == {
        "enketo-secret": b"a" * 64,
        "enketo-less-secret": b"b" * 32,
        "enketo-api-key": b"c" * 128,
    }


@pytest.mark.parametrize(
    "output", [b"", b"x", SIZES[:-1], SIZES + b"x", SIZES.replace(b"32", b"x"), SIZES.replace(b"secret", b"x")]
)
def test_sizes_that_are_none(output: bytes) -> None:
    with pytest.raises(CentralError) as raised:
        parse_sizes(output)
    assert raised.value.diagnosis == "corrupt"


@pytest.mark.parametrize("cut", [0, 5, 20, 60, 90, 120, 200, len(CONTENTS) - 1])
def test_secrets_that_are_cut_short(cut: int) -> None:
    with pytest.raises(CentralError) as raised:
        parse_contents(CONTENTS[:cut])
    assert raised.value.diagnosis in ("corrupt", "bad_secret")


def test_secrets_with_something_behind_them() -> None:
    with pytest.raises(CentralError) as raised:
        parse_contents(CONTENTS + b"x")
    assert raised.value.diagnosis == "corrupt"
