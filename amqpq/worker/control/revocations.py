"""Reads the stream of revocations: what is in it before the worker takes work, and live from then on.

A stream keeps its messages when they are read, so each worker reads it from its first entry: what was revoked while the
worker was not there counts as well. To know when it has read everything that is there, it publishes an entry of its own, a
mark, and reads until that comes by. After a reconnect it goes on behind the last entry it has read, and again up to a mark of
its own before work is taken: what was revoked meanwhile may be the first thing that is delivered.

A worker whose mark does not come within `WAIT_SECONDS` begins without, and says so: that a revoked task may run is less
than that none does.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from typing import Final

from amqpq.consumer import Tap
from amqpq.errors import AmqpqError, ConnectionLost, RemoteMessageError
from amqpq.log import SECURITY, WORKER
from amqpq.message.control import ControlCodec, read_revocation
from amqpq.transport.interface import Connection
from amqpq.types import Delivery, Outcome, Publication
from amqpq.worker.lane import Outlet
from amqpq.worker.reactor import Reactor

worker_log = logging.getLogger(WORKER)
security_log = logging.getLogger(SECURITY)

PREFETCH: Final = 200
"""A stream is only consumed with one (https://www.rabbitmq.com/docs/streams#consuming)."""
WAIT_SECONDS: Final = 30.0
PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 30.0
OFFSET: Final = "x-stream-offset"
"""Argument of the subscription, and header of each delivery."""

Remember = Callable[[Sequence[str], float], object]
"""Called with ids and until when they count, seconds since the epoch."""


class Revocations:
    """Reads one project's stream of revocations.

    Args:
        queue: Its name.
        codec: Checks and reads the entries.
        reactor: The loop's.
        remember: Told what is revoked.
        caught_up: Called when everything that was there at the start, or at a reconnect, has been read.
    """

    def __init__(
        self,
        queue: str,
        codec: ControlCodec,
        reactor: Reactor,
        remember: Remember,
        caught_up: Callable[[], object],
    ) -> None:
        self.complete = False
        """Whether everything that was there when it connected has been read, or the wait for it is over."""
        self._queue = queue
        self._codec = codec
        self._reactor = reactor
        self._remember = remember
        self._caught_up = caught_up
        self._mark = uuid.uuid4().hex
        self._marked = False
        self._outlet: Outlet | None = None
        self._next: int | str = "first"
        self._failures = 0
        self._connection: Connection | None = None
        self._tap: Tap | None = None
        self._over = False

    def start(self) -> None:
        """Begin to wait."""
        mark = self._mark
        self._reactor.call_later(WAIT_SECONDS, lambda: self._out_of_patience(mark))

    def open(self, connection: Connection) -> None:
        """Read through this connection from now on; nothing is complete until a new mark has come by."""
        if self._connection is not None:
            self.complete = self._marked = False
            self._mark = uuid.uuid4().hex
            self.start()
            if self._outlet is not None:
                self.set_mark(self._outlet)
        self._connection = connection
        self._failures = 0
        self._subscribe()

    def set_mark(self, outlet: Outlet) -> None:
        """Publish the mark, unless it is published."""
        self._outlet = outlet
        if self._marked or self.complete:
            return
        self._marked = True
        mark = self._mark
        body, properties = self._codec.encode_revocation(self._queue, {"method": "mark", "mark": self._mark})

        def answered(_: None, outcome: Outcome) -> None:
            if not outcome.confirmed and mark == self._mark:
                self._marked = False
                self._reactor.call_later(PAUSE_SECONDS, lambda: self.set_mark(outlet))

        outlet.publish((None,), (Publication("", self._queue, body, properties),), answered)

    def close(self) -> None:
        """Read nothing more."""
        self._over = True
        if self._tap is not None:
            self._tap.close()

    def _subscribe(self) -> None:
        connection = self._connection
        if self._over or connection is None or connection.closed.done():
            return
        tap = self._tap = Tap(self._queue, PREFETCH, self, self._reactor.post, {OFFSET: self._next})
        tap.open(connection)

    def _out_of_patience(self, mark: str) -> None:
        if not self.complete and mark == self._mark and not self._over:
            worker_log.error(
                "the revocations in %s could not be read within %g s: a revoked task may run; still trying",
                self._queue, WAIT_SECONDS,
            )  # fmt: skip
            self._finish()

    def _finish(self) -> None:
        self.complete = True
        self._caught_up()

    # --------------------------------------------------------------------------------------------------- what taps say

    def delivered(self, tap: Tap, delivery: Delivery) -> None:
        """Take an entry; acknowledging it only asks for more."""
        tap.ack(delivery.tag)
        tap.flush()
        offset = delivery.properties.headers.get(OFFSET)
        if isinstance(offset, int):
            self._next = offset + 1
        try:
            entry = self._codec.decode_revocation(delivery.body, delivery.properties, self._queue)
        except RemoteMessageError as error:
            security_log.warning("an entry of %s is not believed: %s", self._queue, error)
            return
        if entry.get("mark") == self._mark and not self.complete:
            self._finish()
            return
        found = read_revocation(entry)
        if found is not None:
            self._remember(*found)

    def subscribed(self, tap: Tap) -> None:
        """Note that it works."""
        if tap is self._tap:
            self._failures = 0

    def ended(self, tap: Tap, reason: AmqpqError | None) -> None:
        """Subscribe again."""
        if tap is not self._tap or self._over:
            return
        self._tap = None
        if isinstance(reason, ConnectionLost):
            return
        self._failures += 1
        pause = min(LONGEST_PAUSE_SECONDS, PAUSE_SECONDS * 2 ** min(self._failures - 1, 10))
        worker_log.warning("not reading revocations from %s: %s; trying again in %.0f s", self._queue, reason, pause)
        self._reactor.call_later(pause, self._subscribe)
