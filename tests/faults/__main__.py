"""Run the fault matrix: `make faults`, or `python -m tests.faults --help`.

Exit code 0 where every cell keeps its rule: no task lost, no worker deaf, nothing run twice beyond what was in flight.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from amqpq.worker.plan import POOLS
from tests.faults import report
from tests.faults.brokers import RELEASES
from tests.faults.lanes import EXPECTED_SECONDS, GROUPS, ROWS, Group, How, run_all
from tests.faults.scene import Column, Row

QUEUES: Final = ("classic", "quorum")
TASKS: Final = 2000


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
    parser.add_argument("--markdown", type=Path, help="file for the table; in a page that has one it is replaced")
    parser.add_argument(
        "--journal", type=Path, help="file that gets a line of JSON per cell; cells that hold in it are not run again"
    )
    parser.add_argument("--table", action="store_true", help="make the table of what is in the journal, run none")
    parser.add_argument("--lanes", type=int, default=2, help="brokers side by side (%(default)s)")
    parser.add_argument("--list", action="store_true", help="show the cells and the expected time, run none")
    parser.add_argument("--debug", action="store_true", help="show why a cell itself failed")
    parser.add_argument("--keep", type=Path, help="folder that keeps the workers' logs of each cell")
    return parser.parse_args(given)


def cells(options: argparse.Namespace, group: Group) -> Iterator[tuple[Row, Column]]:
    """Yield the cells of one broker."""
    version, kind = group
    if version not in options.versions:
        return
    chosen = [ROWS[name] for name in options.faults if ROWS[name].kind == kind]
    for row, pool, queue in itertools.product(chosen, options.pools, options.queues):
        column = Column(pool, queue, version)
        if row.fits(column):
            yield row, column


def main(given: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit code."""
    options = arguments(given)
    known = report.read(options.journal.read_text("utf-8")) if options.journal and options.journal.exists() else []
    kept = {(cell.row, cell.column): cell for cell in known if not cell.broken}
    asked = [(group, row, column) for group in GROUPS for row, column in cells(options, group)]
    if options.list:
        with suppress(BrokenPipeError):
            for _, row, column in asked:
                print(f"{row.name:18} {column.pool:8} {column.queue:7} {column.version:7} {row.sentence}")
        return 0
    todo = (
        []
        if options.table
        else [(group, (row.name, column)) for group, row, column in asked if (row.name, column) not in kept]
    )
    groups = {group: found for group in GROUPS if (found := [cell for of, cell in todo if of == group])}
    expected = sum(EXPECTED_SECONDS[kind] * len(found) for (_, kind), found in groups.items()) / options.lanes
    print(f"{len(todo)} cells of {options.tasks} tasks, about {expected / 60:.0f} minutes", flush=True)
    began = time.monotonic()
    how = How(options.tasks, options.lanes, options.journal, options.keep, options.debug)
    done, refused = run_all(groups, how)
    ran = {(cell.row, cell.column): cell for cell in (*kept.values(), *done)}
    results = [ran[row.name, column] for _, row, column in asked if (row.name, column) in ran]
    table = report.markdown(results, ROWS)
    print(f"\n{table}\n{(time.monotonic() - began) / 60:.1f} minutes")
    if options.markdown:
        page = options.markdown.read_text("utf-8") if options.markdown.exists() else ""
        options.markdown.write_text(report.placed(page, table), encoding="utf-8")
    complete = options.table or len(results) == len(asked)
    return 0 if complete and not refused and not any(cell.broken for cell in results) else 1


if __name__ == "__main__":
    sys.exit(main())
