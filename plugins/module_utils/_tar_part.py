# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of a set that are tar archives, written: encrypted before anything reaches the disk.

`openssl enc -d -chacha20 -pbkdf2 | tar -x` opens them, and `sha256sum --check SHA256SUMS` checks what came out.
_tar_reader.py reads them, and says what they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
import tempfile
import time
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import IO, Any

from ansible_collections.odkops.central.plugins.module_utils._atomic import AtomicFile
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError, reading_error, writing_error
from ansible_collections.odkops.central.plugins.module_utils._openssl_enc import ChaCha20Stream, EncryptedWriter
from ansible_collections.odkops.central.plugins.module_utils._streams import CHUNK, Digesting, Readable
from ansible_collections.odkops.central.plugins.module_utils._tar_reader import (
    BLOCK,
    FORMAT,
    MAXIMUM_MEMBERS,
    RECORD,
    SUMS,
    TarReader,
    name_problem,
    open_tar_part,
    read_back,
    sum_line,
    verify_tar_part,
)

__all__ = ["FORMAT", "Member", "TarPart", "TarReader", "open_tar_part", "verify_tar_part"]

#: What is smaller than this and of unknown size is kept in memory, in bytes.
_IN_MEMORY = 1024 * 1024


@dataclass(frozen=True)
class Member:
    """A member that was written: size in bytes, SHA-256 in hexadecimal digits."""

    name: str
    size: int
    sha256: str


