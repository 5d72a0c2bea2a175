"""How a command is told where a message goes: by its task and arguments, or by exchange, key and headers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import click

from amqpq.topology import Topology


def address(
    loaded: Topology, task: str | None, exchange: str | None, key: str, kwargs: tuple[str, ...]
) -> tuple[str, str]:
    """Return the exchange and the key that a task's route publishes with, or those that were named.

    Raises:
        click.UsageError: Both a task and an exchange were named, or neither.
        NoRoute: No route is for this task.
        LocalError: The route's key needs an argument that is not there.
    """
    if (task is None) == (exchange is None):
        raise click.UsageError("say either --task NAME or --exchange NAME")
    if task is None:
        if kwargs:
            raise click.UsageError("-k goes with --task")
        return exchange or "", key
    if key:
        raise click.UsageError("--key goes with --exchange; a task's key comes from its route")
    found = loaded.route_for(task)
    return found.exchange, found.routing_key(task, pairs(kwargs, "-k"))


def pairs(texts: Iterable[str], option: str) -> dict[str, Any]:
    """Read NAME=VALUE; the value as JSON, else as text."""
    found: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise click.UsageError(f"{option} {text!r}: expected NAME=VALUE")
        found[name] = value
        with suppress(ValueError):
            found[name] = json.loads(value)
    return found
