"""The link of an asyncio program to its broker: one connection at a time, opened when needed, replaced when lost.

The twin of `amqpq.transport.link`, with the same names, awaitable. It belongs to the event loop that first uses it: a
connection's futures mean nothing to another one. Who finds the connection gone opens the next one, while the others
wait for it, each with a deadline of its own; a task that is cancelled while it looks for a broker leaves the search to
the next.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Sequence
from typing import Protocol

from amqpq.errors import ConfigurationError, OperationTimeout, TransportError
from amqpq.log import TRANSPORT
from amqpq.transport import aioflow, attempts
from amqpq.transport.interface import Channel, Connection, Flow
from amqpq.transport.url import Address
from amqpq.types import ServerInfo

logger = logging.getLogger(TRANSPORT)


class AsyncOpener(Protocol):
    """`amqpq.transport.aio.connect`, or what a test puts in its place."""

    async def __call__(
        self, address: Address, *, heartbeat_seconds: int, timeout_seconds: float, name: str = ""
    ) -> Connection:
        """Open a connection, or raise the `TransportError` that says why not."""


class AsyncLink:
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
        opener: AsyncOpener,
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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._opening = asyncio.Lock()
        self._closing = asyncio.Event()
        self._connection: Connection | None = None
        self._channel: Channel | None = None

    def __repr__(self) -> str:
        state = "closed" if self._closing.is_set() else repr(self._connection) if self._connection else "idle"
        return f"<async link to {', '.join(str(address) for address in self.addresses)}: {state}>"

    async def connection(self, timeout_seconds: float | None) -> Connection:
        """Return the connection, or open one.

        Args:
            timeout_seconds: For finding a broker; None goes on for ever.

        Raises:
            BrokerUnreachable: No broker answered in time; every address is listed.
            AuthenticationRefused, AccessRefused, TlsMismatch: It is of no use to try again.
            OperationTimeout: Another task is still looking for a broker.
            ConfigurationError: The link was closed, or belongs to another event loop.
        """
        self._check_loop()
        connection = self._alive()
        if connection is not None:
            return connection
        loop = asyncio.get_running_loop()
        deadline = None if timeout_seconds is None else loop.time() + timeout_seconds
        await self._take_turn(timeout_seconds)
        try:
            self._refuse_closed()
            connection = self._alive()
            if connection is None:
                remaining = None if deadline is None else max(deadline - loop.time(), 0)
                self._channel = None
                connection = self._connection = await self._open(remaining)
            return connection
        finally:
            self._opening.release()

    async def channel(self, timeout_seconds: float | None) -> Channel:
        """Return the channel that all tasks publish on, or open one; raises what `connection` raises."""
        self._check_loop()
        if self._channel is None or self._channel.closed.done() or self._alive() is None:
            connection = await self.connection(timeout_seconds)
            if self._channel is None or self._channel.closed.done():  # no other task was faster
                self._channel = connection.channel()
        return self._channel

    @property
    def server(self) -> ServerInfo | None:
        """What the broker of the present connection said of itself, or None before the first."""
        return None if self._connection is None else self._connection.server

    async def close(self, timeout_seconds: float | None = 5.0) -> None:
        """Close the connection, and open none any more. Idempotent.

        Args:
            timeout_seconds: To wait for the broker's goodbye; the socket is closed in any case soon after.
        """
        self._closing.set()
        connection = self._connection
        if connection is not None:
            self._check_loop()
            try:
                await aioflow.run(_goodbye(connection), timeout_seconds)
            except OperationTimeout:
                logger.warning("the broker did not answer our goodbye in time")

    def _alive(self) -> Connection | None:
        self._refuse_closed()
        connection = self._connection
        return None if connection is None or connection.closed.done() else connection

    async def _take_turn(self, timeout_seconds: float | None) -> None:
        """Wait until nobody else looks for a broker."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._opening.acquire()
        except TimeoutError:
            raise OperationTimeout(
                f"no broker was found within {timeout_seconds:g} s; another task still looks for one"
            ) from None

    async def _open(self, timeout_seconds: float | None) -> Connection:
        """Look for a broker; it is our turn."""
        loop = asyncio.get_running_loop()
        plan = attempts.search(self.addresses, timeout_seconds, random=self._random, now=loop.time)
        attempt = next(plan)
        while True:
            await self._pause(attempt.pause_seconds)
            self._refuse_closed()
            try:
                connection = await self._opener(
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
                if self._closing.is_set():  # by another task, meanwhile
                    connection.close()
                    self._refuse_closed()
                return connection

    async def _pause(self, seconds: float) -> None:
        """Wait between two rounds; closing the link ends the wait."""
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._closing.wait()
            except TimeoutError:
                return

    def _refuse_closed(self) -> None:
        if self._closing.is_set():
            raise ConfigurationError("this link was closed; make another one")

    def _check_loop(self) -> None:
        """Tie the link to the loop that uses it first."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop, self._pid = loop, os.getpid()
        elif self._pid != os.getpid():
            raise ConfigurationError(
                "this link belongs to the process from which this one was forked; make another one"
            )
        elif self._loop is not loop:
            raise ConfigurationError("this link belongs to another event loop; make one link (one AsyncApp) per loop")


def _goodbye(connection: Connection) -> Flow[None]:
    yield connection.close()
