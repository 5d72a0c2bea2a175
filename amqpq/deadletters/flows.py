"""The protocols of the desk on a channel: taking without acknowledging, handing over. Written once, for either world."""

from __future__ import annotations

from typing import Final

from amqpq.deadletters.letter import Letter, read
from amqpq.replies.mailbox import ignore
from amqpq.transport.interface import Channel, Flow
from amqpq.types import Delivery, QueueSpec

DEFAULT_DELIVERY_LIMIT: Final = 20
"""Of a quorum queue that sets none, from RabbitMQ 4.0 on (https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling)."""
_FIRST_WITH_DEFAULT: Final = (4, 0, 0)
_SPARED: Final = 5
"""Deliveries that are left to whoever consumes the queue."""


def count(channel: Channel, queue: str) -> Flow[int]:
    """Return how many messages a queue has ready.

    Raises:
        ObjectNotFound: There is no such queue.
    """
    state = yield channel.declare_queue(QueueSpec(queue), passive=True)
    ready: int = state.messages
    return ready


def take(channel: Channel, queue: str, wanted: int) -> Flow[list[Letter]]:
    """Take messages from the front of a queue, without acknowledging; fewer where it has fewer.

    The channel must be closed afterwards: that puts back, in their old places, all that were not acknowledged.

    Args:
        channel: Of the taker alone.
        queue: The dead-letter queue.
        wanted: How many at most. They are asked for at once; so many bodies are in memory.
    """
    answers = [channel.get(queue) for _ in range(wanted)]
    taken: list[Letter] = []
    for answer in answers:
        ignore(answer)  # the first error says it all
    for answer in answers:
        delivery: Delivery | None = yield answer
        if delivery is not None:
            taken.append(read(delivery, queue))
    return taken


def close(channel: Channel) -> Flow[None]:
    """Close a channel after what was sent on it; the broker's answer says that it has read the acknowledgements."""
    yield channel.close()


def look_limit(delivery_limit: int | None, *, quorum: bool, version: tuple[int, int, int]) -> int | None:
    """Return how many deliveries a message may have behind it and still be looked at; None where that is not limited.

    Args:
        delivery_limit: Of the queue, as declared; -1 is none.
        quorum: Whether it is a quorum queue; others do not count.
        version: The broker's.
    """
    if not quorum or delivery_limit == -1:
        return None
    limit = delivery_limit
    if limit is None and version >= _FIRST_WITH_DEFAULT:
        limit = DEFAULT_DELIVERY_LIMIT
    return None if limit is None else max(limit - _SPARED, 0)
