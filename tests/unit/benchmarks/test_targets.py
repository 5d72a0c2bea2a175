"""What the benchmark makes of its figures: medians, ratios, verdicts, files."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import measures, targets
from benchmarks.catalogue import ENTRIES
from benchmarks.measures import Sample, Summary
from benchmarks.targets import TARGETS, Target

BATCH = Target("publish", "of the C client's rate", "ours", "publish_per_s", "c", "at least", 0.75)
PROCESSOR = Target("publish", "us of CPU", "ours", "publish_cpu_us", None, "at most", 25)


def summary(value: float) -> Summary:
    """Return one round."""
    return Summary(value, value, value, 1)


def test_rounds_become_their_median_with_the_lowest_and_the_highest() -> None:
    """The middle round counts, not the mean, and the spread is half the range in percent of it."""
    samples = [Sample(number, "ours", "publish_per_s", value) for number, value in enumerate((100.0, 400.0, 120.0))]
    found = measures.summaries(samples)
    assert found == {("ours", "publish_per_s"): Summary(120.0, 100.0, 400.0, 3)}
    assert found["ours", "publish_per_s"].spread_percent == pytest.approx(125.0)


@pytest.mark.parametrize(("own", "holds"), [(75.0, True), (74.9, False), (200.0, True)])
def test_a_ratio_is_held_to_its_lower_bound(own: float, holds: bool) -> None:
    """A ratio is our median divided by the other's; the bound itself is within."""
    found = {("ours", "publish_per_s"): summary(own), ("c", "publish_per_s"): summary(100.0)}
    (verdict,) = targets.verdicts(found, [BATCH])
    assert verdict.value == pytest.approx(own / 100)
    assert verdict.holds is holds


@pytest.mark.parametrize(("own", "holds"), [(25.0, True), (25.1, False), (3.0, True)])
def test_a_figure_without_a_rival_is_held_to_its_upper_bound(own: float, holds: bool) -> None:
    """A target against nobody is the figure itself."""
    (verdict,) = targets.verdicts({("ours", "publish_cpu_us"): summary(own)}, [PROCESSOR])
    assert (verdict.value, verdict.holds) == (own, holds)


@pytest.mark.parametrize("measured", [(), ("ours",), ("c",)])
def test_what_was_not_measured_is_neither_held_nor_missed(measured: tuple[str, ...]) -> None:
    """A ratio needs both rows."""
    found = {(name, "publish_per_s"): summary(1.0) for name in measured}
    (verdict,) = targets.verdicts(found, [BATCH])
    assert (verdict.value, verdict.holds, verdict.word) == (None, None, "not measured")


def test_every_target_names_a_row_and_a_figure_that_exist() -> None:
    """A renamed row would leave its targets unmeasured for ever."""
    rows = {entry.name: entry for entry in ENTRIES}
    assert targets.needed() - set(rows) == set()
    for target in TARGETS:
        assert target.measure in {measure.key for measure in measures.MEASURES}, target
        for name in filter(None, (target.contender, target.against)):
            assert rows[name].results or not target.measure.startswith(("results", "round_trip")), target


def test_rows_have_names_of_their_own() -> None:
    """Figures are kept by the name of the row."""
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)


def test_the_table_says_what_holds_and_what_does_not() -> None:
    """Each target is printed with its bound, its figure and a word."""
    found = {("ours", "publish_per_s"): summary(50.0), ("c", "publish_per_s"): summary(100.0)}
    console = Console(file=io.StringIO(), width=160)
    targets.print_verdicts(console, targets.verdicts(found, [BATCH, PROCESSOR]))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    (ratio,) = (line for line in lines if "of the C client's rate" in line)
    (processor,) = (line for line in lines if "us of CPU" in line)
    assert all(word in ratio for word in ("at least 0.75", "0.50", "DOES NOT HOLD"))
    assert all(word in processor for word in ("at most 25", "not measured"))


def test_verdicts_are_written_one_to_a_line(tmp_path: Path) -> None:
    """The file has the figures and the verdict."""
    found = {("ours", "publish_per_s"): summary(80.0), ("c", "publish_per_s"): summary(100.0)}
    targets.write_verdicts(tmp_path / "targets.csv", targets.verdicts(found, [BATCH, PROCESSOR]))
    with (tmp_path / "targets.csv").open(newline="") as file:
        held, unknown = csv.DictReader(file)
    assert (held["against"], held["limit"], held["measured"], held["verdict"]) == ("c", "0.75", "0.800", "holds")
    assert (unknown["against"], unknown["measured"], unknown["verdict"]) == ("", "", "not measured")


def test_the_summary_has_a_line_per_row_and_three_columns_per_figure(tmp_path: Path) -> None:
    """Median, lowest and highest; empty where a library cannot."""
    entry = ENTRIES[0]
    measures.write_summary(tmp_path / "s.csv", [entry], {(entry.name, "publish_per_s"): Summary(2.0, 1.0, 4.0, 3)})
    with (tmp_path / "s.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["contender"], row["late_ack"]) == (entry.name, entry.facts.late_ack)
    figures = [row["publish_per_s"], row["publish_per_s_low"], row["publish_per_s_high"], row["results_per_s"]]
    assert figures == ["2.000", "1.000", "4.000", ""]
