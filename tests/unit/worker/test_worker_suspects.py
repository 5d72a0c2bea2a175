"""Suspects: what came back from a worker that is gone is marked, counted, run alone, and parked past the limit."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from amqpq import App
from amqpq.errors import WorkerLost
from amqpq.message import TaskEnvelope
from amqpq.testing.memory import MemoryBroker
from amqpq.transport.interface import Channel
from amqpq.types import Delivery, Properties, Publication
from amqpq.worker import suspects
from amqpq.worker.deadletter import SUSPECT, SUSPICIONS, Suspicion, suspicion_of
from amqpq.worker.loop import ExitCode
from amqpq.worker.settle import Happened
from amqpq.worker.suspects import SUSPICION_LIMIT, Verdict, came_back, judge
from tests.support.lab import answer

Until = Callable[[Callable[[], object]], None]


def fetch(channel: Channel, queue: str = "default") -> Delivery:
    """Take a message."""
    delivery = answer(channel.get(queue))
    assert isinstance(delivery, Delivery)
    return delivery


def change(broker: MemoryBroker, count: int, *, marked: bool) -> None:
    """Give the message in the queue these marks, as a worker would have."""
    channel = broker.connect().channel()
    delivery = fetch(channel)
    put(broker, delivery, count, marked=marked)
    channel.ack(delivery.tag)
    answer(channel.close())


def put(broker: MemoryBroker, delivery: Delivery, count: int, *, marked: bool) -> None:
    """Put a copy of a message with these marks into the queue."""
    channel = broker.connect().channel()
    headers = {**delivery.properties.headers, SUSPICIONS: count, SUSPECT: marked}
    publication = Publication("", "default", delivery.body, delivery.properties._replace(headers=headers))
    answer(channel.publish([publication]))
    answer(channel.close())


def die_with_it(broker: MemoryBroker, count: int = 1) -> None:
    """Hold what is in the queue, and go away."""
    channel = broker.connect().channel()
    for _ in range(count):
        fetch(channel)
    answer(channel.close())


# --------------------------------------------------------------------------------------------------------- the decision


def test_a_message_that_never_came_back_is_ordinary() -> None:
    """Only what came back, or says that it did, is a suspect."""
    assert judge(Suspicion(), back=False, another_here=False) is Verdict.ORDINARY


def test_coming_back_counts_only_with_a_mark() -> None:
    """Without one it changes nothing, however often it happens."""
    for count, here in itertools.product((1, 2, 3, 9), (True, False)):
        assert judge(Suspicion(count), back=True, another_here=here) is Verdict.HOLD


def test_the_first_return_is_no_proof_and_marks() -> None:
    """It runs again at once, as one among others."""
    assert judge(Suspicion(), back=True, another_here=True) is Verdict.MARK
    assert judge(Suspicion(1, marked=True), back=False, another_here=True) is Verdict.RUN


def test_a_counted_suspect_runs_alone_one_at_a_time() -> None:
    """A second one that arrives loses its mark."""
    for count in (2, 3):
        assert judge(Suspicion(count, marked=True), back=False, another_here=False) is Verdict.RUN_ALONE
        assert judge(Suspicion(count, marked=True), back=False, another_here=True) is Verdict.UNMARK


def test_past_the_limit_it_is_parked() -> None:
    """When the last marked copy that is allowed comes back."""
    for count in range(1, SUSPICION_LIMIT):
        assert judge(Suspicion(count, marked=True), back=True, another_here=False) is Verdict.HOLD
    assert judge(Suspicion(SUSPICION_LIMIT, marked=True), back=True, another_here=False) is Verdict.PARK


@pytest.mark.parametrize(
    "odd", [{SUSPICIONS: "3"}, {SUSPICIONS: True}, {SUSPICIONS: -1}, {SUSPECT: True}, {SUSPICIONS: []}]
)
def test_odd_headers_are_no_suspicion(odd: dict[str, Any]) -> None:
    """Nobody signs them."""
    assert suspicion_of(Properties(headers=odd)) == Suspicion()


@pytest.mark.parametrize(
    ("redelivered", "headers", "expected"),
    [
        (False, {}, False),
        (True, {}, True),
        (True, {"x-delivery-count": 1}, True),
        (True, {"x-acquired-count": 2}, False),
        (True, {"x-acquired-count": 2, "x-delivery-count": 1}, True),
    ],
)
def test_what_a_quorum_queue_says_was_released_did_not_come_back(
    redelivered: bool, headers: dict[str, Any], expected: bool
) -> None:
    """RabbitMQ 4.3: acquired, and no delivery counted, means that it was given back unbegun."""
    delivery = Delivery(b"", Properties(headers=headers), "", "default", redelivered, 1)
    assert came_back(delivery) is expected


# ------------------------------------------------------------------------------------------------------------- the loop


def test_what_came_back_is_marked_and_runs(app: App, start: Any, broker: MemoryBroker) -> None:
    """Once: the copy runs, and its caller gets the result."""
    results = [app.send_task("shop.add", (number, 1)) for number in range(5)]
    die_with_it(broker, 5)
    worker = start()
    assert [result.get(timeout=10) for result in results] == [1, 2, 3, 4, 5]
    assert worker.stop() is ExitCode.FINISHED
    assert worker.loop.counts["suspected"] == 5
    assert broker.queues()["default"].messages == broker.queues()["shop.dead"].messages == 0


def test_the_mark_is_there_before_it_runs(app: App, start: Any, broker: MemoryBroker, gate: Any, until: Until) -> None:
    """Whoever gets the message when this worker dies now can see what has happened."""
    app.send_task("shop.hold", ("suspect",), reply="none")
    die_with_it(broker)
    start(concurrency=1)
    until(lambda: gate.begun)
    broker.kill_connections()
    channel = broker.connect().channel()
    delivery = fetch(channel)
    assert delivery.redelivered
    assert suspicion_of(delivery.properties) == Suspicion(1, marked=True)


def test_past_the_limit_it_is_parked_and_its_caller_hears(
    app: App, start: Any, broker: MemoryBroker, gate: Any
) -> None:
    """It does not run again, whatever pool there is."""
    result = app.send_task("shop.hold", ("poison",))
    change(broker, SUSPICION_LIMIT, marked=True)
    die_with_it(broker)
    start()
    with pytest.raises(WorkerLost, match="3 times in a row"):
        result.get(timeout=10)
    channel = broker.connect().channel()
    headers = fetch(channel, "shop.dead").properties.headers
    assert (headers["amqpq-cause"], headers["amqpq-attempts"]) == ("crashed", 3)
    assert not {SUSPICIONS, SUSPECT} & headers.keys()
    assert gate.begun == []


def test_a_forged_poison_is_parked_as_forged_and_not_answered(
    app: App, start: Any, broker: MemoryBroker, until: Until
) -> None:
    """Its reply address is whoever's."""
    result = app.send_task("shop.hold", ("poison",))
    channel = broker.connect().channel()
    delivery = fetch(channel)
    headers = {**delivery.properties.headers, SUSPICIONS: SUSPICION_LIMIT, SUSPECT: True}
    altered = Publication("", "default", b"x" + delivery.body, delivery.properties._replace(headers=headers))
    answer(channel.publish([altered]))
    channel.ack(delivery.tag)
    answer(channel.close())
    die_with_it(broker)
    start()
    until(lambda: broker.queues()["shop.dead"].messages)
    assert fetch(broker.connect().channel(), "shop.dead").properties.headers["amqpq-cause"] == "forged"
    assert result.state == "PENDING"


