"""`amqpq multi`: several workers on one host, started in the background and found again by their pid files."""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from amqpq.cli import output
from amqpq.cli.nodes import Node, read_nodes
from amqpq.cli.options import duration, json_option
from amqpq.cli.worker import worker
from amqpq.errors import ConfigurationError
from amqpq.node.process import Process, start_detached, start_time
from amqpq.worker.files import running

START_SECONDS: Final = 60.0
"""For loading the application and taking the pid file."""
STOP_SECONDS: Final = 90.0
"""The worker's own --shutdown-timeout is 60 s."""
KILL_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 0.05
LAST_LINES: Final = 8

EXAMPLES: Final = """
    \b
    Names and options of `amqpq worker` come in any order; -c:w1 8 is for w1 alone, -Q:1-2 images for the first two.
    Files are ./%n.pid and ./%n.log unless --pidfile and --logfile say otherwise.

    \b
    Examples:
      amqpq multi {verb} w1 w2 -A shop.tasks -c 4 -c:w2 8
      amqpq multi {verb} 3 -A shop.tasks --pidfile=/run/shop/%n.pid --logfile=/var/log/shop/%n.log
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one worker: its process, if it has one, a state in a word, and what there is to say of it."""

    node: Node
    pid: int | None
    state: str
    well: bool = True
    note: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """As data."""
        node = self.node
        return {
            "name": node.name,
            "pid": self.pid,
            "state": self.state,
            "pidfile": node.pidfile,
            "logfile": node.logfile,
            "command": list(node.command),
            "note": self.note,
        }


