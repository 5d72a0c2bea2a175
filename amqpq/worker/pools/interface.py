"""What the loop knows of a pool: its verbs and its size, and the six things a pool tells the loop.

A pool takes what it can run (`offer`) from the works that wait, and reports through `Listener`, always on the loop's thread.
It never touches the broker, and it forgets a work in the moment it reports it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from amqpq.errors import ConfigurationError
from amqpq.worker.vitals import Member
from amqpq.worker.work import Finished, Remains, Report, Work


@dataclass(frozen=True, slots=True)
class Crash:
    """A child died. `number` is the work it ran (None: none), `stage` how far it was, `how` the death in words.

    `others` are works it held besides: not begun, or done but not yet reported. They may run again.
    `overran` is the hard time limit, in seconds, for which the pool killed it; then the death is no fault of the child.
    `remains` is the evidence of the death.
    """

    number: int | None
    stage: int
    how: str
    others: tuple[int, ...] = ()
    overran: float | None = None
    remains: Remains | None = None
    terminated: str = ""
    """The signal with which a revoke ended it on purpose, `SIGTERM`."""


class Listener(Protocol):
    """The loop, as a pool sees it."""

    def pool_ready(self) -> None:
        """The pool is complete for the first time."""

    def pool_failed(self, reason: str) -> None:
        """The pool cannot be kept up: the application does not load, or children die faster than they start."""

    def finished(self, outcomes: Sequence[Finished]) -> None:
        """These works are done."""

    def reported(self, report: Report) -> None:
        """A running task told its state."""

    def handed_back(self, numbers: Sequence[int]) -> None:
        """These works were not begun and will not be."""

    def crashed(self, crash: Crash) -> None:
        """A child died of something; the pool replaces it."""


class Pool(Protocol):
    """Runs works. Everything is called on the loop's thread."""

    name: str

    @property
    def size(self) -> int:
        """How many tasks may run at a time."""

    def grow(self, count: int) -> None:
        """Run so many more tasks at a time.

        Raises:
            ConfigurationError: This pool cannot, and why.
        """

    def shrink(self, count: int) -> None:
        """Run so many fewer, as soon as running ones end; none is disturbed.

        Raises:
            ConfigurationError: None would be left, or this pool cannot, and why.
        """

    def start(self, listener: Listener) -> None:
        """Begin to start; `pool_ready` or `pool_failed` follows."""

    def offer(self, waiting: deque[Work]) -> None:
        """Take from the left of `waiting` what can be run now, and perhaps a little more."""

    @property
    def room(self) -> int:
        """How many works would be begun at once, if they were offered now."""

    def recall(self) -> None:
        """Hand back what is not begun; `handed_back` follows."""

    def kill(self) -> None:
        """End everything at once, as far as that is possible; nothing is reported any more."""

    def stop(self) -> None:
        """End an idle pool; returns when it is gone."""

    def census(self) -> tuple[Member, ...]:
        """Return how its members are; asks none of them anything."""

    def terminate(self, number: int, signal_number: int) -> bool:
        """Signal the process that runs this work, and only this work; False where it runs in none of its own."""

    def describe(self) -> str:
        """Name the pool and its size for the banner, `prefork, 4 processes`."""


def check_resize(pool: Pool, count: int) -> None:
    """See that a pool may change its size by `count`, negative to shrink.

    Raises:
        ConfigurationError: Nothing could run any more.
    """
    if pool.size + count < 1:
        raise ConfigurationError(
            f"the {pool.name} pool runs {pool.size} tasks at a time and cannot shrink by {-count}: "
            "at least one must be able to run"
        )
