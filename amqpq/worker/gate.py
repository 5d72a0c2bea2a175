"""The gate between arrival and pool: works whose task has a limit wait here until they may begin; all others pass it by.

There are two kinds of limits. A `rate_limit` of the task is kept by each worker for itself, with a token bucket. An entry
under `limits:` of the topology is kept by all workers together, with permits. A work with both needs a token and a permit.

What is counted is the beginning of a task, so a work passes only when the pool has a place for it at this moment; it must not
lie in the pool, begun on paper, and then begin together with others. While one could pass and there is no place, the loop
gives the pool nothing that arrived later, so a place comes. A permit for which no place comes soon goes back to the broker.

Which limit counts is decided by the name in the header, which nobody has checked yet: who forges it can only dodge a limit or
wait without need, and its message is refused when a child has checked it.

Works that wait hold places of their queue's prefetch. Those beyond half of it are put off (`overflow`): they go into the delay
ladder of the broker, each for about as long as it would have waited here, and come back to their queue from there. Where the
topology has no ladder they stay, and the log says that other tasks of the queue may have to wait behind them.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from amqpq.errors import ConfigurationError, UnknownTask
from amqpq.log import WORKER
from amqpq.rates import Rate, rate_of
from amqpq.topology.model import TaskLimit
from amqpq.topology.permits import hold_seconds, permit_queue, permits_of
from amqpq.worker.bucket import Bucket
from amqpq.worker.host import Host
from amqpq.worker.jobs import Job
from amqpq.worker.permits import Line, PermitQueue, Permits, Source
from amqpq.worker.reactor import Reactor, Timer
from amqpq.worker.slots import slot_of_delivery
from amqpq.worker.work import Work

logger = logging.getLogger(WORKER)

UNKNOWN_SECONDS: Final = 1.0
"""What a task is taken to last before one has ended."""
SHORTEST_SECONDS: Final = 1.0
"""For which a work is put off at least: it costs two publications."""
AVERAGE_WEIGHT: Final = 0.2
"""Of the newest time in the average of what tasks last."""
CROWDED_SECONDS: Final = 60.0
"""Between two warnings that waiting works fill a queue's prefetch."""


Overflow: TypeAlias = Callable[[Job, float], bool]
"""Takes away a work that would wait too long at the gate, given about how many seconds; True where it did."""


def stay(_job: Job, _wait_seconds: float) -> bool:
    """Leave the work at the gate."""
    return False


@dataclass(slots=True)
class _Row:
    """Works that wait for the same token and permit, in the order of their arrival."""

    task: str
    queue: PermitQueue | None
    works: deque[Work] = field(default_factory=deque)

    @property
    def key(self) -> tuple[str, PermitQueue | None]:
        """What it is filed under."""
        return self.task, self.queue


