# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Made-up content: forms, answers, and the texts that break careless programs."""

from __future__ import annotations

import random
from xml.sax.saxutils import escape

#: What a reader of COPY data, a shell, a CSV or an HTML page may stumble over.
NASTY = (
    "tab\there, newline\nthere, return\rtoo",
    "back\\slash, \\N that is no null, \\. that is no end",
    "quotes ' and \" and ` and $(not run) %s {{ no template }}",
    "emoji 🦆🧑‍🌾, family 👨‍👩‍👧‍👦, flag 🇰🇪",
    "right to left: שלום עולם, مرحبا بالعالم, \u202eoverridden\u202c",
    "composed é and decomposed e\u0301, ﬁ ligature, zero\u200bwidth, nbsp\u00a0here",
    "NULL",
    "",
    " spaces at both ends ",
    "<b>&amp; not markup</b> ]]> --",
    "中文、日本語、한국어, አማርኛ, ไทย",
    "\x7f\u0085 controls, \ufeffBOM, \U0010fffd last but one",
)

WORDS = (
    "water source roof iron sheet maize goat clinic school distance child woman elder village river season dry rain "
    "harvest market price fever vaccine net latrine soap well pump broken repaired visit name consent yes no unknown"
).split()

FIELDS = (
    ("/meta", "meta", "structure", False),
    ("/meta/instanceID", "instanceID", "string", False),
    ("/meta/instanceName", "instanceName", "string", False),
    ("/start", "start", "dateTime", False),
    ("/village", "village", "string", False),
    ("/people", "people", "int", False),
    ("/place", "place", "geopoint", False),
    ("/note", "note", "string", False),
    ("/photo", "photo", "binary", True),
)


def sentence(rng: random.Random, length: int) -> str:
    """About ``length`` characters of words."""
    picked: list[str] = []
    size = 0
    while size < length:
        word = rng.choice(WORDS)
        picked.append(word)
        size += len(word) + 1
    return " ".join(picked)


def form_xml(form_id: str, version: str, title: str) -> str:
    """An XForm, as pyxform would make one of a short spreadsheet."""
    nodes = "<start/><village/><people/><place/><note/><photo/><meta><instanceID/><instanceName/></meta>"
    binds = "".join(
        f'<bind nodeset="/data{path}" type="{kind}"/>' for path, _name, kind, _binary in FIELDS if kind != "structure"
    )
    body = "".join(
        f'<input ref="/data/{field}"><label>{field.capitalize()}</label></input>'
        for field in ("village", "people", "place", "note")
    )
    return (
        '<?xml version="1.0"?><h:html xmlns="http://www.w3.org/2002/xforms" xmlns:h="http://www.w3.org/1999/xhtml" '
        'xmlns:orx="http://openrosa.org/xforms" xmlns:jr="http://openrosa.org/javarosa">'
        f"<h:head><h:title>{escape(title)}</h:title><model><instance>"
        f'<data id="{form_id}" version="{version}">{nodes}</data></instance>{binds}</model></h:head>'
        f'<h:body>{body}<upload mediatype="image/*" ref="/data/photo"><label>Photo</label></upload></h:body></h:html>'
    )


def submission_xml(
    rng: random.Random, form_id: str, version: str, instance: str, name: str, note: str, photos: list[str], size: int
) -> str:
    """The answers of one submission, padded with words to about ``size`` bytes."""
    place = f"{rng.uniform(-4, 4):.6f} {rng.uniform(33, 42):.6f} {rng.uniform(0, 2500):.1f} {rng.uniform(1, 15):.1f}"
    head = (
        f'<data xmlns:orx="http://openrosa.org/xforms" id="{form_id}" version="{version}">'
        f"<start>2026-10-{rng.randint(1, 30):02d}T{rng.randint(6, 18):02d}:{rng.randint(0, 59):02d}:00.000+03:00</start>"
        f"<village>{rng.choice(WORDS)}</village><people>{rng.randint(1, 14)}</people><place>{place}</place>"
    )
    tail = "".join(f"<photo>{photo}</photo>" for photo in photos) + (
        f"<meta><instanceID>{instance}</instanceID><instanceName>{escape(_xml_legal(name))}</instanceName></meta></data>"
    )
    text = escape(_xml_legal(note))
    missing = size - len(head) - len(tail) - len(text) - 20
    if missing > 0:
        text = f"{text} {sentence(rng, missing)}"
    return f"{head}<note>{text}</note>{tail}"


def _xml_legal(text: str) -> str:
    """Without the characters that XML 1.0 does not allow."""
    return "".join(c for c in text if c in "\t\n\r" or c >= " ")
