"""Reads and writes the record of generations (`amqpq.topology.generations`), which is the last entry of a stream.

A stream that is subscribed to from `last` begins with its last chunk (https://www.rabbitmq.com/docs/streams#consuming).
What one publish with a confirm wrote is mostly a chunk of its own; where it is not, the entries of the chunk come together,
and the one with the highest serial counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from amqpq.errors import ObjectNotFound, OperationTimeout, OutcomeUnknown
from amqpq.topology import renames
from amqpq.topology.generations import NOTHING_MOVED, Generations, read, stream_name, stream_spec, write
from amqpq.topology.model import Topology
from amqpq.transport import flow
from amqpq.transport.interface import Channel, Connection, Flow, Pending, caught_up
from amqpq.types import PERSISTENT, Delivery, Properties, Publication, QueueSpec

OFFSET: Final = "x-stream-offset"
READ_SECONDS: Final = 5.0
PREFETCH: Final = 100
"""Streams are only consumed with one; more entries than this are in no last chunk."""


def look(connection: Connection, project: str) -> Flow[Generations]:
    """Read the record; nothing has moved where there is no stream.

    Raises:
        LocalError: The record cannot be read by this version.
        AccessRefused: The user may not read the stream.
        OperationTimeout: The stream is there and empty: whoever began a first migration was cut off. Treat it as nothing.
    """
    channel = connection.channel()
    try:
        yield channel.declare_queue(QueueSpec(stream_name(project)), passive=True)
    except ObjectNotFound:
        return NOTHING_MOVED
    found: list[Delivery] = []
    first: Pending[Any] = connection.pending()
    arrived = _arrival(found, first)
    try:
        tag = yield channel.consume(stream_name(project), arrived, prefetch=PREFETCH, arguments={OFFSET: "last"})
        yield first
        yield caught_up(channel)
        yield channel.cancel(tag)
    finally:
        channel.close()
    return newest(found)


def look_now(connection: Connection, project: str) -> Generations:
    """Read the record, in the blocking world.

    Raises:
        LocalError, AccessRefused: As `look`.
    """
    try:
        return flow.run(look(connection, project), READ_SECONDS)
    except OperationTimeout:
        return NOTHING_MOVED  # a first migration that was cut off before it had written anything


def where_now(connection: Connection, topology: Topology) -> Generations:
    """Read where the queues of a file live, renamed ones included, in the blocking world.

    Raises:
        LocalError: The record cannot be read by this version, or does not go with the file.
        AccessRefused: The user may not read the stream, or not ask for a queue.
    """
    record = look_now(connection, topology.project)
    there = [name for name in renames.unsure(topology, record) if flow.run(_exists(connection, name), READ_SECONDS)]
    return renames.placed(topology, record, there)


def _exists(connection: Connection, queue: str) -> Flow[bool]:
    channel = connection.channel()
    try:
        yield channel.declare_queue(QueueSpec(queue), passive=True)
    except ObjectNotFound:
        return False
    channel.close()
    return True


def newest(found: list[Delivery]) -> Generations:
    """Return the record with the highest serial."""
    return max((read(delivery.body) for delivery in found), key=lambda each: each.serial)


def _arrival(found: list[Delivery], first: Pending[Any]) -> Callable[[Delivery], object]:
    def arrived(delivery: Delivery) -> None:
        found.append(delivery)
        if not first.done():
            first.set_result(None)

    return arrived


def create(channel: Channel, project: str) -> Flow[None]:
    """Declare the stream."""
    yield channel.declare_queue(stream_spec(project))


def put(channel: Channel, project: str, generations: Generations) -> Flow[None]:
    """Write the record; return when the broker has confirmed it.

    Raises:
        OutcomeUnknown: It has not; the record may be the old one or this.
    """
    properties = Properties(content_type="application/json", delivery_mode=PERSISTENT)
    publication = Publication("", stream_name(project), write(generations), properties)
    (outcome,) = yield channel.publish((publication,))
    if not outcome.confirmed:
        raise OutcomeUnknown(f"the record of generations was not taken: {outcome.fate} {outcome.reason}")
