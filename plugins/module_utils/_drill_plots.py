# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pictures of a drill's page, as SVG: the timeline of its phases, and how a figure went from drill to drill.

Places along the width are in percent and everything else is in pixels, so that a picture fills a phone as well as a
sheet of paper and its text keeps its size. Colours are classes of the page's style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Callable, NamedTuple

from ansible_collections.odkops.central.plugins.module_utils._drill_text import clean, day, duration, escape, shortened

_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)

#: A phone has room for so many characters beside a duration.
LABEL_LENGTH = 40
#: Of a drill with hundreds of phases the picture shows the first ones; the table has them all.
MOST_PHASES = 40

#: Where the first and the last point of a plot are, in percent of its width: the scale stands before them.
LEFT, RIGHT = 13.0, 97.5
TOP, BOTTOM, HEIGHT = 22, 150, 176


class Point(NamedTuple):
    """One drill in a plot."""

    when: datetime
    value: float | None  # None: it has none, and stands on the base line
    result: str  # of _drill_record.RESULTS
    label: str
    current: bool  # the drill that the page is about


def nice_step(most: float, steps: int = 4) -> float:
    """Return the distance between at most about `steps` round values up to `most`: 1, 2 or 5 times a power of ten."""
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most / steps))
    return next((factor * power for factor in (1, 2, 5) if most / (factor * power) <= steps), 10 * power)


def nice_seconds(most: float, steps: int = 4) -> float:
    """Return the same for seconds: 15 or 30 seconds, minutes, hours, days."""
    if most > _SECONDS[-1] * steps:
        return nice_step(most / 86400, steps) * 86400
    if most < steps:
        return nice_step(most, steps)
    return float(next(step for step in _SECONDS if most / step <= steps))


def tick_label(seconds: float) -> str:
    """Return a round duration, as short as can be."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit and (seconds % unit == 0 or seconds >= 2 * unit):
            count = seconds / unit
            return f"{count:,.0f} {name}" if count >= 100 else f"{count:.3g} {name}"
    if seconds >= 1 or seconds == 0:
        return f"{seconds:.3g} s" if seconds else "0"
    return f"{seconds * 1000:.3g} ms"


def _ticks(most: float, step: float) -> list[float]:
    return [index * step for index in range(int(most / step + 1e-9) + 1)]


def _percent(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") + "%"


def _text(x: str, y: float, kind: str, text: str) -> str:
    return f'<text x="{x}" y="{y:g}" class="{kind}">{escape(text)}</text>'


def _svg(height: int, name: str, title: str, about: str, body: Sequence[str], kind: str) -> str:
    """Return a whole picture; `name` makes its ids, `title` and `about` are read aloud in its place."""
    return (
        f'<svg class="{kind}" width="100%" height="{height}" role="img" aria-labelledby="{name}-title {name}-about" '
        f'xmlns="http://www.w3.org/2000/svg"><title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-about">{escape(about)}</desc>{"".join(body)}</svg>'
    )


def timeline(record: dict[str, Any]) -> str:
    """Return the picture of the phases of `record`, one below the other; empty text where there are none.

    What belongs to the RTO has another colour than what comes after it, and the RTO is a line across.
    """
    phases = record["phases"][:MOST_PHASES]
    if not phases:
        return ""
    rto = record["rto"]
    total = max([record["elapsed"], rto or 0, *(phase["start"] + phase["seconds"] for phase in phases)]) or 1e-3
    top, row = 26, 40
    bottom = top + row * len(phases)
    body = []
    for tick in _ticks(total, nice_seconds(total, 5)):
        place = _percent(100 * tick / total)
        # A label needs room at its right; the last one may have none.
        if tick / total < 0.9:
            body.append(_text(place, 13, "tick", tick_label(tick)))
        body.append(f'<line x1="{place}" x2="{place}" y1="20" y2="{bottom}" class="grid"/>')
    for index, phase in enumerate(phases):
        y = top + row * index
        after = rto is not None and phase["start"] >= rto - 1e-6
        start, width = 100 * phase["start"] / total, 100 * phase["seconds"] / total
        took = duration(phase["seconds"])
        body.append(
            f"<g><title>{escape(phase['title'])}: {took}, from {duration(phase['start'])}</title>"
            f'<rect x="0" y="{y + 19}" width="100%" height="10" rx="5" class="track"/>'
            # However short a phase is, it is seen.
            f'<rect x="{_percent(min(start, 99.4))}" y="{y + 19}" width="3" height="10" class="bar{" after" if after else ""}"/>'
            f'<rect x="{_percent(start)}" y="{y + 19}" width="{_percent(width)}" height="10" rx="3" '
            f'class="bar{" after" if after else ""}"/>'
            + _text("0", y + 13, "label", shortened(clean(phase["title"]), LABEL_LENGTH))
            + _text("100%", y + 13, "figure", took)
            + "</g>"
        )
    height = bottom + 6
    if rto is not None:
        place = 100 * rto / total
        side = "end" if place > 50 else "start"
        body.append(
            f'<line x1="{_percent(place)}" x2="{_percent(place)}" y1="20" y2="{bottom + 8}" class="mark"/>'
            f'<text x="{_percent(place)}" y="{bottom + 23}" class="marked {side}">RTO {duration(rto)}</text>'
        )
        height = bottom + 30
    parts = "; ".join(f"{phase['title']} {duration(phase['seconds'])}" for phase in phases)
    about = f"{parts}. In all {duration(record['elapsed'])}, RTO {duration(rto)}."
    return _svg(height, "timeline", "Timeline of the drill's phases", about, body, "timeline")


def _places(points: Sequence[Point]) -> list[float]:
    """Return where each point is along the width, in percent, by its time."""
    first, last = points[0].when, points[-1].when
    span = (last - first).total_seconds()
    if span <= 0:
        step = (RIGHT - LEFT) / max(len(points) - 1, 1)
        return [LEFT + index * step for index in range(len(points))]
    return [LEFT + (RIGHT - LEFT) * (point.when - first).total_seconds() / span for point in points]


def _marker(point: Point, x: str, y: float, small: bool) -> str:
    """Return the mark of a drill: a dot where it passed, a cross where it did not. The page's own has a ring."""
    if point.result == "passed":
        shape = f'<circle cx="{x}" cy="{y:.1f}" r="{2.5 if small else 4}" class="dot"/>'
    else:
        shape = f'<svg x="{x}" y="{y:.1f}" overflow="visible"><path d="M-5-5 5 5M-5 5 5-5" class="cross"/></svg>'
    ring = f'<circle cx="{x}" cy="{y:.1f}" r="9" class="ring"/>' if point.current else ""
    return f"<g><title>{escape(point.label)}</title>{ring}{shape}</g>"


