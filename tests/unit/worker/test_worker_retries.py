"""Retries in a worker on the in-memory broker: the same message again, counted, and confirmed before the acknowledgement."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from amqpq import App
from amqpq.errors import ConfigurationError, LocalError
from amqpq.testing.memory import MemoryBroker, declare_topology, memory_link
from amqpq.types import Delivery, Properties
from amqpq.worker.control.events import ending
from amqpq.worker.deadletter import ATTEMPT_LOG_BYTES, Attempt, Place, next_attempt
from amqpq.worker.jobs import Jobs
from amqpq.worker.pools.wire import pack_finished, unpack_finished
from amqpq.worker.run import check_retries
from amqpq.worker.settle import Case, End, Happened, Step, settle
from amqpq.worker.work import Finished, Reply
from tests.unit.worker.conftest import KEY, RunningWorker

Until = Callable[[Callable[[], object]], None]

SOURCE: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "queues": {"default": {}},
    "routes": {
        "drop.*": {"queue": "default", "retries": {"max": 1, "backoff": {"min": "0s"}, "then": "drop"}},
        "*": {"queue": "default"},
    },
    "retries": {"max": 2, "backoff": {"min": "10s", "jitter": False}},
    "security": {"signing": {"algorithm": "hmac-sha256", "key": "env:SIGN_KEY", "key_id": "shop"}},
}


@pytest.fixture
def broker() -> MemoryBroker:
    """An empty in-memory broker, whose clock the test moves."""
    return MemoryBroker()


class Shop:
    """An application with tasks that fail as the test wants; `runs` is what ran."""

    def __init__(self, broker: MemoryBroker, source: dict[str, Any]) -> None:
        self.app = App(source, environ=KEY, link=memory_link(broker))
        self.runs: list[tuple[Any, ...]] = []
        self.mended = threading.Event()

        @self.app.task(name="fail")
        def fail() -> str:
            self.runs.append(("fail",))
            if not self.mended.is_set():
                raise LookupError("not yet")
            return "mended"

        @self.app.task(name="drop.fail")
        def drop() -> None:
            self.runs.append(("drop",))
            raise LookupError("never")

        @self.app.task(name="asks", bind=True, max_retries=4)
        def asks(self_: Any, /, x: int, **how: Any) -> list[Any]:
            self.runs.append((x, self_.request.retries))
            if x < 3:
                self_.retry(args=[x + 1], kwargs={}, countdown=0, **how)
            return [x, self_.request.retries]

        @self.app.task(name="goes_on", bind=True)
        def goes_on(self_: Any) -> str:
            self.runs.append(("on", self_.request.retries))
            if not self_.request.retries:
                self_.retry(throw=False, countdown=0)
            return "at last"

        @self.app.task(name="gives_up", bind=True)
        def gives_up(self_: Any) -> None:
            self.runs.append(("up", self_.request.retries))
            self_.retry(exc=LookupError("enough"), countdown=0, max_retries=1)


@pytest.fixture
def shop(broker: MemoryBroker) -> Iterator[Shop]:
    """The application; its topology is on the broker."""
    made = Shop(broker, SOURCE)
    declare_topology(broker, made.app.topology)
    with made.app:
        yield made


@pytest.fixture
def worker(shop: Shop, broker: MemoryBroker, until: Until) -> Iterator[RunningWorker]:
    """A worker of the queue `default`."""
    running = RunningWorker(shop.app, broker, queues=("default",))
    until(lambda: broker.queues()["default"].consumers)
    yield running
    running.stop()


def waiting(broker: MemoryBroker) -> int:
    """How many messages the ladder has."""
    return sum(state.messages for name, state in broker.queues().items() if ".delay." in name)


def test_a_failure_is_tried_again_and_succeeds(
    shop: Shop, broker: MemoryBroker, worker: RunningWorker, until: Until
) -> None:
    """It waits in the broker, its caller reads RETRY with the reason, and then the result."""
    result = shop.app.send_task("fail")
    until(lambda: waiting(broker) == 1)
    until(lambda: result.state == "RETRY")
    assert worker.loop.counts["retried"] == 1
    broker.advance(9)
    assert len(shop.runs) == 1
    shop.mended.set()
    broker.advance(1.5)
    assert result.get(timeout=10) == "mended"
    assert len(shop.runs) == 2
    assert worker.loop.counts["refused"] == 0


def test_the_last_failure_has_the_whole_history(
    shop: Shop, broker: MemoryBroker, worker: RunningWorker, until: Until
) -> None:
    """After 10 and 20 seconds it is given up: attempts, first and last time, the errors before; and its caller learns why."""
    result = shop.app.send_task("fail")
    for seconds in (10.5, 20.5):
        until(lambda: waiting(broker) == 1)
        broker.advance(seconds)
    until(lambda: broker.queues()["shop.dead"].messages == 1)
    (letter,) = broker.messages("shop.dead")
    headers = letter.properties.headers
    assert (headers["amqpq-attempts"], headers["amqpq-cause"], headers["amqpq-retries"]) == (3, "failed", 2)
    assert [entry["error"] for entry in headers["amqpq-attempt-log"]] == ["LookupError: not yet"] * 2
    assert headers["amqpq-first-failed"] == headers["amqpq-attempt-log"][0]["at"] <= headers["amqpq-last-failed"]
    with pytest.raises(LookupError, match="not yet"):
        result.get(timeout=10)
    assert len(shop.runs) == 3
    assert worker.loop.counts["retried"] == 2


def test_the_message_stays_the_producers(shop: Shop, broker: MemoryBroker, worker: RunningWorker, until: Until) -> None:
    """Body, signed headers and signature are as they came: a worker needs no right to sign tasks."""
    shop.app.send_task("fail", task_id="1f0c", headers={"mine": 1}, reply="none")
    until(lambda: waiting(broker) == 1)
    (name,) = [queue for queue, state in broker.queues().items() if ".delay." in queue and state.messages]
    (held,) = broker.messages(name)
    stamp = shop.app.codec.verify_task(held.body, held.properties)
    assert stamp is not None
    assert held.properties.headers["amqpq-retries"] == 1
    assert held.properties.headers["mine"] == 1
    assert worker.loop.counts["retried"] == 1


def test_dropping_after_the_last_attempt_is_possible(
    shop: Shop, broker: MemoryBroker, worker: RunningWorker, until: Until
) -> None:
    """`then: drop` leaves no dead letter, and counts."""
    result = shop.app.send_task("drop.fail")
    with pytest.raises(LookupError):
        result.get(timeout=10)
    until(lambda: worker.loop.counts["dropped"] == 1)
    assert len(shop.runs) == 2
    assert broker.queues()["shop.dead"].messages == 0


def test_a_task_asks_for_it_with_other_arguments(shop: Shop, worker: RunningWorker) -> None:
    """Each attempt has the arguments of the one before it, and counts on."""
    assert shop.app.send_task("asks", [1]).get(timeout=10) == [3, 2]
    assert shop.runs == [(1, 0), (2, 1), (3, 2)]
    assert worker.loop.counts["retried"] == 2


def test_a_task_may_go_on_after_asking(shop: Shop, worker: RunningWorker) -> None:
    """`throw=False`: the attempt is over when the function ends, and what it returns does not count."""
    assert shop.app.send_task("goes_on").get(timeout=10) == "at last"
    assert shop.runs == [("on", 0), ("on", 1)]
    assert worker.loop.counts["succeeded"] == 1


def test_giving_up_is_the_end_whatever_the_topology_says(shop: Shop, worker: RunningWorker) -> None:
    """The topology would allow another attempt; the task itself has said enough."""
    with pytest.raises(LookupError, match="enough"):
        shop.app.send_task("gives_up").get(timeout=10)
    assert shop.runs == [("up", 0), ("up", 1)]
    assert worker.loop.counts["failed"] == 1


def test_without_a_ladder_a_wait_is_the_tasks_failure(broker: MemoryBroker, until: Until) -> None:
    """With the remedy in it; another attempt at once needs no ladder."""
    plain = Shop(broker, {name: part for name, part in SOURCE.items() if name not in {"retries", "routes"}})

    @plain.app.task(name="waits", bind=True)
    def waits(self: Any) -> None:
        self.retry(countdown=5, exc=ValueError("why"))

    declare_topology(broker, plain.app.topology)
    with plain.app:
        running = RunningWorker(plain.app, broker, queues=("default",))
        until(lambda: broker.queues()["default"].consumers)
        with pytest.raises(LocalError, match=r"add `delays: \{\}`"):
            plain.app.send_task("waits").get(timeout=10)
        assert plain.app.send_task("goes_on").get(timeout=10) == "at last"
        running.stop()


def test_autoretry_without_a_ladder_is_refused_at_start() -> None:
    """Before the first failure, with the name of the task."""
    app = App({name: part for name, part in SOURCE.items() if name not in {"retries", "routes"}}, environ=KEY)
    app.task(name="t", autoretry_for=(OSError,))(lambda: None)
    with pytest.raises(ConfigurationError, match=r"t: autoretry_for= needs delays; .*add `delays: \{\}`"):
        check_retries(app)


def test_another_attempt_is_confirmed_before_the_acknowledgement() -> None:
    """Like a dead letter."""
    settlement = settle(Happened.RETRIED, Case(answerable=True))
    assert (settlement.steps, settlement.end) == ((Step.LATER,), End.ACK)


DELIVERY = Delivery(b"body", Properties(headers={"id": "1"}, expiration=5), "", "default", False, 1)
ATTEMPT = Attempt(1, Place("h", "w@h"), "ValueError: no", 1_700_000_000.0)


def test_the_log_of_attempts_is_bounded() -> None:
    """However often it is tried, and however long the errors are."""
    delivery = DELIVERY
    for number in range(1, 40):
        attempt = replace(ATTEMPT, number=number, reason="ä" * 5000)
        copy = next_attempt(delivery, queue="default", entry=None, attempt=attempt)
        delivery = delivery._replace(properties=copy.properties)
    log = delivery.properties.headers["amqpq-attempt-log"]
    assert len(log) <= 10
    assert len(str(log)) < ATTEMPT_LOG_BYTES
    assert delivery.properties.headers["amqpq-retries"] == 39


def test_the_next_attempt_at_once_goes_straight_to_its_queue() -> None:
    """Without an expiration of its own; the signed one stays."""
    copy = next_attempt(DELIVERY, queue="default", entry=None, attempt=ATTEMPT)
    assert (copy.exchange, copy.routing_key, copy.mandatory, copy.properties.expiration) == ("", "default", True, None)


def test_the_next_attempt_is_not_taken_for_a_redelivery() -> None:
    """Its count is part of what makes two deliveries the same message."""

    class Tap:
        queue = "default"

    jobs = Jobs(lambda: 0.0)
    first = jobs.open(Tap(), DELIVERY)  # type: ignore[arg-type]
    copy = next_attempt(DELIVERY, queue="default", entry=None, attempt=ATTEMPT)
    second = jobs.open(Tap(), DELIVERY._replace(properties=copy.properties))  # type: ignore[arg-type]
    assert first.print != second.print


def test_what_is_to_come_instead_travels_from_a_child() -> None:
    """A changed message, the due time and the word `drop` come through the pipe."""
    reply = Reply("default", b"x", Properties(headers={"a": 1}))
    finished = Finished(7, Happened.RETRIED, "t", 0.5, reply, "retried", "why", "tb", 12.5, reply, True)
    assert unpack_finished(pack_finished(finished)) == finished


def test_monitors_hear_of_a_retry() -> None:
    """Flower and its kin know `task-retried`; that something was put off is no end."""
    told = ending(Finished(1, Happened.RETRIED, reason="ValueError: no"), again=True)
    assert told is not None
    assert (told[0], told[1]["exception"]) == ("task-retried", "ValueError: no")
    assert ending(Finished(1, Happened.EARLY), again=True) is None
