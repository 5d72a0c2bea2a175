"""The size of a pool while it works: growing, shrinking, and following the work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq import App
from amqpq.errors import ConfigurationError
from amqpq.testing.memory import MemoryBroker
from amqpq.types import Properties
from amqpq.worker.autoscale import IDLE_SECONDS, Lull, Scale, Sizing, decide
from amqpq.worker.execute import Executor
from amqpq.worker.loop import ExitCode
from amqpq.worker.plan import choose_scale
from amqpq.worker.pools.childprocess import ChildPlan
from amqpq.worker.pools.hubpool import HubPool
from amqpq.worker.pools.interface import Pool
from amqpq.worker.pools.threads import SoloPool
from amqpq.worker.reactor import Reactor
from amqpq.worker.work import Finished, Work

SCALE = Scale(10, 2)

# ---------------------------------------------------------------------------------------------------------- the decision


def test_it_grows_at_once_to_what_is_needed() -> None:
    """Tasks that wait are reason enough."""
    assert decide(SCALE, 4, 6, None, 0.0) == (6, None)


def test_it_doubles_at_most() -> None:
    """A burst does not start everything there is."""
    assert decide(SCALE, 2, 500, None, 0.0)[0] == 4


def test_it_does_not_shrink_before_the_time() -> None:
    """A pause between two bursts costs no processes."""
    size, lull = decide(SCALE, 8, 1, None, 0.0)
    assert (size, lull) == (8, Lull(0.0, 1))
    assert decide(SCALE, 8, 3, lull, IDLE_SECONDS - 1) == (8, Lull(0.0, 3))


def test_it_shrinks_to_the_most_that_was_needed_meanwhile() -> None:
    """Not to what is needed in the moment of the look."""
    assert decide(SCALE, 8, 1, Lull(0.0, 5), IDLE_SECONDS)[0] == 5
    assert decide(SCALE, 8, 0, Lull(0.0, 0), IDLE_SECONDS)[0] == 2


def test_being_busy_ends_a_lull() -> None:
    """The time begins anew."""
    assert decide(SCALE, 8, 8, Lull(0.0, 1), 29.0) == (8, None)


@given(
    most=st.integers(1, 50),
    fewest=st.integers(1, 50),
    looks=st.lists(st.tuples(st.integers(0, 100), st.floats(0.1, 60)), max_size=30),
)
def test_the_bounds_hold_whatever_comes(most: int, fewest: int, looks: list[tuple[int, float]]) -> None:
    """Never more, never fewer, and a pool that is needed whole never shrinks."""
    scale = Scale(max(most, fewest), min(most, fewest))
    size, lull, now = scale.fewest, None, 0.0
    for demand, seconds in looks:
        now += seconds
        before = size
        size, lull = decide(scale, size, demand, lull, now)
        assert scale.fewest <= size <= scale.most
        assert size >= before or demand < before


class Sized:
    """A pool that has a size and nothing else."""

    name = "sized"

    def __init__(self, size: int) -> None:
        self.size = size

    def grow(self, count: int) -> None:
        """Grow."""
        self.size += count

    def shrink(self, count: int) -> None:
        """Shrink."""
        self.size -= count


class Holding:
    """An intake that has a prefetch and nothing else."""

    def __init__(self, prefetch: int) -> None:
        self.prefetch = prefetch

    def resize(self, prefetch: int) -> None:
        """Note it."""
        self.prefetch = prefetch


def test_the_autoscaler_looks_every_second_and_acts() -> None:
    """It grows while there is demand, and shrinks when there has been none for long enough."""
    now = [0.0]
    demand: list[int | None] = [9]
    reactor = Reactor(lambda: now[0])
    pool: Any = Sized(2)
    intake: Any = Holding(40)
    Sizing(pool, intake, SCALE, lambda: demand[0], reactor)
    sizes = []
    for second in range(1, 45):
        now[0] = float(second)
        demand[0] = 9 if second < 5 else 0 if second < 40 else None
        reactor.turn(0)
        sizes.append(pool.size)
    assert sizes[:4] == [4, 8, 9, 9]
    assert sizes[33:36] == [9, 2, 2]
    assert intake.prefetch == 40, "that of the largest size, from the start"
    reactor.close()


def test_the_bounds_can_be_changed(reactor: Reactor) -> None:
    """The pool is within the new ones at once, and the prefetch is that of the new largest size."""
    pool, intake = Sized(2), Holding(40)
    made: tuple[Any, Any] = (pool, intake)
    sizing = Sizing(*made, SCALE, lambda: 0, reactor)
    assert sizing.set_scale(20, 5) == Scale(20, 5)
    assert (pool.size, intake.prefetch) == (5, 80)
    assert sizing.set_scale(4, 1) == Scale(4, 1)
    assert (pool.size, intake.prefetch) == (4, 16)
    assert sizing.set_scale(None, 3) == Scale(4, 3)
    with pytest.raises(ConfigurationError, match="from 3 to 2 is no range"):
        sizing.set_scale(2, None)
    with pytest.raises(ConfigurationError, match="started without --autoscale"):
        Sizing(*made, None, lambda: 0, reactor).set_scale(4, 1)


@pytest.mark.parametrize(
    "pool, wanted, concurrency, sentence",
    [
        ("asyncio", "10,2", None, "asyncio has none to give; use -P prefork or threads"),
        ("prefork", "10,2", 4, "--autoscale 10,2 and -c 4 contradict each other"),
        ("prefork", "2,10", None, "use MAX,MIN"),
        ("prefork", "ten", None, "use MAX,MIN"),
        ("threads", "10,0", None, "MIN at least 1"),
    ],
)
def test_a_scale_that_makes_no_sense_is_refused(pool: str, wanted: str, concurrency: int | None, sentence: str) -> None:
    """With the reason, and what to write instead."""
    with pytest.raises(ConfigurationError, match=sentence):
        choose_scale(pool, wanted, concurrency)


def test_the_smaller_number_may_be_left_out() -> None:
    """As in Celery."""
    assert choose_scale("prefork", "8", None) == Scale(8, 1)
    assert choose_scale("threads", "10,2", None) == Scale(10, 2)
    assert choose_scale("gevent", None, 4) is None


# -------------------------------------------------------------------------------------------------- pools of this process


def test_a_worker_of_threads_grows_while_it_works(
    app: App, start: Any, gate: Any, until: Callable[..., None], broker: MemoryBroker
) -> None:
    """More run at a time, and more are held in proportion; the subscription is not lost and nothing is redelivered."""
    worker = start(concurrency=1, prefetch=1, queues=("default",))
    for number in range(6):
        app.send_task("shop.hold", (number,), reply="none")
    until(lambda: len(gate.begun) == 1)
    worker.reactor.post(lambda _: worker.loop._sizing.set_size(3))
    until(lambda: len(gate.begun) == 3)
    until(lambda: broker.queues()["default"].consumers == 1)
    gate.opened.set()
    until(lambda: worker.loop.counts["succeeded"] == 6)
    assert sorted(gate.begun) == list(range(6))
    assert worker.stop() is ExitCode.FINISHED


def test_a_worker_of_threads_shrinks_without_disturbing_what_runs(
    app: App, start: Any, gate: Any, until: Callable[..., None]
) -> None:
    """The running ones end; after that no more than the new number run at a time."""
    worker = start(concurrency=3, prefetch=12, queues=("default",))
    for number in range(3):
        app.send_task("shop.hold", (number,), reply="none")
    until(lambda: len(gate.begun) == 3)
    worker.reactor.post(lambda _: worker.loop._sizing.set_size(1))
    until(lambda: worker.loop._pool.size == 1)
    gate.opened.set()
    until(lambda: worker.loop.counts["succeeded"] == 3)
    until(lambda: sum(thread.is_alive() for thread in worker.loop._pool._threads) == 1)
    assert len(worker.loop._pool.census()) == 1
    gate.opened.clear()
    for number in (7, 8):
        app.send_task("shop.hold", (number,), reply="none")
    until(lambda: len(gate.begun) == 4 and len(worker.loop._pool._held) == 2)
    assert len(gate.begun) == 4
    worker.signal()
    gate.opened.set()
    assert worker.wait() is ExitCode.FINISHED


def test_a_pool_of_threads_that_shrinks_hands_back_what_was_not_begun(
    app: App, start: Any, gate: Any, until: Callable[..., None], broker: MemoryBroker
) -> None:
    """Also what lies behind the words that end a thread."""
    worker = start(concurrency=2, prefetch=12, queues=("default",))
    for number in range(2):
        app.send_task("shop.hold", (number,), reply="none")
    until(lambda: len(gate.begun) == 2)
    worker.reactor.post(lambda _: worker.loop._sizing.set_size(1))
    until(lambda: worker.loop._pool.size == 1)
    for number in range(2, 6):
        app.send_task("shop.hold", (number,), reply="none")
    until(lambda: len(worker.loop._pool._held) == 6)
    worker.signal()
    until(lambda: broker.queues()["default"].messages == 4)
    gate.opened.set()
    assert worker.wait() is ExitCode.FINISHED


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    """A loop for a pool without a worker."""
    made = Reactor()
    yield made
    made.close()


@pytest.mark.parametrize("change", ["grow", "shrink"])
def test_solo_keeps_its_size(app: App, reactor: Reactor, change: str) -> None:
    """There is one main thread."""
    pool = SoloPool(Executor(app, "w1@test"), reactor)
    assert pool.size == 1
    with pytest.raises(ConfigurationError, match=f"one task at a time and cannot {change}"):
        getattr(pool, change)(1)


def test_solo_is_not_busy_any_more_when_the_loop_hears_of_the_end(
    app: App, reactor: Reactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a worker that stops in that moment takes the main thread for lost, and ends without clearing up."""
    pool = SoloPool(Executor(app, "w1@test"), reactor)
    busy: list[bool] = []

    def run(work: Work, _report: object) -> Finished:
        busy.append(pool.busy)
        return Finished(work.number, "done")

    monkeypatch.setattr(reactor, "post", lambda _handler, _argument: busy.append(pool.busy))
    pool.offer(deque([Work(1, "default", b"", Properties(), "", "default", False, alone=False)]))
    pool.kill()
    monkeypatch.setattr(pool._executor, "run", run)
    pool.serve()
    assert busy == [True, False]


@pytest.mark.parametrize("name", ["asyncio", "gevent", "eventlet"])
def test_a_pool_in_one_process_changes_a_number(reactor: Reactor, name: str) -> None:
    """And not below one."""
    pool: Pool = HubPool(ChildPlan("shop:app", "w1@test", pool=name), 4, reactor)
    pool.grow(3)
    pool.shrink(5)
    assert pool.size == 2
    pool.offer(deque())
    with pytest.raises(ConfigurationError, match=f"the {name} pool runs 2 tasks at a time and cannot shrink by 2"):
        pool.shrink(2)


def test_the_size_of_an_autoscaled_worker_is_not_set_by_hand(start: Any) -> None:
    """Both at once would undo each other."""
    worker = start(concurrency=1, scale=Scale(4, 1))
    with pytest.raises(ConfigurationError, match="follows its work, between 1 and 4"):
        worker.loop._sizing.set_size(2)
