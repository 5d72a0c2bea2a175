"""`python -m benchmarks`: all contenders, in turn, on one broker; prints two tables and writes two CSV files.

Rounds alternate their order (forward, backward, forward), so that neither a warming broker nor a tiring machine favours
whoever comes first. A contender that fails is reported, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import drive, measures
from benchmarks.broker import broker
from benchmarks.catalogue import ENTRIES
from benchmarks.contender import PAYLOAD, PREFETCH, Entry
from benchmarks.contenders.bare_amqp import connect
from benchmarks.measures import Sample

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"

FULL = drive.Counts(publish=1000, collect=400, round_trips=150)
QUICK = drive.Counts(publish=200, collect=100, round_trips=50)
FULL_ROUNDS = 3
RUN_TIMEOUT_SECONDS = 300.0
LIBRARIES = ("amqpq", "amqp", "pika", "celery", "kombu", "dramatiq")


def measured(entry: Entry, url: str, counts: drive.Counts) -> dict[str, float]:
    """Measure one contender once, in a process of its own.

    Raises:
        RuntimeError: It failed; carries what it said.
    """
    scaled = drive.Counts(counts.publish * entry.scale, counts.collect * entry.scale, counts.round_trips)
    command = drive.command(entry.module, url, dict(entry.options), scaled, results=entry.results)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_TIMEOUT_SECONDS, check=False)
    if done.returncode != 0:
        message = f"{entry.name} failed:\n{done.stderr[-4000:]}"
        raise RuntimeError(message)
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


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
                figures = measured(entry, url, counts)
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


def chosen(only: str | None, *, quick: bool) -> list[Entry]:
    """Return the rows to run.

    Raises:
        SystemExit: `only` names a row that does not exist.
    """
    if only is None:
        return [entry for entry in ENTRIES if entry.quick or not quick]
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
    libraries = " ".join(f"{name} {_version(name)}" for name in LIBRARIES)
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


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, one row per library, under a minute")
    parser.add_argument("--rounds", type=int, help=f"how often each contender is measured (default: {FULL_ROUNDS})")
    parser.add_argument("--only", metavar="NAMES", help="these rows, separated by ';'")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the CSV files (default: %(default)s)")
    options = parser.parse_args()
    entries = chosen(options.only, quick=options.quick)
    rounds = options.rounds or (1 if options.quick else FULL_ROUNDS)
    console = Console(width=None if sys.stdout.isatty() else 180)
    started = time.monotonic()
    with broker() as url:
        about = machine(url)
        console.print(about, highlight=False)
        samples, failures = run(console, entries, url, QUICK if options.quick else FULL, rounds)
    found = measures.summaries(samples)
    measures.print_facts(console, entries)
    measures.print_figures(console, entries, found)
    stamp = time.strftime("%Y-%m-%d-%H%M")
    options.output.mkdir(parents=True, exist_ok=True)
    measures.write_rounds(options.output / f"{stamp}-rounds.csv", samples)
    measures.write_summary(options.output / f"{stamp}-summary.csv", entries, found)
    (options.output / f"{stamp}-machine.txt").write_text(about + "\n")
    console.print(f"{time.monotonic() - started:.0f} s; written to {options.output}/{stamp}-*", highlight=False)
    for failure in failures:
        console.print(failure, style="red", highlight=False, markup=False)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
