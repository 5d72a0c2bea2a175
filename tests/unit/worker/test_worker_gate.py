"""Limits on the in-memory broker: the real loop, two of them where workers have to agree; and the gate with a given clock."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from amqpq import App
from amqpq.errors import ConfigurationError, UnknownTask
from amqpq.testing.memory import MemoryBroker, declare_topology, memory_link
from amqpq.topology import load
from amqpq.topology.permits import slot_of
from amqpq.types import Delivery, Properties, Publication
from amqpq.worker import permits
from amqpq.worker.gate import Gate
from amqpq.worker.jobs import Jobs
from amqpq.worker.loop import ExitCode
from amqpq.worker.permits import PermitQueue, Permits
from amqpq.worker.pools.interface import Crash
from amqpq.worker.reactor import Reactor
from amqpq.worker.slots import check_keys
from amqpq.worker.work import RUNNING
from tests.support.lab import answer

Until = Callable[[Callable[[], object]], None]

KEY = {"SIGN_KEY": "5a" * 32}
TOPOLOGY: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "queues": {"default": {}},
    "security": {"signing": {"algorithm": "hmac-sha256", "key": "env:SIGN_KEY", "key_id": "shop"}},
    "limits": {
        "report.*": {"concurrency": 3},
        "crm.*": {"concurrency": 1, "key": "customer", "slots": 8},
        "web.*": {"rate": "120/m"},
    },
}
REPORTS = "shop.permits.report.*.3"
WEB = "shop.permits.web.*.120-per-m.1"
QUEUES = {"queues": ("default",), "concurrency": 4}


@pytest.fixture
def app(broker: MemoryBroker, gate: Any) -> Iterator[App]:
    """An application whose tasks have limits; its topology is on the broker."""
    application = App(TOPOLOGY, environ=KEY, link=memory_link(broker))

    @application.task(name="shop.add")
    def add(x: int, y: int) -> int:
        return x + y

    @application.task(name="shop.hold")
    def hold(who: object) -> object:
        return gate.wait(who)

    @application.task(name="shop.rated", rate_limit="1/h")
    def rated(x: int) -> int:
        return x

    @application.task(name="report.make")
    def make(who: object) -> object:
        return gate.wait(who)

    @application.task(name="crm.sync")
    def sync(customer: str, depth: int = 1) -> object:
        return gate.wait((customer, depth))

    @application.task(name="web.fetch")
    def fetch(url: str) -> str:
        return url

    declare_topology(broker, application.topology)
    with application:
        yield application


def wait_at(*workers: Any) -> int:
    """How many works wait at the gates of these workers."""
    return sum(worker.loop.gate.waiting for worker in workers)


# ---------------------------------------------------------------------------------------------------------- concurrency


def test_two_workers_keep_a_concurrency_together(
    app: App, start: Any, gate: Any, until: Until, broker: MemoryBroker
) -> None:
    """Eight could run on two workers with four threads each; three do, and the others follow as those end."""
    workers = [start(**QUEUES, prefetch=4), start(**QUEUES, prefetch=4)]
    results = [app.send_task("report.make", (number,)) for number in range(8)]
    until(lambda: len(gate.begun) == 3 and wait_at(*workers) == 5)
    assert broker.queues()[REPORTS].messages == 0
    gate.opened.set()
    assert sorted(result.get(timeout=10) for result in results) == list(range(8))
    until(lambda: broker.queues()[REPORTS].messages == 3)


def test_other_tasks_of_the_queue_pass(app: App, start: Any, gate: Any, until: Until) -> None:
    """What waits for a permit holds back nobody who needs none."""
    worker = start(**QUEUES, prefetch=20)
    for number in range(6):
        app.send_task("report.make", (number,), reply="none")
    until(lambda: len(gate.begun) == 3 and wait_at(worker) == 3)
    assert app.send_task("shop.add", (2, 3)).get(timeout=10) == 5
    assert wait_at(worker) == 3


def test_one_at_a_time_for_each_value_of_the_key(app: App, start: Any, gate: Any, until: Until) -> None:
    """By position or by keyword, on whichever worker; another value does not wait."""
    workers = [start(**QUEUES, prefetch=3), start(**QUEUES, prefetch=3)]
    assert slot_of("ann", 8) != slot_of("bob", 8)
    app.send_task("crm.sync", ("ann", 1), reply="none")
    until(lambda: gate.begun == [("ann", 1)])
    app.send_task("crm.sync", (), {"customer": "ann", "depth": 2}, reply="none")
    app.send_task("crm.sync", ("ann",), {"depth": 3}, reply="none")
    app.send_task("crm.sync", (), {"customer": "bob"}, reply="none")
    until(lambda: ("bob", 1) in gate.begun and wait_at(*workers) == 2)
    assert gate.begun == [("ann", 1), ("bob", 1)]
    gate.opened.set()
    until(lambda: len(gate.begun) == 4 and not wait_at(*workers))


def test_a_message_that_is_not_for_reading_is_refused_by_the_pool(
    app: App, start: Any, broker: MemoryBroker, until: Until
) -> None:
    """A forged body is not decoded to find its key; its cause in the dead letters is the forgery."""
    app.send_task("crm.sync", ("ann",), reply="none")
    delivery = answer(broker.connect().channel().get("default", no_ack=True))
    assert delivery is not None
    forged = Publication("", "default", delivery.body.replace(b"ann", b"eve"), delivery.properties)
    answer(broker.connect().channel().publish([forged]))
    start(**QUEUES)
    until(lambda: broker.queues()["shop.dead"].messages)
    (letter,) = broker.messages("shop.dead")
    assert letter.properties.headers["amqpq-cause"] == "forged"


def test_arguments_that_do_not_fit_are_refused_by_the_pool(
    app: App, start: Any, broker: MemoryBroker, until: Until
) -> None:
    """There is no key to be found in them, and the task fails as it would without a limit."""
    start(**QUEUES)
    app.send_task("crm.sync", (), {"costumer": "ann"}, reply="none")
    until(lambda: broker.queues()["shop.dead"].messages)
    (letter,) = broker.messages("shop.dead")
    assert "costumer" in letter.properties.headers["amqpq-reason"]


def test_a_task_without_the_key_is_found_at_the_start() -> None:
    """The worker says which argument was probably meant."""
    app = App(TOPOLOGY, environ=KEY, link=memory_link(MemoryBroker()))

    @app.task(name="crm.drop")
    def drop(customers: list[str]) -> None:
        del customers

    with pytest.raises(ConfigurationError, match=r"'crm.drop' has none of that name \(did you mean 'customers'\?\)"):
        check_keys(app.topology, app.registry)


# ------------------------------------------------------------------------------------------------- what may go wrong


def test_the_permits_of_a_lost_connection_are_asked_for_again(
    app: App, start: Any, gate: Any, until: Until, broker: MemoryBroker
) -> None:
    """They are the broker's at once, and count again, as long as their tasks run, when the worker is back."""
    worker = start(**QUEUES)
    results = [app.send_task("report.make", (number,)) for number in range(2)]
    until(lambda: len(gate.begun) == 2 and broker.queues()[REPORTS].messages == 1)
    broker.kill_connections()
    until(lambda: worker.loop.counts["handed over"] == 2 and broker.queues()[REPORTS].messages == 1)
    gate.opened.set()
    assert [result.get(timeout=10) for result in results] == [0, 1]
    until(lambda: broker.queues()[REPORTS].messages == 3)
    assert sorted(gate.begun) == [0, 1], "nothing ran twice"


