"""`amqpq call`, `amqpq send`, `amqpq result`: tasks from the shell. None of them needs the task's code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from amqpq.app import App
from amqpq.cli import output
from amqpq.cli.options import duration, json_option, load_topology, topology_option
from amqpq.errors import ResultError
from amqpq.lifecycle import State
from amqpq.producer.options import DEFAULT_TIMEOUT_SECONDS, SendOptions
from amqpq.replies.result import AsyncResult

Command = TypeVar("Command", bound=Callable[..., Any])


def keyword(text: str) -> tuple[str, Any]:
    """Read `name=value`, the value as JSON, else as text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise click.BadParameter(f"{text!r} is not NAME=VALUE, as in -k size=10")
    return name, argument(value)


def argument(text: str) -> Any:
    """Read an argument as JSON; what is not JSON is text."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return text


def _refuse_constant(word: str) -> NoReturn:
    # Python would read NaN and Infinity as numbers; in JSON they are not, so here they are text.
    raise ValueError(word)


def sending_options(command: Command) -> Command:
    """Add what `call` and `send` have in common."""
    decorators = (
        topology_option,
        json_option,
        click.option("-k", "keywords", metavar="NAME=VALUE", multiple=True, type=keyword,
                     help="Keyword argument; JSON, else text. May be repeated."),
        click.option("-q", "--queue", default=None, help="Publish straight to this queue, past the routes."),
        click.option("--priority", type=int, default=None, help="0 to the queue's max_priority."),
        click.option("--expires", type=duration, metavar="DURATION", default=None,
                     help="Not to be run after this time (seconds, or 10m, 1h)."),
        click.option("--countdown", type=duration, metavar="DURATION", default=None,
                     help="Not to be run before this time; waits in the broker (seconds, or 10m, 1h)."),
        click.option("--serializer", default=None, help="msgpack, json or yaml instead of the project's."),
        click.option("--publish-timeout", type=duration, metavar="DURATION", default="30s", show_default=True,
                     help="For finding the broker and its confirm."),
    )  # fmt: skip
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def _options(values: dict[str, Any]) -> SendOptions:
    options: SendOptions = {
        "queue": values["queue"],
        "priority": values["priority"],
        "expires": values["expires"],
        "countdown": values["countdown"],
        "serializer": values["serializer"],
        "timeout": values["publish_timeout"],
    }
    return options


@click.command()
@click.argument("task")
@click.argument("arguments", nargs=-1)
@sending_options
@click.option("--reply", type=click.Choice(["task", "direct"]), default=None, help="How the result comes back.")
@click.option("--timeout", type=duration, metavar="DURATION", default=None,
              help="To wait for the result. [default: as long as it takes]")  # fmt: skip
def call(
    task: str,
    arguments: Sequence[str],
    topology_file: Path | None,
    environment: str | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Send a task, wait, and print its result. Arguments are read as JSON, else as text; '--' goes before negative numbers.

    A failure prints the traceback of the worker and ends with exit code 1. Progress that the task reports is shown on
    standard error, where that is a terminal.

    \b
    Examples:
      amqpq call shop.tasks.add 2 3
      amqpq call shop.tasks.resize photo.jpg -k size='[640, 480]' --timeout 1m
      amqpq call shop.tasks.report --queue slow --priority 9 --json
      amqpq call shop.tasks.add -- -2 3
    """
    options = _options(values)
    if values["reply"] is not None:
        options["reply"] = values["reply"]
    with App(load_topology(topology_file, environment), name="amqpq call") as app:
        result = app.send_task(task, [argument(text) for text in arguments], dict(values["keywords"]), **options)
        _print_result(result, task, values["timeout"], as_json=as_json)


@click.command()
@click.argument("task")
@click.argument("arguments", nargs=-1)
@sending_options
@click.option("--reply", type=click.Choice(["task", "none"]), default=None, help="Whether a result is to be kept.")
def send(
    task: str,
    arguments: Sequence[str],
    topology_file: Path | None,
    environment: str | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Send a task and print its id; `amqpq result ID` fetches the result later, here or elsewhere.

    \b
    Examples:
      amqpq send shop.tasks.report 2026-11
      id=$(amqpq send shop.tasks.add 2 3) && amqpq result $id
    """
    options = _options(values)
    if values["reply"] is not None:
        options["reply"] = values["reply"]
    with App(load_topology(topology_file, environment), name="amqpq send") as app:
        sent = app.send_task(task, [argument(text) for text in arguments], dict(values["keywords"]), **options)
    if as_json:
        output.print_json({"id": sent.id, "task": task, "reply": sent.known.mode})
    else:
        click.echo(sent.id)


@click.command()
@click.argument("task_id", metavar="ID")
@topology_option
@json_option
@click.option("--timeout", type=duration, metavar="DURATION", default=None,
              help="To wait for the result. [default: as long as it takes]")  # fmt: skip
@click.option("--peek", is_flag=True, help="Show the state and leave the result where it is.")
def result(
    task_id: str,
    topology_file: Path | None,
    environment: str | None,
    as_json: bool,
    timeout: float | None,
    peek: bool,
) -> None:
    """Fetch a result by task id; its reply queue is deleted with it.

    \b
    Examples:
      amqpq result 1f0c2a7e-5d3b-4c0f-9a44-0a2b6e1c7d55
      amqpq result ID --peek                            the state so far; the result stays
      amqpq result ID --timeout 10s --json
    """
    with App(load_topology(topology_file, environment), name="amqpq result") as app:
        # However long the task may take: that no broker answers is said soon.
        app.link.connection(DEFAULT_TIMEOUT_SECONDS if timeout is None else min(timeout, DEFAULT_TIMEOUT_SECONDS))
        handle = app.AsyncResult(task_id)
        if peek:
            _print_state(handle, as_json=as_json)
        else:
            _print_result(handle, "", timeout, as_json=as_json)


# ----------------------------------------------------------------------------------------------------------- printing


def _print_result(handle: AsyncResult[Any], task: str, timeout: float | None, *, as_json: bool) -> None:
    progress = _show_progress if sys.stderr.isatty() and not as_json else None
    try:
        value = handle.get(timeout, propagate=False, on_state=progress)
    except KeyboardInterrupt:
        remedy = (
            f"; the task goes on, `amqpq result {handle.id}` fetches its result" if handle.known.mode == "task" else ""
        )
        output.fail(f"interrupted{remedy}")
    status, traceback = handle.state, handle.traceback  # of what was fetched; asks nobody any more
    error = value if status != State.SUCCESS else None
    if as_json:
        outcome = {"result": value} if error is None else {"error": _error_facts(error), "traceback": traceback}
        output.print_json({"id": handle.id, "task": task or None, "status": status, **outcome})
        if error is not None:
            raise click.exceptions.Exit(output.ExitCode.ERROR)
    elif error is None:
        click.echo(value if isinstance(value, str) else _shown(value))
    else:
        if traceback:
            click.echo(traceback.rstrip(), err=True)
        output.fail(error if isinstance(error, ResultError) else f"{type(error).__name__}: {error}")


def _error_facts(error: Any) -> dict[str, Any]:
    return {"type": getattr(error, "exc_type", type(error).__name__), "message": str(error)}


def _print_state(handle: AsyncResult[Any], *, as_json: bool) -> None:
    state, reported = handle.peek()
    if as_json:
        output.print_json({"id": handle.id, "status": state, "result": reported})
    else:
        click.echo(state if reported is None else f"{state} {_shown(reported)}")


def _show_progress(state: str, meta: Any) -> None:
    click.echo(f"{state} {_shown(meta)}" if meta is not None else state, err=True)


def _shown(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)
