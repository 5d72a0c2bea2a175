"""The worker's loop: takes deliveries, gives them to the pool, settles what comes back, and stops as it promised.

One thread owns all of this, the sockets of its connections included, and never runs user code, so heartbeats and settling go on
whatever tasks do. Each turn takes everything that has happened, then gives works out, then publishes, then acknowledges; what
it sends leaves before the next one.

The order of stopping:

1. *Warm* (first signal): cancel the consumers; give back at once what waits here or in the pool and was not begun; let
   what runs finish, publish and acknowledge it.
2. *Cold* (second signal, or the shutdown timeout): end the pool as far as it can be ended, give back everything left.
3. Close the connections, which sends what is still to be sent.

Exit codes: 0, everything that was begun is finished; 1, an error; 3, work that was begun was given back.
"""

from __future__ import annotations

import logging
import math
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Final

from amqpq import signals
from amqpq.clock import Clock
from amqpq.consumer import Tap
from amqpq.errors import Replayed
from amqpq.log import WORKER
from amqpq.security.replay import SeenIds
from amqpq.topology.generations import Generations
from amqpq.topology.partitions import kept_in_place, one_by_one, physical_queues
from amqpq.transport.interface import Connection
from amqpq.types import Delivery, Table
from amqpq.worker import timeouts
from amqpq.worker.autoscale import Scale, Sizing
from amqpq.worker.control import ControlPlan, Inside, Office
from amqpq.worker.deadletter import SUSPICIONS, Place
from amqpq.worker.follower import Follower
from amqpq.worker.gate import Gate
from amqpq.worker.herald import Herald
from amqpq.worker.host import Host
from amqpq.worker.intake import Intake
from amqpq.worker.jobs import Job, Jobs
from amqpq.worker.lane import Lane, Outlet
from amqpq.worker.pools.interface import Crash, Pool
from amqpq.worker.reactor import Reactor, Timer
from amqpq.worker.settle import Happened, without_delivery
from amqpq.worker.settler import Settler, Surroundings
from amqpq.worker.states import STAGE, Position
from amqpq.worker.suspects import Suspects
from amqpq.worker.verdicts import Verdicts
from amqpq.worker.vitals import BEAT_SECONDS, Connections, Pulse, Running, Vitals
from amqpq.worker.waiting import Waiting
from amqpq.worker.work import Finished, Report

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
    """What a loop is to do. `prefetch` is per queue, for the size that the pool has at first, or for the largest of `scale`."""

    queues: tuple[str, ...]
    prefetch: int
    place: Place
    shutdown_timeout_seconds: float
    control: ControlPlan = field(default_factory=ControlPlan)
    scale: Scale | None = None
    hard_limits: tuple[float | None, ...] = (None,)
    """Of every task that may come, seconds; None is a task without."""
    generations: Generations | None = None
    """Where the queues live; None where nobody is to follow that."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a loop works with."""

    host: Host
    pool: Pool
    consuming: Lane
    publishing: Lane
    reactor: Reactor
    clock: Clock
    herald: Herald = field(default_factory=Herald)
    """Runs the receivers of signals."""
    pulse: Callable[[Vitals], object] | None = None
    """Told how the worker is, every `beat_seconds` and when its stage changes; must not wait for anything."""
    beat_seconds: float = BEAT_SECONDS


