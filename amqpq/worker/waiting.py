"""The works that are here and that no pool has begun: in the order of their arrival, some of them held back at the gate."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from amqpq.worker.gate import Gate
from amqpq.worker.jobs import Job
from amqpq.worker.pools.interface import Pool
from amqpq.worker.work import Work


class Waiting:
    """Works in front of a pool."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._works: deque[Work] = deque()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._works) + self._gate.waiting

    def arrive(self, job: Job) -> None:
        """Line a work up: at the gate where its task has a limit."""
        if not self._gate.active or not self._gate.hold(job):
            self._works.append(job.work())

    def next_up(self, job: Job) -> None:
        """Put a marked suspect before all others.

        One that is to run alone does not wait for a limit: there is one of them at a time, and nothing else begins until
        it has run.
        """
        alone = job.suspicion.count > 1
        if not self._gate.active or alone or not self._gate.hold(job):
            self._works.appendleft(job.work())

    def come_back(self, job: Job) -> None:
        """Put a work that the pool had, and did not begin, to the front. What it needs to pass the gate it has."""
        self._works.appendleft(job.work())

    def take_out(self, number: int) -> Work | None:
        """Remove a work that is not at the gate, and return it; None where there is none of this number."""
        found = next((work for work in self._works if work.number == number), None)
        if found is not None:
            self._works.remove(found)
        return found

    def offer(self, pool: Pool) -> None:
        """Give works to the pool, in order, but for those that wait for a limit."""
        gate, works = self._gate, self._works
        if gate.waiting:
            held_up = gate.let_through(pool.room, works[0].number if works else None)
            if gate.passed:
                pool.offer(gate.passed)
            if held_up:
                return
        if works:
            pool.offer(works)

    def drop(self, unwanted: Callable[[int], bool]) -> set[int]:
        """Give up works, by their number, which is asked about once; return the numbers of those given up."""
        dropped = {work.number for work in self._works if unwanted(work.number)}
        if dropped:
            self._works = deque(work for work in self._works if work.number not in dropped)
        return dropped | self._gate.drop(unwanted)

    def clear(self) -> list[int]:
        """Give up all; return their numbers, oldest first."""
        return sorted(self.drop(lambda _number: True))
