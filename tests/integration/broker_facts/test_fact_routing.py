"""What the routing of RabbitMQ does where the documentation is silent."""

from __future__ import annotations

import pytest

from tests.support.lab import Lab


@pytest.mark.parametrize(
    ("key", "reached"), [("", ["hash"]), ("a", ["hash", "star"]), ("a.b", ["hash"]), (".", ["hash"])]
)
def test_the_empty_routing_key_has_no_words(lab: Lab, key: str, reached: list[str]) -> None:
    """`*` in a topic binding is one word and does not match it; `#` does. A dot makes two (empty) words."""
    lab.exchange("topics", "topic")
    for name, pattern in (("star", "*"), ("hash", "#")):
        lab.declare(name)
        lab.bind("topics", name, pattern)
    assert lab.publish("topics", key, b"x").confirmed
    assert sorted(name for name in ("star", "hash") if lab.bodies(name)) == reached


def test_a_dot_alone_is_two_words(lab: Lab) -> None:
    """`*.*` matches it."""
    lab.exchange("topics", "topic")
    lab.declare("two")
    lab.bind("topics", "two", "*.*")
    assert lab.publish("topics", ".", b"x").confirmed


def test_headers_tell_1_from_1_0_on_rabbitmq_4(lab: Lab) -> None:
    """On 3.10 they are equal."""
    lab.exchange("headers", "headers")
    lab.declare("whole")
    lab.bind("headers", "whole", arguments={"number": 1})
    assert lab.publish("headers", "", b"x", headers={"number": 1}).confirmed
    assert lab.publish("headers", "", b"x", headers={"number": 1.0}).confirmed == (lab.version < (3, 13, 0))


@pytest.mark.parametrize("value", ["1", True, "x"])
def test_headers_tell_a_number_from_text_and_from_truth(lab: Lab, value: object) -> None:
    """On every version."""
    lab.exchange("headers", "headers")
    lab.declare("whole")
    lab.bind("headers", "whole", arguments={"number": 1})
    assert not lab.publish("headers", "", b"x", headers={"number": value}).confirmed


def test_an_alternate_exchange_takes_nothing_where_a_binding_leads_nowhere(lab: Lab) -> None:
    """A binding to an exchange without queues counts as a match; the message comes back to its publisher."""
    lab.exchange("spare")
    lab.declare("spare")
    lab.bind("spare", "spare")
    lab.exchange("dead-end")
    lab.exchange("in", "direct", {"alternate-exchange": "spare"})
    assert lab.publish("in", "key", b"x").confirmed
    lab.bind("in", "dead-end", "key", to_exchange=True)
    assert not lab.publish("in", "key", b"x").confirmed
    assert lab.bodies("spare") == [b"x"]


def test_a_topic_key_with_three_hashes_is_refused_from_4_3_5_on(lab: Lab) -> None:
    """Before, it is bound."""
    lab.exchange("topics", "topic")
    lab.declare("work")
    if lab.version >= (4, 3, 5):
        with pytest.raises(Exception, match="PRECONDITION_FAILED"):
            lab.bind("topics", "work", "#.a.#.b.#")
    else:
        lab.bind("topics", "work", "#.a.#.b.#")
        assert lab.publish("topics", "a.b", b"x").confirmed
