"""Follows the record of generations: learns which physical queues to consume, while the worker runs.

The record is the last entry of a stream (`amqpq.topology.generations`). A project that never migrated has none; then it is looked
for every `LOOK_SECONDS`, and a migration waits that long for its workers. Whoever listens hears of every step at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final, cast

from amqpq.consumer import Tap
from amqpq.errors import AmqpqError, ConnectionLost, LocalError, ObjectNotFound
from amqpq.log import WORKER
from amqpq.topology import renames
from amqpq.topology.generations import NOTHING_MOVED, Generations, read, stream_name
from amqpq.topology.model import Queue, QueueType, Topology
from amqpq.transport.interface import Connection
from amqpq.transport.register import OFFSET, PREFETCH
from amqpq.types import Delivery, Publication
from amqpq.worker.reactor import Reactor

logger = logging.getLogger(WORKER)

LOOK_SECONDS: Final = 30.0


class Follower:
    """Keeps the record current.

    Args:
        topology: The project's.
        first: The record that was read at the start; None where there is nothing to follow.
        reactor: The loop's.
        changed: Told each newer record.
    """

    def __init__(
        self, topology: Topology, first: Generations | None, reactor: Reactor, changed: Callable[[Generations], object]
    ) -> None:
        self.generations = first or NOTHING_MOVED
        self._topology = topology
        # Of a rename that nobody has noted yet: the queues of former names that the broker had at the start.
        self._there = [home.current for home in self.generations.homes.values() if not home.noted]
        self._stream = stream_name(topology.project) if first is not None else None
        self._reactor = reactor
        self._changed = changed
        self._connection: Connection | None = None
        self._tap: Tap | None = None
        self._complained = False
        changed(self.generations)

    def open(self, connection: Connection) -> None:
        """Listen through this connection from now on."""
        self._connection = connection
        self._subscribe()

    def address(self, publication: Publication) -> Publication:
        """Return a publication for a queue by its name as it has to be published."""
        return self.generations.address(publication)

    def queue(self, queue: str, source: str) -> Queue:
        """Return a queue of the file as it is on the broker under this name: of the type that it has there."""
        of_file = self._topology.queue(queue)
        assert of_file is not None, queue  # noqa: S101 - the queues of a worker were checked when it was planned
        return replace(of_file, type=cast("QueueType", self.generations.type_of(queue, source, of_file.type)))

    def _subscribe(self) -> None:
        connection = self._connection
        if self._stream is None or connection is None or connection.closed.done() or self._tap is not None:
            return
        tap = self._tap = Tap(self._stream, PREFETCH, self, self._reactor.post, {OFFSET: "last"})
        tap.open(connection)

    # --------------------------------------------------------------------------------------------------- what taps say

    def delivered(self, tap: Tap, delivery: Delivery) -> None:
        """Take an entry; acknowledging it only asks for more."""
        tap.ack(delivery.tag)
        tap.flush()
        try:
            found = renames.placed(self._topology, read(delivery.body), self._there)
        except LocalError as error:
            logger.error("%s: %s", tap.queue, error)  # noqa: TRY400 - the sentence says it all
            return
        if found.serial > self.generations.serial:
            self.generations = found
            self._changed(found)

    def subscribed(self, tap: Tap) -> None:
        """There is a record."""

    def ended(self, tap: Tap, reason: AmqpqError | None) -> None:
        """Look again after a while."""
        if tap is not self._tap:
            return
        self._tap = None
        if isinstance(reason, ConnectionLost):
            return  # the next connection brings the next tap
        if not isinstance(reason, ObjectNotFound) and not self._complained:
            self._complained = True
            logger.warning(
                "cannot read %s, so queues that move to another generation are not followed: %s", tap.queue, reason
            )
        self._reactor.call_later(LOOK_SECONDS, self._subscribe)
