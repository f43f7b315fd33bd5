# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two versions of a file for people: what differs, but no secret.

What is shown is what can be read through: ``.env``, Compose files and templates. Values whose names speak of passwords or keys
are hidden wherever they occur; of any other file, and of private keys, only that they differ is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

HIDDEN, DIFFERS = "(hidden)", "(hidden, differs)"

_READABLE = re.compile(r"(?:.*/)?(?:\.env[^/]*|[^/]+\.(?:ya?ml|template))")
_NAME = re.compile(
    r"(?P<name>[\w.-]*(?:PASS|SECRET|KEY|TOKEN|CREDENTIAL|DSN|AUTH|PRIVATE)[\w.-]*)(?P<sign>[\"']?\s*[:=]\s*)(?P<value>.*)",
    re.IGNORECASE,
)
_ACCOUNT = re.compile(r"://[^/\s@]+@")
# Shorter values, such as "true", would be hidden all over the file.
_SHORTEST = 6


@dataclass
class _Masked:
    lines: list[str] = field(default_factory=list)
    #: by name, in the order in which they come
    values: list[tuple[str, str]] = field(default_factory=list)
    #: numbers of the lines that have one, in that order
    places: list[int] = field(default_factory=list)

    @property
    def secrets(self) -> set[str]:
        return {value.strip("\"' ,}") for _name, value in self.values}


def shown(name: str, before: bytes | None, after: bytes | None, secrets: bool = False) -> tuple[str, str]:
    """Return two versions of a file as they may be shown; None for a file that is not there.

    :param name: path in the project's directory, or an absolute one
    :param secrets: show them
    """
    if secrets:
        return tuple("" if one is None else one.decode("utf-8", "backslashreplace") for one in (before, after))  # type: ignore[return-value]
    texts = [_text(name, one) for one in (before, after)]
    if texts[0] is None or texts[1] is None:
        return ("" if before is None else f"{HIDDEN}\n", "" if after is None else f"{DIFFERS}\n")
    first, second = _mask(texts[0]), _mask(texts[1])
    known = set(first.values)
    for place, value in zip(second.places, second.values):
        if value not in known:
            second.lines[place] = second.lines[place].replace(HIDDEN, DIFFERS)
    everything = sorted((one for one in first.secrets | second.secrets if len(one) >= _SHORTEST), key=len, reverse=True)
    return _without(first.lines, everything), _without(second.lines, everything)


def _text(name: str, content: bytes | None) -> str | None:
    """Return what can be read through; None where nothing of it is to be shown."""
    if content is None:
        return ""
    if not _READABLE.fullmatch(name) or b"PRIVATE KEY" in content or b"\0" in content:
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _mask(text: str) -> _Masked:
    masked = _Masked()
    lines = iter(text.split("\n"))
    for line in lines:
        found = _NAME.search(line)
        if found is None or (line.lstrip().startswith("#") and not found["value"]):
            masked.lines.append(_ACCOUNT.sub(f"://{HIDDEN}@", line))
            continue
        value = found["value"]
        rest: list[str] = []
        masked.places.append(len(masked.lines))
        masked.lines.append(line[: found.start("value")] + HIDDEN)
        for more in _continued(value, line, lines, rest):
            value += "\n" + more
        masked.values.append((found["name"], value))
        for other in rest:
            # It may have a secret of its own.
            inner = _mask(other)
            masked.places += [place + len(masked.lines) for place in inner.places]
            masked.values += inner.values
            masked.lines += inner.lines
    return masked


def _continued(value: str, line: str, lines: Iterator[str], rest: list[str]) -> Iterator[str]:
    """Give the further lines of a value; the first line behind them goes into `rest`."""
    value = value.strip()
    quote = value[:1] if value[:1] in ("'", '"') else ""
    if quote:
        if quote in value[1:]:
            return
        for more in lines:
            yield more
            if quote in more:
                return
    elif value.endswith("\\"):
        for more in lines:
            yield more
            if not more.endswith("\\"):
                return
    elif not value or re.fullmatch(r"[|>][-+0-9]*", value):
        depth = len(line) - len(line.lstrip())
        for more in lines:
            if more.strip() and len(more) - len(more.lstrip()) <= depth:
                rest.append(more)
                return
            yield more


def _without(lines: list[str], secrets: list[str]) -> str:
    text = "\n".join(lines)
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text
