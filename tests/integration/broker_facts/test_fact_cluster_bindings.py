"""L3: a queue is exchanged for another by binding changes, in a cluster, while messages are published.

Three nodes on one machine, each in a network namespace: the bindings are changed on the first, the producers publish to the
second and the consumers read from the third. A node that routes by the old table for a moment must lose nothing and double
nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from amqpq.errors import AmqpqError
from amqpq.node import find_installation
from amqpq.transport import blocking, url
from amqpq.transport.interface import Channel, Connection
from amqpq.types import BindingSpec, Delivery, ExchangeSpec, Fate, Outcome, Properties, Publication, QueueSpec
from tests.faults import clusters
from tests.faults.brokers import Release, Vhost
from tests.support.lab import DEADLINE_SECONDS, QUORUM, answer, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SWITCHES = 60
BATCH = 20
PRODUCERS = 2
QUEUES = ("work", "work.g2")
END = "end"


@pytest.fixture(scope="module")
def cluster_urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """URLs into one vhost by way of each of three nodes."""
    obstacle = clusters.obstacle()
    if obstacle is not None:
        pytest.skip(f"three hosts on one machine: {obstacle}")
    folder: Path = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patch:  # the version under test, not one of the matrix
        patch.setattr(clusters, "installation", lambda _: find_installation())
        cluster = clusters.Cluster(Release("", ""), folder / "nodes", 2)
    try:
        cluster.start()
        with Vhost(cluster, "facts") as vhost:
            yield vhost.urls
    finally:
        cluster.stop()


@pytest.fixture
def connections(cluster_urls: list[str]) -> Iterator[list[Connection]]:
    """A connection to each node."""
    opened: list[Connection] = [
        blocking.connect(url.parse(place), heartbeat_seconds=30, timeout_seconds=DEADLINE_SECONDS)
        for place in cluster_urls
    ]
    yield opened
    for connection in opened:
        with contextlib.suppress(AmqpqError):
            answer(connection.close())


class Producers:
    """Publish numbered messages as fast as they are confirmed, until they are stopped."""

    def __init__(self, connection: Connection) -> None:
        self.outcomes: list[Outcome] = []
        self._numbers = itertools.count()
        self._connection = connection
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(PRODUCERS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let them finish what they are at."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        channel = self._connection.channel()
        while not self._over.is_set():
            batch = [
                Publication("source", "key", b"%d" % next(self._numbers), Properties(delivery_mode=2))
                for _ in range(BATCH)
            ]
            outcomes = answer(channel.publish(batch))
            self.outcomes += outcomes


def more_than(outcomes: list[Outcome], count: int) -> bool:
    """Whether there are more by now."""
    return len(outcomes) > count


def switch(channel: Channel, old: str, new: str) -> None:
    """Exchange the queue behind the ingress: arm, switch, settle."""
    answer(channel.bind(BindingSpec("alt", new)))
    answer(channel.unbind(BindingSpec("in", old)))
    answer(channel.bind(BindingSpec("in", new)))
    answer(channel.unbind(BindingSpec("alt", new)))


def test_no_message_is_lost_or_doubled_by_switching_in_a_cluster(
    connections: list[Connection], record_property: Callable[[str, object], None]
) -> None:
    """Every message that was sent arrives exactly once in one of the two queues, and none is returned."""
    admin, producing, consuming = connections
    channel = admin.channel()
    answer(channel.declare_exchange(ExchangeSpec("source", "direct")))
    answer(channel.declare_exchange(ExchangeSpec("alt", "fanout")))
    answer(channel.declare_exchange(ExchangeSpec("in", "fanout", arguments={"alternate-exchange": "alt"})))
    answer(channel.bind(BindingSpec("source", "in", "key", to_exchange=True)))
    answer(channel.declare_queue(QueueSpec(QUEUES[0], arguments={"x-max-priority": 5})))
    answer(channel.declare_queue(QueueSpec(QUEUES[1], arguments=QUORUM)))
    answer(channel.bind(BindingSpec("in", QUEUES[0])))

    received: Counter[bytes] = Counter()
    reader = consuming.channel()

    def on_delivery(delivery: Delivery) -> None:
        received[delivery.body] += 1
        reader.ack(delivery.tag)

    for queue in QUEUES:
        answer(reader.consume(queue, on_delivery, prefetch=200))
    producers = Producers(producing)
    try:
        for number in range(SWITCHES):
            before = len(producers.outcomes)
            old, new = QUEUES if number % 2 == 0 else QUEUES[::-1]
            switch(channel, old, new)
            until(partial(more_than, producers.outcomes, before), "messages between two switches")
    finally:
        producers.stop()

    record_property("messages", len(producers.outcomes))
    assert {outcome.fate for outcome in producers.outcomes} == {Fate.CONFIRMED}
    # The queues are first in, first out: when these have come, all others have.
    ends = [Publication("", queue, END.encode(), Properties(delivery_mode=2)) for queue in QUEUES]
    answer(channel.publish(ends))
    until(lambda: received[END.encode()] == len(QUEUES), "the last message of each queue", 60)
    del received[END.encode()]
    assert len(received) == len(producers.outcomes) >= SWITCHES * BATCH
    assert set(received.values()) == {1}
