# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A drill as JUnit XML, for what shows the results of tests: GitLab, Jenkins, and others.

One suite of test cases: first whether the drill ran to its end, then one for each check. Nothing is written that the
strictest of the schemas in use does not allow: the order of elements and attributes is that of Ant's, which the others extend.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET  # only writes here
from typing import Any

from ansible_collections.odkops.central.plugins.module_utils._drill_text import (
    clean,
    duration,
    pair_lines,
    shortened,
    value_text,
)
from ansible_collections.odkops.central.plugins.module_utils._set_names import utc_from_text

#: The attribute `message` is shown on one line.
MESSAGE_LENGTH = 1000
#: What Jenkins keeps of a text is not bounded; what a person reads is.
TEXT_LENGTH = 20_000

_SPACE = re.compile(r"\s+")


def _line(text: str) -> str:
    return shortened(_SPACE.sub(" ", clean(text)).strip(), MESSAGE_LENGTH)


def _seconds(value: float | None) -> str:
    return f"{value or 0:.3f}"


def _properties(record: dict[str, Any]) -> list[tuple[str, str]]:
    held = record["set"]
    found: list[tuple[str, Any]] = [
        ("drill_id", record["drill_id"]),
        ("central", record["central"]),
        ("result", record["result"]),
        ("depth", record["depth"]),
        ("set_id", held["set_id"]),
        ("set_started_at", held["started_at"]),
        ("set_authenticated", held["authenticated"]),
        ("set_size_bytes", held["size"]),
        ("rpo_seconds", record["rpo"]),
        ("rto_seconds", record["rto"]),
        ("kept", record["kept"]),
    ]
    for phase in record["phases"]:
        found.append((f"phase.{phase['name']}.seconds", round(phase["seconds"], 3)))
    for section in ("figures", "versions", "host"):
        found += [(f"{section}.{name}", value) for name, value in sorted(record[section].items())]
    return [
        (_line(name) or "-", _line(str(value).lower() if isinstance(value, bool) else str(value)))
        for name, value in found
        if value is not None
    ]


def _details(check: dict[str, Any]) -> str:
    expected, found = pair_lines(check["expected"], check["found"], most=50)
    lines = [
        check["message"],
        "expected:",
        *(f"  {line}" for line in expected),
        "found:",
        *(f"  {line}" for line in found),
    ]
    return shortened(clean("\n".join(lines)), TEXT_LENGTH)


def _case(suite: ET.Element, record: dict[str, Any], name: str, seconds: float | None) -> ET.Element:
    attributes = {"name": _line(name), "classname": clean(f"drill.{record['central']}"), "time": _seconds(seconds)}
    return ET.SubElement(suite, "testcase", attributes)


def _problem(case: ET.Element, kind: str, message: str, details: str, of: str) -> None:
    element = ET.SubElement(case, kind, {"message": _line(message) or "No message.", "type": clean(of)})
    element.text = details


def _ran(suite: ET.Element, record: dict[str, Any]) -> None:
    """Add the case of the drill itself: restored, broken off, or skipped."""
    case = _case(suite, record, "The set is restored and Central answers", record["rto"])
    error = record["error"]
    if error and record["result"] != "skipped":
        _problem(case, "error", error["message"], clean(error["message"]), error["diagnosis"] or "error")
    elif record["result"] == "skipped":
        message = error["message"] if error else "The drill was skipped: no time was left in its budget."
        ET.SubElement(case, "skipped", {"message": _line(message)})


def junit(record: dict[str, Any]) -> bytes:
    """Return the drill `record` (validated) as a JUnit XML document in UTF-8."""
    checks = record["checks"]
    numbers = {
        "tests": len(checks) + 1,
        "failures": sum(check["result"] == "failed" for check in checks),
        "errors": int(record["error"] is not None and record["result"] != "skipped"),
        "skipped": sum(check["result"] == "skipped" for check in checks) + int(record["result"] == "skipped"),
    }
    counts = {name: str(value) for name, value in numbers.items()}
    name = f"Disaster-recovery drill of {record['central']}"
    total = _seconds(record["elapsed"])
    began = utc_from_text(record["started_at"])
    # The strictest schema allows nothing here; the one suite has it all.
    root = ET.Element("testsuites")
    suite = ET.SubElement(
        root,
        "testsuite",
        {
            "name": name,
            "package": "odkops.central.drill",
            "id": "0",
            # The schema has no room for a zone; it is UTC.
            "timestamp": f"{began:%Y-%m-%dT%H:%M:%S}" if began else "",
            "hostname": _line(str(record["host"].get("name") or "localhost")),
            "time": total,
            **counts,
        },
    )
    properties = ET.SubElement(suite, "properties")
    for key, value in _properties(record):
        ET.SubElement(properties, "property", {"name": key, "value": value})
    _ran(suite, record)
    for check in checks:
        case = _case(suite, record, check["title"], check["seconds"])
        if check["result"] == "failed":
            _problem(case, "failure", check["message"] or "The check failed.", _details(check), check["name"])
        elif check["result"] == "skipped":
            ET.SubElement(case, "skipped", {"message": _line(check["message"] or "Not checked.")})
    lines = [f"RPO {duration(record['rpo'])}, RTO {duration(record['rto'])}."]
    lines += [
        f"{check['result']}: {check['title']}: {check['message'] or value_text(check['found'])}" for check in checks
    ]
    ET.SubElement(suite, "system-out").text = shortened(clean("\n".join(lines)), TEXT_LENGTH)
    ET.SubElement(suite, "system-err").text = clean((record["error"] or {}).get("message", ""))
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"
