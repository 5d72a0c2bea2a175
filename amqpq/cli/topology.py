"""`amqpq topology`: look at the topology file, ask where messages go, declare it on a broker."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from amqpq import config
from amqpq.cli import output
from amqpq.cli.migrate import migrate
from amqpq.cli.options import DEFAULT_TOPOLOGY, duration, json_option, load_topology, topology_option
from amqpq.errors import ConfigurationError
from amqpq.topology import Inspection, Topology, checks, inspect, library, reach, render, schema
from amqpq.topology.declarations import Declarations, declarations
from amqpq.topology.generations import resolve
from amqpq.topology.problems import Problem
from amqpq.transport import blocking, declare, flow, register
from amqpq.transport.link import Link

_COLOURS = {"error": "red", "warning": "yellow", "info": "blue"}
_MARKS = {"created": "+", "present": "=", "bound": "=", "failed": "!"}


@click.group()
def topology() -> None:
    """Lint, show, route, check and apply the topology file.

    \b
    Examples:
      amqpq topology lint                            everything that is wrong with ./topology.yaml
      amqpq topology route --task web.resize         which queues a task reaches, and how
      amqpq topology apply                           create on the broker what the file declares
    """


topology.add_command(migrate)


# --------------------------------------------------------------------------------------------------------------- lint


@topology.command()
@topology_option
@json_option
@click.option("--strict", is_flag=True, help="Let warnings fail, too.")
@click.option("--info", "infos", is_flag=True, help="Also print what is only worth knowing.")
def lint(topology_file: Path | None, environment: str | None, as_json: bool, strict: bool, infos: bool) -> None:
    """Say everything that is wrong with the file. The exit code is 1 where there are errors.

    \b
    Examples:
      amqpq topology lint
      amqpq topology lint -t shop.yaml -e prod --strict
      amqpq topology lint --json | jq '.problems[] | select(.severity == "error")'
    """
    inspection = _inspect(topology_file, environment)
    failing = [p for p in inspection.problems if p.severity == "error" or (strict and p.severity == "warning")]
    if as_json:
        output.print_json({"problems": [_problem_facts(problem) for problem in inspection.problems]})
    else:
        for problem in inspection.problems:
            if infos or problem.severity != "info":
                click.echo(_line(problem))
        click.echo(_summary(inspection.problems), err=True)
    if failing:
        raise click.exceptions.Exit(output.ExitCode.ERROR)


def _inspect(file: Path | None, environment: str | None) -> Inspection:
    path = file or Path(DEFAULT_TOPOLOGY)
    if not path.is_file():
        remedy = "" if file else "; name one with -t FILE or $AMQPQ_TOPOLOGY"
        raise ConfigurationError(f"no topology file at {path}{remedy}")
    return inspect(path, environment=environment)


def _line(problem: Problem) -> str:
    severity = click.style(problem.severity, fg=_COLOURS[problem.severity])
    remedy = f"; {problem.remedy}" if problem.remedy else ""
    return f"{problem.place}: {severity} {problem.rule} {problem.message}{remedy}"


def _summary(problems: Iterable[Problem]) -> str:
    counts = dict.fromkeys(_COLOURS, 0)
    for problem in problems:
        counts[problem.severity] += 1
    if not counts["error"] and not counts["warning"]:
        return "no errors, no warnings"
    return f"{_counted(counts['error'], 'error')}, {_counted(counts['warning'], 'warning')}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _problem_facts(problem: Problem) -> dict[str, object]:
    return {
        "file": problem.place.file,
        "line": problem.place.line,
        "column": problem.place.column,
        "rule": problem.rule,
        "severity": problem.severity,
        "message": problem.message,
        "remedy": problem.remedy,
    }


# --------------------------------------------------------------------------------------------------------------- show


@topology.command()
@topology_option
@json_option
@click.option(
    "--generated", is_flag=True, help="Also what the file does not write out: generated queues, all arguments."
)
def show(topology_file: Path | None, environment: str | None, as_json: bool, generated: bool) -> None:
    """Show exchanges, queues, bindings and routes.

    \b
    Examples:
      amqpq topology show
      amqpq topology show --generated            with dead-letter queues and the broker's arguments
      amqpq topology show --json | jq .queues
    """
    loaded = load_topology(topology_file, environment)
    if as_json:
        output.print_json(render.facts(loaded))
        return
    click.echo(f"project {loaded.project}, RabbitMQ {loaded.requires.rabbitmq}")
    for table in render.tables(loaded, generated=generated):
        click.echo(f"\n{click.style(table.title, bold=True)}")
        for line in table.lines():
            click.echo(f"  {line}")


# -------------------------------------------------------------------------------------------------------------- route


@topology.command()
@topology_option
@json_option
@click.option("--task", metavar="NAME", help="Publish as this task's route says.")
@click.option(
    "-k", "--kwarg", "kwargs", multiple=True, metavar="NAME=VALUE", help="Keyword argument for the route's key."
)
@click.option("--exchange", metavar="NAME", help="Publish to this exchange; '' is the default one.")
@click.option("--key", default="", metavar="KEY", help="Routing key.")
@click.option(
    "--header", "headers", multiple=True, metavar="NAME=VALUE", help="Header; JSON, else text. May be repeated."
)
@click.option("--cc", multiple=True, metavar="KEY", help="Further routing key, as a CC header holds it.")
def route(
    topology_file: Path | None,
    environment: str | None,
    as_json: bool,
    **message: Any,
) -> None:
    """Say which queues a message reaches, and how it gets there. No broker is asked.

    \b
    Examples:
      amqpq topology route --task web.resize
      amqpq topology route --task file.scan -k kind=py
      amqpq topology route --exchange web --key a.b.c
      amqpq topology route --exchange audit --header severity=high --header pii=true
    """
    loaded = load_topology(topology_file, environment)
    exchange, key = _address(loaded, message["task"], message["exchange"], message["key"], message["kwargs"])
    found = reach(loaded, exchange, key, _pairs(message["headers"], "--header"), message["cc"])
    if as_json:
        output.print_json(
            {
                "exchange": exchange,
                "key": key,
                "queues": sorted(found.queues),
                "exchanges": found.exchanges,
                "steps": found.steps,
            }
        )
        return
    click.echo(f"publish to {f'exchange {exchange!r}' if exchange else 'the default exchange'} with key {key!r}")
    for step in found.steps:
        click.echo(f"  {step}")
    if found.queues:
        click.echo(f"reaches {_counted(len(found.queues), 'queue')}: {', '.join(sorted(found.queues))}")
    else:
        click.echo("reaches no queue: the broker would return it (mandatory) or drop it")


def _address(
    loaded: Topology, task: str | None, exchange: str | None, key: str, kwargs: tuple[str, ...]
) -> tuple[str, str]:
    if (task is None) == (exchange is None):
        raise click.UsageError("say either --task NAME or --exchange NAME")
    if task is None:
        if kwargs:
            raise click.UsageError("-k goes with --task")
        return exchange or "", key
    if key:
        raise click.UsageError("--key goes with --exchange; a task's key comes from its route")
    found = loaded.route_for(task)
    return found.exchange, found.routing_key(task, _pairs(kwargs, "-k"))


def _pairs(texts: Iterable[str], option: str) -> dict[str, Any]:
    """Read NAME=VALUE; the value as JSON, else as text."""
    pairs: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise click.UsageError(f"{option} {text!r}: expected NAME=VALUE")
        pairs[name] = value
        with suppress(ValueError):
            pairs[name] = json.loads(value)
    return pairs


# -------------------------------------------------------------------------------------------------------------- check


@topology.command()
@topology_option
@json_option
def check(topology_file: Path | None, environment: str | None, as_json: bool) -> None:
    """Run the `checks:` of the file, without a broker. The exit code is 1 where one fails.

    \b
    Examples:
      amqpq topology check
      amqpq topology check --json
    """
    results = checks.run(load_topology(topology_file, environment))
    if as_json:
        output.print_json({"checks": [_check_facts(result) for result in results]})
    else:
        for result in results:
            _print_check(result)
        failed = sum(not result.passed for result in results)
        click.echo(
            f"{_counted(len(results), 'check')}, {failed} failed" if results else "the file has no checks", err=True
        )
    if not all(result.passed for result in results):
        raise click.exceptions.Exit(output.ExitCode.ERROR)


def _print_check(result: checks.CheckResult) -> None:
    word = click.style("pass", fg="green") if result.passed else click.style("FAIL", fg="red", bold=True)
    click.echo(f"{word} {result.message} -> {result.outcome}")
    if not result.passed:
        click.echo(f"     {result.check.place}")
        for step in result.reach.steps:
            click.echo(f"     {step}")


def _check_facts(result: checks.CheckResult) -> dict[str, object]:
    return {
        "place": result.check.place,
        "message": result.message,
        "passed": result.passed,
        "queues": result.reach.queues,
        "missing": result.missing,
        "extra": result.extra,
    }


# -------------------------------------------------------------------------------------------------------------- apply


@topology.command()
@topology_option
@json_option
@click.option("--dry", is_flag=True, help="Only list what would be declared; no broker is asked.")
@click.option(
    "--timeout",
    type=duration,
    default="30s",
    show_default=True,
    metavar="DURATION",
    help="For finding a broker, and for its answers.",
)
def apply(topology_file: Path | None, environment: str | None, as_json: bool, dry: bool, timeout: float) -> None:
    """Create on the broker what the file declares. Doing it again changes nothing.

    Exit codes: 0 all is there; 3 some objects failed; 1 nothing could be done.

    \b
    Examples:
      amqpq topology apply
      amqpq topology apply -e prod --dry
      AMQPQ_BROKER_URL=amqp://... amqpq topology apply --json
    """
    loaded = load_topology(topology_file, environment)
    wanted = declarations(loaded)
    if dry:
        _print_dry(wanted, as_json=as_json)
        return
    link = Link(
        config.addresses(loaded),
        blocking.connect,
        name=f"amqpq topology apply {loaded.project}",
        heartbeat_seconds=loaded.broker.heartbeat_seconds,
    )
    try:
        connection = link.connection(timeout)
        generations = register.look_now(connection, loaded.project)
        wanted = resolve(wanted, generations)
        for name in [name for name, home in generations.homes.items() if home.moving]:
            click.echo(f"queue {name} is being migrated, and left as it is", err=True)
        on_step = None if as_json else _print_step
        applied = flow.run(declare.apply(connection.channel, wanted, on_step=on_step), timeout)
    finally:
        link.close()
    if as_json:
        output.print_json({"applied": [_applied_facts(step) for step in applied]})
    failed = [step for step in applied if step.result == "failed"]
    if not as_json:
        created = sum(step.result == "created" for step in applied)
        click.echo(f"{_counted(len(applied), 'object')}: {created} created, {len(failed)} failed", err=True)
    if failed:
        nothing_done = len(failed) == len(applied)
        raise click.exceptions.Exit(output.ExitCode.ERROR if nothing_done else output.ExitCode.PARTLY)


def _print_step(step: declare.Applied) -> None:
    if step.error is not None:
        click.echo(f"{click.style('!', fg='red', bold=True)} {step.error}", err=True)
        return
    words = {"created": "created", "present": "already there", "bound": "bound"}
    colour = "green" if step.result == "created" else None
    click.echo(f"{click.style(_MARKS[step.result], fg=colour)} {step.kind:<8} {step.name}  {words[step.result]}")


def _print_dry(wanted: Declarations, *, as_json: bool) -> None:
    if as_json:
        output.print_json(wanted)
        return
    for exchange in wanted.exchanges:
        click.echo(f"exchange  {exchange.name}  {exchange.type}{_arguments(exchange.arguments)}")
    for queue in wanted.queues:
        click.echo(f"queue     {queue.name}{_arguments(queue.arguments)}")
    for binding in wanted.bindings:
        click.echo(f"binding   {declare.describe_binding(binding)}")
    for name in [*(x.name for x in wanted.expected_exchanges), *(queue.name for queue in wanted.expected_queues)]:
        click.echo(f"expected  {name}  (must exist)")


def _arguments(arguments: Any) -> str:
    return "".join(f"  {name}={value!r}" for name, value in arguments.items())


def _applied_facts(step: declare.Applied) -> dict[str, object]:
    return {
        "kind": step.kind,
        "name": step.name,
        "result": step.result,
        "error": None if step.error is None else str(step.error),
        "differences": step.differences,
    }


# ------------------------------------------------------------------------------------------------- schema and library


@topology.command("schema")
def schema_() -> None:
    """Print the JSON Schema of the file, for editors.

    \b
    Example:
      amqpq topology schema > topology-1.schema.json
    """
    click.echo(schema.text(), nl=False)


@topology.command("library")
@click.argument("name", required=False)
@json_option
def library_(name: str | None, as_json: bool) -> None:
    """List the ready-made topologies, or print one to begin with.

    \b
    Examples:
      amqpq topology library
      amqpq topology library work-queues > topology.yaml
    """
    if name is not None:
        click.echo(library.find(name).read_text(encoding="utf-8"), nl=False)
        return
    found = {known: _title(library.find(known)) for known in library.names()}
    if as_json:
        output.print_json(found)
        return
    width = max(len(known) for known in found)
    for known, title in found.items():
        click.echo(f"{known:<{width}}  {title}")


def _title(path: Path) -> str:
    """Return the first sentence of a file's comments."""
    lines = path.read_text(encoding="utf-8").split("\n")
    comments = [line.removeprefix("#").strip() for line in lines if line.startswith("#") and "$schema" not in line]
    return comments[0] if comments else ""
