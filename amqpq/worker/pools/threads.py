"""Threads of the worker's own process: `threads`, and `solo`, which runs tasks on the main thread.

Any idle thread takes the next work from one shared queue, so a few more works than threads may be taken without one of
them waiting behind a slow task while another thread is idle.

In `solo` user code has the main thread, as it has in a script: debuggers, plotting libraries and signal-based timers
expect that. The loop runs beside it. Neither pool can end a task that does not end by itself; see `kill`.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import Counter, deque
from typing import Final

from amqpq.errors import ConfigurationError
from amqpq.worker.execute import Executor
from amqpq.worker.pools.interface import Listener, check_resize
from amqpq.worker.reactor import Reactor
from amqpq.worker.vitals import Member
from amqpq.worker.work import Finished, Reply, Report, Work

SPARE: Final = 8
"""Works taken beyond the number of threads, so that a thread that ends a short task finds the next one at once."""

_SOLO_REMEDY: Final = "use another pool"


class ThreadPool:
    """`threads`: a number of threads that share a queue.

    Args:
        executor: Runs works.
        count: How many threads.
        reactor: The loop's.
    """

    name = "threads"

    def __init__(self, executor: Executor, count: int, reactor: Reactor) -> None:
        self._executor = executor
        self._count = count
        self._reactor = reactor
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._held: set[int] = set()
        self._running: dict[str, tuple[int, float]] = {}
        self._done_by: Counter[str] = Counter()
        self._threads: list[threading.Thread] = []
        self._started = 0
        self._left: set[str] = set()
        self._over = False
        self._listener: Listener

    @property
    def places(self) -> tuple[threading.Thread, ...]:
        """The threads that run tasks."""
        return tuple(thread for thread in self._threads if thread.name not in self._left)

    def describe(self) -> str:
        """Name the pool and its size."""
        return f"{self.name}, {self._count} thread{'s' if self._count != 1 else ''}"

    @property
    def size(self) -> int:
        """How many threads there are to be."""
        return self._count

    def grow(self, count: int) -> None:
        """Start so many more."""
        self._count += count
        self._start(count)

    def shrink(self, count: int) -> None:
        """Have so many end, each when it is idle next."""
        check_resize(self, -count)
        self._count -= count
        self._hang_up(count)

    def start(self, listener: Listener) -> None:
        """Start the threads. They are daemons: a task that never ends must not keep a stopped worker alive."""
        self._listener = listener
        self._start(self._count)
        listener.pool_ready()

    def offer(self, waiting: deque[Work]) -> None:
        """Take as many works as there are threads, and a few more."""
        while waiting and len(self._held) < self._count + SPARE and not self._over:
            work = waiting.popleft()
            self._held.add(work.number)
            self._queue.put(work)

    @property
    def room(self) -> int:
        """How many threads have nothing to do."""
        return 0 if self._over else max(0, self._count - len(self._held))

    def recall(self) -> None:
        """Take back what no thread has taken yet."""
        returned: list[int] = []
        ends = 0
        while True:
            try:
                work = self._queue.get_nowait()
            except queue.Empty:
                break
            if work is None:
                ends += 1  # for a thread that is to go; works may lie behind it
                continue
            returned.append(work.number)
            self._held.discard(work.number)
        self._hang_up(ends)
        if returned:
            self._listener.handed_back(returned)

    def terminate(self, number: int, signal_number: int) -> bool:
        """Say no: a thread cannot be ended, and to signal its process is to signal the worker."""
        del number, signal_number
        return False

    def kill(self) -> None:
        """Report nothing more. A running task goes on until the process ends, because Python cannot end a thread."""
        self._over = True
        self._hang_up(self._count)

    def stop(self) -> None:
        """End the threads, which are idle."""
        self._over = True
        self._hang_up(self._count)
        for thread in self._threads:
            thread.join()

    def serve(self) -> None:
        """Run works on this thread until the pool ends."""
        while (work := self._queue.get()) is not None:
            self.run_one(work)
        self._left.add(threading.current_thread().name)

    def run_one(self, work: Work) -> None:
        """Run one work on this thread and tell the loop."""
        number, name = work.number, threading.current_thread().name
        self._running[name] = (number, self._reactor.monotonic())
        finished = self._executor.run(work, lambda reply: self._report(number, reply))
        self._done_by[name] += 1
        self._running.pop(name, None)
        self._reactor.post(self._done, finished)

    def census(self) -> tuple[Member, ...]:
        """Return how the threads are; what they write meanwhile is theirs alone, name by name."""
        running, pid = dict(self._running), os.getpid()
        threads = {thread.name: thread.is_alive() for thread in self.places if thread.name not in self._left}
        members: list[Member] = []
        for name, alive in threads.items():
            number, since = running.get(name, (None, None))
            members.append(Member(name, pid, alive, True, number, since, self._done_by[name]))
        return tuple(members)

    def _report(self, number: int, reply: Reply) -> None:
        self._reactor.post(self._tell, Report(number, reply))

    def _tell(self, report: Report) -> None:
        if not self._over:
            self._listener.reported(report)

    def _done(self, finished: Finished) -> None:
        self._held.discard(finished.number)
        if not self._over:
            self._listener.finished((finished,))

    def _start(self, count: int) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        for _ in range(count):
            thread = threading.Thread(target=self.serve, name=f"amqpq-task-{self._started}", daemon=True)
            self._started += 1
            self._threads.append(thread)
            thread.start()

    def _hang_up(self, count: int) -> None:
        for _ in range(count):
            self._queue.put(None)


class SoloPool(ThreadPool):
    """`solo`: one task at a time, on the thread that calls `serve` (the main one)."""

    name = "solo"

    def __init__(self, executor: Executor, reactor: Reactor) -> None:
        super().__init__(executor, 1, reactor)

    @property
    def busy(self) -> bool:
        """Whether a task has the main thread: no longer when the loop hears of its end, which may be all the loop waits for."""
        return bool(self._running)

    @property
    def places(self) -> tuple[threading.Thread, ...]:
        """The main thread."""
        return (threading.main_thread(),)

    def describe(self) -> str:
        """Name the pool."""
        return "solo, one task at a time on the main thread"

    def grow(self, count: int) -> None:
        """Refuse."""
        raise ConfigurationError(f"the solo pool runs one task at a time and cannot grow by {count}; {_SOLO_REMEDY}")

    def shrink(self, count: int) -> None:
        """Refuse."""
        raise ConfigurationError(f"the solo pool runs one task at a time and cannot shrink by {count}; {_SOLO_REMEDY}")

    def start(self, listener: Listener) -> None:
        """Begin; whoever owns the main thread calls `serve`."""
        self._listener = listener
        listener.pool_ready()
