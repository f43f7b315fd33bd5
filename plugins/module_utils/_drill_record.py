# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a drill: one dictionary that says what was restored, what was checked, and how long it took.

docs/drill-report.md describes each field. The record comes from tasks, and so perhaps through templates that turn numbers
into text, and nothing into empty text; that is undone here. Everything that is not what it should be is refused with
a sentence that names the field, so that no report is made of half a record.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any, NoReturn

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._set_names import check_central_name, utc_from_text

#: results of a check; a drill may have broken off as well
PASSED, FAILED, SKIPPED, ERROR = "passed", "failed", "skipped", "error"
RESULTS = (PASSED, FAILED, ERROR, SKIPPED)
CHECK_RESULTS = (PASSED, FAILED, SKIPPED)

#: how deep a drill looks
QUICK, FULL = "quick", "full"
DEPTHS = (QUICK, FULL)

#: A record has some ten KiB; one that names each table of a large Central, a few hundred.
MAXIMUM_SIZE = 8 * 1024 * 1024
MAXIMUM_DEPTH = 16

_DRILL_ID = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)(?:\.\d{1,6})?Z-[0-9a-z]{1,32}", re.ASCII)
_NUMBER = re.compile(r"-?\d{1,20}(?:\.\d{1,20})?", re.ASCII)


def _wrong(where: str, what: str) -> NoReturn:
    raise CentralError("bad_option", f"The drill record is not usable: {where} {what}.")


def drill_id_time(drill_id: str) -> datetime | None:
    """Return when the drill `drill_id` began, in UTC to the second, or None where that is no id of a drill."""
    match = _DRILL_ID.fullmatch(drill_id)
    if match is None:
        return None
    try:
        return datetime(*(int(group) for group in match.groups()), tzinfo=timezone.utc)  # type: ignore[misc,arg-type]
    except ValueError:
        return None


# --- single values ----------------------------------------------------------------------------------------------


def _missing(value: Any) -> bool:
    return value is None or value == "" or value == "None"


def _text(value: Any, where: str, required: bool = True) -> str | None:
    if _missing(value):
        return _wrong(where, "is missing") if required else None
    if not isinstance(value, str):
        _wrong(where, f"is {type(value).__name__}, not text")
    return value


def _one_of(value: Any, allowed: tuple[str, ...], where: str) -> str:
    if not isinstance(value, str) or value not in allowed:
        _wrong(where, f"is {value!r}, not one of {', '.join(allowed)}"[:200])
    return value


def _number(value: Any, where: str, required: bool = True, minimum: float = 0) -> float | int | None:
    if _missing(value):
        return _wrong(where, "is missing") if required else None
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value) if "." in value else int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _wrong(where, f"is {type(value).__name__}, not a number")
    if not math.isfinite(value) or value < minimum or value > 2**63:
        _wrong(where, "is no possible number")
    return value


def _boolean(value: Any, where: str) -> bool | None:
    if _missing(value):
        return None
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        _wrong(where, f"is {type(value).__name__}, not true or false")
    return value


def _time(value: Any, where: str, required: bool = True) -> str | None:
    text = _text(value, where, required)
    if text is not None and utc_from_text(text) is None:
        _wrong(where, f"is {text[:60]!r}, not a time in UTC such as 2026-11-23T10:11:12.345Z")
    return text


def _dictionary(value: Any, where: str) -> dict[str, Any]:
    if _missing(value):
        return {}
    if not isinstance(value, dict):
        _wrong(where, f"is {type(value).__name__}, not a dictionary")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if _missing(value):
        return []
    if not isinstance(value, (list, tuple)):
        _wrong(where, f"is {type(value).__name__}, not a list")
    return list(value)


