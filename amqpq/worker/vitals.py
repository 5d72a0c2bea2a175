"""How a worker is, at one moment: a frozen value that its loop makes and that others read without asking it anything.

The loop makes one at most every second, and only where somebody wants it: the health endpoint, the service manager. That
there is a fresh one is itself the news: a loop that hangs makes none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from amqpq.worker.reactor import Reactor

BEAT_SECONDS: Final = 1.0
"""How old the newest one is at most, while the loop turns."""


@dataclass(frozen=True, slots=True)
class Member:
    """One place where a task can run: a process, or a thread.

    `number` is the work that it runs, None where it is idle; `since` is when that began, on the monotonic clock.
    """

    name: str
    pid: int
    alive: bool = True
    ready: bool = True
    number: int | None = None
    since: float | None = None
    done: int = 0


@dataclass(frozen=True, slots=True)
class Running:
    """A task that runs: its name and id as the message claims them."""

    task: str
    id: str


@dataclass(frozen=True, slots=True)
class Connections:
    """Of both connections: None where it is down, else why the broker blocks it, or an empty text."""

    consuming: str | None = None
    publishing: str | None = None


@dataclass(frozen=True, slots=True)
class Vitals:
    """One worker, now. `taken` is when that was, on the monotonic clock."""

    worker: str
    stage: str
    taken: float
    connections: Connections = Connections()
    queues: Mapping[str, bool] | None = None
    """Whether each queue is consumed."""
    pool: str = ""
    pool_ready: bool = False
    members: tuple[Member, ...] = ()
    running: Mapping[int, Running] | None = None
    """What members run, by the number of the work."""
    held: int = 0
    """Deliveries that are not acknowledged."""
    waiting: int = 0
    """Those of them that no pool has taken yet."""
    counts: Mapping[str, int] | None = None
    """How many deliveries had which outcome."""

    @property
    def consuming(self) -> bool:
        """Whether the worker gets every message that is meant for it."""
        return (
            self.stage == "working"
            and self.pool_ready
            and self.connections.consuming is not None
            and self.connections.publishing is not None
            and bool(self.queues)
            and all((self.queues or {}).values())
        )


class Pulse:
    """Has a loop say how it is, again and again, for as long as it turns; nothing where nobody wants to know.

    Args:
        look: Makes the vitals, on the loop's thread.
        listener: Gets them; must not wait for anything.
        seconds: How often.
        reactor: The loop's.
    """

    def __init__(
        self, look: Callable[[], Vitals], listener: Callable[[Vitals], object] | None, seconds: float, reactor: Reactor
    ) -> None:
        self._look = look
        self._listener = listener
        self._seconds = seconds
        self._reactor = reactor

    def begin(self) -> None:
        """Say it now, and every so often from now on."""
        if self._listener is not None:
            self.tell()
            self._reactor.call_later(self._seconds, self.begin)

    def tell(self) -> None:
        """Say it now: something has changed."""
        if self._listener is not None:
            self._listener(self._look())
