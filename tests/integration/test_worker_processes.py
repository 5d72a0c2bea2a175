"""The prefork pool with real children and no broker: start, spread, recall, crash, end."""

from __future__ import annotations

import atexit
import faulthandler
import gc
import importlib
import os
import signal
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from amqpq import App
from amqpq.errors import ConfigurationError
from amqpq.message import TaskEnvelope
from amqpq.worker.limits import Limits, Recycling
from amqpq.worker.logs import LogPlan
from amqpq.worker.pools import template
from amqpq.worker.pools.childprocess import ChildPlan, execute
from amqpq.worker.pools.forked import Template, make_template
from amqpq.worker.pools.interface import Crash
from amqpq.worker.pools.processes import ProcessPool
from amqpq.worker.reactor import Reactor
from amqpq.worker.work import RUNNING, Finished, Report, Work

APPS = Path(__file__).resolve().parents[1] / "acceptance" / "apps"
DEADLINE_SECONDS = 120.0


class Recorder:
    """Remembers what the pool tells."""

    def __init__(self) -> None:
        self.ready = False
        self.failures: list[str] = []
        self.outcomes: list[Finished] = []
        self.reports: list[Report] = []
        self.returned: list[int] = []
        self.crashes: list[Crash] = []

    def pool_ready(self) -> None:
        """The pool is complete."""
        self.ready = True

    def pool_failed(self, reason: str) -> None:
        """The pool cannot be kept up."""
        self.failures.append(reason)

    def finished(self, outcomes: Sequence[Finished]) -> None:
        """Works are done."""
        self.outcomes += outcomes

    def reported(self, report: Report) -> None:
        """A state."""
        self.reports.append(report)

    def handed_back(self, numbers: Sequence[int]) -> None:
        """Not begun."""
        self.returned += numbers

    def crashed(self, crash: Crash) -> None:
        """A child died."""
        self.crashes.append(crash)


