# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The journal of a restore: there is one at most, it is found by every later run, and it is never half written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ansible_collections.odkops.central.plugins.module_utils import _journal_operations
from ansible_collections.odkops.central.plugins.module_utils._channel import LocalChannel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._operation import Project
from ansible_collections.odkops.central.plugins.module_utils._restore_journal import Journal, new_tag


@pytest.fixture
def channel(tmp_path: Path) -> LocalChannel:
    return LocalChannel(Project(str(tmp_path)))


def journal_file(folder: Path) -> Path:
    return folder / ".odkops-restore" / "journal.json"


def test_begin_note_and_end(channel: LocalChannel, tmp_path: Path) -> None:
    assert Journal.read(channel) is None
    assert os.listdir(tmp_path) == []
    journal = Journal.begin(channel, new_tag(), "restore", services=["nginx"])
    assert journal_file(tmp_path).stat().st_mode & 0o777 == 0o600
    assert journal_file(tmp_path).parent.stat().st_mode & 0o777 == 0o700
    journal.note("swap", previous="odk_before")
    found = Journal.read(channel)
    assert found is not None
    assert (found.tag, found.kind, found.stage, found.since) == (journal.tag, "restore", "swap", journal.since)
    assert found.facts == {"services": ["nginx"], "previous": "odk_before"}
    assert os.listdir(journal_file(tmp_path).parent) == ["journal.json"]
    found.end()
    assert os.listdir(tmp_path) == []
    found.end()


def test_the_second_one_is_refused(channel: LocalChannel, tmp_path: Path) -> None:
    first = Journal.begin(channel, new_tag(), "restore")
    before = journal_file(tmp_path).read_bytes()
    with pytest.raises(CentralError) as caught:
        Journal.begin(channel, new_tag(), "enketo")
    assert caught.value.diagnosis == "restore_unfinished"
    assert caught.value.details["journal"]["tag"] == first.tag
    assert journal_file(tmp_path).read_bytes() == before
    assert os.listdir(journal_file(tmp_path).parent) == ["journal.json"]


def test_a_run_that_lost_its_journal_notes_nothing(channel: LocalChannel, tmp_path: Path) -> None:
    first = Journal.begin(channel, new_tag(), "restore")
    first.end()
    second = Journal.begin(channel, new_tag(), "restore")
    before = journal_file(tmp_path).read_bytes()
    for act in (lambda: first.note("swap"), first.end):
        try:
            act()
        except CentralError as error:
            assert error.diagnosis == "restore_unfinished"  # ending it is no error
    assert journal_file(tmp_path).read_bytes() == before
    second.end()
    with pytest.raises(CentralError) as caught:
        second.note("swap")
    assert "vanished" in caught.value.message


def test_what_does_not_come_whole_is_not_stored(channel: LocalChannel, tmp_path: Path) -> None:
    journal = Journal.begin(channel, new_tag(), "restore")
    before = journal_file(tmp_path).read_bytes()
    with pytest.raises(CentralError):
        channel.run(_journal_operations.NOTE, "100", journal.tag, stdin=b'{"tag": "')
    assert journal_file(tmp_path).read_bytes() == before
    assert os.listdir(journal_file(tmp_path).parent) == ["journal.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", json.dumps({"format": 2, "tag": "0123456789ab", "facts": {}}).encode()],
)
def test_a_journal_that_cannot_be_understood(channel: LocalChannel, tmp_path: Path, content: bytes) -> None:
    journal_file(tmp_path).parent.mkdir()
    journal_file(tmp_path).write_bytes(content)
    with pytest.raises(CentralError) as caught:
        Journal.read(channel)
    assert caught.value.diagnosis == "bad_journal"


def test_a_symbolic_link_in_its_place_is_refused(channel: LocalChannel, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".odkops-restore").symlink_to("elsewhere")
    for act in (lambda: Journal.read(channel), lambda: Journal.begin(channel, new_tag(), "restore")):
        with pytest.raises(CentralError) as caught:
            act()
        assert "symbolic link" in caught.value.message
    assert os.listdir(tmp_path / "elsewhere") == []
