"""The permits that this worker holds, asks for and gives back. What a permit is: `amqpq.topology.permits`.

Each permit queue has a `Line`: a channel of its own on the consuming connection, because the broker closes a channel for
what it refuses (a queue that is gone), and the others must not notice. A permit is asked for with a consumer of prefetch 1
that is cancelled as soon as it has got one. So nobody polls: the broker hands a permit that comes back to whoever has
waited, the consumers of all workers in turn (https://www.rabbitmq.com/docs/consumers#priority).

When the connection ends, or the channel, the permits are the broker's again, while their tasks still run here: for a moment
others may begin in their place. The line asks for them again, before any for new tasks, and holds them until those tasks end:
the limit can be passed by what ran at that moment, until then. There is no way around it without a clock that all agree on.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from amqpq.errors import AmqpqError, ConnectionLost, ObjectNotFound
from amqpq.log import WORKER
from amqpq.transport.interface import Channel, Connection, Pending
from amqpq.types import Delivery
from amqpq.worker.reactor import Reactor, Timer

logger = logging.getLogger(WORKER)

UNUSED_SECONDS: Final = 1.0
"""How long a permit may wait here for a place in the pool, while another worker may have one."""
REST_SECONDS: Final = 1.0
"""Before it is asked for again, then."""
SWEEP_SECONDS: Final = 5.0
"""How often channels that nobody needs are closed."""
PAUSE_SECONDS: Final = 0.5
"""Before a line asks again whose channel the broker closed; doubles while it goes on."""
LONGEST_PAUSE_SECONDS: Final = 10.0
STARVED_SECONDS: Final = 600.0
"""After so long without a permit it is worth a line in the log."""


class Source(Protocol):
    """Where the connection is; `lane.Lane` is one."""

    @property
    def connection(self) -> Connection | None:
        """The connection, None while there is none."""


@dataclass(frozen=True, slots=True)
class PermitQueue:
    """One permit queue, of the limit with the pattern `limit`.

    `hold_seconds` is how long a permit is held after the task began; None: until it ends.
    """

    name: str
    count: int
    hold_seconds: float | None = None
    limit: str = ""


class Line:
    """One permit queue, as this worker uses it."""

    def __init__(self, queue: PermitQueue, lane: Source, reactor: Reactor) -> None:
        self.queue = queue
        self._lane = lane
        self._reactor = reactor
        self._channel: Channel | None = None
        self._need = 0
        self._asking = 0
        self._free: deque[tuple[int, float]] = deque()  # delivery tag, and since when it is here
        self._held: dict[int, int] = {}
        self._lost: dict[int, None] = {}
        self._unused: Timer | None = None
        self._resting: Timer | None = None
        self._failures = 0
        self._since: float | None = None

    def __repr__(self) -> str:
        """Show the queue and the counts."""
        return f"<permits of {self.queue.name}: {self.describe()}>"

    def describe(self) -> dict[str, int]:
        """Count: `held` by works, `lost` but in use, `free` at hand, `asked` for, and the works that `wait`."""
        return {
            "held": len(self._held),
            "lost": len(self._lost),
            "free": len(self._free),
            "asked": self._asking,
            "wait": self._need,
        }

    @property
    def free(self) -> int:
        """How many permits are at hand."""
        return len(self._free)

    @property
    def idle(self) -> bool:
        """Whether nothing is held and nobody waits."""
        return not self._need and not self._held and not self._lost

    def want(self, count: int) -> None:
        """Say how many works wait for a permit: ask for those that are missing, give back those too many."""
        if not count:
            self._since = None
        elif not self._need:
            self._since = self._reactor.monotonic()
        self._need = count
        while len(self._free) > count:
            self._return(self._free.pop()[0])
        if self._resting is not None or self._lane.connection is None:
            return
        wanted = min(count + len(self._lost), self.queue.count - len(self._held))
        if count:
            wanted = max(wanted, 1)  # also with all permits here: the broker tells consumers that a queue is deleted
        for _ in range(wanted - len(self._free) - self._asking):
            self._ask()

    def use(self, number: int) -> None:
        """Take a free permit for a work that begins now."""
        self._held[number], _ = self._free.popleft()
        self._since = self._reactor.monotonic()
        if self.queue.hold_seconds is not None:
            self._reactor.call_later(self.queue.hold_seconds, lambda: self.release(number))

    def release(self, number: int) -> None:
        """Give back the permit of a work."""
        self._lost.pop(number, None)
        tag = self._held.pop(number, None)
        if tag is not None:
            self._return(tag)

    def connected(self) -> None:
        """Ask again: there is a connection."""
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        self.want(self._need)

    def close(self) -> None:
        """Give everything back."""
        if self._channel is not None:
            channel, self._channel = self._channel, None
            channel.close()
        self._free.clear()
        self._held.clear()
        self._asking = 0

    def complain(self) -> None:
        """Say it where works have waited for long and not one got a permit."""
        now = self._reactor.monotonic()
        if self._need and self._since is not None and now - self._since > STARVED_SECONDS:
            self._since = now
            logger.warning(
                "%d works wait for a permit of %s, and none came for %g s; if no other worker holds them, they are missing: "
                "delete that queue, and `amqpq topology apply` makes it anew with its %d permits",
                self._need, self.queue.name, STARVED_SECONDS, self.queue.count,
            )  # fmt: skip

    # ---------------------------------------------------------------------------------------------------------- asking

    def _ask(self) -> None:
        connection = self._lane.connection
        if connection is None:
            return
        post = self._reactor.post
        if self._channel is None:
            channel = self._channel = connection.channel()
            channel.closed.add_done_callback(lambda closed: post(self._closed, (channel, closed)))
        channel = self._channel
        self._asking += 1
        channel.consume(
            self.queue.name,
            lambda delivery: post(self._granted, (channel, delivery)),
            prefetch=1,
            on_cancel=lambda _tag: post(self._cancelled, channel),
        )

    def _granted(self, granted: tuple[Channel, Delivery]) -> None:
        channel, delivery = granted
        if channel is not self._channel:
            return  # gone with its channel
        self._asking -= 1
        self._failures = 0
        channel.cancel(delivery.consumer_tag)
        if self._lost:
            number = next(iter(self._lost))
            del self._lost[number]
            self._held[number] = delivery.tag
        elif len(self._free) >= self._need:
            self._return(delivery.tag)
        else:
            self._free.append((delivery.tag, self._reactor.monotonic()))
            self._watch_unused()

    def _watch_unused(self) -> None:
        if self._free and self._unused is None:
            left = self._free[0][1] + UNUSED_SECONDS - self._reactor.monotonic()
            self._unused = self._reactor.call_later(max(0.0, left), self._give_unused)

    def _give_unused(self) -> None:
        """Where the pool has had no place for a while, another worker's may have."""
        self._unused = None
        now = self._reactor.monotonic()
        while self._free and now - self._free[0][1] >= UNUSED_SECONDS:
            self._return(self._free.popleft()[0])
            self._rest(REST_SECONDS)
        self._watch_unused()

    def _rest(self, seconds: float) -> None:
        if self._resting is None:
            self._resting = self._reactor.call_later(seconds * random.uniform(0.5, 1.0), self._rested)  # noqa: S311

    def _rested(self) -> None:
        self._resting = None
        self.want(self._need)

    def _return(self, tag: int) -> None:
        if self._channel is not None:
            self._channel.reject(tag, requeue=True)

    def _cancelled(self, channel: Channel) -> None:
        """The queue was deleted or moved: begin anew, on another channel."""
        if channel is self._channel:
            channel.close()

    def _closed(self, ended: tuple[Channel, Pending[AmqpqError | None]]) -> None:
        channel, closed = ended
        if channel is not self._channel:
            return
        self._channel = None
        self._asking = 0
        self._free.clear()
        self._lost.update(dict.fromkeys(self._held))
        self._held.clear()
        reason: Any = closed.result()
        if isinstance(reason, ConnectionLost):
            return  # `connected` follows
        remedy = "; `amqpq topology apply` creates it" if isinstance(reason, ObjectNotFound) else ""
        logger.warning("no permits of %s: %s%s", self.queue.name, reason or "the queue was deleted", remedy)
        self._rest(min(LONGEST_PAUSE_SECONDS, PAUSE_SECONDS * 2 ** min(self._failures, 10)))
        self._failures += 1


