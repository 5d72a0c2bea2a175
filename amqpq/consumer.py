"""Deliveries of one queue: prefetch, acknowledgement, and how consuming ends. Knows tags, not tasks.

A `Tap` is one consumer on a channel of its own, from `basic.consume` to its end. A channel per queue, because the broker
closes the channel for what it refuses (a queue that is gone, a delivery that took too long), and the other queues of the
worker should not notice. A tap ends once and is not revived: its delivery tags die with the channel, and nothing can then
mistake an old tag for a new one. Whoever owns the taps opens the next one.

Acknowledgements are gathered and sent by `flush`: those that form an unbroken run from the oldest unsettled delivery as one
`basic.ack` with `multiple`, the others one by one (AMQP 0-9-1, section 1.8.3.13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from amqpq.errors import AmqpqError, TransportError
from amqpq.transport.interface import Channel, Connection, Pending, caught_up
from amqpq.types import Delivery, Table


class Post(Protocol):
    """Hands a call over to the thread that owns the taps; callable from any thread."""

    def __call__(self, handler: Callable[[Any], object], argument: Any = None, /) -> None:
        """Have `handler(argument)` called there."""


class Drinker(Protocol):
    """Who owns a tap. Called on the owner's thread only."""

    def delivered(self, tap: Tap, delivery: Delivery) -> None:
        """A message came."""

    def subscribed(self, tap: Tap) -> None:
        """The broker delivers from now on."""

    def ended(self, tap: Tap, reason: AmqpqError | None) -> None:
        """The tap is dry: its channel is closed, and its unsettled deliveries are the broker's again."""


def runs(unsettled: Iterable[int], acknowledged: Mapping[int, object] | set[int]) -> list[tuple[int, bool]]:
    """Return the acks that settle the acknowledged tags, as (tag, multiple) in the order to send them.

    Args:
        unsettled: Every delivery tag that is not settled yet, the acknowledged ones included, ascending.
        acknowledged: Those to settle.
    """
    covered = 0
    last = 0
    for tag in unsettled:
        if tag not in acknowledged:
            break
        covered += 1
        last = tag
    single = [(tag, False) for tag in sorted(acknowledged) if tag > last]
    return [(last, covered > 1), *single] if covered else single


