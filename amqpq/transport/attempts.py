"""In which order, and how patiently, to look for a broker. Pure: the random source and the clock are handed in.

All addresses are tried in a shuffled order, so that a thousand clients of a restarted cluster spread over its nodes;
then again after a pause that doubles up to a limit and is drawn at random ("full jitter",
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), so that they do not come in waves. An
address that refuses for good (wrong password, TLS where there is none) is not tried again; where none is left, the
search ends.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from amqpq.errors import TransportError
from amqpq.transport import failures
from amqpq.transport.url import Address

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
"""A broker that comes back is found within this; a node restart takes 5 to 30 s."""
SHORTEST_ATTEMPT_SECONDS = 0.05
LONGEST_ATTEMPT_SECONDS = 10.0
"""One address that swallows packets must not eat the whole time while its neighbour would answer."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What to do next: wait, then try this address for so long at most."""

    address: Address
    pause_seconds: float
    timeout_seconds: float


Search: TypeAlias = Generator[Attempt, "TransportError | None", None]
"""Yields attempts; is sent the error of each. Raises when there is nothing more to try."""


def search(
    addresses: Sequence[Address], timeout_seconds: float | None, *, random: Random, now: Callable[[], float]
) -> Search:
    """Plan the search for a broker.

    Args:
        addresses: At least one.
        timeout_seconds: For the whole search; None never gives up (but for refusals).
        random: Source of the order and of the pauses.
        now: Monotonic clock, seconds.

    Yields:
        The next attempt; send back the error it failed with.

    Raises:
        BrokerUnreachable: The time is up; the message lists every address with what it said.
        TransportError: The refusal, where every address refuses for good.
    """
    deadline = None if timeout_seconds is None else now() + timeout_seconds
    left = list(addresses)
    failed: list[tuple[Address, TransportError]] = []
    ceiling = FIRST_PAUSE_SECONDS
    pause = 0.0
    while True:
        random.shuffle(left)
        for address in list(left):
            remaining = None if deadline is None else deadline - now() - pause
            if remaining is not None and remaining < SHORTEST_ATTEMPT_SECONDS and failed:
                raise failures.unreachable(failed, timeout_seconds)
            time_for_it = LONGEST_ATTEMPT_SECONDS if remaining is None else min(remaining, LONGEST_ATTEMPT_SECONDS)
            error = yield Attempt(address, pause, max(time_for_it, SHORTEST_ATTEMPT_SECONDS))
            pause = 0.0
            if error is None:
                return
            failed.append((address, error))
            del failed[: -4 * len(addresses)]  # of a search without end, the last rounds are enough
            if not error.recoverable:
                left.remove(address)
        if not left:
            raise failed[-1][1]
        pause = random.uniform(0, ceiling)
        ceiling = min(ceiling * 2, LONGEST_PAUSE_SECONDS)
