# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Single bits flipped in archives of real pg_dump, beside what ``openssl | pg_restore --file /dev/null`` finds.

The cipher is a stream cipher: a bit of the file is the same bit of the archive. So where only the share
found is measured, the archive itself is damaged, and pg_restore gets what openssl would have given it.
"""

from __future__ import annotations

import functools
import hashlib
import io
import random

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _openssl_enc
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, verify_stream

from support.archives import PASSPHRASE, archives, openssl
from support.verifying import Share, compare, diagnosis, flipped, flips, toc_end

KINDS = [(15, "none"), (15, "gzip"), (17, "gzip"), (17, "none"), (17, "lz4"), (17, "zstd")]
HEADER = 60


@pytest.fixture
def _quick_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is derived once for each passphrase and salt, not for each flip."""
    monkeypatch.setattr(_openssl_enc, "derive", functools.lru_cache(_openssl_enc.derive))


def found_in_file(data: bytes, expected_sha256: str | None) -> str:
    try:
        verify_stream(io.BytesIO(data), Expectation(PASSPHRASE, sha256=expected_sha256))
    except CentralError as error:
        return error.diagnosis
    return "ok"


def campaign(data: bytes, rng: random.Random, stride: int, count: int) -> None:
    """With the digest that the manifest has, nothing passes."""
    file = openssl(data)
    digest = hashlib.sha256(file).hexdigest()
    assert found_in_file(file, digest) == "ok"
    assert found_in_file(file, digest.upper()) == "ok"
    start = 16 + toc_end(data)
    for position, bit in [*flips(rng, 0, 16 + HEADER), *list(flips(rng, 16 + HEADER, start))[::stride]]:
        assert found_in_file(flipped(file, position, bit), digest) != "ok", (position, bit)
    for position, bit in flips(rng, start, len(file), count):
        assert found_in_file(flipped(file, position, bit), digest) != "ok", (position, bit)


@pytest.mark.usefixtures("_quick_key")
def test_with_the_digest_of_the_manifest_every_flip_is_found() -> None:
    for major, method in ((15, "gzip"), (17, "zstd")):
        campaign(archives(major).read("small", method), random.Random(f"digest {major}"), 9, 150)


@pytest.mark.long
@pytest.mark.usefixtures("_quick_key")
@pytest.mark.parametrize(("major", "method"), KINDS)
def test_with_the_digest_of_the_manifest_every_flip_is_found_in_a_long_campaign(major: int, method: str) -> None:
    campaign(archives(major).read("small", method), random.Random(f"digest {major} {method}"), 1, 4000)
    campaign(archives(major).read("nasty", "gzip"), random.Random(f"digest {major}"), 10, 500)


def shares(major: int, method: str, toc: int | None, data: int | None, database: str = "small") -> list[Share]:
    """Flips in header, table of contents and data, given to both readers."""
    made = archives(major)
    archive = made.read(database, method)
    assert diagnosis(archive) == "ok"
    end = toc_end(archive)
    rng = random.Random(f"share {major} {method} {database}")
    regions = [("header", 0, HEADER, None), ("table of contents", HEADER, end, toc), ("data", end, len(archive), data)]
    found = []
    for name, start, stop, count in regions:
        bits = flips(rng, start, stop, count)
        region = f"PostgreSQL {major}, {method}, {name}"
        found.append(compare(archive, region, bits, made.postgresql))
    return found


def judge(found: list[Share]) -> None:
    print(*found, sep="\n")
    for share in found:
        assert share.ours >= share.theirs, str(share)
        assert not share.missed, f"{share.region}: pg_restore found these and we did not: {share.missed}"


@pytest.mark.parametrize(("major", "method"), KINDS)
def test_without_a_digest_we_find_no_less_than_pg_restore(
    major: int, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = shares(major, method, 40, 40)
    with capsys.disabled():
        print()
        judge(found)


@pytest.mark.long
@pytest.mark.parametrize(("major", "method"), [*KINDS, (13, "gzip"), (18, "zstd"), (15, "gzip-seekable")])
def test_without_a_digest_we_find_no_less_than_pg_restore_in_a_long_campaign(
    major: int, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [*shares(major, method, None, None), *shares(major, method, 500, 500, "nasty")]
    with capsys.disabled():
        print()
        judge(found)


def test_every_byte_of_header_and_toc() -> None:
    """One bit of each; most are found without a digest, whatever an archive without checksums can give."""
    data = archives(15).read()
    rng = random.Random("every byte")
    end = toc_end(data)
    results = [diagnosis(flipped(data, position, bit)) for position, bit in flips(rng, 0, end)]
    share = sum(result != "ok" for result in results) / end
    assert share > 0.85
    allowed = {"corrupt", "truncated", "archive_too_new", "archive_too_old", "not_a_central_backup", "ok"}
    assert set(results) <= {*allowed, "unsupported_compression"}
    # The header of gzip archives has little that is not looked at: names and minutes.
    assert sum(result != "ok" for result in results[:HEADER]) > HEADER / 2


def test_data_of_blobs_is_held_against_its_digest() -> None:
    """Uncompressed, a bit in a digit of a blob is still seen: by SHA-1 or because it is no digit."""
    data = archives(15).read("small", "none")
    start = data.index(b"\\\\x", toc_end(data)) + 3
    for position in range(start, start + 96):
        for bit in range(8):
            bad = flipped(data, position, bit)
            same = bad[position : position + 1].lower() == data[position : position + 1]  # a digit in capitals
            assert same or diagnosis(bad) in ("corrupt", "blob_mismatch")


def test_what_only_newer_versions_of_pg_restore_find() -> None:
    """The campaigns with PostgreSQL 17 have found these: a function is removed by no SQL, an entry depends on the number zero."""
    data = archives(17).read()
    removing = b"DROP FUNCTION public.check_email("
    start = data.index(removing)
    for position in range(start, start + len(removing)):
        for bit in range(8):
            assert diagnosis(flipped(data, position, bit)) == "corrupt", (position - start, bit)
    depends = data.index(b"\5\0\0\0false\0\1\0\0\0002") + 14
    zero = flipped(data, depends, 1)
    assert zero[depends : depends + 1] == b"0"
    assert diagnosis(zero) == "corrupt"
    assert not archives(17).postgresql.restores(zero)
