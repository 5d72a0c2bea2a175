"""Messages that came back from a worker that is no more: which of them kills workers, and which were only there.

When a worker dies as a whole (out of memory, a power cut, a segmentation fault in the `threads` pool), nobody is left to
say what it was doing. The broker gives everything it held to other workers, marked as redelivered. A classic queue counts
nothing, a quorum queue counts all that was held alike, and the headers of a message in a queue cannot be changed. So:

* *Begun or not* is known to the dead worker only. Most of what it held was not begun, and an ordinary restart by `kill -9`
  looks the same. So coming back is no proof; it makes a message a *suspect*.
* What is to be known after the next death must be in the message before it runs. So a suspect is not run as it came: a copy
  with a *mark* is put into its queue (confirmed, then the original is acknowledged), and the copy runs. Where a marked copy
  comes back, the worker that had it is gone: that is counted, in `amqpq-suspicions`. Only redelivered messages pay.
* A marked copy that waits beside a poisonous one would be counted with it. So after the first count there is *one marked copy
  at a time* in a worker. The other suspects are held back unmarked, where coming back again costs them nothing; a second
  marked copy that arrives is copied back without its mark and its newest count.
* A copy may come before the broker has read the acknowledgement of its original. It waits for that: if it killed us before,
  there would be two of it. Where the connection is lost first, there may be two anyhow, and it waits no longer.
* A suspect with a count runs alone: in pools of processes with a child of its own (a child that dies is counted exactly, see
  `amqpq-crashes`), in the other pools with nothing begun beside it. For those that run already it waits `ALONE_SECONDS`.
* A suspect that runs to its end, well or badly, is none any more: the message is gone, or is a new one without the mark.

So a poisonous message takes four workers down: the first time it came back proves nothing, `SUSPICION_LIMIT` marked runs do.
An innocent one would have to be the marked one three times in a row when its worker is killed; that it was merely held then
does not count. It is `three`, as with children: one is chance, two may be.

What came back for certain without having been begun is no suspect: what this worker itself held unbegun when its connection
was lost, and what a quorum queue of RabbitMQ 4.3 says was given back by `basic.nack` (it has been acquired, and has no
delivery count), which is how workers give back what they did not begin.

The price: a copy goes to the end of its queue, so a message that came back loses its place. Where the order is promised (the
partitions of a quorum queue with `single_active`) there is no copy: one message of it is held at a time, so that the count
of the queue itself (`x-delivery-count`) is about that one, and it runs again where it stands. But that counts also those who
were stopped as they should, so there it takes `IN_PLACE_LIMIT`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from typing import Final

from amqpq.log import WORKER
from amqpq.types import Delivery
from amqpq.worker.deadletter import DELIVERY_COUNT, Suspicion
from amqpq.worker.jobs import Job, Jobs, Print
from amqpq.worker.pools.interface import Pool
from amqpq.worker.reactor import Reactor, Timer
from amqpq.worker.settle import CRASH_LIMIT, Happened
from amqpq.worker.waiting import Waiting
from amqpq.worker.work import Finished

logger = logging.getLogger(WORKER)

SUSPICION_LIMIT: Final = CRASH_LIMIT
"""Marked copies that may come back before the message is parked."""
IN_PLACE_LIMIT: Final = 6
"""Deliveries without an end before a message that keeps its place is parked: a restart of all workers, one after the other, may
hand the same one from each to the next."""
ALONE_SECONDS: Final = 60.0
"""How long a suspect waits for running tasks to end; then it runs beside them, and still nothing else begins."""
MARK_SECONDS: Final = 1.0
"""After a copy got its mark, before the next one gets one: it usually comes here in this time, else another worker has it."""
VOUCHED: Final = 10_000
"""Messages that are remembered as not begun here; more cannot be held with any sensible prefetch."""


class Verdict(StrEnum):
    """What to do with a delivery."""

    ORDINARY = "ordinary"
    """Nothing is the matter with it."""
    MARK = "mark"
    """Copy it with a mark, and one suspicion more."""
    RUN = "run"
    """It is marked: run it next."""
    RUN_ALONE = "run alone"
    """It is marked and has a count: run it next, and nothing beside it."""
    HOLD = "hold"
    """It has a count and no mark: keep it until it is its turn to be marked."""
    UNMARK = "unmark"
    """There is a marked one here already: copy it without the mark."""
    PARK = "park"
    """It has killed enough workers."""


def came_back(delivery: Delivery) -> bool:
    """Whether somebody may have begun this message and not ended it."""
    headers = delivery.properties.headers
    released = "x-acquired-count" in headers and not headers.get("x-delivery-count")
    return delivery.redelivered and not released


def judge(suspicion: Suspicion, *, back: bool, another_here: bool) -> Verdict:
    """Decide about a delivery.

    Args:
        suspicion: What its headers say.
        back: Whether it came back.
        another_here: Whether a marked one with a count is here already.
    """
    count, marked = suspicion.count, suspicion.marked
    if back and marked:
        return Verdict.PARK if count >= SUSPICION_LIMIT else Verdict.HOLD
    if back:
        return Verdict.HOLD if count else Verdict.MARK
    if marked:
        if count <= 1:
            return Verdict.RUN
        return Verdict.UNMARK if another_here else Verdict.RUN_ALONE
    return Verdict.HOLD if count else Verdict.ORDINARY


class Suspects:
    """Keeps suspects apart. Everything is called on the loop's thread.

    Args:
        jobs: All jobs.
        settled: Takes what happened to a job, as `Settler.conclude`.
        poisonous: Makes the outcome of one that has killed enough workers, given the reason.
        reactor: The loop's.
        in_place: Queues in which what comes back keeps its place.
    """

    def __init__(
        self,
        jobs: Jobs,
        settled: Callable[[Job, Finished], object],
        poisonous: Callable[[Job, str], Finished],
        reactor: Reactor,
        in_place: Collection[str] = (),
    ) -> None:
        self._in_place = in_place
        self._jobs = jobs
        self._settled = settled
        self._poisonous = poisonous
        self._reactor = reactor
        self._held: deque[Job] = deque()
        self._copying: dict[tuple[str, str], Job] = {}
        self._early: list[Job] = []
        self._marked: Job | None = None
        self._marked_at = 0.0
        self._asked = False
        self._waker: Timer | None = None
        self._vouched: OrderedDict[Print, None] = OrderedDict()

    def __len__(self) -> int:
        """How many are held back."""
        return len(self._held)

    def take(self, job: Job, waiting: Waiting) -> None:
        """Decide about a new job; what may run is put into `waiting`."""
        if not (job.delivery.redelivered or job.suspicion.count or self._in_place or self._vouched):  # mostly
            waiting.arrive(job)
            return
        vouched = self._vouched.pop(job.print, self) is None if self._vouched else False
        back = not vouched and came_back(job.delivery)
        if job.queue in self._in_place:
            self._take_in_place(job, waiting)
            return
        verdict = judge(job.suspicion, back=back, another_here=self._here() is not None)
        if verdict is Verdict.ORDINARY:
            waiting.arrive(job)
            return
        logger.debug("%s[%s]: %s, %s", job.task, job.id, verdict, job.suspicion)
        count = job.suspicion.count
        if verdict is Verdict.PARK:
            self._park(job, count)
        elif verdict is Verdict.HOLD:
            self._held.append(job)
        elif verdict is Verdict.MARK:
            self._copy(job, Suspicion(count + 1, marked=True))
        elif verdict is Verdict.UNMARK:
            self._copy(job, Suspicion(count - 1, marked=False))
        else:
            if verdict is Verdict.RUN_ALONE:
                self._marked, self._marked_at = job, self._reactor.monotonic()
            if self._is_early(job):
                self._early.append(job)
            else:
                waiting.next_up(job)

    def _take_in_place(self, job: Job, waiting: Waiting) -> None:
        """Run a job where it stands; what its queue counted is held against it as crashes are, so it gets a child of its own."""
        count = job.delivery.properties.headers.get(DELIVERY_COUNT)
        job.crashes = count if isinstance(count, int) else 0
        if job.crashes >= IN_PLACE_LIMIT:
            self._park(job, job.crashes)
        else:
            waiting.arrive(job)

    def turn(self, waiting: Waiting) -> None:
        """Let copies run whose original is acknowledged; give the next of those held its mark, if it is its turn."""
        if self._early:
            ripe = [job for job in self._early if not self._is_early(job)]
            self._early = [job for job in self._early if job not in ripe]
            for job in ripe:
                waiting.next_up(job)
        for job in [job for job in self._copying.values() if not job.asked_settled and self._is_let_go(job)]:
            job.asked_settled = True
            if job.tap is None:
                self._forget_copying(job)
            else:
                job.tap.when_settled(self._forget_copying, job)
        self._mark_next()

    def _is_let_go(self, job: Job) -> bool:
        """Whether an original is acknowledged, or the broker's again: then its redelivery may never come here."""
        return job.tap is None or self._jobs.get(job.number) is not job

    def _is_early(self, copy: Job) -> bool:
        """Whether a copy came before the broker read the ack of its original: if it killed us now, there would be two."""
        return copy.print[:2] in self._copying

    def _forget_copying(self, job: Job) -> None:
        if self._copying.get(job.print[:2]) is job:
            del self._copying[job.print[:2]]

    def _mark_next(self) -> None:
        if not self._held or self._here() is not None:
            return
        left = self._marked_at + MARK_SECONDS - self._reactor.monotonic()
        if left <= 0:
            job = self._held.popleft()
            self._marked_at = self._reactor.monotonic()
            left = MARK_SECONDS
            self._copy(job, Suspicion(job.suspicion.count + 1, marked=True))
        if self._held and not self._asked:
            self._asked = True
            self._reactor.call_later(left, self._again)

    def offer(self, waiting: Waiting, pool: Pool, *, isolated: bool) -> None:
        """Give the pool what may be begun now: nothing beside a suspect with a count.

        Args:
            waiting: What waits.
            pool: Takes works.
            isolated: Whether the pool runs each work in a process of its own, where a suspect is alone anyway.
        """
        alone = self._here()
        if alone is None or isolated or alone.finished is not None:
            waiting.offer(pool)
            return
        work = waiting.take_out(alone.number)
        if work is None:
            return  # it runs
        if self._is_alone(waiting):
            offered = deque([work])
            pool.offer(offered)
            if not offered:
                return
        waiting.come_back(alone)

    def _is_alone(self, waiting: Waiting) -> bool:
        """Whether nothing else runs, or has for so long that there is no more waiting for it; the suspect is taken out."""
        kept = len(waiting) + 1 + len(self._held) + len(self._early)
        running = sum(job.finished is None for job in self._jobs.all()) - kept
        waited = self._reactor.monotonic() - self._marked_at
        if not running or waited >= ALONE_SECONDS:
            return True
        if self._waker is None:
            self._waker = self._reactor.call_later(ALONE_SECONDS - waited, self._woken)
        return False

    def give_back(self, job: Job) -> bool:
        """Take the mark from one that will not run here after all: to come back with it would count. False: it has none."""
        if not job.suspicion.marked:
            return False
        self._copy(job, Suspicion(job.suspicion.count - 1, marked=False))
        return True

    def vouch(self, jobs: Sequence[Job]) -> None:
        """Remember that these were not begun here and are the broker's again; held ones are forgotten."""
        for job in jobs:
            for kept in (self._held, self._early):
                if job in kept:
                    kept.remove(job)
            self._vouched[job.print] = None
        while len(self._vouched) > VOUCHED:
            self._vouched.popitem(last=False)

    def clear(self) -> list[Job]:
        """Return those that are held back, which then are not any more."""
        held = [*self._held, *self._early]
        self._held.clear()
        self._early.clear()
        return held

    def holds(self, job: Job) -> bool:
        """Whether it is held back."""
        return job in self._held or job in self._early

    def _woken(self) -> None:
        self._waker = None

    def _again(self) -> None:
        self._asked = False
        self._mark_next()

    def _here(self) -> Job | None:
        """The marked one with a count that is here."""
        if self._marked is not None and self._jobs.get(self._marked.number) is not self._marked:
            self._marked = None
        return self._marked

    def _copy(self, job: Job, suspicion: Suspicion) -> None:
        job.copy_suspicion = suspicion
        self._copying[job.print[:2]] = job
        self._settled(job, Finished(job.number, Happened.SUSPECTED, job.task, reason=f"{suspicion}"))

    def _park(self, job: Job, count: int) -> None:
        reason = (
            f"the worker that was to run it ended without a word {count} times in a row, each time with no other "
            "suspect beside it (killed, out of memory, a broken interpreter, or a power cut)"
        )
        self._settled(job, self._poisonous(job, reason))
