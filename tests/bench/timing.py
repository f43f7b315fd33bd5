# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A small paired timing harness: whole processes, A B A B, medians and ratios.

Only the standard library is imported, on purpose: Linux counts what the parent held at the time of the ``exec`` as the
child's first peak, so this process must stay smaller than anything it measures.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """One run. Times in seconds; ``peak`` in KiB, of the largest single process of those that were run."""

    wall: float
    cpu: float
    peak: int


@dataclass
class Subject:
    """Something to be measured. ``prepare`` runs before each run and ``check`` after it, both outside of the clock."""

    name: str
    command: Sequence[str]
    stdin: bytes = b""
    env: Mapping[str, str] | None = None
    prepare: Callable[[], None] = lambda: None
    check: Callable[[bytes], None] = lambda output: None
    samples: list[Sample] = field(default_factory=list)

    @property
    def wall(self) -> float:
        """Median wall time in seconds."""
        return statistics.median(sample.wall for sample in self.samples)

    @property
    def cpu(self) -> float:
        """Median of user and system time together, in seconds."""
        return statistics.median(sample.cpu for sample in self.samples)

    @property
    def peak(self) -> float:
        """Largest peak of all runs, in MiB."""
        return max(sample.peak for sample in self.samples) / 1024

    def run(self, scratch: Path) -> Sample:
        """Run it once; raises RuntimeError with what it said when it fails."""
        self.prepare()
        source, output, errors = (scratch / name for name in ("stdin", "stdout", "stderr"))
        source.touch(mode=0o600)
        source.write_bytes(self.stdin)
        with source.open("rb") as stdin, output.open("wb") as stdout, errors.open("wb") as stderr:
            start = time.monotonic()
            child = subprocess.Popen(list(self.command), stdin=stdin, stdout=stdout, stderr=stderr, env=self.env)
            _pid, status, usage = os.wait4(child.pid, 0)
            wall = time.monotonic() - start
            child.returncode = os.waitstatus_to_exitcode(status)
        source.unlink()
        if child.returncode:
            said = output.read_text("utf-8", "replace")[-2000:] + errors.read_text("utf-8", "replace")[-2000:]
            raise RuntimeError(f"{self.name} exited {child.returncode}: {said}")
        self.check(output.read_bytes())
        sample = Sample(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
        self.samples.append(sample)
        return sample


def alternate(subjects: Sequence[Subject], rounds: int, scratch: Path) -> None:
    """Measure in turn (A B A B ...), so that what the machine does meanwhile meets all alike."""
    for number in range(1, rounds + 1):
        for subject in subjects:
            sample = subject.run(scratch)
            print(
                f"  round {number}  {subject.name:<44} {sample.wall:8.2f} s  {sample.cpu:8.2f} s cpu"
                f"  {sample.peak / 1024:7.1f} MiB",
                flush=True,
            )


def paired_ratio(subject: Subject, other: Subject) -> float:
    """Median over the rounds of this one's wall time to the other's in the same round: drift of the machine cancels."""
    return statistics.median(mine.wall / its.wall for mine, its in zip(subject.samples, other.samples))


def table(subjects: Sequence[Subject]) -> str:
    """Medians, and the paired ratios to the first subject."""
    first = subjects[0]
    lines = [f"{'':<46}{'wall s':>9}{'range':>17}{'cpu s':>9}{'peak MiB':>10}{'wall ratio':>12}"]
    for subject in subjects:
        walls = [sample.wall for sample in subject.samples]
        spread = f"{min(walls):.2f}..{max(walls):.2f}"
        lines.append(
            f"{subject.name:<46}{subject.wall:>9.2f}{spread:>17}{subject.cpu:>9.2f}{subject.peak:>10.1f}"
            f"{paired_ratio(subject, first):>12.2f}"
        )
    return "\n".join(lines)
