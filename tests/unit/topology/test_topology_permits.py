"""Permits: how many, how they are named, and that an apply puts them into a queue once."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq.rates import UNITS, Rate, rate_of
from amqpq.testing.memory import MemoryBroker, declare_topology
from amqpq.topology import Topology, load, render
from amqpq.topology.declarations import declarations
from amqpq.topology.permits import SHORTEST_HOLD_SECONDS, hold_of, permit_queues, slot_of
from amqpq.transport import declare, flow
from amqpq.transport.interface import Channel, Pending
from amqpq.types import Fate, Outcome, Properties, Publication, QueueSpec


def topology(limits: dict[str, Any]) -> Topology:
    """A small topology with these limits."""
    return load(
        {"amqpq": 1, "project": "p", "queues": {"default": {}}, "security": {"signing": "off"}, "limits": limits},
        environ={},
    )


@pytest.mark.parametrize(
    "text, count, seconds",
    [
        ("100/m", 1, 0.6),
        ("10/s", 5, 0.5),
        ("1/s", 1, 1.0),
        ("3/h", 1, 1200.0),
        ("1000/s", 250, 0.25),
        ("97/s", 97, 1.0),
    ],
)
def test_a_rate_has_few_permits_that_are_held_for_a_while(text: str, count: int, seconds: float) -> None:
    """The fewest with a hold that is long beside the way to the broker."""
    rate = rate_of(text)
    assert rate is not None
    permits, hold = hold_of(rate)
    assert permits == count
    assert hold == pytest.approx(seconds)


@given(count=st.one_of(st.integers(1, 5000), st.floats(0.5, 500)), unit=st.sampled_from(sorted(UNITS)))
def test_permits_never_let_more_begin_than_the_rate_says(count: float, unit: str) -> None:
    """In its own time: each permit begins at most one task for each hold that is begun in it. Fractions are rounded up."""
    rate = Rate(float(count), unit)
    permits, hold = hold_of(rate)
    most = permits * math.ceil(UNITS[unit] / hold - 1e-6)
    assert most <= (count if isinstance(count, int) else count + permits)
    assert hold >= SHORTEST_HOLD_SECONDS - 1e-9


def test_what_a_limit_says_is_part_of_the_name_of_its_queue() -> None:
    """So another number is another queue, and nobody has to take permits out of one or put them in."""
    limits = {
        "web.*": {"rate": "100/m"},
        "report": {"concurrency": 3},
        "crm.*": {"concurrency": 1, "key": "customer", "slots": 2},
    }
    assert dict(permit_queues(topology(limits))) == {
        "p.permits.web.*.100-per-m.1": 1,
        "p.permits.report.3": 3,
        "p.permits.crm.*.1.customer.0-of-2": 1,
        "p.permits.crm.*.1.customer.1-of-2": 1,
    }


def test_an_exact_name_counts_before_the_patterns() -> None:
    """And of the patterns the first one, as with routes."""
    found = topology({"web.*": {"rate": "1/s"}, "*": {"rate": "2/s"}, "web.fetch": {"rate": "3/s"}})
    assert [str(limit.rate) for name in ("web.fetch", "web.post", "else") if (limit := found.limit_for(name))] == [
        "3/s",
        "1/s",
        "2/s",
    ]
    assert topology({"web.*": {"rate": "1/s"}}).limit_for("else") is None


def test_equal_values_have_equal_slots() -> None:
    """A number and its text are the same customer; the slots are stable, because workers of two versions have to agree."""
    assert slot_of(42, 64) == slot_of("42", 64) == 58
    assert len({slot_of(number, 64) for number in range(1000)}) == 64


def test_an_apply_fills_the_queues_that_it_creates() -> None:
    """Once: neither a second apply nor one while permits are held adds any."""
    broker, wanted = MemoryBroker(), topology({"report": {"concurrency": 3}})
    declare_topology(broker, wanted)
    assert [letter.body for letter in broker.messages("p.permits.report.3")] == [
        b"permit 1 of 3",
        b"permit 2 of 3",
        b"permit 3 of 3",
    ]
    connection = broker.connect()
    connection.channel().get("p.permits.report.3").result(10)
    declare_topology(broker, wanted)
    assert broker.queues()["p.permits.report.3"].messages == 2
    connection.close().result(10)
    assert broker.queues()["p.permits.report.3"].messages == 3


def test_permits_too_many_do_not_stay() -> None:
    """Two applies at the same time both see a queue that is not there yet."""
    broker, wanted = MemoryBroker(), topology({"report": {"concurrency": 3}})
    declare_topology(broker, wanted)
    more = [Publication("", "p.permits.report.3", b"", Properties()) for _ in range(3)]
    broker.connect().channel().publish(more).result(10)
    assert broker.queues()["p.permits.report.3"].messages == 3


class Refusing:
    """A channel whose broker takes no messages."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def publish(self, publications: list[Publication]) -> Pending[list[Outcome]]:
        """Refuse."""
        pending: Any = self._channel.publish([])
        answer: Any = type(pending)(pending._connection)
        answer.set_result([Outcome(Fate.NACKED, "no room")] * len(publications))
        refused: Pending[list[Outcome]] = answer
        return refused


def test_a_queue_whose_permits_are_refused_is_not_left_behind() -> None:
    """The next apply finds it missing, and fills it."""
    broker, wanted = MemoryBroker(), topology({"report": {"concurrency": 3}})
    connection = broker.connect()
    opener: Any = lambda: Refusing(connection.channel())  # noqa: E731
    applied = flow.run(declare.apply(opener, declarations(wanted)), 10.0)
    (failed,) = (step for step in applied if step.result == "failed")
    assert str(failed.error) == "queue 'p.permits.report.3': what it starts with was not taken (nacked no room)"
    assert "p.permits.report.3" not in broker.queues()
    declare_topology(broker, wanted)
    assert broker.queues()["p.permits.report.3"].messages == 3


def test_a_permit_queue_is_declared_and_shown() -> None:
    """Slots are folded, unless everything is asked for."""
    wanted = topology({"crm.*": {"concurrency": 1, "key": "customer", "slots": 8}})
    assert QueueSpec("p.permits.crm.*.1.customer.7-of-8", arguments={"x-queue-type": "classic", "x-max-length": 1}) in (
        declarations(wanted).queues
    )
    folded = next(table for table in render.tables(wanted) if table.title == "Limits")
    assert folded.rows[1:] == (
        ("crm.*", "concurrency: 1 for each customer (8 slots)", "p.permits.crm.*.1.customer.0-of-8 ... 7-of-8"),
    )
    shown = next(table for table in render.tables(wanted, generated=True) if table.title == "Limits")
    assert len(shown.rows) == 1 + 8
    (facts,) = render.facts(wanted)["limits"]
    assert (facts["permits"], facts["slots"], len(facts["queues"])) == (1, 8, 8)