class Bench:
    """A pool, its reactor and works for it."""

    def __init__(self, count: int, reference: str = "shop:app", *, forked: bool = False, **options: Any) -> None:
        self.app = App(APPS / "topology.yaml", environ={"SHOP_KEY": "5a" * 32})
        self.reactor = Reactor()
        self.heard = Recorder()
        plan = ChildPlan(reference, "w1@test", LogPlan("warning"), self.app.topology, **options)
        self.template = template_with(self.app) if forked else None
        self.pool = ProcessPool(plan, count, self.reactor, self.template.start if self.template else execute)
        self.waiting: deque[Work] = deque()
        self._works: dict[int, Work] = {}
        self._last = 0

    def work(self, task: str, *args: Any, alone: bool = False, **envelope: Any) -> int:
        """Line up a work; return its number."""
        self._last += 1
        body, properties = self.app.codec.encode_task(
            TaskEnvelope(str(self._last), f"shop.{task}", args, **envelope), exchange="", key="default"
        )
        work = self._works[self._last] = Work(self._last, "default", body, properties, "", "default", False, alone)
        self.waiting.append(work)
        return self._last

    def until(self, condition: Callable[[], object]) -> None:
        """Turn the loop until something is true."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            self.reactor.turn(0.05)
            self.pool.offer(self.waiting)

    def finish(self, count: int) -> None:
        """Turn the loop until so many are done.

        What a child hands back, because it was not heard of for a moment on a busy machine, is given out again, as the loop
        of a worker does.
        """

        def finished() -> bool:
            self.waiting.extend(self._works[number] for number in self.heard.returned)
            self.heard.returned.clear()
            return len(self.heard.outcomes) >= count

        self.until(finished)

    def done(self) -> list[int]:
        """Numbers of finished works."""
        return [outcome.number for outcome in self.heard.outcomes]


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def template_with(app: App) -> Template:
    """A process that has loaded the applications; a fork of this one, but for what pytest does at its end."""
    for name in ("shop", "timed"):
        host = importlib.import_module(name).app
        if not host.has_topology:
            host.topology = app.topology
    made = make_template()
    gc.unfreeze()
    return made


@pytest.fixture(params=["anew", "forked"])
def benches(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Callable[..., Bench]]:
    """Makes pools that are started, and killed at the end: of children that are started anew, and of forks."""
    forked = request.param == "forked"
    if forked:

        def serve_plainly(orders: socket.socket) -> None:
            atexit._clear()
            faulthandler.disable()
            serve(orders)

        serve = template.serve
        monkeypatch.setattr(template, "serve", serve_plainly)
        for name in ("shop", "timed"):
            monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(APPS), *sys.path])
    monkeypatch.setenv("SHOP_KEY", "5a" * 32)
    made: list[Bench] = []

    def make(count: int = 2, reference: str = "shop:app", *, wait: bool = True, **options: Any) -> Bench:
        bench = Bench(count, reference, forked=forked, **options)
        made.append(bench)
        bench.pool.start(bench.heard)
        if wait:
            bench.until(lambda: bench.heard.ready)
        return bench

    yield make
    for bench in made:
        bench.pool.kill()
        if bench.template is not None:
            bench.template.close()
        bench.reactor.close()


def test_works_are_run_by_all_children(benches: Any, tmp_path: Path) -> None:
    """Two tasks that wait run at the same time, in two processes that are not this one."""
    bench = benches(2)
    bench.work("hold", str(tmp_path), "a")
    bench.work("hold", str(tmp_path), "b")
    bench.until(lambda: len(list(tmp_path.glob("*.begun.*"))) == 2)
    pids = {int(path.suffix[1:]) for path in tmp_path.glob("*.begun.*")}
    assert pids == set(bench.pool.pids)
    (tmp_path / "open").touch()
    bench.until(lambda: len(bench.done()) == 2)


def test_many_short_works_are_all_done_once(benches: Any) -> None:
    """Batches lose nothing and double nothing."""
    bench = benches(2)
    numbers = [bench.work("add", number, 1) for number in range(1000)]
    works = {work.number: work for work in bench.waiting}

    def all_done() -> bool:
        # A child that is held up is asked for what it has not begun, and that goes to whoever is free.
        bench.waiting.extendleft(works[number] for number in reversed(bench.heard.returned))
        bench.heard.returned.clear()
        return len(bench.heard.outcomes) >= len(numbers)

    bench.until(all_done)
    assert sorted(bench.done()) == numbers
    assert {outcome.happened for outcome in bench.heard.outcomes} == {"succeeded"}
    assert bench.pool.depth > 1, "short tasks are given out in batches"


def test_a_stopped_pool_is_gone(benches: Any) -> None:
    """Idle children end by themselves when the parent hangs up."""
    bench = benches(2)
    pids = bench.pool.pids
    bench.pool.stop()
    assert all(gone(pid) for pid in pids)


def test_an_application_that_does_not_load_is_reported(benches: Any) -> None:
    """The reason is the child's own error."""
    bench = benches(1, "shop_that_is_not_there:app", wait=False)
    bench.until(lambda: bench.heard.failures)
    assert "No module named 'shop_that_is_not_there'" in bench.heard.failures[0]


def test_a_crash_names_the_work_and_the_pool_recovers(benches: Any, tmp_path: Path) -> None:
    """The one that ran is told from those that waited behind it; a new child takes over."""
    bench = benches(1)
    (first,) = bench.pool.pids
    number = bench.work("hold", str(tmp_path), "victim")
    bench.until(lambda: list(tmp_path.glob("victim.*")))
    os.kill(first, signal.SIGKILL)
    bench.until(lambda: bench.heard.crashes)
    (crash,) = bench.heard.crashes
    assert (crash.number, crash.stage, crash.others) == (number, RUNNING, ())
    assert "SIGKILL" in crash.how
    assert (crash.remains.signal, crash.remains.exit_code) == ("SIGKILL", None)
    assert crash.remains.peak_bytes > 10 * 2**20
    bench.work("add", 1, 1)
    bench.until(lambda: bench.done() == [2])
    assert bench.pool.pids != (first,)


def test_a_broken_interpreter_leaves_its_stack(benches: Any) -> None:
    """A segmentation fault logs nothing; the stack shows which line of which task it was."""
    bench = benches(1)
    bench.work("break_interpreter")
    bench.until(lambda: bench.heard.crashes)
    remains = bench.heard.crashes[0].remains
    assert remains.signal == "SIGSEGV"
    assert "Segmentation fault" in remains.fault
    assert "in break_interpreter" in remains.fault


