"""`python -m benchmarks`: all contenders, in turn, on one broker; prints three tables, writes CSV files and a chart.

Rounds alternate their order (forward, backward, forward), so that neither a warming broker nor a tiring machine favours
whoever comes first. A contender that fails is reported, and the exit code is 1. One that lacks something on this machine is
skipped, with the command that installs it; with `--strict` that is a failure too.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import chart, drive, measures, needs, targets
from benchmarks.broker import broker
from benchmarks.catalogue import ENTRIES
from benchmarks.contender import PAYLOAD, PREFETCH, Entry
from benchmarks.contenders import librabbitmq
from benchmarks.contenders.bare_amqp import connect
from benchmarks.measures import Sample

RESULTS = Path(__file__).resolve().parent / "results"

FULL = drive.Counts(publish=1000, collect=400, round_trips=300)
QUICK = drive.Counts(publish=200, collect=100, round_trips=50)
FULL_ROUNDS = 3
LIBRARIES = (
    *("amqpq", "amqp", "pika", "celery", "kombu", "dramatiq"),
    *("taskiq", "taskiq-aio-pika", "faststream", "aio-pika", "aiormq"),
)


def run(
    console: Console, entries: Sequence[Entry], url: str, counts: drive.Counts, rounds: int
) -> tuple[list[Sample], list[str]]:
    """Run all rounds and return the samples and what failed."""
    samples: list[Sample] = []
    failures: list[str] = []
    for number in range(1, rounds + 1):
        for entry in entries if number % 2 else reversed(entries):
            started = time.monotonic()
            try:
                figures = drive.measured(entry, url, counts)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                failures.append(f"round {number}: {error}")
                console.print(f"round {number}/{rounds}  {entry.name}: failed", style="red", highlight=False)
                continue
            samples += [Sample(number, entry.name, measure, value) for measure, value in figures.items()]
            console.print(
                f"round {number}/{rounds}  {entry.name}: {time.monotonic() - started:.1f} s",
                style="dim",
                highlight=False,
            )
    return samples, failures


def chosen(only: str | None, *, quick: bool, check: bool = False) -> list[Entry]:
    """Return the rows to run: those named, or `quick` ones, or those that the targets need, or all.

    Raises:
        SystemExit: `only` names a row that does not exist.
    """
    if only is None:
        wanted = targets.needed() if check else {entry.name for entry in ENTRIES}
        return [entry for entry in ENTRIES if (entry.quick or not quick) and entry.name in wanted]
    words = [word.strip() for word in only.split(";")]
    by_name = {entry.name: entry for entry in ENTRIES}
    unknown = [word for word in words if word not in by_name]
    if unknown:
        message = f"no contender {', '.join(map(repr, unknown))}; there are: {'; '.join(by_name)}"
        raise SystemExit(message)
    return [by_name[word] for word in words]


def machine(url: str) -> str:
    """Return what the figures depend on: machine, versions, broker."""
    connection = connect(url, confirm=False)
    broker_version = connection.server_properties["version"]
    connection.close()
    libraries = ", ".join((*(f"{name} {_version(name)}" for name in LIBRARIES), f"librabbitmq {librabbitmq.version()}"))
    cores = len(os.sched_getaffinity(0))
    return (
        f"{platform.system()} {platform.release()}, {cores} cores, Python {platform.python_version()}, "
        f"RabbitMQ {broker_version} on the same machine\n{libraries}\n"
        f"payload {len(PAYLOAD)} bytes, persistent, classic durable queue, prefetch {PREFETCH} for everybody"
    )


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "(this checkout)" if library == "amqpq" else "(absent)"


def able(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """Return the rows that can run on this machine, and a sentence for each that cannot."""
    lacks = {module: needs.missing(module) for module in {entry.module for entry in entries}}
    skipped = [f"SKIPPED: {entry.name}. {lack}" for entry in entries if (lack := lacks[entry.module]) is not None]
    return [entry for entry in entries if lacks[entry.module] is None], skipped


def write(folder: Path, about: str, entries: Sequence[Entry], samples: Sequence[Sample]) -> str:
    """Write the files of a run into `folder`; return what their names begin with."""
    found = measures.summaries(samples)
    stamp = time.strftime("%Y-%m-%d-%H%M")
    folder.mkdir(parents=True, exist_ok=True)
    measures.write_rounds(folder / f"{stamp}-rounds.csv", samples)
    measures.write_summary(folder / f"{stamp}-summary.csv", entries, found)
    targets.write_verdicts(folder / f"{stamp}-targets.csv", targets.verdicts(found))
    (folder / f"{stamp}-machine.txt").write_text(about + "\n")
    (folder / f"{stamp}-chart.svg").write_text(chart.svg(entries, found, about.splitlines()[0]))
    return stamp


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, one row per library, under a minute")
    parser.add_argument("--rounds", type=int, help=f"how often each contender is measured (default: {FULL_ROUNDS})")
    parser.add_argument("--only", metavar="NAMES", help="these rows, separated by ';'")
    parser.add_argument(
        "--check", action="store_true", help="the rows that the targets need; exit code 1 if one is missed"
    )
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a row had to be skipped")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the files (default: %(default)s)")
    return parser.parse_args()


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    options = arguments()
    entries, skipped = able(chosen(options.only, quick=options.quick, check=options.check))
    rounds = options.rounds or (1 if options.quick else FULL_ROUNDS)
    console = Console(width=None if sys.stdout.isatty() else 200)
    for sentence in skipped:
        console.print(sentence, style="yellow", highlight=False, markup=False)
    started = time.monotonic()
    with broker() as url:
        about = machine(url)
        console.print(about, highlight=False)
        samples, failures = run(console, entries, url, QUICK if options.quick else FULL, rounds)
    found = measures.summaries(samples)
    verdicts = targets.verdicts(found)
    measures.print_facts(console, entries)
    measures.print_figures(console, entries, found)
    targets.print_verdicts(console, verdicts)
    stamp = write(options.output, about, entries, samples)
    console.print(f"{time.monotonic() - started:.0f} s; written to {options.output}/{stamp}-*", highlight=False)
    for sentence in (*skipped, *failures):
        console.print(sentence, style="red", highlight=False, markup=False)
    missed = options.check and not all(verdict.holds for verdict in verdicts)
    return int(bool(failures) or missed or (options.strict and bool(skipped)))


if __name__ == "__main__":
    sys.exit(main())
