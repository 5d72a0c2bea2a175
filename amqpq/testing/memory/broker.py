"""The in-memory broker itself: its clock, its connections, its alarms."""

from __future__ import annotations

import threading
import time

from amqpq.errors import AccessRefused, BrokerUnreachable, LocalError
from amqpq.testing.memory.connection import MemoryConnection
from amqpq.testing.memory.vhost import VirtualHost
from amqpq.transport.url import Address
from amqpq.types import Delivery, QueueState, ServerInfo

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""RabbitMQ's own ceiling since 4.0 (max_message_size)."""
MEMORY_LIMIT_BYTES = 256 * 1024 * 1024
"""Above this the broker blocks publishers, as RabbitMQ does at its memory watermark."""


class MemoryBroker:
    """A broker without a network: for unit tests of programs that talk to RabbitMQ.

    It routes with the simulator behind `amqpq topology route` and models acknowledgement, redelivery, dead letters,
    TTL, priority, length limits, queue expiry, exclusive and auto-delete queues, confirms and returns, alternate
    exchanges, direct replies and publisher blocking. What it does not model (streams, plugins, arguments of newer
    brokers) it refuses, with `NotBuiltYet`; it has no policies, no permissions and no consumer timeout.

    Its clock stands still until `advance` is called, so nothing in a test depends on how fast the machine is.

        broker = MemoryBroker()
        connection = broker.connect()
        channel = connection.channel()
        channel.declare_queue(QueueSpec("work", arguments={"x-message-ttl": 5000})).result()
        channel.publish([Publication("", "work", b"hello", Properties())]).result()
        broker.advance(6)
        assert broker.messages("work") == ()

    Args:
        vhost: The name of its one virtual host, as it stands in error texts.
        version: What it says of itself; the model is that of 3.13, whichever is given.
        max_message_bytes: A larger body closes the channel.
        memory_limit_bytes: Held bodies above this block publishers until some are gone.
    """

    def __init__(
        self,
        *,
        vhost: str = "/",
        version: str = "3.13.7",
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
    ) -> None:
        self.lock = threading.RLock()
        self.max_message_bytes = max_message_bytes
        self._memory_limit_bytes = memory_limit_bytes
        self._held_bytes = 0
        self._server = ServerInfo("amqpq in memory", version, capabilities={"publisher_confirms": True})
        self._elapsed = 0.0
        self._alarm: str | None = None
        self._asked_to_block = False
        self._running = True
        self._connections: list[MemoryConnection] = []
        self.host = VirtualHost(vhost, lambda: self._elapsed, time.time(), self._sized)

    def __repr__(self) -> str:
        return (
            f"<MemoryBroker queues={len(self.host.queues)} connections={len(self._connections)} now={self._elapsed:g}>"
        )

    # ------------------------------------------------------------------------------------------------------ connecting

    def connect(self, name: str = "") -> MemoryConnection:
        """Open a connection.

        Raises:
            BrokerUnreachable: The broker is stopped.
        """
        with self.lock:
            if not self._running:
                raise BrokerUnreachable("the in-memory broker is stopped")
            connection = MemoryConnection(self, name)
            self._connections.append(connection)
            return connection

    def open(
        self, address: Address, *, heartbeat_seconds: int, timeout_seconds: float, name: str = ""
    ) -> MemoryConnection:
        """Open a connection the way `amqpq.transport.link.Link` asks for one; use it as the link's `opener`.

        Host, user, heartbeat and timeout have no meaning without a network; the virtual host has.

        Raises:
            BrokerUnreachable: The broker is stopped.
            AccessRefused: The address names another virtual host.
        """
        del heartbeat_seconds, timeout_seconds
        if address.vhost != self.host.name:
            raise AccessRefused(
                f"the in-memory broker has one virtual host, {self.host.name!r}; the address asks for {address.vhost!r}"
            )
        return self.connect(name)

    @property
    def server(self) -> ServerInfo:
        """What the broker says of itself."""
        return self._server

    def forget(self, connection: MemoryConnection) -> None:
        """A connection has ended."""
        if connection in self._connections:
            self._connections.remove(connection)

    # ------------------------------------------------------------------------------------------------------------ time

    @property
    def now(self) -> float:
        """The broker's clock: seconds since it was made. It moves with `advance` only."""
        return self._elapsed

    def advance(self, seconds: float) -> None:
        """Put the clock forward, and let happen on the way what is due: messages and queues expire in their order.

        Raises:
            LocalError: `seconds` is negative.
        """
        if seconds < 0:
            raise LocalError("time goes forward only")
        with self.lock:
            target = self._elapsed + seconds
            while (event := self.host.next_event()) is not None and event <= target:
                self._elapsed = max(event, self._elapsed)
                self.host.let_happen()
            self._elapsed = target
            self.host.try_again()

    # --------------------------------------------------------------------------------------------------- bad weather

    def kill_connections(self, reason: str = "the in-memory broker was told to drop it") -> None:
        """Break every connection without a goodbye; unacknowledged deliveries go back to their queues."""
        with self.lock:
            for connection in list(self._connections):
                connection.lose(reason)

    def stop(self) -> None:
        """Stop the broker: connections break, new ones are refused, what is not durable or persistent is gone."""
        with self.lock:
            self.kill_connections("the in-memory broker was stopped")
            self._running = False
            self.host.forget_transient()

    def start(self) -> None:
        """Take connections again after `stop`."""
        with self.lock:
            self._running = True

    def lose_node(self, *queues: str) -> None:
        """Let the cluster node go down that these queues are on: they exist, and cannot be reached until `find_node`.

        Their consumers are cancelled, requests for them are refused (404, `QueueUnavailable`), and a mandatory message for
        them comes back as if there were no route: so do RabbitMQ's classic queues.
        """
        with self.lock:
            self.host.lose_node(queues)

    def find_node(self) -> None:
        """Bring that node back."""
        with self.lock:
            self.host.away.clear()

    def block(self, reason: str = "low on memory") -> None:
        """Raise an alarm: from now on a connection that publishes is not read any more."""
        with self.lock:
            self._asked_to_block = True
            self._alarm = reason

    def unblock(self) -> None:
        """End the alarm; what was held back is read."""
        with self.lock:
            self._asked_to_block = False
            self._check_memory()

    @property
    def alarm(self) -> str | None:
        """Why publishers are blocked, or None."""
        return self._alarm

    def _sized(self, change: int) -> None:
        self._held_bytes += change
        self._check_memory()

    def _check_memory(self) -> None:
        if self._asked_to_block:
            return
        full = self._held_bytes > self._memory_limit_bytes
        if full:
            self._alarm = "low on memory"
        elif self._alarm is not None:
            self._alarm = None
            for connection in list(self._connections):
                connection.emit(connection.resume)  # not in the middle of what made room

    # ------------------------------------------------------------------------------------------------ looking inside

    def queues(self) -> dict[str, QueueState]:
        """All queues with their ready messages and consumers."""
        with self.lock:
            return {name: queue.state for name, queue in self.host.queues.items()}

    def messages(self, queue: str) -> tuple[Delivery, ...]:
        """The ready messages of a queue, in order, without touching them.

        Raises:
            LocalError: There is no such queue.
        """
        with self.lock:
            found = self.host.queues.get(queue)
            if found is None:
                raise LocalError(f"the in-memory broker has no queue {queue!r}")
            return tuple(
                Delivery(
                    waiting.message.body,
                    waiting.message.delivered_properties(waiting.returns),
                    waiting.message.exchange,
                    waiting.message.key,
                    waiting.redelivered,
                    tag=0,
                )
                for waiting in found
            )
