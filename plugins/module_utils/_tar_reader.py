# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of a set that are tar archives, read: strictly, since an archive may come from anywhere.

The archive is POSIX pax (IEEE Std 1003.1, pax utility, "pax Interchange Format"), of plain files only. Its last member
is ``SHA256SUMS``, in the form of sha256sum(1), with a line for each other member in their order. Python's tarfile
takes a damaged header in the middle for the end of the archive; here that is an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, reading_error
from ansible_collections.odkops.central.plugins.module_utils._openssl_enc import (
    EncryptedReader,
    decrypt_prefix,
    read_salt,
)
from ansible_collections.odkops.central.plugins.module_utils._streams import (
    CHUNK,
    Digesting,
    Prefixed,
    Readable,
    read_exactly,
)

FORMAT = "tar.enc"
#: the last member
SUMS = "SHA256SUMS"

BLOCK = 512
#: tar(1) writes records of twenty blocks
RECORD = 20 * BLOCK
MAXIMUM_NAME = 1024
MAXIMUM_MEMBERS = 100_000
_MAXIMUM_EXTENDED = 64 * 1024
#: What follows the two blocks of zeros fills the last record.
_MAXIMUM_PADDING = 1024 * 1024
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def name_problem(name: str) -> str | None:
    """Say why `name` cannot be the name of a member, or None."""
    try:
        length = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "it is not UTF-8"
    if not 0 < length <= MAXIMUM_NAME:
        return f"it does not have 1 to {MAXIMUM_NAME} bytes"
    if _CONTROL.search(name):
        return "it has control characters"
    if any(piece in ("", ".", "..") for piece in name.split("/")):
        return "it is not a plain relative path"
    return None


def sum_line(name: str, sha256: str) -> str:
    """Return the line that sha256sum(1) prints for a file."""
    if "\\" in name:
        return f"\\{sha256}  " + name.replace("\\", "\\\\") + "\n"
    return f"{sha256}  {name}\n"


@dataclass
class TarMember:
    """A member, while the archive is being read. Read it before the next one is asked for.

    :param size: in bytes
    :param mode: permissions
    :param mtime: time of the last change, in seconds since the epoch
    """

    name: str
    size: int
    mode: int
    mtime: int
    _source: Readable = field(repr=False)

    def __post_init__(self) -> None:
        self._left = self.size
        self._hash = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        """As :meth:`Readable.read`."""
        data = self._source.read(min(size, self._left)) if self._left else b""
        if not data and self._left:
            raise _truncated(f"in its member {self.name}")
        self._left -= len(data)
        self._hash.update(data)
        return data

    def drain(self) -> None:
        """Read what is left."""
        while self.read(CHUNK):
            pass

    @property
    def sha256(self) -> str:
        """SHA-256 of what was read so far, in hexadecimal digits."""
        return self._hash.hexdigest()


def _truncated(where: str) -> CentralError:
    return CentralError("truncated", f"The part is cut short {where}. Use another set.")


def _corrupt(why: str) -> CentralError:
    return CentralError("corrupt", f"The part is damaged: {why}. Use another set.")


def _unsafe(why: str) -> CentralError:
    return CentralError(
        "unsafe_archive", f"The part is no archive that this collection makes: {why}. Do not unpack it."
    )


class TarReader:
    """Reads an archive, member by member: iterate over it once, to the end.

    What is wrong may be found at the end only, so nothing of it is to be used before that.

    :param source: the archive, decrypted
    :raises CentralError: ``truncated``, ``corrupt``, ``unsafe_archive``
    """

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._sums: list[str] = []
        self._names: set[str] = set()
        #: name, size and sha256 of each member, once the archive has been read
        self.members: list[dict[str, object]] = []

    def __iter__(self) -> Iterator[TarMember]:
        while True:
            member = self._next()
            if member.name == SUMS:
                break
            yield member
            member.drain()
            self._skip_padding(member.size)
            self._sums.append(sum_line(member.name, member.sha256))
            self.members.append({"name": member.name, "size": member.size, "sha256": member.sha256})
        expected = "".join(self._sums).encode()
        if member.size != len(expected):
            raise _corrupt(f"{SUMS} is not about the members that there are")
        if read_exactly(member, member.size) != expected:
            raise _corrupt(f"a member does not have the SHA-256 that {SUMS} says")
        self._skip_padding(member.size)
        self._check_end()

    def drain(self) -> None:
        """Read all that is left, and so check it."""
        for member in self:
            member.drain()

    def _block(self) -> bytes:
        block = read_exactly(self._source, BLOCK)
        if len(block) < BLOCK:
            raise _truncated(f"after {len(self.members)} members")
        return block

    def _next(self) -> TarMember:
        header = self._header()
        extended: dict[str, str] = {}
        if header.type == tarfile.XHDTYPE:
            extended = self._extended(header)
            header = self._header()
        if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise _unsafe("it holds something that is not a plain file")
        name = extended.get("path", header.name)
        size = _number(extended.get("size", str(header.size)))
        problem = name_problem(name)
        if problem is not None:
            raise _unsafe(f"the name of a member is not acceptable ({problem})")
        if name in self._names or len(self._names) >= MAXIMUM_MEMBERS:
            raise _unsafe("a name occurs twice, or there are too many members")
        self._names.add(name)
        return TarMember(name, size, header.mode & 0o7777, int(header.mtime), self._source)

    def _header(self) -> tarfile.TarInfo:
        block = self._block()
        if not block.strip(b"\0"):
            raise _truncated(f"it ends before {SUMS}")
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise _corrupt(f"a header of the archive cannot be read ({error})") from error
        if block[257:263] != b"ustar\0" or header.size < 0:
            raise _corrupt("a header of the archive is not of the right kind")
        return header

    def _extended(self, header: tarfile.TarInfo) -> dict[str, str]:
        """Read the records of an extended header: ``LENGTH KEY=VALUE`` and a line feed each."""
        if header.size > _MAXIMUM_EXTENDED:
            raise _unsafe("an extended header is too large")
        data = read_exactly(self._source, header.size)
        self._skip_padding(header.size)
        records: dict[str, str] = {}
        while data:
            digits = data.split(b" ", 1)[0]
            length = int(digits) if re.fullmatch(rb"[1-9][0-9]{0,5}", digits) else 0
            record = data[len(digits) + 1 : length]
            key, found, value = record[:-1].partition(b"=")
            if length > len(data) or not record.endswith(b"\n") or not found:
                raise _corrupt("an extended header cannot be read")
            try:
                records[key.decode("utf-8")] = value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _corrupt("an extended header is not UTF-8") from error
            data = data[length:]
        return records

    def _skip_padding(self, size: int) -> None:
        padding = -size % BLOCK
        found = read_exactly(self._source, padding)
        if len(found) < padding:
            raise _truncated(f"after {len(self.members)} members")
        if found.strip(b"\0"):
            raise _corrupt("what fills a block is not empty")

    def _check_end(self) -> None:
        """Two blocks of zeros, and zeros to the end of the record."""
        size = 0
        while data := self._source.read(CHUNK):
            size += len(data)
            if data.strip(b"\0") or size > _MAXIMUM_PADDING:
                raise _corrupt("something follows the end of the archive")
        if size < 2 * BLOCK or size % BLOCK:
            raise _truncated("in its last blocks")


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise _corrupt("the size of a member is not a number")
    return int(text)


