"""Fetching and consuming: acknowledgement, redelivery, prefetch, cancelling, several consumers."""

from __future__ import annotations

import pytest

from amqpq.errors import PreconditionFailed
from amqpq.testing.rigs import Inbox, Rig
from amqpq.types import QueueSpec


def test_an_empty_queue_answers_none(rig: Rig) -> None:
    """Fetching from an empty queue is not an error, however often it is asked."""
    channel = rig.channel()
    queue = rig.queue(channel)
    pendings = [channel.get(queue) for _ in range(3)]
    assert [rig.wait(pending) for pending in pendings] == [None, None, None]


def test_a_fetched_message_says_where_it_comes_from(rig: Rig) -> None:
    """A delivery carries exchange, key, the count of what is left, and no consumer tag."""
    channel = rig.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, b"1", b"2", b"3")
    delivery = rig.wait(channel.get(queue))
    assert delivery is not None
    assert (delivery.exchange, delivery.routing_key, delivery.redelivered) == ("", queue, False)
    assert (delivery.message_count, delivery.consumer_tag) == (2, "")


def test_an_acknowledged_message_is_gone(rig: Rig) -> None:
    """After its acknowledgement a message never comes back."""
    connection = rig.connect()
    channel = connection.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, b"x")
    delivery = rig.wait(channel.get(queue))
    assert delivery is not None
    channel.ack(delivery.tag)
    rig.wait(channel.close())
    assert rig.drain(connection.channel(), queue) == []


def test_an_unacknowledged_message_comes_back_when_its_channel_closes(rig: Rig) -> None:
    """Closing a channel gives back what it held, at its old place and marked as redelivered."""
    connection = rig.connect()
    channel = connection.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, b"1", b"2", b"3")
    for _ in range(2):
        rig.wait(channel.get(queue))
    rig.wait(channel.close())
    other = connection.channel()
    rig.until(lambda: rig.ready(other, queue) == 3, "the deliveries are back")
    deliveries = [rig.wait(other.get(queue, no_ack=True)) for _ in range(3)]
    assert [(got.body, got.redelivered) for got in deliveries if got] == [(b"1", True), (b"2", True), (b"3", False)]


def test_acknowledging_multiple_covers_everything_before(rig: Rig) -> None:
    """`multiple` acknowledges up to and including the tag."""
    connection = rig.connect()
    channel = connection.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, b"1", b"2", b"3", b"4")
    deliveries = [rig.wait(channel.get(queue)) for _ in range(4)]
    third = deliveries[2]
    assert third is not None
    channel.ack(third.tag, multiple=True)
    rig.wait(channel.close())
    other = connection.channel()
    rig.until(lambda: rig.ready(other, queue) == 1, "the fourth is back")
    assert rig.drain(other, queue) == [b"4"]


def test_several_are_acknowledged_at_once(rig: Rig) -> None:
    """A run and single ones, behind an ack that was asked for before; what is not among them goes back."""
    connection = rig.connect()
    channel = connection.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, *(b"%d" % number for number in range(1, 8)))
    held = [rig.wait(channel.get(queue)) for _ in range(7)]
    tags = [delivery.tag for delivery in held if delivery is not None]
    channel.ack(tags[3])
    channel.acknowledge([(tags[1], True), (tags[5], False)])
    channel.ack(tags[6])
    rig.wait(channel.close())
    other = connection.channel()
    rig.until(lambda: rig.ready(other, queue) == 2, "the third and the fifth are back")
    assert rig.drain(other, queue) == [b"3", b"5"]


def test_a_rejected_message_goes_back_to_its_place(rig: Rig) -> None:
    """A requeued message is the next one again, marked as redelivered."""
    channel = rig.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, b"1", b"2")
    first = rig.wait(channel.get(queue))
    assert first is not None
    channel.reject(first.tag, requeue=True)
    again = rig.wait(channel.get(queue))
    assert again is not None
    assert (again.body, again.redelivered) == (b"1", True)


