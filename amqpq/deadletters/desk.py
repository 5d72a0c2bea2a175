"""The desk for blocking code: looks, sends back, drops; one queue at a time, so many messages in memory at a time."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from amqpq.clock import SYSTEM_CLOCK, Clock
from amqpq.deadletters import flows, returning
from amqpq.deadletters.choosing import Choice
from amqpq.deadletters.letter import Letter
from amqpq.deadletters.pacing import Bucket
from amqpq.deadletters.planning import Plan, Stays
from amqpq.deadletters.returning import Way
from amqpq.errors import (
    Blocked,
    ChannelClosed,
    LocalError,
    ObjectNotFound,
    OperationTimeout,
    OutcomeUnknown,
    TransportError,
)
from amqpq.topology.generations import Generations
from amqpq.transport import flow, register
from amqpq.transport.interface import Channel, Connection, Flow
from amqpq.types import Publication

T = TypeVar("T")

TIMEOUT_SECONDS: Final = 30.0
WINDOW: Final = 32
"""Messages that are asked for at once, and copies that wait for their confirm."""
ROUNDS: Final = 5
"""How often it begins anew because copies of a run that was cut off turn up in the middle."""
RESTING_LOOKS: Final = 3
LOOK_SECONDS: Final = 0.1
COPIES: Final = 500
"""That are finished at a time."""
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
    finished: int = 0
    """How many were on their way since a run that was cut off, and are sent now."""

    @property
    def sent_count(self) -> int:
        """How many were sent back."""
        return self.sent.total()


@dataclass(frozen=True, slots=True)
class Sending:
    """How dead letters are sent back. `on_progress(sent, seen)` is called after each step."""

    plan: Plan
    bounds: Bounds = Bounds(scan=None)
    per_second: float | None = None
    dry_run: bool = False
    window: int = WINDOW
    on_progress: Callable[[Tally], object] | None = None


class _OthersOnTheWayError(OutcomeUnknown):
    """Copies of a run that was cut off turned up among ours: its connection had only just gone."""


class Desk:
    """Works on the dead letters of one broker.

    Args:
        connection: To the broker; the desk opens channels on it and closes them.
        clock: For ages and rates.
        project: Names the queue on the way back.
        stop: Once set, sending back ends after the step under way; pauses wait on it.
    """

    def __init__(
        self,
        connection: Connection,
        clock: Clock = SYSTEM_CLOCK,
        *,
        project: str = "amqpq",
        stop: threading.Event | None = None,
    ) -> None:
        self._connection = connection
        self._way = Way(project)
        self._targets: dict[str, bool] = {}
        self._generations: Generations | None = None
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
        """Send dead letters back to the queues they came from, first those that a run that was cut off left on their way.

        Only what the queue held at the beginning is looked at, so that what fails again meanwhile is not sent back again.

        Args:
            source: The dead-letter queue.
            choice: Which of them.
            sending: How.
            tally: Counts what became of them, also where this raises.

        Raises:
            ObjectNotFound: There is no such queue.
            ChannelClosed, ConnectionLost, OutcomeUnknown: It was cut off; the next run finishes what is on the way.
            Blocked: The broker takes no messages now.
            ResourceLocked: Another run is at work.
        """
        if sending.dry_run:
            self._send_back(source, choice, sending, tally)
            return
        for left in reversed(range(ROUNDS)):
            self.finish([source], tally)
            try:
                self._send_back(source, choice, sending, tally)
            except _OthersOnTheWayError:
                if not left:
                    raise
            else:
                break
        # What a run that was killed held comes back to the way when the broker has noticed its end, which may be only now.
        self.finish([source], tally)

    def _send_back(self, source: Source, choice: Choice, sending: Sending, tally: Tally) -> None:
        looked = Looked()
        bucket = Bucket(sending.per_second, self._clock.monotonic, burst=sending.window)
        limit = sending.bounds.limit
        with self._channel() as reading, self._channel() as publishing, self._channel() as moving:
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
                    chosen = _take_different(waiting, count)
                    self._hand_over((reading, publishing, moving), chosen, tally)
                    if sending.on_progress is not None:
                        sending.on_progress(tally)
                if self._stop.is_set() or (limit is not None and tally.sent_count >= limit):
                    return

    def finish(self, sources: Sequence[Source], tally: Tally) -> None:
        """Finish what a run that was cut off left on the way.

        Args:
            sources: Dead-letter queues with a `look_limit`; others that copies came from are looked at without.
            tally: Counts them.

        Raises:
            ResourceLocked: Another run is at work.
            LocalError: Looking for the originals could cost a message (`flows.look_limit`).
        """
        known = {source.queue: source for source in sources}
        with self._channel() as moving:
            left = self._run(returning.prepare(moving, self._way))
            if left or sources:
                left = self._rested(sources)
            while left:
                copies = self._run(returning.take_copies(moving, self._way, min(left, COPIES)))
                if not copies:
                    return  # they are there, but not yet to be had: those of a connection that just went
                marks = returning.marks(copies)
                for queue in {returning.queue_of(mark) for mark in marks}:
                    self._drop_originals(known.get(queue) or Source(queue), marks)
                tally.finished += self._run(returning.move_once(moving, self._way, copies))
                tally.ids.update(str(copy.properties.headers.get("id") or "") for copy in copies)
                left -= len(copies)

    def _rested(self, sources: Sequence[Source]) -> int:
        """Wait until the way and the dead letters rest; return how many copies are on the way.

        A run that was killed held copies, and perhaps their originals. The broker gives them back one queue after the other.
        A copy that is moved before its original is there again would be the first of two.
        """
        before: list[int] = []
        resting = 0
        while resting < RESTING_LOOKS:
            now = [self._count_or_none(source) for source in (Source(self._way.name), *sources)]
            resting = resting + 1 if now == before else 0
            before = now
            self._stop.wait(LOOK_SECONDS)
        return before[0]

    def _count_or_none(self, source: Source) -> int:
        try:
            return self.count(source)
        except ObjectNotFound:
            return 0

    def _drop_originals(self, source: Source, marks: Counter[str]) -> None:
        """Acknowledge the dead letters whose copies are on the way. Where they are is not known: the queue is gone through."""
        with self._channel() as reading:
            try:
                for letters in self._windows(reading, source, Bounds(scan=None), Looked(), COPIES):
                    _spare([letter for letter in letters if not marks[returning.token(letter)]], source)
                    for letter in letters:
                        mark = returning.token(letter)
                        if marks[mark]:
                            marks[mark] -= 1
                            reading.ack(letter.delivery.tag)
            except ObjectNotFound:
                return  # the queue is gone, and the originals with it
            self._run(returning.read_by_broker(reading))

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
            planned = self._at_home(sending.plan.plan(letter, now))
            if not isinstance(planned, Stays) and not self._is_there(planned.routing_key):
                target = planned.routing_key
                planned = Stays(f"queue {target!r} is missing; `amqpq topology apply` creates what the file declares")
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
        self, channels: tuple[Channel, Channel, Channel], chosen: list[tuple[Letter, Publication]], tally: Tally
    ) -> None:
        """Put copies on the way, acknowledge, move: see `returning`. The way is empty before and after."""
        reading, publishing, moving = channels
        try:
            outcomes = self._run(returning.stage(reading, publishing, self._way, chosen))
        except OperationTimeout:
            blocked = self._connection.blocked
            if blocked is None:
                raise
            raise Blocked(
                f"the broker blocks publishers ({blocked}); the next run goes on, and finishes what is on the way"
            ) from None
        doubtful = [outcome for outcome in outcomes if not outcome.confirmed]
        if doubtful:
            raise OutcomeUnknown(
                f"the broker did not confirm {len(doubtful)} ({doubtful[0].reason or 'no reason given'}); "
                "the next run goes on, and finishes what is on the way"
            )
        self._check_held(reading)
        copies = self._run(returning.take_copies(moving, self._way, len(chosen)))
        if returning.marks(copies) != Counter(returning.token(letter) for letter, _ in chosen):
            raise _OthersOnTheWayError(
                "there are other copies on the way, of a run that was cut off; the next run finishes them"
            )
        self._run(returning.move(moving, self._way, copies))
        self._check_held(moving)
        tally.sent.update(publication.routing_key for _, publication in chosen)

    def _at_home(self, planned: Publication | Stays) -> Publication | Stays:
        """Return a copy as it has to be addressed: the broker moves it to a queue by that one's name, and it may have moved."""
        if isinstance(planned, Stays):
            return planned
        if self._generations is None:
            self._generations = register.look_now(self._connection, self._way.project)
        return planned._replace(routing_key=self._generations.current(planned.routing_key))

    def _is_there(self, queue: str) -> bool:
        """Whether a target exists; asked once. One that goes later keeps its copies on the way until it is back."""
        if queue not in self._targets:
            channel = self._connection.channel()
            try:
                self._run(flows.count(channel, queue))
            except ObjectNotFound:
                self._targets[queue] = False
            else:
                self._run(flows.close(channel))
                self._targets[queue] = True
        return self._targets[queue]

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


def _take_different(waiting: deque[tuple[Letter, Publication]], count: int) -> list[tuple[Letter, Publication]]:
    """Take up to `count`, and no two equal ones: on the way they could not be told apart."""
    chosen: dict[str, tuple[Letter, Publication]] = {}
    while waiting and len(chosen) < count:
        mark = returning.token(waiting[0][0])
        if mark in chosen:
            break
        chosen[mark] = waiting.popleft()
    return list(chosen.values())


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
