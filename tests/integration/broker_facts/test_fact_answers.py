"""In which order a channel answers, and what it still holds when it says that it is closed."""

from __future__ import annotations

import queue as threads
from typing import Any

import pytest

from amqpq.transport.interface import Channel, caught_up
from amqpq.types import Delivery, ExchangeSpec
from tests.support.lab import QUORUM, Lab, answer, until

TRIES = 100
COUNT = 300
IN_FLIGHT = 32
"""Commands that a channel has under way to a quorum queue before it holds the next ones back (rabbit_fifo_client, SOFT_LIMIT);
one more is sent than that."""


@pytest.mark.parametrize("base", [{}, QUORUM], ids=["classic", "quorum"])
def test_a_subscription_is_answered_later_than_what_was_asked_after_it(lab: Lab, base: dict[str, Any]) -> None:
    """`consume-ok` comes from the queue, `exchange.declare-ok` from the channel: the order of the requests is not kept."""
    lab.declare("work", base)

    def overtaken() -> bool:
        channel = lab.connection.channel()
        order: list[str] = []
        subscribed = channel.consume("work", lambda _: None)
        declared = channel.declare_exchange(ExchangeSpec("amq.fanout", "fanout"), passive=True)
        subscribed.add_done_callback(lambda _: order.append("subscribed"))
        declared.add_done_callback(lambda _: order.append("declared"))
        answer(subscribed)
        answer(declared)
        answer(channel.close())
        return order == ["declared", "subscribed"]

    assert any(overtaken() for _ in range(TRIES))


@pytest.mark.parametrize("base", [{}, QUORUM], ids=["classic", "quorum"])
def test_so_is_the_end_of_a_subscription(lab: Lab, base: dict[str, Any]) -> None:
    """`cancel-ok` too."""
    lab.declare("work", base)

    def overtaken() -> bool:
        channel = lab.connection.channel()
        order: list[str] = []
        cancelled = channel.cancel(answer(channel.consume("work", lambda _: None)))
        declared = channel.declare_exchange(ExchangeSpec("amq.fanout", "fanout"), passive=True)
        cancelled.add_done_callback(lambda _: order.append("cancelled"))
        declared.add_done_callback(lambda _: order.append("declared"))
        answer(cancelled)
        answer(declared)
        answer(channel.close())
        return order == ["declared", "cancelled"]

    assert any(overtaken() for _ in range(TRIES))


def taken(lab: Lab, queue: str) -> tuple[Channel, list[int]]:
    """Take all messages of a queue on one channel."""
    channel = lab.connection.channel()
    deliveries: threads.Queue[Delivery] = threads.Queue()
    answer(channel.consume(queue, deliveries.put))
    return channel, [deliveries.get(timeout=20).tag for _ in range(COUNT)]


def filled(lab: Lab, base: dict[str, Any]) -> None:
    """A queue with messages, and with dead letters."""
    lab.declare("dead")
    lab.declare("work", {**base, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
    lab.send("work", *[b"%d" % number for number in range(COUNT)])


def test_rejections_on_a_quorum_queue_are_lost_when_the_channel_closes_at_once(lab: Lab) -> None:
    """The channel holds back what is more than it has under way, and its end drops that: the messages go back instead."""
    filled(lab, QUORUM)
    channel, tags = taken(lab, "work")
    for tag in tags:
        channel.reject(tag, requeue=False)
    answer(channel.close())
    until(lambda: lab.state("work") == (COUNT - IN_FLIGHT - 1, 0), "the rest is back")
    until(lambda: lab.state("dead") == (IN_FLIGHT + 1, 0), "what was under way is a dead letter")


def test_rejections_on_a_classic_queue_are_not(lab: Lab) -> None:
    """The queue is told of each at once."""
    filled(lab, {})
    channel, tags = taken(lab, "work")
    for tag in tags:
        channel.reject(tag, requeue=False)
    answer(channel.close())
    until(lambda: lab.state("dead") == (COUNT, 0), "all are dead letters")


def test_an_answer_of_the_channel_does_not_say_that_the_quorum_queue_has_the_rejections(lab: Lab) -> None:
    """Before RabbitMQ 4.3 they are lost all the same when the channel closes after it."""
    filled(lab, QUORUM)
    channel, tags = taken(lab, "work")
    for tag in tags:
        channel.reject(tag, requeue=False)
    answer(caught_up(channel))
    answer(channel.close())
    if lab.version < (4, 3, 0):
        until(lambda: (state := lab.state("work")) is not None and state[0] > 0, "some are back")
    else:
        until(lambda: lab.state("dead") == (COUNT, 0), "all are dead letters")


def test_an_answer_of_the_quorum_queue_says_so(lab: Lab) -> None:
    """`basic.get` on the same channel is answered after them, and then nothing is lost."""
    filled(lab, QUORUM)
    channel, tags = taken(lab, "work")
    for tag in tags:
        channel.reject(tag, requeue=False)
    answer(channel.get("work"))
    answer(channel.close())
    until(lambda: lab.state("dead") == (COUNT, 0), "all are dead letters")


@pytest.mark.parametrize("multiple", [True, False], ids=["multiple", "each"])
def test_acknowledgements_on_a_quorum_queue_are_not_lost(lab: Lab, multiple: bool) -> None:
    """The channel gathers them into few commands."""
    filled(lab, QUORUM)
    channel, tags = taken(lab, "work")
    if multiple:
        channel.ack(tags[-1], multiple=True)
    else:
        for tag in tags:
            channel.ack(tag)
    answer(channel.close())
    lab.send("work", b"after")
    assert lab.arrival("work").body == b"after"
