# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sections of a drill's page: the checks, where the time went, the drills before, what was restored and where."""

from __future__ import annotations

from statistics import median
from typing import Any, Callable

from ansible_collections.odkops.central.plugins.module_utils._drill_plots import (
    Point,
    nice_seconds,
    nice_step,
    plot,
    tick_label,
    timeline,
)
from ansible_collections.odkops.central.plugins.module_utils._drill_record import failed_checks
from ansible_collections.odkops.central.plugins.module_utils._drill_text import (
    NOTHING,
    duration,
    escape,
    number,
    pair_lines,
    plural,
    shortened,
    size,
    time_of,
    value_text,
)
from ansible_collections.odkops.central.plugins.module_utils._set_names import utc_from_text

#: How many drills the table shows; the plots show all.
TABLE_ROWS = 15
#: A value longer than this is cut; the record has it whole.
VALUE_LENGTH = 240

RESULT_WORDS = {"passed": "Passed", "failed": "Failed", "error": "Broke off", "skipped": "Skipped"}
_SIGNS = {
    "passed": '<circle cx="12" cy="12" r="9.5"/><path d="m7.8 12.4 2.9 2.9 5.6-6"/>',
    "failed": '<circle cx="12" cy="12" r="9.5"/><path d="m8.7 8.7 6.6 6.6m0-6.6-6.6 6.6"/>',
    "error": '<path d="M12 3 22 20.5H2Z"/><path d="M12 9.5v5m0 2.9v.1"/>',
    "skipped": '<circle cx="12" cy="12" r="9.5"/><path d="M8 12h8"/>',
}
_LABELS = {
    "central": "ODK Central",
    "postgresql": "PostgreSQL",
    "docker": "Docker",
    "compose": "Docker Compose",
    "collection": "odkops.central",
    "ansible": "ansible-core",
    "name": "Host",
    "cpus": "Processors",
    "memory": "Memory",
}


def sign(result: str, said: bool = True) -> str:
    """Return the small picture of a result. It is read aloud unless the word stands beside it."""
    name = f'role="img" aria-label="{RESULT_WORDS[result]}"' if said else 'aria-hidden="true"'
    return f'<svg class="sign {result}" viewBox="0 0 24 24" {name}>{_SIGNS[result]}</svg>'


def _label(key: str) -> str:
    return _LABELS.get(key) or key.replace("_", " ").capitalize()


# --- checks -----------------------------------------------------------------------------------------------------


def _values(check: dict[str, Any]) -> str:
    expected, found = (
        "<br>".join(escape(shortened(line, VALUE_LENGTH)) for line in lines)
        for lines in pair_lines(check["expected"], check["found"])
    )
    if check["expected"] is None and check["found"] is None:
        return "<dl></dl>"
    if check["result"] == "passed" and check["expected"] is not None and expected == found:
        return f'<dl><div class="both"><dd>{found} <i>as expected</i></dd></div></dl>'
    if check["expected"] is None:
        return f'<dl><div class="both"><dt>Found</dt><dd>{found}</dd></div></dl>'
    return f'<dl><div><dt>Expected</dt><dd>{expected}</dd></div><div class="found"><dt>Found</dt><dd>{found}</dd></div></dl>'


def _check(check: dict[str, Any]) -> str:
    took = "" if check["seconds"] is None else duration(check["seconds"])
    message = f'<p dir="auto">{escape(check["message"])}</p>' if check["message"] else ""
    return (
        f'<li class="check {check["result"]}">{sign(check["result"])}'
        f'<div><h3 dir="auto">{escape(check["title"])}</h3>{message}</div>'
        f'{_values(check)}<span class="took">{took}</span></li>'
    )


def checks(record: dict[str, Any]) -> str:
    """Return the section of the checks, those that failed first."""
    if not record["checks"]:
        return '<section><h2>Checks</h2><p class="soft">Nothing was checked.</p></section>'
    groups = []
    for result, title in (("failed", "Failed"), ("skipped", "Not made"), ("passed", "Passed")):
        found = [check for check in record["checks"] if check["result"] == result]
        if found:
            groups.append(
                f'<p class="group {result}">{title} ({len(found)})</p>'
                f'<ol class="checks">{"".join(map(_check, found))}</ol>'
            )
    return f"<section><h2>Checks</h2>{''.join(groups)}</section>"


