"""What commands print, and how they end.

Data goes to standard output, everything else (errors, progress) to standard error, so that a pipe sees data only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import date
from enum import IntEnum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from rich.console import Console


class ExitCode(IntEnum):
    """How a command ended; the same for every command."""

    FINE = 0
    ERROR = 1
    """Something went wrong, a mistake on the command line included."""
    CHANGES = 2
    """Changes or drift were found."""
    PARTLY = 3
    """Applied in part."""
    FORBIDDEN = 4
    """A policy forbids it."""
    UNDECIDABLE = 5
    """What is needed to decide cannot be read."""


def console(*, stderr: bool = False) -> Console:
    """Return a rich console; colours appear on terminals only, and `$NO_COLOR` is honoured.

    Args:
        stderr: print to standard error (progress, remarks) instead of standard output (data).
    """
    from rich.console import Console  # noqa: PLC0415 - rich costs 60 ms, and most commands print plain text

    return Console(stderr=stderr, highlight=False)


def print_json(data: object) -> None:
    """Print `data` as one JSON document: dataclasses as objects, sets sorted, paths and dates as text, bytes as hex."""
    click.echo(json.dumps(data, default=_plain, indent=2, ensure_ascii=False))


def print_json_line(data: object) -> None:
    """Print `data` as JSON on one line, for output that goes on while the command runs."""
    click.echo(json.dumps(data, default=_plain, ensure_ascii=False))


def fail(error: BaseException | str, code: ExitCode = ExitCode.ERROR) -> NoReturn:
    """Print `error: ...` to standard error and end the command with `code`."""
    text = click.style("error:", fg="red", bold=True)
    click.echo(f"{text} {error}", err=True)
    raise click.exceptions.Exit(int(code))


def _plain(value: Any) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Not asdict: it copies recursively and chokes on mapping proxies; json comes back here for what is nested.
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, AbstractSet):
        return sorted(value, key=str)
    if isinstance(value, PurePath | date):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    raise TypeError(f"{type(value).__name__} cannot be printed as JSON")
