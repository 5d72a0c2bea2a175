"""The matrix on paper: a line per cell while it runs, a table in Markdown and JSON at the end."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.faults.scene import Column, Row
from tests.faults.tally import Tally, broken

TABLE: Final = re.compile(r"^\| fault \|.*?^\d+ cells, [^\n]*\n", re.MULTILINE | re.DOTALL)
"""The table in a page, with the line that sums it up."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell that was run."""

    row: str
    column: Column
    tally: Tally

    @property
    def broken(self) -> list[str]:
        """The rules it breaks."""
        return broken(self.tally)


def line(cell: Cell) -> str:
    """Return one line about a cell."""
    tally, column = cell.tally, cell.column
    parked = ", ".join(f"{count} {cause}" for cause, count in sorted(tally.parked.items())) or "0"
    notes = f"  ({'; '.join(tally.notes)})" if tally.notes else ""
    head = f"{'NO' if cell.broken else 'ok'}  {cell.row:18} {column.pool:8} {column.queue:7} {column.version:7}"
    counts = f"{tally.confirmed:5} tasks, lost {len(tally.lost)}, twice {tally.twice} of {tally.bound}, parked {parked}"
    said = "".join(f"\n      {complaint}" for complaint in cell.broken)
    return f"{head} {counts}, deaf {len(tally.deaf)}, {tally.seconds:.1f} s{notes}{said}"


def markdown(cells: Sequence[Cell], rows: Mapping[str, Row]) -> str:
    """Return the table: a line per fault and version, a column per pool and queue type; cells say lost/twice/parked/deaf."""
    columns = list(dict.fromkeys((cell.column.pool, cell.column.queue) for cell in cells))
    lines = [
        "Each cell: lost / run twice / parked / deaf.",
        "",
        "| fault | RabbitMQ | " + " | ".join(f"{pool}, {queue}" for pool, queue in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    found = {(cell.row, cell.column.version, cell.column.pool, cell.column.queue): cell for cell in cells}
    for row, version in dict.fromkeys((cell.row, cell.column.version) for cell in cells):
        texts = [_text(found.get((row, version, pool, queue))) for pool, queue in columns]
        lines.append(f"| {rows[row].sentence} | {version} | " + " | ".join(texts) + " |")
    tasks = sum(cell.tally.confirmed for cell in cells)
    bad = sum(bool(cell.broken) for cell in cells)
    lines += ["", f"{len(cells)} cells, {tasks} tasks; {bad} cells break their rule."]
    return "\n".join(lines) + "\n"


def placed(page: str, said: str) -> str:
    """Return a page with this table in the place of the one it has; what `markdown` says alone, where it has none."""
    table = TABLE.search(said)
    return TABLE.sub(lambda _: table[0], page, count=1) if table and TABLE.search(page) else said


def _text(cell: Cell | None) -> str:
    if cell is None:
        return ""
    tally = cell.tally
    counts = f"{len(tally.lost)} / {tally.twice} / {sum(tally.parked.values())} / {len(tally.deaf)}"
    return f"**{counts}**" if cell.broken else counts


def entry(cell: Cell) -> str:
    """Return the line that a journal keeps of a cell: everything that was counted, as JSON."""
    return json.dumps(
        {"fault": cell.row, "column": dataclasses.asdict(cell.column), "tally": dataclasses.asdict(cell.tally)}
    )


def read(text: str) -> list[Cell]:
    """Return the cells of a journal; of one that was run again, the last."""
    found: dict[tuple[str, Column], Cell] = {}
    for line_ in filter(None, text.splitlines()):
        kept = json.loads(line_)
        counts: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in kept["tally"].items()
        }
        cell = Cell(kept["fault"], Column(**kept["column"]), Tally(**counts))
        found[cell.row, cell.column] = cell
    return list(found.values())