def test_what_waits_behind_a_task_that_turns_out_long_comes_back(benches: Any, tmp_path: Path) -> None:
    """The parent asks a silent child for what it has not begun; the running task is not disturbed."""
    bench = benches(1)
    for number in range(300):
        bench.work("add", number, 0)
    bench.finish(300)
    assert bench.pool.depth > 3
    long = bench.work("hold", str(tmp_path), "long")
    behind = [bench.work("add", 1, 1) for _ in range(3)]
    bench.pool.offer(bench.waiting)
    bench.until(lambda: sorted(bench.heard.returned) == behind)
    assert not bench.heard.crashes
    (tmp_path / "open").touch()
    bench.until(lambda: long in bench.done())


def test_a_suspect_runs_alone(benches: Any, tmp_path: Path) -> None:
    """A work that has killed a child before shares its child with nobody."""
    bench = benches(1)
    for number in range(300):
        bench.work("add", number, 0)
    bench.finish(300)
    suspect = bench.work("hold", str(tmp_path), "suspect", alone=True)
    bench.work("add", 1, 1)
    bench.until(lambda: list(tmp_path.glob("suspect.*")))
    assert len(bench.waiting) == 1
    os.kill(bench.pool.pids[0], signal.SIGKILL)
    bench.until(lambda: bench.heard.crashes)
    assert (bench.heard.crashes[0].number, bench.heard.crashes[0].others) == (suspect, ())


