"""The in-memory broker refuses what a real one refuses, with the same words.

What a program shows its user of a 404 or a 406 is RabbitMQ's own sentence, so a test with the in-memory broker is worth
something only where the sentences agree. Where they changed with a version, one of the versions' sentences will do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest

from amqpq.errors import AmqpqError
from amqpq.testing.memory import MemoryBroker
from amqpq.testing.rigs import DEADLINE_SECONDS
from amqpq.transport import blocking, flow, url
from amqpq.transport.interface import Channel, Connection, Flow, Pending
from amqpq.types import BindingSpec, ExchangeSpec, Properties, Publication, QueueSpec

pytestmark = pytest.mark.integration

Step: TypeAlias = Callable[[Channel], Pending[Any]]

QUEUE, EXCHANGE, MISSING = "words.queue", "words.exchange", "words.missing"


@pytest.fixture
def connections(broker_url: str) -> Iterator[tuple[Connection, Connection]]:
    """A connection to a real broker and one to the in-memory one, whose virtual hosts have the same name."""
    address = url.parse(broker_url)
    real = blocking.connect(address, heartbeat_seconds=30, timeout_seconds=DEADLINE_SECONDS)
    broker = MemoryBroker(vhost=address.vhost)
    yield real, broker.connect()
    broker.kill_connections()
    flow.run(waits(real.close()), DEADLINE_SECONDS)


def waits(pending: Pending[Any]) -> Flow[Any]:
    """A flow that waits for one pending."""
    return (yield pending)


def said(connection: Connection, steps: tuple[Step, ...]) -> str:
    """Take the steps on a fresh channel; return what the last one, or the end of the channel, said."""
    channel = connection.channel()
    try:
        answers = [flow.run(waits(step(channel)), DEADLINE_SECONDS) for step in steps]
        words = repr(answers[-1])
    except AmqpqError as error:
        words = f"{type(error).__name__}: {error}"
    cleaner = connection.channel()
    for cleaning in (cleaner.delete_queue(QUEUE), cleaner.delete_exchange(EXCHANGE), cleaner.close()):
        flow.run(waits(cleaning), DEADLINE_SECONDS)
    if not channel.closed.done():
        flow.run(waits(channel.close()), DEADLINE_SECONDS)
    return words


def queue(**arguments: object) -> Step:
    """Declare the queue; `x_expires=5` stands for `x-expires`, and names without it for its properties."""
    table = {key.replace("_", "-"): value for key, value in arguments.items() if key.startswith("x_")}
    flags: dict[str, Any] = {key: value for key, value in arguments.items() if not key.startswith("x_")}
    return lambda channel: channel.declare_queue(QueueSpec(QUEUE, arguments=table, **flags))


def exchange(name: str = EXCHANGE, *, passive: bool = False, **changes: Any) -> Step:
    """Declare an exchange."""
    return lambda channel: channel.declare_exchange(ExchangeSpec(name, **changes), passive=passive)


def publish(exchange: str = "", key: str = MISSING, *, mandatory: bool = True, **properties: Any) -> Step:
    """Publish a message."""
    publication = Publication(exchange, key, b"", Properties(**properties), mandatory=mandatory)
    return lambda channel: channel.publish([publication])


def passive(name: str) -> Step:
    """Declare a queue passively."""
    return lambda channel: channel.declare_queue(QueueSpec(name), passive=True)


def bind(source: str, target: str, *, to_exchange: bool = False) -> Step:
    """Bind."""
    return lambda channel: channel.bind(BindingSpec(source, target, "key", to_exchange=to_exchange))


def unbind(source: str, target: str) -> Step:
    """Unbind."""
    return lambda channel: channel.unbind(BindingSpec(source, target, "key"))


def replies(channel: Channel) -> Pending[Any]:
    """Listen for direct replies."""
    return channel.consume("amq.rabbitmq.reply-to", lambda _: None, no_ack=True)


def acks(tag: int) -> Step:
    """Acknowledge, and wait for the end of the channel."""

    def step(channel: Channel) -> Pending[Any]:
        channel.ack(tag)
        return channel.closed

    return step


CASES: dict[str, tuple[Step, ...]] = {
    "new argument": (queue(), queue(x_max_length=5)),
    "missing argument": (queue(x_expires=90_000), queue()),
    "other number": (queue(x_expires=90_000), queue(x_expires=80_000)),
    "other text": (queue(x_overflow="drop-head"), queue(x_overflow="reject-publish")),
    "empty text": (queue(x_dead_letter_exchange=""), queue(x_dead_letter_exchange="z")),
    "long number": (queue(x_message_ttl=2**33), queue()),
    "flag": (queue(x_single_active_consumer=True), queue(x_single_active_consumer=False)),
    "durable": (queue(), queue(durable=False)),
    "auto delete": (queue(), queue(auto_delete=True)),
    "first of several": (queue(x_message_ttl=1000, x_max_length=1), queue(x_message_ttl=2000, x_max_length=2)),
    "explicitly classic": (queue(x_queue_type="classic"), queue()),
    "exclusive": (queue(), queue(exclusive=True)),
    "negative": (queue(x_message_ttl=-1),),
    "zero": (queue(x_expires=0),),
    "too large": (queue(x_expires=2**40),),
    "text for a number": (queue(x_max_length="ten"),),
    "flag for a number": (queue(x_message_ttl=True),),
    "number for a text": (queue(x_dead_letter_exchange=5),),
    "number for a flag": (queue(x_single_active_consumer=1),),
    "priority": (queue(x_max_priority=256),),
    "overflow": (queue(x_overflow="explode"),),
    "type of queue": (queue(x_queue_type="nope"),),
    "key without exchange": (queue(x_dead_letter_routing_key="k"),),
    "quorum argument": (queue(x_delivery_limit=5),),
    "classic argument": (queue(x_queue_type="quorum", x_max_priority=5),),
    "transient quorum": (queue(x_queue_type="quorum", durable=False),),
    "exclusive quorum": (queue(x_queue_type="quorum", exclusive=True),),
    "exchange type": (exchange(), exchange(type="topic")),
    "exchange durable": (exchange(), exchange(durable=False)),
    "exchange auto delete": (exchange(), exchange(auto_delete=True)),
    "exchange internal": (exchange(), exchange(internal=True)),
    "alternate exchange": (exchange(), exchange(arguments={"alternate-exchange": "z"})),
    "no alternate exchange": (exchange(arguments={"alternate-exchange": "z"}), exchange()),
    "default exchange": (exchange(""),),
    "default exchange passively": (exchange("", passive=True),),
    "deleting the default exchange": (lambda channel: channel.delete_exchange(""),),
    "deleting a system exchange": (lambda channel: channel.delete_exchange("amq.direct"),),
    "deleting nothing": (lambda channel: channel.delete_exchange(MISSING),),
    "system exchange": (exchange("amq.direct"),),
    "other system exchange": (exchange("amq.direct", type="topic"),),
    "reserved exchange": (exchange("amq.mine"),),
    "reserved queue": (lambda channel: channel.declare_queue(QueueSpec("amq.mine")),),
    "missing queue": (passive(MISSING),),
    "missing exchange": (exchange(MISSING, passive=True),),
    "binding to the default exchange": (queue(), bind("", QUEUE)),
    "binding nothing to nothing": (bind(MISSING, MISSING),),
    "binding to a missing exchange": (queue(), bind(MISSING, QUEUE)),
    "binding an exchange to a missing one": (bind("amq.fanout", MISSING, to_exchange=True),),
    "unbinding what is not there": (unbind(MISSING, MISSING),),
    "publishing to a missing exchange": (publish(MISSING),),
    "publishing to an internal exchange": (exchange(internal=True), publish(EXCHANGE)),
    "publishing to nobody": (publish(),),
    "publishing to nobody who matters": (publish(mandatory=False),),
    "somebody else's name": (publish(user_id="bob"),),
    "one's own name": (publish(user_id="guest"),),
    "negative expiration": (publish(expiration=-5),),
    "a CC that is no list": (publish(headers={"CC": "x"}),),
    "asking without listening": (publish(reply_to="amq.rabbitmq.reply-to"),),
    "listening twice": (replies, replies),
    "an answer to nobody": (publish(key="amq.rabbitmq.reply-to.x"),),
    "an unknown delivery": (acks(9),),
    "an emptied channel": (acks(0),),
}


def comparable(words: str) -> str:
    """Leave out what differs between versions of RabbitMQ."""
    return re.sub(r"\breason=\"?'?312 NO_ROUTE'?\"?", "reason='312 NO_ROUTE'", words)


@pytest.mark.parametrize("case", CASES)
def test_the_in_memory_broker_says_what_a_real_one_says(connections: tuple[Connection, Connection], case: str) -> None:
    """The same steps end in the same answer, or in the same words."""
    real, memory = (comparable(said(connection, CASES[case])) for connection in connections)
    assert memory == real
