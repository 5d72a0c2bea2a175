"""When a message that a queue gives up becomes a dead letter, and when it is dropped without a word."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.lab import QUORUM, Lab, answer, until

SOON_MS = 150
BOTH = pytest.mark.parametrize("base", [{}, QUORUM], ids=["classic", "quorum"])


def dead_to(queue: str) -> dict[str, Any]:
    """Arguments that send dead letters to a queue by its name."""
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue}


def after(lab: Lab, times: int) -> None:
    """Wait until the broker has let another message live so many times as long."""
    lab.declare("struck")
    lab.declare("clock", {**QUORUM, **dead_to("struck")})
    lab.send("clock", b"now", expiration=times * SOON_MS)
    lab.arrival("struck")


@BOTH
def test_a_circle_of_expiries_is_cut(lab: Lab, base: dict[str, Any]) -> None:
    """A message that would come back to a queue without having been rejected is dropped, and nobody is told."""
    lab.declare("a", {**base, **dead_to("b"), "x-message-ttl": SOON_MS})
    lab.declare("b", {**base, **dead_to("a"), "x-message-ttl": SOON_MS})
    lab.send("a", b"round and round")
    after(lab, 6)
    assert lab.state("a") == (0, 0)
    assert lab.state("b") == (0, 0)


@BOTH
def test_a_circle_with_a_rejection_is_not(lab: Lab, base: dict[str, Any]) -> None:
    """Once around and again."""
    lab.declare("work", {**base, **dead_to("pause")})
    lab.declare("pause", {**base, **dead_to("work"), "x-message-ttl": SOON_MS})
    lab.send("work", b"try again")
    for _ in range(3):
        reject(lab, "work")
    assert lab.arrival("work").properties.headers["x-death"]


def reject(lab: Lab, queue: str) -> None:
    """Wait for a message and reject it."""
    channel = lab.connection.channel()
    while (delivery := answer(channel.get(queue))) is None:
        pass
    channel.reject(delivery.tag, requeue=False)


@BOTH
def test_dead_letters_for_an_exchange_that_is_not_there_are_dropped(lab: Lab, base: dict[str, Any]) -> None:
    """The queue lets go of them, without a word."""
    lab.declare("work", {**base, "x-dead-letter-exchange": "nowhere"})
    lab.send("work", b"lost")
    reject(lab, "work")
    after(lab, 1)
    assert lab.state("work") == (0, 0)
    assert lab.delete("work") == 0


@BOTH
def test_a_queue_that_expires_makes_no_dead_letters(lab: Lab, base: dict[str, Any]) -> None:
    """What it holds goes with it."""
    lab.declare("dead")
    lab.declare("work", {**base, **dead_to("dead"), "x-expires": SOON_MS})
    lab.send("work", b"gone")
    until(lambda: lab.lacks("work"), "the queue is gone")
    after(lab, 1)
    assert lab.state("dead") == (0, 0)


@BOTH
def test_a_dead_letter_keeps_its_keys_unless_the_queue_has_one(lab: Lab, base: dict[str, Any]) -> None:
    """The copies that CC asked for are made again where there is no dead-letter key, and not where there is one.

    RabbitMQ 3.10 then takes the header out; 4.0 and later leave it in, for the next exchange to look at.
    """
    lab.exchange("deaths", "direct")
    for name in ("dead", "copied"):
        lab.declare(name)
        lab.bind("deaths", name, name)
    for name, arguments in (("keeps", {}), ("keyed", {"x-dead-letter-routing-key": "dead"})):
        lab.declare(name, {**base, "x-dead-letter-exchange": "deaths", **arguments})
        lab.send(name, name.encode(), headers={"CC": ["copied"]})
        assert lab.bodies("copied") == [name.encode()]
        reject(lab, name)
        died = lab.arrival("copied" if name == "keeps" else "dead")
        assert died.body == name.encode()
        assert ("CC" in died.properties.headers) == (name == "keeps" or lab.version >= (4, 0, 0))
    after(lab, 1)
    assert lab.bodies("copied") == []


@BOTH
@pytest.mark.parametrize("times", [1, 3])
def test_the_limit_of_a_queue_makes_dead_letters_of_its_oldest(lab: Lab, base: dict[str, Any], times: int) -> None:
    """`drop-head` does not drop where there is a dead-letter exchange: the reason is `maxlen`."""
    lab.declare("dead")
    lab.declare("work", {**base, **dead_to("dead"), "x-max-length": 1})
    lab.send("work", *[b"%d" % number for number in range(times + 1)])
    first = lab.arrival("dead")
    assert first.body == b"0"
    assert first.properties.headers["x-death"][0]["reason"] == "maxlen"
