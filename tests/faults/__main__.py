"""Run the fault matrix: `make faults`, or `python -m tests.faults --help`.

Exit code 0 where every cell keeps its rule: no task lost, no worker deaf, nothing run twice beyond what was in flight.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from amqpq.errors import BrokerSetupError
from amqpq.worker.plan import POOLS
from tests.faults import clusters, report, rows_broker, rows_cluster, rows_network, rows_processes
from tests.faults.brokers import RELEASES, Release, Server, SingleNode
from tests.faults.clusters import Cluster
from tests.faults.report import Cell
from tests.faults.scene import Column, Row, play

ROWS: Final = {
    row.name: row for row in (*rows_processes.ROWS, *rows_broker.ROWS, *rows_network.ROWS, *rows_cluster.ROWS)
}
QUEUES: Final = ("classic", "quorum")
TASKS: Final = 2000
EXPECTED_SECONDS: Final = {"node": 10.0, "cluster": 35.0}
"""Of a cell, measured on two cores; for the estimate alone."""


def words(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Return the reader of a comma-separated choice."""
    allowed = list(known)

    def read(text: str) -> list[str]:
        chosen = [word.strip() for word in text.split(",") if word.strip()]
        unknown = [word for word in chosen if word not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(allowed)}")
        return chosen

    return read


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    versions = [release.version for release in RELEASES]
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--faults", type=words(ROWS), default=list(ROWS), help=", ".join(ROWS))
    parser.add_argument("--pools", type=words(POOLS), default=list(POOLS), help=", ".join(POOLS))
    parser.add_argument("--queues", type=words(QUEUES), default=list(QUEUES), help=", ".join(QUEUES))
    parser.add_argument("--versions", type=words(versions), default=versions, help=", ".join(versions))
    parser.add_argument("--tasks", type=int, default=TASKS, help="per cell (%(default)s)")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    parser.add_argument("--json", type=Path, help="file for everything that was counted")
    parser.add_argument("--list", action="store_true", help="show the cells and the expected time, run none")
    parser.add_argument("--debug", action="store_true", help="show why a cell itself failed")
    parser.add_argument("--keep", type=Path, help="folder that keeps the workers' logs of each cell")
    return parser.parse_args(given)


def cells(options: argparse.Namespace, release: Release, kind: str) -> Iterator[tuple[Row, Column]]:
    """Yield the cells of one broker."""
    chosen = [ROWS[name] for name in options.faults if ROWS[name].kind == kind]
    for row, pool, queue in itertools.product(chosen, options.pools, options.queues):
        column = Column(pool, queue, release.version)
        if row.fits(column):
            yield row, column


def main(given: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit code."""
    options = arguments(given)
    logging.basicConfig(level=logging.DEBUG if options.debug else logging.CRITICAL)
    if options.debug:
        for name in ("amqpq", "amqp"):
            logging.getLogger(name).setLevel(logging.INFO)
    releases = [release for release in RELEASES if release.version in options.versions]
    groups = [
        (release, kind, found)
        for release in releases
        for kind in ("node", "cluster")
        if (found := list(cells(options, release, kind)))
    ]
    expected = sum(EXPECTED_SECONDS[kind] * len(found) for _, kind, found in groups)
    print(
        f"{sum(len(found) for *_, found in groups)} cells of {options.tasks} tasks, about {expected / 60:.0f} minutes"
    )
    if options.list:
        for _, _, found in groups:
            for row, column in found:
                print(f"{row.name:18} {column.pool:8} {column.queue:7} {column.version:7} {row.sentence}")
        return 0
    done: list[Cell] = []
    skipped: list[str] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="amqpq-faults-") as scratch:
        folder = options.keep or Path(scratch)
        with suppress(KeyboardInterrupt):
            for release, kind, found in groups:
                try:
                    run_group(release, kind, found, done, (options.tasks, folder, Path(scratch)))
                except BrokerSetupError as error:
                    skipped.append(f"RabbitMQ {release.version}, {kind}: {error}")
                    print(f"NO  {skipped[-1]}", flush=True)
    table = report.markdown(done, ROWS)
    print(f"\n{table}\n{(time.monotonic() - began) / 60:.1f} minutes")
    if options.markdown:
        options.markdown.write_text(table, encoding="utf-8")
    if options.json:
        options.json.write_text(report.as_json(done), encoding="utf-8")
    complete = len(done) == sum(len(found) for *_, found in groups)
    return 0 if complete and not skipped and not any(cell.broken for cell in done) else 1


def run_group(
    release: Release, kind: str, found: Sequence[tuple[Row, Column]], done: list[Cell], how: tuple[int, Path, Path]
) -> None:
    """Run the cells of one broker, and add them to `done`.

    Raises:
        BrokerSetupError: The broker cannot be had.
    """
    count, folder, scratch = how
    if kind == "cluster" and (reason := clusters.obstacle()):
        raise BrokerSetupError(reason)
    place = scratch / f"{kind}-{release.version}"
    server = make(kind, release, place)
    try:
        server.start()
        print(f"RabbitMQ {server.version}, {kind}", flush=True)
        for row, column in found:
            if kind == "cluster" and done and done[-1].broken:
                server.stop()  # whatever it is in now, the next cell gets a new one
                server = make(kind, release, place)
                server.start()
            name = f"{len(done)}-{row.name}-{column.pool}-{column.queue}-{release.version}"
            tally = play(row, column, server, count=count, folder=folder / name)
            done.append(Cell(row.name, column, tally))
            print(report.line(done[-1]), flush=True)
            server.start()
    finally:
        server.stop()


def make(kind: str, release: Release, place: Path) -> Server:
    """Return a broker of that kind, not started."""
    return Cluster(release, place) if kind == "cluster" else SingleNode(release, place)


if __name__ == "__main__":
    sys.exit(main())
