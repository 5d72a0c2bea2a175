"""Runs flows on the session of an asyncio link: the twin of `amqpq.replies.runner`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

from amqpq import log
from amqpq.errors import ChannelClosed, ConnectionLost
from amqpq.replies.runner import pause_seconds
from amqpq.replies.session import Session
from amqpq.transport import aioflow
from amqpq.transport.interface import Connection, Flow

logger = log.logger(log.REPLIES)

T = TypeVar("T")


class AsyncSource(Protocol):
    """What hands out connections: `amqpq.transport.aiolink.AsyncLink`, or what a test puts in its place."""

    async def connection(self, timeout_seconds: float | None) -> Connection:
        """Return the connection, or open one."""

    async def close(self, timeout_seconds: float | None = 5.0) -> None:
        """Close the connection, and open none any more."""


class AsyncRunner:
    """Runs flows on one event loop. A task that is cancelled takes its flow with it, which cleans up behind itself.

    Args:
        link: Called for the link; another one after the first was closed.
    """

    def __init__(self, link: Callable[[], AsyncSource]) -> None:
        self._link = link
        self._session: Session | None = None

    async def session(self, timeout_seconds: float | None) -> Session:
        """Return the session of the present connection; raises what `AsyncLink.connection` raises."""
        connection = await self._link().connection(timeout_seconds)
        session = self._session
        if session is None or session.connection is not connection:
            session = self._session = Session(connection)
        return session

    async def once(self, make: Callable[[Session], Flow[T]], timeout_seconds: float | None) -> T:
        """Run a flow on the present session."""
        deadline = None if timeout_seconds is None else self.now() + timeout_seconds
        session = await self.session(timeout_seconds)
        return await aioflow.run(make(session), None if deadline is None else max(deadline - self.now(), 0.0))

    async def resume(self, make: Callable[[Session], Flow[T]], timeout_seconds: float | None) -> T:
        """Run a flow, and again on the next session as often as its connection or channel goes away."""
        deadline = None if timeout_seconds is None else self.now() + timeout_seconds
        runs = 0
        while True:
            remaining = None if deadline is None else max(deadline - self.now(), 0.0)
            try:
                return await self.once(make, remaining)
            except (ConnectionLost, ChannelClosed) as error:
                runs += 1
                logger.info("going on after: %s", error)
                await self.wait(pause_seconds(runs), deadline)

    async def wait(self, seconds: float, deadline: float | None) -> None:
        """Let `seconds` pass, or less where the deadline is nearer."""
        if deadline is not None:
            seconds = min(seconds, max(deadline - self.now(), 0.0))
        await asyncio.sleep(seconds)

    def now(self) -> float:
        """Return the loop's clock, seconds."""
        return asyncio.get_running_loop().time()
