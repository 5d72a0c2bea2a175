"""Carries out what `settle` decides: publishes the steps, hears the broker, ends the delivery. Nothing else ends one.

Publications of one turn of the loop leave in one call, and so do its acknowledgements; each delivery is acknowledged when
its own steps are confirmed, whatever its neighbours wait for. A step that the broker did not take is tried again with
growing pauses, and at once when a connection is back; meanwhile its delivery is kept, which takes a place of the prefetch:
a worker that cannot deliver results slows down, and does not forget.
"""

from __future__ import annotations

import functools
import logging
import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from amqpq.consumer import Tap
from amqpq.errors import AmqpqError
from amqpq.lifecycle import DIRECT_REPLY_QUEUE
from amqpq.log import TASK, WORKER, MessageKeys
from amqpq.message.wire import ATTEMPT_LOG
from amqpq.security.replay import SeenIds
from amqpq.topology import Topology, delays
from amqpq.types import Fate, Outcome, Publication
from amqpq.worker.again import retries_of
from amqpq.worker.deadletter import (
    FIRST_FAILED,
    Attempt,
    Evidence,
    Place,
    another_try,
    dead_letter,
    for_later,
    next_attempt,
)
from amqpq.worker.herald import Herald
from amqpq.worker.jobs import Job, Jobs
from amqpq.worker.lane import Outlet
from amqpq.worker.reactor import Reactor, Timer
from amqpq.worker.settle import (
    HAPPENED,
    Case,
    End,
    Happened,
    Review,
    Settlement,
    Step,
    review,
    settle,
    whether_gone,
    without_delivery,
)
from amqpq.worker.work import Finished, Reply

worker_log = logging.getLogger(WORKER)
task_log = logging.getLogger(TASK)

PAUSE_SECONDS: Final = 0.5
"""Before a publication that the broker did not take is tried again; doubles each time."""
LONGEST_PAUSE_SECONDS: Final = 30.0
REPLY_PAUSES: Final = (0.1, 0.2, 0.4, 0.8)
"""Seconds between the questions for a reply queue that is missing, where it may only not have come yet."""
FRESH_SECONDS: Final = 60.0
"""A task published longer ago has its reply queue on every node, even where two clocks differ by some seconds."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a settler works with; all of it is the loop's."""

    topology: Topology
    jobs: Jobs
    outlet: Outlet
    reactor: Reactor
    place: Place
    counts: Counter[str]
    now: Callable[[], float]
    """Seconds since the epoch."""
    herald: Herald = field(default_factory=Herald)
    address: Callable[[Publication], Publication] = lambda publication: publication
    """Returns a publication for a queue by its name as it has to be published: the queue may have moved."""
    in_place: Collection[str] = ()
    """Queues in which what comes back keeps its place."""


class Observer(Protocol):
    """Somebody who tells of tasks."""

    def concluded(self, job: Job, finished: Finished, *, again: bool) -> None:
        """A job has ended; `again`: if it ended badly, it is tried again."""


