# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a drill's report writes what it says: durations, sizes, times, and texts of which nothing is known."""

from __future__ import annotations

import html
import json
import re
from datetime import datetime
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._set_names import utc_from_text

#: What stands where nothing is known.
NOTHING = "\u2013"

# What XML cannot hold, what a browser would not show, and what turns the direction of the text around it.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u061c\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069]"
)
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


def clean(value: Any) -> str:
    """Return `value` as text that XML and HTML can hold and that shows all it has: the rest is U+FFFD."""
    return _UNSEEN.sub("\ufffd", str(value))


def escape(value: Any) -> str:
    """Return `value` as text for an HTML element or a quoted attribute."""
    return html.escape(clean(value), quote=True)


def shortened(text: str, length: int) -> str:
    """Return `text`, cut to `length` characters with an ellipsis."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "\u2026"


def number(value: float) -> str:
    """Return a number with commas between thousands; decimals only where there are any."""
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    return f"{int(value):,}"


def duration(seconds: float | None) -> str:
    """Return `seconds` in the two largest units that matter, such as ``4 min 12 s``."""
    if seconds is None:
        return NOTHING
    if seconds < 0:
        return "\u2212" + duration(-seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.0005 else "0 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{number(hours // 24)} d {hours % 24} h"


def size(count: float | None) -> str:
    """Return a number of bytes in decimal units, such as ``573 MB``."""
    if count is None:
        return NOTHING
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if value < 999.5 or unit == "PB":
            break
        value /= 1000
    if unit == "bytes":
        return f"{int(count):,} byte" + ("" if count == 1 else "s")
    return f"{value:,.0f} {unit}" if value >= 99.95 else f"{value:.1f} {unit}"


def day(when: datetime) -> str:
    """Return the date of `when`: ``23 Nov 2026``."""
    return f"{when.day} {_MONTHS[when.month - 1]} {when.year}"


def time_of(text: str | None, seconds: bool = False) -> str:
    """Return the ISO time `text` for people: ``23 Nov 2026, 10:11 UTC``."""
    when = utc_from_text(text) if text else None
    if when is None:
        return NOTHING
    return f"{day(when)}, {when:%H:%M:%S} UTC" if seconds else f"{day(when)}, {when:%H:%M} UTC"


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return `count` with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def value_text(value: Any) -> str:
    """Return one expected or found value as a line of text."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def pair_lines(expected: Any, found: Any, most: int = 12) -> tuple[list[str], list[str]]:
    """Return what was expected and what was found, as lines.

    Of two dictionaries only the keys that differ are shown, at most `most` of them; the rest is counted.
    """
    if not (isinstance(expected, dict) and isinstance(found, dict)):
        return [value_text(expected)], [value_text(found)]
    keys = [key for key in sorted({*expected, *found}) if expected.get(key) != found.get(key)]
    if not keys:
        same = plural(len(expected), "figure") + ", all equal" if expected else NOTHING
        return [same], [same]
    columns: list[list[str]] = []
    for side in (expected, found):
        lines = [f"{key}: {value_text(side[key]) if key in side else 'not there'}" for key in keys[:most]]
        if len(keys) > most:
            lines.append(f"and {len(keys) - most:,} more")
        columns.append(lines)
    return columns[0], columns[1]
