"""`amqpq inspect` and `amqpq control`: asking workers, telling workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from amqpq import config
from amqpq.cli import output
from amqpq.cli.letters import plain
from amqpq.cli.options import duration, json_option, load_topology, topology_option
from amqpq.message.codec import Codec
from amqpq.remote.control import ANSWER_SECONDS, Answers, Control

Command = TypeVar("Command", bound=Callable[..., Any])

INSPECTIONS: Final = (
    "ping", "active", "reserved", "scheduled", "registered", "stats", "conf", "active_queues", "revoked", "report",
)  # fmt: skip
_COLUMNS: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "active": (("ID", "id"), ("TASK", "name"), ("PID", "worker_pid"), ("SINCE", "time_start"), ("QUEUE", "queue")),
    "reserved": (("ID", "id"), ("TASK", "name"), ("QUEUE", "queue")),
    "active_queues": (("QUEUE", "name"), ("EXCHANGE", "exchange"), ("KEY", "routing_key"), ("DURABLE", "durable")),
}


def remote_options(command: Command) -> Command:
    """Add which topology, which workers, how long to wait for them, and `--json`."""
    destination = click.option(
        "-d",
        "--destination",
        "destination",
        metavar="NAME",
        multiple=True,
        help="Only this worker, as `amqpq inspect ping` names it; repeatable. [default: all]",
    )
    timeout = click.option(
        "--timeout",
        type=duration,
        default=ANSWER_SECONDS,
        show_default=True,
        metavar="DURATION",
        help="How long answers are gathered.",
    )
    return topology_option(destination(timeout(json_option(command))))


@click.command()
@click.argument("what", type=click.Choice(INSPECTIONS))
@remote_options
def inspect(
    what: str,
    topology_file: Path | None,
    environment: str | None,
    destination: tuple[str, ...],
    timeout: float,
    as_json: bool,
) -> None:
    """Ask workers how they are.

    Asks every worker of the virtual host, or those named by -d. Ends with exit code 1 when none has answered.

    \b
    Examples:
      amqpq inspect ping                        who is there
      amqpq inspect active                      the tasks that run
      amqpq inspect reserved -d w1@host         the tasks that w1 holds and has not begun
      amqpq inspect active_queues --json
      amqpq inspect stats --timeout 5s
    """
    with _control(topology_file, environment) as control:
        answers = control.broadcast(what, destination=destination or None, reply=True, timeout=timeout)
    _show(answers, what, as_json=as_json)


@click.group()
def control() -> None:
    """Tell workers what to do.

    Tells every worker of the virtual host, or those named by -d. Ends with exit code 1 when none has answered, or one could
    not do it. Where messages must be signed, it signs with this host's key.

    \b
    Examples:
      amqpq control revoke ID                   never run this task
      amqpq control revoke ID --terminate       and end it if it runs
      amqpq control pool_grow 2 -d w1@host
      amqpq control pause                       take no more work, until `resume`
      amqpq control shutdown -d w1@host
    """


def _plain_command(name: str, text: str, *examples: str) -> None:
    """Add a command without arguments."""

    @control.command(name, help=_help(text, examples or (f"amqpq control {name} -d w1@host",)))
    @remote_options
    def tell(**values: Any) -> None:
        _tell(name, {}, values)


def _help(text: str, examples: Sequence[str]) -> str:
    return "\n".join([text, "", "\b", "Examples:", *(f"  {example}" for example in examples)])


_plain_command("shutdown", "Stop warm: what runs is finished, what has not begun goes back to its queue.")
_plain_command("pause", "Take no more work until `resume`; what is there is finished.", "amqpq control pause")
_plain_command("resume", "Take work again.", "amqpq control resume")
_plain_command("enable_events", "Send task events, for Flower and its like.", "amqpq control enable_events")
_plain_command("disable_events", "Send no more task events.", "amqpq control disable_events")


@control.command()
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--terminate", is_flag=True, help="Also end it where it runs; prefork only.")
@click.option("--signal", default="SIGTERM", show_default=True, help="With which; SIGKILL where the task ignores it.")
@remote_options
def revoke(task_ids: tuple[str, ...], terminate: bool, signal: str, **values: Any) -> None:
    """Have tasks not run, wherever they wait.

    Workers that start later know it where the topology has `control: {revocations: 7d}`; else only those that run now do.

    \b
    Examples:
      amqpq control revoke 1f0c2a7e-5d3b-4c0f-9a44-0a2b6e1c7d55
      amqpq control revoke ID ID ID
      amqpq control revoke ID --terminate --signal SIGKILL
    """
    with _control(values["topology_file"], values["environment"]) as remote:
        remembered = remote.remembers
        answers = remote.revoke(
            task_ids,
            terminate=terminate,
            signal=signal,
            destination=values["destination"] or None,
            reply=True,
            timeout=values["timeout"],
        )
    if not remembered:
        click.echo("only the workers that run now know it: the topology has no `control: {revocations: 7d}`", err=True)
    elif not answers:
        click.echo("no worker has answered; those that start later will know it", err=True)
        if values["as_json"]:
            output.print_json({})
        return
    _show(answers, "revoke", as_json=values["as_json"])


@control.command("rate_limit")
@click.argument("task")
@click.argument("rate")
@remote_options
def rate_limit(task: str, rate: str, **values: Any) -> None:
    """Change how often each worker may begin a task, until it is started anew; 0 is no limit.

    What all workers keep together stands under `limits:` in the topology file, and is not changed by this.

    \b
    Examples:
      amqpq control rate_limit shop.mail 10/m
      amqpq control rate_limit shop.mail 0 -d w1@host
    """
    _tell("rate_limit", {"task_name": task, "rate_limit": rate}, values)


@control.command("time_limit")
@click.argument("task")
@click.argument("soft", type=float)
@click.argument("hard", type=float, required=False)
@remote_options
def time_limit(task: str, soft: float, hard: float | None, **values: Any) -> None:
    """Change how long a task may run, in seconds, until each worker is started anew; 0 is what the worker says.

    At SOFT the task is told, at HARD its process is killed. It counts for tasks that a worker gets from now on; what the call
    itself says comes first.

    \b
    Examples:
      amqpq control time_limit shop.report 50 60
      amqpq control time_limit shop.report 0 -d w1@host
    """
    _tell("time_limit", {"task_name": task, "soft": soft, "hard": hard}, values)


@control.command("add_consumer")
@click.argument("queue")
@remote_options
def add_consumer(queue: str, **values: Any) -> None:
    """Consume one more queue of the topology.

    \b
    Examples:
      amqpq control add_consumer web.high -d w1@host
    """
    _tell("add_consumer", {"queue": queue}, values)


@control.command("cancel_consumer")
@click.argument("queue")
@remote_options
def cancel_consumer(queue: str, **values: Any) -> None:
    """Stop consuming a queue.

    \b
    Examples:
      amqpq control cancel_consumer web.high -d w1@host
    """
    _tell("cancel_consumer", {"queue": queue}, values)


@control.command("pool_grow")
@click.argument("n", type=click.IntRange(1), default=1)
@remote_options
def pool_grow(n: int, **values: Any) -> None:
    """Run N more tasks at a time.

    \b
    Examples:
      amqpq control pool_grow 2 -d w1@host
    """
    _tell("pool_grow", {"n": n}, values)


@control.command("pool_shrink")
@click.argument("n", type=click.IntRange(1), default=1)
@remote_options
def pool_shrink(n: int, **values: Any) -> None:
    """Run N tasks fewer at a time.

    \b
    Examples:
      amqpq control pool_shrink -d w1@host
    """
    _tell("pool_shrink", {"n": n}, values)


@control.command()
@click.argument("most", metavar="MAX", type=click.IntRange(1))
@click.argument("least", metavar="MIN", type=click.IntRange(1), required=False)
@remote_options
def autoscale(most: int, least: int | None, **values: Any) -> None:
    """Change between which sizes workers scale themselves.

    \b
    Examples:
      amqpq control autoscale 10 2 -d w1@host
    """
    _tell("autoscale", {"max": most, "min": least}, values)


# --------------------------------------------------------------------------------------------------------- the workers


@contextmanager
def _control(file: Path | None, environment: str | None) -> Iterator[Control]:
    topology = load_topology(file, environment)
    codec: list[Codec] = []

    def loaded() -> Codec:
        if not codec:
            codec.append(config.codec(topology))
        return codec[0]

    link = config.link(topology, name="amqpq control")
    try:
        yield Control(lambda: link, loaded, lambda: topology)
    finally:
        link.close(5.0)


def _tell(command: str, arguments: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    with _control(values["topology_file"], values["environment"]) as remote:
        answers = remote.broadcast(
            command, arguments, destination=values["destination"] or None, reply=True, timeout=values["timeout"]
        )
    _show(answers, command, as_json=values["as_json"])


def _show(answers: Answers, what: str, *, as_json: bool) -> None:
    """Print the answers by worker; end with an error where there is none, or one is an error."""
    found = {worker: value for answer in answers for worker, value in answer.items()}
    if as_json:
        output.print_json(dict(sorted(found.items())))
    if not found:
        output.fail("no worker has answered; is one running in this virtual host? --timeout waits longer")
    failed = False
    for worker, value in sorted(found.items()):
        error = value.get("error") if isinstance(value, dict) else None
        failed = failed or error is not None
        if not as_json:
            _print_answer(worker, value if error is None else None, error, what)
    if failed:
        raise click.exceptions.Exit(output.ExitCode.ERROR)


def _print_answer(worker: str, value: Any, error: object, what: str) -> None:
    name = click.style(plain(worker, one_line=True), bold=True)
    if error is not None:
        click.echo(f"{name}: {click.style('error:', fg='red')} {plain(str(error), one_line=True)}")
    elif isinstance(value, dict) and set(value) == {"ok"}:
        click.echo(f"{name}: {plain(str(value['ok']))}")
    elif not value:
        click.echo(f"{name}: none")
    else:
        click.echo(f"{name}:")
        for line in _lines(value, what):
            click.echo(f"  {plain(line, one_line=True)}".rstrip())


def _lines(value: Any, what: str) -> list[str]:
    columns = _COLUMNS.get(what)
    if columns is not None and isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return _table([heading for heading, _ in columns], [[_cell(row, key) for _, key in columns] for row in value])
    if isinstance(value, list):
        return [str(each) for each in value]
    if isinstance(value, dict):
        return _table([], [[name, text] for name, text in _flat(value)])
    return [str(value)]


def _cell(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if key == "queue":
        delivery = row.get("delivery_info")
        value = delivery.get("queue") if isinstance(delivery, dict) else None
    elif key == "exchange":
        value = value.get("name") if isinstance(value, dict) else value
    elif key == "time_start" and isinstance(value, int | float):
        value = f"{max(time.time() - value, 0.0):.0f}s"
    return "-" if value is None or value == "" else str(value)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, each in value.items():
        if isinstance(each, dict):
            yield from _flat(each, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", ", ".join(map(str, each)) if isinstance(each, list) else str(each)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    table = [list(headings), *map(list, rows)] if headings else [list(row) for row in rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return ["  ".join(map(str.ljust, row, widths)) for row in table]
