# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The style of a drill's page. One sheet, for screens light and dark, for phones and for paper."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #f4f5f7; --card: #ffffff; --ink: #18202b; --soft: #566273; --faint: #dfe3e9; --track: #edf0f4;
  --blue: #2563a8; --grey: #98a5b5; --green: #17734a; --red: #b3261e; --amber: #855600;
  --green-wash: #e8f5ee; --red-wash: #fcecea; --amber-wash: #fbf2df; --grey-wash: #edf0f4;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #10141a; --card: #191f27; --ink: #e7ebf1; --soft: #a0acbb; --faint: #303947; --track: #252d38;
    --blue: #77b0f0; --grey: #6c7a8c; --green: #62cf95; --red: #ff9489; --amber: #ecba62;
    --green-wash: #15281f; --red-wash: #331c1b; --amber-wash: #2f2614; --grey-wash: #252d38;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; padding: 2.25rem 1.25rem 3rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", "DejaVu Sans", Arial, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
main, header, footer { max-width: 58rem; margin: 0 auto; }
h1, h2, h3, p, dl, dd, ol, ul, figure { margin: 0; padding: 0; }
h1 { font-size: 1.75rem; line-height: 1.2; font-weight: 650; letter-spacing: -0.015em; }
h2 { font-size: 1.125rem; line-height: 1.3; font-weight: 650; }
h3 { font-size: 1rem; line-height: 1.4; font-weight: 600; }
a { color: var(--blue); text-underline-offset: 0.15em; }
a:focus-visible, [tabindex]:focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; border-radius: 3px; }
code, .id {
  font-family: ui-monospace, "SFMono-Regular", Menlo, Consolas, "Liberation Mono", "DejaVu Sans Mono", monospace;
  font-size: 0.875em;
}
.over { color: var(--soft); font-size: 0.875rem; margin-bottom: 0.2rem; }
.soft { color: var(--soft); }
.small { font-size: 0.875rem; }
section, .verdict {
  background: var(--card); border: 1px solid var(--faint); border-radius: 10px; padding: 1.4rem 1.5rem;
  margin-top: 1.1rem;
}
section > h2 + p.soft { margin-top: 0.15rem; }

.verdict {
  display: grid; grid-template-columns: auto 1fr; gap: 0 1rem; border-width: 0 0 0 5px;
  border-radius: 6px 10px 10px 6px;
}
.verdict .sign { width: 2rem; height: 2rem; margin-top: 0.15rem; }
.verdict strong { display: block; font-size: 1.375rem; line-height: 1.3; font-weight: 680; letter-spacing: -0.01em; }
.verdict p { max-width: 46rem; }
.verdict p + p { margin-top: 0.5rem; }
.verdict .cause { font-weight: 600; }
.verdict.passed { background: var(--green-wash); border-color: var(--green); }
.verdict.passed strong { color: var(--green); }
.verdict.failed { background: var(--red-wash); border-color: var(--red); }
.verdict.failed strong { color: var(--red); }
.verdict.error { background: var(--red-wash); border-color: var(--red); } .verdict.error strong { color: var(--red); }
.verdict.skipped { background: var(--grey-wash); border-color: var(--soft); }
.verdict.skipped strong { color: var(--soft); }

.sign { display: block; fill: none; stroke-width: 2; stroke-linecap: round; stroke-linejoin: round; }
.sign.passed { stroke: var(--green); }
.sign.failed, .sign.error { stroke: var(--red); }
.sign.skipped { stroke: var(--soft); }

.tiles { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); margin-top: 1.1rem; background: var(--card);
  border: 1px solid var(--faint); border-radius: 10px; }
.tiles > div { padding: 1.1rem 1.25rem; border-left: 1px solid var(--faint); }
.tiles > div:first-child { border-left: 0; }
.tiles dt { font-size: 0.875rem; color: var(--soft); }
.tiles dd { font-size: 1.5rem; line-height: 1.3; font-weight: 650; letter-spacing: -0.015em; }
.tiles dd.small {
  font-size: 0.8125rem; line-height: 1.4; font-weight: 400; letter-spacing: 0; color: var(--soft);
  margin-top: 0.25rem;
}
.tiles .bad { color: var(--red); }

.notes { list-style: none; margin-top: 1.1rem; }
.notes li {
  background: var(--amber-wash); border-left: 3px solid var(--amber); border-radius: 4px; padding: 0.6rem 1rem;
  font-size: 0.9375rem;
}
.notes li + li { margin-top: 0.4rem; }

.facts {
  display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 0.35rem 1.5rem; margin-top: 0.75rem;
  font-size: 0.9375rem;
}
.facts dt { color: var(--soft); }
.pairs {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 0.9rem 1.25rem;
  margin-top: 0.85rem;
}
.pairs dt { color: var(--soft); font-size: 0.875rem; }
.pairs dd { font-weight: 600; }

.group { margin-top: 1.1rem; font-size: 0.875rem; font-weight: 600; color: var(--soft); }
.group.failed { color: var(--red); }
.checks { list-style: none; margin-top: 0.35rem; }
.check { display: grid; grid-template-columns: 1.25rem minmax(0, 1.35fr) minmax(0, 1fr) 4.5rem;
  gap: 0.2rem 0.85rem; padding: 0.65rem 0; border-top: 1px solid var(--faint); }
