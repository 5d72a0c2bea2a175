"""The plan of a search for a broker; no clock runs and nothing is random here."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from amqpq.clock import ManualClock
from amqpq.errors import AuthenticationRefused, BrokerUnreachable, TransportError
from amqpq.transport.attempts import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Attempt, search
from amqpq.transport.url import Address

NODES = [Address("a"), Address("b"), Address("c")]


class Highest(Random):
    """Draws the longest pause and shuffles nothing."""

    def uniform(self, a: float, b: float) -> float:
        """The upper end."""
        del a
        return b

    def shuffle(self, x: object) -> None:
        """Leave it."""


def walk(
    addresses: list[Address],
    timeout: float | None,
    errors: dict[str, TransportError],
    limit: int = 50,
    cost: float = 0.0,
) -> list[Attempt]:
    """Follow the plan, with every attempt failing as said; ends with the plan or after `limit` attempts."""
    clock = ManualClock()
    plan = search(addresses, timeout, random=Highest(), now=clock.monotonic)
    made: list[Attempt] = []
    attempt = next(plan)
    while len(made) < limit:
        made.append(attempt)
        clock.advance(attempt.pause_seconds + cost)
        attempt = plan.send(errors.get(attempt.address.host, BrokerUnreachable("down")))
    return made


def test_every_address_is_tried_before_any_pause() -> None:
    """A round goes over all addresses at once; the pause is between rounds."""
    made = walk(NODES, None, {}, limit=9)
    assert [attempt.address.host for attempt in made] == list("abcabcabc")
    assert [attempt.pause_seconds > 0 for attempt in made] == [False] * 3 + [True, False, False] * 2


def test_the_pauses_double_up_to_the_longest() -> None:
    """Patience grows, within bounds."""
    pauses = [attempt.pause_seconds for attempt in walk(NODES[:1], None, {}, limit=12)][1:]
    assert pauses[0] == FIRST_PAUSE_SECONDS
    assert all(later == min(2 * earlier, LONGEST_PAUSE_SECONDS) for earlier, later in pairwise(pauses))
    assert pauses[-1] == LONGEST_PAUSE_SECONDS


def test_the_order_and_the_pauses_are_drawn() -> None:
    """Clients with other random sources go other ways: they do not come in waves."""

    def first_round(seed: int) -> tuple[list[str], float]:
        plan = search(NODES, None, random=Random(seed), now=lambda: 0.0)
        attempts = [next(plan)] + [plan.send(BrokerUnreachable("down")) for _ in range(3)]
        return [attempt.address.host for attempt in attempts[:3]], attempts[3].pause_seconds

    rounds = [first_round(seed) for seed in range(20)]
    assert len({tuple(order) for order, _ in rounds}) == 6
    assert len({pause for _, pause in rounds}) == 20


def test_the_search_ends_at_its_deadline_with_all_that_was_said() -> None:
    """When the time is up, the error lists every address; no attempt is planned beyond the deadline."""
    clock = ManualClock()
    plan = search(NODES, 10.0, random=Highest(), now=clock.monotonic)
    attempt = next(plan)

    def follow(attempt: Attempt) -> None:
        for _ in range(1000):
            clock.advance(attempt.pause_seconds + 0.01)
            assert clock.monotonic() + attempt.timeout_seconds <= 10.0 + 0.02
            attempt = plan.send(BrokerUnreachable(f"{attempt.address.host} is down"))

    with pytest.raises(BrokerUnreachable) as caught:
        follow(attempt)
    assert clock.monotonic() <= 10.0
    for word in ("within 10 s", "a is down", "b is down", "c is down"):
        assert word in str(caught.value)


def test_one_attempt_is_made_even_without_time() -> None:
    """A deadline of nothing still asks once: a broker on this machine answers within a moment."""
    plan = search(NODES, 0, random=Highest(), now=lambda: 0.0)
    assert next(plan).timeout_seconds > 0
    with pytest.raises(BrokerUnreachable):
        plan.send(BrokerUnreachable("down"))


def test_who_refuses_for_good_is_not_asked_again() -> None:
    """A wrong password at one node leaves the others in the search."""
    made = walk(NODES, None, {"b": AuthenticationRefused("wrong password")}, limit=7)
    assert [attempt.address.host for attempt in made] == list("abcacac")


def test_the_search_ends_where_everybody_refuses_for_good() -> None:
    """Nothing more to try: the refusal itself is raised, not a timeout."""
    with pytest.raises(AuthenticationRefused, match="wrong password"):
        walk(NODES, None, dict.fromkeys("abc", AuthenticationRefused("wrong password")))


def test_a_search_that_found_is_over() -> None:
    """Sent no error, the plan ends."""
    plan = search(NODES, None, random=Highest(), now=lambda: 0.0)
    next(plan)
    with pytest.raises(StopIteration):
        plan.send(None)
