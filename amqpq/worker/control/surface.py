"""What control commands may see and do of a worker. The loop's side implements it; the commands know nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

Facts: TypeAlias = dict[str, Any]
"""A mapping for JSON."""


class Refused(Exception):
    """A command cannot be carried out; its text is the answer."""


class Surface(Protocol):
    """A worker, as its commands see it. Everything is called on the loop's thread and returns at once."""

    # looking

    def clock(self) -> int:
        """Return Celery's logical clock."""

    def stats(self) -> Facts:
        """Return counts, pool, broker and resource usage, in Celery's shape."""

    def conf(self) -> Facts:
        """Return how the worker was set up; no secrets."""

    def report(self) -> str:
        """Return versions and platform as text."""

    def registered(self, items: Sequence[str]) -> list[str]:
        """Return the names of the tasks, with these of their options behind them."""

    def active(self) -> list[Facts]:
        """Return the tasks that run now, in Celery's shape."""

    def reserved(self) -> list[Facts]:
        """Return the tasks that are here and have not begun."""

    def active_queues(self) -> list[Facts]:
        """Return the queues that are consumed, in Celery's shape."""

    def revoked(self) -> list[str]:
        """Return the ids of revoked tasks, oldest first."""

    # acting

    def revoke(self, ids: Sequence[str]) -> None:
        """Remember these tasks as revoked; those here that have not begun will not."""

    def terminate(self, ids: Sequence[str], signal: str) -> list[str]:
        """Signal the processes that run these tasks; return the ids that were found running.

        Raises:
            Refused: The pool cannot, or there is no such signal.
        """

    def shut_down(self) -> None:
        """Stop warm."""

    def add_queue(self, queue: str) -> bool:
        """Consume a queue of the topology; False where it is consumed already.

        Raises:
            Refused: The topology has no such queue.
        """

    def cancel_queue(self, queue: str) -> None:
        """Stop consuming a queue.

        Raises:
            Refused: It is not consumed.
        """

    def pause(self) -> None:
        """Stop consuming all queues until `resume`."""

    def resume(self) -> None:
        """Consume again."""

    def resize(self, by: int) -> int:
        """Grow (or, below zero, shrink) the pool; return its new size.

        Raises:
            Refused: It cannot.
        """

    def limit_rate(self, task: str, rate: str | float | None) -> bool:
        """Change how often this worker may begin a task; answer whether it has a limit now.

        Raises:
            Refused: There is no such task, or this is no rate.
        """

    def limit_time(self, task: str, hard: float | None, soft: float | None) -> bool:
        """Change how long a task may run; answer whether it has a limit of its own now.

        Args:
            task: Its name.
            hard: Seconds until its process is killed; None: the worker's.
            soft: Seconds until it is told; None: the worker's.

        Raises:
            Refused: There is no such task, or the pool or the broker cannot bear that.
        """

    def autoscale(self, most: int | None, least: int | None) -> tuple[int, int]:
        """Change between which sizes the pool scales itself; return them as they are then, most and least.

        Raises:
            Refused: It does not scale itself.
        """

    def send_events(self, *, on: bool) -> bool:
        """Switch task events on or off; False where they were so already."""

    def beat(self) -> None:
        """Send a heartbeat event now, where events are sent."""


Arguments: TypeAlias = Mapping[str, Any]
