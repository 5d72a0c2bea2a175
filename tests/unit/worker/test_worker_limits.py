"""Time limits: who has the last word, what a pool keeps, what the board says."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from amqpq import App
from amqpq.clock import ManualClock
from amqpq.errors import ConfigurationError, Undecodable
from amqpq.message import TaskEnvelope
from amqpq.task import TaskOptions
from amqpq.worker.execute import Executor
from amqpq.worker.limits import (
    NO_LIMITS,
    NO_RECYCLING,
    Limits,
    Recycling,
    Timing,
    check_pool,
    limits_of_call,
    limits_of_task,
    not_kept,
)
from amqpq.worker.plan import choose_limits, choose_recycling
from amqpq.worker.pools import wire
from amqpq.worker.work import RUNNING, Finished, Work

TOPOLOGY: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "queues": {"default": {}},
    "security": {"signing": "off"},
}


class Recording:
    """A timekeeper that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def begin(self, limits: Limits) -> None:
        """A task begins."""
        self.heard.append(limits)

    def end(self) -> None:
        """It ended."""
        self.heard.append("end")

    def finish(self, coroutine: Any) -> object:
        """Run an `async def` task."""
        self.heard.append("async")
        try:
            coroutine.send(None)
        except StopIteration as end:
            return end.value
        raise AssertionError("it waited")

    def drive(self, coroutine: Any) -> Any:
        """Await it in a running loop."""
        self.heard.append("awaited")
        return coroutine


@pytest.fixture
def app() -> App:
    """Tasks with and without limits of their own."""
    made = App(TOPOLOGY)

    @made.task(name="free")
    def free() -> int:
        return 1

    @made.task(name="limited", time_limit=20, soft_time_limit=10)
    async def limited() -> int:
        return 2

    @made.task(name="boom", time_limit=20)
    def boom() -> None:
        raise ValueError

    return made


def execute(
    app: App, task: str, timing: Timing, told: tuple[float | None, float | None] | None = None, **envelope: Any
) -> Finished:
    """Run one task; `told` is what remote control has said of it."""
    body, properties = app.codec.encode_task(TaskEnvelope("1f0c", task, **envelope), exchange="", key="default")
    work = Work(7, "default", body, properties, "", "default", False, False, told)
    return Executor(app, "w1@h", clock=ManualClock(), timing=timing).run(work, lambda _reply: None)


def test_the_call_counts_before_the_task_and_the_task_before_the_worker(app: App) -> None:
    """Each limit is decided for itself."""
    keeper = Recording()
    timing = Timing("prefork", Limits(hard=99.0, soft=88.0), keeper)
    assert execute(app, "limited", timing, timelimit=(5.0, None)).happened == "succeeded"
    assert keeper.heard == [Limits(5.0, 10), "async", "end"]
    keeper.heard.clear()
    assert execute(app, "boom", timing).happened == "failed"
    assert keeper.heard == [Limits(20, 88.0), "end"]


def test_what_remote_control_has_said_stands_for_the_task(app: App) -> None:
    """Before the worker's and after the call's; without a word of its own the worker's count."""
    keeper = Recording()
    timing = Timing("prefork", Limits(hard=99.0, soft=88.0), keeper)
    execute(app, "limited", timing, told=(30.0, None), timelimit=(None, 3.0))
    execute(app, "limited", timing, told=(None, None))
    assert [heard for heard in keeper.heard if isinstance(heard, Limits)] == [Limits(30.0, 3.0), Limits(99.0, 88.0)]


def test_a_task_without_limits_costs_no_timekeeper(app: App) -> None:
    """It is not told of what nobody has limited."""
    keeper = Recording()
    assert execute(app, "free", Timing("prefork", NO_LIMITS, keeper)).happened == "succeeded"
    assert keeper.heard == []


def test_a_limit_that_the_pool_cannot_keep_refuses_the_task(app: App) -> None:
    """Running it without would look as if the limit had been kept."""
    finished = execute(app, "free", Timing("solo", NO_LIMITS, Recording()), timelimit=(5.0, 2.0))
    assert (finished.happened, finished.cause) == ("refused", "unsupported")
    assert "the solo pool cannot keep time_limit: " in finished.reason


