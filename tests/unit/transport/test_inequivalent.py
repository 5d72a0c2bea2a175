"""What the broker says when an object exists with another property, in its words of 3.10 to 4.3."""

from __future__ import annotations

import pytest

from amqpq.errors import AccessRefused, PreconditionFailed
from amqpq.transport.inequivalent import Value, give_in, read, shown
from amqpq.types import ExchangeSpec, QueueSpec


def said(key: str, received: str, current: str, kind: str = "queue") -> PreconditionFailed:
    """Refuse as the broker does."""
    return PreconditionFailed(
        f"PRECONDITION_FAILED - inequivalent arg '{key}' for {kind} 'it' in vhost 'v': "
        f"received {received} but current is {current}; a remedy"
    )


@pytest.mark.parametrize(
    ("key", "current", "value"),
    [
        ("durable", "'true'", True),
        ("x-max-length", "the value '5' of type 'signedint'", 5),
        ("x-single-active-consumer", "the value 'true' of type 'bool'", True),
        ("x-overflow", "the value 'drop-head' of type 'longstr'", "drop-head"),
        ("x-dead-letter-exchange", "the value '' of type 'longstr'", ""),
        ("x-expires", "none", None),
        ("x-max-age", "'1D'", "1D"),
        ("x-max-age", "'86400000'", "1D"),
        ("x-max-age", "'91000'", "91s"),
        ("x-max-age", "'5400000'", "90m"),
    ],
)
def test_a_value_is_read_as_it_would_be_declared(key: str, current: str, value: Value) -> None:
    """Ages too: 4.3 says them in milliseconds, which no declaration takes."""
    refusal = read(said(key, "none", current))
    assert refusal is not None
    assert (refusal.key, refusal.vhost, refusal.broker, refusal.asked) == (key, "v", value, None)


@pytest.mark.parametrize(
    "answer", [AccessRefused("inequivalent arg"), PreconditionFailed("invalid arg 'x-max-age' for queue 'it'"), None]
)
def test_another_answer_is_not_one(answer: object) -> None:
    """Nor is a queue."""
    assert read(answer) is None


def test_giving_in_takes_the_brokers_value() -> None:
    """A number that the broker says without its type stays a number; what it does not have goes."""
    spec = QueueSpec("it", durable=True, arguments={"x-max-priority": 5, "x-expires": 7})
    for key, current in (("durable", "'false'"), ("x-max-priority", "'9'"), ("x-expires", "none")):
        refusal = read(said(key, "'5'", current))
        assert refusal is not None
        spec = give_in(spec, refusal)
    assert (spec.durable, spec.arguments) == (False, {"x-max-priority": 9})
    refusal = read(said("type", "'topic'", "'direct'", "exchange"))
    assert refusal is not None
    assert give_in(ExchangeSpec("it", "topic"), refusal).type == "direct"


@pytest.mark.parametrize(("value", "text"), [(None, "none"), ("", "''"), (True, "true"), (5, "5")])
def test_a_value_for_people(value: Value, text: str) -> None:
    """An empty text is seen."""
    assert shown(value) == text
