"""L2: what a queue says it holds while its leader does not answer: a count of zero is no proof of emptiness."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from amqpq.errors import AmqpqError
from amqpq.node import Node
from tests.conftest import BrokerServer
from tests.support.lab import QUORUM, Lab, answer

pytestmark = pytest.mark.slow

COUNT = 10


@pytest.fixture
def filled(private_vhost_url: str, private_server: BrokerServer) -> Iterator[Lab]:
    """A quorum queue with messages, on a node that may be tampered with."""
    lab = Lab(private_vhost_url, private_server)
    lab.declare("filled", QUORUM)
    lab.send("filled", *[b"%d" % number for number in range(COUNT)])
    yield lab
    lab.close()


def tell_leader(rabbitmqctl: Callable[..., str], lab: Lab, what: str) -> None:
    """Run Erlang on the queue's process."""
    rabbitmqctl("eval", what.replace("QUEUE", f"'{lab.vhost}_filled'") + ".")


def test_a_leader_that_does_not_answer_makes_the_queue_look_empty(filled: Lab, rabbitmqctl: Callable[..., str]) -> None:
    """A passive declaration says 0 messages; `basic.get` says nothing rather than that it is empty."""
    tell_leader(rabbitmqctl, filled, "sys:suspend(QUEUE)")
    try:
        print("STATE", filled.state("filled"))
        try:
            print("GET", answer(filled.connection.channel().get("filled"), 12))
        except AmqpqError as e:
            print("GET failed", type(e), e)
    finally:
        tell_leader(rabbitmqctl, filled, "sys:resume(QUEUE)")
    print("AFTER", filled.state("filled"))


def test_a_leader_that_is_down(filled: Lab, rabbitmqctl: Callable[..., str]) -> None:
    """X."""
    tell_leader(rabbitmqctl, filled, "ra:stop_server(quorum_queues, {QUEUE, node()})")
    try:
        try:
            print("STATE", filled.state("filled"))
        except AmqpqError as e:
            print("STATE failed", type(e), e)
        try:
            print("GET", answer(filled.connection.channel().get("filled"), 12))
        except AmqpqError as e:
            print("GET failed", type(e), e)
    finally:
        tell_leader(rabbitmqctl, filled, "ra:restart_server(quorum_queues, {QUEUE, node()})")
    print("AFTER", filled.state("filled"))
