# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal of a restore: what was begun at a Central, so that any later run can finish it or undo it.

There is one at most for a Central, whatever is restored. What it announces is begun only when it is on the disk of the
Central's host. _journal_operations.py says where it is kept.
"""

from __future__ import annotations

import json
import re
import secrets
from datetime import datetime, timezone
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils import _journal_operations as operations
from ansible_collections.odkops.central.plugins.module_utils._channel import Channel
from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError

#: the format that is written; a journal of a later one is left to the version of the collection that wrote it
FORMAT = 1

#: From this stage on a restore is finished, not undone.
COMMITTED = "committed"

_TAG = re.compile(r"[0-9a-f]{8,32}")


def new_tag() -> str:
    """A name for all that one run leaves at a Central: twelve hexadecimal digits."""
    return secrets.token_hex(6)


class Journal:
    """The journal of one run.

    :param channel: to the Central
    :param tag: names all that the run leaves there
    :param kind: what is restored: ``restore`` (the whole), ``enketo``, ``config``
    :param stage: how far it has come; the first is ``begun``
    :param since: when it was begun, UTC, ISO 8601
    :param facts: what undoing it needs: JSON types, never a secret
    """

    def __init__(self, channel: Channel, tag: str, kind: str, stage: str, since: str, facts: dict[str, Any]) -> None:
        self._channel = channel
        self.tag = tag
        self.kind = kind
        self.stage = stage
        self.since = since
        self.facts = facts

    @classmethod
    def read(cls, channel: Channel) -> Journal | None:
        """The journal that a run has left, or None.

        :raises CentralError: ``bad_journal``, and as :meth:`Channel.run`
        """
        data = channel.run(operations.READ, limit=operations.LIMIT + 1024)
        first, _newline, text = data.partition(b"\n")
        if first.decode("ascii", "replace") == operations.NONE:
            return None
        try:
            found: dict[str, Any] = json.loads(text)
            if found["format"] != FORMAT or not _TAG.fullmatch(found["tag"]) or not isinstance(found["facts"], dict):
                raise ValueError("not a format of this version")
            return cls(
                channel, found["tag"], str(found["kind"]), str(found["stage"]), str(found["since"]), found["facts"]
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CentralError(
                "bad_journal",
                "The journal of a restore at the Central, .odkops-restore/journal.json in its project's directory, cannot be "
                "understood by this version of the collection. Use the version that began the restore.",
            ) from error

    @classmethod
    def begin(cls, channel: Channel, tag: str, kind: str, **facts: Any) -> Journal:
        """Begin the journal of a run; it is on the disk when this returns.

        :raises CentralError: ``restore_unfinished`` where there is one, and as :meth:`Channel.run`
        """
        since = f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
        journal = cls(channel, tag, kind, "begun", since, dict(facts))
        if journal._send(operations.BEGIN) != operations.BEGUN:
            raise unfinished(cls.read(channel))
        return journal

    def note(self, stage: str | None = None, **facts: Any) -> None:
        """Note what is begun next; it is on the disk when this returns.

        :raises CentralError: ``restore_unfinished`` where the journal has become another run's, and as :meth:`Channel.run`
        """
        if stage is not None:
            self.stage = stage
        self.facts.update(facts)
        if self._send(operations.NOTE) != operations.NOTED:
            raise unfinished(Journal.read(self._channel))

    def end(self) -> None:
        """Remove the journal: there is nothing to be finished any more. That there is none is no error.

        :raises CentralError: as :meth:`Channel.run`
        """
        self._channel.run(operations.END, "0", self.tag)

    def _send(self, operation: str) -> str:
        whole = {
            "format": FORMAT,
            "tag": self.tag,
            "kind": self.kind,
            "stage": self.stage,
            "since": self.since,
            "facts": self.facts,
        }
        data = (json.dumps(whole, sort_keys=True) + "\n").encode()
        return self._channel.run(operation, str(len(data)), self.tag, stdin=data).decode("ascii", "replace").strip()


def unfinished(journal: Journal | None) -> CentralError:
    """The error ``restore_unfinished`` about the journal of another run."""
    if journal is None:
        return CentralError(
            "restore_unfinished", "The journal of the restore has vanished from the Central. Look who is at work there."
        )
    return CentralError(
        "restore_unfinished",
        f"A restore of {journal.since} at this Central was not finished (stage {journal.stage}). Finish it first: "
        "restore.yml -e central_restore_action=rollback, or central_restore with action=rollback.",
        journal={"tag": journal.tag, "kind": journal.kind, "stage": journal.stage, "since": journal.since},
    )
