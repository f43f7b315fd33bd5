# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a diagnosis is. All of them are in _diagnoses.py."""

from __future__ import annotations

from typing import NamedTuple


class Diagnosis(NamedTuple):
    """What a code means, and what the administrator does about it."""

    meaning: str
    remedy: str
