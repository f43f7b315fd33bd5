# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rows as COPY writes them: names, values, counts, however the data is cut into pieces.

The expected values are PostgreSQL's documentation of COPY, and what the real archives of
``test_pgdump_archive.py`` hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _copy_text
from ansible_collections.odkops.central.plugins.module_utils._bytea import ByteaDigest
from ansible_collections.odkops.central.plugins.module_utils._copy_statement import columns_of
from ansible_collections.odkops.central.plugins.module_utils._copy_text import (
    CopyCounter,
    CopyMatches,
    CopyRows,
    text_of,
    unescape,
)
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from hypothesis import example, given
from hypothesis import strategies as st

ESCAPES = {0x08: b"\\b", 0x09: b"\\t", 0x0A: b"\\n", 0x0B: b"\\v", 0x0C: b"\\f", 0x0D: b"\\r", 0x5C: b"\\\\"}


def escape(value: bytes | None) -> bytes:
    """A value as COPY writes it, from the documentation's table."""
    if value is None or not set(ESCAPES) & set(value):
        return b"\\N" if value is None else value
    return b"".join(ESCAPES.get(byte, bytes([byte])) for byte in value)


def data_of(rows: list[list[bytes | None]]) -> bytes:
    """The data of a table."""
    return b"".join(b"\t".join(map(escape, row)) + b"\n" for row in rows) + b"\\.\n\n\n"


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """The same data in pieces."""
    position = 0
    for size in sizes:
        yield data[position : position + size]
        position += size
    yield data[position:]


class Taker:
    """Keeps the rows; takes column 1 of a long row piece by piece."""

    def __init__(self) -> None:
        self.rows: list[list[bytes]] = []
        self.long: list[tuple[list[bytes], bytes]] = []
        self._pieces = b""

    def row(self, fields: list[bytes]) -> None:
        """A row."""
        self.rows.append(fields)

    def long_row(self, index: int) -> Taker | None:
        """A column of a long row."""
        self._pieces = b"" if index == 0 else self._pieces
        return self if index == 1 else None

    def feed(self, piece: bytes) -> None:
        """A piece of it."""
        self._pieces += piece

    def swallow(self, data: bytes | memoryview) -> bool:
        """The same, where its characters are known."""
        if set(data) - set(b"0123456789abcdef"):
            return False
        self._pieces += data
        return True

    def end_long_row(self, fields: list[bytes]) -> None:
        """Its end."""
        self.long.append((fields, self._pieces))


text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12).map(str.encode)
values = st.one_of(st.none(), text, st.sampled_from([b"\\.", b"\\N", b"\n", b"\t", b"\\", b"\n\\.\n"]))


def tables(columns: int) -> st.SearchStrategy[list[list[bytes | None]]]:
    """Rows of so many columns."""
    return st.lists(st.lists(values, min_size=columns, max_size=columns), max_size=8)


pieces = st.lists(st.integers(0, 12), max_size=40)


@given(tables(2), pieces)
@example([], [])
@example([[b"\\.", b"\\."]], [1, 1, 1, 1, 1])
def test_counts_and_hands_on_rows(rows: list[list[bytes | None]], sizes: list[int]) -> None:
    data = data_of(rows)
    counter, taker = CopyCounter("t", 2, "utf-8"), Taker()
    reader = CopyRows("t", 2, taker, "utf-8")
    for piece in cut(data, sizes):
        counter.feed(piece)
        reader.feed(piece)
    assert counter.finish() == reader.finish() == len(rows)
    assert [[unescape(field) for field in row] for row in taker.rows] == rows


@given(tables(1), pieces)
def test_counts_rows_of_one_column(rows: list[list[bytes | None]], sizes: list[int]) -> None:
    counter = CopyCounter("t", 1)
    for piece in cut(data_of(rows), sizes):
        counter.feed(piece)
    assert counter.finish() == len(rows)


@given(tables(3), pieces, st.binary(min_size=1, max_size=3))
def test_finds_the_rows_with_something_in_them(rows: list[list[bytes | None]], sizes: list[int], needle: bytes) -> None:
    needle = needle.replace(b"\n", b"x").replace(b"\t", b"x")
    taker = Taker()
    reader = CopyMatches("t", 3, needle, taker)
    for piece in cut(data_of(rows), sizes):
        reader.feed(piece)
    assert reader.finish() == len(rows)
    lines = [[escape(value) for value in row] for row in rows]
    assert taker.rows == [line for line in lines if needle in b"\t".join(line)]


