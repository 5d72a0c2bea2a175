"""Permits: how a limit on tasks is kept by all workers together.

A limit has a permit queue, which holds as many messages as there are permits. A worker takes one before it begins a task,
leaves it unacknowledged, and gives it back (requeue): for `concurrency` when the task ends, for a `rate` some time after it
began. So a permit never moves and is never published again, and those of a worker that dies are the broker's at once.

For a rate of n in a time T there are k permits, each held for k * T / n. Within any time that is a whole number of such
holds there are never more beginnings than the rate says; k divides n, so T is one. It is the smallest k with a hold of
`SHORTEST_HOLD_SECONDS`: few permits make an even flow, and a hold must be long beside the way to the broker and back.

The queues are classic, because a quorum queue counts returns and drops a message that came back too often (4.x: 20 times,
https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling). Their maximum length is the number of permits: should
there ever be too many (two applies at the same time), they are dropped once that many lie in the queue. What a limit says is
part of the name of its queue: another number is another queue.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Final

from amqpq.rates import Rate
from amqpq.topology.model import TaskLimit, Topology
from amqpq.types import PERSISTENT, Properties, Publication, QueueSpec

SHORTEST_HOLD_SECONDS: Final = 0.25
LONGEST_HOLD_SECONDS: Final = 1200.0
"""The broker closes a channel that leaves a delivery unacknowledged for 30 minutes
(https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout); a permit must be back well before."""


def hold_of(rate: Rate) -> tuple[int, float]:
    """Return how many permits a rate has, and for how many seconds each is held."""
    fewest = max(1, math.ceil(SHORTEST_HOLD_SECONDS * rate.per_second - 1e-9))
    count = fewest
    if rate.count.is_integer():
        whole = int(rate.count)
        count = next((k for k in range(fewest, whole + 1) if whole % k == 0), fewest)
    return count, count * rate.interval


def permits_of(limit: TaskLimit) -> int:
    """Return how many permits each queue of a limit holds."""
    return hold_of(limit.rate)[0] if limit.rate is not None else limit.concurrency


def hold_seconds(limit: TaskLimit) -> float | None:
    """Return how long a permit is kept after the task began; None where it is kept until the task ends."""
    return None if limit.rate is None else hold_of(limit.rate)[1]


def permit_queue(project: str, limit: TaskLimit, slot: int = 0) -> str:
    """Return the name of a limit's permit queue, of the one for `slot` where it has slots."""
    stem = f"{prefix(project)}{limit.pattern}"
    if limit.rate is not None:
        return f"{stem}.{limit.rate.count:g}-per-{limit.rate.unit}.{permits_of(limit)}"
    if limit.key is None:
        return f"{stem}.{limit.concurrency}"
    return f"{stem}.{limit.concurrency}.{limit.key}.{slot}-of-{limit.slots}"


def prefix(project: str) -> str:
    """Return how the names of a project's permit queues begin."""
    return f"{project}.permits."


def slot_of(value: object, slots: int) -> int:
    """Return the slot of a key's value. Equal values have equal slots, and so have a number and its text."""
    digest = hashlib.blake2b(str(value).encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) % slots


def queues_of(project: str, limit: TaskLimit) -> tuple[str, ...]:
    """Return the names of all permit queues of a limit."""
    return tuple(permit_queue(project, limit, slot) for slot in range(limit.slots if limit.key is not None else 1))


def permit_queues(topology: Topology) -> Iterator[tuple[str, int]]:
    """Walk all permit queues: name, and how many permits it holds."""
    for limit in topology.limits:
        for name in queues_of(topology.project, limit):
            yield name, permits_of(limit)


def permit_spec(name: str, count: int) -> QueueSpec:
    """Return a permit queue as `queue.declare` takes it."""
    return QueueSpec(name, arguments={"x-queue-type": "classic", "x-max-length": count})


def permit_messages(name: str, count: int) -> list[Publication]:
    """Return the permits of a queue that was just created."""
    properties = Properties(content_type="text/plain", delivery_mode=PERSISTENT)
    return [Publication("", name, f"permit {number} of {count}".encode(), properties) for number in range(1, count + 1)]
