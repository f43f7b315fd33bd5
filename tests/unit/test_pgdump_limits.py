# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hostile archives: nothing hangs, nothing grows beyond 200 MiB, and only documented errors come out.

Memory is measured in a process of its own that reads the archive from its standard input.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

import lz4.frame
import pytest
import zstandard
from ansible_collections.odkops.central.plugins.module_utils import _pgdump_toc
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.archives import archives
from support.paths import ROOT
from support.pgdump_writer import COPY_END, Entry, Writer, central, table
from support.verifying import diagnosis, read_plain

LIMIT = 200 * 1024 * 1024
SECONDS = 60  # of processor time: the machine may be busy

MEASURED = """
import json, re, sys, time
sys.path.insert(0, sys.argv[1])
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, verify_stream
started = time.process_time()
try:
    verify_stream(sys.stdin.buffer.raw, Expectation())
    found = "ok"
except CentralError as error:
    found = error.diagnosis
# Not ru_maxrss: that begins with the size of the process that started this one.
peak = int(re.search("VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
json.dump({"diagnosis": found, "peak": peak, "seconds": time.process_time() - started}, sys.stdout)
"""


def measured(pieces: Iterator[bytes]) -> dict[str, Any]:
    """Verify a stream in a process of its own; a process that ends before its input is all there is no error."""
    command = [sys.executable, "-c", MEASURED, str(ROOT / "collections")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for piece in pieces:
                process.stdin.write(piece)
            process.stdin.close()
        except BrokenPipeError:
            pass
        found = json.loads(process.stdout.read())
    assert process.returncode == 0
    assert found["peak"] < LIMIT, found
    assert found["seconds"] < SECONDS, found
    return dict(found)


def with_block(
    method: str, compressed: Iterator[bytes], copy: str = "COPY public.t (a) FROM stdin;\n"
) -> Iterator[bytes]:
    """An archive with Central's tables and one more, whose compressed data is given."""
    algorithm = {"none": 0, "gzip": 1, "lz4": 2, "zstd": 3}[method]
    writer = Writer((1, 16))
    entries = central()
    more = Entry(99, "t", copy=copy, data=b"")
    head = writer.header(algorithm=algorithm) + writer.contents([*entries, more])
    compress = {"none": bytes, "gzip": zlib.compress, "lz4": lz4.frame.compress, "zstd": zstandard.compress}[method]
    yield head
    for entry in entries:
        if entry.data is not None:
            yield writer.block(entry.dump_id, compress(entry.data))
    yield b"\1" + writer.integer(99)
    for piece in compressed:
        if piece:
            yield writer.integer(len(piece)) + piece
    yield writer.integer(0)


def squeezed(method: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Compress a stream well."""
    if method == "none":
        yield from pieces
        return
    engine: Any
    if method == "gzip":
        engine = zlib.compressobj(9)
    elif method == "zstd":
        engine = zstandard.ZstdCompressor(level=3).compressobj()
    else:
        engine = lz4.frame.LZ4FrameCompressor(compression_level=1)
        yield engine.begin()
    for piece in pieces:
        yield engine.compress(piece)
    yield engine.flush()


METHODS = ["gzip", "zstd", "lz4"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("filling", [b"\n", b"a\tb\n", b"x"])
def test_a_bomb(method: str, filling: bytes) -> None:
    """A single line without end, or nothing but lines: a table like any other, in constant memory."""
    piece = filling * (1024 * 1024 // len(filling))
    rows = (piece for _count in range(256))

    def data() -> Iterator[bytes]:
        yield from rows
        yield COPY_END if filling.endswith(b"\n") else b"\n" + COPY_END

    copy = "COPY public.t (a, b) FROM stdin;\n" if b"\t" in filling else "COPY public.t (a) FROM stdin;\n"
    assert measured(with_block(method, squeezed(method, data()), copy))["diagnosis"] == "unencrypted"


@pytest.mark.parametrize("name", ["blobs", "forms", "audits", "form_defs", "knex_migrations"])
@pytest.mark.parametrize("filling", [b"x", b"\t", b"\\", b"upgrade.server", b"\\\\x00"])
def test_a_row_without_end_in_a_table_that_is_looked_into(name: str, filling: bytes) -> None:
    copy = {
        "blobs": "id, sha, content",
        "forms": 'id, "projectId", "xmlFormId"',
        "form_defs": 'id, "formId", "enketoId"',
        "audits": "id, action, details",
        "knex_migrations": "id, name, batch",
    }[name]
    entries = [entry for entry in central() if entry.tag != name]
    more = Entry(99, name, copy=f"COPY public.{name} ({copy}) FROM stdin;\n", data=b"")
    writer = Writer((1, 14))

    def archive() -> Iterator[bytes]:
        yield writer.header() + writer.contents([*entries, more])
        yield from (writer.block(e.dump_id, zlib.compress(e.data)) for e in entries if e.data is not None)
        engine = zlib.compressobj(9)
        yield b"\1" + writer.integer(99)
        piece = filling * (1024 * 1024 // len(filling))
        for data in (b"1\tupgrade.server\t", *(piece for _count in range(64)), b"\n" + COPY_END):
            out = engine.compress(data)
            yield writer.integer(len(out)) + out if out else b""
        out = engine.flush()
        yield writer.integer(len(out)) + out + writer.integer(0)

    assert measured(archive())["diagnosis"] in ("unencrypted", "corrupt", "blob_mismatch")


def test_rows_without_end_in_tables_that_are_kept() -> None:
    """Links, migrations and blobs by the million: refused before they fill the memory."""
    tables = {
        "forms": ('id, "projectId", "xmlFormId", "enketoId", "enketoOnceId"', b"%d\t1\tform%900d\tid%d\tonce\n"),
        "form_defs": ('id, "formId", "enketoId", "draftToken"', b"%d\t1\tenketo%900d\ttoken%d\n"),
        "knex_migrations": ("id, name", b"%d\tname%900d%d\n"),
        "blobs": ("id, sha, content", b"%d\t%d%d\t\\\\x00\n"),
    }
    for name, (columns, row) in tables.items():
        entries = [entry for entry in central() if entry.tag != name]
        more = Entry(99, name, copy=f"COPY public.{name} ({columns}) FROM stdin;\n", data=b"")
        writer = Writer((1, 14))

        def archive(
            entries: list[Entry] = entries, more: Entry = more, row: bytes = row, writer: Writer = writer
        ) -> Iterator[bytes]:
            yield writer.header(compression=0) + writer.contents([*entries, more])
            yield from (writer.block(e.dump_id, e.data) for e in entries if e.data is not None)
            yield b"\1" + writer.integer(99)
            for number in range(0, 60_000, 1000):
                data = b"".join(row % (n, n, n) for n in range(number, number + 1000))
                yield writer.integer(len(data)) + data
            yield writer.integer(len(COPY_END)) + COPY_END + writer.integer(0)

        assert measured(archive())["diagnosis"] == "corrupt", name


def entry_start(writer: Writer) -> bytes:
    return writer.integer(2) + writer.integer(0) + writer.string("0") + writer.string("0") + writer.string("x")


def test_a_table_of_contents_of_long_strings() -> None:
    writer = Writer()
    text = ("🦀" + "x" * 15_000_000).encode()
    entry = Entry(2, "t", "TABLE", definition=text.decode(), section=2)
    assert measured(iter([writer.archive([entry])]))["diagnosis"] in ("corrupt", "not_a_central_backup")
    several = [Entry(2 + n, "t", "FUNCTION", definition="🦀" * 1_300_000, section=2) for n in range(3)]
    assert measured(iter([writer.archive(several)]))["diagnosis"] in ("corrupt", "not_a_central_backup")


def test_a_table_of_contents_of_many_entries() -> None:
    writer = Writer()
    many = [Entry(n, f"t{n}", "TYPE", section=2, namespace=f"schema{n}", catalogue="1247") for n in range(1, 50_001)]
    assert measured(iter([writer.archive(many)]))["diagnosis"] == "not_a_central_backup"
    data = [Entry(n, f"t{n}", copy=f"COPY public.t{n} (a) FROM stdin;\n", data=COPY_END) for n in range(1, 20_000)]
    assert measured(iter([writer.archive(data)]))["diagnosis"] == "not_a_central_backup"


def test_a_table_of_contents_without_end() -> None:
    writer = Writer()
    with pytest.raises(CentralError, match="claims 50001 entries"):
        read_plain(writer.header() + writer.integer(50_001))
    with pytest.raises(CentralError, match="claims 0 entries"):
        read_plain(writer.header() + writer.integer(0))


def test_an_entry_that_depends_on_everything() -> None:
    writer = Writer()
    entry = Entry(2, "t", "TYPE", section=2, catalogue="1247", dependencies=["1"] * 2_900_000)
    assert measured(iter([writer.archive([entry])]))["diagnosis"] == "corrupt"


def test_more_columns_than_there_can_be() -> None:
    columns = ", ".join(["a"] * 4_000_000)
    entry = Entry(2, "t", copy=f"COPY public.t ({columns}) FROM stdin;\n", data=COPY_END)
    assert measured(iter([Writer().archive([entry])]))["diagnosis"] == "corrupt"


def test_a_string_or_chunk_that_claims_gigabytes() -> None:
    for writer in (Writer(), Writer(integer_size=8)):
        whole = writer.archive(central())
        for size in (2**31 - 1, 2**31, 2**32 - 1):
            claim = b"\0" + size.to_bytes(writer.integer_size, "little")
            string = writer.header() + writer.integer(1) + entry_start(writer) + claim
            assert measured(iter([string, bytes(5_000_000)]))["diagnosis"] == "corrupt"
            start = whole.index(b"\1" + writer.integer(10)) + 2 + writer.integer_size
            chunk = whole[: start - 1] + b"\1"[:0] + whole[start - 1 : start] + claim
            assert measured(iter([chunk, bytes(5_000_000)]))["diagnosis"] in ("truncated", "corrupt")


@pytest.mark.parametrize("method", METHODS)
def test_large_objects_by_the_million(method: str) -> None:
    writer = Writer((1, 16))
    compress = {"gzip": zlib.compress, "lz4": lz4.frame.compress, "zstd": zstandard.compress}[method]
    algorithm = {"gzip": 1, "lz4": 2, "zstd": 3}[method]
    entries = [*central(), Entry(99, "BLOBS", "BLOBS", None, copy=None, data=b"")]
    inner = writer.chunks(compress(b"x"))

    def archive() -> Iterator[bytes]:
        yield writer.header(algorithm=algorithm) + writer.contents(entries)
        yield from (writer.block(e.dump_id, compress(e.data)) for e in entries if e.data)
        yield b"\3" + writer.integer(99)
        for start in range(1, 100_001, 1000):
            yield b"".join(writer.integer(oid) + inner for oid in range(start, start + 1000))
        yield writer.integer(0)

    assert measured(archive())["diagnosis"] == "unencrypted"


def test_zstd_blocks_of_nothing() -> None:
    """A frame of empty blocks, and one of blocks of a single byte."""
    head = b"\x28\xb5\x2f\xfd\x00\x58"
    for block, count in ((b"\0\0\0", 3_000_000), (b"\x08\0\0x", 3_000_000)):
        frame = [head, *(block * 10_000 for _count in range(count // 10_000)), b"\x19\0\0\n\\.\x09\0\0\n"]
        found = measured(with_block("zstd", iter(frame)))
        assert found["diagnosis"] in ("unencrypted", "corrupt")


def test_a_zstd_window_of_gigabytes() -> None:
    data = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=27, compression_level=3)
    ).compress(b"x" * 1000)
    # One segment needs no window: take a frame with a window of its own.
    frame = b"\x28\xb5\x2f\xfd\x00" + bytes([17 << 3]) + b"\x01\x00\x00"
    assert measured(with_block("zstd", iter([frame])))["diagnosis"] == "unsupported_compression"
    assert diagnosis(b"".join(with_block("zstd", iter([data])))) in ("corrupt", "unsupported_compression")


def test_chunks_of_single_bytes() -> None:
    writer = Writer()
    rows = (b"x" * 50 + b"\n") * 20_000 + COPY_END
    data = writer.header(compression=0) + writer.contents([*central(), table(99, "t", "a")])
    data += b"".join(writer.block(e.dump_id, e.data) for e in central() if e.data is not None)
    data += writer.block(99, rows, size=1)
    assert measured(iter([data]))["diagnosis"] == "unencrypted"


@pytest.mark.parametrize("details", ["[" * 500_000, '{"a":' * 200_000, "1" * 900_000, '{"version": {"a": []}}', "[1]"])
def test_deep_or_odd_json_in_the_audits(details: str) -> None:
    row = f"9\tupgrade.server\t{details}"
    entries = [*central(), table(20, "audits", "id, action, details", "8\tupgrade.server\t{}", row)]
    found = read_plain(Writer().archive(entries))
    assert found["central"]["version"] is None


class Dribbling:
    """Gives one byte at a time."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, _size: int, /) -> bytes:
        """One byte."""
        return self._file.read(1)


@pytest.mark.parametrize(("major", "method"), [(15, "gzip"), (15, "none"), (17, "zstd"), (17, "lz4")])
def test_reading_byte_by_byte_changes_nothing(major: int, method: str) -> None:
    data = archives(major).read("small", method)
    found = read_plain(data, source=Dribbling(data))
    assert found["tables"] == archives(major).truth().tables
    with pytest.raises(CentralError) as caught:
        read_plain(data, source=Dribbling(data[:-1]))
    assert caught.value.diagnosis == "truncated"


def test_a_large_chunk_byte_by_byte_takes_no_square_time() -> None:
    data = Writer().archive([*central(), table(99, "t", "a", "x" * 400_000)], compression=0)
    data = data.replace(b"\0\0\x10\0\0", b"\0\0\x10\0\0")
    started = time.monotonic()
    read_plain(data, source=Dribbling(data))
    assert time.monotonic() - started < 20


class Failing:
    """Gives some bytes, then an error."""

    def __init__(self, data: bytes, error: BaseException, step: int = 1000) -> None:
        self._file = io.BytesIO(data)
        self._error = error
        self._step = step

    def read(self, size: int, /) -> bytes:
        """Bytes, or the error."""
        data = self._file.read(min(size, self._step))
        if not data:
            raise self._error
        return data


@pytest.mark.parametrize("error", [CentralError("unreadable", "x"), OSError(5, "I/O"), KeyboardInterrupt()])
def test_a_source_that_fails_midway_is_heard_and_no_thread_stays(error: BaseException) -> None:
    data = archives(15).read("nasty")
    before = threading.active_count()
    for length in (0, 3, 100, 5000, len(data) // 2, len(data)):
        with pytest.raises(type(error)):
            read_plain(b"", source=Failing(data[:length], error))
        assert threading.active_count() == before


def test_no_thread_stays_after_a_damaged_archive() -> None:
    data = archives(15).read("small")
    before = threading.active_count()
    for position in range(len(data) - 4000, len(data), 61):
        diagnosis(data[:position] + b"\xff" + data[position + 1 :])
    assert threading.active_count() == before


def test_an_interrupt_in_the_second_thread_is_heard() -> None:
    before = threading.active_count()

    def interrupt(_blob: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_plain(archives(15).read("nasty"), interrupt)
    assert threading.active_count() == before


def mutated(data: bytes) -> st.SearchStrategy[bytes]:
    """The same with pieces overwritten, taken out, doubled or put elsewhere."""
    place = st.integers(0, len(data))

    def change(base: bytes, steps: list[tuple[str, int, int, bytes]]) -> bytes:
        for kind, start, length, new in steps:
            piece = base[start : start + length]
            if kind == "write":
                base = base[:start] + new + base[start + len(new) :]
            elif kind == "insert":
                base = base[:start] + new + base[start:]
            elif kind == "remove":
                base = base[:start] + base[start + length :]
            else:
                base = base[:start] + piece * 2 + base[start + length :]
        return base

    step = st.tuples(
        st.sampled_from(["write", "insert", "remove", "double"]),
        place,
        st.integers(1, 300),
        st.binary(min_size=1, max_size=9),
    )
    return st.lists(step, min_size=1, max_size=4).map(lambda steps: change(data, steps))


KNOWN = {"ok", "corrupt", "truncated", "archive_too_new", "archive_too_old", "not_a_central_backup", "blob_mismatch"}
KNOWN |= {"unsupported_compression", "error_page", "wrong_passphrase", "dump_failed"}


@pytest.mark.parametrize(("major", "method"), [(15, "gzip"), (15, "none"), (17, "zstd"), (17, "lz4")])
def test_mutations_raise_nothing_else(major: int, method: str) -> None:
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(mutated(archives(major).read("small", method)))
    def check(data: bytes) -> None:
        assert diagnosis(data) in KNOWN

    check()


@pytest.mark.long
@pytest.mark.parametrize(("major", "method"), [(13, "gzip"), (15, "none"), (17, "zstd"), (17, "lz4"), (18, "gzip")])
def test_mutations_raise_nothing_else_in_a_long_campaign(major: int, method: str) -> None:
    @settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
    @given(mutated(archives(major).read("small", method)))
    def check(data: bytes) -> None:
        assert diagnosis(data) in KNOWN

    check()
    assert _pgdump_toc.MAXIMUM_ENTRIES == 50_000
