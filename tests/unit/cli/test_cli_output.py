from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import pytest

from amqpq.cli import output


@dataclass(frozen=True, slots=True)
class Inner:
    """Nested data."""

    path: Path
    seen: frozenset[str]


@dataclass(frozen=True, slots=True)
class Outer:
    """What a command may print."""

    inner: Inner
    when: datetime
    body: bytes
    table: Mapping[str, int] = field(default_factory=dict)


VALUE = Outer(
    Inner(Path("a/b"), frozenset({"y", "x"})), datetime(2026, 1, 2, tzinfo=UTC), b"\x00\xff", MappingProxyType({"k": 1})
)
PLAIN = {
    "inner": {"path": "a/b", "seen": ["x", "y"]},
    "when": "2026-01-02 00:00:00+00:00",
    "body": "00ff",
    "table": {"k": 1},
}


def test_json_knows_our_values(capsys: pytest.CaptureFixture[str]) -> None:
    """Dataclasses, mappings, sets, paths, dates and bytes become plain JSON."""
    output.print_json(VALUE)
    assert json.loads(capsys.readouterr().out) == PLAIN


def test_json_lines_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Output that goes on is one document a line."""
    output.print_json_line(VALUE)
    output.print_json_line("zweite Zeile: ü")
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first) == PLAIN
    assert second == '"zweite Zeile: ü"'


def test_what_is_no_data_is_refused() -> None:
    """A value that has no JSON form is an error, not its repr."""
    with pytest.raises(TypeError, match="object cannot be printed as JSON"):
        output.print_json({"x": object()})


def test_no_colours_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe gets no escape sequences."""
    sink = io.StringIO()
    monkeypatch.setattr("sys.stdout", sink)
    output.console().print("[red]text[/red]")
    assert sink.getvalue() == "text\n"
