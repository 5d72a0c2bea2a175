"""The cells, broker by broker, and several brokers side by side."""

from __future__ import annotations

import logging
import multiprocessing
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from amqpq.errors import BrokerSetupError
from tests.faults import clusters, report, rows_broker, rows_cluster, rows_network, rows_processes
from tests.faults.brokers import RELEASES, Server, SingleNode
from tests.faults.clusters import Cluster
from tests.faults.report import Cell
from tests.faults.scene import Column, play

ROWS: Final = {
    row.name: row for row in (*rows_processes.ROWS, *rows_broker.ROWS, *rows_network.ROWS, *rows_cluster.ROWS)
}
EXPECTED_SECONDS: Final = {"node": 13.0, "cluster": 37.0}
"""Of a cell, measured on two cores; for the estimate alone."""

Group = tuple[str, str]
"""A broker: its version, and `node` or `cluster`."""
Task = tuple[str, Column]
"""A cell to run: the name of its row, and its column."""
GROUPS: Final[tuple[Group, ...]] = tuple((release.version, kind) for kind in EXPECTED_SECONDS for release in RELEASES)
"""Nodes first: they take longest, and lanes end together."""


_interrupted: Final = threading.Event()
"""In a lane: it was told to end. The executor hands out one group ahead, and that cannot be cancelled any more."""


@dataclass(frozen=True, slots=True)
class How:
    """How cells are run.

    Args:
        tasks: Per cell.
        lanes: Brokers side by side.
        journal: File that gets a line per cell.
        keep: Folder that keeps the workers' logs of each cell.
        debug: Whether to show why a cell itself failed.
    """

    tasks: int
    lanes: int = 1
    journal: Path | None = None
    keep: Path | None = None
    debug: bool = False


def run_all(groups: Mapping[Group, Sequence[Task]], how: How) -> tuple[list[Cell], list[str]]:
    """Run the cells of each broker, so many brokers side by side as there are lanes; return them, and what could not be had."""
    done: list[Cell] = []
    refused: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="amqpq-faults-") as scratch,
        ProcessPoolExecutor(how.lanes, mp_context=multiprocessing.get_context("spawn")) as lanes,
    ):
        # A child process per lane: a node that dies with its caller dies with the thread that started it.
        running = {lanes.submit(run_group, group, found, how, Path(scratch)): group for group, found in groups.items()}
        for future in _finished(running):
            try:
                done += future.result()
            except BrokerSetupError as error:
                version, kind = running[future]
                refused.append(f"RabbitMQ {version}, {kind}: {error}")
                print(f"NO  {refused[-1]}", flush=True)
    return done, refused


def _finished(running: Iterable[Future[list[Cell]]]) -> Iterator[Future[list[Cell]]]:
    """Yield each group when it is ready; after an interrupt those that were running, and no others."""
    left = set(running)
    while left:
        try:
            for future in as_completed(left):
                left.discard(future)
                yield future
        except KeyboardInterrupt:  # it comes to the children, too
            left = {future for future in left if not future.cancel()}  # `as_completed` would wait for cancelled ones


def run_group(group: Group, found: Sequence[Task], how: How, scratch: Path) -> list[Cell]:
    """Run the cells of one broker, and return them; of an interrupted run, those that are ready.

    Raises:
        BrokerSetupError: The broker cannot be had.
    """
    logging.basicConfig(level=logging.DEBUG if how.debug else logging.CRITICAL)
    if how.debug:
        for name in ("amqpq", "amqp"):
            logging.getLogger(name).setLevel(logging.INFO)
    if _interrupted.is_set():
        return []
    version, kind = group
    if kind == "cluster" and (reason := clusters.obstacle()):
        raise BrokerSetupError(reason)
    place = scratch / f"{kind}-{version}"
    done: list[Cell] = []
    server = make(group, place)
    try:
        server.start()
        print(f"RabbitMQ {server.version}, {kind}", flush=True)
        for number, (row, column) in enumerate(found):
            if kind == "cluster" and done and done[-1].broken:
                server.stop()  # whatever it is in now, the next cell gets a new one
                server = make(group, place)
                server.start()
            name = f"{kind}{number}-{row}-{column.pool}-{column.queue}-{version}"
            tally = play(ROWS[row], column, server, count=how.tasks, folder=(how.keep or scratch) / name)
            done.append(Cell(row, column, tally))
            print(report.line(done[-1]), flush=True)
            if how.journal:
                with how.journal.open("a", encoding="utf-8") as journal:
                    journal.write(report.entry(done[-1]) + "\n")
            server.start()
    except KeyboardInterrupt:
        _interrupted.set()
    except OSError as error:  # not all of them can be sent to the parent
        raise BrokerSetupError(f"it ended after {len(done)} cells: {error}") from None
    finally:
        server.stop()
    return done


def make(group: Group, place: Path) -> Server:
    """Return a broker of that version and kind, not started."""
    version, kind = group
    number, release = next(pair for pair in enumerate(RELEASES) if pair[1].version == version)
    return Cluster(release, place, number) if kind == "cluster" else SingleNode(release, place)