def plot(
    name: str,
    title: str,
    points: Sequence[Point],
    step: Callable[[float], float],
    write: Callable[[float], str],
) -> str:
    """Return the picture of a figure over time, from zero up.

    :param points: at least two, the oldest first
    :param step: gives the distance of the scale's lines, from the largest value
    :param write: gives the text of a value of the scale
    """
    values = [point.value for point in points if point.value is not None]
    most = max(values, default=0) or 1
    distance = step(most)
    ceiling = max(most * 1.04, distance)
    places = _places(points)
    height = [BOTTOM - (BOTTOM - TOP) * (point.value or 0) / ceiling for point in points]
    body = []
    for tick in _ticks(ceiling, distance):
        y = BOTTOM - (BOTTOM - TOP) * tick / ceiling
        kind = "base" if tick == 0 else "grid"
        body.append(f'<line x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}" class="{kind}"/>')
        body.append(_text("0", round(y - 4, 1), "tick", write(tick)))
    for index in range(1, len(points)):
        if points[index - 1].value is not None and points[index].value is not None:
            body.append(
                f'<line x1="{_percent(places[index - 1])}" y1="{height[index - 1]:.1f}" '
                f'x2="{_percent(places[index])}" y2="{height[index]:.1f}" class="line"/>'
            )
    small = len(points) > 60
    for point, place, y in zip(points, places, height):
        body.append(_marker(point, _percent(place), y, small))
    body.append(_text(_percent(LEFT), HEIGHT - 6, "tick", day(points[0].when)))
    body.append(_text(_percent(RIGHT), HEIGHT - 6, "tick end", day(points[-1].when)))
    bad = sum(point.result != "passed" for point in points)
    about = f"{len(points)} drills, {bad} of which did not pass. " + (
        f"From {write(min(values))} to {write(max(values))}; " if values else ""
    )
    return _svg(HEIGHT, name, title, about + f"last: {points[-1].label}.", body, "plot")
