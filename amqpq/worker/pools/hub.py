"""A child that runs many tasks at a time: what the pools `asyncio`, `gevent` and `eventlet` have in common.

The process that owns the connection runs no user code here either. Tasks of these pools share a thread and have to yield to
one another, and one that does not yield stops them all: the event loop, or the hub of the greenlets, of this process. The
heartbeats are the parent's, and go on.

The parent gives no more works than may run at a time, so all of them are begun as they come. A work counts as begun in the
moment its task is really on: until then it waits in a queue from which the control thread, a real thread in any of these
pools, takes it for a recall. So what came while a task does not yield goes back at once when the worker is to stop.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

from amqpq.worker.execute import Executor
from amqpq.worker.host import Host
from amqpq.worker.pools import wire
from amqpq.worker.pools.child import Child
from amqpq.worker.work import Finished, Work


class HubChild(Child):
    """The part that does not depend on how tasks run side by side."""

    _host: Host
    _in_loop: Executor
    """Runs `async def` tasks; the other one runs plain functions."""

    def _arrived(self) -> int | None:
        """Take in what has come: how many works wait now; None when the parent has hung up. Never blocks."""
        with self._reading:
            try:
                data = self._works.recv(wire.READ_BYTES, socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                return 0  # the control thread was faster
            if not data:
                return None
            self._accept(self._unframer.feed(data))
        return len(self._waiting)

    def _take(self) -> Work | None:
        """Return the next work, to be begun now; None if it was recalled meanwhile."""
        while True:
            try:
                index, work = self._waiting.popleft()
            except IndexError:
                return None
            if index > self._recalled:
                return work
            self._send([wire.HandedBack((work.number,), recalled=False)])

    def _is_async(self, work: Work) -> bool:
        """Whether it is for the event loop. Nobody has checked the message yet: its name chooses a place, and no more."""
        name = work.properties.headers.get("task")
        task = self._host.registry.get(name) if isinstance(name, str) else None
        return task is not None and task.is_async

    def _run_function(self, work: Work) -> None:
        """Run a plain function's task on this thread or greenlet."""
        self._note(self._executor.run(work, partial(self._report, work.number)))

    async def _run_coroutine(self, work: Work) -> None:
        """Run an `async def` task in this event loop."""
        self._note(await self._in_loop.run_in_loop(work, partial(self._report, work.number)))

    def _note(self, finished: Finished) -> None:
        """Send an outcome at once: who knows when this thread has a moment again."""
        message: tuple[Any, ...] = wire.pack_finished(finished)
        self._send([message])
