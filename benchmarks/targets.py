"""Must show: what amqpq holds itself to, as ratios of medians of one run.

Absolute figures move by a third between runs and machines, a ratio within one run much less; only CPU per message has a
limit of its own. A target whose rows were not measured is neither held nor missed, and `--check` says so.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from rich.console import Console
from rich.table import Table

from benchmarks.measures import Summary

Bound: TypeAlias = Literal["at least", "at most"]
Found: TypeAlias = Mapping[tuple[str, str], Summary]

C = "librabbitmq (C)"
BARE = "py-amqp"

PUBLISH_CPU_US, WORK_CPU_US = 24.5, 44.5
"""CPU of bare py-amqp per publish, and per delivery with its ack, on the machine for which the limits of ours were set.

A slower machine, or one with less cache to itself, takes more for both; so the limits are held as ratios, too."""
BATCH = "amqpq, HMAC, batch"
STREAM = "amqpq, HMAC, stream"
DIRECT = "amqpq, HMAC, direct"
DIRECT_BATCH = "amqpq, HMAC, direct, batch"
TASK_FLOOR = "py-amqp, queue per task"
DIRECT_FLOOR = "py-amqp, direct"


@dataclass(frozen=True, slots=True)
class Target:
    """`contender`'s `measure`, divided by that of `against` (None: the figure itself), held to a bound."""

    group: str
    says: str
    contender: str
    measure: str
    against: str | None
    bound: Bound
    limit: float

    def value(self, found: Found) -> float | None:
        """Return the ratio (or the figure), or None where a row was not measured."""
        own = found.get((self.contender, self.measure))
        if own is None:
            return None
        if self.against is None:
            return own.median
        other = found.get((self.against, self.measure))
        return None if other is None or not other.median else own.median / other.median

    def holds(self, value: float) -> bool:
        """Tell whether `value` is within the bound."""
        return value >= self.limit if self.bound == "at least" else value <= self.limit


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what became of it; `holds` is None where it was not measured."""

    target: Target
    value: float | None
    holds: bool | None

    @property
    def word(self) -> str:
        """Return the verdict in words."""
        return {True: "holds", False: "DOES NOT HOLD", None: "not measured"}[self.holds]


TARGETS: tuple[Target, ...] = (
    Target("publish", "stream, of the C client's unconfirmed rate", STREAM, "publish_per_s", C, "at least", 0.75),
    Target("publish", "us of CPU per message, batch, HMAC", BATCH, "publish_cpu_us", None, "at most", 25),
    Target(
        "publish",
        "us of CPU per message, batch, Ed25519",
        "amqpq, Ed25519, batch",
        "publish_cpu_us",
        None,
        "at most",
        55,
    ),
    Target("publish", "CPU, batch, HMAC, of py-amqp's", BATCH, "publish_cpu_us", BARE, "at most", 25 / PUBLISH_CPU_US),
    Target(
        "publish",
        "CPU, batch, Ed25519, of py-amqp's",
        "amqpq, Ed25519, batch",
        "publish_cpu_us",
        BARE,
        "at most",
        55 / PUBLISH_CPU_US,
    ),
    Target(
        "publish",
        "one delay() with confirm, p50, of py-amqp's publish and confirm",
        "amqpq, HMAC",
        "publish_p50_ms",
        "py-amqp, confirms",
        "at most",
        1.25,
    ),
    Target("end to end", "of Celery prefork's rate", STREAM, "end_to_end_per_s", "Celery prefork", "at least", 5),
    Target("end to end", "of dramatiq's rate, without confirms", STREAM, "end_to_end_per_s", "dramatiq", "at least", 2),
    Target(
        "end to end", "of dramatiq's rate, confirms", STREAM, "end_to_end_per_s", "dramatiq, confirms", "at least", 8
    ),
    Target("end to end", "of the C client's rate", STREAM, "end_to_end_per_s", C, "at least", 0.3),
    Target(
        "end to end", "us of CPU per task, parent and children", STREAM, "end_to_end_worker_cpu_us", None, "at most", 90
    ),
    Target(
        "end to end",
        "CPU per task, of py-amqp's",
        STREAM,
        "end_to_end_worker_cpu_us",
        BARE,
        "at most",
        90 / WORK_CPU_US,
    ),
    Target("direct replies", "of Celery's rate", DIRECT_BATCH, "results_per_s", "Celery prefork", "at least", 8),
    Target("direct replies", "of the C client's calls", DIRECT_BATCH, "results_per_s", C, "at least", 0.25),
    Target("direct replies", "round trip p50, of py-amqp's", DIRECT, "round_trip_p50_ms", DIRECT_FLOOR, "at most", 1.8),
    Target("direct replies", "round trip p99, of py-amqp's", DIRECT, "round_trip_p99_ms", DIRECT_FLOOR, "at most", 2.5),
    Target(
        "queue per task", "of py-amqp's with the same operations", BATCH, "results_per_s", TASK_FLOOR, "at least", 0.9
    ),
    Target("queue per task", "of Celery's rate", BATCH, "results_per_s", "Celery prefork", "at least", 1.0),
    Target(
        "queue per task",
        "round trip p50, of py-amqp's",
        "amqpq, HMAC",
        "round_trip_p50_ms",
        TASK_FLOOR,
        "at most",
        1.25,
    ),
)


def needed(targets: Iterable[Target] = TARGETS) -> set[str]:
    """Return the rows that the targets are computed from."""
    return {name for target in targets for name in (target.contender, target.against) if name is not None}


def verdicts(found: Found, targets: Iterable[Target] = TARGETS) -> list[Verdict]:
    """Return what became of each target."""
    values = [(target, target.value(found)) for target in targets]
    return [Verdict(target, value, None if value is None else target.holds(value)) for target, value in values]


def print_verdicts(console: Console, verdicts: Sequence[Verdict]) -> None:
    """Print the table of the targets."""
    table = Table(title="Must show (ratios of the medians of this run)", title_justify="left")
    for heading in ("", "what", "row", "against"):
        table.add_column(heading)
    for heading in ("target", "measured"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for verdict in verdicts:
        target = verdict.target
        style = {True: "green", False: "red", None: "yellow"}[verdict.holds]
        measured = "-" if verdict.value is None else f"{verdict.value:.2f}"
        bound = f"{target.bound} {target.limit:.3g}"
        cells = (target.group, target.says, target.contender, target.against or "", bound, measured)
        table.add_row(*cells, f"[{style}]{verdict.word}[/]")
    console.print(table)


def write_verdicts(path: Path, verdicts: Iterable[Verdict]) -> None:
    """Write one line per target."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["group", "what", "contender", "measure", "against", "bound", "limit", "measured", "verdict"])
        for verdict in verdicts:
            target = verdict.target
            measured = "" if verdict.value is None else f"{verdict.value:.3f}"
            row = [target.group, target.says, target.contender, target.measure, target.against or ""]
            writer.writerow([*row, target.bound, f"{target.limit:.3g}", measured, verdict.word])
