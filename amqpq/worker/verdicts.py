"""What the loop says of a job where no pool can: its process died, was ended for a limit or a revoke, or it never began."""

from __future__ import annotations

from amqpq.errors import AmqpqError, RemoteMessageError, TaskRevoked, TimeLimitExceeded, WorkerLost
from amqpq.lifecycle import State
from amqpq.message import Encoding, ResultEnvelope, failure
from amqpq.worker.host import ResultCodec
from amqpq.worker.jobs import Job
from amqpq.worker.pools.interface import Crash
from amqpq.worker.settle import CRASH_LIMIT, Happened
from amqpq.worker.work import RUNNING, Finished, Reply


class Verdicts:
    """Makes outcomes, with their answers.

    Args:
        codec: Checks signatures, encodes and signs answers.
    """

    def __init__(self, codec: ResultCodec) -> None:
        self._codec = codec

    def crashed(self, job: Job, crash: Crash) -> Finished:
        """Return what became of a job whose child is dead; counts the crash, if it was one."""
        if crash.overran is not None:
            # Trying again would take as long, so it is not counted as a crash.
            reason = f"it ran longer than its time limit of {crash.overran:g} s, and its process was killed"
            reply = self._answer(job, crash, TimeLimitExceeded(reason), State.FAILURE)
            return Finished(job.number, Happened.OVERRAN, job.task, crash.overran, reply, "time-limit", reason)
        if crash.terminated:
            reason = f"it was ended by {crash.terminated}"
            reply = self._answer(job, crash, TaskRevoked(reason), State.REVOKED)
            return Finished(job.number, Happened.REVOKED, job.task, 0.0, reply, "terminated", reason)
        job.crashes += 1
        reason = f"{crash.how} while it ran this task ({job.crashes} of {CRASH_LIMIT} times)"
        last = job.crashes >= CRASH_LIMIT
        lost = self._answer(job, crash, WorkerLost(reason), State.FAILURE) if last else None
        traceback = crash.remains.fault if crash.remains is not None else ""
        return Finished(job.number, Happened.CRASHED, job.task, 0.0, lost, "crashed", reason, traceback)

    def poisonous(self, job: Job, reason: str) -> Finished:
        """Return the outcome of a job that worker after worker has died with. Nobody has checked its signature yet."""
        try:
            self._codec.verify_task(job.delivery.body, job.delivery.properties)
        except RemoteMessageError as error:
            return Finished(job.number, Happened.REFUSED, cause=error.cause, reason=str(error))
        reply = self._reply(job, WorkerLost(reason), State.FAILURE)
        return Finished(job.number, Happened.POISONOUS, job.task, 0.0, reply, "crashed", reason)

    def revoked(self, job: Job) -> Finished | None:
        """Return the outcome of a revoked job that has not begun; None for a forged one, which the pool refuses."""
        try:
            self._codec.verify_task(job.delivery.body, job.delivery.properties)
        except RemoteMessageError:
            return None
        error = TaskRevoked("it was revoked before it began")
        reply = self._reply(job, error, State.REVOKED)
        return Finished(job.number, Happened.REVOKED, job.task, 0.0, reply, "revoked", str(error))

    def _answer(self, job: Job, crash: Crash, error: AmqpqError, state: State) -> Reply | None:
        """Answer for a child that cannot. Only if it had checked the signature: else the reply address may be forged."""
        return self._reply(job, error, state) if crash.stage == RUNNING else None

    def _reply(self, job: Job, error: AmqpqError, state: State) -> Reply | None:
        """Answer a message whose signature was checked."""
        facts = self._codec.task_facts(job.delivery.properties)
        if facts.reply_to is None:
            return None
        body, properties = self._codec.encode_result(
            ResultEnvelope(job.id, state, failure.describe(error)),
            reply_to=facts.reply_to,
            encoding=Encoding(serializer=None if facts.serializer == "pickle" else facts.serializer),
            correlation_id=facts.correlation_id or job.id,
        )
        return Reply(facts.reply_to, body, properties)