def test_an_innocent_one_survives_any_number_of_deaths_of_workers_that_did_not_begin_it(
    app: App, start: Any, broker: MemoryBroker
) -> None:
    """It has a count from an unlucky day; without the mark, coming back costs nothing."""
    result = app.send_task("shop.add", (1, 1))
    change(broker, 2, marked=False)
    for _ in range(10):
        die_with_it(broker)
    start()
    assert result.get(timeout=10) == 2


def test_a_counted_suspect_runs_with_nothing_beside_it(
    app: App, start: Any, broker: MemoryBroker, gate: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for what runs, and nothing begins until it has ended."""
    worker = start(concurrency=3)
    app.send_task("shop.hold", ("before",), reply="none")
    until(lambda: gate.begun == ["before"])
    monkeypatch.setattr(worker.loop._suspects, "_marked_at", 0.0)
    body, properties = app.codec.encode_task(_task("suspect"), exchange="", key="default")
    marked = properties._replace(headers={**properties.headers, SUSPICIONS: 2, SUSPECT: True})
    answer(broker.connect().channel().publish([Publication("", "default", body, marked)]))
    after = [app.send_task("shop.hold", (number,), reply="none") for number in range(3)]
    until(lambda: worker.loop.counts["received"] == 5)
    assert after
    assert gate.begun == ["before"]
    held = suspended(gate)
    until(lambda: "suspect" in gate.begun)
    assert gate.begun == ["before", "suspect"]
    held.set()
    gate.opened.set()
    until(lambda: len(gate.begun) == 5)


def test_of_several_counted_suspects_one_is_marked_at_a_time(
    app: App, start: Any, broker: MemoryBroker, gate: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are held without a mark, so that a death now would not count against them; all run in the end."""
    monkeypatch.setattr(suspects, "MARK_SECONDS", 0.01)
    for name in ("a", "b", "c"):
        app.send_task("shop.hold", (name,), reply="none")
    for _ in range(3):
        change(broker, 1, marked=True)
    die_with_it(broker, 3)
    worker = start(concurrency=3)
    until(lambda: gate.begun == ["a"])
    app.send_task("shop.hold", ("other",), reply="none")
    # A marked one that comes while another is here is copied back, as often as it is marked again meanwhile.
    counts = worker.loop.counts
    until(lambda: counts["received"] - counts[Happened.SUSPECTED] == 4 and len(worker.loop._suspects) == 2)
    assert gate.begun == ["a"]
    suspended(gate).set()
    gate.opened.set()
    until(lambda: sorted(gate.begun) == ["a", "b", "c", "other"])
    assert worker.stop() is ExitCode.FINISHED
    assert broker.queues()["default"].messages == 0


def test_a_warm_stop_takes_the_mark_from_what_was_not_begun(
    app: App, start: Any, broker: MemoryBroker, gate: Any, until: Until
) -> None:
    """An ordinary restart never counts against a message that only waited."""
    worker = start(concurrency=1)
    app.send_task("shop.hold", ("running",), reply="none")
    until(lambda: gate.begun)
    app.send_task("shop.hold", ("waiting",), reply="none")
    until(lambda: worker.loop.counts["received"] == 2)
    body, properties = app.codec.encode_task(_task("suspect"), exchange="", key="default")
    marked = properties._replace(headers={**properties.headers, SUSPICIONS: 2, SUSPECT: True})
    answer(broker.connect().channel().publish([Publication("", "default", body, marked)]))
    until(lambda: worker.loop.counts["received"] == 3)
    worker.signal()
    until(lambda: broker.queues()["default"].messages == 2)
    gate.opened.set()
    assert worker.wait() is ExitCode.FINISHED
    channel = broker.connect().channel()
    found = {suspicion_of(delivery.properties): delivery.redelivered for delivery in (fetch(channel), fetch(channel))}
    assert found == {Suspicion(): True, Suspicion(1, marked=False): False}


def test_what_was_held_unbegun_through_a_lost_connection_is_no_suspect(
    app: App, start: Any, broker: MemoryBroker, gate: Any, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    """This worker knows that it did not begin it."""
    caplog.set_level(logging.INFO)
    worker = start(concurrency=1)
    results = [app.send_task("shop.hold", (number,)) for number in range(4)]
    until(lambda: gate.begun and worker.loop.counts["received"] == 4)
    broker.kill_connections()
    gate.opened.set()
    assert [result.get(timeout=10) for result in results] == [0, 1, 2, 3]
    assert worker.loop.counts["suspected"] == 0


def _task(who: str) -> Any:
    return TaskEnvelope(f"id-{who}", "shop.hold", (who,))


def suspended(gate: Any) -> Any:
    """Let what waits at the gate go, and close it again for those that come."""
    waiting, gate.opened = gate.opened, threading.Event()
    waiting.set()
    return gate.opened


# ------------------------------------------------------------------------------------------- and it runs here all the time


@pytest.mark.parametrize("came_back_again", [False, True])
def test_a_suspect_that_still_runs_here_is_not_run_twice(
    app: App, start: Any, gate: Any, broker: MemoryBroker, until: Until, *, came_back_again: bool
) -> None:
    """The broker took it from us, another worker marked it, and it came to us again while its first run goes on."""
    worker = start()
    result = app.send_task("shop.hold", ("through",))
    until(lambda: gate.begun)
    with broker.lock:
        broker.kill_connections()
        change(broker, SUSPICION_LIMIT, marked=True)
        if came_back_again:
            die_with_it(broker)
    until(lambda: worker.loop.counts["handed over"] == 1)
    gate.opened.set()
    assert result.get(timeout=10) == "through"
    assert worker.stop() is ExitCode.FINISHED
    assert gate.begun == ["through"]
    assert broker.queues()["default"].messages == broker.queues()["shop.dead"].messages == 0


def test_a_suspect_that_ended_here_is_only_acknowledged(
    app: App, start: Any, broker: MemoryBroker, until: Until
) -> None:
    """Our acknowledgement was not read, another worker marked the message, and it came to us: it is no replay."""
    result = app.send_task("shop.add", (2, 3))
    channel = broker.connect().channel()
    delivery = fetch(channel)
    answer(channel.publish([Publication("", "default", delivery.body, delivery.properties)]))
    channel.ack(delivery.tag)
    worker = start()
    assert result.get(timeout=10) == 5
    with broker.lock:
        broker.kill_connections()
        if broker.queues()["default"].messages:  # our acknowledgement did not even arrive
            change(broker, 1, marked=True)
        else:
            put(broker, delivery, 1, marked=True)
    until(lambda: worker.loop.counts["handed over"] == 1)
    until(lambda: broker.queues()["default"].messages == 0)
    assert worker.stop() is ExitCode.FINISHED
    assert worker.loop.counts["succeeded"] == 1
    assert broker.queues()["shop.dead"].messages == 0


def test_a_copy_does_not_wait_for_an_original_that_another_worker_has(
    app: App, start: Any, broker: MemoryBroker, until: Until
) -> None:
    """We were about to copy it when the connection was lost; another worker got it, and its copy comes to us: it runs."""
    result = app.send_task("shop.add", (2, 3))
    die_with_it(broker)
    other = app.send_task("shop.add", (3, 4))
    broker.block()
    worker = start()
    until(lambda: worker.loop.counts["suspected"] == 1)
    with broker.lock:
        broker.kill_connections()
        broker.unblock()
        change(broker, 2, marked=True)
    assert result.get(timeout=10) == 5
    assert other.get(timeout=10) == 7
    assert worker.stop() is ExitCode.FINISHED
