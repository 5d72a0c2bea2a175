"""The worker's subscriptions: one tap per queue, opened again whenever it ends. No deaf worker.

A queue of the file may live in another one on the broker, and in two while it moves (`amqpq.topology.generations`). There is a
line for each of those; for everybody else they are the one queue of the file.

Each queue's subscription has its place on the table `states.SUBSCRIPTION`. Everything that can end it arrives as one event,
the end of its tap: a cancel by the broker, a channel error, a lost connection. Then there are two ways on: the tap is opened
again (at once after a reconnect, else after a growing pause), or the worker ends with an error, because a queue that stays
missing for `MISSING_SECONDS` will not come by itself.

Believing that one consumes is not consuming. A watchdog compares what should be with what is: a queue without a tap, a
subscription without an answer, and, asked from the broker, a queue without a consumer, or one that has messages for nobody.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from amqpq.consumer import Tap
from amqpq.errors import AccessRefused, AmqpqError, ConnectionLost, ObjectNotFound
from amqpq.log import WORKER
from amqpq.topology.generations import NOTHING_MOVED, Generations
from amqpq.transport.interface import Channel, Connection, Pending
from amqpq.types import Delivery, QueueSpec, QueueState, Table
from amqpq.worker.lane import Lane
from amqpq.worker.reactor import Reactor, Timer
from amqpq.worker.states import SUBSCRIPTION, Position

logger = logging.getLogger(WORKER)

PREFETCH_LIMIT: Final = 65_535
"""What `basic.qos` can say (AMQP 0-9-1: a short)."""
PAUSE_SECONDS: Final = 0.5
"""Before a tap that ended is opened again; doubles while it keeps ending."""
LONGEST_PAUSE_SECONDS: Final = 10.0
MISSING_SECONDS: Final = 60.0
"""How long a queue may be missing (its node may be restarting) before the worker gives up."""
WATCH_SECONDS: Final = 30.0
SECOND_LOOK_SECONDS: Final = 5.0
"""When the watchdog looks again after what it saw was suspicious."""
DEAF_COUNT: Final = 2
"""Observations in a row without a consumer: a quorum queue may answer 0 once while it changes its leader."""


class Owner(Protocol):
    """The loop, as its intake sees it."""

    def delivered(self, tap: Tap, delivery: Delivery) -> None:
        """A message came."""

    def orphaned(self, tap: Tap) -> None:
        """The deliveries of this tap are the broker's again."""

    def consuming(self) -> None:
        """Every queue is consumed."""

    def starved(self, reason: str) -> None:
        """A queue cannot be consumed, and will not be."""


@dataclass(slots=True)
class _Line:
    """What is known of one queue's subscription; `source` is its name on the broker."""

    queue: str
    source: str
    position: Position = field(default_factory=lambda: Position(SUBSCRIPTION))
    tap: Tap | None = None
    timer: Timer | None = None
    failures: int = 0
    missing_since: float | None = None
    silent: int = 0
    received: int = 0
    """Deliveries of the tap when the broker was last asked."""
    extra: bool = False
    """It was added while the worker ran, or is one of two generations; without it the worker goes on."""


