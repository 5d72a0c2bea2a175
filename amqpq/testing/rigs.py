"""Rigs: the three transports, each ready to be asked the same questions by the conformance suite.

A rig opens connections, waits with a deadline, lets time pass, and breaks the connections when it is told to. What is
behind it, a socket, an event loop or a dictionary, a test cannot see.
"""

from __future__ import annotations

import queue
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from amqpq.errors import AmqpqError
from amqpq.testing.memory import MemoryBroker
from amqpq.testing.portal import Portal, PortalConnection
from amqpq.testing.proxy import Proxy
from amqpq.transport import aio, aioflow, blocking, flow, url
from amqpq.transport.interface import Channel, Connection, Flow, Pending
from amqpq.types import Delivery, Fate, Outcome, Properties, Publication, QueueSpec

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

DEADLINE_SECONDS = 20.0
"""How long a rig waits for an answer; generous, because it is only spent where something is broken."""

POLL_SECONDS = 0.02
"""Between two questions to a real broker whose own clock is being waited for (TTL, x-expires)."""


class Inbox:
    """Collects what a consumer gets; give `inbox.put` to `consume`."""

    def __init__(self) -> None:
        self._arrived: queue.SimpleQueue[Delivery] = queue.SimpleQueue()

    def put(self, delivery: Delivery) -> None:
        """Keep a delivery; called on the transport's own thread."""
        self._arrived.put(delivery)

    def take(self) -> Delivery:
        """Wait for the next delivery."""
        try:
            return self._arrived.get(timeout=DEADLINE_SECONDS)
        except queue.Empty:
            raise AssertionError(f"nothing was delivered within {DEADLINE_SECONDS} s") from None

    def take_bodies(self, count: int) -> list[bytes]:
        """Wait for `count` deliveries and return their bodies in order."""
        return [self.take().body for _ in range(count)]

    @property
    def empty(self) -> bool:
        """Whether nothing is waiting here; meaningful only after a round trip on the consumer's channel."""
        return self._arrived.empty()


class Rig(ABC):
    """One transport under test."""

    def __init__(self) -> None:
        self._connections: list[Connection] = []
        self._probe: Connection | None = None

    @abstractmethod
    def open(self) -> Connection:
        """Open a connection to the rig's broker."""

    @abstractmethod
    def abort(self) -> None:
        """Break every open connection, without a goodbye."""

    @abstractmethod
    def run(self, protocol: Callable[[Connection], Flow[T]], timeout_seconds: float = DEADLINE_SECONDS) -> T:
        """Run a flow on a connection of its own, the way this transport runs flows."""

    def pass_time(self, seconds: float) -> None:  # noqa: B027 - a real broker's clock goes on by itself
        """Let the broker's clock go on, where it is in our hands."""

    def connect(self) -> Connection:
        """Open a connection that the rig closes at the end of the test."""
        connection = self.open()
        self._connections.append(connection)
        return connection

    def channel(self) -> Channel:
        """Open a channel on a connection of its own."""
        return self.connect().channel()

    def close(self) -> None:
        """Close what the test left open."""
        for connection in self._connections:
            if not connection.closed.done():
                self.wait(connection.close())

    # ------------------------------------------------------------------------------------------------------ waiting

    def wait(self, pending: Pending[T]) -> T:
        """Wait for an answer."""
        return flow.run(_answer(pending), DEADLINE_SECONDS)

    def fails(self, pending: Pending[Any], kind: type[E]) -> E:
        """Wait for an answer that must be an error of this kind."""
        try:
            answer = self.wait(pending)
        except kind as error:
            return error
        raise AssertionError(f"answered {answer!r}, and {kind.__name__} was to be expected")

    def until(self, question: Callable[[], bool], what: str) -> None:
        """Ask until the answer is yes, letting a little time pass in between."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not question():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {DEADLINE_SECONDS} s")
            self.pass_time(POLL_SECONDS)
            time.sleep(POLL_SECONDS)

    # ---------------------------------------------------------------------------------------------------- shorthand

    def name(self, stem: str) -> str:
        """Make a name that nothing else in the broker has."""
        return f"{stem}.{uuid.uuid4().hex[:12]}"

    def queue(self, channel: Channel, stem: str = "queue", **arguments: object) -> str:
        """Declare a durable queue with a fresh name and return the name; `x_max_length=3` stands for `x-max-length`."""
        spec = QueueSpec(self.name(stem), arguments={key.replace("_", "-"): value for key, value in arguments.items()})
        self.wait(channel.declare_queue(spec))
        return spec.name

    def send(self, channel: Channel, queue_name: str, *bodies: bytes, **properties: Any) -> list[Outcome]:
        """Publish bodies straight to a queue and wait for their outcomes."""
        value = Properties(**properties)
        return self.wait(channel.publish([Publication("", queue_name, body, value) for body in bodies]))

    def deliver(self, channel: Channel, queue_name: str, *bodies: bytes, **properties: Any) -> None:
        """Publish bodies straight to a queue; each must be confirmed."""
        fates = [outcome.fate for outcome in self.send(channel, queue_name, *bodies, **properties)]
        assert fates == [Fate.CONFIRMED] * len(bodies), fates  # noqa: S101 - this speaks for the test that calls it

    def ready(self, channel: Channel, queue_name: str) -> int:
        """Ask how many ready messages a queue holds."""
        return self.wait(channel.declare_queue(QueueSpec(queue_name), passive=True)).messages

    def drain(self, channel: Channel, queue_name: str) -> list[bytes]:
        """Fetch and acknowledge everything a queue holds, in order."""
        bodies = []
        while (delivery := self.wait(channel.get(queue_name))) is not None:
            channel.ack(delivery.tag)
            bodies.append(delivery.body)
        return bodies

    def exists(self, queue_name: str) -> bool:
        """Ask on a channel of its own whether a queue exists."""
        self._probe = self._probe or self.connect()
        pending = self._probe.channel().declare_queue(QueueSpec(queue_name), passive=True)
        try:
            self.wait(pending)
        except AmqpqError:
            return False
        return True


def _answer(pending: Pending[T]) -> Flow[T]:
    answer: T = yield pending
    return answer


class MemoryRig(Rig):
    """The in-memory broker; its clock is in our hands."""

    def __init__(self) -> None:
        super().__init__()
        self.broker = MemoryBroker()

    def open(self) -> Connection:
        """Open a connection to the in-memory broker."""
        return self.broker.connect()

    def abort(self) -> None:
        """Break every connection."""
        self.broker.kill_connections()

    def run(self, protocol: Callable[[Connection], Flow[T]], timeout_seconds: float = DEADLINE_SECONDS) -> T:
        """Run a flow on this thread."""
        return flow.run(protocol(self.connect()), timeout_seconds)

    def pass_time(self, seconds: float) -> None:
        """Put the broker's clock forward."""
        self.broker.advance(seconds)


