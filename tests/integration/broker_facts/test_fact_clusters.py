"""What nodes of a cluster know of each other's doings: three of them on one machine, each in a network namespace.

L3: a queue is exchanged for another by binding changes, while messages are published. The bindings are changed on the first node,
the producers publish to the second and the consumers read from the third. A node that routes by the old table for a moment
must lose nothing and double nothing.

L14: a queue is declared on the first node while the third one is stopped for a moment. What that one says then of the queue, and
what makes it know.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from amqpq import App, lifecycle
from amqpq.errors import AmqpqError, ObjectNotFound, ResultTimeout
from amqpq.node import find_installation
from amqpq.transport import blocking, lagging, url
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

LAGS = 5
"""Times that a node is to be seen behind the others."""
ROUNDS = 40
"""Attempts at most; in every fifth or so a node of 4.3 is seen behind."""
FRESH_QUEUES = 20
STOPPED_SECONDS = 0.25
"""A node with Mnesia keeps the others from declaring while it is stopped."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Cluster]:
    """Three nodes of the version under test."""
    obstacle = clusters.obstacle()
    if obstacle is not None:
        pytest.skip(f"three hosts on one machine: {obstacle}")
    folder: Path = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patch:  # the version under test, not one of the matrix
        patch.setattr(clusters, "installation", lambda _: find_installation())
        made = clusters.Cluster(Release("", ""), folder / "nodes", 2)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def cluster_urls(cluster: clusters.Cluster) -> Iterator[list[str]]:
    """URLs into one vhost by way of each of three nodes."""
    with Vhost(cluster, f"facts-{uuid.uuid4().hex[:8]}") as vhost:
        yield vhost.urls


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


class Stopped:
    """The third node, stopped by a signal while others declare; it goes on at the end, or after a while."""

    def __init__(self, cluster: clusters.Cluster) -> None:
        pid = cluster.hosts[2].pid
        assert pid is not None
        self._pid = pid
        self._timer = threading.Timer(STOPPED_SECONDS, self._go_on)

    def __enter__(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._go_on()

    def _go_on(self) -> None:
        os.kill(self._pid, signal.SIGCONT)


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


def declare_reply_queues(channel: Channel) -> list[str]:
    """Declare some as producers do; return the ids of their tasks."""
    ids = [uuid.uuid4().hex for _ in range(FRESH_QUEUES)]
    for task_id in ids:
        arguments = {"x-expires": 60_000}
        answer(channel.declare_queue(QueueSpec(lifecycle.reply_queue_name(task_id), arguments=arguments)))
    return ids


def is_there(connection: Connection, queue: str) -> bool:
    """Whether the node at the other end knows of a queue."""
    channel = connection.channel()
    try:
        answer(channel.declare_queue(QueueSpec(queue), passive=True))
    except ObjectNotFound:
        return False
    answer(channel.close())
    return True


def test_a_change_makes_a_node_know_all_that_was_declared_before(
    cluster: clusters.Cluster, connections: list[Connection], record_property: Callable[[str, object], None]
) -> None:
    """With Khepri a node may say that there is no such queue; never after it has deleted an exchange that does not exist."""
    first, _, third = connections
    channel = first.channel()
    behind = 0
    for _ in range(ROUNDS):
        with Stopped(cluster):
            newest = lifecycle.reply_queue_name(declare_reply_queues(channel)[-1])
        if not is_there(third, newest):
            behind += 1
            asked = third.channel()
            answer(lagging.catch_up(asked, newest))
            assert is_there(third, newest)
            answer(asked.close())
        if behind == LAGS or not lagging.may_lag(third):
            break
    record_property("behind", behind)
    assert not behind or lagging.may_lag(third)


def test_a_result_is_found_on_a_node_that_is_behind(
    cluster: clusters.Cluster, cluster_urls: list[str], connections: list[Connection]
) -> None:
    """Whoever asks another node for a task that was sent a moment ago is told that it is pending, alone or with others."""
    channel = connections[0].channel()
    topology = {"amqpq": 1, "project": "shop", "queues": {"default": {}}, "security": {"signing": False}}
    with App(topology, environ={"AMQPQ_BROKER_URL": cluster_urls[2]}) as app:
        for number in range(ROUNDS // 3):
            with Stopped(cluster):
                ids = declare_reply_queues(channel)
            if number % 2:
                assert app.AsyncResult(ids[-1]).state == "PENDING"
            else:
                with pytest.raises(ResultTimeout, match=f"{FRESH_QUEUES} of {FRESH_QUEUES} tasks did not finish"):
                    app.collect([app.AsyncResult(task_id) for task_id in ids], timeout=0.3)
