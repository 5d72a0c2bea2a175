"""Applying partitioned queues: bound one after the other, never with another number while in use, and the plugin named."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from amqpq.errors import ConnectionLost, PreconditionFailed
from amqpq.testing.memory import MemoryBroker
from amqpq.topology import load
from amqpq.topology.declarations import Declarations, declarations
from amqpq.transport import declare, failures, flow
from amqpq.transport.interface import Channel, Connection, Flow, Pending
from amqpq.types import BindingSpec, ExchangeSpec, Properties, Publication

SECONDS = 10.0
PLUGIN = "rabbitmq-plugins enable rabbitmq_consistent_hash_exchange"


DELAYS = {"unit": "1s", "max": "4s"}


def wanted(count: int, sections: dict[str, Any] | None = None, **queue: Any) -> Declarations:
    """Return what a topology with so many partitions declares."""
    source = {
        "amqpq": 1,
        "project": "shop",
        "exchanges": {"web": {"type": "topic"}},
        "bindings": ["web[c.*] -> clicks"],
    }
    queues = {"clicks": {"partitions": count, **queue}, "mail": {}}
    return declarations(load({**source, "queues": queues, **(sections or {})}, environ={}))


def apply(connection: Connection, what: Declarations) -> dict[str, declare.Applied]:
    """Apply, and return what became of each object by its name."""
    return {step.name: step for step in flow.run(declare.apply(connection.channel, what), SECONDS)}


def publish(connection: Connection, key: str) -> None:
    """Publish one message for the partitions."""

    def steps() -> Flow[Any]:
        channel = connection.channel()
        outcomes = yield channel.publish([Publication("clicks.hash", key, b"x", Properties())])
        channel.close()
        return outcomes

    (outcome,) = flow.run(steps(), SECONDS)
    assert outcome.confirmed


@pytest.fixture
def broker() -> MemoryBroker:
    """An empty in-memory broker."""
    return MemoryBroker()


def test_partitions_are_bound_in_the_order_of_their_names_before_anything_else(broker: MemoryBroker) -> None:
    """One after the other: the next only when the broker has answered. What leads to them comes after."""
    bound: list[str] = []
    answered: list[str] = []
    connection = broker.connect()

    class Watched:
        """A channel that notes bindings."""

        def __init__(self, channel: Channel) -> None:
            self._channel = channel

        def __getattr__(self, name: str) -> Any:
            return getattr(self._channel, name)

        def bind(self, spec: BindingSpec) -> Pending[None]:
            if spec.source == "clicks.hash":
                assert answered == bound
            bound.append(spec.target)
            pending = self._channel.bind(spec)
            pending.add_done_callback(lambda _: answered.append(spec.target))
            return pending

    declare.demand(flow.run(declare.apply(lambda: Watched(connection.channel()), wanted(12)), SECONDS))
    assert bound[:4] == ["clicks.0", "clicks.1", "clicks.10", "clicks.11"]
    assert bound[12:] == ["clicks.hash"]


def test_applying_it_twice_changes_nothing(broker: MemoryBroker) -> None:
    """Everything is there the second time, in use or not."""
    connection = broker.connect()
    apply(connection, wanted(4))
    publish(connection, "k")
    assert {step.result for step in apply(connection, wanted(4)).values()} == {"present", "bound"}


@pytest.mark.parametrize("count", [3, 6])
def test_another_number_of_partitions_in_use_is_refused_and_the_rest_is_applied(
    broker: MemoryBroker, count: int
) -> None:
    """No partition is made or bound, and the sentence has the way."""
    connection = broker.connect()
    apply(connection, wanted(4))
    publish(connection, "k")
    found = apply(connection, wanted(count))
    assert isinstance(found["clicks"].error, PreconditionFailed)
    assert "delete the exchange 'clicks.hash'" in str(found["clicks"].error)
    assert [name for name in broker.queues() if name.startswith("clicks")] == [f"clicks.{n}" for n in range(4)]
    assert found["mail"].error is None


@pytest.mark.parametrize("count", [3, 6])
def test_a_number_that_was_refused_once_is_refused_again_where_delays_lead_to_each_partition(
    broker: MemoryBroker, count: int
) -> None:
    """What leads to a partition past the exchange does not make one: all there, they would be bound the next time."""
    connection = broker.connect()
    apply(connection, wanted(4, {"delays": DELAYS}))
    publish(connection, "k")
    for _ in range(2):
        found = apply(connection, wanted(count, {"delays": DELAYS}))
        assert isinstance(found["clicks"].error, PreconditionFailed)
        assert [name for name, step in found.items() if step.error is not None] == ["clicks"]
        assert [name for name in broker.queues() if name.startswith("clicks")] == [f"clicks.{n}" for n in range(4)]


def test_more_partitions_of_a_queue_that_nobody_uses_are_made(broker: MemoryBroker) -> None:
    """As after an apply that was cut off between them."""
    connection = broker.connect()
    apply(connection, wanted(4))
    assert all(step.error is None for step in apply(connection, wanted(6)).values())
    assert "clicks.5" in broker.queues()


def test_a_consumer_is_use_too(broker: MemoryBroker) -> None:
    """It may hold messages that nobody counts."""
    connection = broker.connect()
    apply(connection, wanted(4))

    def consume() -> Flow[None]:
        yield connection.channel().consume("clicks.1", lambda _: None, prefetch=1)

    flow.run(consume(), SECONDS)
    assert "the broker has 4 of 6 partitions, and they are in use" in str(apply(connection, wanted(6))["clicks"].error)


def test_a_broker_without_the_plugin_ends_an_apply_before_any_queue_is_made(broker: MemoryBroker) -> None:
    """What cannot be fed is of no use, and a half is worse than nothing."""
    connection = broker.connect()

    class Without:
        """A channel to a broker of 4.x without the plugin."""

        def __init__(self, channel: Channel) -> None:
            self._channel = channel

        def __getattr__(self, name: str) -> Any:
            return getattr(self._channel, name)

        def declare_exchange(self, spec: ExchangeSpec, *, passive: bool = False) -> Pending[None]:
            if spec.type == "x-consistent-hash" and not passive:
                words = "PRECONDITION_FAILED - unknown exchange type 'x-consistent-hash'"
                refused: Future[None] = Future()
                refused.set_exception(failures.channel_error(406, words))
                return refused
            return self._channel.declare_exchange(spec, passive=passive)

    with pytest.raises(PreconditionFailed, match=PLUGIN):
        flow.run(declare.apply(lambda: Without(connection.channel()), wanted(4)), SECONDS)
    assert not broker.queues()


@pytest.mark.parametrize(
    "words",
    [
        "COMMAND_INVALID - unknown exchange type 'x-consistent-hash'",
        "PRECONDITION_FAILED - invalid exchange type 'x-consistent-hash'",
    ],
)
def test_a_broker_without_the_plugin_is_told_how_to_get_it(words: str) -> None:
    """Whether it closes the channel or the connection for that."""
    assert PLUGIN in str(failures.channel_error(406, words))
    closed = failures.connection_error(503, words)
    assert isinstance(closed, ConnectionLost)
    assert PLUGIN in str(closed)
    assert PLUGIN not in str(failures.channel_error(406, "PRECONDITION_FAILED - unknown exchange type 'x-other'"))
