"""Runs flows on the session of a blocking link: once, or again on the next connection where that is safe."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from amqpq import log
from amqpq.errors import ChannelClosed, ConnectionLost
from amqpq.replies.session import Session
from amqpq.transport import flow
from amqpq.transport.interface import Connection, Flow

logger = log.logger(log.REPLIES)

T = TypeVar("T")

FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 1.0
"""Between two runs of a flow that lost its channel; looking for a broker has pauses of its own."""


class Source(Protocol):
    """What hands out connections: `amqpq.transport.link.Link`, or what a test puts in its place."""

    def connection(self, timeout_seconds: float | None) -> Connection:
        """Return the connection, or open one."""

    def close(self, timeout_seconds: float | None = 5.0) -> None:
        """Close the connection, and open none any more."""


def pause_seconds(runs: int) -> float:
    """Return how long to wait after `runs` runs that lost their channel."""
    return min(FIRST_PAUSE_SECONDS * 2.0 ** (runs - 1), LONGEST_PAUSE_SECONDS)


class Runner:
    """Runs flows for blocking code. Safe in any thread, and after a fork.

    Args:
        link: Called for the link; another one after the first was closed.
    """

    def __init__(self, link: Callable[[], Source]) -> None:
        self._link = link
        self._start_afresh()
        _runners.add(self)

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._session: Session | None = None

    def session(self, timeout_seconds: float | None) -> Session:
        """Return the session of the present connection; raises what `Link.connection` raises."""
        connection = self._link().connection(timeout_seconds)
        session = self._session
        if session is None or session.connection is not connection:
            with self._lock:
                session = self._session
                if session is None or session.connection is not connection:
                    session = self._session = Session(connection)
        return session

    def once(self, make: Callable[[Session], Flow[T]], timeout_seconds: float | None) -> T:
        """Run a flow on the present session."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        session = self.session(timeout_seconds)
        return flow.run(make(session), None if deadline is None else max(deadline - time.monotonic(), 0.0))

    def resume(self, make: Callable[[Session], Flow[T]], timeout_seconds: float | None) -> T:
        """Run a flow, and again on the next session as often as its connection or channel goes away."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        runs = 0
        while True:
            remaining = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            try:
                return self.once(make, remaining)
            except (ConnectionLost, ChannelClosed) as error:
                runs += 1
                logger.info("going on after: %s", error)
                self.wait(pause_seconds(runs), deadline)

    def wait(self, seconds: float, deadline: float | None) -> None:
        """Let `seconds` pass, or less where the deadline is nearer."""
        if deadline is not None:
            seconds = min(seconds, max(deadline - time.monotonic(), 0.0))
        if seconds > 0:
            time.sleep(seconds)


_runners: weakref.WeakSet[Runner] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # The parent's sessions, and locks that another of its threads may hold, are none of the child's business.
    for runner in list(_runners):
        runner._start_afresh()  # noqa: SLF001 - of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
