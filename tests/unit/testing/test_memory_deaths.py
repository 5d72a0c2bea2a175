"""How a message dies, as a pure value: counts, order, the cycle rule."""

from __future__ import annotations

from amqpq.testing.memory.values import MAXLEN, Message
from amqpq.topology.routing import EXPIRED, REJECTED
from amqpq.types import Properties

FRESH = Message(b"x", Properties(expiration=500, headers={"mine": 1}), "web", "k", cc=("cc",))


def test_the_first_death_is_remembered() -> None:
    """The entry says where, why, when and with which keys; the expiration is taken off and kept in it."""
    dead = FRESH.died("q", EXPIRED, 1_700_000_000.9)
    entry = dead.deaths[0].entry()
    assert entry["time"].timestamp() == 1_700_000_000
    assert {name: value for name, value in entry.items() if name != "time"} == {
        "count": 1,
        "reason": "expired",
        "queue": "q",
        "exchange": "web",
        "routing-keys": ["k", "cc"],
        "original-expiration": "500",
    }
    assert dead.properties.expiration is None
    assert dead.first_death == ("web", "q", "expired")


def test_the_newest_death_is_first_and_the_same_one_is_counted() -> None:
    """Queue and reason together make an entry."""
    dead = FRESH.died("a", EXPIRED, 1).died("b", REJECTED, 2).died("a", EXPIRED, 3).died("a", MAXLEN, 4)
    told = [(death.queue, death.reason, death.times) for death in dead.deaths]
    assert told == [("a", "maxlen", 1), ("a", "expired", 2), ("b", "rejected", 1)]
    assert dead.first_death == ("web", "a", "expired")


def test_a_cycle_without_a_rejection_is_one() -> None:
    """Expiry alone must not turn for ever; a rejection on the way makes it the consumer's will."""
    by_time = FRESH.died("a", EXPIRED, 1).died("b", EXPIRED, 2)
    assert by_time.cycles_into("a")
    assert by_time.cycles_into("b")
    assert not by_time.cycles_into("c")
    by_will = FRESH.died("a", EXPIRED, 1).died("b", REJECTED, 2)
    assert not by_will.cycles_into("a")
    assert not by_will.cycles_into("b")


def test_a_rejection_before_the_cycle_does_not_excuse_it() -> None:
    """Only what happened since the last time in that queue counts."""
    dead = FRESH.died("z", REJECTED, 0).died("a", EXPIRED, 1).died("b", EXPIRED, 2)
    assert dead.cycles_into("a")


def test_a_message_that_never_died_has_no_marks() -> None:
    """The properties of a fresh message are delivered as they are."""
    assert FRESH.delivered_properties() is FRESH.properties
    assert FRESH.delivered_properties(returns=2).headers == {"mine": 1, "x-delivery-count": 2}
