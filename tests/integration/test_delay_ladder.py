"""The delay ladder on a real broker: each rung waits its time, each message comes out once, and where the simulator says."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from amqpq.topology import Topology, delays, load
from amqpq.topology.declarations import declarations
from amqpq.topology.routing import router
from amqpq.transport import blocking, declare, flow, url
from amqpq.transport.interface import Connection
from amqpq.types import Delivery, Properties, Publication
from tests.support.lab import answer

DEADLINE_SECONDS = 60.0


@pytest.fixture
def topology() -> Topology:
    """Two queues and a short ladder with a fine step."""
    source = {
        "amqpq": 1,
        "project": "rungs",
        "queues": {"a": {}, "b": {"type": "quorum"}},
        "security": {"signing": "off"},
    }
    return load({**source, "delays": {"unit": "50ms", "max": "10s"}}, environ={})


@pytest.fixture
def connection(vhost_url: str, topology: Topology) -> Iterator[Connection]:
    """A connection to a vhost where the topology is declared."""
    opened = blocking.connect(url.parse(vhost_url), heartbeat_seconds=0, timeout_seconds=10)
    declare.demand(flow.run(declare.apply(opened.channel, declarations(topology)), DEADLINE_SECONDS))
    yield opened
    answer(opened.close())


def test_every_delay_is_kept_and_every_message_comes_once(connection: Connection, topology: Topology) -> None:
    """Random delays to random queues: none early, none lost, none doubled, headers, key and body as they were."""
    rnd = random.Random(7)
    arrived: list[tuple[str, float, Delivery]] = []
    enough = threading.Event()
    expected: dict[str, tuple[set[str], float]] = {}
    consuming = connection.channel()
    total = 0

    def take(queue: str, delivery: Delivery) -> None:
        arrived.append((queue, time.time(), delivery))
        consuming.ack(delivery.tag)
        if len(arrived) >= total > 0:
            enough.set()

    publications = []
    for number in range(300):
        seconds = rnd.uniform(0.01, 4)
        targets = rnd.choice([{"a"}, {"b"}, {"a", "b"}])
        entry = delays.entry(topology, seconds, targets, 0.0)
        assert router(topology).route(entry.exchange, "k", entry.headers).queues <= {
            f"rungs.delay.{level}.{digit}" for level in range(3) for digit in range(1, 8)
        }
        properties = Properties(headers={**entry.headers, "mine": number}, delivery_mode=2, message_id=str(number))
        publications.append(Publication(entry.exchange, f"key.{number}", b"body", properties))
        expected[str(number)] = (targets, time.time() + seconds)
        total += len(targets)
    for queue in ("a", "b"):
        answer(consuming.consume(queue, partial(take, queue), prefetch=50))
    assert all(outcome.confirmed for outcome in answer(connection.channel().publish(publications)))
    assert enough.wait(DEADLINE_SECONDS), f"{len(arrived)} of {total} came"
    seen: dict[str, set[str]] = {}
    for queue, when, delivery in arrived:
        name = str(delivery.properties.message_id)
        assert when >= expected[name][1] - 0.001, "early"
        assert queue not in seen.setdefault(name, set()), "doubled"
        seen[name].add(queue)
        assert (delivery.body, delivery.routing_key, delivery.properties.headers["mine"]) == (
            b"body",
            f"key.{name}",
            int(name),
        )
    assert seen == {name: targets for name, (targets, _) in expected.items()}


def test_what_has_no_queue_any_more_is_kept(connection: Connection, topology: Topology) -> None:
    """A queue that is deleted while a message waits for it: the message becomes a dead letter."""
    entry = delays.entry(topology, 0.2, ["a"], 0.0)
    channel = connection.channel()
    answer(channel.delete_queue("a"))
    (outcome,) = answer(channel.publish([Publication(entry.exchange, "k", b"kept", Properties(headers=entry.headers))]))
    assert outcome.confirmed
    came = threading.Event()
    answer(channel.consume("rungs.dead", lambda _: came.set(), prefetch=1))
    assert came.wait(DEADLINE_SECONDS)
