"""Which request of a channel an answer belongs to, and which number a new channel gets. Pure; for both transports.

AMQP 0-9-1 numbers no requests: a channel answers them in order. RabbitMQ keeps that order for all but two. `consume-ok`
and `cancel-ok` are sent by the process of the *queue*, through the mailbox of the channel, where requests that were sent
behind them may already be waiting; those are then answered first. The two carry the consumer tag, which says whose they
are.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any, Protocol, TypeVar

_numbers = itertools.count(1)

RESTING_CHANNELS = 64
"""A channel number is used again only when so many others have rested since: until the broker has read our `close-ok` it
goes on delivering on a channel that it closed, and what is late must not reach a successor."""


class Awaited(Protocol):
    """A request without an answer: which answers fit, and the consumer it is about, if any."""

    @property
    def answers(self) -> tuple[int, ...]:
        """The methods that may answer it."""

    @property
    def consumer_tag(self) -> str | None:
        """Set for `basic.consume` and `basic.cancel`, whose answers come out of order."""


A = TypeVar("A", bound=Awaited)


def new_consumer_tag() -> str:
    """Make a tag that this process has not used: a late delivery must not find the consumer of a later channel."""
    return f"amqpq.{next(_numbers)}"


def take(awaited: deque[A], method: int, argument: Any) -> A | None:
    """Remove and return the request that this answer is for, or None where none is due."""
    for index, request in enumerate(awaited):
        tag = request.consumer_tag
        if method in request.answers and (tag is None or tag == argument[0]):
            del awaited[index]
            return request
        if tag is None:
            return None  # an ordered request is due, and this is not its answer
    return None


class ChannelNumbers:
    """The channel numbers of one connection, 1 to `limit`. Not thread-safe: the connection's lock guards it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._highest = 0
        self._resting: deque[int] = deque()

    def take(self) -> int | None:
        """Return a number that is not in use, or None where all are."""
        if self._highest < self.limit and len(self._resting) <= RESTING_CHANNELS:
            self._highest += 1
            return self._highest
        return self._resting.popleft() if self._resting else None

    def give_back(self, number: int) -> None:
        """The channel with this number has ended."""
        self._resting.append(number)

    def was_used(self, number: int) -> bool:
        """Whether a channel had this number once."""
        return 0 < number <= self._highest
