"""What is measured, how rounds become one figure, and how a run is written down (tables, CSV)."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.contender import Entry, Facts


@dataclass(frozen=True, slots=True)
class Measure:
    """One column: the key that the driver reports, its heading, and the digits after the point."""

    key: str
    heading: str
    digits: int = 0


MEASURES: tuple[Measure, ...] = (
    Measure("publish_per_s", "publish\n1/s"),
    Measure("publish_cpu_us", "CPU per\npublish us"),
    Measure("publish_broker_cpu_us", "broker CPU\nper publish us"),
    Measure("publish_p50_ms", "one publish\np50 ms", 2),
    Measure("end_to_end_per_s", "end to end\nno result 1/s"),
    Measure("end_to_end_worker_cpu_us", "worker CPU\nper task us"),
    Measure("end_to_end_broker_cpu_us", "broker CPU\nper task us"),
    Measure("results_per_s", "end to end\nresult 1/s"),
    Measure("results_client_cpu_us", "client CPU\nper call us"),
    Measure("results_worker_cpu_us", "worker CPU\nper call us"),
    Measure("round_trip_p50_ms", "round trip\np50 ms", 2),
    Measure("round_trip_p99_ms", "p99 ms", 2),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure of one round."""

    round: int
    contender: str
    measure: str
    value: float


@dataclass(frozen=True, slots=True)
class Summary:
    """The median of the rounds, and the smallest and largest of them."""

    median: float
    low: float
    high: float
    rounds: int

    @property
    def spread_percent(self) -> float:
        """How far the rounds lie apart, as half their range in percent of the median."""
        return 50 * (self.high - self.low) / self.median if self.median else 0.0


def summaries(samples: Iterable[Sample]) -> dict[tuple[str, str], Summary]:
    """Return the summary of each (contender, measure)."""
    values: dict[tuple[str, str], list[float]] = {}
    for sample in samples:
        values.setdefault((sample.contender, sample.measure), []).append(sample.value)
    return {key: Summary(median(found), min(found), max(found), len(found)) for key, found in values.items()}


def print_facts(console: Console, entries: Sequence[Entry]) -> None:
    """Print what each contender has switched on."""
    table = Table(title="Switched on", title_justify="left")
    for heading in ("contender", "confirm", "late ack", "signing", "persistent", "replies", "worker"):
        table.add_column(heading)
    for entry in entries:
        table.add_row(entry.name, *astuple(entry.facts))
    console.print(table)


def print_figures(console: Console, entries: Sequence[Entry], found: Mapping[tuple[str, str], Summary]) -> None:
    """Print medians, each with the half range of its rounds in percent; a dash is what a library cannot do."""
    table = Table(title="Measured (median, ± half the range of the rounds)", title_justify="left")
    table.add_column("contender")
    for measure in MEASURES:
        table.add_column(measure.heading, justify="right")
    for entry in entries:
        table.add_row(entry.name, *(_cell(found.get((entry.name, measure.key)), measure) for measure in MEASURES))
    console.print(table)


def _cell(summary: Summary | None, measure: Measure) -> str:
    if summary is None:
        return "-"
    figure = f"{summary.median:,.{measure.digits}f}"
    return f"{figure} ±{summary.spread_percent:.0f}%" if summary.rounds > 1 else figure


def write_rounds(path: Path, samples: Iterable[Sample]) -> None:
    """Write every figure of every round."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Sample)])
        writer.writerows(astuple(sample) for sample in samples)


def write_summary(path: Path, entries: Sequence[Entry], found: Mapping[tuple[str, str], Summary]) -> None:
    """Write one line per contender: what it had switched on, then median, low and high of each measure."""
    headings = [f"{measure.key}{suffix}" for measure in MEASURES for suffix in ("", "_low", "_high")]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["contender", *(field.name for field in fields(Facts)), *headings])
        for entry in entries:
            figures: list[object] = []
            for measure in MEASURES:
                summary = found.get((entry.name, measure.key))
                figures += (
                    ["", "", ""]
                    if summary is None
                    else [f"{value:.3f}" for value in (summary.median, summary.low, summary.high)]
                )
            writer.writerow([entry.name, *astuple(entry.facts), *figures])
