"""The figures of a run as one SVG: bars of the medians, with a line from the lowest to the highest round.

No font, script or picture is loaded, and it reads on light and dark pages alike. Each panel has a scale of its own that
begins at zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from benchmarks.catalogue import FLOORS, OURS
from benchmarks.contender import Entry
from benchmarks.measures import Summary

FONT: Final = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif'
WIDTH: Final = 880
MARGIN: Final = 24
NAMES: Final = 212
"""Room for the names, pixels."""
VALUES: Final = 110
"""Room for the number beside the longest bar."""
ROW: Final = 22
BAR: Final = 14
HEADING: Final = 40

SHEET: Final = f"""\
.bench text {{ font: 12px {FONT}; fill: #1b2430; }}
.bench .title {{ font-size: 17px; font-weight: 600; }}
.bench .panel {{ font-size: 13px; font-weight: 600; }}
.bench .faint {{ fill: #5d6875; font-size: 11px; }}
.bench .ours text {{ font-weight: 600; }}
.bench .paper {{ fill: #ffffff; }}
.bench .floor rect {{ fill: #b4bcc6; }}
.bench .ours rect {{ fill: #3b7dd8; }}
.bench .rival rect {{ fill: #d9a437; }}
.bench .spread {{ stroke: #1b2430; stroke-width: 1.3; fill: none; }}
@media (prefers-color-scheme: dark) {{
  .bench .paper {{ fill: #12161c; }}
  .bench text {{ fill: #e6eaef; }}
  .bench .faint {{ fill: #98a3af; }}
  .bench .floor rect {{ fill: #5b6570; }}
  .bench .ours rect {{ fill: #5a9bee; }}
  .bench .rival rect {{ fill: #b98522; }}
  .bench .spread {{ stroke: #e6eaef; }}
}}
"""


@dataclass(frozen=True, slots=True)
class Panel:
    """One group of bars: a measure, its heading, the digits after the point, and which way is better."""

    measure: str
    heading: str
    digits: int
    better: str


PANELS: tuple[Panel, ...] = (
    Panel("publish_per_s", "Published, messages a second", 0, "longer is faster"),
    Panel("end_to_end_per_s", "End to end without result, tasks a second", 0, "longer is faster"),
    Panel("results_per_s", "End to end with result, calls a second", 0, "longer is faster"),
    Panel("round_trip_p50_ms", "Round trip of one call, milliseconds, 50th percentile", 2, "shorter is faster"),
)


def svg(entries: Sequence[Entry], found: Mapping[tuple[str, str], Summary], about: str) -> str:
    """Return the chart; `about` is the line of the machine. Panels and rows without a figure are left out."""
    body: list[str] = []
    top = 66.0
    for panel in PANELS:
        rows = [(entry, found[entry.name, panel.measure]) for entry in entries if (entry.name, panel.measure) in found]
        if rows:
            body += _panel(panel, rows, top)
            top += HEADING + ROW * len(rows) + 14
    size = f'width="{WIDTH}" height="{top + MARGIN:.0f}"'
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="bench" role="img" {size} viewBox="0 0 {WIDTH} {top + MARGIN:.0f}">',
            "<title>amqpq beside bare drivers and other libraries</title>",
            f"<style>\n{SHEET}</style>",
            f'<rect class="paper" {size} rx="10"/>',
            f'<text class="title" x="{MARGIN}" y="34">amqpq beside bare drivers and other libraries</text>',
            f'<text class="faint" x="{MARGIN}" y="54">{escape(about)}</text>',
            *body,
            f'<text class="faint" x="{MARGIN}" y="{top + 6:.0f}">{_legend(found)}</text>',
            "</svg>\n",
        )
    )


def _legend(found: Mapping[tuple[str, str], Summary]) -> str:
    rounds = max((summary.rounds for summary in found.values()), default=0)
    of_rounds = f"medians of {rounds} rounds, lines from the lowest to the highest" if rounds > 1 else "one round"
    return f"grey: bare drivers, no framework; blue: amqpq; yellow: other libraries. {of_rounds}"


def _panel(panel: Panel, rows: Sequence[tuple[Entry, Summary]], top: float) -> Iterator[str]:
    longest = max(summary.high for _, summary in rows) or 1.0
    scale = (WIDTH - 2 * MARGIN - NAMES - VALUES) / longest
    yield f'<text class="panel" x="{MARGIN}" y="{top + 24:.0f}">{escape(panel.heading)}</text>'
    yield f'<text class="faint" x="{WIDTH - MARGIN}" y="{top + 24:.0f}" text-anchor="end">{panel.better}</text>'
    left = MARGIN + NAMES
    for number, (entry, summary) in enumerate(rows):
        y = top + HEADING + ROW * number
        middle = y + BAR / 2
        end = left + summary.high * scale
        yield f'<g class="{_kind(entry)}">'
        yield f'<text x="{left - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(entry.name)}</text>'
        yield f'<rect x="{left}" y="{y:.1f}" width="{summary.median * scale:.1f}" height="{BAR}" rx="2"/>'
        if summary.rounds > 1:
            low = left + summary.low * scale
            yield f'<path class="spread" d="M{low:.1f} {middle:.1f}H{end:.1f}m0-3v6M{low:.1f} {middle - 3:.1f}v6"/>'
        yield f'<text x="{end + 8:.1f}" y="{middle + 4:.1f}">{summary.median:,.{panel.digits}f}</text>'
        yield "</g>"


def _kind(entry: Entry) -> str:
    if entry in OURS:
        return "ours"
    return "floor" if entry in FLOORS else "rival"