# --- time -------------------------------------------------------------------------------------------------------


def _within(phase: dict[str, Any], rto: float) -> float:
    """Return how many seconds of `phase` are part of the RTO."""
    end: float = min(phase["start"] + phase["seconds"], rto)
    return max(0.0, end - float(phase["start"]))


def _row(title: str, start: str, took: str, share: str) -> str:
    return (
        f'<tr><th scope="row" dir="auto">{title}</th><td class="n wide">{start}</td>'
        f'<td class="n">{took}</td><td class="n">{share}</td></tr>'
    )


def times(record: dict[str, Any]) -> str:
    """Return the section about where the time went: the timeline, and the RTO by phase."""
    phases, rto = record["phases"], record["rto"]
    if not phases:
        return ""
    rows = []
    accounted = 0.0
    for phase in phases:
        share = NOTHING
        if rto and _within(phase, rto) > 0:
            accounted += _within(phase, rto)
            share = f"{100 * _within(phase, rto) / rto:.0f} %"
        elif rto is not None:
            share = "after it"
        rows.append(_row(escape(phase["title"]), duration(phase["start"]), duration(phase["seconds"]), share))
    # What no phase covers is said where it is worth saying; phases side by side may add up to more than the whole.
    if rto and rto - accounted > max(0.5, rto / 100):
        rest = rto - accounted
        rows.append(_row("Between the phases", "", duration(rest), f"{100 * rest / rto:.0f} %"))
    total = _row("RTO", "", duration(rto), "100 %" if rto else NOTHING)
    legend = (
        '<p class="legend"><span><svg width="14" height="10" aria-hidden="true">'
        '<rect width="14" height="10" rx="3" class="bar"/></svg>part of the RTO</span>'
        '<span><svg width="14" height="10" aria-hidden="true"><rect width="14" height="10" rx="3" class="bar after"/></svg>'
        "after it</span></p>"
        if rto is not None
        else ""
    )
    return (
        f"<section><h2>Where the time went</h2>{timeline(record)}{legend}"
        '<div class="scroll"><table><thead><tr><th scope="col">Phase</th><th scope="col" class="n wide">Began at</th>'
        '<th scope="col" class="n">Took</th><th scope="col" class="n">Share of RTO</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody><tfoot>{total}</tfoot></table></div></section>"
    )


# --- history ----------------------------------------------------------------------------------------------------


def _points(
    record: dict[str, Any], history: list[dict[str, Any]], figure: Callable[[dict[str, Any]], Any]
) -> list[Point]:
    points = []
    for one in reversed(history):
        when = utc_from_text(one["started_at"])
        if when is not None and one["result"] != "skipped":
            label = f"{time_of(one['started_at'])}: {RESULT_WORDS[one['result']].lower()}"
            current = one["drill_id"] == record["drill_id"]
            points.append(Point(when, figure(one), one["result"], label, current))
    return sorted(points, key=lambda point: point.when)


def _figure(
    name: str,
    title: str,
    points: list[Point],
    step: Callable[[float], float],
    tick: Callable[[float], str],
    write: Callable[[float | None], str],
) -> str:
    values = [point.value for point in points if point.value is not None]
    said = "None has this figure." if not values else f"Median {write(median(values))}, most {write(max(values))}."
    points = [point._replace(label=f"{point.label}, {write(point.value)}") for point in points]
    return f"<figure><figcaption><b>{title}</b>{said}</figcaption>{plot(name, f'{title} by drill', points, step, tick)}</figure>"