class BlockingRig(Rig):
    """The blocking transport, through a proxy to a real broker."""

    def __init__(self, broker_url: str) -> None:
        super().__init__()
        address = url.parse(broker_url)
        self.proxy = Proxy(address.host, address.port)
        self._address = url.parse(through(self.proxy, broker_url))

    def open(self) -> Connection:
        """Open a connection through the proxy."""
        return blocking.connect(self._address, heartbeat_seconds=30, timeout_seconds=DEADLINE_SECONDS, name="conform")

    def abort(self) -> None:
        """Cut every connection in the proxy."""
        self.proxy.cut()

    def run(self, protocol: Callable[[Connection], Flow[T]], timeout_seconds: float = DEADLINE_SECONDS) -> T:
        """Run a flow on this thread."""
        return flow.run(protocol(self.connect()), timeout_seconds)

    def close(self) -> None:
        """Close the connections, then the proxy."""
        super().close()
        self.proxy.close()


class AsyncioRig(Rig):
    """The asyncio transport on a loop of its own, through a proxy to a real broker."""

    def __init__(self, broker_url: str) -> None:
        super().__init__()
        address = url.parse(broker_url)
        self.proxy = Proxy(address.host, address.port)
        self._address = url.parse(through(self.proxy, broker_url))
        self.portal = Portal()
        self.complaints: list[str] = []
        self.portal.loop.set_exception_handler(lambda _loop, context: self.complaints.append(str(context)))

    def open(self) -> PortalConnection:
        """Open a connection through the portal and the proxy."""
        opening = aio.connect(self._address, heartbeat_seconds=30, timeout_seconds=DEADLINE_SECONDS, name="conform")
        return PortalConnection(self.portal, self.portal.run(opening, DEADLINE_SECONDS))

    def abort(self) -> None:
        """Cut every connection in the proxy."""
        self.proxy.cut()

    def run(self, protocol: Callable[[Connection], Flow[T]], timeout_seconds: float = DEADLINE_SECONDS) -> T:
        """Run a flow on the loop."""
        connection = self.open()
        self._connections.append(connection)
        return self.portal.run(aioflow.run(protocol(connection.native), timeout_seconds), DEADLINE_SECONDS)

    def close(self) -> None:
        """Close the connections, the loop, then the proxy; the loop must have had nothing to complain of."""
        for connection in self._connections:
            self.wait(connection.close())
        self.portal.close()
        self.proxy.close()
        assert not self.complaints, self.complaints  # noqa: S101 - part of what the suite checks


def through(proxy: Proxy, broker_url: str) -> str:
    """Rewrite a broker's URL so that it leads through the proxy."""
    scheme, rest = broker_url.split("://", 1)
    location, slash, path = rest.partition("/")
    user = location.rpartition("@")[0]
    return f"{scheme}://{user + '@' if user else ''}{proxy.host}:{proxy.port}{slash}{path}"
