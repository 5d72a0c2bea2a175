"""`amqpq broker`: a private RabbitMQ for development."""

from __future__ import annotations

from pathlib import Path

import click

from amqpq.cli import output
from amqpq.cli.options import json_option
from amqpq.errors import BrokerSetupError
from amqpq.node import Broker, NodeOptions, default_folder, find_broker, state
from amqpq.node.find import DEFAULT_NAME
from amqpq.node.options import free_ports

_name_option = click.option("--name", default=DEFAULT_NAME, show_default=True, help="Which private broker.")
_data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Its data folder. [default: $XDG_STATE_HOME/amqpq/broker/NAME]",
)


@click.group()
def broker() -> None:
    """Run a private RabbitMQ for development.

    It has its own ports, data and name and listens on this machine only; a RabbitMQ that runs as a service is not
    touched. It needs `rabbitmq-server` installed, or Docker.

    \b
    Examples:
      eval "$(amqpq broker start)"        start it, and set $AMQPQ_BROKER_URL in this shell
      amqpq broker status
      amqpq broker stop
      amqpq broker start --name second    another one beside it
    """


@broker.command()
@_name_option
@_data_option
@click.option(
    "--port", type=click.IntRange(1, 65535), default=None, help="AMQP port. [default: a free one, then the same]"
)
@click.option("--listen", default="127.0.0.1", show_default=True, help="Address that it listens on.")
@click.option("--plugin", "plugins", multiple=True, help="Enable a further plugin; may be repeated.")
@json_option
def start(name: str, data: Path | None, port: int | None, listen: str, plugins: tuple[str, ...], as_json: bool) -> None:
    """Start it, wait until it is ready, and print where it is.

    Standard output is for `eval`: it holds `export` lines only. Where it runs already, they are printed again.

    \b
    Examples:
      eval "$(amqpq broker start)"
      amqpq broker start --json
    """
    folder = data or default_folder(name)
    found = find_broker(folder)
    if not found.running:
        known_port = _port_of(found)
        ports = free_ports(port) if port is not None and port != known_port else None
        found = find_broker(folder, NodeOptions(listen=listen, ports=ports, plugins=plugins))
        found.start(on_progress=lambda step: click.echo(step, err=True))
    elif port is not None and port != _port_of(found):
        output.fail(f"it runs already, on port {_port_of(found)}; stop it first")
    if as_json:
        output.print_json(_facts(found))
        return
    click.echo(
        f"RabbitMQ {found.version} runs. Management page: {found.management_url} (log in as in the URL)", err=True
    )
    click.echo(f"export AMQPQ_BROKER_URL={found.url}")
    click.echo(f"export AMQPQ_MANAGEMENT_URL={found.management_url}")


@broker.command()
@_name_option
@_data_option
@json_option
def stop(name: str, data: Path | None, as_json: bool) -> None:
    """Stop it in order; its data stays.

    \b
    Example:
      amqpq broker stop
    """
    folder = data or default_folder(name)
    found = find_broker(folder) if state.read(folder) else None
    was_running = found is not None and found.running
    if found and was_running:
        found.stop()
    if as_json:
        output.print_json({"running": False, "was_running": was_running, "data": folder})
    else:
        click.echo("stopped" if was_running else f"no broker runs in {folder}", err=True)


@broker.command()
@_name_option
@_data_option
@json_option
def status(name: str, data: Path | None, as_json: bool) -> None:
    """Say whether it runs, and where. The exit code is 1 where it does not.

    \b
    Examples:
      amqpq broker status
      amqpq broker status --json | jq -r .url
    """
    folder = data or default_folder(name)
    found = find_broker(folder) if state.read(folder) else None
    facts = _facts(found) if found and found.running else {"running": False, "data": folder}
    if as_json:
        output.print_json(facts)
    elif facts["running"]:
        for key, value in facts.items():
            click.echo(f"{key.replace('_', ' '):<14} {value}")
    else:
        click.echo(f"no broker runs in {folder}; `amqpq broker start` starts one")
    if not facts["running"]:
        raise click.exceptions.Exit(output.ExitCode.ERROR)


def _facts(found: Broker) -> dict[str, object]:
    return {
        "running": found.running,
        "url": found.url,
        "management_url": found.management_url,
        "version": found.version,
        "pid": found.pid,
        "kind": found.kind,
        "data": found.folder,
        "log": found.log,
    }


def _port_of(found: Broker) -> int | None:
    try:
        return int(found.url.rpartition(":")[2].strip("/"))
    except BrokerSetupError:
        return None  # never started
