"""What a quorum queue counts towards its delivery limit: deliveries that were begun, and not those that only waited."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from amqpq.errors import AmqpqError
from amqpq.transport import blocking, url
from amqpq.transport.interface import Channel, Connection
from amqpq.types import Delivery, Properties, Publication, QueueSpec
from tests.support.lab import answer

pytestmark = [pytest.mark.integration]

DEADLINE_SECONDS = 20.0
TIMES = 25
"""More than the limit of 20 that RabbitMQ 4 sets where the queue sets none."""


@pytest.fixture
def connection(vhost_url: str) -> Iterator[Connection]:
    """A connection to a vhost of its own."""
    opened = blocking.connect(url.parse(vhost_url), heartbeat_seconds=30, timeout_seconds=DEADLINE_SECONDS)
    yield opened
    with contextlib.suppress(AmqpqError):
        answer(opened.close())


def fetch(channel: Channel, queue: str) -> Delivery | None:
    """Take the next message; a quorum queue may need a moment to have it back."""
    for _ in range(200):
        delivery: Delivery | None = answer(channel.get(queue))
        if delivery is not None:
            return delivery
    return None


def quorum(channel: Channel) -> str:
    """Make a quorum queue without a limit of its own, with one message."""
    answer(channel.declare_queue(QueueSpec("patient", arguments={"x-queue-type": "quorum"})))
    (outcome,) = answer(channel.publish([Publication("", "patient", b"innocent", Properties())]))
    assert outcome.confirmed
    return "patient"


def test_a_message_given_back_unbegun_many_times_survives(connection: Connection) -> None:
    """Restarts alone never bring a message to the delivery limit."""
    if connection.server.version_tuple < (4, 3, 0):
        pytest.skip("before RabbitMQ 4.3 a quorum queue counts every return")
    channel = connection.channel()
    queue = quorum(channel)
    for _ in range(TIMES):
        delivery = fetch(channel, queue)
        assert delivery is not None
        assert not delivery.properties.headers.get("x-delivery-count")
        channel.release(delivery.tag)
    assert fetch(channel, queue) is not None


def test_a_message_that_is_rejected_many_times_reaches_the_limit(connection: Connection) -> None:
    """What was begun is counted: the queue gives it up after 20 returns."""
    if connection.server.version_tuple < (4, 0, 0):
        pytest.skip("before RabbitMQ 4.0 a quorum queue has no limit of its own")
    channel = connection.channel()
    queue = quorum(channel)
    returns = 0
    while (delivery := fetch(channel, queue)) is not None:
        assert returns < TIMES
        channel.reject(delivery.tag, requeue=True)
        returns += 1
    assert returns == 21