class Permits:
    """All lines of a worker; one exists from when it is first needed until nobody needs it."""

    def __init__(self, lane: Source, reactor: Reactor) -> None:
        self._lane = lane
        self._reactor = reactor
        self._lines: dict[str, Line] = {}
        self._sweep: Timer | None = None

    def line(self, queue: PermitQueue) -> Line:
        """Return the line to a permit queue."""
        line = self._lines.get(queue.name)
        if line is None:
            line = self._lines[queue.name] = Line(queue, self._lane, self._reactor)
            if self._sweep is None:
                self._sweep = self._reactor.call_later(SWEEP_SECONDS, self._swept)
        return line

    def want(self, counts: Mapping[PermitQueue, int]) -> None:
        """Say how many works wait for each queue's permits."""
        for queue in counts:
            self.line(queue)
        for line in self._lines.values():
            line.want(counts.get(line.queue, 0))

    def free(self, queue: PermitQueue) -> int:
        """How many permits of a queue are at hand."""
        line = self._lines.get(queue.name)
        return line.free if line is not None else 0

    def connected(self) -> None:
        """Ask again: there is a connection."""
        for line in self._lines.values():
            line.connected()

    def describe(self) -> dict[str, dict[str, int]]:
        """Return the counts of each line (`Line.describe`), by its queue."""
        return {name: line.describe() for name, line in self._lines.items()}

    def _swept(self) -> None:
        for name, line in list(self._lines.items()):
            if line.idle:
                line.close()
                del self._lines[name]
            else:
                line.complain()
        self._sweep = self._reactor.call_later(SWEEP_SECONDS, self._swept) if self._lines else None
