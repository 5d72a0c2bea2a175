"""What becomes of a run that raised: another attempt, or the end. Decides where the function ran; the loop carries it out.

The next attempt is the same message: body, signed headers and signature of the producer stay, so a worker needs no right to
sign tasks. The count of attempts and their history stand in headers of ours, which nobody signs: who can publish to the queue can
change the count, and gains an attempt more or less. Only where the next attempt is to have other arguments does the worker sign.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from amqpq.clock import Clock
from amqpq.errors import KeyUntrusted, LocalError
from amqpq.message import Encoding, TaskEnvelope
from amqpq.message.wire import RETRIES
from amqpq.retry import Policy, Retry, decide, policy_of, wait_seconds
from amqpq.task import Task
from amqpq.topology.delays import no_ladder
from amqpq.topology.units import duration_text
from amqpq.types import Properties
from amqpq.worker.host import Host
from amqpq.worker.work import Reply, Work

MOST: Final = 1_000_000
"""Retries that are believed; nobody signs the header."""


@dataclass(frozen=True, slots=True)
class Again:
    """Another attempt. `due` is seconds since the epoch, 0 for at once; `changed` the message that goes instead."""

    error: BaseException
    due: float
    seconds: float
    changed: Reply | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """The end, with the error that the task has failed with. `drop`: without a dead letter, because the file says so."""

    error: BaseException
    drop: bool = False


def retries_of(properties: Properties) -> int:
    """Read how often a worker has sent this message again; anything odd in that header is none."""
    count = properties.headers.get(RETRIES)
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 < count <= MOST else 0


class Attempts:
    """Decides about attempts.

    Args:
        host: The application.
        clock: For due times.
        chance: From 0 to 1, at random.
    """

    def __init__(self, host: Host, clock: Clock, chance: Callable[[], float] = random.random) -> None:
        self._codec = host.codec
        self._topology = host.topology
        self._clock = clock
        self._chance = chance
        self._policies: dict[str, Policy] = {}

    def policy(self, task: Task[..., Any]) -> Policy:
        """Return what holds for a task."""
        policy = self._policies.get(task.name)
        if policy is None:
            policy = self._policies[task.name] = policy_of(task.options, self._topology.retries_of(task.name))
        return policy

    def most(self, task: Task[..., Any]) -> float:
        """Return how often a task may be tried again."""
        return self.policy(task).max_retries

    def verdict(
        self,
        work: Work,
        envelope: TaskEnvelope,
        task: Task[..., Any],
        error: BaseException,
        asked: Sequence[BaseException],
    ) -> Again | Stop:
        """Decide what becomes of a run that raised.

        Args:
            work: The delivery.
            envelope: Of it; its `retries` counts ours, too.
            task: What ran.
            error: What it raised.
            asked: What its `retry()` decided.
        """
        policy = self.policy(task)
        if isinstance(error, Retry):
            return self._asked(work, envelope, policy, error)
        gave_up = any(each is error for each in asked)
        seconds = None if gave_up else decide(policy, error, envelope.retries, self._chance())
        if seconds is None:
            return Stop(error, policy.drop)
        delays = self._topology.delays
        return self._in(error, seconds if delays is None else min(seconds, delays.max_seconds), policy)

    def _asked(self, work: Work, envelope: TaskEnvelope, policy: Policy, retry: Retry) -> Again | Stop:
        why = retry.exc if retry.exc is not None else retry
        seconds = retry.wait_seconds(self._clock.time())
        delays = self._topology.delays
        if seconds is None:
            seconds = wait_seconds(policy, retry.exc, envelope.retries, self._chance())
        elif delays is not None and seconds > delays.max_seconds:
            longest = duration_text(delays.max_seconds)
            return Stop(_with_cause(f"retry(): {seconds:g} s are longer than delays.max ({longest})", why), policy.drop)
        verdict = self._in(why, seconds, policy)
        if retry.arguments is None or isinstance(verdict, Stop):
            return verdict
        try:
            return replace(verdict, changed=self._changed(work, envelope, *retry.arguments))
        except KeyUntrusted as error:
            problem = f"retry() with other arguments has to be signed by this worker, and it may not: {error}"
            return Stop(_with_cause(problem, why), policy.drop)
        except LocalError as error:
            return Stop(error, policy.drop)

    def _in(self, error: BaseException, seconds: float, policy: Policy) -> Again | Stop:
        if seconds <= 0:
            return Again(error, 0.0, 0.0)
        if self._topology.delays is None:
            return Stop(
                _with_cause(f"it cannot be tried again in {seconds:g} s: {no_ladder(self._topology)}", error),
                policy.drop,
            )
        return Again(error, self._clock.time() + seconds, seconds)

    def _changed(self, work: Work, envelope: TaskEnvelope, args: Any, kwargs: Any) -> Reply:
        """Write the message anew, with other arguments: signed by this worker, for this queue, as the next attempt's."""
        serializer = self._codec.task_facts(work.properties).serializer
        body, properties = self._codec.encode_task(
            envelope._replace(args=args, kwargs=kwargs, eta=None),
            exchange="",
            key=self._topology.formers.get(work.queue, work.queue),
            encoding=Encoding(serializer=serializer),
        )
        self._codec.verify_task(body, properties)
        return Reply(work.queue, body, properties)


def _with_cause(message: str, cause: BaseException) -> LocalError:
    error = LocalError(message)
    error.__cause__ = cause
    return error
