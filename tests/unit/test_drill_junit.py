# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A drill as JUnit XML, read by a parser that is not ours and held against what the schemas in use allow."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import junitparser
import pytest
from ansible_collections.odkops.central.plugins.module_utils._drill_junit import junit
from ansible_collections.odkops.central.plugins.module_utils._drill_record import validated

from support.drills import CENTRAL, hostile_record, make_record

# What Ant's schema and Jenkins' both allow: attributes and, in order, children.
ATTRIBUTES = {
    "testsuites": set(),
    "testsuite": {
        "name", "timestamp", "hostname", "tests", "failures", "errors", "skipped", "time", "package", "id",
    },
    "testcase": {"name", "classname", "time"},
    "failure": {"message", "type"},
    "error": {"message", "type"},
    "skipped": {"message"},
    "property": {"name", "value"},
    "properties": set(),
    "system-out": set(),
    "system-err": set(),
}  # fmt: skip


def suite_of(record: dict[str, Any], folder: Path) -> Any:
    file = folder / "drill.xml"
    file.write_bytes(junit(validated(record)))
    (suite,) = junitparser.JUnitXml.fromfile(str(file))
    return suite


@pytest.mark.parametrize(
    "record",
    [make_record(), make_record(failing=("rows",)), make_record("error"), make_record("skipped"), hostile_record()],
)
def test_every_element_is_one_that_the_schemas_know(record: dict[str, Any]) -> None:
    root = ET.fromstring(junit(validated(record)))  # noqa: S314 - our own
    assert root.tag == "testsuites"
    for element in root.iter():
        assert set(element.attrib) == ATTRIBUTES[element.tag], element.tag
    (suite,) = root
    tags = [child.tag for child in suite]
    cases = tags.count("testcase")
    assert tags == ["properties", *["testcase"] * cases, "system-out", "system-err"]
    assert all(len(case) <= 1 for case in suite.iter("testcase"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.attrib["timestamp"])
    assert all(
        re.fullmatch(r"\d+\.\d{3}", element.attrib["time"]) for element in root.iter() if "time" in element.attrib
    )
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.attrib[name]) == len(list(suite.iter(tag)))
    assert int(suite.attrib["tests"]) == cases


def test_a_drill_that_passed(tmp_path: Path) -> None:
    record = make_record()
    suite = suite_of(record, tmp_path)
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (12, 0, 0, 0)
    assert suite.time == pytest.approx(284.65)
    assert (suite.timestamp, suite.hostname) == ("2026-11-23T03:30:12", "vault")
    cases = list(suite)
    assert all(case.is_passed and case.classname == f"drill.{CENTRAL}" for case in cases)
    assert [case.name for case in cases[1:]] == [check["title"] for check in record["checks"]]
    assert cases[0].time == pytest.approx(220.55)
    assert cases[1].time == pytest.approx(3.9)
    properties = {one.name: one.value for one in suite.properties()}
    assert properties["set_id"] == record["set"]["set_id"]
    assert properties["rto_seconds"] == "220.55"
    assert properties["phase.load.seconds"] == "96.2"
    assert properties["versions.central"] == "v2026.2.1"
    assert properties["set_authenticated"] == "true"
    assert "kept" not in properties


def test_a_check_that_failed(tmp_path: Path) -> None:
    record = make_record(failing=("rows", "secrets"))
    record["checks"][0].update(
        expected={"public.forms": 3, "public.users": 1}, found={"public.forms": 2, "public.users": 1}
    )
    record["checks"][2]["result"] = "skipped"
    suite = suite_of(record, tmp_path)
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (12, 2, 0, 1)
    cases = {case.name: case for case in suite}
    (failure,) = cases["Rows by table equal the manifest's"].result
    assert isinstance(failure, junitparser.Failure)
    assert failure.type == "rows"
    assert failure.message == record["checks"][0]["message"]
    assert "public.forms: 3" in failure.text
    assert "public.forms: 2" in failure.text
    assert "public.users" not in failure.text
    assert cases["A temporary account logs in"].is_skipped


def test_a_drill_that_failed_and_broke_off(tmp_path: Path) -> None:
    error = {"diagnosis": "tampered", "message": "The manifest was changed."}
    suite = suite_of(make_record(failing=("rows",), rto=None, error=error), tmp_path)
    assert (suite.tests, suite.failures, suite.errors) == (12, 1, 1)
    (case,) = next(iter(suite)).result
    assert isinstance(case, junitparser.Error)
    assert case.type == "tampered"


def test_a_drill_that_broke_off_and_one_that_was_skipped(tmp_path: Path) -> None:
    suite = suite_of(make_record("error"), tmp_path)
    assert (suite.tests, suite.failures, suite.errors) == (1, 0, 1)
    (error,) = next(iter(suite)).result
    assert isinstance(error, junitparser.Error)
    assert error.type == "disk_full"
    assert "disk of the drill host is full" in error.message
    skipped = suite_of(make_record("skipped"), tmp_path)
    assert (skipped.tests, skipped.skipped) == (1, 1)
    assert next(iter(skipped)).is_skipped


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    record = hostile_record()
    suite = suite_of(record, tmp_path)
    case = list(suite)[1]
    assert case.name.startswith("Rows by table equal the manifest's</title></script>\"'><script>")
    assert case.name.endswith("&amp;\ufffd\ufffd\ufffd")
