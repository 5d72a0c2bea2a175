"""A worker whose queues move, on the in-memory broker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from amqpq import App
from amqpq.testing.memory import MemoryBroker
from amqpq.topology.generations import NOTHING_MOVED, Generations, Home, ingress_specs, write
from amqpq.types import BindingSpec, Delivery, Properties, QueueSpec
from amqpq.worker.follower import Follower
from amqpq.worker.reactor import Reactor
from tests.support.lab import answer

Until = Callable[[Callable[[], object]], None]


@pytest.fixture
def second(broker: MemoryBroker) -> Callable[[], None]:
    """Make the second generation of `default`, and an ingress that leads to it."""

    def make() -> None:
        channel = broker.connect().channel()
        for spec in ingress_specs("default"):
            answer(channel.declare_exchange(spec))
        answer(channel.declare_queue(QueueSpec("default.g2")))
        answer(channel.bind(BindingSpec("default.in", "default.g2")))

    return make


BOTH = Home("default", ("default", "default.g2"), ingress=True, moving=True)


def test_a_worker_consumes_both_generations_and_then_the_new_one(
    app: App, start: Any, broker: MemoryBroker, second: Callable[[], None], until: Until
) -> None:
    """It follows the record without a restart, and what it has begun in the old queue is settled there."""
    second()
    worker = start()
    intake = worker.loop._intake
    record = NOTHING_MOVED.with_home("default", BOTH)
    worker.reactor.post(intake.follow, record)
    until(lambda: broker.queues()["default.g2"].consumers)
    assert broker.queues()["default"].consumers
    assert app.send_task("shop.add", (2, 3)).get(timeout=10) == 5
    worker.reactor.post(intake.follow, record.with_home("default", replace(BOTH, consumed=("default.g2",))))
    until(lambda: not broker.queues()["default"].consumers)
    assert set(intake.queues) == {"default", "forgetful"}
    assert worker.stop() == 0


def test_what_is_in_hand_when_a_queue_is_left_is_finished(
    app: App, start: Any, broker: MemoryBroker, second: Callable[[], None], until: Until, gate: Any
) -> None:
    """Leaving a queue cancels the subscription, and nothing else."""
    worker = start()
    result = app.send_task("shop.hold", ("x",))
    until(lambda: gate.begun)
    second()
    record = NOTHING_MOVED.with_home("default", replace(BOTH, consumed=("default.g2",)))
    worker.reactor.post(worker.loop._intake.follow, record)
    until(lambda: broker.queues()["default.g2"].consumers and not broker.queues()["default"].consumers)
    gate.opened.set()
    assert result.get(timeout=10) == "x"
    worker.stop()
    assert not broker.messages("default")


def test_a_signed_message_is_accepted_from_the_ingress(
    app: App, start: Any, second: Callable[[], None], broker: MemoryBroker, until: Until
) -> None:
    """It was signed for the queue by its name, and came through the exchange before that."""
    second()
    worker = start()
    worker.reactor.post(worker.loop._intake.follow, NOTHING_MOVED.with_home("default", BOTH))
    until(lambda: broker.queues()["default.g2"].consumers)
    assert app.send_task("shop.add", (1, 1), queue="default").get(timeout=10) == 2
    assert not broker.messages("shop.dead")


def record_of(generations: Generations) -> Delivery:
    """Return a record as the stream delivers it."""
    return Delivery(write(generations), Properties(), "", "shop.generations", redelivered=False, tag=1)


class Tap:
    """A subscription that only notes that it is acknowledged."""

    queue = "shop.generations"

    def ack(self, tag: int) -> None:
        """Settle."""

    def flush(self) -> None:
        """Send it."""


def test_a_follower_takes_only_newer_records(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """The last chunk of a stream may begin with older ones; and what cannot be read changes nothing."""
    told: list[Generations] = []
    reactor = Reactor()
    newer = NOTHING_MOVED.with_home("default", BOTH).with_home("default", BOTH)
    follower = Follower(app.topology, newer, reactor, told.append)
    tap: Any = Tap()
    follower.delivered(tap, record_of(NOTHING_MOVED.with_home("default", BOTH)))
    follower.delivered(tap, record_of(newer)._replace(body=b"nonsense"))
    assert told == [newer]
    newest = newer.with_home("default", replace(BOTH, consumed=("default.g2",)))
    follower.delivered(tap, record_of(newest))
    assert told == [newer, newest]
    assert "cannot be read" in caplog.text
    reactor.close()


def test_a_consumer_asks_for_what_its_physical_queue_knows(app: App) -> None:
    """While a classic queue becomes a quorum queue, each gets the arguments of its own type."""
    reactor = Reactor()
    home = replace(BOTH, types={"default": "classic", "default.g2": "quorum"})
    follower = Follower(app.topology, NOTHING_MOVED.with_home("default", home), reactor, lambda _: None)
    assert follower.queue("default", "default").type == "classic"
    assert follower.queue("default", "default.g2").type == "quorum"
    reactor.close()
