# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rows of ``blobs`` for a caller who is given each of them once, also where a backup has to be read once more."""

from __future__ import annotations

import hashlib
from typing import Callable, Optional

from ansible_collections.odkops.central.plugins.module_utils._errors import changed_error
from ansible_collections.odkops.central.plugins.module_utils._facts import BlobFact, Facts

OnBlob = Callable[[BlobFact], None]
OnFacts = Optional[Callable[[Facts], None]]


class Given:
    """Hands rows on, and knows which.

    :param on_blob: takes a row
    """

    def __init__(self, on_blob: OnBlob) -> None:
        self.on_blob = on_blob
        #: what `on_blob` has raised
        self.error: BaseException | None = None
        self.number = 0
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> bytes:
        """Of the rows that were handed on."""
        return self._hash.digest()

    def add(self, blob: BlobFact) -> None:
        """Count a row as handed on."""
        self.number += 1
        self._hash.update(repr(blob).encode())

    def __call__(self, blob: BlobFact) -> None:
        """Hand a row on."""
        try:
            self.on_blob(blob)
        except BaseException as error:
            self.error = error
            raise
        self.add(blob)


class Rest:
    """For the second reading of a backup: hands those rows on that the first one has not, and sees that the others are the same.

    :param first: what was handed on of the first reading
    :raises BaseException: what the caller has raised then
    """

    def __init__(self, first: Given) -> None:
        if first.error is not None:
            raise first.error
        self._first = first
        self._again = Given(first.on_blob)

    def __call__(self, blob: BlobFact) -> None:
        """Hand a row on, or compare it.

        :raises CentralError: ``unreadable``
        """
        if self._again.number < self._first.number:
            self._again.add(blob)
            if self._again.number == self._first.number:
                self._check()
        else:
            self._first.on_blob(blob)

    def _check(self) -> None:
        if self._again.digest != self._first.digest:
            raise changed_error()

    def before(self, on_facts: OnFacts) -> Callable[[Facts], None]:
        """Call `on_facts`, if all rows have been there again that were handed on."""

        def checked(facts: Facts) -> None:
            self._check()
            if on_facts is not None:
                on_facts(facts)

        return checked
