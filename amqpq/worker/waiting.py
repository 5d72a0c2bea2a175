"""The works that are here and that no pool has begun: in the order of their arrival, some of them held back at the gate."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from amqpq.worker.gate import Gate
from amqpq.worker.jobs import Job
from amqpq.worker.pools.interface import Pool
from amqpq.worker.suspects import Suspects
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
        """Line a work up: at the gate where its task has a limit; a marked suspect before the others.

        A suspect that is to run alone does not wait for a limit. There is one of them at a time, and nothing else begins until
        it has run.
        """
        suspicion = job.suspicion
        alone = suspicion.marked and suspicion.count > 1
        if self._gate.active and not alone and self._gate.hold(job):
            return
        (self._works.appendleft if suspicion.marked else self._works.append)(job.work())

    def come_back(self, job: Job) -> None:
        """Put a work that the pool had, and did not begin, to the front. What it needs to pass the gate it has."""
        self._works.appendleft(job.work())

    def offer(self, pool: Pool, suspects: Suspects) -> None:
        """Give works to the pool, in order, but for those that wait for a limit or for a suspect to run alone."""
        gate, works, isolated = self._gate, self._works, pool.name == "prefork"
        if gate.waiting and not suspects.alone(isolated=isolated):
            held_up = gate.let_through(pool.room, works[0].number if works else None)
            if gate.passed:
                pool.offer(gate.passed)
            if held_up:
                return
        offered = suspects.offered(works, isolated=isolated, gated=gate.waiting) if works else None
        if offered:
            pool.offer(offered)
            if offered is not works:
                works.extendleft(offered)  # a suspect that is to run alone, and the pool has no room

    def drop(self, unwanted: Callable[[int], bool]) -> set[int]:
        """Give up works, by their number, which is asked about once; return the numbers of those given up."""
        dropped = {work.number for work in self._works if unwanted(work.number)}
        if dropped:
            self._works = deque(work for work in self._works if work.number not in dropped)
        return dropped | self._gate.drop(unwanted)

    def clear(self) -> list[int]:
        """Give up all; return their numbers, oldest first."""
        return sorted(self.drop(lambda _number: True))
