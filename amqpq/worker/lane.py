"""A connection that is kept up, and the publisher on one.

A worker has two connections, as RabbitMQ advises for who both consumes and publishes
(https://www.rabbitmq.com/docs/connections#flow-control): under a memory or disk alarm the broker stops reading from
connections that publish, and the acknowledgements, which would free what it is short of, must not be stuck behind results.

Connecting blocks, so it happens on a thread that lives as long as the attempt; everything else is on the loop's thread.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

from amqpq.errors import AmqpqError, ConnectionLost, TransportError
from amqpq.log import WORKER
from amqpq.transport import lagging
from amqpq.transport.interface import Channel, Connection, Pending
from amqpq.types import Fate, Outcome, Publication, QueueSpec, QueueState
from amqpq.worker.reactor import Reactor
from amqpq.worker.states import CONNECTION, Position

logger = logging.getLogger(WORKER)

FIRST_SECONDS: Final = 30.0
"""For the first connection. A broker that starts together with the worker gets its chance; a typing error gets an answer."""
REFUSAL_SECONDS: Final = 60.0
"""How long a broker that knew us may refuse us (it does while it starts) before the worker gives up."""
REFUSAL_PAUSE_SECONDS: Final = 2.0

T = TypeVar("T")


class ConnectionSource(Protocol):
    """`amqpq.transport.link.Link`: opens connections, with addresses and pauses of its own."""

    def connection(self, timeout_seconds: float | None) -> Connection:
        """Return a connection."""

    def close(self, timeout_seconds: float | None = 5.0) -> None:
        """Close it, and open none any more."""


class Lane:
    """Keeps one connection up.

    Args:
        link: Opens it.
        purpose: For the log, `consuming`.
        reactor: The loop's.
    """

    def __init__(self, link: ConnectionSource, purpose: str, reactor: Reactor) -> None:
        self.connection: Connection | None = None
        self._link = link
        self._purpose = purpose
        self._reactor = reactor
        self._position = Position(CONNECTION)
        self._known = False
        self._refused_since: float | None = None
        self._up: Callable[[Connection], object]
        self._down: Callable[[], object]
        self._fatal: Callable[[str], object]

    def start(
        self, up: Callable[[Connection], object], down: Callable[[], object], fatal: Callable[[str], object]
    ) -> None:
        """Begin to connect.

        Args:
            up: Called with each new connection.
            down: Called when one is lost.
            fatal: Called with the reason when it is of no use to go on.
        """
        self._up, self._down, self._fatal = up, down, fatal
        self._position.move("start")
        self._connect()

    def close(self) -> None:
        """Close the connection; blocks, for a few seconds at most."""
        if not self._position.over:
            self._position.move("close")
        if self.connection is not None:
            self.connection.move_to(None)  # nobody turns the loop while we wait
        self._link.close()

    def renew(self, reason: str) -> None:
        """Give the connection up, whatever it says of itself, and find another."""
        if self.connection is not None:
            logger.error("giving the connection for %s up: %s", self._purpose, reason)
            self.connection.close()

    def _connect(self) -> None:
        threading.Thread(target=self._find, name=f"amqpq-{self._purpose}-connect", daemon=True).start()

    def _connect_again(self) -> None:
        if not self._position.over:
            self._position.move("try again")
            self._connect()

    def _find(self) -> None:
        """On a thread of its own: the link looks for a broker, for ever once there was one."""
        try:
            connection = self._link.connection(None if self._known else FIRST_SECONDS)
        except Exception as error:  # noqa: BLE001 - carried over to the loop's thread, which decides
            self._reactor.post(self._failed, error)
        else:
            self._reactor.post(self._found, connection)

    def _found(self, connection: Connection) -> None:
        if self._position.over:
            return
        self._position.move("found")
        if self._known:
            logger.info("connected again for %s", self._purpose)
        self._known = True
        self._refused_since = None
        self.connection = connection
        connection.closed.add_done_callback(lambda closed: self._reactor.post(self._lost, closed))
        connection.move_to(self._reactor)
        self._up(connection)

    def _failed(self, error: Exception) -> None:
        if self._position.over:
            return
        now = self._reactor.monotonic()
        if self._refused_since is None:
            self._refused_since = now
        if not self._known or not isinstance(error, AmqpqError) or now - self._refused_since > REFUSAL_SECONDS:
            self._position.move("hopeless")
            self._fatal(str(error) if isinstance(error, AmqpqError) else f"{type(error).__name__}: {error}")
            return
        logger.warning("%s (for %s); trying again", error, self._purpose)
        self._position.move("refused")
        self._reactor.call_later(REFUSAL_PAUSE_SECONDS * random.uniform(0.5, 1.5), self._connect_again)  # noqa: S311

    def _lost(self, closed: Pending[AmqpqError | None]) -> None:
        if self._position.over or self.connection is None or self.connection.closed is not closed:
            return
        self._position.move("lost")
        self.connection = None
        logger.warning("connection for %s lost: %s; reconnecting", self._purpose, closed.result() or "closed")
        self._down()
        self._connect()


class Outlet:
    """Publishes with confirms on a lane's connection; answers with one outcome per publication, whatever happens.

    What cannot be sent now (no connection) is UNKNOWN at once: who asked decides whether to ask again.
    """

    def __init__(self, lane: Lane, reactor: Reactor) -> None:
        self._lane = lane
        self._reactor = reactor
        self._channel: Channel | None = None

    @property
    def open(self) -> bool:
        """Whether something can be published now."""
        return self._channel is not None and not self._channel.closed.done()

    def attach(self, connection: Connection) -> None:
        """Use this connection from now on."""
        try:
            self._channel = connection.channel()
        except ConnectionLost:  # it ended before we came to use it; the next one is on its way
            self._channel = None

    def publish(
        self, keys: Sequence[T], publications: Sequence[Publication], then: Callable[[T, Outcome], object]
    ) -> None:
        """Publish in one go, and call `then(key, outcome)` for each on the loop's thread.

        Args:
            keys: What each publication is to be known by.
            publications: In the same order.
            then: Told the fate of each.
        """
        channel = self._usable()
        if channel is None:
            for key in keys:
                self._reactor.post(_answer, (then, key, _NOT_CONNECTED))
            return
        pending = channel.publish(publications)
        pending.add_done_callback(lambda answer: self._reactor.post(self._answered, (answer, keys, publications, then)))

    @property
    def may_lag(self) -> bool:
        """Whether the node may not know yet what another one has declared.

        To have it catch up takes the right to configure the reply queue, which workers need for nothing else.
        """
        connection = self._lane.connection
        return connection is not None and lagging.may_lag(connection)

    def look(self, queue: str, then: Callable[[AmqpqError | None], object]) -> None:
        """Ask whether a queue is there, and call `then(error)` on the loop's thread; None where it is."""
        connection = self._lane.connection
        if connection is None:
            self._reactor.post(then, ConnectionLost("not connected"))
            return
        try:
            channel = connection.channel()  # of its own: a queue that is not there costs the channel
        except TransportError as error:
            self._reactor.post(then, error)
            return
        answer: Pending[QueueState] = channel.declare_queue(QueueSpec(queue), passive=True)
        answer.add_done_callback(lambda done: self._reactor.post(_seen, (then, channel, done)))

    def _usable(self) -> Channel | None:
        connection = self._lane.connection
        if connection is None:
            return None
        if self._channel is None or (self._channel.closed.done() and not connection.closed.done()):
            self.attach(connection)
        return self._channel

    def _answered(self, answered: tuple[Any, ...]) -> None:
        answer, keys, publications, then = answered
        error = answer.exception()
        if error is None:
            for key, outcome in zip(keys, answer.result(), strict=True):
                then(key, outcome)
        elif isinstance(error, TransportError) or len(keys) == 1:
            # Nothing was sent. With one publication the fault may be its own (a header that AMQP cannot carry).
            fate = Fate.UNKNOWN if isinstance(error, TransportError) else Fate.NACKED
            for key in keys:
                then(key, Outcome(fate, f"{type(error).__name__}: {error}"))
        else:
            for key, publication in zip(keys, publications, strict=True):
                self.publish((key,), (publication,), then)


def _seen(seen: tuple[Callable[[AmqpqError | None], object], Channel, Pending[QueueState]]) -> None:
    then, channel, answer = seen
    error = answer.exception()
    if error is None:
        channel.close()
    then(error if error is None or isinstance(error, AmqpqError) else ConnectionLost(str(error)))


_NOT_CONNECTED: Final = Outcome(Fate.UNKNOWN, "not connected")


def _answer(answered: tuple[Callable[[Any, Outcome], object], Any, Outcome]) -> None:
    then, key, outcome = answered
    then(key, outcome)