def test_what_waits_when_the_connection_is_lost_runs_once(
    app: App, start: Any, gate: Any, until: Until, broker: MemoryBroker
) -> None:
    """It is let go of, and comes again with its redelivery."""
    worker = start(**QUEUES)
    results = [app.send_task("report.make", (number,)) for number in range(5)]
    until(lambda: len(gate.begun) == 3 and wait_at(worker) == 2)
    broker.kill_connections()
    until(lambda: worker.loop.counts["handed over"] == 3 and wait_at(worker) == 2)
    gate.opened.set()
    assert [result.get(timeout=10) for result in results] == [0, 1, 2, 3, 4]
    assert sorted(gate.begun) == [0, 1, 2, 3, 4]
    assert worker.stop() is ExitCode.FINISHED


def test_what_a_dead_worker_held_keeps_to_the_limit(
    app: App, start: Any, gate: Any, until: Until, broker: MemoryBroker
) -> None:
    """It comes back all at once, and is marked and copied as suspect; it needs permits like everything else."""
    for number in range(6):
        app.send_task("report.make", (number,), reply="none")
    dead = broker.connect()
    channel = dead.channel()
    for _ in range(6):
        answer(channel.get("default"))
    answer(dead.close())
    worker = start(queues=("default",), concurrency=6, prefetch=20)
    until(lambda: len(gate.begun) == 3 and wait_at(worker) == 3)
    gate.opened.set()
    until(lambda: len(gate.begun) == 6)