def test_children_that_cannot_live_end_the_pool(benches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replacements come slower and slower, and then not at all."""
    monkeypatch.setattr("amqpq.worker.pools.processes.FAILED_STARTS", 2)
    bench = benches(1)
    bench.pool._plan = ChildPlan("shop_that_is_gone:app", "w1@test")
    os.kill(bench.pool.pids[0], signal.SIGKILL)
    bench.until(lambda: bench.heard.failures)
    assert "No module named 'shop_that_is_gone'" in bench.heard.failures[0]


def test_a_task_over_its_hard_limit_is_killed_and_named(benches: Any, tmp_path: Path) -> None:
    """The pool says that it was the limit, not a crash; what the task started dies too, and a new child takes over."""
    bench = benches(1, "timed:app")
    (first,) = bench.pool.pids
    number = bench.work("stubborn", str(tmp_path))
    bench.until(lambda: bench.heard.crashes)
    (crash,) = bench.heard.crashes
    assert (crash.number, crash.stage, crash.others, crash.overran) == (number, RUNNING, (), 1.0)
    assert (tmp_path / "told").exists(), "the soft limit came before"
    (started,) = tmp_path.glob("stubborn.begun.*")
    bench.until(lambda: gone(int(started.suffix[1:])))
    bench.work("tidy")
    bench.until(lambda: bench.done() == [2])
    assert bench.pool.pids != (first,)


def test_the_word_of_the_call_counts_before_the_worker_s(benches: Any, tmp_path: Path) -> None:
    """A worker's limit is for tasks that nobody else has limited."""
    bench = benches(2, limits=Limits(hard=0.3))
    patient = bench.work("hold", str(tmp_path), "patient", timelimit=(100.0, None))
    hasty = bench.work("hold", str(tmp_path), "hasty")
    bench.until(lambda: bench.heard.crashes)
    assert (bench.heard.crashes[0].number, bench.heard.crashes[0].overran) == (hasty, 0.3)
    (tmp_path / "open").touch()
    bench.until(lambda: bench.done() == [patient])


def test_what_waits_behind_a_task_that_is_killed_for_its_limit_comes_back(benches: Any, tmp_path: Path) -> None:
    """Only the one that was over its limit is lost."""
    bench = benches(1)
    for number in range(300):
        bench.work("add", number, 0)
    bench.finish(300)
    long = bench.work("hold", str(tmp_path), "long", timelimit=(0.2, None))
    behind = [bench.work("add", 1, 1) for _ in range(3)]
    bench.until(lambda: bench.heard.crashes)
    (crash,) = bench.heard.crashes
    assert (crash.number, crash.overran) == (long, 0.2)
    again = [*bench.heard.returned, *crash.others]
    assert sorted(again + bench.done()[300:] + [work.number for work in bench.waiting]) == behind


@pytest.mark.parametrize("task", ["nap", "nap_later", "spin_later"])
def test_a_soft_limit_is_raised_in_the_task(benches: Any, task: str) -> None:
    """In one that waits in a system call, on an event loop, or computes on one; the child lives on."""
    bench = benches(1)
    pids = bench.pool.pids
    bench.work(task, 600.0, 1, timelimit=(None, 0.1))
    bench.until(lambda: bench.heard.outcomes)
    (outcome,) = bench.heard.outcomes
    assert (outcome.happened, outcome.cause) == ("failed", "failed")
    assert outcome.reason == "SoftTimeLimitExceeded: the task ran longer than its soft time limit of 0.1 s"
    bench.work("add", 1, 1)
    bench.until(lambda: len(bench.done()) == 2)
    assert bench.heard.outcomes[1].happened == "succeeded"
    assert bench.pool.pids == pids


def test_short_tasks_under_limits_are_not_disturbed(benches: Any) -> None:
    """A thousand tasks, each with both limits, all succeed in the child they began in."""
    bench = benches(2, limits=Limits(hard=20.0, soft=10.0))
    pids = bench.pool.pids
    for number in range(1000):
        bench.work("add", number, 1)
    bench.finish(1000)
    assert {outcome.happened for outcome in bench.heard.outcomes} == {"succeeded"}
    assert bench.pool.pids == pids


def test_a_child_is_replaced_after_its_number_of_tasks(benches: Any) -> None:
    """Nothing is lost or done twice, no child dies of it, and each runs as many as it may and no more."""
    bench = benches(2, recycling=Recycling(tasks=7))
    numbers = [bench.work("whoami", reply_to="amqpq.reply.1") for _ in range(50)]
    bench.finish(50)
    assert sorted(bench.done()) == numbers
    assert {outcome.happened for outcome in bench.heard.outcomes} == {"succeeded"}
    assert not bench.heard.crashes
    counts = Counter(bench.app.codec.decode_result(*reply_of(outcome)).result for outcome in bench.heard.outcomes)
    assert max(counts.values()) == 7
    bench.pool.stop()
    assert all(gone(int(str(pid))) for pid in counts)


def test_a_child_that_has_grown_is_replaced(benches: Any) -> None:
    """It hands back what it has not begun, ends in order, and another goes on."""
    bench = benches(1, "timed:app", recycling=Recycling(memory_bytes=200 * 2**20))
    (first,) = bench.pool.pids
    bench.work("grow", 1)
    bench.until(lambda: len(bench.done()) == 1)
    assert bench.pool.pids == (first,)
    bench.work("grow", 250)
    bench.until(lambda: len(bench.done()) == 2)
    bench.until(lambda: bench.pool.pids != (first,))
    bench.work("grow", 1)
    bench.until(lambda: len(bench.done()) == 3)
    bench.until(lambda: gone(first))
    assert not bench.heard.crashes


def test_what_waits_in_a_child_that_has_grown_comes_back(benches: Any) -> None:
    """It begins nothing more, whatever it was given already."""
    bench = benches(1, "timed:app", recycling=Recycling(memory_bytes=200 * 2**20))
    for _ in range(300):
        bench.work("grow", 0)
    bench.finish(300)
    assert bench.pool.depth > 3
    grown = bench.work("grow", 250)
    behind = [bench.work("grow", 0) for _ in range(3)]
    bench.pool.offer(bench.waiting)
    assert not bench.waiting
    bench.until(lambda: sorted(bench.heard.returned) == behind)
    bench.until(lambda: grown in bench.done())
    assert len(bench.heard.outcomes) == 301


def test_an_application_that_is_too_large_from_the_start_is_reported(benches: Any) -> None:
    """Every task would be the last one of its child; the pool says so instead."""
    bench = benches(1, wait=False, recycling=Recycling(memory_bytes=2**20))
    bench.until(lambda: bench.heard.failures)
    assert "the application alone takes" in bench.heard.failures[0]


def test_a_pool_grows_while_its_children_are_busy(benches: Any, tmp_path: Path) -> None:
    """What waited behind a running task is begun by the new child."""
    bench = benches(1)
    bench.work("hold", str(tmp_path), "a")
    bench.work("hold", str(tmp_path), "b")
    bench.until(lambda: len(list(tmp_path.glob("*.begun.*"))) == 1)
    bench.pool.grow(1)
    assert bench.pool.size == 2
    bench.until(lambda: len(list(tmp_path.glob("*.begun.*"))) == 2)
    (tmp_path / "open").touch()
    bench.until(lambda: len(bench.done()) == 2)


def test_a_pool_shrinks_by_idle_children_first(benches: Any, tmp_path: Path) -> None:
    """The one that works is not disturbed, and gets everything from then on."""
    bench = benches(2)
    bench.work("hold", str(tmp_path), "a")
    bench.until(lambda: list(tmp_path.glob("*.begun.*")))
    busy = int(next(tmp_path.glob("*.begun.*")).suffix[1:])
    (idle,) = set(bench.pool.pids) - {busy}
    bench.pool.shrink(1)
    assert bench.pool.pids == (busy,)
    bench.until(lambda: gone(idle))
    (tmp_path / "open").touch()
    numbers = [bench.work("add", number, 1) for number in range(20)]
    bench.until(lambda: len(bench.done()) == 21)
    assert sorted(bench.done())[1:] == numbers
    assert not bench.heard.crashes


def test_a_busy_child_that_is_to_go_ends_when_it_holds_nothing(benches: Any, tmp_path: Path) -> None:
    """It gets nothing more, finishes, and nobody takes its place."""
    bench = benches(2)
    for name in "ab":
        bench.work("hold", str(tmp_path), name)
    bench.until(lambda: len(list(tmp_path.glob("*.begun.*"))) == 2)
    before = bench.pool.pids
    bench.pool.shrink(1)
    (going,) = [child for child in bench.pool._children if child.surplus]
    assert not bench.pool._takes_more(going, going.heard)
    (tmp_path / "open").touch()
    bench.until(lambda: len(bench.done()) == 2)
    bench.until(lambda: len(bench.pool.pids) == 1)
    assert set(bench.pool.pids) < set(before)
    bench.work("add", 1, 2)
    bench.until(lambda: len(bench.done()) == 3)
    assert len(bench.pool.pids) == bench.pool.size == 1
    assert not bench.heard.crashes


def test_a_child_that_was_to_go_stays_when_the_pool_grows_again(benches: Any, tmp_path: Path) -> None:
    """No process is started for what is there."""
    bench = benches(2)
    for name in "ab":
        bench.work("hold", str(tmp_path), name)
    bench.until(lambda: len(list(tmp_path.glob("*.begun.*"))) == 2)
    before = bench.pool.pids
    bench.pool.shrink(1)
    bench.pool.grow(1)
    (tmp_path / "open").touch()
    bench.until(lambda: len(bench.done()) == 2)
    assert bench.pool.pids == before


def test_a_child_that_dies_on_its_way_out_is_not_replaced(benches: Any, tmp_path: Path) -> None:
    """The pool has the size that it was told."""
    bench = benches(2)
    for name in "ab":
        bench.work("hold", str(tmp_path), name)
    bench.until(lambda: len(list(tmp_path.glob("*.begun.*"))) == 2)
    bench.pool.shrink(1)
    (going,) = [child.process.pid for child in bench.pool._children if child.surplus]
    os.kill(going, signal.SIGKILL)
    bench.until(lambda: bench.heard.crashes)
    (tmp_path / "open").touch()
    bench.until(lambda: len(bench.done()) == 1)
    bench.work("add", 1, 2)
    bench.until(lambda: len(bench.done()) == 2)
    assert len(bench.pool.pids) == 1


def test_one_child_must_stay(benches: Any) -> None:
    """A pool of none would take work and never run it."""
    bench = benches(2)
    with pytest.raises(ConfigurationError, match="cannot shrink by 2: at least one must be able to run"):
        bench.pool.shrink(2)
    assert len(bench.pool.pids) == 2


def reply_of(outcome: Finished) -> tuple[bytes, Any]:
    """Body and properties of the result."""
    assert outcome.reply is not None
    return outcome.reply.body, outcome.reply.properties