def test_a_released_message_goes_back_to_its_place(rig: Rig) -> None:
    """One of several deliveries is given back, and no other; it is the next one again, marked as redelivered."""
    channel = rig.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, b"1", b"2", b"3")
    first, second = (rig.wait(channel.get(queue)) for _ in range(2))
    assert first is not None
    assert second is not None
    channel.release(second.tag)
    again = rig.wait(channel.get(queue))
    assert again is not None
    assert (again.body, again.redelivered) == (b"2", True)
    channel.ack(first.tag)
    channel.ack(again.tag)
    assert rig.drain(channel, queue) == [b"3"]


def test_a_message_rejected_for_good_is_gone(rig: Rig) -> None:
    """Without a dead-letter exchange a rejected message is dropped."""
    channel = rig.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, b"1", b"2")
    first = rig.wait(channel.get(queue))
    assert first is not None
    channel.reject(first.tag, requeue=False)
    assert rig.drain(channel, queue) == [b"2"]


def test_acknowledging_twice_closes_the_channel(rig: Rig) -> None:
    """A delivery tag is good for one answer."""
    channel = rig.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, b"x")
    delivery = rig.wait(channel.get(queue))
    assert delivery is not None
    channel.ack(delivery.tag)
    channel.ack(delivery.tag)
    assert isinstance(rig.wait(channel.closed), PreconditionFailed)


def test_a_consumer_gets_what_is_there_and_what_comes(rig: Rig) -> None:
    """Deliveries arrive in order, with the tag of their consumer."""
    channel = rig.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, b"1", b"2")
    inbox = Inbox()
    tag = rig.wait(channel.consume(queue, inbox.put))
    rig.deliver(channel, queue, b"3")
    deliveries = [inbox.take() for _ in range(3)]
    assert [delivery.body for delivery in deliveries] == [b"1", b"2", b"3"]
    assert {delivery.consumer_tag for delivery in deliveries} == {tag}
    assert deliveries[0].message_count is None


@pytest.mark.parametrize("prefetch", [1, 3])
def test_prefetch_bounds_what_is_unacknowledged(rig: Rig, prefetch: int) -> None:
    """Never more than `prefetch` deliveries are out; each acknowledgement lets one more come."""
    connection = rig.connect()
    channel, other = connection.channel(), connection.channel()
    queue = rig.queue(other)
    rig.deliver(other, queue, *(str(number).encode() for number in range(8)))
    inbox = Inbox()
    rig.wait(channel.consume(queue, inbox.put, prefetch=prefetch))
    held = [inbox.take() for _ in range(prefetch)]
    rig.wait(channel.declare_queue(QueueSpec(queue), passive=True))
    assert inbox.empty
    assert rig.ready(other, queue) == 8 - prefetch
    channel.ack(held[0].tag)
    assert inbox.take().body == str(prefetch).encode()
    assert inbox.empty


def test_each_consumer_has_a_prefetch_of_its_own(rig: Rig) -> None:
    """Two consumers on one channel with different prefetch counts do not share them."""
    connection = rig.connect()
    channel, other = connection.channel(), connection.channel()
    small, big, free = rig.queue(other), rig.queue(other), rig.queue(other)
    boxes = {small: Inbox(), big: Inbox(), free: Inbox()}
    for queue, prefetch in ((small, 1), (big, 4), (free, 0)):
        rig.wait(channel.consume(queue, boxes[queue].put, prefetch=prefetch))
    for queue in boxes:
        rig.deliver(other, queue, *[b"x"] * 6)
    for queue, count in ((small, 1), (big, 4), (free, 6)):
        boxes[queue].take_bodies(count)
    assert [rig.ready(other, queue) for queue in boxes] == [5, 2, 0]


def test_a_consumer_without_ack_holds_nothing(rig: Rig) -> None:
    """With `no_ack` the broker forgets a message when it is sent."""
    connection = rig.connect()
    channel = connection.channel()
    queue = rig.queue(channel)
    inbox = Inbox()
    rig.wait(channel.consume(queue, inbox.put, no_ack=True))
    rig.deliver(channel, queue, b"1", b"2")
    inbox.take_bodies(2)
    rig.wait(channel.close())
    assert rig.drain(connection.channel(), queue) == []