class _Verb(click.Command):
    """Takes the options of `amqpq worker` as they are, `-c:w1 4` included, which click would read letter by letter."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own: list[str] = []
        theirs: list[str] = []
        words = iter(args)
        for word in words:
            if word in {"--json", "--help", "-h"} or word.startswith("--timeout="):
                own.append(word)
            elif word == "--timeout":
                own += [word, *([value] if (value := next(words, None)) is not None else [])]
            else:
                theirs.append(word)
        return super().parse_args(ctx, [*own, "--", *theirs])


def _verb(function: Callable[..., None]) -> click.Command:
    """Make a command of a function that takes the workers, a timeout and whether to print JSON."""

    def run(words: tuple[str, ...], timeout: float | None, as_json: bool) -> None:
        function(read_nodes(words, worker.params, Path.cwd()), timeout, as_json)

    name = function.__name__.removesuffix("_")
    text = f"{function.__doc__}\n{EXAMPLES.format(verb=name)}"
    command = click.command(name, cls=_Verb, help=text)(run)
    for decorate in (
        json_option,
        click.option(
            "--timeout",
            type=duration,
            default=None,
            metavar="DURATION",
            help="To wait for workers. [60s to start, 90s to stop]",
        ),
        click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="NAMES|NUMBER [WORKER OPTIONS]"),
    ):
        command = decorate(command)
    return command


@click.group()
def multi() -> None:
    """Run several workers on one host, in the background.

    A service manager does this better (docs/howto/deployment.md). Where there is none, this is it.

    \b
    Examples:
      amqpq multi start w1 w2 -A shop.tasks -c 4 -c:w2 8
      amqpq multi show w1 w2
      amqpq multi stopwait w1 w2
    """


def start(nodes: Sequence[Node], timeout: float | None, as_json: bool) -> None:
    """Start workers; return when each has loaded its application and taken its pid file.

    One that runs already is left alone. Exit code 1 where one did not start; the end of its log is shown.
    """
    _end(_start(nodes, timeout), as_json)


def stop(nodes: Sequence[Node], timeout: float | None, as_json: bool) -> None:
    """Tell workers to stop (SIGTERM), and do not wait: they finish what runs."""
    _no_waiting("stop", timeout)
    _end([_told(node, signal.SIGTERM, "stopping") for node in nodes], as_json)


def stopwait(nodes: Sequence[Node], timeout: float | None, as_json: bool) -> None:
    """Tell workers to stop, and wait until they are gone. Exit code 1 where one is not gone in time."""
    _end(_stop(nodes, timeout), as_json)


def restart(nodes: Sequence[Node], timeout: float | None, as_json: bool) -> None:
    """Stop workers, wait until they are gone, and start them again. One that does not stop in time is not started."""
    stopped = _stop(nodes, timeout)
    gone = [outcome.node for outcome in stopped if outcome.well]
    _end([*(outcome for outcome in stopped if not outcome.well), *_start(gone, None)], as_json)


def kill(nodes: Sequence[Node], timeout: float | None, as_json: bool) -> None:
    """Kill workers (SIGKILL). What they ran is cut off and runs again elsewhere; try `stop` first, twice if need be."""
    click.echo("killing: what runs is cut off in the middle, and is run again from its beginning", err=True)
    outcomes = [_told(node, signal.SIGKILL, "killed") for node in nodes]
    _end(_await_end(outcomes, "killed", timeout or KILL_SECONDS), as_json)


def show(nodes: Sequence[Node], timeout: float | None, as_json: bool) -> None:
    """Show which workers run, and the command line that starts each."""
    _no_waiting("show", timeout)
    outcomes = [_look(node) for node in nodes]
    if as_json:
        output.print_json([outcome.facts for outcome in outcomes])
        return
    _table(outcomes)
    for node in nodes:
        click.echo(f"\n{shlex.join(node.command)}")


def names(nodes: Sequence[Node], timeout: float | None, as_json: bool) -> None:
    """Print the full names of the workers."""
    _no_waiting("names", timeout)
    if as_json:
        output.print_json([node.name for node in nodes])
    else:
        click.echo("\n".join(node.name for node in nodes))


for _function in (start, stop, stopwait, restart, kill, show, names):
    multi.add_command(_verb(_function))


# ------------------------------------------------------------------------------------------------------------- actions


def _no_waiting(verb: str, timeout: float | None) -> None:
    if timeout is not None:
        raise ConfigurationError(f"--timeout: `{verb}` waits for nobody")


def _look(node: Node) -> Outcome:
    pid = running(node.pidfile)
    if pid is not None:
        return Outcome(node, pid, "running")
    return Outcome(node, None, "not running", note="its pid file is stale" if node.pidfile.exists() else "")


def _start(nodes: Sequence[Node], timeout: float | None) -> list[Outcome]:
    deadline = time.monotonic() + (timeout or START_SECONDS)
    started: list[Outcome | tuple[Node, Process, int]] = []
    for node in nodes:
        pid = running(node.pidfile)
        started.append(Outcome(node, pid, "runs already") if pid is not None else (node, *_launch(node)))
    return [each if isinstance(each, Outcome) else _await_start(*each, deadline) for each in started]


def _launch(node: Node) -> tuple[Process, int]:
    """Start a worker; return it and how long its log was before."""
    try:
        for file in (node.pidfile, node.logfile):
            file.parent.mkdir(parents=True, exist_ok=True)
        before = node.logfile.stat().st_size if node.logfile.exists() else 0
        process = start_detached(node.command, environ=os.environ, output=node.logfile, folder=Path.cwd())
    except OSError as error:
        raise ConfigurationError(f"{node.name} cannot be started: {error}") from error
    return process, before


def _await_start(node: Node, process: Process, log_before: int, deadline: float) -> Outcome:
    while running(node.pidfile) != process.pid:
        if process.wait(LOOK_SECONDS):
            return Outcome(node, None, "failed", well=False, note=_last_lines(node.logfile, log_before))
        if time.monotonic() > deadline:
            note = f"it has not taken its pid file in time; see {node.logfile}"
            return Outcome(node, process.pid, "starting", well=False, note=note)
    return Outcome(node, process.pid, "started")


def _stop(nodes: Sequence[Node], timeout: float | None) -> list[Outcome]:
    return _await_end([_told(node, signal.SIGTERM, "stopping") for node in nodes], "stopped", timeout or STOP_SECONDS)


def _told(node: Node, number: signal.Signals, state: str) -> Outcome:
    pid = running(node.pidfile)
    if pid is None:
        return _look(node)
    Process(pid, start_time(pid)).signal(number)
    return Outcome(node, pid, state)


def _await_end(outcomes: Sequence[Outcome], state: str, timeout: float) -> list[Outcome]:
    deadline = time.monotonic() + timeout
    ended: list[Outcome] = []
    for outcome in outcomes:
        if outcome.pid is None:
            ended.append(outcome)
        elif Process(outcome.pid, start_time(outcome.pid)).wait(max(0.0, deadline - time.monotonic())):
            ended.append(Outcome(outcome.node, None, state))
        else:
            note = f"it still runs after {timeout:g} s; a second `stop` makes it stop at once"
            ended.append(Outcome(outcome.node, outcome.pid, outcome.state, well=False, note=note))
    return ended


# -------------------------------------------------------------------------------------------------------------- output


def _end(outcomes: Sequence[Outcome], as_json: bool) -> None:
    """Print what became of the workers, and end with the exit code that says it."""
    if as_json:
        output.print_json([outcome.facts for outcome in outcomes])
    else:
        _table(outcomes)
    if not all(outcome.well for outcome in outcomes):
        raise click.exceptions.Exit(output.ExitCode.ERROR)


def _table(outcomes: Sequence[Outcome]) -> None:
    rows = [("worker", "pid", "state"), *((each.node.name, str(each.pid or "-"), each.state) for each in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for row, outcome in zip(rows, (None, *outcomes), strict=True):
        click.echo(f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]}")
        if outcome is not None and outcome.note:
            click.echo("\n".join(f"    {line}" for line in outcome.note.splitlines()))


def _last_lines(log: Path, before: int) -> str:
    """Return the end of what a worker has written since it was started."""
    with log.open("rb") as file:
        file.seek(before)
        text = file.read().decode(errors="replace")
    return "\n".join(text.rstrip().splitlines()[-LAST_LINES:]) or f"it said nothing; see {log}"
