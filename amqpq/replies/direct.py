"""Direct replies: RabbitMQ's pseudo-queue `amq.rabbitmq.reply-to`, which is fast and keeps nothing.

A reply reaches the connection that published the call, on the very channel, or nobody (https://www.rabbitmq.com/docs/direct-reply-to).
So there is one channel per connection that consumes the pseudo-queue and publishes the calls; replies are matched by
correlation id, which is the task's id. What waits here belongs to the `AsyncResult` that waits for it: when nobody holds
that any more, its slot is gone, and a late reply is dropped.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from amqpq import lifecycle
from amqpq.errors import AmqpqError
from amqpq.message.envelope import ResultEnvelope
from amqpq.replies.mailbox import ignore
from amqpq.transport.interface import Channel, Connection, Pending
from amqpq.types import Delivery

UNREAD_STATES: Final = 16
"""States kept per call until somebody reads them; the oldest goes first. The final one is the newest."""


class Slot:
    """Where the states of one direct call arrive. Any number of threads or coroutines may wait on it."""

    __slots__ = ("__weakref__", "_lock", "_new_pending", "_pid", "_unread", "_waiting", "lost", "seen", "task_id")

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.lost = ""
        """Why no reply can come any more; empty while one can."""
        self.seen: ResultEnvelope | None = None
        """The newest state that was read and believed; a final one is never replaced."""
        self._unread: deque[Delivery] = deque(maxlen=UNREAD_STATES)
        self._waiting: list[Pending[Any]] = []
        self._new_pending: Callable[[], Pending[Any]] | None = None
        self._pid = 0
        self._lock = threading.Lock()

    @property
    def state(self) -> str:
        """The state word of what was seen."""
        return lifecycle.State.PENDING if self.seen is None else self.seen.status

    def attach(self, connection: Connection) -> None:
        """Begin to wait for replies through this connection, which is where the call is published."""
        with self._lock:
            self.lost = ""
            self._new_pending = connection.pending
            self._pid = os.getpid()

    def put(self, delivery: Delivery) -> None:
        """Add a state; on the transport's own thread or loop."""
        with self._lock:
            self._unread.append(delivery)
        self._wake()

    def lose(self, reason: str) -> None:
        """Say that no reply can come any more; on the transport's own thread or loop."""
        self.lost = reason
        self._wake()

    def take(self) -> Delivery | None:
        """Return the oldest unread state."""
        with self._lock:
            return self._unread.popleft() if self._unread else None

    def see(self, envelope: ResultEnvelope) -> None:
        """Note a state that was read, and tell the others who wait."""
        with self._lock:
            if self.seen is None or not lifecycle.is_final(self.seen.status):
                self.seen = envelope
        self._wake()

    def wait(self) -> Pending[Any] | None:
        """Return what resolves when something changes; None where something has changed already."""
        if self._pid != os.getpid():
            self.lost = "it belongs to the process that this one was forked from"
            return None
        with self._lock:
            done = self.seen is not None and lifecycle.is_final(self.seen.status)
            if self._unread or self.lost or done or self._new_pending is None:
                return None
            pending = self._new_pending()
            self._waiting.append(pending)
            return pending

    def _wake(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for pending in waiting:
            if not pending.done():
                pending.set_result(None)


class DirectReplies:
    """The channel of a connection that publishes direct calls and gets their replies."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._line: _Line | None = None
        # Reentrant: on a connection that has just ended, `closed` calls back while the channel is being opened.
        self._lock = threading.RLock()

    def expect(self, slot: Slot) -> Channel:
        """Return the channel to publish a call on; its replies go to `slot`."""
        with self._lock:
            line = self._line
            if line is None or line.channel.closed.done():
                line = self._line = _Line(self._connection.channel())
            slot.attach(self._connection)
            line.slots[slot.task_id] = slot
        return line.channel


class _Line:
    """One channel that consumes the pseudo-queue, and who waits for what comes through it."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.slots: weakref.WeakValueDictionary[str, Slot] = weakref.WeakValueDictionary()
        # No need to wait for the answer: the broker handles a channel's requests in order, and a refusal closes the
        # channel, so that what is published after it fails too.
        ignore(channel.consume(lifecycle.DIRECT_REPLY_QUEUE, self._delivered, no_ack=True))
        channel.closed.add_done_callback(self._lost)

    def _delivered(self, delivery: Delivery) -> None:
        slot = self.slots.get(delivery.properties.correlation_id or "")
        if slot is not None:
            slot.put(delivery)

    def _lost(self, closed: Pending[AmqpqError | None]) -> None:
        reason = closed.result()
        for slot in list(self.slots.values()):
            slot.lose(str(reason) if reason is not None else "the application was closed")