class Gate:
    """Holds works back.

    Args:
        host: The application: tasks, and the topology with its limits.
        lane: The connection that permits are taken on.
        reactor: The loop's.
        prefetch: Per queue.
        overflow: Offered what is beyond half of it.
    """

    def __init__(self, host: Host, lane: Source, reactor: Reactor, prefetch: int, overflow: Overflow = stay) -> None:
        self._host = host
        self._permits = Permits(lane, reactor)
        self._reactor = reactor
        self._most = max(1, prefetch // 2)
        self._overflow = overflow
        self._buckets: dict[str, Bucket] = {}
        self._limits: dict[str, TaskLimit] = {}
        self._rows: dict[tuple[str, PermitQueue | None], _Row] = {}
        self._waiting: Counter[str] = Counter()
        self._using: dict[int, tuple[Line, float]] = {}
        self._seconds: dict[str, float] = {}
        self._horizons: dict[tuple[str, PermitQueue | None], float] = {}
        self._timer: Timer | None = None
        self._crowded: float | None = None
        self.passed: deque[Work] = deque()
        """Works that may begin and that the pool has not taken yet."""
        for name in host.registry.names:
            task = host.registry.get(name)
            limit = host.topology.limit_for(name)
            if limit is not None:
                self._limits[name] = limit
            if task is not None:
                self._fill(name, rate_of(task.options.rate_limit))
        self.active = bool(self._buckets or self._limits)
        """Whether any task has a limit."""

    @property
    def waiting(self) -> int:
        """How many works wait."""
        return self._waiting.total() + len(self.passed)

    def describe(self) -> dict[str, Any]:
        """Return what is limited and who waits, as plain data: `waiting`, `rates`, `limits`, `permits`, `rows`."""
        return {
            "waiting": self.waiting,
            "rates": {name: str(bucket.rate) for name, bucket in self._buckets.items()},
            "limits": {name: limit.pattern for name, limit in self._limits.items()},
            "permits": self._permits.describe(),
            "rows": [
                {"task": row.task, "waiting": len(row.works), "permits": row.queue.name if row.queue else None}
                for row in self._rows.values()
            ],
        }

    def set_rate_limit(self, task: str, rate: str | float | None) -> None:
        """Change how often this worker may begin a task; None, or 0, takes the limit away.

        Raises:
            UnknownTask: There is no such task here.
            ConfigurationError: This is no rate.
        """
        if self._host.registry.get(task) is None:
            raise UnknownTask(self._host.registry.explain_missing(task))
        try:
            self._fill(task, rate_of(rate))
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        self.active = bool(self._buckets or self._limits or self._rows)

    def limits_rate_of(self, task: str) -> bool:
        """Whether this worker keeps a rate of its own for a task."""
        return task in self._buckets

    # -------------------------------------------------------------------------------------------------------- arrival

    def hold(self, job: Job) -> bool:
        """Keep a work that has a limit; False for one that has none, which the caller gives to the pool."""
        limit = self._limits.get(job.task)
        if limit is None and job.task not in self._buckets:
            return False
        queue = None
        if limit is not None:
            queue = self._queue(job, limit)
            if queue is None:
                return False
        row = self._rows.get((job.task, queue)) or _Row(job.task, queue)
        if self._waiting[job.queue] >= self._most:
            now, wait = self._reactor.monotonic(), self._estimate(row)
            if self._overflow(job, wait):
                self._horizons[row.key] = now + wait
                return True
            self._complain(job.queue)
        self._rows[row.key] = row
        row.works.append(job.work())
        self._waiting[job.queue] += 1
        return True

    def _queue(self, job: Job, limit: TaskLimit) -> PermitQueue | None:
        slot = 0
        if limit.key is not None:
            found = slot_of_delivery(self._host, job.delivery, limit.key, limit.slots)
            if found is None:
                return None
            slot = found
        name = permit_queue(self._host.topology.project, limit, slot)
        return PermitQueue(name, permits_of(limit), hold_seconds(limit), limit.pattern)

    def _estimate(self, row: _Row) -> float:
        """Seconds until one more work may begin: after those that wait here, and those that were put off before it."""
        now, each = self._reactor.monotonic(), self._each(row)
        self._horizons = {key: moment for key, moment in self._horizons.items() if moment > now}
        after_others = self._horizons[row.key] + each if row.key in self._horizons else now
        return max(SHORTEST_SECONDS, each * len(row.works), after_others - now)

    def _each(self, row: _Row) -> float:
        """About how many seconds lie between two beginnings, if this worker has the limit for itself."""
        bucket, queue, seconds = self._buckets.get(row.task), row.queue, 0.0
        if bucket is not None:
            seconds = bucket.rate.interval
        if queue is not None:
            held = queue.hold_seconds or self._seconds.get(queue.limit, UNKNOWN_SECONDS)
            seconds = max(seconds, held / queue.count)
        return seconds

    def _complain(self, queue: str) -> None:
        now = self._reactor.monotonic()
        if self._crowded is None or now - self._crowded > CROWDED_SECONDS:
            self._crowded = now
            logger.warning(
                "more than half of the prefetch of queue %s waits for limits, and other tasks in it may have to wait, too; write "
                "`delays: {}` into the topology, and they wait in the broker, or give them a queue of their own",
                queue, extra={"amqpq_queue": queue},
            )  # fmt: skip

    def _fill(self, task: str, rate: Rate | None) -> None:
        if rate is None:
            self._buckets.pop(task, None)
        else:
            self._buckets[task] = Bucket.full(rate, self._reactor.monotonic())

    # -------------------------------------------------------------------------------------------------------- passing

    def let_through(self, room: int, before: int | None) -> bool:
        """Move works that may begin to `passed`, oldest first.

        Args:
            room: How many the pool would begin now.
            before: The number of the oldest work that needs no limit; those that arrived later wait for it.

        Returns:
            Whether one more could begin that arrived before that one, if there were room.
        """
        now = self._reactor.monotonic()
        room -= len(self.passed)
        while (row := self._next(now)) is not None and (before is None or row.works[0].number < before):
            if room <= 0:
                self._ask()
                return True
            room -= 1
            self._pass(row, now)
        self._ask()
        return False

    def _next(self, now: float) -> _Row | None:
        """Find the oldest work that has its token and its permit."""
        able = (
            row
            for row in self._rows.values()
            if self._wait(row, now) <= 0 and (row.queue is None or self._permits.free(row.queue))
        )
        return min(able, key=lambda row: row.works[0].number, default=None)

    def _wait(self, row: _Row, now: float) -> float:
        bucket = self._buckets.get(row.task)
        return bucket.wait(now) if bucket is not None else 0.0

    def _pass(self, row: _Row, now: float) -> None:
        work = row.works.popleft()
        self._waiting[work.queue] -= 1
        bucket = self._buckets.get(row.task)
        if bucket is not None:
            self._buckets[row.task] = bucket.taken(now)
        if row.queue is not None:
            line = self._permits.line(row.queue)
            line.use(work.number)
            if row.queue.hold_seconds is None:
                self._using[work.number] = (line, now)
        self.passed.append(work)
        if not row.works:
            del self._rows[row.key]

    def _ask(self) -> None:
        """Ask for the permits that the works need whose token is there; come again when the next token is."""
        now = self._reactor.monotonic()
        wanted: Counter[PermitQueue] = Counter()
        soonest: float | None = None
        for row in self._rows.values():
            wait = self._wait(row, now)
            if wait > 0:
                soonest = wait if soonest is None else min(soonest, wait)
            elif row.queue is not None:
                wanted[row.queue] += len(row.works)
        self._permits.want(wanted)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if soonest is None else self._reactor.call_later(soonest, self._rung)

    def _rung(self) -> None:
        """Nothing to do: the turn that follows asks the gate."""
        self._timer = None

    # ---------------------------------------------------------------------------------------------------------- the end

    def ended(self, number: int) -> None:
        """A work has ended, or goes back to its queue: so does its permit, unless that is held for a time."""
        line, began = self._using.pop(number, (None, 0.0))
        if line is not None:
            line.release(number)
            seconds = self._reactor.monotonic() - began
            known = self._seconds.get(line.queue.limit, seconds)
            self._seconds[line.queue.limit] = known + AVERAGE_WEIGHT * (seconds - known)

    def connected(self) -> None:
        """There is a connection: permits can be asked for."""
        self._permits.connected()

    def drop(self, unwanted: Callable[[int], bool]) -> set[int]:
        """Give up those that wait and are unwanted; return their numbers."""
        dropped: set[int] = set()
        for row in list(self._rows.values()):
            gone = [work for work in row.works if unwanted(work.number)]
            self._waiting.subtract(work.queue for work in gone)
            dropped.update(work.number for work in gone)
            row.works = deque(work for work in row.works if work.number not in dropped)
            if not row.works:
                del self._rows[row.key]
        dropped.update(work.number for work in self.passed if unwanted(work.number))
        self.passed = deque(work for work in self.passed if work.number not in dropped)
        for number in dropped:
            self.ended(number)
        self._ask()
        return dropped