.check .sign { width: 1.25rem; height: 1.25rem; margin-top: 0.1rem; }
.check p { font-size: 0.9375rem; color: var(--soft); }
.check dl {
  display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0.2rem 0.85rem; font-size: 0.875rem;
  align-content: start;
}
.check dt { color: var(--soft); font-size: 0.8125rem; }
.check dl .both { grid-column: 1 / -1; }
.check dl i { font-style: normal; color: var(--soft); }
.check dd + dd { margin-top: 0.15rem; }
.check .took { text-align: right; color: var(--soft); font-size: 0.875rem; white-space: nowrap; }
.check.failed { background: var(--red-wash); border: 0; border-radius: 8px; padding: 0.9rem 1rem; }
.check.failed + .check.failed { margin-top: 0.5rem; }
.check.failed p { color: var(--ink); }
.check.failed .found dd { color: var(--red); font-weight: 600; }

svg text { font: inherit; font-size: 13px; fill: var(--ink); }
svg .tick { font-size: 12px; fill: var(--soft); }
svg .figure, svg .end { text-anchor: end; }
svg .figure { font-weight: 600; }
svg .grid { stroke: var(--faint); } svg .base { stroke: var(--grey); }
svg .track { fill: var(--track); } svg .bar { fill: var(--blue); } svg .bar.after { fill: var(--grey); }
svg .mark { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 4 3; }
svg .marked { font-weight: 650; }
svg .line { stroke: var(--blue); stroke-width: 1.75; stroke-linecap: round; }
svg .dot { fill: var(--blue); stroke: var(--card); stroke-width: 1.5; }
svg .cross { stroke: var(--red); stroke-width: 2.5; stroke-linecap: round; fill: none; }
svg .ring { fill: none; stroke: var(--soft); stroke-width: 1.5; }
.timeline, .plot { display: block; margin-top: 1rem; overflow: visible; }
.legend {
  display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; margin-top: 0.75rem; font-size: 0.8125rem;
  color: var(--soft);
}
.legend span { display: inline-flex; align-items: center; gap: 0.45rem; }
.legend svg { flex: none; }
.plots { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.5rem 2rem; margin-top: 1rem; }
figcaption { font-size: 0.875rem; color: var(--soft); }
figcaption b { display: block; font-size: 1rem; font-weight: 600; color: var(--ink); }

.scroll { overflow-x: auto; margin-top: 1rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.9375rem; }
caption { text-align: left; }
th, td {
  text-align: left; vertical-align: top; padding: 0.45rem 1.25rem 0.45rem 0; border-bottom: 1px solid var(--faint);
  overflow-wrap: normal;
}
th:last-child, td:last-child { padding-right: 0; }
thead th { font-size: 0.8125rem; font-weight: 500; color: var(--soft); }
tbody th { font-weight: 500; overflow-wrap: anywhere; }
.n { text-align: right; white-space: nowrap; }
tfoot td, tfoot th { border-bottom: 0; border-top: 1px solid var(--grey); font-weight: 650; }
.when, .result { white-space: nowrap; }
.result.passed { color: var(--green); }
.result.failed, .result.error { color: var(--red); font-weight: 600; }
.result.skipped { color: var(--soft); }
tr.current th, tr.current td { background: var(--track); }
tr.current th:first-child {
  box-shadow: -0.5rem 0 var(--track); } tr.current td:last-child { box-shadow: 0.5rem 0 var(--track);
}
.what { min-width: 9rem; overflow-wrap: anywhere; }
footer { margin-top: 1.5rem; font-size: 0.8125rem; color: var(--soft); }

@media screen and (max-width: 50rem) {
  body { padding: 1.25rem 0.85rem 2rem; }
  h1 { font-size: 1.375rem; }
  section, .verdict { padding: 1.1rem 1rem; }
  .verdict { gap: 0 0.7rem; } .verdict .sign { width: 1.6rem; height: 1.6rem; } .verdict strong { font-size: 1.2rem; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .tiles > div { padding: 0.85rem 1rem; } .tiles dd { font-size: 1.25rem; }
  .tiles > div:nth-child(odd) { border-left: 0; }
.tiles > div:nth-child(n + 3) { border-top: 1px solid var(--faint); }
  .plots { grid-template-columns: minmax(0, 1fr); }
  .check { grid-template-columns: 1.25rem minmax(0, 1fr) auto; }
  .check dl { grid-column: 2 / -1; grid-row: 2; }
  .facts { grid-template-columns: minmax(0, 1fr); gap: 0; } .facts dd { margin-bottom: 0.6rem; }
  th, td { padding-right: 0.9rem; }
  .wide { display: none; }
}

@media print {
  @page { margin: 14mm; }
  :root {
    color-scheme: light;
    --ground: #ffffff; --card: #ffffff; --ink: #000000; --soft: #4a5462; --faint: #d3d8df; --track: #edf0f4;
    --blue: #2563a8; --grey: #98a5b5; --green: #17734a; --red: #b3261e; --amber: #855600;
    --green-wash: #e8f5ee; --red-wash: #fcecea; --amber-wash: #fbf2df; --grey-wash: #edf0f4;
  }
  body { padding: 0; font-size: 10pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  section { border-width: 1px 0 0; border-radius: 0; padding: 0.9rem 0 0; }
  .check, .tiles, .verdict, figure, tr, .notes li { break-inside: avoid; }
  h2, .group { break-after: avoid; }
  a { color: inherit; text-decoration: none; }
  .scroll { overflow: visible; }
}
"""
