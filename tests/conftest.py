# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""For all tests: shared fixtures, and a run that skipped anything without leave is a failed run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.paths import ROOT

# A test may be skipped for these reasons only. The sample files are real backups that are not part of the repository.
SAMPLES_ABSENT = "sample files absent"
ALLOWED_SKIPS = (SAMPLES_ABSENT,)

_forbidden: list[str] = []


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real Central backups: ``CENTRAL_SAMPLES``, or ``shared/samples`` beside the repository."""
    folder = Path(os.environ.get("CENTRAL_SAMPLES") or ROOT.parent / "shared" / "samples")
    if not folder.is_dir():
        pytest.skip(f"{SAMPLES_ABSENT}: no folder {folder}; CENTRAL_SAMPLES names it")
    return folder


def _judge(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not reason.removeprefix("Skipped: ").startswith(ALLOWED_SKIPS):
        _forbidden.append(f"{report.nodeid}: {reason}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember each test that was skipped without leave."""
    _judge(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """The same for whole files."""
    _judge(report)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if a test was skipped without leave."""
    if _forbidden and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why."""
    if _forbidden:
        terminalreporter.section("skipped without leave: the run fails", red=True)
        for line in _forbidden:
            terminalreporter.line(line)
        terminalreporter.line(f"Reasons that are allowed begin with: {', '.join(ALLOWED_SKIPS)}")