def test_a_cancelled_consumer_gets_nothing_more(rig: Rig) -> None:
    """After the answer to `cancel` no delivery comes; what is unacknowledged can still be acknowledged."""
    connection = rig.connect()
    channel = connection.channel()
    queue = rig.queue(channel)
    inbox = Inbox()
    tag = rig.wait(channel.consume(queue, inbox.put))
    rig.deliver(channel, queue, b"1")
    held = inbox.take()
    rig.wait(channel.cancel(tag))
    rig.deliver(channel, queue, b"2")
    assert inbox.empty
    channel.ack(held.tag)
    assert rig.drain(channel, queue) == [b"2"]
    rig.wait(channel.close())
    assert rig.drain(connection.channel(), queue) == []


def test_cancelling_an_unknown_consumer_is_fine(rig: Rig) -> None:
    """Cancelling twice, or what the broker cancelled meanwhile, is answered like any other."""
    channel = rig.channel()
    queue = rig.queue(channel)
    tag = rig.wait(channel.consume(queue, lambda _: None))
    rig.wait(channel.cancel(tag))
    rig.wait(channel.cancel(tag))
    rig.wait(channel.cancel("nobody"))
    assert rig.ready(channel, queue) == 0


def test_several_consumers_take_turns(rig: Rig) -> None:
    """Messages of one queue go round the consumers that have room."""
    connection = rig.connect()
    channel = connection.channel()
    queue = rig.queue(channel)
    boxes = [Inbox() for _ in range(3)]
    for box in boxes:
        rig.wait(connection.channel().consume(queue, box.put, no_ack=True))
    rig.deliver(channel, queue, *(str(number).encode() for number in range(9)))
    shares = [box.take_bodies(3) for box in boxes]
    assert sorted(body for share in shares for body in share) == [str(number).encode() for number in range(9)]


def test_a_busy_consumer_leaves_the_rest_to_the_others(rig: Rig) -> None:
    """A consumer that acknowledges nothing gets its prefetch and no more."""
    connection = rig.connect()
    channel = connection.channel()
    queue = rig.queue(channel)
    stuck, swift = Inbox(), Inbox()
    rig.wait(connection.channel().consume(queue, stuck.put, prefetch=1))
    rig.wait(connection.channel().consume(queue, swift.put, no_ack=True))
    rig.deliver(channel, queue, *[b"x"] * 10)
    stuck.take()
    swift.take_bodies(9)
    assert rig.ready(channel, queue) == 0


def test_a_rejected_delivery_goes_to_another_consumer(rig: Rig) -> None:
    """What one consumer gives back, another one gets, marked as redelivered."""
    connection = rig.connect()
    channel = connection.channel()
    queue = rig.queue(channel)
    first, second = Inbox(), Inbox()
    busy = connection.channel()
    tag = rig.wait(busy.consume(queue, first.put, prefetch=1))
    rig.deliver(channel, queue, b"x")
    held = first.take()
    rig.wait(busy.cancel(tag))
    rig.wait(connection.channel().consume(queue, second.put))
    busy.reject(held.tag, requeue=True)
    delivery = second.take()
    assert (delivery.body, delivery.redelivered) == (b"x", True)


def test_a_queue_state_counts_ready_messages_and_consumers(rig: Rig) -> None:
    """What is out and unacknowledged is not counted."""
    connection = rig.connect()
    channel = connection.channel()
    queue = rig.queue(channel)
    rig.deliver(channel, queue, b"1", b"2", b"3")
    inbox = Inbox()
    rig.wait(connection.channel().consume(queue, inbox.put, prefetch=2))
    inbox.take_bodies(2)
    state = rig.wait(channel.declare_queue(QueueSpec(queue), passive=True))
    assert (state.messages, state.consumers) == (1, 1)
