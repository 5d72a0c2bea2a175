"""Queues of a cluster node that is down, in the in-memory broker."""

from __future__ import annotations

from queue import SimpleQueue

import pytest

from amqpq.errors import QueueUnavailable
from amqpq.testing.memory import MemoryBroker
from amqpq.types import Fate, Properties, Publication, QueueSpec
from tests.support.lab import answer


def test_a_queue_on_a_lost_node_is_there_again_with_what_it_holds() -> None:
    """Meanwhile its consumer is cancelled, requests are refused, and mandatory messages come back."""
    broker = MemoryBroker()
    channel = broker.connect().channel()
    for name in ("q", "consumed"):
        answer(channel.declare_queue(QueueSpec(name)))
    kept = Publication("", "q", b"kept", Properties(), mandatory=True)
    assert answer(channel.publish([kept]))[0].fate is Fate.CONFIRMED
    cancelled: SimpleQueue[str] = SimpleQueue()
    answer(broker.connect().channel().consume("consumed", lambda _: None, on_cancel=cancelled.put))
    broker.lose_node("q", "consumed")
    assert answer(channel.publish([kept]))[0].fate is Fate.RETURNED
    with pytest.raises(QueueUnavailable, match="home node"):
        answer(broker.connect().channel().declare_queue(QueueSpec("q"), passive=True))
    broker.find_node()
    assert cancelled.get(timeout=10)  # it comes on a thread of the connection
    assert cancelled.empty()
    found = answer(broker.connect().channel().get("q"))
    assert found is not None
    assert found.body == b"kept"
