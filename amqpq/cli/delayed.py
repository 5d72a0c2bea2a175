"""`amqpq delayed`: what waits in the delay ladder."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from amqpq import config
from amqpq.cli import output
from amqpq.cli.letters import plain
from amqpq.cli.options import json_option, load_topology, topology_option
from amqpq.delayed import DEFAULT_SCAN, Held, Shelf, Waiting
from amqpq.errors import RemoteMessageError
from amqpq.topology import Topology
from amqpq.topology.model import glob

CONNECT_SECONDS = 30.0
_HEADINGS = ("ID", "TASK", "DUE", "IN", "LEVEL", "TO")

scan_option = click.option(
    "--scan", type=click.IntRange(1), default=DEFAULT_SCAN, show_default=True, help="Messages looked at, at most."
)


@click.group()
def delayed() -> None:
    """Look at tasks with countdown, eta or a retry to come; take one back, or let one go now.

    Looking takes messages from the ladder without acknowledging them and puts them back: nothing is lost or doubled, also when
    this is killed; a task that falls due meanwhile is late by as long as that takes.

    \b
    Examples:
      amqpq delayed list
      amqpq delayed cancel ID
      amqpq delayed hurry ID
    """


@delayed.command(name="list")
@topology_option
@click.option("--task", "tasks", metavar="GLOB", multiple=True, help="Task name or pattern, as 'web.*'; repeatable.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Rows.")
@scan_option
@json_option
def list_delayed(
    topology_file: Path | None, environment: str | None, tasks: tuple[str, ...], limit: int, scan: int, as_json: bool
) -> None:
    """List delayed tasks, the next one due first: id, task, due time, level, queue.

    \b
    Examples:
      amqpq delayed list
      amqpq delayed list --task 'shop.*' --json
    """
    with _opened(topology_file, environment) as (_, shelf), shelf.holding(scan=scan) as held:
        pass
    found = [
        each
        for each in held.waiting
        if not tasks or any(glob(pattern).fullmatch(each.letter.task) for pattern in tasks)
    ]
    found.sort(key=lambda each: (each.due_at or 0.0, each.id))
    now = time.time()
    if as_json:
        output.print_json([_facts(each) for each in found[:limit]])
    elif found:
        _print_rows(found[:limit], now)
    else:
        click.echo(f"no delayed tasks among the {held.seen} looked at", err=True)
    if len(found) > limit:
        click.echo(f"{len(found) - limit} more; --limit sets how many are shown", err=True)
    _say_incomplete(held)


@delayed.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@topology_option
@scan_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def cancel(
    ids: tuple[str, ...], topology_file: Path | None, environment: str | None, scan: int, yes: bool, as_json: bool
) -> None:
    """Take tasks back for good: they never run, and who waits for them reads REVOKED.

    Asks before, on a terminal, and elsewhere wants --yes. Killed between the answer and the removal, the task still runs.

    \b
    Examples:
      amqpq delayed cancel 1f0c2a7e-5d3b-4c0f-9a44-0a2b6e1c7d55
      amqpq delayed cancel ID ID --yes
    """
    if not yes and not sys.stdin.isatty():
        output.fail("cancelling is for good: give --yes where there is no terminal to ask on")
    wanted = frozenset(ids)
    with _opened(topology_file, environment) as (topology, shelf):
        codec = config.codec(topology)
        with shelf.holding(wanted, scan=scan) as held:
            if held.waiting and not yes:
                names = ", ".join(f"{each.letter.task}[{each.id}]" for each in held.waiting)
                click.confirm(plain(f"Cancel {names} for good?", one_line=True), abort=True, err=True)
            for each in held.waiting:
                try:
                    shelf.take_back(held, each, codec)
                except RemoteMessageError as error:
                    click.echo(plain(f"{each.id}: nobody is answered, {error}", one_line=True), err=True)
                    held.drop(each)
    _report("cancelled", wanted, held, as_json=as_json)


@delayed.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@topology_option
@scan_option
@json_option
def hurry(ids: tuple[str, ...], topology_file: Path | None, environment: str | None, scan: int, as_json: bool) -> None:
    """Let tasks go now: each is sent to its queue, and leaves the ladder when the broker has confirmed that.

    A task that is signed with its due time is signed again with the key of this host, which must be allowed to sign it. Killed
    between the confirm and the removal, the task runs twice.

    \b
    Examples:
      amqpq delayed hurry 1f0c2a7e-5d3b-4c0f-9a44-0a2b6e1c7d55
    """
    wanted = frozenset(ids)
    with _opened(topology_file, environment) as (topology, shelf):
        codec = config.codec(topology)
        with shelf.holding(wanted, scan=scan) as held:
            for each in held.waiting:
                shelf.let_go(held, each, codec)
    _report("let go", wanted, held, as_json=as_json)


# ------------------------------------------------------------------------------------------------------------- the rest


@contextmanager
def _opened(topology_file: Path | None, environment: str | None) -> Iterator[tuple[Topology, Shelf]]:
    topology = load_topology(topology_file, environment)
    link = config.link(topology, name="amqpq delayed")
    try:
        yield topology, Shelf(link.connection(CONNECT_SECONDS), topology)
    finally:
        link.close(5.0)


def _report(done: str, wanted: frozenset[str], held: Held, *, as_json: bool) -> None:
    found = [each.id for each in held.waiting]
    missing = sorted(wanted - set(found))
    if as_json:
        output.print_json({"done": found, "missing": missing})
    else:
        for each in held.waiting:
            click.echo(plain(f"{done}: {each.letter.task}[{each.id}]", one_line=True))
    for each_id in missing:
        click.echo(plain(f"no delayed task with id {each_id} among the {held.seen} looked at", one_line=True), err=True)
    if missing:
        _say_incomplete(held)
        raise click.exceptions.Exit(output.ExitCode.ERROR)


def _say_incomplete(held: Held) -> None:
    if not held.complete:
        click.echo(f"looked at {held.seen} of {held.ready} messages; --scan sets how many", err=True)


def _facts(waiting: Waiting) -> Mapping[str, Any]:
    return {
        "id": waiting.id,
        "task": waiting.letter.task,
        "due": _moment(waiting.due_at),
        "waits_in": waiting.queue,
        "queues": waiting.targets,
    }


def _print_rows(found: Sequence[Waiting], now: float) -> None:
    table = [_HEADINGS, *(_row(each, now) for each in found)]
    widths = [max(len(row[column]) for row in table) for column in range(len(_HEADINGS))]
    for row in table:
        click.echo("  ".join(map(str.ljust, row, widths)).rstrip())


def _row(waiting: Waiting, now: float) -> tuple[str, ...]:
    left = "-" if waiting.due_at is None else f"{max(waiting.due_at - now, 0.0):.0f}s"
    cells = (
        waiting.id or "-",
        waiting.letter.task or "-",
        _moment(waiting.due_at) or "-",
        left,
        waiting.queue,
        ", ".join(waiting.targets) or "-",
    )
    return tuple(plain(cell, one_line=True) for cell in cells)


def _moment(seconds: float | None) -> str | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # nobody signs it
        return None
