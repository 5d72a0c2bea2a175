"""Publishes what may be lost, answers to control messages and events, and never stands in the way of results.

It has a channel of its own on the publishing connection: what the broker refuses here closes that channel and no other.
What waits to be confirmed is bounded in bytes; what does not fit, and what comes while there is no connection, is counted
and dropped. Nobody waits for any of it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from amqpq.errors import AmqpqError, ConnectionLost
from amqpq.log import WORKER
from amqpq.message.control import REPLIES
from amqpq.transport.interface import Channel, Pending
from amqpq.types import ExchangeSpec, Publication
from amqpq.worker.lane import Lane
from amqpq.worker.reactor import Reactor

logger = logging.getLogger(WORKER)

EVENTS: Final = ExchangeSpec("celeryev", "topic")
"""Celery's exchange of events (celery/events/event.py); durable there, so durable here."""
ROOM_BYTES: Final = 4 * 2**20
"""Of bodies under way."""
PAUSE_SECONDS: Final = 30.0
"""After a refusal, before it is tried again."""


class Sideline:
    """Publishes without promise.

    Args:
        lane: The publishing connection.
        reactor: The loop's.
    """

    def __init__(self, lane: Lane, reactor: Reactor) -> None:
        self.lost = 0
        """Messages that were dropped here."""
        self._lane = lane
        self._reactor = reactor
        self._channel: Channel | None = None
        self._under_way = 0
        self._not_before = 0.0

    def send(self, publications: Sequence[Publication]) -> None:
        """Publish, or drop."""
        size = sum(len(publication.body) for publication in publications)
        channel = self._usable()
        if channel is None or self._under_way + size > ROOM_BYTES:
            self.lost += len(publications)
            return
        self._under_way += size
        pending = channel.publish(publications)
        pending.add_done_callback(lambda _: self._reactor.post(self._answered, size))

    def _answered(self, size: int) -> None:
        self._under_way -= size

    def _usable(self) -> Channel | None:
        connection = self._lane.connection
        if connection is None:
            return None
        if self._channel is None or self._channel.closed.done():
            if self._reactor.monotonic() < self._not_before:
                return None
            try:
                channel = self._channel = connection.channel()
            except ConnectionLost:
                return None
            channel.closed.add_done_callback(lambda closed: self._reactor.post(self._closed, closed))
            for exchange in (REPLIES, EVENTS):
                channel.declare_exchange(exchange)
        return self._channel

    def _closed(self, closed: Pending[AmqpqError | None]) -> None:
        reason = closed.result()
        if reason is None or isinstance(reason, ConnectionLost):
            return
        self._not_before = self._reactor.monotonic() + PAUSE_SECONDS
        logger.warning("answers to control messages and events cannot be sent: %s; trying again later", reason)