class Loop:
    """One worker, from its start to its exit code."""

    def __init__(self, plan: LoopPlan, parts: Parts) -> None:
        self._plan = plan
        self._parts = parts
        self._reactor = parts.reactor
        self._pool = parts.pool
        self._herald = parts.herald
        self._told_by = ""
        self._pulse = Pulse(self.vitals, parts.pulse, parts.beat_seconds, parts.reactor)
        topology = parts.host.topology
        self._position = Position(STAGE)
        self.counts: Counter[str] = Counter()
        self._jobs = Jobs(parts.reactor.monotonic)
        self._seen = SeenIds(topology.security.replay_window_seconds, parts.reactor.monotonic)
        self._outlet = Outlet(parts.publishing, parts.reactor)
        single = {queue.name: one_by_one(queue) for queue in physical_queues(topology) if queue.single_active}
        in_place = kept_in_place(topology)
        self._intake = Intake(
            plan.queues, plan.prefetch, parts.consuming, self, parts.reactor, self._ask_for, one_at_a_time=single
        )
        self._follower = Follower(topology, plan.generations, parts.reactor, self._intake.follow)
        self._settler = Settler(
            Surroundings(
                topology, self._jobs, self._outlet, parts.reactor, plan.place, self.counts, parts.clock.time,
                parts.herald, self._follower.address, in_place,
            ),
            self._seen,
        )  # fmt: skip
        self.gate = Gate(parts.host, parts.consuming, parts.reactor, plan.prefetch, self._settler.put_off)
        self._waiting = Waiting(self.gate)
        self._verdicts = Verdicts(parts.host.codec)
        self._suspects = Suspects(self._jobs, self._settler.conclude, self._verdicts.poisonous, parts.reactor, in_place)
        self._settler.totals = dict.fromkeys(parts.host.registry.names, 0)
        self._sizing = Sizing(parts.pool, self._intake, plan.scale, self._demand, parts.reactor)
        self._office = Office(
            Inside(
                parts.host, plan.place, self._sizing, parts.pool, self._jobs, self._intake, self.gate,
                self._settler, self.counts,
                self._outlet, parts.publishing, parts.reactor, parts.clock,
                stop=self.stop, begin=self._begin, revoke_here=self._revoke_here, patience=self._patience,
            ),
            plan.control,
        )  # fmt: skip
        self._revoked = self._office.revoked
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
        self._office.start()
        self._reactor.call_later(BLOCKED_SECONDS, self._complain_when_blocked)
        self._pulse.begin()
        while self.stage is not Stage.OVER:
            self._reactor.turn()
            if self.stage is Stage.WORKING:
                self._give_out()
            self._settler.flush()
            if self._office.events is not None:
                self._office.flush()
            if self.stage is Stage.DRAINING and not len(self._jobs):
                self._position.move("drained")
        self._office.close()
        self._parts.consuming.close()
        self._parts.publishing.close()
        if self._exit_code is ExitCode.FINISHED:
            self._pool.stop()
        else:
            self._pool.kill()
        logger.info("stopped; %s", self._summary())
        return self._exit_code

    def _give_out(self) -> None:
        """Give the pool what may run now."""
        self._suspects.turn(self._waiting)
        if self._waiting:
            self._suspects.offer(self._waiting, self._pool, isolated=self._pool.name == "prefork")

    def stop(self) -> None:
        """Stop: warm the first time, cold the second. From any thread or signal handler: `reactor.post(loop.stop)`."""
        if self.stage in {Stage.STARTING, Stage.WORKING}:
            self._stop_warm()
        elif self.stage is Stage.DRAINING:
            logger.warning("cold shutdown: giving back what still runs")
            self._stop_cold()

    def signalled(self, number: int | None = None) -> None:
        """`stop`, in the form that `reactor.post` takes; `number` is the signal's."""
        self._told_by = signal.Signals(number).name if number else ""
        self.stop()

    def fail(self, reason: str) -> None:
        """End with an error; everything not finished goes back."""
        if self.stage is not Stage.OVER:
            logger.error("%s", reason)
            self._stop_cold()
            self._exit_code = ExitCode.ERROR

    def _demand(self) -> int | None:
        return self._jobs.unfinished if self.stage is Stage.WORKING else None

    def _stop_warm(self) -> None:
        self._position.move("stop")
        self._tell_stopping("warm")
        self._intake.cancel()
        waiting = [job for number in self._waiting.clear() if (job := self._jobs.get(number)) is not None]
        waiting += self._suspects.clear()
        for job in waiting:
            self._return(job)
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
        waiting = {*self._waiting.clear(), *(job.number for job in self._suspects.clear())}
        self._pool.kill()
        left = self._jobs.all()
        for job in left:
            self._settler.give_back(job, Happened.UNTOUCHED if job.number in waiting else Happened.CUT_OFF)
        if left:
            self._exit_code = ExitCode.GAVE_BACK
            logger.warning("gave back %d begun", len(left))
        self._tell_stopping("cold")
        self._settler.flush()

    def _tell_stopping(self, how: str) -> None:
        exit_code = int(self._exit_code)
        self._herald.tell(signals.worker_shutting_down, sig=self._told_by, how=how, exitcode=exit_code)
        self._pulse.tell()

    # ---------------------------------------------------------------------------------------------------------- vitals

    def vitals(self) -> Vitals:
        """Return how the worker is."""
        lanes = (self._parts.consuming.connection, self._parts.publishing.connection)
        members = self._pool.census()
        jobs = {member.number: job for member in members if (job := self._jobs.get(member.number or 0)) is not None}
        return Vitals(
            self._plan.place.worker,
            str(self.stage),
            self._reactor.monotonic(),
            Connections(*(None if connection is None else connection.blocked or "" for connection in lanes)),
            self._intake.lines,
            self._pool.describe(),
            self._pool_is_ready,
            members,
            {job.number: Running(job.task, job.id) for job in jobs.values()},
            len(self._jobs),
            len(self._waiting),
            dict(self.counts),
        )

    # ----------------------------------------------------------------------------------------------------- connections

    def _can_publish(self, connection: Connection) -> None:
        self._outlet.attach(connection)
        self._settler.retry_now()
        self._office.publishing_on()
        self._begin()

    def _can_consume(self, connection: Connection) -> None:
        self._office.consuming_on(connection)
        self._follower.open(connection)
        self._begin()
        self.gate.connected()

    def _begin(self) -> None:
        """Subscribe once everything a delivery will need is there."""
        if not (self._pool_is_ready and self._office.ready and self._outlet.open):
            return
        if self.stage in {Stage.STARTING, Stage.WORKING}:
            self._position.move("ready")
            self._intake.open()

    def _ask_for(self, queue: str, source: str, connection: Connection) -> Table:
        """Ask the broker for the patience that the tasks need, where it can be asked."""
        waves = math.ceil(self._intake.prefetch / max(1, self._pool.size))
        found, version = self._follower.queue(queue, source), connection.server.version_tuple
        return timeouts.consumer_arguments(found, self._plan.hard_limits, waves, version)

    def _patience(self, queue: str) -> float | None:
        """Return the seconds after which the broker takes a delivery of this queue back, as far as is known."""
        connection, topology = self._parts.consuming.connection, self._parts.host.topology
        if connection is None:
            return None
        found = self._follower.queue(queue, source := self._follower.generations.current(queue))
        asked = self._ask_for(queue, source, connection).get(timeouts.ARGUMENT)
        known = timeouts.patience_of(found, topology, connection.server.version_tuple)
        return known if asked is None else asked / 1000

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
            self._herald.tell(signals.worker_ready)
            self._pulse.tell()

    def starved(self, reason: str) -> None:
        """A queue cannot be consumed, and will not be."""
        self.fail(reason)

    def delivered(self, tap: Tap, delivery: Delivery) -> None:
        """Take a message."""
        state = self._position.state
        if state == Stage.DRAINING:
            self._return(self._jobs.open(tap, delivery))
            return
        if state != Stage.WORKING:
            tap.give_back(delivery.tag)
            return
        self.counts["received"] += 1
        if (delivery.redelivered or SUSPICIONS in delivery.properties.headers) and self._is_known(tap, delivery):
            return
        job = self._jobs.open(tap, delivery)
        self._herald.arrived(job)
        if self._office.events is not None:
            self._office.events.received(job)
        if self._is_new(job):
            if not (self._revoked and self._revoke(job)):
                self._suspects.take(job, self._waiting)
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
        unbegun = self._waiting.drop(lambda number: not self._has_delivery(number))
        innocent = [job for job in jobs if job.number in unbegun or self._suspects.holds(job)]
        self._suspects.vouch(innocent)
        for job in innocent:
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
            if job.tap is not None and self._revoked and self._revoke(job):
                continue
            if job.tap is not None and self.stage is Stage.WORKING:
                self._waiting.come_back(job)
                continue
            self.gate.ended(number)
            if job.tap is None:
                self._suspects.vouch([job])
                self._jobs.forget(job)
            else:
                self._return(job)

    def _return(self, job: Job) -> None:
        """Give back what was not begun; a suspect with a mark goes as a copy without it."""
        if not self._suspects.give_back(job):
            self._settler.give_back(job)

    def crashed(self, crash: Crash) -> None:
        """Count the crash on the work that caused it; the others of that child try again."""
        self.handed_back(crash.others)
        job = self._jobs.get(crash.number) if crash.number is not None else None
        if job is None:  # it was at none; the pool has said that it died
            return
        job.remains = crash.remains
        self._conclude(job, self._verdicts.crashed(job, crash))

    # ---------------------------------------------------------------------------------------------------------- revoked

    def _revoke(self, job: Job) -> bool:
        """Conclude a job that has not begun, if it is revoked. A forged one is not: the pool refuses it, with evidence."""
        revoked = self._verdicts.revoked(job) if job.id in self._revoked else None
        if revoked is not None:
            self._conclude(job, revoked)
        return revoked is not None

    def _revoke_here(self) -> None:
        """Let go of what is here, has not begun, and is revoked by now; what the pool holds of it comes back first."""
        self._waiting.drop(lambda number: (job := self._jobs.get(number)) is not None and self._revoke(job))
        if any(job.finished is None and job.id in self._revoked for job in self._jobs.all()):
            self._pool.recall()

    def _summary(self) -> str:
        words = [f"{count} {what}" for what, count in sorted(self.counts.items()) if count]
        return ", ".join(words) or "nothing was delivered"
