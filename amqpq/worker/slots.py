"""Which slot of a limit with a key a delivery belongs to.

The key is an argument, so it is in the body, which nobody may decode before its signature is checked. The children do that;
but a permit is needed before a child gets the work. So for these tasks, and for no others, the worker's own process checks
the signature and decodes, too. It never loads a pickle: that would run code of the sender where the connection lives (lint
refuses `pickle` beside a `key`). What cannot be decoded needs no permit: a child refuses it and says why.
"""

from __future__ import annotations

from amqpq.errors import AmqpqError, ConfigurationError
from amqpq.task import did_you_mean
from amqpq.topology import Topology
from amqpq.topology.permits import slot_of
from amqpq.types import Delivery
from amqpq.worker.host import Host, Tasks


def slot_of_delivery(host: Host, delivery: Delivery, key: str, slots: int) -> int | None:
    """Return the slot of a delivery; None for one that will not be run anyway."""
    try:
        envelope = host.codec.decode_task(delivery.body, delivery.properties)
        task = host.registry.get(envelope.task)
        return None if task is None else slot_of(task.argument(key, envelope.args, envelope.kwargs), slots)
    except (AmqpqError, TypeError, ValueError):
        return None  # refused by whoever runs it, with the reason


def check_keys(topology: Topology, tasks: Tasks) -> None:
    """See that each task under a limit with a key has that argument.

    Raises:
        ConfigurationError: One has not.
    """
    for name in tasks.names:
        limit = topology.limit_for(name)
        task = tasks.get(name)
        if limit is None or limit.key is None or task is None or task.takes_argument(limit.key):
            continue
        hint = did_you_mean(limit.key, task.arguments)
        raise ConfigurationError(
            f"limits: '{limit.pattern}' counts by the argument {limit.key!r}, and task {name!r} has none of that name{hint}"
        )
