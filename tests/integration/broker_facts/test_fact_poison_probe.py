"""L1: a declaration that can create nothing, and still tells what an existing queue has.

For a queue that is there, RabbitMQ compares the arguments one after the other and names the first that differs, with its
current value. For one that is not there, it looks at the values first. So a declaration with one impossible value asks and
never makes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import pytest

from tests.support.lab import QUORUM, STREAM, Lab

POISON: Final = "amqpq-probe"
DECLARATIONS_LIMIT: Final = 20
DIFFERS: Final = re.compile(
    r"inequivalent arg '(?P<key>[^']+)' for queue '[^']+' in vhost '[^']+': "
    r"received (?P<received>.+) but current is (?P<current>.+)"
)
VALUE: Final = re.compile(r"(?:the value )?'(?P<value>.*?)'(?: of type '(?P<type>\w+)')?")

KINDS: Final[Mapping[str, tuple[dict[str, Any], str]]] = {
    "classic": ({}, "x-single-active-consumer"),
    "quorum": (dict(QUORUM), "x-queue-leader-locator"),
    "stream": (dict(STREAM), "x-queue-leader-locator"),
}
"""Arguments of a queue of each type, and the argument that carries the impossible value: of those that every version
compares, the last whose value it checks."""

FULL: Final[Mapping[str, dict[str, Any]]] = {
    "classic": {
        "x-expires": 600_000,
        "x-message-ttl": 5_000,
        "x-dead-letter-exchange": "dead",
        "x-dead-letter-routing-key": "key",
        "x-max-length": 7,
        "x-max-length-bytes": 7_000,
        "x-max-priority": 5,
        "x-overflow": "reject-publish",
        "x-single-active-consumer": True,
    },
    "quorum": {
        "x-expires": 600_000,
        "x-message-ttl": 5_000,
        "x-dead-letter-exchange": "dead",
        "x-dead-letter-routing-key": "key",
        "x-dead-letter-strategy": "at-least-once",
        "x-max-length": 7,
        "x-max-length-bytes": 7_000,
        "x-overflow": "reject-publish",
        "x-delivery-limit": 4,
        "x-single-active-consumer": True,
        "x-quorum-initial-group-size": 1,
        "x-queue-leader-locator": "balanced",
    },
    "stream": {
        "x-max-length-bytes": 7_000_000,
        "x-max-age": "3600s",
        "x-stream-max-segment-size-bytes": 1_000_000,
        "x-initial-cluster-size": 1,
        "x-queue-leader-locator": "balanced",
    },
}
LATER: Final[Mapping[str, dict[str, Any]]] = {
    "quorum": {
        "x-consumer-timeout": 60_000,
        "x-delayed-retry-type": "all",
        "x-delayed-retry-min": 1_000,
        "x-delayed-retry-max": 2_000,
    }
}
"""What RabbitMQ 4.3 has beside them."""


def arguments_of(kind: str, version: tuple[int, int, int]) -> dict[str, Any]:
    """As many arguments as a queue of this type can have at once."""
    later = LATER.get(kind, {}) if version >= (4, 3, 0) else {}
    return {**KINDS[kind][0], **FULL[kind], **later}


@pytest.mark.parametrize("kind", KINDS)
def test_a_declaration_with_an_impossible_value_creates_nothing(lab: Lab, kind: str) -> None:
    """Where there is no such queue, it is refused for the value, and there is none afterwards."""
    base, key = KINDS[kind]
    assert f"invalid arg '{key}' for queue 'missing'" in lab.refusal("missing", {**base, key: POISON})
    assert not lab.exists("missing")


@pytest.mark.parametrize("kind", KINDS)
def test_it_tells_the_arguments_of_a_queue_that_is_there(lab: Lab, kind: str) -> None:
    """Asked again and again, each time with what is known, it names one argument after the other, until its own.

    What the broker compares after that one, a declaration with all that is known tells: on RabbitMQ 4.3 four arguments of
    quorum queues.
    """
    _, key = KINDS[kind]
    actual = arguments_of(kind, lab.version)
    lab.declare("asked", actual)
    known: dict[str, Any] = dict(KINDS[kind][0])
    poisoned = 0
    while key not in known:
        differing, current = differing_argument(lab, {**known, key: POISON})
        known[differing] = current
        poisoned += 1
        assert poisoned <= DECLARATIONS_LIMIT
    plain = 0
    while said := lab.refusal("asked", known):
        differing, current = read(said)
        known[differing] = current
        plain += 1
        assert plain <= DECLARATIONS_LIMIT
    assert known == actual
    assert plain == len(actual.keys() & LATER.get(kind, {}).keys())


def test_the_age_of_a_stream_is_compared_by_length_on_4_3(lab: Lab) -> None:
    """`1h` and `60m` are then the same, and the refusal names milliseconds, which no declaration takes."""
    lab.declare("log", {**STREAM, "x-max-age": "1h"})
    said = lab.refusal("log", {**STREAM, "x-max-age": "60m"})
    assert bool(said) == (lab.version < (4, 3, 0))
    said = lab.refusal("log", {**STREAM, "x-max-age": "2h"})
    assert ("current is '3600000'" if lab.version >= (4, 3, 0) else "current is '1h'") in said


@pytest.mark.parametrize("kind", KINDS)
def test_a_queue_without_arguments_is_told_from_one_with(lab: Lab, kind: str) -> None:
    """The first difference is then the impossible value itself, against none."""
    base, key = KINDS[kind]
    lab.declare("plain", base)
    found = DIFFERS.search(lab.refusal("plain", {**base, key: POISON}))
    assert found is not None
    assert found["key"] == key
    assert found["current"].startswith("none")


def test_the_type_of_a_queue_is_compared_too(lab: Lab) -> None:
    """A classic declaration of a quorum queue is refused for its type, when what comes before it is equal."""
    lab.declare("asked", {**QUORUM, "x-max-length": 5})
    assert differing_argument(lab, {"x-max-length": 5}) == ("x-queue-type", "quorum")


def test_a_queue_that_is_exclusive_to_another_connection_is_refused_before_its_arguments(lab: Lab) -> None:
    """The broker says so (405), and no more."""
    holder = Lab(lab.url, lab.server)
    holder.declare("mine", {"x-max-length": 5}, durable=False, exclusive=True)
    said = lab.refusal("mine", {"x-max-length": 6}, durable=False, exclusive=True)
    assert "RESOURCE_LOCKED" in said
    assert "x-max-length" not in said
    holder.close()


def differing_argument(lab: Lab, arguments: Mapping[str, Any]) -> tuple[str, Any]:
    """Declare what cannot be, and read what differs."""
    return read(lab.refusal("asked", arguments))


def read(said: str) -> tuple[str, Any]:
    """Read the name and the current value of the argument that a refusal names."""
    found = DIFFERS.search(said)
    assert found is not None, said
    value = VALUE.match(found["current"])
    assert value is not None, said
    text = value["value"]
    if found["key"] == "x-max-age" and text.isdigit():
        return found["key"], f"{int(text) // 1000}s"  # RabbitMQ 4.3 compares ages as milliseconds, and says so
    if text in {"true", "false"}:
        return found["key"], text == "true"
    return found["key"], int(text) if text.isdigit() else text
