"""Connections of the in-memory broker: the answers' way to their callers, over a dispatcher thread.

A verb does its work at once, on the calling thread, under the broker's lock; so after `publish` returns, the message is
in its queue. What anyone gets to hear of it (answers, deliveries, cancellations, the end) goes through the connection's
own dispatcher thread, in order, as with a socket.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from amqpq.errors import AmqpqError, ConnectionLost
from amqpq.log import TRANSPORT
from amqpq.testing.memory.channel import MemoryChannel
from amqpq.transport.interface import Home
from amqpq.types import ServerInfo

if TYPE_CHECKING:
    from amqpq.testing.memory.broker import MemoryBroker

logger = logging.getLogger(TRANSPORT)

_CLOSED_HERE = "this connection was closed here; open another one"


class Answer(Future[Any]):
    """A pending whose callbacks run on the dispatcher thread, also those added once it is done. It is not cancelled."""

    def __init__(self, connection: MemoryConnection) -> None:
        super().__init__()
        self._connection = connection

    def cancel(self) -> bool:
        """Answer False: what was asked has happened."""
        return False

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Call `fn(self)` on the dispatcher thread once done."""
        super().add_done_callback(lambda done: self._connection.on_thread(partial(fn, done)))


class MemoryConnection:
    """A connection; see `amqpq.transport.interface.Connection`."""

    def __init__(self, broker: MemoryBroker, name: str) -> None:
        self.broker = broker
        self.name = name
        self._events: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._channels: list[MemoryChannel] = []
        self._held: deque[Callable[[], None]] = deque()
        self._blocked: str | None = None
        self._lost: ConnectionLost | None = None
        self._finished = False
        self._gate = threading.Lock()
        self._closed = Answer(self)
        self._thread = threading.Thread(target=self._dispatch, name=f"amqpq-memory {name}".rstrip(), daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<connection in memory {self.name!r} {'open' if self._lost is None else 'closed'}>"

    @property
    def server(self) -> ServerInfo:
        """What the broker said of itself."""
        return self.broker.server

    @property
    def closed(self) -> Future[AmqpqError | None]:
        """Resolves when the connection ends: with the reason, or None where we closed it."""
        return self._closed

    @property
    def blocked(self) -> str | None:
        """Why the broker blocks publishers right now, or None."""
        return self._blocked

    @property
    def lost(self) -> ConnectionLost | None:
        """Why nothing can be asked any more, or None."""
        return self._lost

    def channel(self) -> MemoryChannel:
        """Open another channel.

        Raises:
            ConnectionLost: The connection has ended.
        """
        with self.broker.lock:
            if self._lost is not None:
                raise ConnectionLost(str(self._lost))
            channel = MemoryChannel(self)
            self._channels.append(channel)
            return channel

    def pending(self) -> Future[Any]:
        """Make an unanswered pending."""
        return Answer(self)

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run `callback` on the dispatcher thread, or here where that has ended."""
        self.emit(callback)

    def move_to(self, home: Home | None) -> None:
        """Stay: the dispatcher thread drives it."""

    def close(self) -> Future[None]:
        """Close the connection; a broker that blocks publishers is not waited for."""
        goodbye = Answer(self)
        with self.broker.lock:
            if self._lost is None:
                self._end(None)
            self.emit(partial(goodbye.set_result, None))
        return goodbye

    def lose(self, reason: str) -> None:
        """The connection breaks."""
        if self._lost is None:
            self._end(ConnectionLost(f"the connection to the in-memory broker was lost: {reason}"))

    def _end(self, reason: ConnectionLost | None) -> None:
        """End everything; the broker's lock is held."""
        self._lost = reason or ConnectionLost(_CLOSED_HERE)
        self._blocked = None
        held, self._held = self._held, deque()
        for action in held:
            action()  # each finds the connection lost and fails
        for channel in list(self._channels):
            channel.end(reason, ours=reason is None)
        self.broker.host.release_owner(self)
        self.broker.forget(self)
        self.emit(partial(self._closed.set_result, reason))
        self._events.put(None)

    # -------------------------------------------------------------------------------------------- what channels need

    def hold(self, action: Callable[[], None], *, publishes: bool) -> bool:
        """Hold an action back while the broker blocks this connection; answer whether it did."""
        if self._lost is not None:
            return False
        if publishes and self.broker.alarm is not None:
            self._blocked = self.broker.alarm
        if self._blocked is None:
            return False
        self._held.append(action)
        return True

    def resume(self) -> None:
        """The broker reads from this connection again, for as long as there is no alarm."""
        with self.broker.lock:
            while self._held and self.broker.alarm is None:
                self._held.popleft()()
            self._blocked = self.broker.alarm

    def release(self, channel: MemoryChannel) -> None:
        """A channel has ended."""
        if channel in self._channels:
            self._channels.remove(channel)

    # ------------------------------------------------------------------------------------------------------ the thread

    def emit(self, event: Callable[[], object]) -> None:
        """Let `event` happen on the dispatcher thread, after those before; here where the thread has ended."""
        with self._gate:
            if not self._finished:
                self._events.put(event)
                return
        _guarded(event)

    def on_thread(self, callback: Callable[[], object]) -> None:
        """Run `callback` on the dispatcher thread: now, where this is it."""
        if threading.current_thread() is self._thread:
            callback()
        else:
            self.emit(callback)

    def _dispatch(self) -> None:
        while (event := self._events.get()) is not None:
            _guarded(event)
        with self._gate:
            self._finished = True
        while not self._events.empty():  # what came while the end was on its way
            late = self._events.get()
            if late is not None:
                _guarded(late)


def _guarded(event: Callable[[], object]) -> None:
    """Run foreign code: an error in it must not end the connection of everyone else."""
    try:
        event()
    except Exception:
        logger.exception("a callback of the connection failed")
