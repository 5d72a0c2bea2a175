"""Filters, plans, rates and limits of the desk. No broker, no waiting."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import pytest

from amqpq.clock import ManualClock
from amqpq.deadletters.choosing import Choice
from amqpq.deadletters.flows import look_limit
from amqpq.deadletters.letter import Letter
from amqpq.deadletters.pacing import Bucket
from amqpq.deadletters.planning import Return, Stays
from amqpq.types import Publication

MakeLetter = Callable[..., Letter]


def choice(**conditions: Any) -> Choice:
    """Make a choice."""
    return Choice(**conditions)


@pytest.mark.parametrize(
    ("conditions", "taken"),
    [
        ({}, True),
        ({"ids": frozenset({"a1", "zz"})}, True),
        ({"ids": frozenset({"a"})}, False),
        ({"tasks": ("web.*", "shop.*")}, True),
        ({"tasks": ("SHOP.*",)}, False),
        ({"causes": frozenset({"failed"})}, True),
        ({"causes": frozenset({"expired"})}, False),
        ({"origins": frozenset({"default"})}, True),
        ({"origins": frozenset({"shop.dead"})}, False),
        ({"older_than": 99.0}, True),
        ({"older_than": 100.0}, False),
        ({"newer_than": 101.0}, True),
        ({"newer_than": 100.0}, False),
        ({"text": "NO CARD"}, True),
        ({"text": "in charge"}, True),
        ({"text": "customer-4711"}, True),
        ({"text": "zoe"}, True),
        ({"text": "nowhere"}, False),
        ({"tasks": ("shop.*",), "causes": frozenset({"expired"})}, False),
    ],
)
def test_every_condition_must_hold(letter: MakeLetter, conditions: dict[str, Any], taken: bool) -> None:
    """Ids, patterns, causes, origins, ages and text narrow the choice."""
    found = letter()
    assert found.failed_at is not None
    assert choice(**conditions).takes(found, found.failed_at + 100) is taken


def test_an_unknown_time_is_neither_old_nor_young(letter: MakeLetter) -> None:
    """What failed at an unknown time is not meant by an age."""
    found = letter({"amqpq-last-failed": None})
    assert not choice(older_than=0.0).takes(found, 1e12)
    assert not choice(newer_than=1e12).takes(found, 1e12)
    assert choice().takes(found, 1e12)


def test_text_is_found_in_a_packed_body_and_in_nested_headers(letter: MakeLetter) -> None:
    """The search reads what a person would read."""
    packed = letter({"compression": "application/x-gzip"}, body=zlib.compress(b"the needle"))
    assert choice(text="Needle").takes(packed, 0)
    assert choice(text="needle").takes(letter({"mine": {"deep": [b"a needle"]}}), 0)


def test_a_letter_goes_back_to_where_it_came_from(letter: MakeLetter) -> None:
    """Through the default exchange, to its own queue, or to the one that is named."""
    renamed = Return({"post"}, renamed={"default": "post"}).plan(letter(), 0)
    assert isinstance(renamed, Publication)
    assert renamed.routing_key == "post"
    there = Return({"default"}).plan(letter(), 0)
    elsewhere = Return({"default"}, to="new").plan(letter(), 0)
    assert isinstance(there, Publication)
    assert isinstance(elsewhere, Publication)
    assert (there.routing_key, elsewhere.routing_key) == ("default", "new")


@pytest.mark.parametrize(
    ("headers", "plan", "why"),
    [
        ({"amqpq-queue": None}, Return({"default"}), "nothing says which queue"),
        ({"amqpq-queue": "secret"}, Return({"default"}), "the topology does not have"),
        ({}, Return({"default"}, to="shop.dead"), "where it is"),
        ({"expires": "2026-01-01T00:00:00+00:00"}, Return({"default"}), "expiry has passed"),
    ],
)
def test_what_cannot_go_back_stays_and_says_why(
    letter: MakeLetter, headers: dict[str, Any], plan: Return, why: str
) -> None:
    """No origin, a foreign origin that nobody signed, the same queue again, an expiry in the past."""
    stays = plan.plan(letter(headers), 1.9e9)
    assert isinstance(stays, Stays)
    assert why in stays.why


def test_expired_ones_go_back_where_that_is_asked_for(letter: MakeLetter) -> None:
    """`--expired` is a decision of a person."""
    planned = Return({"default"}, expired=True).plan(letter({"expires": "2026-01-01T00:00:00+00:00"}), 1.9e9)
    assert isinstance(planned, Publication)


def test_a_bucket_lets_so_many_through_in_a_time() -> None:
    """At four a second, eleven take two and a half seconds, one being there at once; nobody waits for longer than needed."""
    clock = ManualClock()
    bucket = Bucket(4.0, clock.monotonic, burst=8)
    taken, waited = bucket.take(11), 0.0
    while taken < 11:
        pause = bucket.wait_seconds()
        assert pause > 0
        clock.advance(pause)
        waited += pause
        got = bucket.take(11 - taken)
        assert got == 1
        taken += got
    assert waited == pytest.approx(2.5)


def test_a_bucket_saves_up_no_more_than_its_burst() -> None:
    """After an hour of nothing there is one burst, not an hour's worth."""
    clock = ManualClock()
    bucket = Bucket(100.0, clock.monotonic, burst=5)
    clock.advance(3600)
    assert bucket.take(1000) == 5
    assert bucket.take(1000) == 0


def test_without_a_rate_nothing_waits() -> None:
    """No rate is no limit."""
    bucket = Bucket(None, ManualClock().monotonic)
    assert (bucket.take(1000), bucket.wait_seconds()) == (1000, 0.0)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_is_above_zero(rate: float) -> None:
    """Anything else would never end."""
    with pytest.raises(ValueError, match="above zero"):
        Bucket(rate, ManualClock().monotonic)


@pytest.mark.parametrize(
    ("delivery_limit", "quorum", "version", "expected"),
    [
        (None, False, (4, 2, 0), None),
        (None, True, (3, 13, 7), None),
        (None, True, (4, 0, 0), 15),
        (-1, True, (4, 2, 0), None),
        (50, True, (3, 10, 8), 45),
        (2, True, (3, 10, 8), 0),
    ],
)
def test_looking_stops_before_a_quorum_queue_drops(
    delivery_limit: int | None, quorum: bool, version: tuple[int, int, int], expected: int | None
) -> None:
    """A quorum queue counts looks as deliveries, up to its limit; 20 by default from RabbitMQ 4.0 on."""
    assert look_limit(delivery_limit, quorum=quorum, version=version) == expected
