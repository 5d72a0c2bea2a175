"""The measures: each a flow on channels that are there, for some seconds, in a queue that is there.

They know the transport's interface and nothing of tasks. What they publish is persistent, mandatory and confirmed, and what they
consume is acknowledged after it was handled: the numbers are of what amqpq does, not of what would be faster.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from amqpq.errors import AccessRefused, AmqpqError, ChannelClosed, Nacked, OutcomeUnknown, PublishError, Unroutable
from amqpq.lifecycle import DIRECT_REPLY_QUEUE
from amqpq.measuring.figures import Clocks, Mark
from amqpq.replies.mailbox import Mailbox, ignore
from amqpq.transport.interface import Channel, Connection, Flow, Pending
from amqpq.types import Delivery, Fate, Outcome, Properties, Publication, QueueSpec

WARM_UP: Final = 5
"""The first ones load code and fill caches on both sides; they are not counted."""
WINDOW: Final = 4
"""Batches that wait for their confirms at a time."""
HELD_BYTES: Final = 32 * 2**20
HELD_MESSAGES: Final = 100_000
"""What is published without a consumer is dropped at either: a measure must not fill the broker's memory or disk."""
MARK_EACH: Final = 100
"""Messages between two looks at the clocks while consuming."""
QUEUES_PER_CHANNEL: Final = 4
"""Reply queues that a channel makes before anybody waits."""


class Stopwatch:
    """Notes how far a measure has come; stands still while it is paused."""

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self._wall = self._cpu = 0.0  # to take off: what passed while paused
        self._paused = (0.0, 0.0)
        self._began = clocks.wall()
        self.marks = [Mark(0, clocks.wall(), clocks.cpu())]

    @property
    def seconds(self) -> float:
        """Seconds since it was made, pauses included: what a deadline is about."""
        return self._clocks.wall() - self._began

    def mark(self, messages: int) -> None:
        """Note that so many messages have passed since the beginning."""
        self.marks.append(Mark(messages, self._clocks.wall() - self._wall, self._clocks.cpu() - self._cpu))

    def pause(self) -> None:
        """Stand still until `go_on`."""
        self._paused = (self._clocks.wall(), self._clocks.cpu())

    def go_on(self) -> None:
        """Go on."""
        self._wall += self._clocks.wall() - self._paused[0]
        self._cpu += self._clocks.cpu() - self._paused[1]


def repeated(
    once: Callable[[], Flow[None]], clocks: Clocks, seconds: float, tidy: Callable[[int], Flow[None]] | None = None
) -> Flow[list[float]]:
    """Do something again and again, one at a time, and return how long each took, in seconds.

    Args:
        once: What is timed.
        clocks: The time.
        seconds: How long.
        tidy: Called with the number of times so far, between two of them; not timed.
    """
    for _ in range(WARM_UP):
        yield from once()
    times: list[float] = []
    end = clocks.wall() + seconds
    while not times or clocks.wall() < end:
        began = clocks.wall()
        yield from once()
        times.append(clocks.wall() - began)
        if tidy is not None:
            yield from tidy(len(times))
    return times


def publish_singly(
    channel: Channel, queue: str, message: Publication, clocks: Clocks, seconds: float
) -> Flow[list[float]]:
    """Publish one message at a time to a queue that nobody consumes; it is emptied on the way, which is not timed."""
    most = most_held([message])

    def once() -> Flow[None]:
        return confirmed(channel.publish([message]))

    def empty(times: int) -> Flow[None]:
        if times % most == 0:
            yield channel.purge_queue(queue)

    return (yield from repeated(once, clocks, seconds, empty))


def asked(ask: Callable[[], Pending[Any]]) -> Flow[None]:
    """Ask and wait for the answer."""
    yield ask()


def answered(asked_at_once: Iterable[Pending[Any]]) -> Flow[None]:
    """Wait for the answers to what was asked in one go."""
    for pending in asked_at_once:  # noqa: UP028 - a flow is sent results, which a list does not take
        yield pending


def confirmed(pending: Pending[list[Outcome]]) -> Flow[None]:
    """Wait for confirms.

    Raises:
        AccessRefused: We may not write to the exchange; the outcome of a publish says that in the broker's words only.
        PublishError: The broker did not take one of the messages.
    """
    outcomes = yield pending
    for outcome in outcomes:
        if not outcome.confirmed:
            if "ACCESS_REFUSED" in outcome.reason:
                raise AccessRefused(outcome.reason)
            kind = _REFUSALS.get(outcome.fate, PublishError)
            raise kind(f"a message of the measure was {outcome.fate}: {outcome.reason}")


