# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The logical export of Redis as bytes: netstrings in, lines of JSON out, and back."""

from __future__ import annotations

import io
import json
import tracemalloc

import pytest
from ansible_collections.odkops.central.plugins.module_utils._enketo_operations import MAXIMUM_BYTES
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._redis_export import (
    Key,
    key_of,
    line_of,
    read_lines,
    read_netstrings,
)
from hypothesis import given, settings
from hypothesis import strategies as st

NASTY = b'\n\r\0"\\ \xe2\x80\xa8\xf0\x9f\x98\x80'
BINARY = bytes(range(256))


def netstring(*texts: bytes | int) -> bytes:
    words = [str(text).encode() if isinstance(text, int) else text for text in texts]
    return b"".join(b"%d:%b" % (len(word), word) for word in words)


def keys(data: bytes) -> list[Key]:
    return list(read_netstrings(io.BytesIO(data)))


def diagnosis(data: bytes) -> str:
    with pytest.raises(CentralError) as raised:
        keys(data)
    return raised.value.diagnosis


def test_every_type() -> None:
    data = netstring(b"database", 0) + b"\n"
    data += netstring(b"string", NASTY, b"", 1, BINARY)
    data += netstring(b"list", b"l", 1795404482525, 3, b"3", b"", b"1") + b"\n\n"
    data += netstring(b"set", b"s", b"", 2, b"b", b"a") + netstring(b"database", 15)
    data += netstring(b"zset", b"z", b"", 2, b"m", b"-inf") + netstring(b"hash", b"h", b"", 4, b"f", b"v", b"e", NASTY)
    assert keys(data + netstring(b"end") + b"\n") == [
        Key(0, NASTY, "string", None, BINARY),
        Key(0, b"l", "list", 1795404482525, [b"3", b"", b"1"]),
        Key(0, b"s", "set", None, [b"a", b"b"]),
        Key(15, b"z", "zset", None, [(b"m", b"-inf")]),
        Key(15, b"h", "hash", None, [(b"e", NASTY), (b"f", b"v")]),
    ]


def test_a_line_is_what_the_documentation_says() -> None:
    line = line_of(Key(0, b"id:abc", "hash", None, [(b"active", b"true"), (b"theme", b"\xff")]))
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "db": 0,
        "key": "id:abc",
        "type": "hash",
        "expires_at": None,
        "value": [["active", "true"], ["theme", {"base64": "/w=="}]],
    }


texts = st.binary(max_size=20) | st.text(max_size=20).map(lambda value: value.encode("utf-8", "replace"))
values = st.one_of(
    st.tuples(st.just("string"), texts),
    st.tuples(st.just("list"), st.lists(texts, min_size=1, max_size=5)),
    st.tuples(st.just("set"), st.lists(texts, min_size=1, max_size=5).map(sorted)),
    st.tuples(st.just("hash"), st.lists(st.tuples(texts, texts), min_size=1, max_size=5).map(sorted)),
    st.tuples(st.just("zset"), st.lists(st.tuples(texts, texts), min_size=1, max_size=5).map(sorted)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(texts, values, st.none() | st.integers(0, 2**53)), max_size=5))
def test_what_goes_in_comes_out(drawn: list[tuple[bytes, tuple[str, object], int | None]]) -> None:
    """From netstrings to keys, to lines, to keys."""
    data = netstring(b"database", 0)
    expected = []
    for name, (kind, value), expires in drawn:
        items = [value] if kind == "string" else value
        flat = [part for item in items for part in (item if isinstance(item, tuple) else (item,))]  # type: ignore[attr-defined]
        data += netstring(kind.encode(), name, b"" if expires is None else expires, len(flat), *flat) + b"\n"
        expected.append(Key(0, name, kind, expires, value))  # type: ignore[arg-type]
    found = keys(data + netstring(b"end"))
    assert found == expected
    assert list(read_lines(io.BytesIO(b"".join(line_of(key) for key in found)))) == expected


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", netstring(b"database", 0), netstring(b"database", 0, b"string", b"k"), b"3:en", b"3", b"8:database1:"],
)
def test_an_export_that_ends_early(data: bytes) -> None:
    assert diagnosis(data) == "truncated"


