"""The queue in which a worker receives control messages: declared, consumed, and opened again after whatever ends it.

It is on the consuming connection, on channels of its own. Where the broker refuses it (no permission, or another worker of
this name has it), the worker works without, and says so; tasks are never held up by it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from amqpq.consumer import Tap
from amqpq.errors import AccessRefused, AmqpqError, ConnectionLost, ResourceLocked
from amqpq.log import WORKER
from amqpq.message.control import REQUESTS, mailbox_queue
from amqpq.transport.interface import Channel, Connection, Pending
from amqpq.types import BindingSpec, Delivery
from amqpq.worker.reactor import Reactor, Timer

logger = logging.getLogger(WORKER)

PREFETCH: Final = 50
PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 60.0


class Mailbox:
    """Receives control messages.

    Args:
        worker: Its name.
        reactor: The loop's.
        receive: Given each message, on the loop's thread.
    """

    def __init__(self, worker: str, reactor: Reactor, receive: Callable[[Delivery], object]) -> None:
        self._queue = mailbox_queue(worker)
        self._worker = worker
        self._reactor = reactor
        self._receive = receive
        self._connection: Connection | None = None
        self._tap: Tap | None = None
        self._failures = 0
        self._timer: Timer | None = None
        self._over = False

    def open(self, connection: Connection) -> None:
        """Receive through this connection from now on."""
        self._connection = connection
        self._failures = 0
        self._try()

    def close(self) -> None:
        """Receive nothing more; the queue goes with its consumer."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._tap is not None:
            self._tap.close()

    def _try(self) -> None:
        connection = self._connection
        if self._over or connection is None or connection.closed.done():
            return
        try:
            channel = connection.channel()
        except ConnectionLost:
            return  # the next one is on its way
        answers: list[Pending[Any]] = [
            channel.declare_exchange(REQUESTS),
            channel.declare_queue(self._queue),
            channel.bind(BindingSpec(REQUESTS.name, self._queue.name)),
        ]
        answers[-1].add_done_callback(lambda _: self._reactor.post(self._declared, (connection, channel, answers)))

    def _declared(self, declared: tuple[Connection, Channel, list[Pending[Any]]]) -> None:
        connection, channel, answers = declared
        if self._over or connection is not self._connection:
            return
        error = next((each for answer in answers if (each := answer.exception()) is not None), None)
        if error is not None:
            self._again(error)
            return
        channel.close()
        tap = self._tap = Tap(self._queue.name, PREFETCH, self, self._reactor.post)
        tap.open(connection)

    def _again(self, reason: BaseException | None) -> None:
        self._tap = None
        if self._over or isinstance(reason, ConnectionLost):
            return  # the next connection brings the next try
        self._failures += 1
        if isinstance(reason, AccessRefused):
            logger.warning("no remote control, because the broker does not allow its queue: %s", reason)
            return
        if isinstance(reason, ResourceLocked):
            if self._failures == 2:  # noqa: PLR2004 - once is our own connection of before, which the broker still holds
                logger.warning(
                    "no remote control: another worker is called %s; give each a name of its own with -n", self._worker
                )
        else:
            logger.warning("no remote control for now: %s", reason or "the broker cancelled its consumer")
        pause = min(LONGEST_PAUSE_SECONDS, PAUSE_SECONDS * 2 ** min(self._failures - 1, 10))
        self._timer = self._reactor.call_later(pause, self._try)

    # --------------------------------------------------------------------------------------------------- what taps say

    def delivered(self, tap: Tap, delivery: Delivery) -> None:
        """Take a message; it is settled whatever comes of it, since nobody would gain from its coming again."""
        tap.ack(delivery.tag)
        tap.flush()
        self._receive(delivery)

    def subscribed(self, tap: Tap) -> None:
        """Note that it works."""
        if tap is self._tap:
            self._failures = 0

    def ended(self, tap: Tap, reason: AmqpqError | None) -> None:
        """Open it again."""
        if tap is self._tap:
            self._again(reason)
