"""Dead letters as a terminal and a machine get to see them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from amqpq.deadletters.examining import Examined
from amqpq.deadletters.letter import Letter

_SHOWN_APART = frozenset({"amqpq-traceback", "amqpq-last-logs", "amqpq-attempt-log"})
_HEADINGS = ("ID", "TASK", "CAUSE", "AGE", "FROM", "TRIES", "REASON")


def _row(letter: Letter, now: float) -> tuple[str, ...]:
    return tuple(
        plain(each, one_line=True)
        for each in (
            letter.id or "-",
            letter.task or "-",
            letter.cause or "-",
            _age(letter, now),
            letter.origin or "-",
            str(letter.attempts or "-"),
            letter.reason,
        )
    )


def print_rows(letters: Sequence[Letter], now: float) -> None:
    """Print one line per dead letter; `now` is seconds since the epoch."""
    table = [_HEADINGS, *(_row(letter, now) for letter in letters)]
    widths = [max(len(row[column]) for row in table) for column in range(len(_HEADINGS) - 1)]
    for row in table:
        *cells, reason = row
        click.echo("  ".join([*map(str.ljust, cells, widths), reason]).rstrip())


def _age(letter: Letter, now: float) -> str:
    if letter.failed_at is None:
        return "-"
    seconds = max(now - letter.failed_at, 0.0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def row_json(letter: Letter, now: float) -> dict[str, Any]:
    """Return what a row holds, for machines; `now` is seconds since the epoch."""
    return {
        "id": letter.id,
        "task": letter.task,
        "cause": letter.cause,
        "by": letter.by,
        "dead_letter_queue": letter.queue,
        "queue": letter.origin,
        "attempts": letter.attempts,
        "requeues": letter.requeues,
        "failed_at": _iso(letter.failed_at),
        "first_failed_at": _iso(letter.first_failed_at),
        "expires_at": _iso(letter.expires_at),
        "age_seconds": None if letter.failed_at is None else round(max(now - letter.failed_at, 0.0), 3),
        "reason": letter.reason,
    }


def full_json(letter: Letter, found: Examined) -> dict[str, Any]:
    """Return everything about one, for machines."""
    return {
        **row_json(letter, time.time()),
        "signature": {"verdict": found.verdict, "why": found.why},
        "args": found.args,
        "kwargs": found.kwargs,
        "body": found.body or None,
        "body_bytes": len(letter.delivery.body),
        "headers": letter.headers,
        "traceback": letter.traceback or None,
        "death": _death_json(letter),
        "attempt_log": attempt_log(letter),
    }


def _death_json(letter: Letter) -> dict[str, Any]:
    names = ("exit-code", "signal", "peak-memory", "last-logs", "delivery-count")
    return {name.replace("-", "_"): letter.headers.get(f"amqpq-{name}") for name in names}


def attempt_log(letter: Letter) -> list[dict[str, Any]]:
    """Return what a message carries of its earlier attempts, oldest first; nobody signed it, so it may hold anything."""
    entries = letter.headers.get("amqpq-attempt-log")
    if not isinstance(entries, list | tuple):
        return []
    return [dict(entry) for entry in entries if isinstance(entry, Mapping)]


def print_letter(letter: Letter, found: Examined) -> None:
    """Print everything about one."""
    lines = [
        f"{letter.task or '(no task)'}[{letter.id or '-'}] in {letter.queue}",
        f"cause:      {letter.cause or '-'}; {letter.reason or '-'}",
        f"failed:     {_iso(letter.failed_at) or '-'} (first {_iso(letter.first_failed_at) or '-'})",
        f"from:       {letter.origin or '-'}, attempts {letter.attempts or '-'}, sent back {letter.requeues} times",
        f"signature:  {found.verdict}; {found.why}",
    ]
    if found.args is None or found.kwargs is None:
        lines.append(f"body:       {len(letter.delivery.body)} bytes, {found.body}")
    else:
        lines.append(
            f"arguments:  {', '.join([*found.args, *(f'{name}={text}' for name, text in found.kwargs.items())])}"
        )
    lines += _death_lines(letter.headers)
    for number, entry in enumerate(attempt_log(letter), 1):
        told = ", ".join(str(entry[name]) for name in ("at", "worker", "error") if entry.get(name))
        lines.append(f"attempt {number}:  {told}")
    lines.append("headers:")
    lines += [f"  {name}: {value}" for name, value in sorted(letter.headers.items()) if name not in _SHOWN_APART]
    for line in lines:
        click.echo(plain(line, one_line=True))
    logs = letter.headers.get("amqpq-last-logs")
    if logs:
        click.echo("last lines of the log of the process that died:")
        for line in str(logs).splitlines():
            click.echo(f"  {plain(line, one_line=True)}")
    if letter.traceback:
        click.echo("traceback:")
        click.echo(plain(letter.traceback).rstrip())
    click.echo()


def _death_lines(headers: Mapping[str, Any]) -> list[str]:
    """What is known of the process that died of a message, and of how often a quorum queue has handed it out."""
    lines = []
    signal, exit_code, peak = (headers.get(f"amqpq-{name}") for name in ("signal", "exit-code", "peak-memory"))
    how = f"killed by {signal}" if signal else f"exit code {exit_code}" if exit_code is not None else ""
    if isinstance(peak, int):
        how += f"{', ' if how else ''}peak memory {peak / 2**20:.1f} MiB"
    if how:
        lines.append(f"process:    {how}")
    if headers.get("amqpq-delivery-count"):
        lines.append(f"deliveries: {headers['amqpq-delivery-count']} before, says its quorum queue")
    return lines


def many(count: int) -> str:
    """Return `3 dead letters`."""
    return f"{count} dead letter{'' if count == 1 else 's'}"


def _iso(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def plain(text: str, *, one_line: bool = False) -> str:
    """Keep what a stranger wrote from moving the cursor or colouring the terminal."""
    kept = "" if one_line else "\n\t"
    return "".join(each if each.isprintable() or each in kept else " " if each in "\n\t" else "?" for each in text)
