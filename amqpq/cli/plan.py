"""`amqpq topology plan | drift`: what an apply would do, and how the broker differs from the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from amqpq import config
from amqpq.cli import locking, output
from amqpq.cli.options import duration, json_option, load_topology, topology_option
from amqpq.provision import journal, text
from amqpq.provision import plan as plans
from amqpq.provision.look import Choice, Eyes, look
from amqpq.provision.plan import Plan
from amqpq.provision.wanted import wanted_there
from amqpq.topology.model import Topology
from amqpq.transport import blocking, register
from amqpq.transport.link import Link

Command = TypeVar("Command", bound=Callable[..., Any])

_COLOURS = {"+": "green", "~": "yellow", ">": "magenta", "-": "red", "!": "red", "*": "cyan", "?": "blue"}

_CODES = {
    "clean": output.ExitCode.FINE,
    "changes": output.ExitCode.CHANGES,
    "forbidden": output.ExitCode.FORBIDDEN,
    "unknown": output.ExitCode.UNDECIDABLE,
}


def looking_options(command: Command) -> Command:
    """Add `--observe` and `--timeout`: how a broker is looked at."""
    observe = click.option(
        "--observe",
        type=click.Choice(["auto", "http", "amqp1.0", "amqp"]),
        default="auto",
        show_default=True,
        help="http: the management API, or fail; amqp1.0: RabbitMQ 4 without it, or fail; amqp: any broker without it.",
    )
    timeout = click.option(
        "--timeout",
        type=duration,
        default="30s",
        show_default=True,
        metavar="DURATION",
        help="For finding a broker, and for each look at it.",
    )
    return observe(timeout(command))


@click.command()
@topology_option
@json_option
@looking_options
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Keep the plan, for `apply FILE`."
)
@click.option(
    "--detailed-exitcode", is_flag=True, help="2: there are changes, 4: some are forbidden, 5: something is unknown."
)
@click.option("--info", "infos", is_flag=True, help="Also print what differs and makes no difference.")
def plan(
    topology_file: Path | None,
    environment: str | None,
    as_json: bool,
    observe: str,
    timeout: float,
    out: Path | None,
    detailed_exitcode: bool,
    infos: bool,
) -> None:
    """Say what an apply would do to the broker, and what it could not do. Nothing is changed.

    \b
    + is made, ~ changed in place (or could be, by a policy), > needs a migration, - is removed, ! is blocked,
    * is (also) somebody else's, ? cannot be seen.

    \b
    Examples:
      amqpq topology plan
      amqpq topology plan -e prod --out prod.plan      then `amqpq topology apply -e prod prod.plan`
      amqpq topology plan --json | jq '.changes[] | select(.action == "migrate")'
    """
    loaded = load_topology(topology_file, environment)
    locking.remark(loaded)
    with eyes(loaded, observe, timeout) as seeing:
        made = planned(loaded, seeing)
    if out is not None:
        out.write_text(json.dumps(text.document(made), indent=2, default=str) + "\n", encoding="utf-8")
    print_plan(made, as_json=as_json, infos=infos)
    if detailed_exitcode:
        _end(made)


@click.command()
@topology_option
@json_option
@looking_options
def drift(topology_file: Path | None, environment: str | None, as_json: bool, observe: str, timeout: float) -> None:
    """Say how the broker differs from the file, for a job that runs every night.

    The exit code is 0 where it does not, 2 where it does, 4 where something is forbidden, 5 where that cannot be seen.

    \b
    Examples:
      amqpq topology drift
      amqpq topology drift -e prod --observe http --json
    """
    loaded = load_topology(topology_file, environment)
    locking.remark(loaded)
    with eyes(loaded, observe, timeout) as seeing:
        made = planned(loaded, seeing)
    print_plan(made, as_json=as_json, infos=True)
    _end(made)


def _end(made: Plan) -> None:
    code = _CODES[made.outcome]
    if code:
        raise click.exceptions.Exit(code)


@contextmanager
def eyes(loaded: Topology, observe: str, timeout: float) -> Iterator[Eyes]:
    """Open what a broker is looked at with, and close it again."""
    addresses = config.addresses(loaded)
    link = Link(
        addresses,
        blocking.connect,
        name=f"amqpq topology {loaded.project}",
        heartbeat_seconds=loaded.broker.heartbeat_seconds,
    )
    api = config.management(loaded, timeout_seconds=timeout)
    try:
        choice = cast("Choice", observe)
        yield Eyes(link.connection(timeout), addresses[0].vhost, api, choice, timeout, addresses)
    finally:
        link.close()
        if api is not None:
            api.close()


def planned(loaded: Topology, seeing: Eyes) -> Plan:
    """Look at the broker, and plan; what could not be seen is said on standard error."""
    target = wanted_there(loaded, register.where_now(seeing.connection, loaded))
    seen = look(seeing, target)
    if seen.remark:
        click.echo(seen.remark, err=True)
    others = journal.others(seeing.connection, seen.observed.queues, loaded.project)
    return plans.plan(loaded, target, seen.observed, seen.manifest, others)


def print_plan(made: Plan, *, as_json: bool, infos: bool) -> None:
    """Print a plan; without `infos` what makes no difference is left out."""
    if as_json:
        output.print_json(text.document(made))
        return
    for line in text.lines(made, infos=infos):
        colour = _COLOURS.get(line[2:3]) if line.startswith("  ") and line[3:4] == " " else None
        click.echo(click.style(line, fg=colour) if colour else line)
