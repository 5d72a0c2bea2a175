"""The parent's side of the pools `asyncio`, `gevent` and `eventlet`: one child that runs many tasks at a time.

The child begins whatever it is given, so it is given no more than may run. How many that is stands here and nowhere else:
growing and shrinking is a number.

When the child dies, nobody can say which of its tasks it died of. So all of them count as having killed it, once, and each
runs alone next (see `Work.alone`): the guilty one then dies alone, and the others are done. Time limits that need a process
to be killed are refused by these pools (`limits.KEPT`), because every other task in it would pay.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from amqpq.worker.pools.childprocess import Child, ChildPlan, Start, death, execute
from amqpq.worker.pools.interface import Crash, check_resize
from amqpq.worker.pools.processes import ProcessPool
from amqpq.worker.reactor import Reactor
from amqpq.worker.vitals import Member
from amqpq.worker.work import DECODING, Remains, Work

HUB_POOLS: Final = {"asyncio": "task", "gevent": "greenlet", "eventlet": "greenlet"}
"""Those pools, and what each of them runs."""


class HubPool(ProcessPool):
    """One child for many tasks.

    Args:
        plan: What the child is told; its `pool` says of which kind it is.
        size: How many tasks run at a time.
        reactor: The loop's.
        start_process: Starts the process of the child.
    """

    def __init__(self, plan: ChildPlan, size: int, reactor: Reactor, start_process: Start = execute) -> None:
        super().__init__(plan, 1, reactor, start_process)
        self.name = plan.pool
        self._size = size

    def describe(self) -> str:
        """Name the pool and its size."""
        return f"{self.name}, {self._size} {HUB_POOLS[self.name]}{'s' if self._size != 1 else ''} in one process"

    @property
    def size(self) -> int:
        """How many tasks may run at a time."""
        return self._size

    def grow(self, count: int) -> None:
        """Give the child so many more."""
        self._size += count

    def shrink(self, count: int) -> None:
        """Give it nothing until so many fewer run."""
        check_resize(self, -count)
        self._size -= count

    @property
    def room(self) -> int:
        """How many more tasks the child may run now."""
        child = self._taker()
        return 0 if child is None else max(0, self._size - len(child.held))

    def _taker(self) -> Child | None:
        """The child, if it may be given something."""
        child = next(iter(self._children), None)
        if child is None or not child.ready or child.alone or child.recalling or self._over:
            return None
        return child

    def offer(self, waiting: deque[Work]) -> None:
        """Give the child what it can run now."""
        child = self._taker()
        if child is None:
            return
        if waiting and waiting[0].alone:
            works = [] if child.held else [waiting.popleft()]
        else:
            works = []
            while waiting and not waiting[0].alone and len(child.held) + len(works) < self._size:
                works.append(waiting.popleft())
        if works:
            child.give(works, self._reactor.monotonic())
            self._flush(child)

    def recall(self) -> None:
        """Ask for what has not begun: what came while a task does not yield."""
        for child in self._children:
            if child.held:
                child.recall()

    def census(self) -> tuple[Member, ...]:
        """Return how the child is, once for each task that it has: when each of them began, only the child knows."""
        members: list[Member] = []
        for child in self._children:
            pid, alive = child.process.pid, child.process.returncode is None
            members += [
                Member(f"child {pid}", pid, alive, child.ready, number, None, child.done)
                for number in child.held or (None,)
            ]
        return tuple(members)

    def terminate(self, number: int, signal_number: int) -> bool:
        """Say no: to signal the process would end every task in it."""
        del number, signal_number
        return False

    def _report_death(self, child: Child, remains: Remains, number: int, stage: int) -> None:
        """Tell the loop that the child died of each of its tasks. The board tells how far one was: enough, if it was alone."""
        how = death(child.process.returncode)
        if len(child.held) > 1:
            how = f"{how}, with {len(child.held)} tasks in it,"
        self._log_death(child, how)
        for held in list(child.held):
            far = stage if held == number else DECODING
            self._listener.crashed(Crash(held, far, f"child {child.process.pid} {how}", remains=remains))
