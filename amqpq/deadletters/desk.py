"""The desk for blocking code: looks, sends back, drops; one queue at a time, so many messages in memory at a time."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from amqpq.clock import SYSTEM_CLOCK, Clock
from amqpq.deadletters import flows
from amqpq.deadletters.choosing import Choice
from amqpq.deadletters.flows import Handed
from amqpq.deadletters.letter import Letter
from amqpq.deadletters.pacing import Bucket
from amqpq.deadletters.planning import Return, Stays
from amqpq.errors import Blocked, ChannelClosed, LocalError, OperationTimeout, OutcomeUnknown, TransportError
from amqpq.transport import flow
from amqpq.transport.interface import Channel, Connection, Flow
from amqpq.types import Fate, Publication

T = TypeVar("T")

TIMEOUT_SECONDS: Final = 30.0
WINDOW: Final = 32
"""Messages that are asked for at once, and copies that wait for their confirm."""
DEFAULT_SCAN: Final = 10_000


@dataclass(frozen=True, slots=True)
class Source:
    """A dead-letter queue. `look_limit`: `flows.look_limit`."""

    queue: str
    look_limit: int | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is looked at. `limit`: dead letters that are meant; `scan`: messages of the queue; None is all of them."""

    limit: int | None = None
    scan: int | None = DEFAULT_SCAN


@dataclass(slots=True)
class Looked:
    """What was seen of a queue: the dead letters that are meant, how many were looked at, how many there were."""

    letters: list[Letter] = field(default_factory=list)
    seen: int = 0
    ready: int = 0

    @property
    def complete(self) -> bool:
        """Whether the whole queue was looked at."""
        return self.seen >= self.ready


@dataclass(slots=True)
class Tally:
    """What became of dead letters, counted while it happens."""

    sent: Counter[str] = field(default_factory=Counter)
    """By the queue they went to."""
    stayed: Counter[str] = field(default_factory=Counter)
    """By the reason."""
    ids: set[str] = field(default_factory=set)
    """Of all that were meant."""
    seen: int = 0
    ready: int = 0
    """How many there were, of which `seen` were looked at."""

    @property
    def sent_count(self) -> int:
        """How many were sent back."""
        return self.sent.total()


@dataclass(frozen=True, slots=True)
class Sending:
    """How dead letters are sent back. `on_progress(sent, seen)` is called after each step."""

    plan: Return
    bounds: Bounds = Bounds(scan=None)
    per_second: float | None = None
    dry_run: bool = False
    window: int = WINDOW
    on_progress: Callable[[Tally], object] | None = None


