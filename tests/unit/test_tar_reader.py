# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Parts that are tar archives, read: whatever is wrong is found."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _tar_reader
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._openssl_enc import EncryptedWriter
from ansible_collections.odkops.central.plugins.module_utils._tar_part import TarPart
from ansible_collections.odkops.central.plugins.module_utils._tar_reader import TarReader, verify_tar_part

PASSPHRASE = "correct horse battery"
CONTENT = {"a": b"first", "dir/ü": b"second" * 200, "empty": b""}


def entry(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


def archive(
    *entries: tuple[tarfile.TarInfo, bytes], sums: bytes | None = None, form: int = tarfile.PAX_FORMAT
) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
        if sums is None:
            sums = b"".join(f"{hashlib.sha256(data).hexdigest()}  {info.name}\n".encode() for info, data in entries)
        if sums:
            tar.addfile(entry("SHA256SUMS", sums)[0], io.BytesIO(sums))
    return out.getvalue()


GOOD = archive(*(entry(name, data) for name, data in CONTENT.items()))


def contents(data: bytes) -> dict[str, bytes]:
    return {member.name: b"".join(iter(lambda: member.read(7), b"")) for member in TarReader(io.BytesIO(data))}  # noqa: B023


def diagnosis(data: bytes) -> str:
    with pytest.raises(CentralError) as caught:
        contents(data)
    return caught.value.diagnosis


def test_what_tarfile_writes_is_read() -> None:
    assert contents(GOOD) == CONTENT


def test_members_need_not_be_read() -> None:
    reader = TarReader(io.BytesIO(GOOD))
    assert [member.name for member in reader] == list(CONTENT)
    assert [member["size"] for member in reader.members] == [len(data) for data in CONTENT.values()]


def test_every_cut_is_noticed() -> None:
    whole = len(GOOD.rstrip(b"\0"))
    end = -(-whole // 512) * 512 + 1024
    for size in range(0, end, 61):
        assert diagnosis(GOOD[:size]) == "truncated", size
    contents(GOOD[:end])


def test_every_flipped_bit_is_noticed_or_changes_nothing() -> None:
    silent = []
    for position in range(len(GOOD)):
        data = bytearray(GOOD)
        data[position] ^= 1 << position % 8
        try:
            found = contents(bytes(data))
        except CentralError as error:
            assert error.diagnosis in ("corrupt", "truncated", "unsafe_archive")
        else:
            assert found == CONTENT
            silent.append(position % 512)
    # The checksum of a header is written in digits of which some have two forms.
    assert set(silent) <= set(range(148, 156))


def test_what_is_not_a_plain_file_is_refused() -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
        assert diagnosis(archive(entry("x", b"", kind, "/etc/passwd"))) == "unsafe_archive"


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a/./b", "a\nb", "x" * 2000, "SHA256SUMS/", "a/"])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    assert diagnosis(archive(entry(name, b"x"))) == "unsafe_archive"


def test_a_name_that_occurs_twice_is_refused() -> None:
    assert diagnosis(archive(entry("x", b"1"), entry("x", b"2"))) == "unsafe_archive"


def test_too_many_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tar_reader, "MAXIMUM_MEMBERS", 3)
    assert diagnosis(GOOD) == "unsafe_archive"


def test_other_kinds_of_tar_are_refused() -> None:
    assert diagnosis(archive(entry("x" * 200, b""), form=tarfile.GNU_FORMAT)) in ("corrupt", "unsafe_archive")


def test_sums_that_do_not_fit() -> None:
    line = f"{hashlib.sha256(b'1').hexdigest()}  x\n".encode()
    contents(archive(entry("x", b"1"), sums=line))
    for sums in (b"\n", line.replace(b"x", b"y"), line + line, line[:-1] + b" ", line.upper()):
        assert diagnosis(archive(entry("x", b"1"), sums=sums)) == "corrupt"
    assert diagnosis(archive(entry("x", b"1"), sums=b"")) == "truncated"


def test_nothing_may_follow() -> None:
    assert diagnosis(GOOD + GOOD) == "corrupt"
    assert diagnosis(GOOD + bytes(5000) + b"x" * 120) == "corrupt"
    assert diagnosis(GOOD + bytes(2 * 1024 * 1024)) == "corrupt"
    with_more = archive(*(entry(name, data) for name, data in CONTENT.items()), entry("SHA256SUMS", b""))
    assert diagnosis(with_more) == "corrupt"


@pytest.mark.parametrize(
    "records",
    [
        b"x",
        b"5 a=b",
        b"0 a=b\n",
        b"999 path=x\n",
        b"6 a=b",
        b"7 path\n",
        b"9 size=x\n",
        b"11 size=-1\n",
        b"11 path=\xff\xff\n",
        b"10 path=a\n" * 9000,
    ],
)
def test_extended_headers_that_cannot_be(records: bytes) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    data = info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512) + archive(entry("x", b"1"))
    assert diagnosis(data) in ("corrupt", "unsafe_archive")


def test_a_size_in_an_extended_header_counts() -> None:
    records = b"9 size=1\n"
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    data = info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512) + archive(entry("x", b"1"))
    assert contents(data) == {"x": b"1"}


# --- encryption -------------------------------------------------------------------------------------------------


def encrypted(data: bytes, passphrase: str) -> bytes:
    cipher = EncryptedWriter(passphrase)
    return cipher.header() + cipher.update(data)


@pytest.mark.parametrize(
    ("data", "passphrase", "expected"),
    [
        (encrypted(GOOD, PASSPHRASE), "wrong", "wrong_passphrase"),
        (encrypted(GOOD, PASSPHRASE), None, "wrong_passphrase"),
        (encrypted(GOOD, ""), PASSPHRASE, "empty_passphrase"),
        (encrypted(GOOD, PASSPHRASE)[:300], PASSPHRASE, "truncated"),
        (encrypted(GOOD, PASSPHRASE)[:9], PASSPHRASE, "truncated"),
        (b"", PASSPHRASE, "truncated"),
        (encrypted(b"no tar at all " * 100, PASSPHRASE), PASSPHRASE, "wrong_passphrase"),
        (GOOD, PASSPHRASE, "unencrypted"),
        (b"<html>" * 200, PASSPHRASE, "not_a_central_backup"),
    ],
)
def test_what_does_not_open(tmp_path: Path, data: bytes, passphrase: str | None, expected: str) -> None:
    path = tmp_path / "part"
    path.write_bytes(data)
    with pytest.raises(CentralError) as caught:
        verify_tar_part(str(path), passphrase)
    assert caught.value.diagnosis == expected


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CentralError) as caught:
        verify_tar_part(str(tmp_path / "absent"), PASSPHRASE)
    assert caught.value.diagnosis == "unreadable"


def test_an_error_of_the_user_is_not_taken_for_one_of_the_part(tmp_path: Path) -> None:
    with TarPart(str(tmp_path / "part"), PASSPHRASE) as part:
        part.add("x", b"1")
        part.commit()
    with pytest.raises(OSError, match="mine"), _tar_reader.open_tar_part(str(tmp_path / "part"), PASSPHRASE) as reader:
        for _member in reader:
            raise OSError("mine")
