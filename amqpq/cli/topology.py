"""`amqpq topology`: look at the topology file, ask where messages go, declare it on a broker."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from amqpq.cli import applying, convert, declaring, diff, linting, locking, output, plan
from amqpq.cli.addressing import address, pairs
from amqpq.cli.checks import check
from amqpq.cli.destroy import destroy
from amqpq.cli.graph import graph
from amqpq.cli.migrate import migrate
from amqpq.cli.options import duration, json_option, load_topology, topology_option
from amqpq.topology import library, reach, render, schema
from amqpq.topology.declarations import declarations


@contextmanager
def _rare_collections() -> Iterator[None]:
    """A large file is hundreds of thousands of objects that all stay; the collector would look at them again and again.

    With Python's thresholds that is a third of the time that `lint` takes for 2,000 queues and 5,000 bindings.
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@click.group()
@click.pass_context
def topology(context: click.Context) -> None:
    """Lint, show, route, check and apply the topology file.

    \b
    Examples:
      amqpq topology lint                            everything that is wrong with ./topology.yaml
      amqpq topology route --task web.resize         which queues a task reaches, and how
      amqpq topology apply                           create on the broker what the file declares
    """
    context.with_resource(_rare_collections())


topology.add_command(graph)
topology.add_command(linting.lint)
topology.add_command(locking.lock)
topology.add_command(check)
topology.add_command(plan.plan)
topology.add_command(plan.drift)
topology.add_command(diff.diff)
topology.add_command(migrate)
topology.add_command(destroy)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


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
    exchange, key = address(loaded, message["task"], message["exchange"], message["key"], message["kwargs"])
    found = reach(loaded, exchange, key, pairs(message["headers"], "--header"), message["cc"])
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


# -------------------------------------------------------------------------------------------------------------- apply


@topology.command()
@topology_option
@json_option
@click.argument("plan_file", metavar="[PLAN]", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--dry", is_flag=True, help="Only list what would be declared; no broker is asked.")
@click.option(
    "--timeout",
    type=duration,
    default="30s",
    show_default=True,
    metavar="DURATION",
    help="For finding a broker, and for its answers.",
)
def apply(
    topology_file: Path | None,
    environment: str | None,
    as_json: bool,
    plan_file: Path | None,
    dry: bool,
    timeout: float,
) -> None:
    """Create on the broker what the file declares, or do what PLAN says. Doing it again changes nothing.

    Without PLAN nothing is changed or removed that exists. With it, the plan that `amqpq topology plan --out PLAN` kept is
    carried out, and only where nothing it touches has changed since. Both take the project's lock, and note in the broker
    what the project owns.

    Exit codes: 0 all is done; 3 some of it failed; 1 nothing could be done.

    \b
    Examples:
      amqpq topology apply
      amqpq topology apply -e prod --dry
      amqpq topology plan --out shop.plan && amqpq topology apply shop.plan
      AMQPQ_BROKER_URL=amqp://... amqpq topology apply --json
    """
    loaded = load_topology(topology_file, environment)
    locking.remark(loaded)
    if plan_file is not None:
        if dry:
            raise click.UsageError("--dry goes without PLAN; a plan is what would be done")
        applying.apply_plan(loaded, plan_file, as_json=as_json, timeout=timeout)
        return
    if dry:
        declaring.print_dry(declarations(loaded), loaded.policies, as_json=as_json)
        return
    declaring.apply_file(loaded, as_json=as_json, timeout=timeout)


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


topology.add_command(convert.import_)
topology.add_command(convert.export)
