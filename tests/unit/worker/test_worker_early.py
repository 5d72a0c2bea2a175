"""Tasks that are not due: put off into the ladder, never run early, never run where their route does not lead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from amqpq import App
from amqpq.clock import ManualClock
from amqpq.message import TaskEnvelope
from amqpq.testing.memory import MemoryBroker, declare_topology, memory_link
from amqpq.topology import delays
from amqpq.transport import flow
from amqpq.transport.interface import Flow
from amqpq.types import Delivery, Properties, Publication
from amqpq.worker.deadletter import for_later
from amqpq.worker.execute import Executor
from amqpq.worker.settle import Case, End, Happened, Step, settle
from amqpq.worker.work import Finished, Work
from tests.unit.worker.conftest import KEY, RunningWorker

SOURCE: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "exchanges": {"web": {"type": "topic"}},
    "queues": {"default": {}, "other": {}},
    "bindings": ["web[web.#] -> default"],
    "routes": {"web.*": {"exchange": "web", "key": "web.{task}"}, "*": {"queue": "default"}},
    "delays": {"max": "1h"},
    "security": {"signing": {"algorithm": "hmac-sha256", "key": "env:SIGN_KEY", "key_id": "shop"}},
}


@pytest.fixture
def broker() -> MemoryBroker:
    """An empty in-memory broker, whose clock the test moves."""
    return MemoryBroker()


@pytest.fixture
def app(broker: MemoryBroker) -> Iterator[App]:
    """An application with a ladder, and a task that notes when it ran."""
    made = App(SOURCE, environ=KEY, link=memory_link(broker))
    ran: list[float] = []

    @made.task(name="note")
    def note() -> int:
        ran.append(time.time())
        return len(ran)

    declare_topology(broker, made.topology)
    with made:
        yield made


@pytest.fixture
def worker(app: App, broker: MemoryBroker, until: Callable[..., None]) -> Iterator[RunningWorker]:
    """A worker of the queue `default`."""
    running = RunningWorker(app, broker, queues=("default",))
    until(lambda: broker.queues()["default"].consumers)
    yield running
    running.stop()


def in_seconds(seconds: float, since: float | None = None) -> str:
    """A moment as it travels."""
    return datetime.fromtimestamp((time.time() if since is None else since) + seconds, UTC).isoformat()


def publish(broker: MemoryBroker, publication: Publication) -> None:
    """Publish as somebody else does."""
    pending = broker.connect().channel().publish((publication,))

    def confirmed() -> Flow[Any]:
        return (yield pending)

    assert flow.run(confirmed(), 10.0)[0].confirmed


def straight(app: App, eta: str) -> Publication:
    """A message as a Celery producer sends it: with an eta, straight to its queue."""
    envelope = TaskEnvelope("1f0c", "note", (), eta=eta, reply_to=None)
    body, properties = app.codec.encode_task(envelope, exchange="", key="default")
    return Publication("", "default", body, properties)


def waiting(broker: MemoryBroker) -> int:
    """How many messages the ladder has."""
    return sum(state.messages for name, state in broker.queues().items() if ".delay." in name)


def test_what_is_not_due_waits_in_the_broker(
    app: App, broker: MemoryBroker, worker: RunningWorker, until: Callable[..., None]
) -> None:
    """The worker holds nothing: the message is in the ladder, and not unacknowledged here."""
    publish(broker, straight(app, in_seconds(600)))
    until(lambda: waiting(broker) == 1)
    until(lambda: worker.loop.counts["early"] == 1)
    assert worker.loop.counts["succeeded"] == 0
    assert worker.stop() == 0
    assert waiting(broker) == 1


def test_it_runs_when_it_is_due(
    app: App, broker: MemoryBroker, worker: RunningWorker, until: Callable[..., None]
) -> None:
    """It comes down the ladder by itself and is no replay of itself."""
    publish(broker, straight(app, in_seconds(0.3)))
    until(lambda: worker.loop.counts["early"] == 1)
    threading.Event().wait(0.31)  # the worker's clock is the real one; the broker's follows
    broker.advance(0.5)
    until(lambda: worker.loop.counts["succeeded"] == 1)
    assert worker.loop.counts["refused"] == 0


def test_a_ladder_that_lets_go_early_does_not_let_it_run_early(
    app: App, broker: MemoryBroker, worker: RunningWorker, until: Callable[..., None]
) -> None:
    """Whoever changes the hints, which nobody signs, gains nothing: the signed eta sends it back."""
    message = straight(app, in_seconds(600))
    entry = delays.entry(app.topology, 0.1, ["default"], time.time())
    forged = message.properties._replace(headers={**message.properties.headers, **entry.headers})
    publish(broker, message._replace(exchange=entry.exchange, properties=forged))
    broker.advance(1)
    until(lambda: worker.loop.counts["early"] == 1)
    until(lambda: waiting(broker) == 1)
    assert worker.loop.counts["succeeded"] == 0


Run = Callable[..., Finished]


@pytest.fixture
def run(app: App) -> Run:
    """`run(came, route, queue)` executes a call that came that way."""

    def execute(came: tuple[str, str], route: tuple[str, str], queue: str = "default", **more: Any) -> Finished:
        app_now = app if "topology" not in more else more.pop("topology")
        body, properties = app_now.codec.encode_task(
            TaskEnvelope("1f0c", "note", (), **more), exchange=route[0], key=route[1]
        )
        executor = Executor(app_now, "w1@h", clock=ManualClock())
        return executor.run(Work(7, queue, body, properties, *came, False, False), lambda _: None)

    return execute


@pytest.mark.parametrize("route", [("web", "web.note"), ("", "default")])
@pytest.mark.parametrize("exchange", ["shop.delay.0", "shop.delay.out"])
def test_what_comes_down_the_ladder_is_where_its_route_leads(run: Run, exchange: str, route: tuple[str, str]) -> None:
    """Dead-lettering replaces the exchange of a delivery; the signed route says where it belongs."""
    assert run((exchange, route[1]), route).happened == "succeeded"


@pytest.mark.parametrize("route", [("web", "web.note"), ("", "default")])
def test_a_ladder_cannot_move_a_task_elsewhere(run: Run, route: tuple[str, str]) -> None:
    """`amqpq-to-<queue>` is unsigned: a task that was led into another queue is refused there."""
    finished = run(("shop.delay.0", route[1]), route, "other")
    assert (finished.happened, finished.cause) == ("refused", "replayed")


def test_an_early_task_that_has_expired_is_not_put_off(run: Run) -> None:
    """It could never run."""
    more = {"eta": in_seconds(60, ManualClock().time()), "expires": in_seconds(-1, ManualClock().time())}
    assert run(("", "default"), ("", "default"), **more).happened == "expired"


def test_without_a_ladder_an_early_task_is_refused_with_the_remedy(run: Run) -> None:
    """Better in the dead letters than in a worker's memory."""
    source = {name: part for name, part in SOURCE.items() if name != "delays"}
    plain = App(source, environ=KEY)
    plain.task(name="note")(lambda: None)
    finished = run(("", "default"), ("", "default"), topology=plain, eta=in_seconds(60, ManualClock().time()))
    assert (finished.happened, finished.cause) == ("refused", "unsupported")
    assert "add `delays: {}`" in finished.reason