_REFUSALS: Mapping[Fate, type[PublishError]] = {
    Fate.RETURNED: Unroutable,
    Fate.NACKED: Nacked,
    Fate.UNKNOWN: OutcomeUnknown,
}


def publish_batches(
    channel: Channel, queue: str, batch: Sequence[Publication], clocks: Clocks, seconds: float
) -> Flow[list[Mark]]:
    """Publish a batch again and again to a queue that nobody consumes; it is emptied on the way, which is not counted."""
    yield from confirmed(channel.publish(batch))
    most = most_held(batch)
    watch = Stopwatch(clocks)
    published = passed = held = 0
    under_way: deque[Pending[list[Outcome]]] = deque()
    while under_way or passed == 0 or watch.seconds < seconds:
        while len(under_way) < WINDOW and held < most and (published == 0 or watch.seconds < seconds):
            under_way.append(channel.publish(batch))
            published += len(batch)
            held += len(batch)
        if under_way:
            yield from confirmed(under_way.popleft())
            passed += len(batch)
            watch.mark(passed)
        if not under_way and held >= most:
            watch.pause()
            yield channel.purge_queue(queue)
            watch.go_on()
            held = 0
    return watch.marks


def most_held(messages: Sequence[Publication]) -> int:
    """Return how many messages like these may be on the broker at a time."""
    size = sum(len(message.body) for message in messages) / len(messages)
    return max(min(int(HELD_BYTES / max(size, 1)), HELD_MESSAGES), len(messages))


class Intake:
    """Counts what a consumer gets, and tells the flow that waits for a number of them.

    Args:
        channel: What it consumes on.
        connection: Of that channel.
        acknowledge: Whether to acknowledge each delivery, after it was counted.
    """

    def __init__(self, channel: Channel, connection: Connection, *, acknowledge: bool) -> None:
        self.count = 0
        self._channel = channel
        self._connection = connection
        self._acknowledge = acknowledge
        self._waiting: tuple[int, Pending[None]] | None = None
        self._lost: AmqpqError | None = None
        self._lock = threading.Lock()
        self._watch: Stopwatch | None = None
        self._offset = 0
        channel.closed.add_done_callback(self._closed)

    def consume(self, queue: str, prefetch: int) -> Pending[str]:
        """Begin to consume."""
        return self._channel.consume(
            queue, self._deliver, prefetch=prefetch, no_ack=not self._acknowledge, on_cancel=self._cancelled
        )

    def start(self, watch: Stopwatch) -> None:
        """Mark on this stopwatch from here on."""
        with self._lock:
            self._offset = self.count
            self._watch = watch

    def stop(self) -> None:
        """Mark no more; the last delivery is marked in any case."""
        with self._lock:
            watch, self._watch = self._watch, None
            passed = self.count - self._offset
            if watch is not None and watch.marks[-1].messages < passed:
                watch.mark(passed)

    def reached(self, count: int) -> Flow[None]:
        """Wait until so many deliveries have come in all.

        Raises:
            ChannelClosed: They cannot come any more.
        """
        with self._lock:
            if self._lost is not None:
                raise self._lost
            if self.count >= count:
                return
            pending: Pending[None] = self._connection.pending()
            self._waiting = (count, pending)
        yield pending

    def _deliver(self, delivery: Delivery) -> None:
        with self._lock:
            self.count += 1
            arrived: Pending[None] | None = None
            if self._waiting is not None and self.count >= self._waiting[0]:
                arrived, self._waiting = self._waiting[1], None
            passed = self.count - self._offset
            if self._watch is not None and (arrived is not None or passed % MARK_EACH == 0):
                self._watch.mark(passed)
        if self._acknowledge:
            self._channel.ack(delivery.tag)
        if arrived is not None:
            arrived.set_result(None)

    def _cancelled(self, _: str) -> None:
        self._lose(ChannelClosed("the broker cancelled the consumer: the queue of the measure was deleted by somebody"))

    def _closed(self, closed: Pending[AmqpqError | None]) -> None:
        self._lose(closed.result() or ChannelClosed("the channel was closed here"))

    def _lose(self, error: AmqpqError) -> None:
        with self._lock:
            self._lost = error
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting[1].set_exception(error)