class Desk:
    """Works on the dead letters of one broker.

    Args:
        connection: To the broker; the desk opens channels on it and closes them.
        clock: For ages and rates.
        stop: Once set, sending back ends after the step under way; pauses wait on it.
    """

    def __init__(
        self, connection: Connection, clock: Clock = SYSTEM_CLOCK, *, stop: threading.Event | None = None
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._stop = stop or threading.Event()

    def look(self, source: Source, choice: Choice, bounds: Bounds) -> Looked:
        """Return the dead letters that are meant; all of them stay where they are.

        Raises:
            ObjectNotFound: There is no such queue.
            LocalError: Looking once more could cost a message (`flows.look_limit`).
        """
        with self.holding(source, choice, bounds) as (looked, _):
            return looked

    @contextmanager
    def holding(
        self, source: Source, choice: Choice, bounds: Bounds, *, for_good: bool = False
    ) -> Iterator[tuple[Looked, Callable[[Letter], None]]]:
        """Hold the dead letters that are meant, with a function that drops one; the others go back at the end.

        Args:
            source: The dead-letter queue.
            choice: Which of them.
            bounds: How much is looked at.
            for_good: What is meant will be dropped, so that only the others need to be spared.

        Raises:
            ObjectNotFound: There is no such queue.
            LocalError: Looking once more could cost a message (`flows.look_limit`).
            ChannelClosed: The broker took them back before the end: what was dropped then may be there still.
        """
        looked = Looked()
        with self._channel() as channel:
            for letters in self._windows(channel, source, bounds, looked, WINDOW):
                now = self._clock.time()
                meant = [letter for letter in letters if choice.takes(letter, now)]
                _spare([each for each in letters if not for_good or not choice.takes(each, now)], source)
                looked.letters += meant if bounds.limit is None else meant[: bounds.limit - len(looked.letters)]
                if bounds.limit is not None and len(looked.letters) >= bounds.limit:
                    break

            def drop(letter: Letter) -> None:
                self._check_held(channel)
                channel.ack(letter.delivery.tag)

            yield looked, drop

    def send_back(self, source: Source, choice: Choice, sending: Sending, tally: Tally) -> None:
        """Send dead letters back to the queues they came from; each is acknowledged when its copy is confirmed.

        Only what the queue held at the beginning is looked at, so that what fails again meanwhile is not sent back again.

        Args:
            source: The dead-letter queue.
            choice: Which of them.
            sending: How.
            tally: Counts what became of them, also where this raises.

        Raises:
            ObjectNotFound: There is no such queue.
            ChannelClosed, ConnectionLost, OutcomeUnknown: It was cut off; those under way may be in both queues.
            Blocked: The broker takes no messages now.
        """
        looked = Looked()
        bucket = Bucket(sending.per_second, self._clock.monotonic, burst=sending.window)
        limit = sending.bounds.limit
        with self._channel() as reading, self._channel() as publishing:
            window = _window(sending)
            for letters in self._windows(reading, source, sending.bounds, looked, window):
                tally.ready += looked.ready if looked.seen == len(letters) else 0
                waiting = self._planned(letters, source, choice, sending, tally)
                tally.seen += len(letters)
                while waiting and not self._stop.is_set():
                    left = len(waiting) if limit is None else min(len(waiting), limit - tally.sent_count)
                    if left <= 0:
                        return
                    if sending.dry_run:
                        tally.sent.update(waiting.popleft()[1].routing_key for _ in range(left))
                        continue
                    count = bucket.take(left)
                    if not count:
                        self._stop.wait(bucket.wait_seconds())
                        continue
                    self._check_held(reading)
                    chosen = [waiting.popleft() for _ in range(count)]
                    self._count(self._hand_over(reading, publishing, chosen), tally)
                    if sending.on_progress is not None:
                        sending.on_progress(tally)
                if self._stop.is_set() or (limit is not None and tally.sent_count >= limit):
                    return

    def count(self, source: Source) -> int:
        """Return how many messages a queue has ready.

        Raises:
            ObjectNotFound: There is no such queue.
        """
        with self._channel() as channel:
            return self._run(flows.count(channel, source.queue))

    # ---------------------------------------------------------------------------------------------------------- steps

    def _planned(
        self, letters: list[Letter], source: Source, choice: Choice, sending: Sending, tally: Tally
    ) -> deque[tuple[Letter, Publication]]:
        now = self._clock.time()
        waiting: deque[tuple[Letter, Publication]] = deque()
        for letter in letters:
            if not choice.takes(letter, now):
                _spare([letter], source)
                continue
            tally.ids.add(letter.id)
            planned = sending.plan.plan(letter, now)
            if isinstance(planned, Stays):
                tally.stayed[planned.why] += 1
            else:
                waiting.append((letter, planned))
        return waiting

    def _windows(
        self, channel: Channel, source: Source, bounds: Bounds, looked: Looked, window: int
    ) -> Iterator[list[Letter]]:
        """Take what the queue holds now, a window at a time."""
        looked.ready = self._run(flows.count(channel, source.queue))
        wanted = looked.ready if bounds.scan is None else min(looked.ready, bounds.scan)
        while looked.seen < wanted:
            letters = self._run(flows.take(channel, source.queue, min(window, wanted - looked.seen)))
            if not letters:
                looked.ready = looked.seen  # somebody else takes from it
                return
            looked.seen += len(letters)
            yield letters

    def _hand_over(
        self, reading: Channel, publishing: Channel, chosen: list[tuple[Letter, Publication]]
    ) -> tuple[Handed, ...]:
        try:
            return self._run(flows.hand_over(reading, publishing, chosen))
        except OperationTimeout:
            blocked = self._connection.blocked
            if blocked is None:
                raise
            raise Blocked(
                f"the broker blocks publishers ({blocked}); {len(chosen)} may be in both queues when it takes them after all"
            ) from None

    def _count(self, handed: tuple[Handed, ...], tally: Tally) -> None:
        for each in handed:
            outcome, target = each.outcome, each.publication.routing_key
            if outcome.confirmed:
                tally.sent[target] += 1
            elif outcome.fate is Fate.RETURNED:
                tally.stayed[f"queue {target!r} is missing; `amqpq topology apply` creates what the file declares"] += 1
            elif outcome.fate is Fate.NACKED:
                tally.stayed[f"queue {target!r} did not take it ({outcome.reason or 'it may be full'})"] += 1
        unknown = [each for each in handed if each.outcome.fate is Fate.UNKNOWN]
        if unknown:
            raise OutcomeUnknown(
                f"the channel went away before the broker answered about {len(unknown)} "
                f"({unknown[0].outcome.reason or 'no reason given'}): they are still dead letters, and may be in their "
                "queue as well; the same command goes on with the rest"
            )

    def _check_held(self, channel: Channel) -> None:
        """See that what was taken is still ours: else its copy would be published and the dead letter not acknowledged."""
        reason = channel.closed.result() if channel.closed.done() else None
        if reason is not None:
            raise ChannelClosed(
                f"the broker took the dead letters back ({reason}): nothing is lost, but what was acknowledged last may be "
                "among them; the same command goes on with the rest"
            )

    @contextmanager
    def _channel(self) -> Iterator[Channel]:
        channel = self._connection.channel()
        try:
            yield channel
        except BaseException:
            # The error is what counts; a channel that cannot be closed any more has put everything back already.
            with contextlib.suppress(TransportError):
                self._run(flows.close(channel))
            raise
        self._run(flows.close(channel))
        self._check_held(channel)

    def _run(self, steps: Flow[T]) -> T:
        return flow.run(steps, TIMEOUT_SECONDS)


def _window(sending: Sending) -> int:
    """Return how many to hold: none so long that the broker takes it back (`consumer_timeout`, 30 minutes by default)."""
    if sending.per_second is None:
        return sending.window
    return max(1, min(sending.window, int(sending.per_second * 60)))


def _spare(letters: list[Letter], source: Source) -> None:
    limit = source.look_limit
    if limit is None:
        return
    tired = [letter for letter in letters if letter.deliveries >= limit]
    if tired:
        raise LocalError(
            f"message {tired[0].id or '(without an id)'} in quorum queue {source.queue!r} was handed out "
            f"{tired[0].deliveries} times, each look included; a few more, and the broker would drop it. Set "
            "`delivery_limit: -1` for that queue (RabbitMQ 4), or make it a classic one"
        )