def _past(record: dict[str, Any], one: dict[str, Any]) -> str:
    current = one["drill_id"] == record["drill_id"]
    when = escape(time_of(one["started_at"]))
    # The ids of drills have no character that means anything in an address.
    link = when if current else f'<a href="{escape(one["drill_id"])}.html">{when}</a>'
    what = "this drill" if current else ""
    failed = failed_checks(one)
    if failed:
        what = shortened(", ".join(failed), 120)
    elif one["error"]:
        what = one["error"]["diagnosis"] or "error"
    return (
        f'<tr{" class=current" if current else ""}><th scope="row" class="when">{link}</th>'
        f'<td class="result {one["result"]}">{RESULT_WORDS[one["result"]]}</td>'
        f'<td class="n">{duration(one["rto"])}</td><td class="n wide">{duration(one["rpo"])}</td>'
        f'<td class="n wide">{size(one["set"]["size"])}</td><td class="wide">{one["depth"]}</td>'
        f'<td class="what wide">{escape(what)}</td></tr>'
    )


def past(record: dict[str, Any], history: list[dict[str, Any]]) -> str:
    """Return the section of the drills up to this one: two plots and a table.

    :param history: records, the newest first, this one among them
    """
    title = "<h2>The drills so far</h2>"
    points = _points(record, history, lambda one: one["rto"])
    if len(history) < 2:
        first = "This is the first drill of this Central. The next report shows both."
        return f'<section>{title}<p class="soft">{first}</p></section>'
    plots = ""
    if len(points) > 1:
        sizes = _points(record, history, lambda one: one["set"]["size"])
        figures = _figure("rto", "RTO", points, nice_seconds, tick_label, duration)
        figures += _figure("size", "Size of the set", sizes, nice_step, size, size)
        plots = (
            f'<div class="plots">{figures}</div><p class="legend">'
            '<span><svg width="12" height="12" aria-hidden="true"><circle cx="6" cy="6" r="4" class="dot"/></svg>passed</span>'
            '<span><svg width="12" height="12" aria-hidden="true"><path d="M1.5 1.5l9 9m0-9-9 9" class="cross"/></svg>'
            "did not pass; on the base line where there is no figure</span>"
            '<span><svg width="18" height="18" aria-hidden="true"><circle cx="9" cy="9" r="8" class="ring"/></svg>'
            "this drill</span></p>"
        )
    passed = sum(one["result"] == "passed" for one in history)
    told = (
        f"{plural(len(history), 'drill')} since {time_of(history[-1]['started_at']).split(',')[0]}, {passed:,} passed."
    )
    head = "".join(
        f'<th scope="col"{kind}>{name}</th>'
        for name, kind in (
            ("Drill", ""),
            ("Result", ""),
            ("RTO", " class=n"),
            ("RPO", ' class="n wide"'),
            ("Size", ' class="n wide"'),
            ("Depth", " class=wide"),
            ("What failed", " class=wide"),
        )
    )
    rows = "".join(_past(record, one) for one in history[:TABLE_ROWS])
    more = len(history) - TABLE_ROWS
    note = f'<p class="small soft">and {more:,} earlier</p>' if more > 0 else ""
    return (
        f'<section>{title}<p class="soft">{told}</p>{plots}<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{note}</section>"
    )


# --- what and where ---------------------------------------------------------------------------------------------


def _pairs(title: str, values: list[tuple[str, str]]) -> str:
    if not values:
        return ""
    pairs = "".join(f'<div><dt>{escape(name)}</dt><dd dir="auto">{escape(value)}</dd></div>' for name, value in values)
    return f'<section><h2>{title}</h2><dl class="pairs">{pairs}</dl></section>'


def _worth(key: str, value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return size(value) if key in ("bytes", "memory", "size") or key.endswith("_bytes") else number(value)
    return shortened(value_text(value), 200)


def figures(record: dict[str, Any]) -> str:
    """Return the section of what the set holds or what came of it, in figures."""
    known = [
        (_label(key) if key != "bytes" else "Size", _worth(key, value)) for key, value in record["figures"].items()
    ]
    return _pairs("In figures", known)


def environment(record: dict[str, Any]) -> str:
    """Return the section of the versions and the host."""
    both = [*record["versions"].items(), *record["host"].items()]
    return _pairs(
        "With what, and where", [(_label(key), _worth(key, value)) for key, value in both if value is not None]
    )