def through(
    channel: Channel, intake: Intake, batch: Sequence[Publication], ahead: int, clocks: Clocks, seconds: float
) -> Flow[list[Mark]]:
    """Publish a batch again and again while it is consumed, at most `ahead` messages before the consumer."""
    base = intake.count
    yield from confirmed(channel.publish(batch))
    yield from intake.reached(base + len(batch))
    watch = Stopwatch(clocks)
    intake.start(watch)
    base, published = intake.count, 0
    under_way: deque[Pending[list[Outcome]]] = deque()
    while published == 0 or watch.seconds < seconds:
        under_way.append(channel.publish(batch))
        published += len(batch)
        if len(under_way) >= WINDOW:
            yield from confirmed(under_way.popleft())
        yield from intake.reached(base + published - ahead)
    while under_way:
        yield from confirmed(under_way.popleft())
    yield from intake.reached(base + published)
    intake.stop()
    return watch.marks


# -------------------------------------------------------------------------------------------------------------- replies


def serve(connection: Connection, queue: str, prefetch: int) -> Flow[None]:
    """Answer every call that comes to `queue` with its own body, from here on."""
    channel = connection.channel()

    def answer(call: Delivery) -> None:
        asked_by = call.properties
        reply = Properties(content_type=asked_by.content_type, correlation_id=asked_by.correlation_id)
        ignore(channel.publish([Publication("", asked_by.reply_to or "", call.body, reply, mandatory=False)]))
        channel.ack(call.tag)

    yield channel.consume(queue, answer, prefetch=prefetch)


def listen(connection: Connection) -> Flow[tuple[Channel, Intake]]:
    """Return a channel to publish direct calls on, and the intake of their replies."""
    channel = connection.channel()
    intake = Intake(channel, connection, acknowledge=False)
    yield intake.consume(DIRECT_REPLY_QUEUE, 0)
    return channel, intake


def call_once(channel: Channel, intake: Intake, call: Publication) -> Flow[None]:
    """Publish a call, see it confirmed, and wait for its reply."""
    wanted = intake.count + 1
    yield from confirmed(channel.publish([call]))
    yield from intake.reached(wanted)


def queue_lives(
    connection: Connection, channels: Sequence[Channel], specs: Callable[[int], list[QueueSpec]], body: Publication,
    clocks: Clocks, seconds: float,
) -> Flow[list[Mark]]:  # fmt: skip
    """Live the life of reply queues, many at a time: declare, publish, fetch, delete.

    Args:
        connection: Of the channels.
        channels: They share the work: the broker answers a channel's declarations one after another.
        specs: Makes so many queues that are not there yet.
        body: What is published to each; its routing key is replaced.
        clocks: The time.
        seconds: How long.
    """
    yield from _one_life_each(connection, channels[:1], specs(1), body)
    watch = Stopwatch(clocks)
    passed = 0
    at_once = min(len(channels) * QUEUES_PER_CHANNEL, most_held([body]))
    while passed == 0 or watch.seconds < seconds:
        queues = specs(at_once)
        yield from _one_life_each(connection, channels, queues, body)
        passed += len(queues)
        watch.mark(passed)
    return watch.marks


def _one_life_each(
    connection: Connection, channels: Sequence[Channel], queues: Sequence[QueueSpec], reply: Publication
) -> Flow[None]:
    placed = [(channels[position % len(channels)], queue) for position, queue in enumerate(queues)]
    declared = []
    published = []
    for channel, queue in placed:
        declared.append(channel.declare_queue(queue))
        published.append(channel.publish([Publication("", queue.name, reply.body, reply.properties)]))
    yield from answered(declared)
    for outcomes in published:
        yield from confirmed(outcomes)
    arrived: Mailbox[Channel] = Mailbox(connection.pending)
    consumed = [channel.consume(queue.name, _settling(channel, arrived), prefetch=1) for channel, queue in placed]
    yield from answered(consumed)
    for _ in placed:
        yield from arrived.next()
    # The consumer goes with its queue: to cancel it first would cost another round trip.
    yield from answered([channel.delete_queue(queue.name) for channel, queue in placed])


def _settling(channel: Channel, arrived: Mailbox[Channel]) -> Callable[[Delivery], None]:
    def deliver(delivery: Delivery) -> None:
        channel.ack(delivery.tag)
        arrived.put(channel)

    return deliver


def delete(channel: Channel, queues: AbstractSet[str]) -> Flow[None]:
    """Delete queues; one that is gone already is fine."""
    yield from answered([channel.delete_queue(name) for name in sorted(queues)])
