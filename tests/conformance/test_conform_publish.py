"""Publishing: confirms, returns, nacks, bodies of every size."""

from __future__ import annotations

import pytest

from amqpq.testing.rigs import Inbox, Rig
from amqpq.types import BindingSpec, ExchangeSpec, Fate, Properties, Publication


def test_a_full_queue_with_reject_publish_nacks(rig: Rig) -> None:
    """What a full queue refuses is NACKED, and what it had is untouched."""
    channel = rig.channel()
    queue = rig.queue(channel, x_max_length=2, x_overflow="reject-publish")
    fates = [outcome.fate for outcome in rig.send(channel, queue, b"1", b"2", b"3", b"4")]
    assert fates == [Fate.CONFIRMED, Fate.CONFIRMED, Fate.NACKED, Fate.NACKED]
    assert rig.drain(channel, queue) == [b"1", b"2"]


def test_an_unroutable_message_that_is_not_mandatory_is_confirmed(rig: Rig) -> None:
    """Without `mandatory` the broker takes responsibility for dropping the message."""
    channel = rig.channel()
    (outcome,) = rig.wait(channel.publish([Publication("", rig.name("nowhere"), b"x", Properties(), mandatory=False)]))
    assert outcome.fate is Fate.CONFIRMED


def test_an_exchange_without_bindings_returns(rig: Rig) -> None:
    """A message that reaches no queue comes back with the broker's reason."""
    channel = rig.channel()
    exchange = rig.name("lonely")
    rig.wait(channel.declare_exchange(ExchangeSpec(exchange, "fanout")))
    (outcome,) = rig.wait(channel.publish([Publication(exchange, "", b"x", Properties())]))
    assert outcome.fate is Fate.RETURNED


def test_a_returned_message_does_not_spoil_its_neighbours(rig: Rig) -> None:
    """The same body published to a missing and to an existing queue has two different fates."""
    channel = rig.channel()
    queue = rig.queue(channel)
    same = Properties(message_id="same")
    pendings = [
        channel.publish([Publication("", target, b"same", same)])
        for target in (queue, rig.name("nowhere"), queue, rig.name("nowhere"), queue)
    ]
    fates = [rig.wait(pending)[0].fate for pending in pendings]
    assert fates == [Fate.CONFIRMED, Fate.RETURNED, Fate.CONFIRMED, Fate.RETURNED, Fate.CONFIRMED]


def test_a_fanout_reaches_every_queue_once(rig: Rig) -> None:
    """Each bound queue gets one copy, however many bindings lead to it."""
    channel = rig.channel()
    exchange = rig.name("fanout")
    first, second = rig.queue(channel), rig.queue(channel)
    rig.wait(channel.declare_exchange(ExchangeSpec(exchange, "fanout")))
    for key in ("a", "b"):
        rig.wait(channel.bind(BindingSpec(exchange, first, key)))
    rig.wait(channel.bind(BindingSpec(exchange, second)))
    rig.wait(channel.publish([Publication(exchange, "whatever", b"x", Properties())]))
    assert rig.drain(channel, first) == [b"x"]
    assert rig.drain(channel, second) == [b"x"]


def test_an_empty_body_arrives_empty(rig: Rig) -> None:
    """A message may consist of its properties alone."""
    channel = rig.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, b"", message_id="empty")
    delivery = rig.wait(channel.get(queue, no_ack=True))
    assert delivery is not None
    assert delivery.body == b""
    assert delivery.properties.message_id == "empty"


@pytest.mark.parametrize("offset", [-9, -8, -7, 0, 1])
def test_bodies_around_the_frame_size_arrive_whole(rig: Rig, offset: int) -> None:
    """A body that just fits into a frame, or just does not, is the same on the other side."""
    connection = rig.connect()
    channel = connection.channel()
    queue = rig.queue(channel)
    body = bytes(range(256)) * ((connection.server.frame_max + 300) // 256)
    body = body[: connection.server.frame_max + offset]
    rig.deliver(channel, queue, body)
    delivery = rig.wait(channel.get(queue, no_ack=True))
    assert delivery is not None
    assert delivery.body == body


def test_a_body_of_a_mebibyte_arrives_whole_by_consumer_too(rig: Rig) -> None:
    """Many frames make one message again, between small ones."""
    channel = rig.channel()
    queue = rig.queue(channel)
    big = bytes(range(256)) * 4096
    inbox = Inbox()
    rig.wait(channel.consume(queue, inbox.put, no_ack=True))
    rig.deliver(channel, queue, b"before", big, b"after")
    assert inbox.take_bodies(3) == [b"before", big, b"after"]


def test_names_and_keys_may_be_unicode(rig: Rig) -> None:
    """Queue names, exchange names and routing keys are UTF-8."""
    channel = rig.channel()
    queue = rig.queue(channel, "schlange-ü-蛇-🐍")
    exchange = rig.name("börse-交換")
    rig.wait(channel.declare_exchange(ExchangeSpec(exchange)))
    rig.wait(channel.bind(BindingSpec(exchange, queue, "schlüssel-鍵")))
    (outcome,) = rig.wait(channel.publish([Publication(exchange, "schlüssel-鍵", b"x", Properties(app_id="größe"))]))
    assert outcome.fate is Fate.CONFIRMED
    delivery = rig.wait(channel.get(queue, no_ack=True))
    assert delivery is not None
    assert (delivery.exchange, delivery.routing_key) == (exchange, "schlüssel-鍵")
    assert delivery.properties.app_id == "größe"


def test_many_messages_in_one_call_keep_their_order(rig: Rig) -> None:
    """A thousand publications in one call are confirmed and lie in the queue in order."""
    channel = rig.channel()
    queue = rig.queue(channel)
    bodies = [str(number).encode() for number in range(1000)]
    rig.deliver(channel, queue, *bodies)
    got = []
    for _ in bodies:
        delivery = rig.wait(channel.get(queue, no_ack=True))
        assert delivery is not None
        got.append(delivery.body)
    assert got == bodies


def test_confirms_of_several_calls_resolve_each_call(rig: Rig) -> None:
    """Calls made before earlier ones were answered are answered one by one."""
    channel = rig.channel()
    queue = rig.queue(channel)
    pendings = [
        channel.publish([Publication("", queue, b"x", Properties())] * (1 + number % 3)) for number in range(50)
    ]
    for number, pending in enumerate(pendings):
        outcomes = rig.wait(pending)
        assert [outcome.fate for outcome in outcomes] == [Fate.CONFIRMED] * (1 + number % 3)
