"""What a plan says of queues that have another name now (`amqpq.topology.renames`). Pure."""

from __future__ import annotations

from collections.abc import Iterator

from amqpq.provision.changes import Action, Change
from amqpq.provision.wanted import Wanted


def renamed(wanted: Wanted) -> Iterator[Change]:
    """Return which queues get another name by an apply, and which live in the queue of their former one."""
    for queue, home in wanted.generations.homes.items():
        if home.lead is None or queue not in wanted.renamed:
            continue
        if home.noted:
            because = f"it lives in the queue {home.current}"
            remedy = f"`amqpq topology migrate {queue}` gives it a queue of its own name"
            yield Change("queue", queue, Action.INFO, because=because, remedy=remedy)
        else:
            yield Change("queue", queue, Action.CHANGE, because=said(queue, home.former, home.current))


def said(queue: str, former: str | None, current: str) -> str:
    """Return what an apply does about a queue that was renamed."""
    return f"renamed from {former}: it lives in the queue {current} until `amqpq topology migrate {queue}`"