def test_what_waits_is_given_back_at_once_when_the_worker_stops(
    app: App, start: Any, gate: Any, until: Until, broker: MemoryBroker
) -> None:
    """It was not begun; what runs keeps its permit to its end."""
    worker = start(**QUEUES)
    for number in range(5):
        app.send_task("report.make", (number,), reply="none")
    until(lambda: len(gate.begun) == 3 and wait_at(worker) == 2)
    worker.signal()
    until(lambda: broker.queues()["default"].messages == 2)
    assert broker.queues()[REPORTS].messages == 0
    assert worker.running
    gate.opened.set()
    assert worker.wait() is ExitCode.FINISHED
    assert broker.queues()[REPORTS].messages == 3


def test_a_crash_gives_the_permit_back(app: App, start: Any, gate: Any, until: Until, broker: MemoryBroker) -> None:
    """The task is tried again, and needs a permit like any other."""
    worker = start(**QUEUES)
    app.send_task("report.make", ("crashing",), reply="none")
    until(lambda: gate.begun)
    crash = Crash(1, RUNNING, "child 7 was killed by SIGKILL", ())
    worker.reactor.post(lambda _: worker.loop.crashed(crash))
    until(lambda: len(gate.begun) == 2 and broker.queues()[REPORTS].messages == 2)


def test_a_missing_permit_queue_is_waited_for(
    app: App, start: Any, broker: MemoryBroker, until: Until, caplog: Any, monkeypatch: Any
) -> None:
    """Tasks wait, the log has the remedy, and `apply` gets them going."""
    monkeypatch.setattr(permits, "PAUSE_SECONDS", 0.01)
    answer(broker.connect().channel().delete_queue(WEB))
    worker = start(**QUEUES)
    result = app.send_task("web.fetch", ("a",))
    with caplog.at_level(logging.WARNING):
        until(lambda: "`amqpq topology apply` creates it" in caplog.text)
    assert wait_at(worker) == 1
    declare_topology(broker, app.topology)
    assert result.get(timeout=10) == "a"


def test_a_queue_that_is_made_anew_counts_what_runs(
    app: App, start: Any, gate: Any, until: Until, broker: MemoryBroker, monkeypatch: Any
) -> None:
    """Deleting a permit queue and applying again is how lost permits are repaired, also while tasks run."""
    monkeypatch.setattr(permits, "PAUSE_SECONDS", 0.01)
    worker = start(**QUEUES)
    for number in range(4):
        app.send_task("report.make", (number,), reply="none")
    until(lambda: len(gate.begun) == 3 and broker.queues()[REPORTS].consumers)
    answer(broker.connect().channel().delete_queue(REPORTS))
    declare_topology(broker, app.topology)
    until(lambda: broker.queues()[REPORTS].messages == 0)
    assert wait_at(worker) == 1


