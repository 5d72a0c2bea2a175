"""When a task that failed is tried again, and after how long. Pure: the error, the count and the chance are handed in.

Three may say it. `self.retry(...)` counts before the options of the task (`autoretry_for`, `max_retries`, `retry_backoff` and
their kin, with Celery's names), and those before `retries:` of the route or of the topology. The topology's
`retries: {max: 3}` is for any exception of any function; what a task says changes it, or narrows it (`dont_autoretry_for`).

Waits grow by a factor up to a maximum. With jitter each is somewhere between half of that and all of it, so that tasks which
failed together do not come back together. An exception may know better: its attribute `retry_after`, in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from amqpq.errors import MaxRetriesExceeded
from amqpq.topology.model import Backoff, Retries

DEFAULT_MAX_RETRIES: Final = 3
DEFAULT_DELAY_SECONDS: Final = 180.0
DEFAULT_BACKOFF_MAX_SECONDS: Final = 600.0
"""Celery's defaults of the options that are named like this."""

RETRY_AFTER_LIMIT_SECONDS: Final = 86_400.0
"""An exception may ask for a day at most; the number often comes from the other end of a connection."""

UNLIMITED: Final = math.inf


class Retry(Exception):
    """Raised by `self.retry()`: this attempt is over and another one is to come. Let it pass.

    `seconds` is the wait and `due` the moment (with a zone), where the call says one of them; `args` and `kwargs` of the task
    are in `arguments` where they are to be others. `exc` is why.
    """

    def __init__(
        self,
        exc: BaseException | None = None,
        *,
        seconds: float | None = None,
        due: datetime | None = None,
        arguments: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None,
    ) -> None:
        when = "" if seconds is None and due is None else f" at {due.isoformat()}" if due else f" in {seconds:g} s"
        why = "" if exc is None else f": {type(exc).__name__}: {exc}"
        super().__init__(f"to be tried again{when}{why}")
        self.exc = exc
        self.seconds = seconds
        self.due = due
        self.arguments = arguments

    def wait_seconds(self, now: float) -> float | None:
        """Return how long to wait, as the call says; None where it says nothing. `now` is seconds since the epoch."""
        if self.due is not None:
            due = self.due if self.due.tzinfo is not None else self.due.replace(tzinfo=UTC)
            return max(due.timestamp() - now, 0.0)
        return self.seconds


class RetryOptions(Protocol):
    """The options of a task that are about retries; None is: not said."""

    @property
    def max_retries(self) -> float | None:
        """`UNLIMITED` is no limit."""

    @property
    def default_retry_delay(self) -> float | None:
        """Seconds."""

    @property
    def autoretry_for(self) -> tuple[type[BaseException], ...]:
        """After these it is tried again."""

    @property
    def dont_autoretry_for(self) -> tuple[type[BaseException], ...]:
        """After these it is not."""

    @property
    def retry_backoff(self) -> float | None:
        """The first wait, seconds; 0 is a wait that does not grow."""

    @property
    def retry_backoff_max(self) -> float | None:
        """The longest wait, seconds."""

    @property
    def retry_jitter(self) -> bool | None:
        """Whether waits are spread."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for one task. `backoff` None is a wait that does not grow, `delay_seconds`."""

    max_retries: float
    retry_on: tuple[type[BaseException], ...]
    never_on: tuple[type[BaseException], ...]
    backoff: Backoff | None
    delay_seconds: float
    drop: bool
    """Whether the message is dropped after its last attempt, instead of becoming a dead letter."""


def policy_of(options: RetryOptions, said: Retries) -> Policy:
    """Return what holds for a task.

    Args:
        options: Of the task.
        said: Of its route, or of the topology.
    """
    backoff: Backoff | None = None
    if options.retry_backoff:
        longest = options.retry_backoff_max
        backoff = Backoff(
            min_seconds=float(options.retry_backoff),
            max_seconds=DEFAULT_BACKOFF_MAX_SECONDS if longest is None else longest,
            jitter=options.retry_jitter is not False,
        )
    elif options.retry_backoff is None and options.default_retry_delay is None and said.max > 0:
        backoff = said.backoff
    most = options.max_retries
    if most is None:
        most = said.max if said.max > 0 else DEFAULT_MAX_RETRIES
    delay = options.default_retry_delay
    return Policy(
        max_retries=most,
        retry_on=(*options.autoretry_for, *((Exception,) if said.max > 0 else ())),
        never_on=(*options.dont_autoretry_for, MaxRetriesExceeded),
        backoff=backoff,
        delay_seconds=DEFAULT_DELAY_SECONDS if delay is None else delay,
        drop=said.then == "drop",
    )


def decide(policy: Policy, error: BaseException, retries: int, chance: float) -> float | None:
    """Return after how many seconds a task is tried again, or None where it is not.

    Args:
        policy: Of the task.
        error: What its function raised.
        retries: How often it was tried again before.
        chance: A number from 0 to 1, at random.
    """
    wanted = isinstance(error, policy.retry_on) and not isinstance(error, policy.never_on)
    if not wanted or retries >= policy.max_retries:
        return None
    return wait_seconds(policy, error, retries, chance)


def wait_seconds(policy: Policy, error: BaseException | None, retries: int, chance: float) -> float:
    """Return the wait before the next attempt: what the exception asks for, else what the policy says."""
    asked = getattr(error, "retry_after", None)
    if isinstance(asked, int | float) and not isinstance(asked, bool) and asked >= 0:
        return min(float(asked), RETRY_AFTER_LIMIT_SECONDS)
    if policy.backoff is None:
        return policy.delay_seconds
    return policy.backoff.wait_seconds(retries, chance)