class TarPart:
    """Writes a part. Use it as a context manager; leaving it without :meth:`commit` leaves nothing.

    :param final: path of the part, which must not exist; its directory must
    :param passphrase: None encrypts with the empty one, as Central does, so that the same command opens the part
    :raises CentralError: ``destination_exists``, ``destination_not_writable``, ``disk_full``, ``missing_required_lib``
    """

    def __init__(self, final: str, passphrase: str | None) -> None:
        self._passphrase = passphrase
        self._cipher = EncryptedWriter(passphrase or "")
        self._hash = hashlib.sha256()
        self._size = 0
        self._now = int(time.time())
        self._members: dict[str, Member] = {}
        self._file = AtomicFile(final)
        try:
            self._store(self._cipher.header())
        except BaseException:
            self._file.close()
            raise

    def _store(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._size += len(data)

    def _write(self, data: bytes) -> None:
        if data:
            self._store(self._cipher.update(data))

    # --- members ------------------------------------------------------------------------------------------------

    def add(
        self,
        name: str,
        content: bytes | Readable,
        size: int | None = None,
        mode: int = 0o600,
        mtime: int | None = None,
    ) -> Member:
        """Append a member.

        :param name: relative, with slashes, unique
        :param content: bytes, or a stream
        :param size: of the stream, in bytes, where it is known; it must have exactly so many. Else the stream is first
            written to a nameless file beside the part, encrypted with a key that is nowhere kept
        :param mode: permissions, for whoever unpacks the part
        :param mtime: time of the last change, in seconds since the epoch; now, unless given
        :raises CentralError: ``bad_name``, ``operation_failed`` where the stream has another size, ``disk_full``, and
            what the stream raises
        """
        problem = "it is there already" if name in self._members or name == SUMS else name_problem(name)
        if len(self._members) >= MAXIMUM_MEMBERS:
            problem = f"there are {MAXIMUM_MEMBERS} already"
        if problem is not None:
            raise CentralError("bad_name", f"{name!r} cannot become a member of {self._file.final}: {problem}.")
        if isinstance(content, (bytes, bytearray)):
            member = self._append(name, io.BytesIO(content), len(content), mode, mtime)
        elif size is not None:
            member = self._append(name, content, size, mode, mtime)
        else:
            with _Spool(os.path.dirname(self._file.final)) as spool:
                put_aside = spool.of(content)
                member = self._append(name, put_aside, spool.size, mode, mtime)
                if member.sha256 != spool.sha256:
                    raise CentralError(
                        "corrupt",
                        f"{self._file.final}: what was put aside on the disk came back changed. Check the disk.",
                    )
        self._members[name] = member
        return member

    def _append(self, name: str, source: Readable, size: int, mode: int, mtime: int | None) -> Member:
        info = tarfile.TarInfo(name)
        info.size = size
        info.mode = mode & 0o7777
        info.mtime = self._now if mtime is None else mtime
        self._write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))
        counted = Digesting(source, self._write)
        while counted.size < size:
            if not counted.read(min(CHUNK, size - counted.size)):
                break
        if counted.size != size or source.read(1):
            raise CentralError(
                "operation_failed",
                f"{name} does not have the {size} bytes that it was said to have: it changed while it was read. "
                "Try again.",
            )
        self._write(bytes(-size % BLOCK))
        return Member(name, size, counted.sha256)

    # --- end ----------------------------------------------------------------------------------------------------

    def commit(self) -> dict[str, Any]:
        """Finish the part, read it back, and give it its name.

        :returns: ``path``, ``format``, ``encrypted``, ``size``, ``sha256`` (of the file) and ``members``
        :raises CentralError: ``corrupt`` where the disk gives back something else; ``disk_full``,
            ``destination_exists``, ``destination_not_writable``
        """
        sums = "".join(sum_line(member.name, member.sha256) for member in self._members.values()).encode()
        self._append(SUMS, io.BytesIO(sums), len(sums), 0o600, None)
        plain = self._size - len(self._cipher.header())
        self._write(bytes(2 * BLOCK + -(plain + 2 * BLOCK) % RECORD))
        members = [asdict(entry) for entry in self._members.values()]
        made = {"format": FORMAT, "encrypted": bool(self._passphrase), "size": self._size}
        made.update(sha256=self._hash.hexdigest(), members=members)
        if self._read_back() != made:
            raise CentralError(
                "corrupt",
                f"{self._file.final} was read back from the disk as something else than was written. Check the disk.",
            )
        self._file.commit()
        return {"path": self._file.final, **made}

    def _read_back(self) -> dict[str, Any]:
        try:
            os.fsync(self._file.file.fileno())
        except OSError as error:
            raise writing_error(error, self._file.final) from error
        try:
            # What is still in memory is not what is on the disk.
            os.posix_fadvise(self._file.file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self._file.file.seek(0)
            return dict(read_back(self._file.file, self._passphrase, self._file.final))
        except OSError as error:
            raise reading_error(error, self._file.final) from error

    def close(self) -> None:
        """Close the file; what was not committed is gone."""
        self._file.close()

    def __enter__(self) -> TarPart:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Spool:
    """Where a stream of unknown size waits: memory, then a nameless file, encrypted with a key of its own."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._key, self._iv = os.urandom(32), bytes(4) + os.urandom(12)
        self._file: IO[bytes] | None = None
        self._memory = io.BytesIO()
        self.size = 0
        self.sha256 = ""

    def of(self, source: Readable) -> Readable:
        """Take all of `source`, and return it as a stream whose size is :attr:`size`.

        :raises CentralError: ``disk_full``, ``destination_not_writable``
        """
        cipher: ChaCha20Stream | None = None
        counted = Digesting(source)
        try:
            while data := counted.read(CHUNK):
                if cipher is None and counted.size > _IN_MEMORY:
                    cipher = ChaCha20Stream(self._key, self._iv)
                    # O_TMPFILE and 0600 where that can be had, else a file whose name is gone at once.
                    self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)
                    _write_all(self._file, cipher.update(self._memory.getvalue()))
                    self._memory = io.BytesIO()
                if cipher is None or self._file is None:
                    self._memory.write(data)
                else:
                    _write_all(self._file, cipher.update(data))
            if self._file is not None:
                self._file.seek(0)
        except OSError as error:
            raise writing_error(error, self._directory) from error
        self.size, self.sha256 = counted.size, counted.sha256
        self._memory.seek(0)
        return self._memory if self._file is None else _Deciphered(self._file, ChaCha20Stream(self._key, self._iv))

    def __enter__(self) -> _Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()


class _Deciphered:
    def __init__(self, file: IO[bytes], cipher: ChaCha20Stream) -> None:
        self._file = file
        self._cipher = cipher

    def read(self, size: int, /) -> bytes:
        try:
            return self._cipher.update(self._file.read(size))
        except OSError as error:
            raise reading_error(error, "the file in which a stream was put aside") from error


def _write_all(file: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]