def is_tar(block: bytes) -> bool:
    """Say whether a file that begins with `block` can be a tar archive."""
    return block[257:262] == b"ustar"


def decrypted(source: Readable, passphrase: str | None) -> Readable:
    """Return the archive in an encrypted part.

    :raises CentralError: ``not_a_central_backup``, ``truncated``, ``wrong_passphrase``, ``empty_passphrase``,
        ``unencrypted``
    """
    start = read_exactly(source, BLOCK)
    if is_tar(start):
        raise CentralError("unencrypted", "The part is a tar archive that is not encrypted. It was not made so.")
    everything = Prefixed(start, source)
    salt = read_salt(everything)
    block = read_exactly(everything, BLOCK)
    if len(block) < BLOCK:
        raise _truncated("in its first block")
    if not is_tar(decrypt_prefix(salt, block, passphrase or "")):
        if passphrase and is_tar(decrypt_prefix(salt, block, "")):
            raise CentralError(
                "empty_passphrase",
                "The part is encrypted with the empty passphrase, though one was given: anybody can open it. "
                "Give none if it was made without one.",
            )
        if not passphrase:
            raise CentralError("wrong_passphrase", "The part is encrypted, and no passphrase was given. Give it.")
        raise CentralError(
            "wrong_passphrase",
            "The passphrase does not open the part (or its first bytes are damaged). Give the one it was made with.",
        )
    return EncryptedReader(Prefixed(block, everything), salt, passphrase or "")


class PartFile:
    """The file of a part, opened for reading; a context manager.

    :raises CentralError: ``unreadable``
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._file = open(path, "rb", buffering=0)
        except OSError as error:
            raise reading_error(error, path) from error

    def read(self, size: int, /) -> bytes:
        """As :meth:`Readable.read`."""
        try:
            return self._file.read(size)
        except OSError as error:
            raise reading_error(error, self._path) from error

    def __enter__(self) -> PartFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


@contextlib.contextmanager
def open_tar_part(path: str, passphrase: str | None) -> Iterator[TarReader]:
    """Open the part in the file `path`.

    :raises CentralError: ``unreadable``, and as :func:`decrypted` and :class:`TarReader`
    """
    with PartFile(path) as file:
        yield TarReader(decrypted(file, passphrase))


def verify_tar_part(path: str, passphrase: str | None, expected_sha256: str | None = None) -> dict[str, object]:
    """Read the whole part in the file `path`, and check all that can be checked.

    :param expected_sha256: of the file, in hexadecimal digits
    :returns: ``format``, ``encrypted``, ``size``, ``sha256``, ``members`` (name, size, sha256 of each)
    :raises CentralError: as :func:`open_tar_part`; ``tampered``
    """
    with PartFile(path) as file:
        return read_back(file, passphrase, path, expected_sha256)


def read_back(
    file: Readable, passphrase: str | None, path: str, expected_sha256: str | None = None
) -> dict[str, object]:
    """As :func:`verify_tar_part`, of an open file."""
    counted = Digesting(file)
    try:
        reader = TarReader(decrypted(counted, passphrase))
        reader.drain()
    except CentralError as error:
        if expected_sha256 is not None and error.diagnosis in ("corrupt", "unsafe_archive", "wrong_passphrase"):
            counted.drain()
            if counted.sha256 != expected_sha256:
                raise _changed(path) from error
        raise
    if expected_sha256 is not None and counted.sha256 != expected_sha256:
        raise _changed(path)
    return {
        "format": FORMAT,
        "encrypted": bool(passphrase),
        "size": counted.size,
        "sha256": counted.sha256,
        "members": reader.members,
    }


def _changed(path: str) -> CentralError:
    return CentralError("tampered", f"{path} does not have the SHA-256 that it was made with. Use another set.")