def _plain(value: Any, where: str, depth: int = 0) -> None:
    """See to it that `value` is JSON: text keys, finite numbers, no text that UTF-8 cannot write, not too deep."""
    if depth > MAXIMUM_DEPTH:
        _wrong(where, "is nested too deeply")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                _wrong(where, f"has the key {key!r}, which is not text"[:200])
            _plain(key, where, depth + 1)
            _plain(item, f"{where}.{key[:60]}", depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _plain(item, where, depth + 1)
    elif isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            _wrong(where, "has text that cannot be written as UTF-8")
    elif isinstance(value, float):
        if not math.isfinite(value):
            _wrong(where, "is no possible number")
    elif not (value is None or isinstance(value, (bool, int))):
        _wrong(where, f"is {type(value).__name__}, which JSON does not have")


# --- the record -------------------------------------------------------------------------------------------------


def _set(value: Any) -> dict[str, Any]:
    found = _dictionary(value, "set")
    return {
        **found,
        "set_id": _text(found.get("set_id"), "set.set_id", required=False),
        "path": _text(found.get("path"), "set.path", required=False),
        "started_at": _time(found.get("started_at"), "set.started_at", required=False),
        "authenticated": _boolean(found.get("authenticated"), "set.authenticated"),
        "size": _number(found.get("size"), "set.size", required=False),
        "parts": [_text(part, "a part of set.parts") for part in _list(found.get("parts"), "set.parts")],
        "absent": {
            part: _text(why, f"set.absent.{part}", required=False) or ""
            for part, why in _dictionary(found.get("absent"), "set.absent").items()
        },
    }


def _phase(value: Any, index: int) -> dict[str, Any]:
    where = f"phases[{index}]"
    phase = _dictionary(value, where)
    name = _text(phase.get("name"), f"{where}.name")
    return {
        **phase,
        "name": name,
        "title": _text(phase.get("title"), f"{where}.title", required=False) or name,
        "start": _number(phase.get("start"), f"{where}.start"),
        "seconds": _number(phase.get("seconds"), f"{where}.seconds"),
    }


def _check(value: Any, index: int) -> dict[str, Any]:
    where = f"checks[{index}]"
    check = _dictionary(value, where)
    name = _text(check.get("name"), f"{where}.name")
    return {
        **check,
        "name": name,
        "title": _text(check.get("title"), f"{where}.title", required=False) or name,
        "result": _one_of(check.get("result"), CHECK_RESULTS, f"{where}.result"),
        "expected": check.get("expected"),
        "found": check.get("found"),
        "message": _text(check.get("message"), f"{where}.message", required=False) or "",
        "seconds": _number(check.get("seconds"), f"{where}.seconds", required=False),
    }


def _error(value: Any) -> dict[str, Any] | None:
    if _missing(value):
        return None
    error = _dictionary(value, "error")
    return {
        **error,
        "diagnosis": _text(error.get("diagnosis"), "error.diagnosis", required=False),
        "message": _text(error.get("message"), "error.message"),
    }


def _contradiction(record: dict[str, Any]) -> str | None:
    """Return what in `record` cannot be true together, or None."""
    failed = failed_checks(record)
    result = record["result"]
    if result == PASSED and failed:
        return f"is passed, although the check {failed[0]} failed"
    if result in (SKIPPED, ERROR) and failed:
        return f"is {result}, although the check {failed[0]} failed"
    if result == PASSED and record["rto"] is None:
        return "is passed, although Central never answered"
    if result == PASSED and record["error"]:
        return "is passed, although there is an error"
    if result == PASSED and not any(check["result"] == PASSED for check in record["checks"]):
        return "is passed, although nothing was checked"
    if result == FAILED and not failed:
        return "is failed, although no check has failed"
    if result == ERROR and not record["error"]:
        return "is error, and there is no error that says why"
    return None


def validated(value: Any) -> dict[str, Any]:
    """Return the drill record `value` with every field there, numbers as numbers, and what is not known as None.

    Fields that are not known here are kept.

    :raises CentralError: ``bad_option``, with a sentence that names the field
    """
    if not isinstance(value, dict):
        _wrong("it", f"is {type(value).__name__}, not a dictionary")
    _plain(value, "record")
    drill_id = _text(value.get("drill_id"), "drill_id") or ""
    if drill_id_time(drill_id) is None:
        _wrong("drill_id", f"is {drill_id[:80]!r}, not one such as 20261123T101112Z-0a1b2c")
    record: dict[str, Any] = {
        **value,
        "drill_id": drill_id,
        "central": check_central_name(_text(value.get("central"), "central") or ""),
        "set": _set(value.get("set")),
        "depth": _one_of(value.get("depth"), DEPTHS, "depth"),
        "result": _one_of(value.get("result"), RESULTS, "result"),
        "started_at": _time(value.get("started_at"), "started_at"),
        "finished_at": _time(value.get("finished_at"), "finished_at"),
        "elapsed": _number(value.get("elapsed"), "elapsed"),
        # A set from the future of the drill host's clock has a negative age.
        "rpo": _number(value.get("rpo"), "rpo", required=False, minimum=-(2**40)),
        "rto": _number(value.get("rto"), "rto", required=False),
        "phases": [_phase(item, index) for index, item in enumerate(_list(value.get("phases"), "phases"))],
        "checks": [_check(item, index) for index, item in enumerate(_list(value.get("checks"), "checks"))],
        "kept": _text(value.get("kept"), "kept", required=False),
        "error": _error(value.get("error")),
    }
    for name in ("figures", "versions", "host"):
        record[name] = _dictionary(value.get(name), name)
        for key, item in record[name].items():
            if isinstance(item, (dict, list, tuple)):
                _wrong(f"{name}.{key[:60]}", "is a list or a dictionary, not one value")
    wrong = _contradiction(record)
    if wrong:
        _wrong("result", wrong)
    return record


def failed_checks(record: dict[str, Any]) -> list[str]:
    """Return the names of the checks that failed."""
    return [check["name"] for check in record["checks"] if check["result"] == FAILED]


def counted(checks: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Return how many of `checks` have each result."""
    counts = dict.fromkeys(CHECK_RESULTS, 0)
    for check in checks:
        counts[check["result"]] += 1
    return counts


def render(record: dict[str, Any]) -> bytes:
    """Return `record` as it is written to its file.

    :raises CentralError: ``bad_option`` where it is too large to be a record
    """
    text = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    data = text.encode("utf-8") + b"\n"
    if len(data) > MAXIMUM_SIZE:
        _wrong("it", f"has {len(data)} bytes, more than {MAXIMUM_SIZE}")
    return data


def parse(data: bytes) -> dict[str, Any]:
    """Read a record from the bytes of its file.

    :raises CentralError: ``bad_option``
    """
    if len(data) > MAXIMUM_SIZE:
        _wrong("it", f"is larger than {MAXIMUM_SIZE} bytes")
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        _wrong("it", f"is no JSON ({error})"[:200])
    return validated(value)
