"""The child of the `asyncio` pool: `async def` tasks side by side in one event loop on its main thread.

A task with a plain function gets a thread, so that it does not hold up the loop; threads are reused, and there are never more
than tasks at a time. Soft time limits of `async def` tasks are kept where they `await`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from amqpq.errors import SoftTimeLimitExceeded
from amqpq.log import WORKER
from amqpq.worker.execute import Executor
from amqpq.worker.host import Host
from amqpq.worker.limits import Limits, Timing
from amqpq.worker.pools import child, wire
from amqpq.worker.pools.driven import Driven
from amqpq.worker.pools.hub import HubChild

logger = logging.getLogger(WORKER)

MOST_THREADS: Final = 65_535
"""No bound: the pool's concurrency is one, and a thread is made only when all others are busy."""


class Ring:
    """The soft limit of one task in an event loop."""

    def __init__(self, task: asyncio.Task[Any], seconds: float) -> None:
        self.error: SoftTimeLimitExceeded | None = None
        self._task = task
        self._seconds = seconds
        self.timer = task.get_loop().call_later(seconds, self.ring)

    def ring(self) -> None:
        """Cancel the task; `Driven` makes the cancellation the error."""
        self.error = SoftTimeLimitExceeded(f"the task ran longer than its soft time limit of {self._seconds:g} s")
        self._task.cancel()


class LoopKeeper:
    """Keeps the soft limits of many tasks in one event loop."""

    def __init__(self) -> None:
        self._rings: dict[asyncio.Task[Any] | None, Ring] = {}

    def begin(self, limits: Limits) -> None:
        """Have the task that runs told at its soft limit."""
        task = asyncio.current_task()
        if limits.soft is not None and task is not None:
            self._rings[task] = Ring(task, limits.soft)

    def end(self) -> None:
        """Have it told nothing any more."""
        ring = self._rings.pop(asyncio.current_task(), None)
        if ring is not None:
            ring.timer.cancel()

    def drive(self, coroutine: Coroutine[Any, Any, Any]) -> Awaitable[object]:
        """Await the task's coroutine, with the error raised where it waits."""
        ring = self._rings.get(asyncio.current_task())
        return coroutine if ring is None else Driven(coroutine, ring)

    def finish(self, coroutine: Coroutine[Any, Any, Any]) -> object:
        """Run a coroutine in a loop of its own; none with a limit comes here."""
        return asyncio.run(coroutine)


def run_until_stopped(loop: asyncio.AbstractEventLoop) -> None:
    """Run an event loop until something stops it, and end it as `asyncio.run` would.

    `sys.exit` in a task of the user's own (`asyncio.create_task`) comes out of the loop (asyncio, `Task`). It must not
    end all the others: the loop goes on.
    """
    asyncio.set_event_loop(loop)
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:
            logger.error("%s in a background task; the event loop goes on", type(error).__name__)  # noqa: TRY400
        else:
            break
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    asyncio.set_event_loop(None)
    loop.close()


class LoopChild(HubChild):
    """A child with an event loop."""

    def _prepare(self, host: Host, init: wire.Init) -> None:
        self._host = host
        timing = Timing("asyncio", init.limits)
        self._executor = Executor(host, init.worker, mark=self._mark, timing=timing)
        timing = Timing("asyncio", init.limits, LoopKeeper())
        self._in_loop = Executor(host, init.worker, mark=self._mark, timing=timing)
        self._running: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(MOST_THREADS, "amqpq-task")

    def _work(self) -> None:
        loop = asyncio.new_event_loop()
        loop.add_reader(self._works.fileno(), self._readable, loop)
        run_until_stopped(loop)

    def _readable(self, loop: asyncio.AbstractEventLoop) -> None:
        count = self._arrived()
        if count is None:
            loop.remove_reader(self._works.fileno())
            loop.stop()
            return
        for _ in range(count):
            task = loop.create_task(self._run_next())
            self._running.add(task)  # the loop itself holds tasks weakly
            task.add_done_callback(self._running.discard)

    async def _run_next(self) -> None:
        work = self._take()
        if work is None:
            return
        if self._is_async(work):
            await self._run_coroutine(work)
        else:
            self._threads.submit(self._run_function, work)


def main() -> None:
    """Be such a child."""
    child.main(LoopChild)