def test_a_permit_without_a_place_goes_to_another_worker(
    app: App, start: Any, gate: Any, until: Until, monkeypatch: Any
) -> None:
    """A pool full of long tasks does not sit on permits that an idle one could use."""
    monkeypatch.setattr(permits, "UNUSED_SECONDS", 0.05)
    monkeypatch.setattr(permits, "REST_SECONDS", 30.0)
    busy = start(queues=("default",), concurrency=1, prefetch=4)
    app.send_task("shop.hold", ("long",), reply="none")
    until(lambda: gate.begun == ["long"])
    for number in range(3):
        app.send_task("report.make", (number,), reply="none")
    until(lambda: wait_at(busy) == 3)
    start(queues=("default",), concurrency=4, prefetch=20)
    for number in range(3, 6):
        app.send_task("report.make", (number,), reply="none")
    until(lambda: sorted(gate.begun[1:]) == [3, 4, 5])
    assert wait_at(busy) == 3


# --------------------------------------------------------------------------------------------------------- rate limits


def test_a_rate_limit_holds_a_task_back_and_can_be_taken_away(app: App, start: Any, until: Until) -> None:
    """One in an hour; until somebody says otherwise, while they wait."""
    worker = start(**QUEUES)
    results = [app.send_task("shop.rated", (number,)) for number in range(4)]
    until(lambda: wait_at(worker) == 3)
    assert results[0].get(timeout=10) == 0
    assert worker.loop.gate.describe()["rates"] == {"shop.rated": "1/h"}
    worker.reactor.post(lambda _: worker.loop.gate.set_rate_limit("shop.rated", None))
    assert [result.get(timeout=10) for result in results[1:]] == [1, 2, 3]


def test_a_rate_limit_can_be_set_on_a_task_that_has_none(app: App, start: Any, until: Until) -> None:
    """From then on."""
    worker = start(**QUEUES)
    worker.reactor.post(lambda _: worker.loop.gate.set_rate_limit("shop.add", "1/h"))
    results = [app.send_task("shop.add", (number, 1)) for number in range(3)]
    assert results[0].get(timeout=10) == 1
    until(lambda: wait_at(worker) == 2)


@pytest.mark.usefixtures("app")
def test_a_wrong_rate_limit_is_refused(start: Any) -> None:
    """An unknown task with the one that was probably meant, a wrong rate with the way to write one."""
    gate = start(**QUEUES).loop.gate
    with pytest.raises(UnknownTask, match=r"did you mean 'shop\.rated'"):
        gate.set_rate_limit("shop.rate", "1/s")
    with pytest.raises(ConfigurationError, match="is not a rate"):
        gate.set_rate_limit("shop.rated", "often")


# ------------------------------------------------------------------------------------------- the gate, with a given clock


class Lane:
    """A connection that is there."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.connection = broker.connect()


class Bench:
    """A gate, with a clock that the test sets, and a pool that is as large as the test says."""

    def __init__(self, app: App, broker: MemoryBroker, clock: Callable[[], float], **options: Any) -> None:
        self.reactor = Reactor(clock)
        self.gate = Gate(app, Lane(broker), self.reactor, options.pop("prefetch", 100), **options)
        self._jobs = Jobs(clock)

    def arrive(self, task: str, *args: object) -> int | None:
        """Bring a task to the gate; its number, or None where it passes by."""
        properties = Properties(headers={"task": task, "id": "1"})
        tap: Any = type("Tap", (), {"queue": "default"})()
        job = self._jobs.open(tap, Delivery(repr(args).encode(), properties, "", "default", False, 1))
        return job.number if self.gate.hold(job) else None

    def pass_(self, room: int = 10, before: int | None = None) -> list[int]:
        """Let the loop turn; return the numbers of works that have passed."""
        self.reactor.turn(0.002)
        self.gate.let_through(room, before)
        numbers = [work.number for work in self.gate.passed]
        self.gate.passed.clear()
        return numbers


@pytest.fixture
def now() -> list[float]:
    """The clock's hand."""
    return [1000.0]


@pytest.fixture
def bench(app: App, broker: MemoryBroker, now: list[float]) -> Iterator[Callable[..., Bench]]:
    """Makes gates."""
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(app, broker, lambda: now[0], **options))
        return made[-1]

    yield make
    for each in made:
        each.reactor.close()


def test_what_has_no_limit_passes_by(bench: Callable[..., Bench]) -> None:
    """So does a name that nobody here knows: it is refused anyway."""
    gate = bench()
    assert gate.arrive("shop.add") is None
    assert gate.arrive("report.unknown") is None
    assert gate.arrive("report.make") is not None


