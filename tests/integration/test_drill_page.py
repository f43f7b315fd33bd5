# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The page of a drill in a real browser: it is drawn, light and dark, on a phone and on a desk, and asks nobody for anything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.odkops.central.plugins.module_utils._drill_page import page
from ansible_collections.odkops.central.plugins.module_utils._drill_record import validated

from support.chromium import pixels, view
from support.drills import hostile_record, make_history, make_record

Colour = tuple[int, int, int]

LIGHT, DARK = (0xF4, 0xF5, 0xF7), (0x10, 0x14, 0x1A)
BLUE, RED, GREEN = (0x25, 0x63, 0xA8), (0xB3, 0x26, 0x1E), (0x17, 0x73, 0x4A)


def write(folder: Path, history: list[dict[str, Any]]) -> Path:
    known = [validated(record) for record in history]
    file = folder / "drill.html"
    file.write_bytes(page(known[0], known))
    return file


def contrast(one: Colour, other: Colour) -> float:
    """The contrast of two colours as WCAG 2 defines it: 4.5 is enough for text."""

    def luminance(colour: Colour) -> float:
        parts = [value / 255 for value in colour]
        linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize(
    ("history", "width", "dark", "sign"),
    [
        pytest.param(make_history(40), 900, False, GREEN, id="passed"),
        pytest.param(make_history(40, failing=("rows",), kept="odkdrill-x"), 500, True, None, id="failed, dark, phone"),
        pytest.param([hostile_record(), *make_history(2)[1:]], 500, False, RED, id="hostile, phone"),
        pytest.param(make_history(2, result="error"), 900, False, RED, id="error"),
        pytest.param([make_record("skipped")], 900, False, None, id="skipped"),
    ],
)
def test_the_page_is_drawn_and_loads_nothing(
    tmp_path: Path, history: list[dict[str, Any]], width: int, dark: bool, sign: Colour | None
) -> None:
    seen = view(write(tmp_path, history), width, 2000, dark)
    assert seen.console == []
    assert seen.requested == []
    found_width, height, colours = pixels(seen.png)
    assert (found_width, height) == (width, 2000)
    # Text and its smoothed edges have hundreds of shades; a blank page has one, and one without its style another ground.
    assert len(colours) > 300
    assert colours[DARK if dark else LIGHT] > 10_000
    if sign:
        assert colours[sign] > 100
    if history[0]["phases"] and not dark and sign != RED:
        assert colours[BLUE] > 1000  # the timeline


def test_the_checker_sees_what_a_page_does_wrong(tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<script>console.error('wrong')</script><img src=http://127.0.0.1:9/picture>")
    seen = view(bad, 300, 300)
    assert any("wrong" in line for line in seen.console)
    assert seen.requested == ["http://127.0.0.1:9/picture"]
    colours = pixels(seen.png)[2]
    assert LIGHT not in colours
    assert len(colours) < 300


def test_colours_of_text_have_enough_contrast() -> None:
    from ansible_collections.odkops.central.plugins.module_utils._drill_style import STYLE

    schemes = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    assert len(schemes) == 3  # light, dark, paper
    for scheme in schemes:
        found = {name: int(value, 16) for name, value in re.findall(r"--([a-z-]+): #([0-9a-f]{6})", scheme)}
        colours = {name: (value >> 16, value >> 8 & 255, value & 255) for name, value in found.items()}
        for text in ("ink", "soft", "blue", "green", "red"):
            for ground in ("ground", "card"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground, scheme)
        for text in ("green", "red", "amber"):
            assert contrast(colours[text], colours[f"{text}-wash"]) >= 4.5, (text, scheme)
        for ground in ("green-wash", "red-wash", "amber-wash", "grey-wash", "track"):
            assert contrast(colours["ink"], colours[ground]) >= 4.5
            assert contrast(colours["soft"], colours[ground]) >= 4.5, (ground, scheme)
        assert contrast(colours["blue"], colours["track"]) >= 3
