"""L2: what a queue says it holds while its leader does not answer: a count of zero is no proof of emptiness."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from amqpq.errors import ConnectionLost, OperationTimeout
from tests.conftest import BrokerServer
from tests.support.lab import QUORUM, Lab, answer, until

pytestmark = pytest.mark.slow

COUNT = 10
SILENCE_SECONDS = 1.0
"""Enough to see that nothing comes: the broker itself gives up on such a count after 250 ms."""


@pytest.fixture
def filled(private_vhost_url: str, private_server: BrokerServer) -> Iterator[Lab]:
    """A quorum queue with messages, on a node that may be tampered with."""
    lab = Lab(private_vhost_url, private_server)
    lab.declare("filled", QUORUM)
    lab.send("filled", *[b"%d" % number for number in range(COUNT)])
    yield lab
    lab.close()


def tell_leader(rabbitmqctl: Callable[..., str], lab: Lab, erlang: str) -> None:
    """Run Erlang that names the queue's process QUEUE."""
    rabbitmqctl("eval", erlang.replace("QUEUE", f"'{lab.vhost}_filled'") + ".")


def test_a_leader_that_does_not_answer_makes_its_queue_look_empty(filled: Lab, rabbitmqctl: Callable[..., str]) -> None:
    """A passive declaration says 0 messages, as if that were known; `basic.get` is not answered at all."""
    tell_leader(rabbitmqctl, filled, "sys:suspend(QUEUE)")
    try:
        assert filled.state("filled") == (0, 0)
        pending = filled.connection.channel().get("filled", no_ack=True)
        with pytest.raises(OperationTimeout):
            answer(pending, SILENCE_SECONDS)
    finally:
        tell_leader(rabbitmqctl, filled, "sys:resume(QUEUE)")
    assert answer(pending) is not None
    state = until(lambda: filled.state("filled"), "the queue")
    assert state[0] == COUNT - 1


def test_a_leader_that_is_down_makes_its_queue_look_empty(filled: Lab, rabbitmqctl: Callable[..., str]) -> None:
    """A passive declaration says 0 messages; `basic.get` ends the connection with 541 rather than say that it is empty."""
    tell_leader(rabbitmqctl, filled, "ra:stop_server(quorum_queues, {QUEUE, node()})")
    try:
        assert filled.state("filled") == (0, 0)
        with pytest.raises(ConnectionLost, match="INTERNAL_ERROR"):
            answer(filled.connection.channel().get("filled", no_ack=True))
    finally:
        tell_leader(rabbitmqctl, filled, "ra:restart_server(quorum_queues, {QUEUE, node()})")
    filled.connection = filled.connect()
    until(lambda: filled.state("filled") == (COUNT, 0), "the messages are back")