class Settler:
    """Settles jobs."""

    def __init__(self, around: Surroundings, seen: SeenIds) -> None:
        self._around = around
        self._jobs = around.jobs
        self._counts = around.counts
        self._seen = seen
        self._keys: list[tuple[Job, Step] | None] = []
        self._publications: list[Publication] = []
        self._thirsty: set[Tap] = set()
        self._again: dict[tuple[int, Step], tuple[Job, Timer]] = {}
        self._targets: dict[str, str | None] = {}
        self.observer: Observer | None = None
        """Told how each job ended, while somebody wants to know."""
        self.totals: dict[str, int] = {}
        """How many tasks of each name have ended here; names that are not in it are not counted."""

    def conclude(self, job: Job, finished: Finished) -> None:
        """Take what happened to a job, and begin whatever must be safe before it ends."""
        job.finished = finished
        happened = HAPPENED[finished.happened]
        parkable = self._target(job.queue) is not None and not finished.drop
        in_place = job.queue in self._around.in_place
        settlement = settle(happened, Case(finished.reply is not None, parkable, job.crashes, in_place))
        self._counts[happened] += 1
        if finished.task in self.totals:
            self.totals[finished.task] += 1
        if self.observer is not None:
            kept = settlement.end is not End.ACK or Step.PARK in settlement.steps or settlement.dropped
            self.observer.concluded(job, finished, again=not kept)
        self._log(job, happened, finished, settlement)
        if happened is not Happened.SUCCEEDED:
            self._around.herald.concluded(job, finished, settlement)
        job.end = settlement.end
        job.steps = settlement.steps
        job.copied = Step.REPUBLISH in settlement.steps or happened is Happened.EARLY
        if happened is Happened.RETRIED and finished.reply is not None:
            self.report(finished.reply)
        self._proceed(job)

    def resume(self, job: Job) -> None:
        """Go on with an orphan that was given its redelivery."""
        if job.finished is not None:
            self._proceed(job)

    def report(self, reply: Reply) -> None:
        """Publish a state on the way. It is news, not a promise: lost where there is no connection."""
        if self._around.outlet.open:
            self._keys.append(None)
            self._publications.append(Publication("", reply.routing_key, reply.body, reply.properties, mandatory=False))

    def give_back(self, job: Job, happened: Happened = Happened.UNTOUCHED) -> None:
        """Return a job that was not begun, or (`Happened.CUT_OFF`) will not be finished, to its queue."""
        job.end = settle(happened, Case()).end
        self._end(job)

    def put_off(self, job: Job, seconds: float) -> bool:
        """Have a job that was not begun wait in the broker; False where no delay ladder leads back to its queue."""
        topology = self._around.topology
        queue = topology.queue(job.queue)
        if topology.delays is None or queue is None or not delays.reachable(queue):
            return False
        due = self._around.now() + seconds
        self.conclude(job, Finished(job.number, Happened.EARLY, job.task, due=due))
        return True

    def flush(self) -> None:
        """Send what this turn has gathered: publications in one call, acknowledgements after."""
        if self._publications:
            keys, self._keys = self._keys, []
            publications, self._publications = self._publications, []
            self._around.outlet.publish(keys, publications, self._answered)
        if self._thirsty:
            for tap in self._thirsty:
                tap.flush()
            self._thirsty.clear()

    def forget_seen(self, job: Job) -> None:
        """Whoever publishes this message again is no replayer."""
        if job.signed is not None:
            self._seen.forget(job.id, *job.signed, queue=job.queue)

    def retry_now(self) -> None:
        """Publish at once what waits for another try: there is a connection again."""
        waiting, self._again = self._again, {}
        for (_, step), (job, timer) in waiting.items():
            timer.cancel()
            self._publish(job, step)

    # ----------------------------------------------------------------------------------------------------------- steps

    def _proceed(self, job: Job) -> None:
        steps = job.steps if job.tap is not None else without_delivery(job.steps)
        for step in steps:
            if step not in job.under_way:
                job.under_way |= {step}
                self._publish(job, step)
        if not job.steps:
            self._end(job)

    def _publish(self, job: Job, step: Step) -> None:
        self._keys.append((job, step))
        self._publications.append(self._around.address(self._publication(job, step)))

    def _publication(self, job: Job, step: Step) -> Publication:
        finished = job.finished
        if finished is None:
            raise RuntimeError(f"job {job.number} has steps and no outcome")
        if step is Step.REPLY and finished.reply is not None:
            reply = finished.reply
            # RabbitMQ returns a mandatory direct reply although it delivers it: the address is no queue
            # (https://www.rabbitmq.com/docs/direct-reply-to).
            mandatory = not reply.routing_key.startswith(DIRECT_REPLY_QUEUE)
            return Publication("", reply.routing_key, reply.body, reply.properties, mandatory=mandatory)
        self.forget_seen(job)
        if step is Step.REPUBLISH:
            return another_try(job.delivery, queue=job.queue, crashes=job.crashes, suspicion=job.copy_suspicion)
        if step is Step.LATER:
            return self._later(job, finished)
        return dead_letter(
            job.delivery,
            queue=job.queue,
            target=self._target(job.queue) or "",
            place=self._around.place,
            evidence=Evidence(
                finished.cause,
                finished.reason,
                finished.traceback,
                _attempts(job),
                self._around.now(),
                job.remains,
            ),
        )

    def _later(self, job: Job, finished: Finished) -> Publication:
        """Return the copy for the ladder. What is due beyond its top comes early, and is put off once more."""
        topology, now = self._around.topology, self._around.now()
        entry = None
        if topology.delays is not None and (finished.due > now or finished.happened == Happened.EARLY):
            seconds = min(max(finished.due - now, 0.0), topology.delays.max_seconds)
            priority = job.delivery.properties.priority
            entry = delays.entry(topology, seconds, (job.queue,), finished.due, priority=priority)
        if finished.happened == Happened.RETRIED:
            return self._next_attempt(job, finished, entry, now)
        if entry is None:
            raise RuntimeError(f"job {job.number} is to be put off, and there is no ladder")
        return for_later(job.delivery, queue=job.queue, entry=entry)

    def _next_attempt(self, job: Job, finished: Finished, entry: delays.Entry | None, now: float) -> Publication:
        delivery, before = job.delivery, retries_of(job.delivery.properties)
        if finished.changed is not None:
            # Signed anew, with the retries until now under the signature: ours begin again.
            history = {name: delivery.properties.headers.get(name) for name in (FIRST_FAILED, ATTEMPT_LOG)}
            kept = {name: value for name, value in history.items() if value is not None}
            _, body, properties = finished.changed
            properties = properties._replace(headers={**properties.headers, **kept})
            delivery, before = delivery._replace(body=body, properties=properties), 0
        attempt = Attempt(before + 1, self._around.place, finished.reason, now)
        return next_attempt(delivery, queue=job.queue, entry=entry, attempt=attempt)

    def _answered(self, key: tuple[Job, Step] | None, outcome: Outcome) -> None:
        if key is None:
            return
        job, step = key
        if self._jobs.get(job.number) is not job:
            return  # given back meanwhile
        verdict = review(step, outcome.fate)
        if verdict is Review.ASK and job.finished is not None and job.finished.reply is not None:
            self._look(job, step, outcome, REPLY_PAUSES if self._may_come(job) else ())
            return
        self._reviewed(job, step, outcome, verdict)

    def _look(self, job: Job, step: Step, outcome: Outcome, pauses: Sequence[float]) -> None:
        """Ask for the reply queue that was missing, and again after each pause while it is."""
        if self._jobs.get(job.number) is not job or job.finished is None or job.finished.reply is None:
            return

        def seen(error: AmqpqError | None) -> None:
            verdict = whether_gone(error)
            if verdict is Review.DONE_UNHEARD and pauses:
                again = functools.partial(self._look, job, step, outcome, pauses[1:])
                self._around.reactor.call_later(pauses[0], again)
            elif self._jobs.get(job.number) is job:
                reason = f"{outcome.reason}: {error}" if error is not None else outcome.reason
                self._reviewed(job, step, Outcome(outcome.fate, reason), verdict)

        self._around.outlet.look(job.finished.reply.routing_key, seen)

    def _may_come(self, job: Job) -> bool:
        """Whether its reply queue may have been declared on another node so lately that ours does not know of it yet."""
        if not self._around.outlet.may_lag:
            return False
        properties = job.delivery.properties
        published = job.signed[0] / 1000 if job.signed is not None else properties.timestamp
        return published is None or abs(self._around.now() - published) < FRESH_SECONDS

    def _reviewed(self, job: Job, step: Step, outcome: Outcome, verdict: Review) -> None:
        if verdict is Review.AGAIN:
            self._try_again(job, step, outcome)
            return
        if verdict is Review.DONE_UNHEARD:
            self._counts["unheard"] += 1
            worker_log.warning(
                "the result of %s[%s] found no reply queue: it was fetched, forgotten or has expired",
                job.task, job.id, extra=self._keys_of(job),
            )  # fmt: skip
        job.failures = 0
        job.under_way -= {step}
        job.steps = tuple(left for left in job.steps if left is not step)
        if not job.steps:
            self._end(job)

    def _try_again(self, job: Job, step: Step, outcome: Outcome) -> None:
        if job.tap is None and step not in without_delivery(job.steps):
            job.under_way -= {step}  # its redelivery brings it back
            return
        job.failures += 1
        pause = min(LONGEST_PAUSE_SECONDS, PAUSE_SECONDS * 2 ** min(job.failures - 1, 10))
        remedy = ""
        if step is Step.LATER:
            remedy = "; is the delay ladder there? `amqpq topology apply` creates it"
        elif outcome.fate is Fate.RETURNED and step is not Step.REPLY:
            remedy = f"; queue {self._target(job.queue)!r} is missing: `amqpq topology apply` creates it"
        if outcome.fate is not Fate.UNKNOWN or (step is Step.LATER and "NOT_FOUND" in outcome.reason):
            worker_log.error(
                "the %s of %s[%s] was not taken (%s %s); it is kept, and tried again in %.1f s%s",
                step, job.task, job.id, outcome.fate, outcome.reason, pause, remedy, extra=self._keys_of(job),
            )  # fmt: skip
        jittered = pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load
        timer = self._around.reactor.call_later(jittered, lambda: self._retry(job, step))
        self._again[job.number, step] = (job, timer)

    def _retry(self, job: Job, step: Step) -> None:
        self._again.pop((job.number, step), None)
        if self._jobs.get(job.number) is job:
            self._publish(job, step)

    # ------------------------------------------------------------------------------------------------------------- end

    def _end(self, job: Job) -> None:
        tap = job.tap
        if tap is not None:
            if job.end is End.ACK:
                tap.ack(job.delivery.tag)
                self._thirsty.add(tap)
            else:
                self.forget_seen(job)
                tap.give_back(job.delivery.tag, begun=job.end is End.REQUEUE)
        self._jobs.close(job)

    def _target(self, queue: str) -> str | None:
        """The dead-letter queue of a queue; None where the file says that its dead letters are dropped."""
        try:
            return self._targets[queue]
        except KeyError:
            target = self._targets[queue] = self._around.topology.dead_letter_of(queue)
            return target

    # ------------------------------------------------------------------------------------------------------------- log

    def _keys_of(self, job: Job) -> MessageKeys:
        return {
            "amqpq_task": job.task,
            "amqpq_task_id": job.id,
            "amqpq_queue": job.queue,
            "amqpq_worker": self._around.place.worker,
            "amqpq_attempts": _attempts(job),
        }

    def _log(self, job: Job, happened: Happened, finished: Finished, settlement: Settlement) -> None:
        if happened is Happened.SUCCEEDED:
            if task_log.isEnabledFor(logging.INFO):
                keys = self._keys_of(job)
                keys["amqpq_seconds"] = finished.seconds
                task_log.info("%s[%s] succeeded in %.4f s", job.task, job.id, finished.seconds, extra=keys)
            return
        if happened is Happened.SUSPECTED:
            task_log.info(
                "%s[%s] came back from a worker that did not end it; it runs as a suspect",
                job.task, job.id, extra=self._keys_of(job),
            )  # fmt: skip
            return
        if happened is Happened.EARLY:
            wait = finished.due - self._around.now()
            task_log.info("%s[%s] is due in %.1f s: put off", job.task, job.id, wait, extra=self._keys_of(job))
            return
        if happened is Happened.REVOKED:
            task_log.info("%s[%s] revoked: %s", job.task, job.id, finished.reason, extra=self._keys_of(job))
            return
        if happened is Happened.RETRIED:
            wait = max(finished.due - self._around.now(), 0.0)
            again = retries_of(job.delivery.properties) + 1
            task_log.warning(
                "%s[%s] failed: %s; retry %d in %.1f s",
                job.task, job.id, finished.reason, again, wait, extra=self._keys_of(job),
            )  # fmt: skip
            return
        keys = self._keys_of(job)
        keys["amqpq_cause"] = finished.cause
        what = f"{happened} ({finished.cause})" if happened != finished.cause else str(happened)
        why = "`then: drop`" if finished.drop else "its queue has no dead letter"
        fate = f"dropped: {why}" if settlement.dropped else None
        if fate is None:
            again = Step.REPUBLISH in settlement.steps or settlement.end is End.REQUEUE
            fate = "it is tried again" if again else f"dead letter: {self._target(job.queue)}"
        if settlement.dropped:
            self._counts["dropped"] += 1
        text = f"\n{finished.traceback.rstrip()}" if finished.traceback else ""
        task_log.log(
            logging.WARNING if happened is Happened.EXPIRED else logging.ERROR,
            "%s[%s] %s: %s; %s%s", job.task, job.id, what, finished.reason, fate, text, extra=keys,
        )  # fmt: skip


def _attempts(job: Job) -> int:
    retries = job.delivery.properties.headers.get("retries")
    before = retries if isinstance(retries, int) and retries > 0 else 0
    before += retries_of(job.delivery.properties)
    counted = job.finished is not None and job.finished.happened in {Happened.CRASHED, Happened.POISONOUS}
    return before + job.crashes + job.suspicion.count + (0 if counted else 1)
