# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Legacy zips that are spoilt in one way, and what the reader says of them."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import threading
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._verify import Expectation, verify_stream
from cryptography.hazmat.primitives import serialization

from .directory_dumps import directory_dumps
from .legacy_zip_writer import PASSPHRASE, LegacyBackup, Record, base64_of, encrypt, make

BIG = 0xFFFFFFFF

Change = Callable[[LegacyBackup], object]

_derive = functools.cache(hashlib.pbkdf2_hmac)
_load = functools.cache(serialization.load_pem_private_key)


def quicken_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive and check each key once: for each of thousands of files it would take minutes."""
    monkeypatch.setattr(hashlib, "pbkdf2_hmac", _derive)
    monkeypatch.setattr(serialization, "load_pem_private_key", _load)


def failure(data: bytes, passphrase: str | None = PASSPHRASE, file: Any = None) -> CentralError:
    """What the verification of a zip raises. It leaves no thread, and what it says has no secret in it."""
    threads = threading.active_count()
    with pytest.raises(CentralError) as caught:
        verify_stream(io.BytesIO(data), Expectation(passphrase), stored=file or io.BytesIO(data))
    assert threading.active_count() == threads
    said = caught.value.message + json.dumps(caught.value.details)
    assert "PRIVATE" not in said
    assert not passphrase or passphrase not in said
    return caught.value


def spoilt(change: Change, **options: Any) -> str:
    """The diagnosis of a backup that `change` has spoilt."""
    return failure(make(directory_dumps().read(), change, **options)).diagnosis


def data_file() -> str:
    """The name of a file of data in the small dump."""
    return next(name for name in directory_dumps().read() if name.endswith(".dat.gz"))


def add(name: str, iv: bool = True, member: bool = True) -> Change:
    """Adds a file, encrypted with the right key."""

    def change(backup: LegacyBackup) -> None:
        if iv:
            backup.keys["local"]["ivs"][name] = base64_of(bytes(16))
        if member:
            backup.records.append(Record(name.encode("utf-8", "surrogateescape"), encrypt(b"x", backup.key, bytes(16))))

    return change


def member(**changes: Any) -> Change:
    """Changes the record of a file of data."""
    return lambda backup: backup.change(data_file(), **changes)


def local(
    backup: LegacyBackup, flags: int, extra: bytes = b"", size: int | None = None, stored: int | None = None,
    crc: int | None = None,
) -> None:  # fmt: skip
    """Makes the local header of a member say something else."""
    record = backup.record(data_file())
    head = (zlib.crc32(record.data), len(record.compressed()), len(record.data))
    found = tuple(old if new is None else new for old, new in zip(head, (crc, stored, size), strict=True))
    backup.change(data_file(), flags=flags, extra=extra, head=found, central_extra=b"")


def unfinished(backup: LegacyBackup) -> bytes:
    """All of the content, but a stream that does not say that it has ended."""
    engine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return engine.compress(backup.record(data_file()).data) + engine.flush(zlib.Z_SYNC_FLUSH)
