"""What the demo prints: rich on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from examples.inventory.wire import RawMessage

T = TypeVar("T")

LOG_WIDTH = 110
SHORT = 64
TYPES_SHOWN = 12


@dataclass(slots=True)
class Totals:
    """One line of the closing table."""

    files: int = 0
    size: int = 0
    lines: int = 0
    tokens: int = 0
    duplicates: int = 0

    def add(self, result: dict[str, Any], *, duplicate: bool) -> None:
        """Count one file."""
        self.files += 1
        self.size += result["size"]
        self.lines += result["lines"]
        self.tokens += result["tokens"]
        self.duplicates += duplicate

    def merge(self, other: Totals) -> None:
        """Count what the other one counted."""
        self.files += other.files
        self.size += other.size
        self.lines += other.lines
        self.tokens += other.tokens
        self.duplicates += other.duplicates


class Report:
    """The demo's voice, and its memory of what did not check out."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)
        self.failures: list[str] = []

    def step(self, text: str) -> None:
        """Begin a step."""
        self.console.print(f"\n[bold]{text}[/bold]")

    def say(self, text: str) -> None:
        """Print a line as it is."""
        self.console.print(f"  {text}", markup=False)

    def check(self, what: str, *, holds: bool) -> None:
        """Print a check and remember it where it does not hold."""
        self.console.print(f"  [green]ok[/green]  {escape(what)}" if holds else f"  [red]NO[/red]  {escape(what)}")
        if not holds:
            self.failures.append(what)

    def progress(self, items: Sequence[T], what: str) -> Iterator[T]:
        """Go through `items` with a bar on a terminal, and with nothing in a log."""
        if not self.console.is_terminal:
            yield from items
            self.say(f"{what}: {len(items)}")
            return
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console) as bar:
            yield from bar.track(items, description=what)

    def message(self, message: RawMessage) -> None:
        """Print a message as it looks on the wire."""
        table = Table(show_header=False, box=None, padding=(0, 2))
        table.add_row("exchange, key", f"{message.exchange or '(default)'}, {message.key}")
        for name, value in sorted(message.properties.items()):
            table.add_row(name, _short(value))
        for name, value in sorted(message.headers.items()):
            table.add_row(f"header {name}", _short(value))
        table.add_row("body", f"{len(message.body)} bytes, {message.body[:12].hex(' ')} ...")
        self.console.print(table)

    def closing(self, results: Iterable[tuple[str, dict[str, Any]]], twins: Iterable[Sequence[str]]) -> None:
        """Print the closing table: by file type what was found."""
        repeated = {path for group in twins for path in group[1:]}
        by_kind: defaultdict[str, Totals] = defaultdict(Totals)
        everything = Totals()
        for kind, result in results:
            for totals in (by_kind[kind], everything):
                totals.add(result, duplicate=result["path"] in repeated)
        table = Table(title="Inventory by file type", title_justify="left", show_footer=True)
        footers = ("all", *_cells(everything))
        for number, heading in enumerate(("type", "files", "bytes", "lines", "tokens", "duplicates")):
            table.add_column(heading, footers[number], justify="right" if number else "left")
        for kind, totals in _largest(by_kind):
            table.add_row(kind, *_cells(totals))
        self.console.print(table)


def _largest(by_kind: Mapping[str, Totals]) -> list[tuple[str, Totals]]:
    """Return the types with the most files, and the rest in one line."""
    ranked = sorted(by_kind.items(), key=lambda item: (-item[1].files, -item[1].size))
    shown, rest = ranked[:TYPES_SHOWN], ranked[TYPES_SHOWN:]
    if not rest:
        return shown
    others = Totals()
    for _, totals in rest:
        others.merge(totals)
    return [*shown, (f"{len(rest)} more", others)]


def _cells(totals: Totals) -> tuple[str, ...]:
    return tuple(f"{n:,}" for n in (totals.files, totals.size, totals.lines, totals.tokens, totals.duplicates))


def _short(value: object) -> str:
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= SHORT else f"{text[:SHORT]}... ({len(text)} characters)"