@pytest.mark.parametrize(
    "data",
    [
        b"3:endx",
        b"ERR something\n",
        b":",
        b"99999999999:x",
        b"17:" + b"x" * 17,
        netstring(b"database", b"x"),
        netstring(b"database", b""),
        netstring(b"string", b"k", b"", 1, b"v"),  # of no database
        netstring(b"database", 0, b"string", b"k", b"", 2, b"v", b"w"),
        netstring(b"database", 0, b"string", b"k", b"", 0),
        netstring(b"database", 0, b"hash", b"k", b"", 1, b"v"),
        netstring(b"database", 0, b"hash", b"k", b"", 0),
        netstring(b"database", 0, b"list", b"k", b"-1", 1, b"v"),
        netstring(b"database", 0, b"stream", b"k", b"", 1, b"v"),
        netstring(b"database", 0, b"list", b"k", b"", 500_000),
        netstring(b"database", 0, b"string", b"k", b"", 1) + b"%d:" % (MAXIMUM_BYTES + 1),
        netstring(b"database", 0, b"string") + b"2000000:",
    ],
)
def test_an_export_that_is_damaged(data: bytes) -> None:
    assert diagnosis(data) == "corrupt"


def test_the_texts_of_a_key_are_limited_together() -> None:
    half = b"x" * (MAXIMUM_BYTES // 2 + 1)
    assert diagnosis(netstring(b"database", 0, b"list", b"k", b"", 2, half, half)) == "corrupt"


def test_a_refused_key_is_named_without_what_follows_its_colon() -> None:
    with pytest.raises(CentralError, match=r"\(or:\.\.\.\) that is of type stream") as raised:
        keys(netstring(b"database", 0, b"refused", b"or:host/v1/test/TOKEN,form", b"", 1, b"of type stream"))
    assert raised.value.diagnosis == "unsupported_key"
    assert "TOKEN" not in str(raised.value)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_of_any_kind(data: bytes) -> None:
    for source in (data, netstring(b"database", 0) + data):
        try:
            keys(source)
        except CentralError as error:
            assert error.diagnosis in ("corrupt", "truncated", "unsupported_key")


GOOD = {"db": 0, "key": "k", "type": "hash", "expires_at": None, "value": [["f", "v"]]}


@pytest.mark.parametrize(
    "changed",
    [
        {"db": -1},
        {"db": True},
        {"db": "0"},
        {"db": 0.0},
        {"key": 5},
        {"key": {"base64": "?"}},
        {"key": {"base64": 5}},
        {"key": {"base64": "", "x": 1}},
        {"key": "\ud800"},
        {"type": "stream"},
        {"type": None},
        {"type": "string"},
        {"type": "list"},
        {"expires_at": "1"},
        {"expires_at": -5},
        {"value": []},
        {"value": None},
        {"value": [["f"]]},
        {"value": [["f", "v", "w"]]},
        {"value": ["fv"]},
        {"more": 1},
    ],
)
def test_a_line_of_another_form(changed: dict[str, object]) -> None:
    assert key_of(json.dumps(GOOD).encode()).value == [(b"f", b"v")]
    with pytest.raises(CentralError) as raised:
        key_of(json.dumps({**GOOD, **changed}).encode())
    assert raised.value.diagnosis == "corrupt"


@pytest.mark.parametrize("line", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000, b'{"db":' + b"9" * 9000 + b"}"])
def test_a_line_that_is_none(line: bytes) -> None:
    with pytest.raises(CentralError) as raised:
        list(read_lines(io.BytesIO(line + b"\n")))
    assert raised.value.diagnosis == "corrupt"


def test_lines_that_end_in_the_middle() -> None:
    with pytest.raises(CentralError) as raised:
        list(read_lines(io.BytesIO(line_of(Key(0, b"k", "string", None, b"v"))[:-1])))
    assert raised.value.diagnosis == "truncated"


def test_memory_is_that_of_one_key() -> None:
    class Many:
        """100 MB of keys."""

        def __init__(self) -> None:
            self.left = 400

        def read(self, size: int, /) -> bytes:
            self.left -= 1
            if self.left == 399:
                return netstring(b"database", 0)
            if self.left < 0:
                return netstring(b"end") if self.left == -1 else b""
            return netstring(b"string", b"k", b"", 1, b"v" * 250_000)

    tracemalloc.start()
    try:
        assert sum(1 for _key in read_netstrings(Many())) == 399
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()
