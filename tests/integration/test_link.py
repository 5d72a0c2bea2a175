"""The link against real brokers that go away and come back."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

import pytest

from amqpq import errors
from amqpq.testing.proxy import Proxy
from amqpq.transport import blocking, flow
from amqpq.transport.interface import Channel, Flow
from amqpq.transport.link import Link
from amqpq.transport.url import Address, parse
from amqpq.types import Fate, Outcome, Properties, Publication, QueueSpec, QueueState
from tests.support.lab import taken_from

DEADLINE_SECONDS = 30.0


class RunningNode(Protocol):
    """The fixture `private_node`."""

    url: str

    def start(self) -> object:
        """Start it."""

    def stop(self) -> object:
        """Stop it."""


def wait(pending: Any) -> Any:
    """Wait for an answer."""
    future: Future[Any] = pending
    return future.result(DEADLINE_SECONDS)


def publish(channel: Channel, queue: str, body: bytes) -> Flow[Outcome]:
    """Publish one persistent message; the protocol, for any transport."""
    (outcome,) = yield channel.publish([Publication("", queue, body, Properties(delivery_mode=2))])
    return outcome


@pytest.fixture
def address(vhost_url: str) -> Address:
    """The address of a fresh virtual host."""
    return parse(vhost_url)


@pytest.fixture
def link(address: Address) -> Iterator[Link]:
    """A link to the broker."""
    link = Link([address], blocking.connect, name="link-test")
    yield link
    link.close()


def bodies_in(link: Link, queue: str) -> list[bytes]:
    """Take everything out of a queue."""
    return [delivery.body for delivery in taken_from(link.connection(DEADLINE_SECONDS).channel(), queue)]


def test_a_node_that_is_down_is_passed_by(address: Address) -> None:
    """Of two addresses one refuses: every link finds the other, whatever the order it draws."""
    for _ in range(6):
        link = Link([replace(address, port=1), address], blocking.connect)
        assert link.connection(DEADLINE_SECONDS).server.product == "RabbitMQ"
        link.close()


def test_nothing_confirmed_is_lost_while_the_network_keeps_breaking(address: Address) -> None:
    """Four threads publish through a link whose connection is cut ten times; what was confirmed is in the queue."""
    with Proxy(address.host, address.port) as proxy:
        link = Link([replace(address, host=proxy.host, port=proxy.port)], blocking.connect)
        wait(link.channel(DEADLINE_SECONDS).declare_queue(QueueSpec("q")))
        confirmed: list[bytes] = []
        fates: set[Fate] = set()
        enough = threading.Event()

        def work(thread: int) -> None:
            number = 0
            while not enough.is_set():
                body = b"%d %d" % (thread, number)
                number += 1
                try:
                    outcome = flow.run(publish(link.channel(DEADLINE_SECONDS), "q", body), DEADLINE_SECONDS)
                except (errors.ConnectionLost, errors.ChannelClosed):
                    continue
                fates.add(outcome.fate)
                if outcome.confirmed:
                    confirmed.append(body)

        with ThreadPoolExecutor(4) as pool:
            working = [pool.submit(work, thread) for thread in range(4)]
            for cut in range(10):
                while len(confirmed) < 100 * (cut + 1):
                    assert not any(future.done() for future in working)
                    enough.wait(0.001)
                proxy.cut()
            enough.set()
            for future in working:
                future.result(DEADLINE_SECONDS)
        kept = bodies_in(link, "q")
        assert set(confirmed) <= set(kept)
        assert fates <= {Fate.CONFIRMED, Fate.UNKNOWN}
        link.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_child_publishes_by_a_connection_of_its_own(link: Link) -> None:
    """Eight children, forked while other threads publish, each publish through the same link; so does the parent after."""
    name = f"fork-{uuid.uuid4().hex[:8]}"
    wait(link.channel(DEADLINE_SECONDS).declare_queue(QueueSpec(name)))
    enough = threading.Event()

    def keep_publishing() -> int:
        count = 0
        while not enough.is_set():
            assert flow.run(publish(link.channel(DEADLINE_SECONDS), name, b"thread"), DEADLINE_SECONDS).confirmed
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        publishing = [pool.submit(keep_publishing) for _ in range(2)]
        children = []
        for number in range(8):
            child = os.fork()
            if child == 0:
                os._exit(publish_in_child(link, name, number))
            children.append(child)
        for child in children:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        enough.set()
        count = sum(future.result(DEADLINE_SECONDS) for future in publishing)
    assert flow.run(publish(link.channel(DEADLINE_SECONDS), name, b"parent"), DEADLINE_SECONDS).confirmed
    bodies = sorted(bodies_in(link, name))
    assert bodies == sorted([*[b"child %d" % number for number in range(8)], b"parent", *[b"thread"] * count])


def publish_in_child(link: Link, queue: str, number: int) -> int:
    """Publish in a forked child; 0 where it was confirmed."""
    signal.alarm(int(DEADLINE_SECONDS))  # a deadlock here must not hang the tests
    outcome = flow.run(publish(link.channel(DEADLINE_SECONDS), queue, b"child %d" % number), DEADLINE_SECONDS)
    link.close()
    return 0 if outcome.confirmed else 1


@pytest.mark.slow
def test_a_link_outlives_its_broker(private_node: RunningNode, private_vhost_url: str) -> None:
    """A broker stopped and started again is found again by who waits for it; durable messages are still there."""
    link = Link([parse(private_vhost_url)], blocking.connect)
    before = link.connection(DEADLINE_SECONDS)
    wait(link.channel(1).declare_queue(QueueSpec("q")))
    assert flow.run(publish(link.channel(1), "q", b"kept"), DEADLINE_SECONDS).confirmed
    with ThreadPoolExecutor(1) as pool:
        private_node.stop()
        assert isinstance(wait(before.closed), errors.ConnectionLost)
        with pytest.raises(errors.BrokerUnreachable, match="nothing listens at|closed it at once"):
            link.connection(0.5)
        looking = pool.submit(link.connection, 60)
        private_node.start()
        after = looking.result(60)
    assert after is not before
    state: QueueState = wait(link.channel(1).declare_queue(QueueSpec("q"), passive=True))
    assert state.messages == 1
    link.close()