def test_a_header_that_is_no_limit_is_refused(app: App) -> None:
    """A negative number of seconds is nonsense; 0 is Celery's word for none."""
    keeper = Recording()
    finished = execute(app, "free", Timing("prefork", NO_LIMITS, keeper), timelimit=(-1, None))
    assert (finished.happened, finished.cause) == ("refused", "undecodable")
    assert limits_of_call((0, 0)) == NO_LIMITS
    with pytest.raises(Undecodable, match="header timelimit: nan"):
        limits_of_call((None, float("nan")))


def test_limits_of_a_decorator() -> None:
    """In seconds, hard first."""
    assert limits_of_task(TaskOptions()) is NO_LIMITS
    assert limits_of_task(TaskOptions(time_limit=3, soft_time_limit=2)) == Limits(3, 2)


@pytest.mark.parametrize(
    "pool, limits, missed",
    [
        ("prefork", Limits(2, 1), ""),
        ("solo", Limits(None, 1), ""),
        ("solo", Limits(2, 1), "the solo pool cannot keep time_limit: "),
        ("threads", Limits(2, 1), "the threads pool cannot keep time_limit and soft_time_limit: "),
        ("threads", NO_LIMITS, ""),
        ("gevent", Limits(None, 1), ""),
        ("eventlet", Limits(2, None), "the eventlet pool cannot keep time_limit: "),
        ("asyncio", Limits(None, 1), "the asyncio pool cannot keep soft_time_limit: a plain function "),
    ],
)
def test_what_a_pool_cannot_keep_is_said_with_the_reason(pool: str, limits: Limits, missed: str) -> None:
    """A soft limit needs a main thread, a hard one a process of its own."""
    assert not_kept(pool, limits).startswith(missed)
    assert bool(not_kept(pool, limits)) is bool(missed)


def test_an_event_loop_keeps_the_soft_limit_of_its_own_tasks_only() -> None:
    """A coroutine can be told where it awaits, and cannot be killed."""
    assert not not_kept("asyncio", Limits(None, 1), is_async=True)
    assert "time_limit: a coroutine " in not_kept("asyncio", Limits(2, 1), is_async=True)


def test_a_worker_whose_pool_cannot_keep_a_task_s_limit_does_not_start(app: App) -> None:
    """The error names the tasks; on prefork all is well."""
    check_pool("prefork", Limits(2, 1), Recycling(3), app.registry)
    with pytest.raises(ConfigurationError, match=re.escape("(tasks: boom); the threads pool")):
        check_pool("threads", NO_LIMITS, NO_RECYCLING, app.registry)
    with pytest.raises(ConfigurationError, match="leave out --time-limit"):
        check_pool("solo", Limits(hard=2), NO_RECYCLING, app.registry)
    with pytest.raises(ConfigurationError, match="need children; use -P prefork"):
        check_pool("solo", NO_LIMITS, Recycling(3), app.registry)


def test_options_of_a_worker_are_checked() -> None:
    """A soft limit that is never reached and a size without a unit are refused."""
    assert choose_limits(2, None) == Limits(2, None)
    with pytest.raises(ConfigurationError, match="--soft-time-limit 2 is not below --time-limit 2"):
        choose_limits(2, 2)
    assert choose_recycling(5, None) == Recycling(5, None)
    assert choose_recycling(None, "20MiB") == Recycling(None, 20 * 2**20)
    with pytest.raises(ConfigurationError, match="Celery counts kilobytes"):
        choose_recycling(None, "200000")


@dataclass
class Boards:
    """A board with both of its sides."""

    board: mmap.mmap

    def work_on(self, number: int) -> None:
        """Do what a child does when it begins."""
        wire.BOARD.pack_into(self.board, 0, number, RUNNING)


@pytest.fixture
def desk() -> Iterator[Boards]:
    """An empty board."""
    with mmap.mmap(-1, wire.BOARD_BYTES) as board:
        yield Boards(board)


def test_a_deadline_is_read_with_its_number(desk: Boards) -> None:
    """What the child posts, the parent reads; nothing once it is cleared."""
    assert wire.read_deadline(desk.board) is None
    desk.work_on(2**40)
    assert wire.read_deadline(desk.board) is None
    wire.post_deadline(desk.board, 1234.5, 30.0)
    assert wire.read_deadline(desk.board) == (2**40, 1234.5, 30.0)
    wire.clear_deadline(desk.board)
    assert wire.read_deadline(desk.board) is None
