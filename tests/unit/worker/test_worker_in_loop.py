"""Tasks in a running event loop: side by side, each with its own request and its own soft limit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from amqpq import App
from amqpq.errors import SoftTimeLimitExceeded
from amqpq.message import TaskEnvelope
from amqpq.task import current_request
from amqpq.worker.execute import Executor
from amqpq.worker.limits import Timing
from amqpq.worker.pools.asyncio_hub import LoopKeeper
from amqpq.worker.work import Finished, Work

TOPOLOGY: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "queues": {"default": {}},
    "security": {"signing": "off"},
}


class Bench:
    """An application, and an executor that runs its tasks in the loop of the test."""

    def __init__(self) -> None:
        self.app = App(TOPOLOGY)
        self.executor = Executor(self.app, "w1@h", timing=Timing("asyncio", keeper=LoopKeeper()))

    async def run(self, task: str, *args: Any, soft: float | None = None, task_id: str = "1f0c") -> Finished:
        """Run one task."""
        envelope = TaskEnvelope(task_id, task, args, timelimit=(None, soft), reply_to="amqpq.reply.1")
        body, properties = self.app.codec.encode_task(envelope, exchange="", key="default")
        work = Work(7, "default", body, properties, "", "default", False, False)
        return await self.executor.run_in_loop(work, lambda _reply: None)

    def result(self, finished: Finished) -> object:
        """Return what a task has returned."""
        assert finished.reply is not None, finished
        return self.app.codec.decode_result(finished.reply.body, finished.reply.properties).result


@pytest.fixture
def bench() -> Bench:
    """Tasks that wait, fail and take no notice."""
    made = Bench()

    @made.app.task(name="whose")
    async def whose(rounds: int) -> list[str | None]:
        seen = []
        for _ in range(rounds):
            request = current_request.get()
            seen.append(request.id if request else None)
            await asyncio.sleep(0)
        return seen

    @made.app.task(name="wait")
    async def wait() -> None:
        await asyncio.Event().wait()

    @made.app.task(name="tidy")
    async def tidy() -> str:
        try:
            await asyncio.Event().wait()
        except SoftTimeLimitExceeded:
            await asyncio.sleep(0)
            return "tidy"
        return "not told"

    @made.app.task(name="cancel")
    async def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    return made


def test_each_task_sees_its_own_request(bench: Bench) -> None:
    """Though they take turns on one thread."""

    async def several() -> list[Finished]:
        return await asyncio.gather(*(bench.run("whose", 3, task_id=name) for name in "abc"))

    assert [bench.result(finished) for finished in asyncio.run(several())] == [["a"] * 3, ["b"] * 3, ["c"] * 3]
    assert current_request.get() is None


def test_a_soft_limit_is_raised_where_the_task_awaits(bench: Bench) -> None:
    """It may clean up, awaiting again, and return."""
    assert bench.result(asyncio.run(bench.run("tidy", soft=0.001))) == "tidy"


def test_a_soft_limit_that_is_let_go_is_how_the_task_failed(bench: Bench) -> None:
    """It reaches the one task and none of its neighbours."""

    async def both() -> tuple[Finished, Finished]:
        return await asyncio.gather(bench.run("wait", soft=0.001), bench.run("whose", 100))

    late, other = asyncio.run(both())
    assert (late.happened, late.reason[:22]) == ("failed", "SoftTimeLimitExceeded:")
    assert other.happened == "succeeded"


def test_what_a_coroutine_raises_without_a_loop_is_how_its_task_failed(bench: Bench) -> None:
    """In the pools without a loop of their own, each `async def` task gets one."""
    envelope = TaskEnvelope("1f0c", "cancel", (), reply_to="amqpq.reply.1")
    body, properties = bench.app.codec.encode_task(envelope, exchange="", key="default")
    work = Work(7, "default", body, properties, "", "default", False, False)
    finished = Executor(bench.app, "w1@h").run(work, lambda _reply: None)
    assert (finished.happened, finished.reason) == ("failed", "CancelledError: ")


def test_a_cancellation_that_is_not_ours_stays_one(bench: Bench) -> None:
    """A task that is cancelled has failed with that, limit or not."""
    for soft in (None, 60.0):
        finished = asyncio.run(bench.run("cancel", soft=soft))
        assert (finished.happened, finished.reason) == ("failed", "CancelledError: ")