def test_tasks_begin_when_their_rate_says(bench: Callable[..., Bench], now: list[float]) -> None:
    """One in an hour: the second an hour after the first."""
    gate = bench()
    first, second = gate.arrive("shop.rated"), gate.arrive("shop.rated")
    assert gate.pass_() == [first]
    now[0] += 3599.0
    assert gate.pass_() == []
    now[0] += 1.0
    assert gate.pass_() == [second]


def test_all_gates_together_keep_a_rate(bench: Callable[..., Bench], now: list[float], until: Until) -> None:
    """120 in a minute: one permit, which is held for half a second, by whoever has it."""
    left, right = bench(), bench()
    for _ in range(3):
        left.arrive("web.fetch", "a")
        right.arrive("web.fetch", "b")
    passed: list[str] = []

    def turn() -> None:
        passed.extend("left" for _ in left.pass_())
        passed.extend("right" for _ in right.pass_())

    for count in range(1, 7):

        def more(count: int = count) -> bool:
            turn()
            return len(passed) == count

        until(more)
        for _ in range(4):
            turn()
        assert len(passed) == count, "nobody else begins before the permit is back"
        now[0] += 0.49
        turn()
        assert len(passed) == count
        now[0] += 0.02
    assert passed.count("left") == passed.count("right") == 3, "in turn"


def test_nothing_passes_before_the_pool_has_a_place(bench: Callable[..., Bench]) -> None:
    """What has passed has begun; and what arrived later is held up until a place comes."""
    gate = bench()
    number = gate.arrive("shop.rated")
    assert gate.gate.let_through(0, None)
    assert gate.gate.let_through(0, 5)
    assert not gate.gate.passed
    assert not gate.gate.let_through(1, 1)
    assert not gate.gate.passed, "what arrived before goes first"
    assert gate.pass_(room=1) == [number]


def test_works_that_wait_beyond_half_of_the_prefetch_overflow(bench: Callable[..., Bench], caplog: Any) -> None:
    """They are offered with about the time they would wait; those that nobody takes stay, and the log says so once."""
    offered: list[tuple[int, float]] = []

    def take_even(job: Any, seconds: float) -> bool:
        offered.append((job.number, round(seconds)))
        return job.number % 2 == 0

    gate = bench(prefetch=4, overflow=take_even)
    for _ in range(5):
        gate.arrive("shop.rated")
    assert offered == [(3, 7200), (4, 10800), (5, 14400)]
    assert gate.gate.waiting == 4
    assert caplog.text.count("more than half of the prefetch of queue default waits for limits") == 1


def test_a_gate_describes_itself(bench: Callable[..., Bench]) -> None:
    """For `inspect`: plain data."""
    gate = bench()
    gate.arrive("report.make")
    gate.pass_(room=0)
    described = gate.gate.describe()
    assert described["waiting"] == 1
    assert described["rates"] == {"shop.rated": "1/h"}
    assert described["limits"] == {"crm.sync": "crm.*", "report.make": "report.*", "web.fetch": "web.*"}
    assert described["rows"] == [{"task": "report.make", "waiting": 1, "permits": REPORTS}]
    assert described["permits"][REPORTS]["wait"] == 1


def test_permits_that_never_come_are_worth_a_warning(broker: MemoryBroker, now: list[float], caplog: Any) -> None:
    """An apply that was killed between creating a queue and filling it is found in the log, with the repair."""
    topology = load(TOPOLOGY, environ=KEY)
    declare_topology(broker, topology)
    answer(broker.connect().channel().purge_queue(REPORTS))
    reactor = Reactor(lambda: now[0])
    lines = Permits(Lane(broker), reactor)
    lines.want({PermitQueue(REPORTS, 3): 2})
    now[0] += 601.0
    reactor.turn(0)
    reactor.close()
    assert f"2 works wait for a permit of {REPORTS}, and none came for 600 s" in caplog.text
    assert "delete that queue, and `amqpq topology apply` makes it anew with its 3 permits" in caplog.text