class Tap:
    """One consumer on a channel of its own.

    Args:
        queue: Its name.
        prefetch: Unacknowledged deliveries the broker lets us hold; what bounds our memory.
        owner: Told what happens.
        post: Hands calls to the owner's thread.
        arguments: Of the subscription, as the broker takes them (`x-stream-offset`).
        source: The queue's name on the broker, where it has moved and is called otherwise there.
    """

    def __init__(
        self,
        queue: str,
        prefetch: int,
        owner: Drinker,
        post: Post,
        arguments: Table | None = None,
        source: str | None = None,
    ) -> None:
        self.queue = queue
        self.source = source or queue
        self.prefetch = prefetch
        self.alive = False
        self.consuming = False
        self.reason: AmqpqError | None = None
        self.received = 0
        """How many deliveries came."""
        self._owner = owner
        self._post = post
        self._arguments = arguments
        self._channel: Channel | None = None
        self._consumer_tag: str | None = None
        self._unsettled: dict[int, None] = {}
        self._acknowledged: set[int] = set()
        self._closing = False
        self._replacing = False

    def __repr__(self) -> str:
        """Show the queue, the state and what is unsettled."""
        state = "consuming" if self.consuming else "open" if self.alive else "ended"
        return f"<tap on {self.source}: {state}, {len(self._unsettled)} unsettled>"

    def open(self, connection: Connection) -> None:
        """Open the channel and subscribe; `subscribed` or `ended` follows."""
        self.alive = True
        post = self._post
        try:
            channel = self._channel = connection.channel()
        except TransportError as error:  # the connection ended before we came to use it
            post(self._unopened, error)
            return
        channel.closed.add_done_callback(lambda pending: post(self._closed, pending))
        self._subscribe(channel)

    def resize(self, prefetch: int) -> None:
        """Hold so many deliveries from now on.

        A consumer keeps the prefetch that it began with (https://www.rabbitmq.com/docs/consumer-prefetch). So another takes
        its place on the same channel, where delivery tags stay valid. Until what the first one brought is settled, that
        comes on top.
        """
        self.prefetch = prefetch
        if self.consuming and not self._replacing and self._channel is not None:
            self._replacing = True
            self._subscribe(self._channel)

    def _subscribe(self, channel: Channel) -> None:
        post, delivered, prefetch = self._post, self._delivered, self.prefetch
        pending = channel.consume(
            self.source,
            lambda delivery: post(delivered, delivery),
            prefetch=prefetch,
            on_cancel=lambda _tag: post(self._cancelled, None),
            arguments=self._arguments,
        )
        pending.add_done_callback(lambda answer: post(self._answered, (answer, prefetch)))

    def ack(self, tag: int) -> None:
        """Settle a delivery with the next `flush`."""
        if tag in self._unsettled:
            self._acknowledged.add(tag)

    def flush(self) -> None:
        """Send the gathered acks."""
        acknowledged = self._acknowledged
        if not acknowledged or self._channel is None:
            return
        self._channel.acknowledge(runs(self._unsettled, acknowledged))
        for tag in acknowledged:
            del self._unsettled[tag]
        acknowledged.clear()

    @property
    def unsettled(self) -> int:
        """How many deliveries are neither acknowledged nor given back."""
        return len(self._unsettled)

    def give_back(self, tag: int, *, begun: bool = False) -> None:
        """Have the broker requeue a delivery, now.

        Args:
            tag: The delivery's.
            begun: Whether something was done with it. Then a quorum queue should count it; what only waited here is
                innocent, and would reach the queue's delivery limit by restarts alone.
        """
        if tag in self._unsettled and self._channel is not None:
            self._acknowledged.discard(tag)
            del self._unsettled[tag]
            if begun:
                self._channel.reject(tag, requeue=True)
            else:
                self._channel.release(tag)

    def when_settled(self, then: Callable[[Any], object], argument: Any) -> None:
        """Call `then(argument)` when the broker has read every acknowledgement so far, or never will."""
        self.flush()
        if self._channel is None:
            self._post(then, argument)
            return
        caught_up(self._channel).add_done_callback(lambda _: self._post(then, argument))

    def cancel(self) -> None:
        """Stop deliveries; those here can still be settled."""
        if self.alive and self._channel is not None and self._consumer_tag is not None:
            self._channel.cancel(self._consumer_tag)
            self._consumer_tag = None
        self.consuming = False

    def close(self) -> None:
        """End the tap after what was sent before; unsettled deliveries go back."""
        if self.alive and not self._closing and self._channel is not None:
            self._closing = True
            self.flush()
            self._channel.close()

    # ---------------------------------------------------------------------------------------- on the owner's thread

    def _delivered(self, delivery: Delivery) -> None:
        if self.alive:
            self.received += 1
            self._unsettled[delivery.tag] = None
            self._owner.delivered(self, delivery)

    def _answered(self, answered: tuple[Pending[str], int]) -> None:
        answer, prefetch = answered
        if answer.exception() is None and self.alive and self._channel is not None:
            before, self._consumer_tag = self._consumer_tag, answer.result()
            replaced, self._replacing = self._replacing, False
            if replaced:
                if before is None:  # cancelled meanwhile: so is this one
                    self.cancel()
                    return
                self._channel.cancel(before)
            else:
                self.consuming = True
                self._owner.subscribed(self)
            if self.prefetch != prefetch:
                self.resize(self.prefetch)
        # A refusal closes the channel, and the reason comes with that.

    def _cancelled(self, _: None) -> None:
        # The broker cancels a consumer whose queue is deleted or moved, or (4.3) whose delivery took too long
        # (https://www.rabbitmq.com/docs/consumer-cancel). Closing the channel makes all of these the same case.
        self.consuming = False
        self._consumer_tag = None
        self.close()

    def _closed(self, closed: Pending[AmqpqError | None]) -> None:
        self._over(closed.result())

    def _unopened(self, error: TransportError) -> None:
        self._over(error)

    def _over(self, reason: AmqpqError | None) -> None:
        if not self.alive:
            return
        self.alive = self.consuming = False
        self.reason = reason
        self._unsettled.clear()
        self._acknowledged.clear()
        self._owner.ended(self, self.reason)
