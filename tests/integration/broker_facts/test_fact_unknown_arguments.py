"""L8: an argument that RabbitMQ does not know is kept and shown, and never compared."""

from __future__ import annotations

import pytest

from tests.support.lab import QUORUM, STREAM, Lab

OWNER = "x-amqpq-owner"


@pytest.mark.parametrize("base", [{}, QUORUM, STREAM], ids=["classic", "quorum", "stream"])
def test_an_unknown_argument_is_kept_and_not_compared(lab: Lab, base: dict[str, str]) -> None:
    """A queue that has it can be declared with another value and without it; the first one stays."""
    lab.declare("owned", {**base, OWNER: "shop"})
    assert not lab.refusal("owned", {**base, OWNER: "another"})
    assert not lab.refusal("owned", base)
    assert lab.seen("owned")["arguments"][OWNER] == "shop"


def test_an_unknown_argument_is_exported(lab: Lab) -> None:
    """The definitions of the vhost carry it."""
    lab.declare("owned", {OWNER: "shop"})
    (queue,) = lab.api("GET", "definitions/{v}")["queues"]
    assert queue["arguments"][OWNER] == "shop"


def test_a_queue_made_without_it_never_gets_it(lab: Lab) -> None:
    """A declaration with the argument is taken, and changes nothing: a queue cannot be marked afterwards."""
    lab.declare("plain")
    assert not lab.refusal("plain", {OWNER: "shop"})
    assert OWNER not in lab.seen("plain")["arguments"]
