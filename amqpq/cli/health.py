"""`amqpq health`: asks a worker's health endpoint, for containers and service managers without an HTTP client."""

from __future__ import annotations

import json
import socket
from typing import Any, Final

import click

from amqpq.cli import output
from amqpq.cli.options import json_option
from amqpq.endpoint import Address, read_address
from amqpq.errors import ConfigurationError

TIMEOUT_SECONDS: Final = 3.0
"""An endpoint answers in a millisecond, whatever the worker does."""
WELL: Final = 200


@click.command()
@click.argument("address", envvar="AMQPQ_HEALTH", required=False)
@click.option("--ready", is_flag=True, help="Ask whether it does its work, too, and not only whether it lives.")
@json_option
def health(address: str | None, ready: bool, as_json: bool) -> None:
    """Ask a worker how it is. Exit code 0: well; 1: not, or nobody answers.

    ADDRESS is what its `--health` says: PORT, HOST:PORT or unix:/PATH; $AMQPQ_HEALTH where none is given.

    \b
    Examples:
      amqpq health 8080                        a liveness probe
      amqpq health --ready unix:/run/w1.sock   a readiness probe
      amqpq health 8080 --json | jq .pool.members
    """
    if address is None:
        raise ConfigurationError("say where the worker's --health is, or set $AMQPQ_HEALTH")
    where = read_address(address)
    try:
        code, data = ask(where, "/readyz" if ready and not as_json else "/health")
    except (OSError, ValueError) as error:
        output.fail(f"nobody answers at {where}: {error}")
    well = bool(data.get("ready")) if ready else code == WELL
    if as_json:
        output.print_json(data)
    else:
        words = (
            f"{data.get('worker')}: {'ready' if data.get('ready') else 'alive' if data.get('live') else 'not alive'}"
        )
        click.echo("\n  ".join((words, *data.get("why", ()))))
    if not well:
        raise click.exceptions.Exit(output.ExitCode.ERROR)


def ask(address: Address, path: str) -> tuple[int, dict[str, Any]]:
    """Return the status and the object that an endpoint answers.

    Raises:
        OSError: Nobody answers.
        ValueError: What answers is no worker.
    """
    if address.path:
        caller = socket.socket(socket.AF_UNIX)
        caller.settimeout(TIMEOUT_SECONDS)
    else:
        caller = socket.create_connection((address.host, address.port), TIMEOUT_SECONDS)
    with caller:
        if address.path:
            caller.connect(address.path)
        caller.sendall(f"GET {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n".encode())
        said = b""
        while data := caller.recv(65536):
            said += data
    head, _, body = said.partition(b"\r\n\r\n")
    words = head.split()
    answer = json.loads(body) if len(words) > 1 and words[1].isdigit() else None
    if not isinstance(answer, dict):
        raise ValueError("what answers there is no worker")  # noqa: TRY004 - of bytes from elsewhere, not of an argument
    return int(words[1]), answer
