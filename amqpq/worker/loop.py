"""The worker's loop: takes deliveries, gives them to the pool, settles what comes back, and stops as it promised.

One thread owns all of this and never runs user code, so heartbeats (the transport's threads) and settling (this one) go on
whatever tasks do. Each turn takes everything that has happened, then gives works out, then publishes, then acknowledges.

The order of stopping:

1. *Warm* (first signal): cancel the consumers; give back at once what waits here or in the pool and was not begun; let
   what runs finish, publish and acknowledge it.
2. *Cold* (second signal, or the shutdown timeout): end the pool as far as it can be ended, give back everything left.
3. Close the connections, which sends what is still to be sent.

Exit codes: 0, everything that was begun is finished; 1, an error; 3, work that was begun was given back.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from amqpq.clock import Clock
from amqpq.consumer import Tap
from amqpq.errors import AmqpqError, Replayed, TimeLimitExceeded, WorkerLost
from amqpq.lifecycle import State
from amqpq.log import WORKER
from amqpq.message import Encoding, ResultEnvelope, failure
from amqpq.security.replay import SeenIds
from amqpq.transport.interface import Connection
from amqpq.types import Delivery
from amqpq.worker.deadletter import Place
from amqpq.worker.gate import Gate
from amqpq.worker.host import Host
from amqpq.worker.intake import Intake
from amqpq.worker.jobs import Job, Jobs
from amqpq.worker.lane import Lane, Outlet
from amqpq.worker.permits import Permits
from amqpq.worker.pools.interface import Crash, Pool
from amqpq.worker.reactor import Reactor, Timer
from amqpq.worker.settle import CRASH_LIMIT, Happened, without_delivery
from amqpq.worker.settler import Settler, Surroundings
from amqpq.worker.states import STAGE, Position
from amqpq.worker.work import RUNNING, Finished, Reply, Report, Work

logger = logging.getLogger(WORKER)

BLOCKED_SECONDS: Final = 10.0
"""How often a connection that the broker has blocked is complained about."""


class ExitCode(IntEnum):
    """How a worker ended."""

    FINISHED = 0
    ERROR = 1
    GAVE_BACK = 3


class Stage(StrEnum):
    """Where a worker is in its life: the states of `states.STAGE`."""

    STARTING = "starting"
    WORKING = "working"
    DRAINING = "draining"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class LoopPlan:
    """What a loop is to do. `prefetch` is per queue."""

    queues: tuple[str, ...]
    prefetch: int
    place: Place
    shutdown_timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Parts:
    """What a loop works with."""

    host: Host
    pool: Pool
    consuming: Lane
    publishing: Lane
    reactor: Reactor
    clock: Clock


class Loop:
    """One worker, from its start to its exit code."""

    def __init__(self, plan: LoopPlan, parts: Parts) -> None:
        self._plan = plan
        self._parts = parts
        self._reactor = parts.reactor
        self._pool = parts.pool
        topology = parts.host.topology
        self._position = Position(STAGE)
        self.counts: Counter[str] = Counter()
        self._jobs = Jobs(parts.reactor.monotonic)
        self._waiting: deque[Work] = deque()
        self._seen = SeenIds(topology.security.replay_window_seconds, parts.reactor.monotonic)
        self._outlet = Outlet(parts.publishing, parts.reactor)
        self._settler = Settler(
            Surroundings(topology, self._jobs, self._outlet, parts.reactor, plan.place, self.counts, parts.clock.time),
            self._seen,
        )
        self.gate = Gate(parts.host, Permits(parts.consuming, parts.reactor), parts.reactor, prefetch=plan.prefetch)
        self._intake = Intake(plan.queues, plan.prefetch, parts.consuming, self, parts.reactor)
        self._pool_is_ready = False
        self._announced = False
        self._deadline: Timer | None = None
        self._exit_code = ExitCode.FINISHED

    # ------------------------------------------------------------------------------------------------------------ life

    @property
    def stage(self) -> Stage:
        """Where the worker is in its life."""
        return Stage(self._position.state)

    def run(self) -> ExitCode:
        """Work until told to stop; returns the exit code."""
        self._parts.publishing.start(self._can_publish, lambda: None, self.fail)
        self._parts.consuming.start(self._can_consume, lambda: None, self.fail)
        self._pool.start(self)
        self._reactor.call_later(BLOCKED_SECONDS, self._complain_when_blocked)
        while self.stage is not Stage.OVER:
            self._reactor.turn()
            if self.stage is Stage.WORKING:
                self._offer()
            self._settler.flush()
            if self.stage is Stage.DRAINING and not len(self._jobs):
                self._position.move("drained")
        self._parts.consuming.close()
        self._parts.publishing.close()
        if self._exit_code is ExitCode.FINISHED:
            self._pool.stop()
        else:
            self._pool.kill()
        logger.info("stopped; %s", self._summary())
        return self._exit_code

    def stop(self) -> None:
        """Stop: warm the first time, cold the second. From any thread or signal handler: `reactor.post(loop.stop)`."""
        if self.stage in {Stage.STARTING, Stage.WORKING}:
            self._stop_warm()
        elif self.stage is Stage.DRAINING:
            logger.warning("cold shutdown: giving back what still runs")
            self._stop_cold()

    def signalled(self, _: object = None) -> None:
        """`stop`, in the form that `reactor.post` takes."""
        self.stop()

    def fail(self, reason: str) -> None:
        """End with an error; everything not finished goes back."""
        if self.stage is not Stage.OVER:
            logger.error("%s", reason)
            self._stop_cold()
            self._exit_code = ExitCode.ERROR

    def _stop_warm(self) -> None:
        self._position.move("stop")
        self._intake.cancel()
        numbers = [*(work.number for work in self._waiting), *self.gate.clear()]
        waiting = [job for number in numbers if (job := self._jobs.get(number)) is not None]
        self._waiting.clear()
        for job in waiting:
            self._settler.give_back(job)
        self._pool.recall()
        for job in self._jobs.all():
            if job.tap is None and job.finished is not None and not without_delivery(job.steps):
                self._jobs.forget(job)  # it waited for a redelivery, and there will be none here
        logger.info(
            "warm shutdown: gave back %d unbegun, finishing %d for up to %g s; once more stops at once",
            len(waiting), len(self._jobs), self._plan.shutdown_timeout_seconds,
        )  # fmt: skip
        self._deadline = self._reactor.call_later(self._plan.shutdown_timeout_seconds, self._out_of_time)

    def _out_of_time(self) -> None:
        if self.stage is Stage.DRAINING and len(self._jobs):
            logger.warning("shutdown timeout: giving back what still runs")
            self._stop_cold()

    def _stop_cold(self) -> None:
        self._position.move("stop now")
        self._intake.cancel()
        self._waiting.clear()
        self._pool.kill()
        left = self._jobs.all()
        for job in left:
            self._settler.give_back(job)
        if left:
            self._exit_code = ExitCode.GAVE_BACK
            logger.warning("gave back %d begun", len(left))
        self._settler.flush()

    # ----------------------------------------------------------------------------------------------------- connections

    def _can_publish(self, connection: Connection) -> None:
        self._outlet.attach(connection)
        self._settler.retry_now()
        self._begin()

    def _can_consume(self, _: Connection) -> None:
        self._begin()
        self.gate.connected()

    def _begin(self) -> None:
        """Subscribe once everything a delivery will need is there."""
        if self._pool_is_ready and self._outlet.open and self.stage in {Stage.STARTING, Stage.WORKING}:
            self._position.move("ready")
            self._intake.open()

    def _complain_when_blocked(self) -> None:
        if self.stage is Stage.OVER:
            return
        for lane, what in ((self._parts.publishing, "results"), (self._parts.consuming, "acknowledgements")):
            reason = lane.connection.blocked if lane.connection is not None else None
            if reason:
                logger.warning("the broker blocks this worker's %s: %s", what, reason)
        self._reactor.call_later(BLOCKED_SECONDS, self._complain_when_blocked)

    # ---------------------------------------------------------------------------------------------------------- intake

    def consuming(self) -> None:
        """Say that the worker works."""
        if not self._announced:
            self._announced = True
            logger.info("%s ready.", self._plan.place.worker)

    def starved(self, reason: str) -> None:
        """A queue cannot be consumed, and will not be."""
        self.fail(reason)

    def delivered(self, tap: Tap, delivery: Delivery) -> None:
        """Take a message."""
        if self.stage is not Stage.WORKING:
            tap.give_back(delivery.tag)
            return
        self.counts["received"] += 1
        if delivery.redelivered and self._is_known(tap, delivery):
            return
        job = self._jobs.open(tap, delivery)
        if self._is_new(job):
            if not self.gate.active or not self.gate.hold(job):
                self._waiting.append(job.work())
        else:
            error = Replayed(
                f"task {job.id} was delivered here before, and this is not a redelivery: it was published again"
            )
            refused = Finished(job.number, Happened.REFUSED, cause=error.cause, reason=str(error))
            self._settler.conclude(job, refused)

    def orphaned(self, tap: Tap) -> None:
        """Let go of what the broker has requeued; what runs goes on, and its redelivery is given to it."""
        jobs = self._jobs.orphan(tap)
        if not jobs:
            return
        for job in jobs:
            # Another worker may get it, and park it; sent back from there, it is no replay here.
            self._settler.forget_seen(job)
        unbegun = {work.number for work in self._waiting}
        unbegun |= self.gate.drop(lambda number: not self._has_delivery(number))
        self._waiting = deque(work for work in self._waiting if self._has_delivery(work.number))
        for job in jobs:
            if job.number in unbegun:
                self._jobs.forget(job)
        self._pool.recall()

    def _has_delivery(self, number: int) -> bool:
        job = self._jobs.get(number)
        return job is not None and job.tap is not None

    def _is_known(self, tap: Tap, delivery: Delivery) -> bool:
        job = self._jobs.adopt(tap, delivery)
        if job is not None:
            self.counts["handed over"] += 1
            if job.finished is None:
                self._is_new(job)  # remembers it again; what has ended may be parked already, and be sent back
            logger.info("%s[%s] came again while it runs here; it is not run twice", job.task, job.id)
            self._settler.resume(job)
            return True
        if self._jobs.ended_before(tap, delivery):
            self.counts["handed over"] += 1
            tap.ack(delivery.tag)
            tap.flush()
            return True
        return False

    def _is_new(self, job: Job) -> bool:
        """Whether nobody published this message a second time. Its signature is checked later, in the pool."""
        if job.signed is None:
            return True
        return self._seen.admit(job.id, *job.signed, redelivered=job.delivery.redelivered, queue=job.queue)

    # ------------------------------------------------------------------------------------------------------------ pool

    def set_rate_limit(self, task_name: str, rate: str | float | None) -> None:
        """Change how often this worker may begin a task (`Gate.set_rate_limit`)."""
        self.gate.set_rate_limit(task_name, rate)

    def _offer(self) -> None:
        """Give works to the pool in the order of their arrival, but for those that have to wait for a limit."""
        gate, waiting = self.gate, self._waiting
        if gate.waiting:
            held_up = gate.let_through(self._pool.room, waiting[0].number if waiting else None)
            if gate.passed:
                self._pool.offer(gate.passed)
            if held_up:
                return
        if waiting:
            self._pool.offer(waiting)

    def pool_ready(self) -> None:
        """Begin to consume."""
        self._pool_is_ready = True
        self._begin()

    def pool_failed(self, reason: str) -> None:
        """Without a pool there is nothing to do."""
        self.fail(reason)

    def finished(self, outcomes: Sequence[Finished]) -> None:
        """Settle what is done."""
        for outcome in outcomes:
            job = self._jobs.get(outcome.number)
            if job is not None:
                self._conclude(job, outcome)

    def _conclude(self, job: Job, outcome: Finished) -> None:
        self.gate.ended(job.number)
        self._settler.conclude(job, outcome)

    def reported(self, report: Report) -> None:
        """Publish a state."""
        if self._jobs.get(report.number) is not None:
            self._settler.report(report.reply)

    def handed_back(self, numbers: Sequence[int]) -> None:
        """Put what was not begun at the front again, in its order; or give it back, when stopping."""
        for number in reversed(numbers):
            job = self._jobs.get(number)
            if job is None:
                continue
            if job.tap is not None and self.stage is Stage.WORKING:
                self._waiting.appendleft(job.work())  # past the gate: what it needs there it has
                continue
            self.gate.ended(number)
            if job.tap is None:
                self._jobs.forget(job)
            else:
                self._settler.give_back(job)

    def crashed(self, crash: Crash) -> None:
        """Count the crash on the work that caused it; the others of that child try again."""
        self.handed_back(crash.others)
        job = self._jobs.get(crash.number) if crash.number is not None else None
        if job is None:
            logger.error("%s", crash.how)
            return
        if crash.overran is not None:
            self._overran(job, crash, crash.overran)
            return
        job.crashes += 1
        reason = f"{crash.how} while it ran this task ({job.crashes} of {CRASH_LIMIT} times)"
        reply = self._crash_reply(job, crash, WorkerLost(reason)) if job.crashes >= CRASH_LIMIT else None
        outcome = Finished(job.number, Happened.CRASHED, job.task, 0.0, reply, "crashed", reason)
        self._conclude(job, outcome)

    def _overran(self, job: Job, crash: Crash, limit: float) -> None:
        """Fail a task that was over its hard limit. Trying again would take as long, so it is not counted as a crash."""
        reason = f"it ran longer than its time limit of {limit:g} s, and its process was killed"
        reply = self._crash_reply(job, crash, TimeLimitExceeded(reason))
        outcome = Finished(job.number, Happened.OVERRAN, job.task, limit, reply, "time-limit", reason)
        self._conclude(job, outcome)

    def _crash_reply(self, job: Job, crash: Crash, error: AmqpqError) -> Reply | None:
        """Answer for a child that cannot. Only if it had checked the signature: else the reply address may be forged."""
        codec = self._parts.host.codec
        facts = codec.task_facts(job.delivery.properties)
        if crash.stage != RUNNING or facts.reply_to is None:
            return None
        body, properties = codec.encode_result(
            ResultEnvelope(job.id, State.FAILURE, failure.describe(error)),
            reply_to=facts.reply_to,
            encoding=Encoding(serializer=None if facts.serializer == "pickle" else facts.serializer),
            correlation_id=facts.correlation_id or job.id,
        )
        return Reply(facts.reply_to, body, properties)

    def _summary(self) -> str:
        words = [f"{count} {what}" for what, count in sorted(self.counts.items()) if count]
        return ", ".join(words) or "nothing was delivered"