def test_an_early_task_is_acknowledged_when_the_ladder_has_it() -> None:
    """Confirmed first, like everything else."""
    settlement = settle(Happened.EARLY, Case())
    assert (settlement.steps, settlement.end) == ((Step.LATER,), End.ACK)


def test_a_copy_for_the_ladder_has_nothing_that_would_stop_it() -> None:
    """No x-death (a second visit to a level would be a cycle), no expiration, no old hints, nothing to copy it elsewhere."""
    headers = {
        "id": "1f0c",
        "x-death": [{"queue": "shop.delay.3"}],
        "x-first-death-queue": "shop.delay.3",
        "x-delivery-count": 2,
        "amqpq-delay-9": True,
        "amqpq-to-default": True,
        "amqpq-due": 1,
        "CC": ["other"],
        "mine": 1,
    }
    delivery = Delivery(b"body", Properties(headers=headers, expiration=1000), "shop.delay.0", "default", False, 7)
    entry = delays.Entry("shop.delay.2", {"amqpq-delay-2": True, "amqpq-to-default": True})
    copy = for_later(delivery, queue="default", entry=entry)
    assert copy.properties.headers == {"id": "1f0c", "mine": 1, **entry.headers}
    assert copy.properties.expiration is None
    assert (copy.exchange, copy.body, copy.mandatory) == ("shop.delay.2", b"body", True)


def test_what_is_due_beyond_the_ladder_takes_it_twice(
    app: App, broker: MemoryBroker, worker: RunningWorker, until: Callable[..., None]
) -> None:
    """A Celery producer may ask for more than `delays.max`: the message comes early then, and is put off again."""
    publish(broker, straight(app, (datetime.now(UTC) + timedelta(hours=3)).isoformat()))
    until(lambda: worker.loop.counts["early"] == 1)
    until(lambda: waiting(broker) == 1)
    broker.advance(3601)
    until(lambda: worker.loop.counts["early"] == 2)
    until(lambda: waiting(broker) == 1)