@given(tables(2), st.data())
def test_every_cut_is_found(rows: list[list[bytes | None]], data: st.DataObject) -> None:
    whole = data_of(rows)
    length = data.draw(st.integers(0, len(whole) - 1))
    counter = CopyCounter("t", 2)
    counter.feed(whole[:length])
    with pytest.raises(CentralError) as caught:
        counter.finish()
    assert caught.value.diagnosis == "corrupt"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a\n",
        b"\\.\n",
        b"\\.\n\n",
        b"\\.\n\n\n\n",
        b"\\.\n\n\nx",
        b"\\.\n\\.\n\n\n",
        b"\\.\na\n\\.\n\n\n",
        b"a\n\\.\nb\n\\.\n\n\n",
        b"a\n\\.\n\\.\n\n\n",
        b"a\\.\n\n\n",
        b"a\n\\.\n\nb",
        b"a\tb\n\\.\n\n\n",
        b"a\0b\n\\.\n\n\n",
        b"a\rb\n\\.\n\n\n",
        b"a\xffb\n\\.\n\n\n",
        b"\xf0\x9f\xa6\n\\.\n\n\n",
    ],
)
def test_what_is_no_table_of_one_column(data: bytes) -> None:
    for step in (1, 2, 3, 100):
        counter = CopyCounter("a table", 1, "utf-8")
        with pytest.raises(CentralError, match="a table") as caught:
            for start in range(0, len(data), step):
                counter.feed(data[start : start + step])
            counter.finish()
        assert caught.value.diagnosis == "corrupt"


@pytest.mark.parametrize("at", [4093, 4094, 4095, 4096, 4097, 8191])
def test_characters_at_the_ends_of_what_is_decoded_at_a_time(at: int) -> None:
    """Most of a long text is ASCII and is passed over; what is not may be cut anywhere."""
    for text, whole in (("🦀".encode(), True), (b"\xf0\x9f\xa6", False), (b"\x80", False), ("é".encode() * 5000, True)):
        data = b"a" * at + text + b"a" * 9000 + b"\n\\.\n\n\n"
        for step in (1000, 4096, len(data)):
            counter = CopyCounter("a table", 1, "utf-8")
            try:
                for start in range(0, len(data), step):
                    counter.feed(data[start : start + step])
                assert counter.finish() == 1
                found = True
            except CentralError:
                found = False
            assert found == whole, (text[:4], step)


def test_other_encodings_are_not_looked_into() -> None:
    counter = CopyCounter("t", 1, "iso8859-1")
    counter.feed("größe\n\\.\n\n\n".encode("iso8859-1"))
    assert counter.finish() == 1


def test_a_table_without_columns_has_rows() -> None:
    counter = CopyCounter("t", 0)
    counter.feed(b"\n\n\\.\n\n\n")
    assert counter.finish() == 2


@pytest.mark.parametrize("wrong", [b"a\n", b"a\tb\tc\n", b"\n"])
def test_rows_of_other_columns(wrong: bytes) -> None:
    reader = CopyRows("t", 2, Taker())
    with pytest.raises(CentralError, match="2 columns each"):
        reader.feed(b"x\ty\n" + wrong + b"\\.\n\n\n")
        reader.finish()
    counter = CopyCounter("t", 2)
    counter.feed(b"x\ty\n" + wrong + b"\\.\n\n\n")
    with pytest.raises(CentralError, match="2 columns each"):
        counter.finish()


@pytest.mark.parametrize("step", [70_001, 1_000_000, 1 << 30])
def test_long_rows_are_handed_on_in_pieces(step: int) -> None:
    content = b"0123456789abcdef" * 200_000
    long_row = [b"1", content, b"z" * 200_000]
    data = data_of([[b"0", b"short", b"s"], *[long_row] * 2, [b"2", b"short", None]])  # type: ignore[list-item]
    taker = Taker()
    reader = CopyRows("t", 3, taker)
    for start in range(0, len(data), step):
        reader.feed(data[start : start + step])
    assert reader.finish() == 4
    if step == 1 << 30:
        assert len(taker.rows) == 4  # all of it was in memory anyway
        return
    assert taker.rows == [[b"0", b"short", b"s"], [b"2", b"short", b"\\N"]]
    fields = [b"1", b"", b"z" * _copy_text.LONG_FIELD]
    assert taker.long == [(fields, content)] * 2