class Intake:
    """Keeps every queue consumed.

    Args:
        queues: Their names.
        prefetch: Of each of them.
        lane: The connection.
        owner: Gets the deliveries.
        reactor: The loop's.
        ask_for: Returns the arguments of the subscription to a queue, given its name in the file and on the broker.
        one_at_a_time: Queues that deliver to one consumer only, so that another one may well get nothing; true for those
            whose messages are also run one at a time, and so must not be held two at a time.
    """

    def __init__(
        self,
        queues: Sequence[str],
        prefetch: int,
        lane: Lane,
        owner: Owner,
        reactor: Reactor,
        ask_for: Callable[[str, str, Connection], Table] = lambda _queue, _source, _connection: {},
        one_at_a_time: Mapping[str, bool] | None = None,
    ) -> None:
        self._lines = {queue: _Line(queue, queue) for queue in queues}
        self._added: set[str] = set()
        self._generations = NOTHING_MOVED
        self._prefetch = prefetch
        self._ask_for = ask_for
        self._one_at_a_time = one_at_a_time or {}
        self._lane = lane
        self._owner = owner
        self._reactor = reactor
        self._over = False
        self._paused = False
        self._retired: list[Tap] = []
        """Taps that get nothing more and still hold what runs."""
        self._asks_broker = True
        self._timer: Timer | None = None

    @property
    def lines(self) -> dict[str, bool]:
        """Which queue is consumed right now, by its name on the broker."""
        return {source: line.position.state == "consuming" for source, line in self._lines.items()}

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues that are consumed, or will be again."""
        return tuple(dict.fromkeys(line.queue for line in self._lines.values()))

    @property
    def paused(self) -> bool:
        """Whether nothing is consumed until `resume`."""
        return self._paused

    @property
    def complete(self) -> bool:
        """Whether every queue is consumed right now."""
        return all(self.lines.values())

    def open(self) -> None:
        """Subscribe wherever there is no subscription; once at the start, and after each reconnect."""
        if self._over:
            return
        for line in self._lines.values():
            self._open(line)
        if self._timer is None:
            self._timer = self._reactor.call_later(WATCH_SECONDS, self._watch)

    @property
    def prefetch(self) -> int:
        """How many deliveries of each queue are held at most."""
        return self._prefetch

    def resize(self, prefetch: int) -> None:
        """Hold so many deliveries of each queue from now on."""
        self._prefetch = prefetch
        for line in self._lines.values():
            if line.tap is not None:
                line.tap.resize(self._held(line))

    def _held(self, line: _Line) -> int:
        """How many deliveries of a line are held at most."""
        return 1 if self._one_at_a_time.get(line.queue) else self._prefetch

    def cancel(self) -> None:
        """Stop all deliveries, for good; what is here can still be settled."""
        self._over = True
        for line in self._lines.values():
            if not line.position.over:
                line.position.move("stop")
            if line.timer is not None:
                line.timer.cancel()
            if line.tap is not None:
                line.tap.cancel()

    def add(self, queue: str) -> bool:
        """Consume one more queue; False where it is consumed already."""
        if queue in self.queues:
            return False
        self._added.add(queue)
        self._align(queue)
        return True

    def remove(self, queue: str) -> bool:
        """Stop consuming a queue; what came from it can still be settled. False where it is not consumed."""
        gone = [line for line in self._lines.values() if line.queue == queue]
        for line in gone:
            del self._lines[line.source]
            self._retire(line)
        return bool(gone)

    def follow(self, generations: Generations) -> None:
        """Consume every queue where it lives by this record."""
        self._generations = generations
        if not self._over:
            for queue in self.queues:
                self._align(queue)

    def _align(self, queue: str) -> None:
        """Have a line for each physical queue of one of the file, and no other."""
        sources = self._generations.consumed(queue)
        for line in [each for each in self._lines.values() if each.queue == queue and each.source not in sources]:
            del self._lines[line.source]
            self._retire(line)
            logger.info("not consuming %s any more: %s has moved", line.source, queue, extra={"amqpq_queue": queue})
        for source in sources:
            known = self._lines.get(source)
            line = known or _Line(queue, source)
            line.extra = queue in self._added or len(sources) > 1
            if known is None:
                self._lines[source] = line
                self._open(line)

    def pause(self) -> None:
        """Stop consuming until `resume`; what is here can still be settled."""
        if self._over or self._paused:
            return
        self._paused = True
        for line in list(self._lines.values()):
            self._lines[line.source] = _Line(line.queue, line.source, extra=line.extra)
            self._retire(line)

    def resume(self) -> None:
        """Consume again."""
        if self._paused:
            self._paused = False
            self.open()

    def _retire(self, line: _Line) -> None:
        if not line.position.over:
            line.position.move("stop")
        if line.timer is not None:
            line.timer.cancel()
        if line.tap is not None:
            line.tap.cancel()
            self._retired.append(line.tap)

    # --------------------------------------------------------------------------------------------------- what taps say

    def delivered(self, tap: Tap, delivery: Delivery) -> None:
        """Pass a message on."""
        self._owner.delivered(tap, delivery)

    def subscribed(self, tap: Tap) -> None:
        """Note that a queue is consumed."""
        line = self._lines.get(tap.source)
        if tap in self._retired:
            tap.cancel()  # it was let go before the broker had answered
        if line is None or line.tap is not tap or self._over or line.position.state == "renewing":
            return
        line.position.move("subscribed")
        if line.failures:
            logger.info("consuming %s again", tap.source, extra={"amqpq_queue": tap.queue})
        line.failures = 0
        line.missing_since = None
        if self.complete:
            self._owner.consuming()

    def ended(self, tap: Tap, reason: AmqpqError | None) -> None:
        """Open the tap again, or give up."""
        self._owner.orphaned(tap)
        if tap in self._retired:
            self._retired.remove(tap)
        line = self._lines.get(tap.source)
        if self._over or line is None or line.tap is not tap:
            return
        line.tap = None
        line.failures += 1
        if isinstance(reason, ConnectionLost):
            line.position.move("disconnected")
            return  # the next connection brings the next tap
        why = reason or ("it was deaf" if line.position.state == "renewing" else "the broker cancelled the consumer")
        line.position.move("ended")
        pause = min(LONGEST_PAUSE_SECONDS, PAUSE_SECONDS * 2 ** min(line.failures - 1, 10))
        pause *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads load
        if isinstance(reason, (ObjectNotFound, AccessRefused)) and self._given_up(line, reason):
            return
        remedy = "; `amqpq topology apply` creates it" if isinstance(reason, ObjectNotFound) else ""
        logger.warning(
            "not consuming %s: %s%s; trying again in %.1f s",
            tap.source, why, remedy, pause, extra={"amqpq_queue": tap.queue},
        )  # fmt: skip
        line.timer = self._reactor.call_later(pause, lambda: self._reopen(line))

    # --------------------------------------------------------------------------------------------------------- the rest

    def _open(self, line: _Line) -> None:
        connection = self._lane.connection
        if connection is None or self._over or self._paused or line.position.over or line.tap is not None:
            return
        if line.timer is not None:
            line.timer.cancel()
            line.timer = None
        line.silent = 0
        line.position.move("open")
        arguments = self._ask_for(line.queue, line.source, connection)
        line.received = 0
        tap = line.tap = Tap(line.queue, self._held(line), self, self._reactor.post, arguments, line.source)
        tap.open(connection)

    def _reopen(self, line: _Line) -> None:
        line.timer = None
        if self._lane.connection is None:
            line.position.move("disconnected")
        self._open(line)

    def _given_up(self, line: _Line, reason: AmqpqError) -> bool:
        now = self._reactor.monotonic()
        if line.missing_since is None:
            line.missing_since = now
        if now - line.missing_since < MISSING_SECONDS:
            return False
        line.position.move("starved")
        if line.extra:
            del self._lines[line.source]
            logger.error("not consuming %s any more, which was added while the worker ran: %s", line.source, reason)
            return True
        self._owner.starved(f"queue {line.source!r} cannot be consumed since {MISSING_SECONDS:g} s: {reason}")
        return True

    def _watch(self) -> None:
        if self._over:
            return
        self._timer = self._reactor.call_later(WATCH_SECONDS, self._watch)
        for tap in self._retired:
            if not tap.unsettled:
                tap.close()
        connection = self._lane.connection
        if connection is None:
            return
        for line in self._lines.values():
            state = line.position.state
            if state == "idle":
                self._open(line)
            elif state == "subscribing":
                self._suspect(line, "has not answered our subscription")
            elif state == "renewing":
                self._lane.renew(f"the channel of queue {line.source} does not even close")
            elif state == "consuming" and line.tap is not None and self._asks_broker:
                self._ask(line, line.tap, connection)

    def _ask(self, line: _Line, tap: Tap, connection: Connection) -> None:
        """Ask on a channel of its own: a refusal must not cost the subscription."""
        try:
            channel = connection.channel()
        except ConnectionLost:
            return  # the end of the tap is on its way
        answer: Pending[QueueState] = channel.declare_queue(QueueSpec(line.source), passive=True)
        answer.add_done_callback(lambda done: self._reactor.post(self._told, (line, tap, channel, done)))

    def _told(self, told: tuple[_Line, Tap, Channel, Pending[Any]]) -> None:
        line, tap, channel, answer = told
        error = answer.exception()
        if isinstance(error, AccessRefused):
            # 4.2.6 and 4.3.0 want the configure permission for a passive declaration (release notes), which a worker
            # need not have. What is left of the watchdog does without.
            self._asks_broker = False
            return
        if error is not None:
            return
        channel.close()
        if line.tap is not tap or line.position.state != "consuming":
            return
        state = answer.result()
        nothing_came, line.received = line.received == tap.received, tap.received
        if not state.consumers:
            self._suspect(line, "has no consumer, says the broker")
            self._look_again(line, tap)
        elif state.messages and nothing_came and not tap.unsettled and line.queue not in self._one_at_a_time:
            # Seen on 3.10.8: a quorum queue that is deleted and made anew within milliseconds keeps the consumer in its
            # books, and delivers nothing to it.
            self._suspect(line, "holds messages and delivers none")
            self._look_again(line, tap)
        else:
            line.silent = 0

    def _look_again(self, line: _Line, tap: Tap) -> None:
        """Ask once more, soon: whoever waits for these messages need not wait for another whole round."""

        def ask() -> None:
            connection = self._lane.connection
            if not self._over and line.tap is tap and line.position.state == "consuming" and connection is not None:
                self._ask(line, tap, connection)

        self._reactor.call_later(min(SECOND_LOOK_SECONDS, WATCH_SECONDS), ask)

    def _suspect(self, line: _Line, what: str) -> None:
        line.silent += 1
        if line.silent >= DEAF_COUNT and line.tap is not None:
            line.position.move("deaf")
            logger.error("queue %s %s; subscribing again", line.source, what, extra={"amqpq_queue": line.queue})
            line.tap.close()
