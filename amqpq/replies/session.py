"""What the engine keeps per connection: channels to use again, and the one that direct replies come through.

A session ends with its connection. `Blocking` and `Asyncio` (in `amqpq.replies.runner` and `amqpq.replies.aiorunner`) run
flows on the current session and, where a flow may be resumed, on the next one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from amqpq import log
from amqpq.errors import ConnectionLost, TransportError
from amqpq.replies.direct import DirectReplies
from amqpq.replies.mailbox import ignore
from amqpq.transport.interface import Channel, Connection
from amqpq.transport.ways import Ways

logger = log.logger(log.REPLIES)

IDLE_CHANNELS: Final = 64
"""Channels kept for the next user. Opening one costs a round trip; an idle one costs the broker about 30 KB."""

DELETING_CHANNELS: Final = 4
"""A deletion waits for the broker's metadata store, and the one behind it on the same channel for both."""


class Lane:
    """A channel with one user at a time, who may ask to be told when it closes."""

    __slots__ = ("_told", "channel")

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._told: Callable[[], object] | None = None
        # Once per channel and not once per user: callbacks cannot be taken back from a Pending.
        channel.closed.add_done_callback(self._closed)

    def watch(self, told: Callable[[], object] | None) -> None:
        """Have `told` called, on the transport's thread or loop, when the channel closes; None ends that."""
        self._told = told

    def _closed(self, _: object) -> None:
        told = self._told
        if told is not None:
            told()


class Session:
    """One connection in use."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.direct = DirectReplies(connection)
        self.ways = Ways(connection)
        self._idle: list[Lane] = []
        self._deleting: dict[int, Channel] = {}
        self._turn = 0
        self._lock = threading.Lock()

    @property
    def over(self) -> bool:
        """Whether the connection has ended."""
        return self.connection.closed.done()

    def take(self) -> Lane:
        """Return a lane that nobody else uses; give it back, or discard it."""
        with self._lock:
            while self._idle:
                # The one used last: a caller's next request then follows its last one in order.
                lane = self._idle.pop()
                if not lane.channel.closed.done():
                    return lane
        return Lane(self.connection.channel())

    def give(self, lane: Lane, *, clean: bool = True) -> None:
        """Take a lane back.

        Args:
            lane: From `take`.
            clean: Whether nothing is under way on it: no consumer, no delivery, no answer outstanding. Otherwise it is
                closed, and the broker requeues what was unacknowledged.
        """
        lane.watch(None)
        if lane.channel.closed.done():
            return
        if clean:
            with self._lock:
                if len(self._idle) < IDLE_CHANNELS:
                    self._idle.append(lane)
                    return
        ignore(lane.channel.close())

    def delete_soon(self, queue: str) -> None:
        """Have a reply queue deleted whose result is here, and wait for nothing.

        On channels that do nothing else: where one deletion is refused, and closes its channel, no caller's work is on it. What
        is not deleted like this goes with its `x-expires`.

        Raises:
            ConnectionLost: The connection has ended.
        """
        try:
            channel = self._deleter()
        except ConnectionLost:
            raise
        except TransportError as error:  # no channel is left: the result is here all the same
            logger.info("the reply queue %s is not deleted: %s", queue, error)
            return

        def answered(answer: Any) -> None:
            if not answer.cancelled() and (error := answer.exception()) is not None:
                logger.info("the reply queue %s was not seen deleted: %s", queue, error)

        channel.delete_queue(queue).add_done_callback(answered)

    def _deleter(self) -> Channel:
        """Return the channel whose turn it is to delete."""
        with self._lock:
            place = self._turn = (self._turn + 1) % DELETING_CHANNELS
            channel = self._deleting.get(place)
            if channel is None or channel.closed.done():
                channel = self._deleting[place] = self.connection.channel()
            return channel
