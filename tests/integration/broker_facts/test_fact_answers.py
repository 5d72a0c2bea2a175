"""In which order a channel answers, and what it still holds when it says that it is closed."""

from __future__ import annotations

import itertools
import queue as threads
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from amqpq.transport.interface import Channel, Pending, caught_up
from amqpq.types import Delivery, ExchangeSpec, Properties, Publication
from tests.support.lab import QUORUM, Lab, answer, until

TRIES = 100
FEW = 5
COUNT = 300
"""More than a channel has under way to a quorum queue before it holds the next ones back: 32 (rabbit_fifo_client, SOFT_LIMIT)."""
DEAD = "dead"


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


def filled(lab: Lab, queue: str, base: Mapping[str, Any]) -> None:
    """A queue with messages, and with dead letters."""
    lab.declare(queue, {**base, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD})
    messages = [Publication("", queue, b"x", Properties(delivery_mode=2))] * COUNT
    assert all(outcome.confirmed for outcome in answer(lab.channel.publish(messages)))


def back(
    lab: Lab, base: Mapping[str, Any], before_closing: Callable[[Channel, str], Pending[Any]] | None = None
) -> int:
    """Reject all messages of a queue, close the channel at once, and return how many are in the queue again."""
    queue = f"work.{next(_numbers)}"
    filled(lab, queue, base)
    channel, tags = taken(lab, queue)
    for tag in tags:
        channel.reject(tag, requeue=False)
    if before_closing is not None:
        answer(before_closing(channel, queue))
    answer(channel.close())
    returned = until(lambda: settled(lab, queue), "all are here or there")
    answer(lab.channel.purge_queue(DEAD))
    return returned - 1


def settled(lab: Lab, queue: str) -> int | None:
    """One more than the messages in a queue again, once the rest are dead letters."""
    there, dead = lab.state(queue), lab.state(DEAD)
    assert there is not None
    assert dead is not None
    return there[0] + 1 if there[0] + dead[0] == COUNT else None


def test_rejections_on_a_quorum_queue_are_lost_when_the_channel_closes_at_once(lab: Lab) -> None:
    """The channel holds back what is more than it has under way, and its end drops that: the messages go back instead."""
    lab.declare(DEAD)
    assert any(0 < back(lab, QUORUM) < COUNT for _ in range(TRIES))


def test_rejections_on_a_classic_queue_are_not(lab: Lab) -> None:
    """The queue is told of each at once."""
    lab.declare(DEAD)
    assert not any(back(lab, {}) for _ in range(FEW))


def test_an_answer_of_the_channel_does_not_say_that_the_quorum_queue_has_the_rejections(lab: Lab) -> None:
    """They may be lost all the same when the channel closes after it."""
    lab.declare(DEAD)
    assert any(back(lab, QUORUM, lambda channel, _: caught_up(channel)) for _ in range(TRIES))


def test_an_answer_of_the_quorum_queue_says_so(lab: Lab) -> None:
    """`basic.get` on the same channel is answered after them, and then nothing is lost."""
    lab.declare(DEAD)
    assert not any(back(lab, QUORUM, lambda channel, queue: channel.get(queue)) for _ in range(FEW))


@pytest.mark.parametrize("multiple", [True, False], ids=["multiple", "each"])
def test_acknowledgements_on_a_quorum_queue_are_not_lost(lab: Lab, multiple: bool) -> None:
    """The channel gathers them into few commands."""
    filled(lab, "work", QUORUM)
    channel, tags = taken(lab, "work")
    if multiple:
        channel.ack(tags[-1], multiple=True)
    else:
        for tag in tags:
            channel.ack(tag)
    answer(channel.close())
    lab.send("work", b"after")
    assert lab.arrival("work").body == b"after"


_numbers: Iterator[int] = itertools.count(1)