@pytest.mark.parametrize("columns", [b"1\t", b"1\ta\tb\tc"])
def test_long_rows_of_other_columns(columns: bytes) -> None:
    reader = CopyRows("t", 3, Taker())
    with pytest.raises(CentralError, match="3 columns each"):
        for piece in (b"x" * 1_100_000, columns, b"\n"):
            reader.feed(piece)


def test_a_long_row_of_many_columns_keeps_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_copy_text, "_LONG_FIELDS", 100_000)
    taker = Taker()
    reader = CopyRows("t", 100, taker)
    reader.feed(b"x" * 1_100_000)
    for _number in range(99):
        reader.feed(b"\t" + b"y" * 50_000)
    reader.feed(b"\n\\.\n\n\n")
    assert reader.finish() == 1
    assert sum(map(len, taker.long[0][0])) == 100_000


def test_long_rows_are_passed_over_where_something_is_sought() -> None:
    taker = Taker()
    reader = CopyMatches("t", 2, b"needle", taker)
    for piece in (b"a\tneedle 1\n", b"x" * 700_000, b"needle" * 100_000, b"\tmore needle\nb\tneedle 2\n", b"\\.\n\n\n"):
        reader.feed(piece)
    assert reader.finish() == 3
    assert taker.rows == [[b"a", b"needle 1"], [b"b", b"needle 2"]]


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_values_come_back(value: str) -> None:
    assert text_of(escape(value.encode())) == value


def test_values_that_only_other_writers_would_write() -> None:
    assert unescape(rb"\x41\101\q\n\N") == b"AAq\nN"
    assert text_of(b"\\N") is None
    assert text_of(b"\xff") == "\ufffd"


@pytest.mark.parametrize(
    ("statement", "columns"),
    [
        ("COPY public.forms (id, name) FROM stdin;\n", ["id", "name"]),
        ("COPY forms (id) FROM stdin;\n", ["id"]),
        ('COPY public.forms (id, "projectId", "select") FROM stdin;\n', ["id", "projectId", "select"]),
        ('COPY "S.p"."T (with) x" ("a, b", "c "" d") FROM stdin;\n', ["a, b", 'c " d']),
        ('COPY public."COPY x (y) FROM stdin;" ("(", ")") FROM stdin;\n', ["(", ")"]),
        ("COPY public.nothing  FROM stdin;\n", []),
        ("COPY public.forms (id, name FROM stdin;\n", None),
        ("COPY public.forms (id,name) FROM stdin;\n", None),
        ("COPY public.forms (id) FROM stdin;", None),
        ("COPY public.forms (id) FROM stdin;\n\n", None),
        ("COPY public.Forms (id) FROM stdin;\n", None),
        ("INSERT INTO x VALUES (1);\n", None),
        ("", None),
    ],
)
def test_columns_of_a_statement(statement: str, columns: list[str] | None) -> None:
    assert columns_of(statement) == columns


def test_more_columns_than_postgresql_allows() -> None:
    names = ", ".join(f"c{number}" for number in range(1601))
    with pytest.raises(CentralError, match="1600 columns"):
        columns_of(f"COPY public.t ({names}) FROM stdin;\n")


def escaped_bytea(value: bytes) -> bytes:
    """PostgreSQL's escape format (documentation, "Binary Data Types"), as COPY then shows it."""
    shown = b"".join(
        b"\\\\" if byte == 0x5C else bytes([byte]) if 32 <= byte < 127 else b"\\%03o" % byte for byte in value
    )
    return shown.replace(b"\\", b"\\\\")


content = st.one_of(
    st.binary(max_size=60), st.lists(st.sampled_from([b"\\", b"0", b"a", b"\0", b"\xff"])).map(b"".join)
)


@given(content, pieces)
def test_bytea_digests_by_swallowing(value: bytes, sizes: list[int]) -> None:
    digest = ByteaDigest()
    for piece in cut(b"\\\\x" + value.hex().encode(), sizes):
        if not digest.swallow(memoryview(piece)):
            digest.feed(piece)
    assert digest.finish() == hashlib.sha1(value, usedforsecurity=False).hexdigest()
    assert digest.size == len(value)


