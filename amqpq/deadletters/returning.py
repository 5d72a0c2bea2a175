"""The way back for dead letters: a queue in between, so that being killed loses nothing and doubles nothing.

Publishing a copy and acknowledging the original are two acts; who is killed between them leaves both. Whether the copy was
published cannot be seen afterwards, because a worker may have taken it. Therefore a copy goes to a queue that nobody
consumes (the *way*), and only from there to its target:

1. Publish copies to the way; wait for the confirms. Each carries a token that is computed from its original.
2. Acknowledge the originals; wait until the broker has read that.
3. Reject the copies. The way is a quorum queue that dead-letters at least once, so the broker itself moves them to their
   targets and keeps them until those have confirmed (https://www.rabbitmq.com/docs/quorum-queues#dead-lettering).

Killed at any moment, a message is a dead letter, or is on the way, or is both, and never on the way to its target while its
original is a dead letter. The next run begins with what is on the way (`desk`): originals with the same token are
acknowledged, then the copies are moved. Nothing is guessed.

What it does not cover: a broker that is itself killed may forget acknowledgements (classic queues) and repeat a
dead-lettering; then there are doubles, and none is lost. Dead letters that are equal to the last byte and header count as
one while a run that was cut off is finished.

Why not a transaction (tx), which is atomic towards the client on one node: it acknowledges also when the target is missing
or refuses the copy, and then there is nothing left.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from amqpq.deadletters.letter import BROKERS_COUNTS, Letter
from amqpq.message.wire import RETURNED
from amqpq.transport.interface import Channel, Flow, caught_up
from amqpq.types import BindingSpec, Delivery, ExchangeSpec, Outcome, Publication, QueueSpec

SENT_AT_A_TIME: Final = 8
"""Of the commands that a channel sends to a quorum queue; it holds back more than 32 (RabbitMQ's soft limit)."""
_NO_LIMIT: Final = 1_000_000
"""Returns that the way bears. `-1` means another thing on 3.x than on 4.x."""


@dataclass(frozen=True, slots=True)
class Way:
    """The names of a project's way back."""

    project: str

    @property
    def name(self) -> str:
        """Of the queue, and of the exchange before it, which lets the routing key of a copy name its target."""
        return f"{self.project}.returning"

    @property
    def lock(self) -> str:
        """Of an exclusive queue: whose connection has it is the only one that works on the way."""
        return f"{self.project}.returning.lock"


def token(letter: Letter) -> str:
    """Return the name of a dead letter and a digest of all that it is; the same each time it is read."""
    delivery = letter.delivery
    headers = {name: value for name, value in delivery.properties.headers.items() if name not in BROKERS_COUNTS}
    whole = delivery.properties._replace(headers={})
    digest = hashlib.blake2b(repr((sorted(headers.items(), key=_name), whole)).encode(errors="replace"), digest_size=16)
    digest.update(delivery.body)
    return f"{digest.hexdigest()} {letter.queue}"


def queue_of(mark: str) -> str:
    """Return the dead-letter queue that a token names."""
    return mark.partition(" ")[2]


def prepare(channel: Channel, way: Way) -> Flow[int]:
    """Declare the way and take its lock; return how many copies are on it.

    Raises:
        ResourceLocked: Another run is at work.
        AccessRefused: Declaring is not allowed.
    """
    yield channel.declare_queue(QueueSpec(way.lock, durable=False, exclusive=True))
    yield channel.declare_exchange(ExchangeSpec(way.name, "fanout"))
    arguments = {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",  # without it the strategy would not hold
        "x-delivery-limit": _NO_LIMIT,
    }
    state = yield channel.declare_queue(QueueSpec(way.name, arguments=arguments))
    yield channel.bind(BindingSpec(way.name, way.name))
    ready: int = state.messages
    return ready


def stage(
    reading: Channel, publishing: Channel, way: Way, chosen: Sequence[tuple[Letter, Publication]]
) -> Flow[list[Outcome]]:
    """Put copies on the way, and acknowledge the originals of those that the broker confirmed.

    Args:
        reading: The channel that the dead letters were taken on.
        publishing: Another one: what is refused there must not put back what is held here.
        way: The way.
        chosen: Dead letters with the copies for their targets.
    """
    copies = [_on_the_way(way, letter, copy) for letter, copy in chosen]
    outcomes: list[Outcome] = yield publishing.publish(copies)
    for (letter, _), outcome in zip(chosen, outcomes, strict=True):
        if outcome.confirmed:
            reading.ack(letter.delivery.tag)
    yield from read_by_broker(reading)
    return outcomes


def read_by_broker(channel: Channel) -> Flow[None]:
    """Wait until the broker has read all that was sent on a channel."""
    yield caught_up(channel)


def take_copies(channel: Channel, way: Way, count: int) -> Flow[list[Delivery]]:
    """Take copies from the way, without settling them."""
    answers = [channel.get(way.name) for _ in range(count)]
    taken = []
    for answer in answers:
        delivery: Delivery | None = yield answer
        if delivery is not None:
            taken.append(delivery)
    return taken


def move(channel: Channel, way: Way, copies: Sequence[Delivery]) -> Flow[None]:
    """Have the broker move copies to their targets."""
    for delivery in copies:
        channel.reject(delivery.tag, requeue=False)
    yield from read_by_broker(channel)
    # That the channel has read them is not that the queue has: it sends them on without waiting, a few at a time, and what
    # it has not sent when it is closed comes back to the way (rabbit_fifo_client, seen on 3.10.8). To fetch from the queue
    # is answered by the queue, after what was sent before.
    for _ in range(1 + len(copies) // SENT_AT_A_TIME):
        found = yield channel.get(way.name)
        if found is not None:
            channel.release(found.tag)


def move_once(channel: Channel, way: Way, copies: Sequence[Delivery]) -> Flow[int]:
    """Move copies to their targets, and drop those that are there twice; return how many were moved.

    No two equal dead letters are put on the way together. So equal copies are those of one that was put there, cut off, and
    put there again before the broker had given back the first.
    """
    seen: set[object] = set()
    different: list[Delivery] = []
    for delivery in copies:
        mark = delivery.properties.headers.get(RETURNED)
        if mark in seen:
            channel.ack(delivery.tag)
        else:
            different.append(delivery)
        seen.add(mark)
    yield from move(channel, way, different)
    return len(different)


def marks(copies: Sequence[Delivery]) -> Counter[str]:
    """Count copies by their tokens."""
    found = (delivery.properties.headers.get(RETURNED) for delivery in copies)
    return Counter(mark for mark in found if isinstance(mark, str))


def _on_the_way(way: Way, letter: Letter, copy: Publication) -> Publication:
    headers = {**copy.properties.headers, RETURNED: token(letter)}
    return copy._replace(exchange=way.name, properties=copy.properties._replace(headers=headers))


def _name(item: tuple[str, object]) -> str:
    return item[0]
