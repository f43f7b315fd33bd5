# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Each row is handed on once, in however many readings; and the second one has to have the same rows."""

from __future__ import annotations

import pytest
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._facts import BlobFact, Facts
from ansible_collections.odkops.central.plugins.module_utils._given_blobs import Given, Rest


def rows(*sizes: int) -> list[BlobFact]:
    return [BlobFact(number, "a" * 40, None, size, "pending", False) for number, size in enumerate(sizes)]


@pytest.mark.parametrize("first", range(5))
def test_each_row_is_handed_on_once(first: int) -> None:
    seen: list[BlobFact] = []
    all_rows = rows(1, 2, 3, 4)
    given = Given(seen.append)
    for row in all_rows[:first]:
        given(row)
    rest = Rest(given)
    called: list[Facts] = []
    for row in all_rows:
        rest(row)
    rest.before(called.append)(Facts())
    rest.before(None)(Facts())
    assert seen == all_rows
    assert len(called) == 1


@pytest.mark.parametrize("again", [(1, 2), (1, 2, 4), (1, 3, 3), (9, 2, 3, 4), ()])
def test_other_rows_than_were_handed_on_are_refused(again: tuple[int, ...]) -> None:
    given = Given(lambda _row: None)
    for row in rows(1, 2, 3):
        given(row)
    rest = Rest(given)
    called: list[Facts] = []
    with pytest.raises(CentralError) as caught:
        for row in rows(*again):
            rest(row)
        rest.before(called.append)(Facts())
    assert caught.value.diagnosis == "unreadable"
    assert not called


def test_what_the_caller_has_raised_is_raised_again() -> None:
    def refuse(_row: BlobFact) -> None:
        raise KeyboardInterrupt

    given = Given(refuse)
    with pytest.raises(KeyboardInterrupt):
        given(rows(1)[0])
    with pytest.raises(KeyboardInterrupt):
        Rest(given)
