# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the SQL in a table of contents can be what pg_dump wrote.

No parser: what PostgreSQL prints of tables, indexes, constraints, sequences and defaults has keywords
in capitals, identifiers in small letters or in quotes, and pairs of quotes and parentheses.
"""

from __future__ import annotations

import functools
import re

from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import corrupt

_CHECKED = frozenset(
    ("TABLE", "INDEX", "CONSTRAINT", "FK CONSTRAINT", "SEQUENCE", "SEQUENCE SET", "SEQUENCE OWNED BY", "DEFAULT")
)
_QUOTED = re.compile(r"'[^']*'" + r'|"[^"]*"')
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")
# What an extension's type has in parentheses is the extension's affair: public.geometry(Point,4326).
_MODIFIER = re.compile(r"\b[a-z_][a-z0-9_$]*\.[a-z_][a-z0-9_$]*\([^()]*\)")
_IMPOSSIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\\{}'\"]")

# Keywords of five letters and more; no other keyword of PostgreSQL is a bit away from one of them.
_KEYWORDS = frozenset(
    (
        "CREATE,TABLE,UNLOGGED,UNIQUE,INDEX,USING,ALTER,CONSTRAINT,PRIMARY,FOREIGN,REFERENCES,DEFAULT,DELETE,UPDATE,CASCADE,"
        "CHECK,SEQUENCE,START,INCREMENT,MINVALUE,MAXVALUE,CACHE,CYCLE,COLUMN,OWNED,WHERE,COLLATE,GENERATED,ALWAYS,STORED,"
        "IDENTITY,DEFERRABLE,INITIALLY,DEFERRED,RESTRICT,MATCH,VALID,INHERITS,PARTITION,SELECT,NULLS,FIRST,INCLUDE,EXCLUDE"
    ).split(",")
)
# Types that stand without a schema; no other type of PostgreSQL is a bit away from one of them.
_TYPES = frozenset(
    "integer,bigint,smallint,text,boolean,character,timestamp,bytea,numeric,double,interval,regclass,varying".split(",")
)


def _by_length(words: frozenset[str]) -> dict[int, list[str]]:
    return {length: [word for word in words if len(word) == length] for length in map(len, words)}


# Keywords by whether they are in capitals, and by their length.
_KNOWN = {True: _by_length(_KEYWORDS), False: _by_length(_TYPES)}

#: No genuine statement of a table is longer: it has 1,600 columns at most. Longer ones are not looked into.
LONG_STATEMENT = 512 * 1024


def nearly(found: str, expected: str, bits: int = 3) -> bool:
    """Whether `found` is not `expected`, but of the same length and different in at most so many bits."""
    if len(found) != len(expected) or found == expected:
        return False
    different = 0
    for one, other in zip(found, expected):
        if one != other:
            different += bin(ord(one) ^ ord(other)).count("1")
            if different > bits:
                return False
    return True


def check_sql(entry: TocEntry) -> None:
    """Look at the statement that makes an object.

    :raises CentralError: ``corrupt``
    """
    if entry.description not in _CHECKED or len(entry.definition) > LONG_STATEMENT:
        return
    bare = _MODIFIER.sub(" ", _QUOTED.sub(" ", entry.definition))
    if _IMPOSSIBLE.search(bare) or bare.count("(") != bare.count(")") or not bare.isascii():
        raise _broken(entry)
    if any(_is_damaged(match[0]) for match in _WORD.finditer(bare)):
        raise _broken(entry)


@functools.lru_cache(maxsize=4096)
def _is_damaged(word: str) -> bool:
    if not (word.islower() or word.isupper() or not word.strip("_0123456789$")):
        return True
    known = _KNOWN[word.isupper()].get(len(word), ())
    return word not in known and any(nearly(word, other, 1) for other in known)


def _broken(entry: TocEntry) -> Exception:
    name = ascii(entry.name)[1:-1]
    return corrupt(f"the statement that makes {entry.description} {name} in its table of contents cannot be one")
