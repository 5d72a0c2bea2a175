"""The child of the pools `gevent` and `eventlet`: a greenlet per task, in one hub on its main thread.

The process is patched before anything else is imported in it, as users of these libraries expect: what blocks yields. Only
what must go on while a greenlet does not yield (the control thread, its locks and its socket) is the system's own.

A thread has one running event loop at a time, and all greenlets share a thread. So `async def` tasks run side by side in one
event loop, in a greenlet of its own: its selector is patched too, so it yields when it has nothing to do. A second thread for
the loop would be the end of locks: those of eventlet know nothing of other threads. Soft time limits are kept where a task
yields.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from amqpq.errors import SoftTimeLimitExceeded
from amqpq.log import WORKER
from amqpq.worker.execute import CoroutineRunner, Executor
from amqpq.worker.host import Host
from amqpq.worker.limits import Limits, Timing
from amqpq.worker.pools import child, wire
from amqpq.worker.pools.asyncio_hub import LoopKeeper, run_until_stopped
from amqpq.worker.pools.child import System
from amqpq.worker.pools.hub import HubChild
from amqpq.worker.work import Work

logger = logging.getLogger(WORKER)


class Greens(Protocol):
    """A greenlet library, as far as it is needed here."""

    name: str

    def wait_readable(self, file: int) -> None:
        """Let the other greenlets run until the descriptor can be read."""

    def spawn(self, function: Callable[[], object]) -> None:
        """Run a function in a greenlet of its own, soon."""

    def current(self) -> object:
        """Return the greenlet that runs."""

    def alarm(self, seconds: float, error: Exception) -> Callable[[], object]:
        """Have the error raised in this greenlet after so long; return what takes that back."""


class GreenKeeper:
    """Keeps the soft limits of many greenlets."""

    def __init__(self, greens: Greens, run_coroutine: CoroutineRunner) -> None:
        self._greens = greens
        self._run_coroutine = run_coroutine
        self._alarms: dict[object, Callable[[], object]] = {}

    def begin(self, limits: Limits) -> None:
        """Have the greenlet that runs told at its soft limit."""
        if limits.soft is not None:
            error = SoftTimeLimitExceeded(f"the task ran longer than its soft time limit of {limits.soft:g} s")
            self._alarms[self._greens.current()] = self._greens.alarm(limits.soft, error)

    def end(self) -> None:
        """Have it told nothing any more."""
        cancel = self._alarms.pop(self._greens.current(), None)
        if cancel is not None:
            cancel()

    def finish(self, coroutine: Coroutine[Any, Any, Any]) -> object:
        """Run a coroutine that a plain function returned; this greenlet waits for it, and is told while it waits."""
        return self._run_coroutine(coroutine)

    def drive(self, coroutine: Coroutine[Any, Any, Any]) -> Awaitable[object]:
        """Await it; none comes here, for event loops have a keeper of their own."""
        return coroutine


class GreenChild(HubChild):
    """A child with greenlets."""

    def __init__(self, greens: Greens, *inherited: Any) -> None:
        super().__init__(*inherited)
        self._greens = greens
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: set[asyncio.Task[None]] = set()

    def _prepare(self, host: Host, init: wire.Init) -> None:
        self._host = host
        greens = self._greens
        beside = self._run_beside
        timing = Timing(greens.name, init.limits, GreenKeeper(greens, beside))
        self._executor = Executor(host, init.worker, mark=self._mark, timing=timing, run_coroutine=beside)
        timing = Timing(greens.name, init.limits, LoopKeeper())
        self._in_loop = Executor(host, init.worker, mark=self._mark, timing=timing)

    def _work(self) -> None:
        while True:
            try:
                self._greens.wait_readable(self._works.fileno())
            except (SystemExit, KeyboardInterrupt) as error:
                # The hub throws into the main greenlet what `sys.exit` raised in a greenlet that a task has started.
                logger.error("%s in a background greenlet; the others go on", type(error).__name__)  # noqa: TRY400
                continue
            count = self._arrived()
            if count is None:
                return
            for _ in range(count):
                self._greens.spawn(self._run_next)

    def _run_next(self) -> None:
        work = self._take()
        if work is None:
            return
        if self._is_async(work):
            loop = self._loop or self._start_loop()
            loop.call_soon_threadsafe(self._begin_coroutine, loop, work)
        else:
            self._run_function(work)

    def _start_loop(self) -> asyncio.AbstractEventLoop:
        loop = self._loop = asyncio.new_event_loop()
        self._greens.spawn(partial(run_until_stopped, loop))
        return loop

    def _run_beside(self, coroutine: Coroutine[Any, Any, Any]) -> object:
        """Run the coroutine that a plain function returned in the one event loop; this greenlet waits for it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop or self._start_loop())
        try:
            return future.result()
        finally:
            future.cancel()  # where a soft limit has ended the wait

    def _begin_coroutine(self, loop: asyncio.AbstractEventLoop, work: Work) -> None:
        task = loop.create_task(self._run_coroutine(work))
        self._running.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._running.discard)


def serve(
    greens: Greens,
    start: Callable[[Callable[[], None], tuple[()]], object],
    lock: Callable[[], threading.Lock],
    real_socket: type[socket.socket],
) -> None:
    """Be such a child.

    Args:
        greens: The library.
        start: The system's own `_thread.start_new_thread`.
        lock: Its `_thread.allocate_lock`.
        real_socket: Its `socket.socket`.
    """
    system = System(lambda function: start(function, ()), lock, real_socket)
    child.main(partial(GreenChild, greens), system)
