"""The simulator against a real broker: generated exchanges, queues, bindings and messages go the same way in both.

The invariant: for every topology and every message, the queues that hold the message afterwards are those `Router.route` names,
each with one copy; and the broker returns a mandatory message exactly when it names none.

The cases are drawn from seeds, so that a failure can be run again by its seed alone.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from amqpq.topology.routing import Router
from amqpq.transport import blocking, flow, url
from amqpq.transport.interface import Connection, Flow, Pending
from amqpq.types import BindingSpec, ExchangeSpec, Fate, Outcome, Properties, Publication, QueueSpec, Table

pytestmark = pytest.mark.integration

TOPOLOGIES = 500
MESSAGES = 6
BATCH = 50
"""Topologies in one test, so that a failure does not hide the others."""

WORDS = ("a", "b", "c", "", "ab", "*", "#")
HEADERS: tuple[object, ...] = ("1", 1, 2, True, False, 1.0, 1.5, "x", "", None, b"x")
NAMES = ("h", "k", "x-h", "m")
MATCHES = ("all", "any", "all-with-x", "any-with-x")


@dataclass(frozen=True, slots=True)
class Message:
    """What is published in a case."""

    exchange: str
    key: str
    headers: Table


@dataclass(frozen=True, slots=True)
class Case:
    """A generated topology with messages for it."""

    exchanges: tuple[ExchangeSpec, ...]
    queues: tuple[QueueSpec, ...]
    bindings: tuple[BindingSpec, ...]
    messages: tuple[Message, ...]


@pytest.fixture(scope="module")
def connection(broker_url: str) -> Iterator[Connection]:
    """A connection into the vhost of this run; what was declared exclusively goes with it."""
    opened = blocking.connect(url.parse(broker_url), heartbeat_seconds=0, timeout_seconds=10)
    yield opened
    flow.run(_close(opened), 10)


@pytest.mark.parametrize("first", range(0, TOPOLOGIES, BATCH))
def test_the_simulator_and_the_broker_route_alike(connection: Connection, first: int) -> None:
    """A message reaches in the broker exactly the queues that the simulator names, once each."""
    for seed in range(first, first + BATCH):
        case = generate(seed)
        router = Router(case.exchanges, case.queues, case.bindings, version=connection.server.version_tuple)
        expected = [router.route(m.exchange, m.key, m.headers).queues for m in case.messages]
        outcomes, copies = flow.run(observe(connection, case), 60)
        for number, message in enumerate(case.messages):
            found = {queue: count for (queue, index), count in copies.items() if index == number}
            context = f"seed {seed}: {message} in {case.exchanges} {case.bindings}"
            assert found == dict.fromkeys(expected[number], 1), context
            assert (outcomes[number].fate is Fate.RETURNED) == (not expected[number]), context


# --------------------------------------------------------------------------------------------------------- generating


def generate(seed: int) -> Case:
    """Draw a topology and messages for it."""
    draw = random.Random(seed)
    names = [f"{seed}.x{number}" for number in range(draw.randint(1, 5))]
    queues = tuple(
        QueueSpec(f"{seed}.q{number}", durable=False, exclusive=True) for number in range(draw.randint(1, 5))
    )
    exchanges = tuple(
        ExchangeSpec(
            name,
            draw.choice(("direct", "topic", "topic", "fanout", "headers", "headers")),
            durable=False,
            arguments={"alternate-exchange": draw.choice([*names, "nowhere"])} if draw.random() < 0.4 else {},
        )
        for name in names
    )
    bindings = tuple(_binding(draw, exchanges, queues) for _ in range(draw.randint(1, 12)))
    messages = tuple(_message(draw, names, queues, bindings) for _ in range(MESSAGES))
    return Case(exchanges, queues, bindings, messages)


def _binding(draw: random.Random, exchanges: tuple[ExchangeSpec, ...], queues: tuple[QueueSpec, ...]) -> BindingSpec:
    source = draw.choice(exchanges)
    to_exchange = draw.random() < 0.35
    target = draw.choice(exchanges).name if to_exchange else draw.choice(queues).name
    arguments: dict[str, object] = {}
    if source.type == "headers":
        arguments = {name: draw.choice(HEADERS) for name in draw.sample(NAMES, draw.randint(0, 3))}
        if draw.random() < 0.9:
            arguments["x-match"] = draw.choice(MATCHES)
    return BindingSpec(source.name, target, _binding_key(draw), to_exchange, arguments)


def _binding_key(draw: random.Random) -> str:
    words = [draw.choice(WORDS) for _ in range(draw.randint(0, 4))]
    while words.count("#") > 2:  # RabbitMQ refuses more from 4.3.5 on
        words.remove("#")
    return ".".join(words)


def _message(
    draw: random.Random, exchanges: list[str], queues: tuple[QueueSpec, ...], bindings: tuple[BindingSpec, ...]
) -> Message:
    """Draw a message; about half of them are made to fit some binding."""
    model = draw.choice(bindings)
    headers: dict[str, object] = {name: draw.choice(HEADERS) for name in draw.sample(NAMES, draw.randint(0, 4))}
    if draw.random() < 0.5:
        headers.update({name: value for name, value in model.arguments.items() if name != "x-match"})
    for name in ("CC", "BCC"):
        if draw.random() < 0.15:
            headers[name] = [_key(draw, queues) for _ in range(draw.randint(0, 2))]
    exchange = "" if draw.random() < 0.1 else draw.choice(exchanges)
    if draw.random() < 0.5:
        return Message(model.source, _fitting(draw, model.key), headers)
    return Message(exchange, _key(draw, queues), headers)


def _fitting(draw: random.Random, pattern: str) -> str:
    """Fill the wildcards of a binding key."""
    words: list[str] = []
    for word in pattern.split("."):
        count = {"*": 1, "#": draw.randint(0, 2)}.get(word)
        words += [word] if count is None else [draw.choice(WORDS) for _ in range(count)]
    return ".".join(words)


def _key(draw: random.Random, queues: tuple[QueueSpec, ...]) -> str:
    if draw.random() < 0.15:
        return draw.choice(queues).name
    return ".".join(draw.choice(WORDS) for _ in range(draw.randint(0, 4)))


# ----------------------------------------------------------------------------------------------------------- observing


def observe(connection: Connection, case: Case) -> Flow[tuple[list[Outcome], Counter[tuple[str, int]]]]:
    """Declare the case, publish its messages, and count what every queue holds; then remove it."""
    channel = connection.channel()
    declared = [channel.declare_exchange(spec) for spec in case.exchanges]
    declared_queues = [channel.declare_queue(spec) for spec in case.queues]
    bound = [channel.bind(spec) for spec in case.bindings]
    answers: list[Pending[Any]] = [*declared, *declared_queues, *bound]
    for pending in answers:
        yield pending
    publications = [
        Publication(m.exchange, m.key, b"", Properties(headers=m.headers, message_id=str(number)))
        for number, m in enumerate(case.messages)
    ]
    outcomes = yield channel.publish(publications)
    copies: Counter[tuple[str, int]] = Counter()
    for spec in case.queues:
        state = yield channel.declare_queue(spec, passive=True)
        fetched = [channel.get(spec.name, no_ack=True) for _ in range(state.messages)]
        for pending in fetched:
            delivery = yield pending
            copies[spec.name, int(delivery.properties.message_id)] += 1
    gone: list[Pending[Any]] = [channel.delete_queue(spec.name) for spec in case.queues]
    gone += [channel.delete_exchange(spec.name) for spec in case.exchanges]
    for pending in gone:
        yield pending
    yield channel.close()
    return outcomes, copies


def _close(connection: Connection) -> Flow[None]:
    yield connection.close()
