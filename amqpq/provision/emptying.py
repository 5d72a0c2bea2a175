"""Proves that a queue is empty, and moves what still comes to it.

What a queue says of itself is no proof: a quorum queue answers 0 when its leader cannot be found, `if-empty` does not look at
what consumers hold, and quorum queues do not know `if-empty` at all. So the queue is emptied once more, by a consumer that is
the only one left:

1. A message of our own, the *sentinel*, is published to it by name, at the lowest priority. When it is delivered, everything
   that was there before it has been delivered as well.
2. What else is delivered came from somebody who publishes to the queue by its physical name. It is moved to the ingress:
   published with a confirm, then acknowledged. Then the wait for quiet begins anew.
3. When nothing has come for a while, the queue is empty. Whether a consumer that has gone still holds deliveries only
   the management API knows.

Who is killed while moving may leave up to a window of messages in both queues. Producers of ours do not come that way: they
publish to the ingress long before.
"""

from __future__ import annotations

import queue as queues
import time
import uuid
from collections.abc import Callable
from typing import Final

from amqpq.errors import OutcomeUnknown, ResourceLocked, TransportError
from amqpq.topology.generations import ingress_name
from amqpq.transport import flow
from amqpq.transport.interface import Channel, Connection, Flow, caught_up
from amqpq.types import Delivery, Outcome, Properties, Publication

WINDOW: Final = 100
"""Messages held at a time."""
ANSWER_SECONDS: Final = 30.0
SENTINEL: Final = "amqpq-sentinel"
"""Header of the message that proves the queue empty."""
USER_ID: Final = "amqpq-user-id"
_TICK_SECONDS: Final = 0.25

_LEFT_BEHIND: Final = ("CC", "BCC", "x-death", "x-delivery-count", "x-acquired-count")
"""Headers on which RabbitMQ would act, or that are true of one stay in one queue."""
_LEFT_PREFIXES: Final = ("x-first-death-", "x-last-death-")


class Mover:
    """Empties a queue into the ingress of its logical name.

    Args:
        connection: To work on.
        queue: The logical name.
        physical: The queue that is given up.
    """

    def __init__(self, connection: Connection, queue: str, physical: str) -> None:
        self.moved = 0
        self._connection = connection
        self._queue = queue
        self._physical = physical
        self._mark = uuid.uuid4().hex
        self._deliveries: queues.SimpleQueue[Delivery | None] = queues.SimpleQueue()

    def empty(self, quiet_seconds: float, timeout_seconds: float) -> None:
        """Move everything, until the sentinel has come and nothing else for `quiet_seconds`.

        Raises:
            OutcomeUnknown: The ingress did not take a message; it is still in the queue.
            TransportError: The queue is not quiet within `timeout_seconds`, or was taken away.
        """
        deadline = time.monotonic() + timeout_seconds
        reading, writing = self._connection.channel(), self._connection.channel()
        try:
            tag = flow.run(self._consume(reading), ANSWER_SECONDS)
            self._publish(writing, self._sentinel())
            quiet_since: float | None = None
            while True:
                window = self._window()
                if self._move(reading, writing, window):
                    quiet_since = time.monotonic()
                now = time.monotonic()
                if quiet_since is not None and not window and now - quiet_since >= quiet_seconds:
                    break
                if quiet_since is not None and window:
                    quiet_since = now
                if now > deadline:
                    raise TransportError(
                        f"queue {self._physical!r} still gets messages, {self.moved} were moved in {timeout_seconds:g} s: "
                        "somebody publishes to it by its physical name; find out who, or keep the queue"
                    )
            flow.run(_end(reading, tag), ANSWER_SECONDS)
        finally:
            reading.close()
            writing.close()

    def _consume(self, channel: Channel) -> Flow[str]:
        tag: str = yield channel.consume(
            self._physical, self._deliveries.put, prefetch=WINDOW, on_cancel=lambda _: self._deliveries.put(None)
        )
        return tag

    def _window(self) -> list[Delivery]:
        window: list[Delivery] = []
        while len(window) < WINDOW:
            try:
                delivery = self._deliveries.get(timeout=0 if window else _TICK_SECONDS)
            except queues.Empty:
                break
            if delivery is None:
                raise ResourceLocked(f"the broker has taken the consumer of {self._physical!r} away; `resume`")
            window.append(delivery)
        return window

    def _move(self, reading: Channel, writing: Channel, window: list[Delivery]) -> bool:
        """Move a window of messages; say whether the sentinel was among them."""
        ours = [each for each in window if each.properties.headers.get(SENTINEL) == self._mark]
        # One of an earlier run that was cut off means nothing to anybody.
        others = [each for each in window if SENTINEL not in each.properties.headers]
        if others:
            self._publish(writing, *(copy(each, self._queue) for each in others))
        for delivery in window:
            reading.ack(delivery.tag)
        self.moved += len(others)
        return bool(ours)

    def _sentinel(self) -> Publication:
        properties = Properties(headers={SENTINEL: self._mark}, delivery_mode=2, priority=0)
        return Publication("", self._physical, b"", properties)

    def _publish(self, channel: Channel, *publications: Publication) -> None:
        outcomes = flow.run(_published(channel, publications), ANSWER_SECONDS)
        bad = next((outcome for outcome in outcomes if not outcome.confirmed), None)
        if bad is not None:
            raise OutcomeUnknown(
                f"a message of {self._physical!r} was not taken ({bad.fate} {bad.reason}); it stays there"
            )


def copy(delivery: Delivery, queue: str) -> Publication:
    """Return a delivery as it goes to the ingress of `queue`: with its own key, and without what RabbitMQ would act upon."""
    properties = delivery.properties
    headers = {
        name: value
        for name, value in properties.headers.items()
        if name not in _LEFT_BEHIND and not name.startswith(_LEFT_PREFIXES)
    }
    if properties.user_id is not None:
        headers[USER_ID] = properties.user_id  # the broker refuses it from anybody else
    kept = properties._replace(headers=headers, user_id=None)
    return Publication(ingress_name(queue), delivery.routing_key, delivery.body, kept)


def until_unheld(
    unsettled: Callable[[str], int | None], queue: str, timeout_seconds: float, sample_seconds: float
) -> None:
    """Wait until the management API has said twice that nobody holds a message of a queue.

    Args:
        unsettled: Asks it.
        queue: The physical name.
        timeout_seconds: How long at most.
        sample_seconds: Between two questions.

    Raises:
        TransportError: Somebody does, for longer than that.
    """
    deadline = time.monotonic() + timeout_seconds
    zeros = 0
    while True:
        count = unsettled(queue)
        zeros = zeros + 1 if count == 0 else 0
        if zeros == 2:  # noqa: PLR2004 - one may be of before
            return
        if time.monotonic() > deadline:
            raise TransportError(
                f"queue {queue!r} has {count} messages that are held by a consumer which has gone on working after it left, or "
                "that somebody goes on publishing to it by name; when that is over, `resume`"
            )
        time.sleep(sample_seconds)


def _published(channel: Channel, publications: tuple[Publication, ...]) -> Flow[list[Outcome]]:
    outcomes: list[Outcome] = yield channel.publish(publications)
    return outcomes


def _end(channel: Channel, tag: str) -> Flow[None]:
    yield channel.cancel(tag)
    yield caught_up(channel)
