"""Workers on partitioned queues: which they take, how many messages they hold, and who keeps its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from amqpq import App
from amqpq.errors import ConfigurationError
from amqpq.testing.memory import MemoryBroker, memory_link
from amqpq.topology import load
from amqpq.topology.declarations import declarations
from amqpq.transport import declare, flow
from amqpq.worker.banner import banner
from amqpq.worker.loop import ExitCode
from amqpq.worker.plan import WorkerPlan, choose_queues
from amqpq.worker.run import needed
from amqpq.worker.settle import CRASH_LIMIT, CUT_OFF, TRY_AGAIN, Case, Happened, Step, settle
from amqpq.worker.suspects import IN_PLACE_LIMIT
from tests.unit.worker.conftest import KEY, Gate, RunningWorker
from tests.unit.worker.test_worker_control import told
from tests.unit.worker.test_worker_suspects import fetch

Until = Callable[[Callable[[], object]], None]

SOURCE: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "queues": {
        "clicks": {"partitions": 4},
        "orders": {"type": "quorum", "partitions": 2, "single_active": True},
        "plain": {},
    },
    "routes": {"clicks.*": {"queue": "clicks", "key": "{user}"}, "orders.*": {"queue": "orders", "key": "{user}"}},
    "security": {"signing": {"algorithm": "hmac-sha256", "key": "env:SIGN_KEY", "key_id": "shop"}},
}
TOPOLOGY = load(SOURCE, environ={})


@pytest.fixture
def seen() -> list[int]:
    """What `orders.note` was called with."""
    return []


@pytest.fixture
def app(broker: MemoryBroker, gate: Gate, seen: list[int]) -> Iterator[App]:
    """The application with its tasks; its topology is on the broker."""
    application = App(SOURCE, environ=KEY, link=memory_link(broker))

    @application.task(name="orders.hold")
    def hold(who: object, *, user: str) -> object:
        return gate.wait((who, user))

    @application.task(name="orders.note")
    def note(number: int, *, user: str) -> str:
        seen.append(number)
        return user

    @application.task(name="clicks.note")
    def click(number: int, *, user: str) -> str:
        seen.append(number)
        return user

    declare.demand(flow.run(declare.apply(broker.connect().channel, declarations(application.topology)), 10.0))
    with application:
        yield application


@pytest.fixture
def start(app: App, broker: MemoryBroker, gate: Gate) -> Iterator[Callable[..., RunningWorker]]:
    """Start workers; what a test leaves running is stopped."""
    started: list[RunningWorker] = []

    def make(*queues: str, **options: Any) -> RunningWorker:
        started.append(RunningWorker(app, broker, queues=choose_queues(app.topology, queues), **options))
        return started[-1]

    yield make
    gate.opened.set()
    for worker in started:
        if worker.running:
            worker.stop()


def filled(broker: MemoryBroker, stem: str) -> str:
    """The one partition that holds something."""
    (name,) = [name for name, state in broker.queues().items() if name.startswith(f"{stem}.") and state.messages]
    return name


def die_with(broker: MemoryBroker, queue: str) -> None:
    """Hold what is at the head of the queue, and go away with the connection."""
    connection = broker.connect()
    fetch(connection.channel(), queue)
    connection.close()


# ------------------------------------------------------------------------------------------------------ what is taken


def test_all_partitions_one_or_some() -> None:
    """By default those of every queue; each once."""
    clicks = ("clicks.0", "clicks.1", "clicks.2", "clicks.3")
    assert choose_queues(TOPOLOGY, []) == (*clicks, "orders.0", "orders.1", "plain")
    assert choose_queues(TOPOLOGY, ["clicks", "clicks.2"]) == clicks
    assert choose_queues(TOPOLOGY, ["clicks.2-3", "plain"]) == ("clicks.2", "clicks.3", "plain")


@pytest.mark.parametrize("word", ["clicks.4", "clicks.2-4", "plain.0"])
def test_a_partition_that_is_not_there_is_refused_with_those_that_are(word: str) -> None:
    """The sentence shows how they are named."""
    with pytest.raises(
        ConfigurationError, match=r"no such queue.* clicks \(clicks\.0-3\), orders \(orders\.0-1\), plain"
    ):
        choose_queues(TOPOLOGY, [word])


def test_a_worker_needs_the_exchange_before_its_partitions() -> None:
    """And not that of others."""
    found = needed(TOPOLOGY, ["clicks.1"])
    assert [spec.name for spec in found.exchanges] == ["clicks.hash"]
    assert {spec.name for spec in found.queues} == {"clicks.1", "shop.dead"}
    assert needed(TOPOLOGY, ["plain"]).exchanges == ()


def test_the_banner_says_where_partitions_are_fed_from() -> None:
    """And where their dead letters go."""
    text = banner(WorkerPlan("shop:app", ("clicks.1",)), TOPOLOGY, [], "solo", "1")
    assert "exchange=clicks.hash(x-consistent-hash)" in text
    assert "dead letters: shop.dead" in text


def test_partitions_are_added_and_cancelled_while_it_runs(
    app: App, start: Any, broker: MemoryBroker, until: Until
) -> None:
    """All, one or some, by the words of `-Q`."""
    worker = start("plain")
    until(lambda: broker.queues()["plain"].consumers == 1)

    def consumed() -> list[str]:
        return [name for name, state in broker.queues().items() if name.startswith("clicks.") and state.consumers]

    assert "did you mean 'clicks'?" in told(app, "add_consumer", queue="clicks.7")["error"]
    assert told(app, "add_consumer", queue="clicks.0-1") == {"ok": "add consumer clicks.0-1"}
    until(lambda: consumed() == ["clicks.0", "clicks.1"])
    assert told(app, "add_consumer", queue="clicks") == {"ok": "add consumer clicks"}
    until(lambda: len(consumed()) == 4)
    names = [each["name"] for each in told(app, "active_queues")]
    assert set(names) == {"plain", "clicks.0", "clicks.1", "clicks.2", "clicks.3"}
    assert told(app, "cancel_consumer", queue="clicks.3") == {"ok": "no longer consuming from clicks.3"}
    until(lambda: len(consumed()) == 3)
    assert told(app, "cancel_consumer", queue="clicks") == {"ok": "no longer consuming from clicks"}
    until(lambda: not consumed())
    assert worker.stop() is ExitCode.FINISHED


# ------------------------------------------------------------------------------------------------------------- in order


def test_one_message_of_an_ordered_partition_is_held_whatever_the_prefetch(
    app: App, start: Any, broker: MemoryBroker, gate: Gate, until: Until
) -> None:
    """Two at a time would be run beside each other; another partition is not kept waiting."""
    for user in ("ann", "bob", "eve", "dan"):
        for number in range(3):
            app.send_task("orders.hold", (number,), {"user": user}, reply="none")
    waiting = {name: broker.queues()[name].messages for name in ("orders.0", "orders.1")}
    assert all(waiting.values())
    start("orders", concurrency=4, prefetch=10)
    until(lambda: len(gate.begun) == 2)
    assert {name: broker.queues()[name].messages for name in waiting} == {n: m - 1 for n, m in waiting.items()}


def test_what_came_back_runs_where_it_stood(app: App, start: Any, broker: MemoryBroker, seen: list[int]) -> None:
    """Before what was published after it; no copy goes to the end of the queue."""
    results = [app.send_task("orders.note", (number,), {"user": "ann"}) for number in range(4)]
    die_with(broker, filled(broker, "orders"))
    worker = start("orders")
    assert [result.get(timeout=10) for result in results] == ["ann"] * 4
    assert seen == [0, 1, 2, 3]
    assert worker.stop() is ExitCode.FINISHED
    assert worker.loop.counts["suspected"] == 0


@pytest.mark.parametrize(("times", "ran"), [(IN_PLACE_LIMIT - 1, [0, 1]), (IN_PLACE_LIMIT, [1])])
def test_what_nobody_ends_is_parked_past_the_limit(
    app: App, start: Any, broker: MemoryBroker, seen: list[int], times: int, ran: list[int]
) -> None:
    """And those behind it run."""
    for number in range(2):
        app.send_task("orders.note", (number,), {"user": "ann"}, reply="none")
    last = app.send_task("orders.note", (1,), {"user": "ann"})
    queue = filled(broker, "orders")
    for _ in range(times):
        die_with(broker, queue)
    start("orders")
    last.get(timeout=10)
    assert seen == [*ran, 1]
    assert broker.queues()["shop.dead"].messages == 2 - len(ran)


def test_a_copy_that_came_by_the_name_of_the_partition_is_no_misrouted_message(
    app: App, start: Any, broker: MemoryBroker
) -> None:
    """A suspect of an unordered partition is copied into it; it was signed for the exchange."""
    result = app.send_task("clicks.note", (1,), {"user": "ann"})
    die_with(broker, filled(broker, "clicks"))
    worker = start("clicks")
    assert result.get(timeout=10) == "ann"
    assert worker.stop() is ExitCode.FINISHED
    assert worker.loop.counts["suspected"] == 1


def test_a_crash_gives_back_what_keeps_its_place_and_copies_what_does_not() -> None:
    """Past the limit both are parked."""
    assert settle(Happened.CRASHED, Case(crashes=1, in_place=True)) == CUT_OFF
    assert settle(Happened.CRASHED, Case(crashes=1)) == TRY_AGAIN
    assert Step.PARK in settle(Happened.CRASHED, Case(crashes=CRASH_LIMIT, in_place=True)).steps
