# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Records of a configuration: whatever another host sends, it is understood or refused, in bounded memory."""

from __future__ import annotations

import base64
import io
import random

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _config_records
from ansible_collections.odkops.central.plugins.module_utils._config_records import Record, RecordReader
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError

NAME = base64.b64encode(b"a b").decode()
GOOD = (
    f"git\noutput {NAME}\nc2FpZAow\nend\nfile fixed {NAME} 640 12 3\nYWJj\nend 0 12 3\nlarge edited {NAME} 99\n"
    f"link untracked {NAME} {NAME}\nabsent fixed {NAME}\nspecial extra {NAME}\nmore untracked 700\n"
)


def read(text: str | bytes, limit: int = 1000) -> list[Record]:
    data = text.encode() if isinstance(text, str) else text
    return list(RecordReader(io.BytesIO(data), limit))


def refused(text: str | bytes) -> bool:
    try:
        read(text)
    except CentralError as error:
        return error.diagnosis == "operation_failed"
    return False


def test_all_kinds() -> None:
    assert read(GOOD) == [
        Record("git"),
        Record("output", name=b"a b", content=b"said", status=0, size=4),
        Record("file", "fixed", b"a b", b"abc", 0, 0o640, 12, 3),
        Record("large", "edited", b"a b", None, size=99),
        Record("link", "untracked", b"a b", target=b"a b"),
        Record("absent", "fixed", b"a b"),
        Record("special", "extra", b"a b"),
        Record("more", "untracked", size=700),
    ]


def test_a_file_that_changed() -> None:
    for body in ("YWJj\nend 0 13 3", "YWJj\nend 0 12 4", "YWI=\nend 0 12 3", "YWJjZA==\nend 0 12 3"):
        (record,) = read(f"file fixed {NAME} 640 12 3\n{body}\n")
        assert record.changed, body
    (record,) = read(f"file fixed {NAME} 640 12 3\nend 1 12 3\n")
    assert record.status == 1


def test_what_is_larger_than_the_limit_is_not_kept() -> None:
    lines = base64.encodebytes(b"x" * 5000).decode()
    (record,) = read(f"file fixed {NAME} 640 12 5000\n{lines}end 0 12 5000\n", limit=4000)
    assert record.content is None
    (record,) = read(f"output {NAME}\n{lines}end\n", limit=4000)
    assert record.content is None


@pytest.mark.parametrize(
    "text",
    [
        "unknown\n",
        "git and more\n",
        "\n",
        "file fixed\n",
        f"file fixed {NAME} 9 12 3\nend 0 12 3\n",
        f"file fixed {NAME} 640 12 3\nYWJj\n",
        f"file fixed {NAME} 640 12 3\nYWJj\nend\n",
        f"file fixed {NAME} 640 12 3\n!!!!\nend 0 12 3\n",
        f"file fixed {NAME} 640 12 3\nYWJj\nend x 12 3\n",
        f"output {NAME}\nYWJj\nend\n",
        f"output {NAME}\nYWJj",
        "absent fixed !\n",
        "absent fixed é\n",
        f"more untracked {'9' * 5000}\n",
        "x" * 100_000,
        "git",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    assert refused(text)


def test_bytes_that_are_no_text() -> None:
    assert refused(b"\xff\xfe\n")
    assert refused(b"\0" * 300_000)


def test_endless_output_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless:
        def __init__(self, start: bytes, line: bytes) -> None:
            self.start, self.line = start, line

        def read(self, size: int, /) -> bytes:
            start, self.start = self.start, b""
            return start + self.line * (size // len(self.line))

    monkeypatch.setattr(_config_records, "MAXIMUM_BYTES", 20_000_000)
    for start, line in ((b"", b"git\n"), (f"output {NAME}\n".encode(), b"YWJj\n"), (b"", b"x")):
        with pytest.raises(CentralError):
            for _record in RecordReader(Endless(start, line), 1000):
                pass


def test_whatever_is_changed_is_understood_or_refused() -> None:
    chance = random.Random(4)
    for _attempt in range(3000):
        data = bytearray(GOOD.encode())
        for _change in range(chance.randint(1, 3)):
            position = chance.randrange(len(data))
            if chance.random() < 0.3:
                del data[position : position + chance.randint(1, 30)]
            else:
                data[position] = chance.randrange(256)
        try:
            read(bytes(data))
        except CentralError as error:
            assert error.diagnosis == "operation_failed"
