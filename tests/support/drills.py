# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Records of drills for tests, realistic ones and hostile ones."""

from __future__ import annotations

import copy
from datetime import datetime, timedelta, timezone
from typing import Any

BEGAN = datetime(2026, 11, 23, 3, 30, 12, tzinfo=timezone.utc)
CENTRAL = "central.example.org"

# A text that would break out of any element, attribute or document that it is put into unescaped.
HOSTILE = (
    "</title></script>\"'><script>document.title='owned'</script>"
    "<img src=http://192.0.2.1/x onerror=alert(1)>&amp;\x00\x1b\u202e"
)

_PHASES = (
    ("verify", "Verify the set", 21.4),
    ("stack", "Bring the isolated stack up", 34.9),
    ("load", "Load the database", 96.2),
    ("enketo", "Restore Enketo's links and secrets", 7.8),
    ("migrate", "Start Central, run migrations", 41.3),
    ("blobs", "Serve attachments from the pool", 6.1),
    ("answers", "Wait until Central answers", 12.5),
)

_CHECKS: tuple[tuple[str, str, Any, Any, str, float], ...] = (
    (
        "rows",
        "Rows by table equal the manifest's",
        412_806,
        412_806,
        "96 tables were counted before Central migrated them.",
        3.9,
    ),
    ("migrations", "Central's migrations ran", 171, 171, "The newest is 20260212-01-add-submission-index.", 0.4),
    ("login", "A temporary account logs in", "200", "200", "It was made in the drill's own database.", 0.9),
    ("projects", "Projects through the API", 12, 12, "", 0.3),
    ("forms", "Forms through the API", 184, 184, "", 1.1),
    ("submissions", "Submissions through the API", 58_214, 58_214, "", 4.6),
    (
        "attachments",
        "Attachments have their SHA-1",
        250,
        250,
        "A sample of 250 of 31,877, seed 7c41; 198 of them from the pool.",
        28.7,
    ),
    ("enketo", "Links of Enketo open their forms", 24, 24, "Drafts, public links, single submission, previews.", 9.2),
    ("enketo_unknown", "A made-up link opens nothing", "404", "404", "", 0.2),
    ("secrets", "Enketo's secrets are those of the set", 3, 3, "", 0.1),
    (
        "isolation",
        "No container reaches the outside",
        0,
        0,
        "Production's database, its bucket and two public addresses were tried.",
        6.4,
    ),
)


def text_of(when: datetime) -> str:
    """A time as a record has it."""
    return f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond // 1000:03d}Z"


def make_record(
    result: str = "passed",
    when: datetime = BEGAN,
    slower: float = 1.0,
    failing: tuple[str, ...] = (),
    **changes: Any,
) -> dict[str, Any]:
    """A record of a drill that began at `when`; `failing` names checks that fail, `changes` replaces fields."""
    phases: list[dict[str, Any]] = []
    offset = 0.0
    for name, title, seconds in _PHASES:
        phases.append({"name": name, "title": title, "start": round(offset, 3), "seconds": round(seconds * slower, 3)})
        offset += seconds * slower + 0.05
    rto = round(offset, 3)
    checks: list[dict[str, Any]] = []
    for name, title, expected, found, message, seconds in _CHECKS:
        checks.append(
            {
                "name": name,
                "title": title,
                "result": "passed",
                "expected": expected,
                "found": found,
                "message": message,
                "seconds": seconds,
            }
        )
        if name in failing:
            checks[-1].update(result="failed", found=0, message=f"{title}: this is not so. Look at the drill's log.")
    phases.append(
        {"name": "checks", "title": "Check", "start": rto, "seconds": round(sum(c["seconds"] for c in checks), 3)}
    )
    phases.append(
        {
            "name": "teardown",
            "title": "Tear the stack down",
            "start": round(rto + phases[-1]["seconds"], 3),
            "seconds": 8.3,
        }
    )
    elapsed = round(phases[-1]["start"] + phases[-1]["seconds"], 3)
    taken = when - timedelta(hours=1, minutes=30, seconds=12)
    set_id = f"{taken:%Y%m%dT%H%M%S}.123Z-0a1b2c3d"
    record: dict[str, Any] = {
        "drill_id": f"{when:%Y%m%dT%H%M%S}Z-7c41d2",
        "central": CENTRAL,
        "set": {
            "set_id": set_id,
            "path": f"/var/backups/odk-central/{CENTRAL}/sets/{set_id}",
            "started_at": text_of(taken),
            "authenticated": True,
            "size": int(573_431_808 * (1 + (when - BEGAN).days / 400)),
            "parts": ["database", "enketo", "config", "blobs"],
            "absent": {},
        },
        "depth": "full",
        "result": "failed" if failing else result,
        "started_at": text_of(when),
        "finished_at": text_of(when + timedelta(seconds=elapsed)),
        "elapsed": elapsed,
        "rpo": (when - taken).total_seconds(),
        "rto": rto,
        "phases": phases,
        "checks": checks,
        "figures": {
            "projects": 12,
            "forms": 184,
            "submissions": 58_214,
            "attachments": 31_877,
            "tables": 96,
            "rows": 412_806,
            "bytes": 9_840_221_184,
        },
        "versions": {
            "central": "v2026.2.1",
            "postgresql": "14.19",
            "docker": "28.5.2",
            "compose": "2.40.3",
            "collection": "0.1.0",
        },
        "host": {"name": "vault", "cpus": 4, "memory": 8_322_498_560},
        "kept": None,
        "error": None,
    }
    if record["result"] == "error":
        record.update(
            rto=None,
            phases=phases[:3],
            checks=[],
            elapsed=152.5,
            error={
                "diagnosis": "disk_full",
                "message": "The disk of the drill host is full: the database could not be loaded.",
            },
        )
    if record["result"] == "skipped":
        record.update(rto=None, phases=[], checks=[], elapsed=0, figures={}, finished_at=text_of(when))
    record.update(copy.deepcopy(changes))
    return record


def make_history(count: int, **newest: Any) -> list[dict[str, Any]]:
    """As many records, one a day, the newest first; a few did not pass. `newest` is for the last drill."""
    records = [make_record(**newest)]
    for days in range(1, count):
        when = BEGAN - timedelta(days=days, minutes=days * 7 % 11)
        slower = 1.0 - days / 150 + (days * 37 % 13) / 90
        if days % 17 == 6:
            records.append(make_record("error", when, slower))
        elif days % 19 == 11:
            records.append(make_record("skipped", when))
        else:
            records.append(make_record(when=when, slower=slower, failing=("submissions",) if days % 13 == 4 else ()))
    return records


def hostile_record() -> dict[str, Any]:
    """A record with a hostile text everywhere a text may be, very long names, and huge numbers."""
    record = make_record(failing=("forms", "secrets"))
    for check in record["checks"]:
        check["title"] += HOSTILE
        check["message"] += HOSTILE * 3
        check["expected"], check["found"] = {HOSTILE: HOSTILE, "x" * 500: 2**62}, [HOSTILE, -1.5, None, True]
    for phase in record["phases"]:
        phase["title"] += HOSTILE
    for name in ("figures", "versions", "host"):
        record[name] = {**record[name], HOSTILE: HOSTILE, "y" * 300: 10**18}
    record["set"].update(
        parts=["database", HOSTILE], absent={HOSTILE: HOSTILE}, path=HOSTILE, set_id=HOSTILE, size=2**62
    )
    record.update(kept=HOSTILE, rpo=10**9, error={"diagnosis": HOSTILE, "message": HOSTILE * 20})
    return record