@given(st.integers(0, 5), st.integers(0, 9), st.sampled_from(b"\n\t\r\0 \\gG\xff"))
def test_what_is_no_digit_is_not_swallowed(before: int, place: int, wrong: int) -> None:
    """And nothing of it is taken."""
    digest = ByteaDigest()
    digest.feed(b"\\\\x" + b"a" * before)
    piece = bytearray(b"0123456789")
    piece[place] = wrong
    assert not digest.swallow(memoryview(piece))
    digest.feed(b"b" * (before % 2))
    assert digest.finish() == hashlib.sha1(bytes.fromhex("a" * before + "b" * (before % 2))).hexdigest()


@pytest.mark.parametrize("begin", [b"", b"\\", b"\\\\", b"a"])
def test_only_digits_are_swallowed(begin: bytes) -> None:
    digest = ByteaDigest()
    digest.feed(begin)
    assert not digest.swallow(b"00")


@given(content, pieces, st.booleans())
def test_bytea_digests(value: bytes, sizes: list[int], hexadecimal: bool) -> None:
    shown = b"\\\\x" + value.hex().encode() if hexadecimal else escaped_bytea(value)
    digest = ByteaDigest()
    for piece in cut(shown, sizes):
        digest.feed(piece)
    assert not digest.is_null
    assert digest.finish() == hashlib.sha1(value, usedforsecurity=False).hexdigest()
    assert digest.size == len(value)


@pytest.mark.filterwarnings("ignore:invalid octal escape")
@pytest.mark.parametrize("shown", [b"\\\\x0", b"\\\\xzz", b"\\\\x 0", b"\\x00", b"\\", b"a\\b", b"\\\\777777"])
def test_what_is_no_bytea(shown: bytes) -> None:
    digest = ByteaDigest()
    with pytest.raises(ValueError):
        digest.feed(shown)
        digest.finish()


def test_null_is_no_bytea() -> None:
    digest = ByteaDigest()
    digest.feed(b"\\")
    digest.feed(b"N")
    assert digest.is_null


@pytest.mark.parametrize("kind", ["counter", "rows", "matches"])
@given(
    rows=st.lists(
        st.lists(st.none() | st.text("ab\\\n\t\r", max_size=12).map(str.encode), min_size=2, max_size=2), max_size=6
    ),
    at=st.integers(0, 6),
    sizes=st.lists(st.integers(1, 9), max_size=12),
)
def test_two_readers_take_all_rows(kind: str, rows: list[list[bytes | None]], at: int, sizes: list[int]) -> None:
    """Each a part, from a row on; and the first one says so where it ends anywhere else, or what follows its end is no row."""

    def reader(taker: Taker) -> CopyCounter | CopyRows | CopyMatches:
        if kind == "counter":
            return CopyCounter("a table", 2)
        return CopyRows("a table", 2, taker) if kind == "rows" else CopyMatches("a table", 2, b"\t", taker)

    data = data_of(rows)
    first_part = data_of(rows[:at])[: -len(b"\\.\n\n\n")]
    takers = Taker(), Taker()
    first, second = map(reader, takers)
    for piece in cut(first_part, sizes):
        first.feed(piece)
    for piece in cut(data[len(first_part) :], sizes):
        second.feed(piece)
    assert (first.finish_part(), second.finish()) == (len(rows[:at]), len(rows[at:]))
    if kind == "rows":
        assert takers[0].rows + takers[1].rows == [[*map(escape, row)] for row in rows]
    for wrong in (data, data[:-1], data[:-2], data[:-3], first_part + b"half a row", first_part + b"one column\n"):
        reading = reader(Taker())
        with pytest.raises(CentralError) as caught:
            for piece in cut(wrong, sizes):
                reading.feed(piece)
            reading.finish_part()
        assert caught.value.diagnosis == "corrupt"


def test_a_part_of_a_table_of_one_column_has_no_end() -> None:
    """Nothing but its end tells there that rows have come to one."""
    for part, fine in ((b"a\nb\n", True), (b"a\n\\.\n", False), (b"\\.\n", False), (b"a\nb", False)):
        counter = CopyCounter("a table", 1)
        counter.feed(part)
        if fine:
            assert counter.finish_part() == 2
        else:
            with pytest.raises(CentralError, match="end in their middle"):
                counter.finish_part()


def test_a_part_that_ends_in_a_long_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_copy_text, "STREAMED_ROW", 10)
    rows = CopyRows("a table", 2, Taker())
    rows.feed(b"one\t" + b"x" * 100)
    with pytest.raises(CentralError, match="end in their middle"):
        rows.finish_part()
