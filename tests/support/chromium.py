# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Debian's Chromium without a screen: how a page looks, what its console says, and what it asks the network for."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BROWSER = "chromium"

Colour = tuple[int, int, int]


@dataclass
class View:
    """What came of opening a page.

    ``console`` are the lines of its console, ``requested`` the addresses that were asked for, ``png`` the picture.
    """

    png: bytes
    console: list[str]
    requested: list[str]


def view(page: Path, width: int = 1100, height: int = 1400, dark: bool = False, scale: float = 1) -> View:
    """Open a file in Chromium and take a picture of its first ``height`` pixels."""
    with tempfile.TemporaryDirectory(prefix="chromium-") as folder:
        picture, net = Path(folder) / "page.png", Path(folder) / "net.json"
        command = [
            BROWSER,
            "--headless",
            "--no-sandbox",  # as root, and in a container, there is none
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--hide-scrollbars",
            "--force-color-profile=srgb",
            f"--user-data-dir={folder}/profile",
            f"--window-size={width},{height}",
            f"--force-device-scale-factor={scale:g}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--enable-logging=stderr",
            f"--log-net-log={net}",
            f"--screenshot={picture}",
            page.resolve().as_uri(),
        ]
        environment = {**os.environ, "HOME": folder}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
        if done.returncode or not picture.is_file():
            raise AssertionError(f"{BROWSER} made no picture ({done.returncode}): {done.stderr[-2000:]}")
        console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
        return View(picture.read_bytes(), console, requested(net.read_text("utf-8")))


def requested(log: str) -> list[str]:
    """The addresses in Chromium's log of its network, sorted. Its own are not a page's: they go to its maker."""
    try:
        events: list[dict[str, Any]] = json.loads(log)["events"]
    except json.JSONDecodeError:  # a log that was cut short lacks its end only
        events = json.loads(log.rstrip().rstrip(",") + "]}")["events"]
    found = {event.get("params", {}).get("url") for event in events}
    own = re.compile(r"https?://([a-z0-9-]+\.)*(google|googleapis|gstatic|gvt1|chromium)\.(com|org)[:/]|chrome")
    return sorted(address for address in found if address and not own.match(address))


def rows(png: bytes) -> tuple[int, int, Iterator[list[Colour]]]:
    """Width, height, and the rows of a picture of 8 bits a channel without interlacing."""
    header = png.index(b"IHDR") + 4
    width, height, depth, kind, interlaced = struct.unpack(">IIBBxxB", png[header : header + 13])
    assert (depth, interlaced) == (8, 0) and kind in (2, 6), "Chromium writes other pictures than it did"
    size = 3 if kind == 2 else 4
    data, position = b"", 8
    while position < len(png):
        (length,) = struct.unpack(">I", png[position : position + 4])
        if png[position + 4 : position + 8] == b"IDAT":
            data += png[position + 8 : position + 8 + length]
        position += 12 + length
    return width, height, _rows(zlib.decompress(data), width * size, size)


def _rows(raw: bytes, stride: int, size: int) -> Iterator[list[Colour]]:
    before = bytearray(stride)
    for begin in range(0, len(raw), stride + 1):
        line = bytearray(raw[begin + 1 : begin + 1 + stride])
        _unfilter(raw[begin], line, before, size)
        yield list(zip(line[0::size], line[1::size], line[2::size]))
        before = line


def pixels(png: bytes) -> tuple[int, int, Counter[Colour]]:
    """Width, height, and how often each colour occurs."""
    width, height, lines = rows(png)
    counts: Counter[Colour] = Counter()
    for line in lines:
        counts.update(line)
    return width, height, counts


def with_palette(png: bytes) -> bytes:
    """The same picture with 256 colours, and so a third of its size: the frequent ones, and those that no other comes near."""
    width, height, lines = rows(png)
    drawn = list(lines)
    counts: Counter[Colour] = Counter()
    for line in drawn:
        counts.update(line)

    def distance(one: Colour, other: Colour) -> int:
        return sum((left - right) ** 2 for left, right in zip(one, other))

    palette = [colour for colour, _count in counts.most_common(128)]
    nearest = {
        colour: min((distance(colour, known), place) for place, known in enumerate(palette)) for colour in counts
    }
    while len(palette) < 256:
        palette.append(max(nearest, key=lambda colour: nearest[colour]))
        for colour, known in nearest.items():
            nearest[colour] = min(known, (distance(colour, palette[-1]), len(palette) - 1))
    index = {colour: place for colour, (_distance, place) in nearest.items()}
    data = b"".join(b"\0" + bytes(index[colour] for colour in line) for line in drawn)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return (
        png[:8]
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", bytes(value for colour in palette for value in colour))
        + chunk(b"IDAT", zlib.compress(data, 9))
        + chunk(b"IEND", b"")
    )


def _unfilter(kind: int, line: bytearray, above: bytearray, size: int) -> None:
    """Undo the filter of one row of a PNG (RFC 2083, section 6), in place."""
    for index in range(len(line)):
        left = line[index - size] if index >= size else 0
        up = above[index]
        corner = above[index - size] if index >= size else 0
        if kind == 1:
            guess = left
        elif kind == 2:
            guess = up
        elif kind == 3:
            guess = (left + up) // 2
        elif kind == 4:
            base = left + up - corner
            guess = min((left, up, corner), key=lambda value: abs(base - value))
        else:
            return
        line[index] = (line[index] + guess) & 0xFF
