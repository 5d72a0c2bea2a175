"""The link of a blocking program to its broker: one connection at a time, opened when needed, replaced when lost.

A web server's threads share one link. Whoever finds the connection gone opens the next one while the others wait for
it, each with a deadline of its own. A forked child starts with an empty link: it never touches its parent's connection.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from amqpq.errors import ConfigurationError, OperationTimeout, TransportError
from amqpq.log import TRANSPORT
from amqpq.transport import attempts, flow
from amqpq.transport.interface import Channel, Connection, Flow
from amqpq.transport.url import Address
from amqpq.types import ServerInfo

logger = logging.getLogger(TRANSPORT)


class Opener(Protocol):
    """`amqpq.transport.blocking.connect`, or what a test puts in its place."""

    def __call__(
        self, address: Address, *, heartbeat_seconds: int, timeout_seconds: float, name: str = ""
    ) -> Connection:
        """Open a connection, or raise the `TransportError` that says why not."""


class Link:
    """One connection at a time to one of several brokers, and one channel on it for publishing.

    Args:
        addresses: Nodes of one cluster; tried in random order.
        opener: Opens a connection to one of them.
        name: Shown by the broker's management beside the connection.
        heartbeat_seconds: Proposed to the broker; 0 is off.
        source: Of randomness, for the order and the pauses.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        opener: Opener,
        *,
        name: str = "",
        heartbeat_seconds: int = 30,
        source: random.Random | None = None,
    ) -> None:
        if not addresses:
            raise ConfigurationError("no broker address is given; set broker.url or $AMQPQ_BROKER_URL")
        self.addresses = tuple(addresses)
        self._opener = opener
        self._name = name
        self._heartbeat_seconds = heartbeat_seconds
        self._random = source or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._start_afresh()
        _links.add(self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "idle" if self._connection is None else repr(self._connection)
        return f"<link to {', '.join(str(address) for address in self.addresses)}: {state}>"

    def _start_afresh(self) -> None:
        self._opening = threading.Lock()
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._closed = False
        self._closing = threading.Event()

    def connection(self, timeout_seconds: float | None) -> Connection:
        """Return the connection, or open one.

        Args:
            timeout_seconds: For finding a broker; None goes on for ever.

        Raises:
            BrokerUnreachable: No broker answered in time; every address is listed.
            AuthenticationRefused, AccessRefused, TlsMismatch: It is of no use to try again.
            OperationTimeout: Another thread is still looking for a broker.
            ConfigurationError: The link was closed.
        """
        connection = self._connection
        if connection is not None and not connection.closed.done() and not self._closed:
            return connection
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        with self._alone(timeout_seconds):
            return self._connect(deadline)

    def channel(self, timeout_seconds: float | None) -> Channel:
        """Return the channel that all threads publish on, or open one; raises what `connection` raises."""
        channel = self._channel
        if channel is not None and not channel.closed.done() and not self._closed:
            return channel
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        with self._alone(timeout_seconds):
            connection = self._connect(deadline)
            channel = self._channel
            if channel is None or channel.closed.done():
                channel = self._channel = connection.channel()
            return channel

    @contextmanager
    def _alone(self, timeout_seconds: float | None) -> Iterator[None]:
        """Wait for whoever is looking for a broker."""
        if not self._opening.acquire(timeout=-1 if timeout_seconds is None else max(timeout_seconds, 0)):
            raise OperationTimeout(
                f"no broker was found within {timeout_seconds:g} s; another thread still looks for one"
            )
        try:
            yield
        finally:
            self._opening.release()

    def _connect(self, deadline: float | None) -> Connection:
        """Return the connection, or open one; the opening lock is held."""
        self._refuse_closed()
        connection = self._connection
        if connection is None or connection.closed.done():
            remaining = None if deadline is None else max(deadline - time.monotonic(), 0)
            self._channel = None
            connection = self._connection = self._open(remaining)
        return connection

    @property
    def server(self) -> ServerInfo | None:
        """What the broker of the present connection said of itself, or None before the first."""
        return None if self._connection is None else self._connection.server

    def close(self, timeout_seconds: float | None = 5.0) -> None:
        """Close the connection, and open none any more. Idempotent.

        Args:
            timeout_seconds: To wait for the broker's goodbye; the socket is closed in any case soon after.
        """
        self._closed = True
        self._closing.set()
        connection = self._connection
        if connection is not None:
            try:
                flow.run(_goodbye(connection), timeout_seconds)
            except OperationTimeout:
                logger.warning("the broker did not answer our goodbye in time")

    def _open(self, timeout_seconds: float | None) -> Connection:
        """Look for a broker; the opening lock is held."""
        plan = attempts.search(self.addresses, timeout_seconds, random=self._random, now=time.monotonic)
        attempt = next(plan)
        while True:
            self._closing.wait(attempt.pause_seconds)
            self._refuse_closed()
            try:
                connection = self._opener(
                    attempt.address,
                    heartbeat_seconds=self._heartbeat_seconds,
                    timeout_seconds=attempt.timeout_seconds,
                    name=self._name,
                )
            except TransportError as error:
                logger.info("%s", error)
                attempt = plan.send(error)
            else:
                plan.close()
                if self._closed:  # by another thread, meanwhile
                    connection.close()
                    self._refuse_closed()
                return connection

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ConfigurationError("this link was closed; make another one")

    def _after_fork(self) -> None:
        self._start_afresh()
        self._random.seed()  # or every child would try the addresses in the same order


def _goodbye(connection: Connection) -> Flow[None]:
    yield connection.close()


_links: weakref.WeakSet[Link] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for link in list(_links):
        link._after_fork()  # noqa: SLF001 - of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
