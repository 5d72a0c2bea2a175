"""The chart of a benchmark run."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree as ET

from benchmarks.catalogue import FLOORS, OURS, RIVALS
from benchmarks.chart import PANELS, svg
from benchmarks.contender import Entry
from benchmarks.measures import Summary

SVG = "{http://www.w3.org/2000/svg}"
ROWS: tuple[Entry, ...] = (FLOORS[0], OURS[0], RIVALS[0])


def drawn(rows: tuple[Entry, ...], *found: tuple[str, str, Summary]) -> ET.Element:
    """Draw these figures of these rows."""
    figures = {(name, measure): summary for name, measure, summary in found}
    return ET.fromstring(svg(rows, figures, "2 cores & a <broker>"))  # noqa: S314 - our own text


def groups(picture: ET.Element) -> list[ET.Element]:
    """Return the rows of all panels."""
    return list(picture.iter(f"{SVG}g"))


def words(element: ET.Element) -> list[str]:
    """Return what is written."""
    return ["".join(text.itertext()) for text in element.iter(f"{SVG}text")]


def width(group: ET.Element) -> float:
    """Return the length of the bar."""
    (bar,) = group.iter(f"{SVG}rect")
    return float(bar.attrib["width"])


def test_bars_are_as_long_as_their_medians() -> None:
    """Within a panel the scale begins at zero and is the same for all rows; each names its kind, itself and its figure."""
    found = [
        (entry.name, "publish_per_s", Summary(value, value, value, 3))
        for entry, value in zip(ROWS, (4000, 2000, 500), strict=True)
    ]
    floor, ours, rival = groups(drawn(ROWS, *found))
    assert [group.attrib["class"] for group in (floor, ours, rival)] == ["floor", "ours", "rival"]
    assert width(floor) / width(ours) == 2.0
    assert round(width(ours) / width(rival), 2) == 4.0
    assert words(ours) == [OURS[0].name, "2,000"]


def test_a_line_goes_from_the_lowest_to_the_highest_round() -> None:
    """The spread is drawn on the scale of the bars, and only where there is more than one round."""
    found = [
        (ROWS[0].name, "publish_per_s", Summary(100.0, 50.0, 200.0, 3)),
        (ROWS[1].name, "publish_per_s", Summary(100.0, 100.0, 100.0, 1)),
    ]
    spread, single = groups(drawn(ROWS, *found))
    (path,) = spread.iter(f"{SVG}path")
    begin, end = (float(number) for number in re.findall(r"^M([\d.]+) [\d.]+H([\d.]+)", path.attrib["d"])[0])
    (bar,) = spread.iter(f"{SVG}rect")
    left = float(bar.attrib["x"])
    assert round((begin - left) / width(spread), 2) == 0.5
    assert round((end - left) / width(spread), 2) == 2.0
    assert list(single.iter(f"{SVG}path")) == []


def test_what_was_not_measured_is_left_out() -> None:
    """No panel without a row, no row without a figure."""
    picture = drawn(ROWS, (ROWS[2].name, "round_trip_p50_ms", Summary(1.5, 1.0, 2.0, 3)))
    assert len(groups(picture)) == 1
    headings = [panel.heading for panel in PANELS if panel.heading in words(picture)]
    assert headings == ["Round trip of one call, milliseconds, 50th percentile"]


def test_words_are_escaped() -> None:
    """What the machine or a row is called cannot break the picture."""
    odd = replace(ROWS[0], name="a<b>&c")
    picture = drawn((odd,), ("a<b>&c", "publish_per_s", Summary(1.0, 1.0, 1.0, 1)))
    assert {"a<b>&c", "2 cores & a <broker>"} <= set(words(picture))
