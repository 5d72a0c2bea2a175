"""Plans of partitioned queues: made in order, never with another number while they are bound."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from amqpq.errors import LocalError
from amqpq.provision.changes import Action
from amqpq.provision.destruction import Choice, Ground, destruction
from amqpq.provision.differences import differences
from amqpq.provision.observed import Observed, SeenQueue, address_of_binding
from amqpq.provision.plan import Plan, plan
from amqpq.provision.wanted import wanted
from amqpq.topology import Topology, load
from amqpq.types import QueueSpec

DELAYS = {"delays": {"unit": "1s", "max": "4s"}}


def make(count: int, sections: dict[str, Any] | None = None, **queue: Any) -> Topology:
    """A topology with so many partitions, to which a topic exchange leads, and a check of that."""
    return load(
        {
            "amqpq": 1,
            "project": "shop",
            "exchanges": {"web": {"type": "topic"}},
            "queues": {"clicks": {"partitions": count, **queue}},
            "bindings": ["web[c.*] -> clicks"],
            "checks": [{"publish": {"exchange": "web", "key": "c.x"}, "reaches": ["clicks"], "exactly": True}],
            **(sections or {}),
        },
        environ={},
    )


def planned(topology: Topology, seen: Observed) -> Plan:
    """Plan this topology on a broker like that."""
    return plan(topology, wanted(topology), seen)


def test_a_broker_that_is_as_the_file_says_has_no_differences(see: Any) -> None:
    """Exchange, partitions and bindings are all compared."""
    topology = make(4)
    assert differences(wanted(topology), see(topology)) == ()


def test_partitions_are_bound_by_name_before_anything_leads_to_them(see: Any) -> None:
    """On an empty broker; and the rehearsal of the steps breaks no check."""
    topology = make(12)
    found = planned(topology, see(topology, exchanges={}, queues={}, bindings=()))
    bound = [step.name.rpartition(" -> ")[2] for step in found.steps if step.operation == "bind"]
    assert bound[:3] == ["clicks.0", "clicks.1", "clicks.10"]
    assert bound[12:] == ["clicks.hash (exchange)"]
    assert (found.problems, found.warnings) == ((), ())


@pytest.mark.parametrize("sections", [{}, DELAYS], ids=["", "delays"])
@pytest.mark.parametrize("count", [2, 6])
def test_another_number_is_forbidden_with_the_way(see: Any, count: int, sections: dict[str, Any]) -> None:
    """Whatever the statistics say of the messages in them; no step makes, binds or removes a partition."""
    found = planned(make(count, sections), see(make(4, sections)))
    (change,) = found.of(Action.FORBIDDEN)
    assert change.address == "queue clicks"
    assert change.because == f"the broker has 4 partitions of it, and the file {count}"
    assert "delete the exchange 'clicks.hash'" in change.remedy
    assert found.steps == ()
    assert found.outcome == "forbidden"


def test_without_bindings_the_number_is_free(see: Any) -> None:
    """An apply that was cut off goes on, and one after the exchange was deleted begins anew."""
    seen = see(make(4))
    found = planned(make(6), replace(seen, bindings=()))
    assert found.of(Action.FORBIDDEN) == ()
    assert sum(step.operation == "bind" for step in found.steps) == 7


@pytest.mark.parametrize("level", ["amqp", "amqp1.0"])
@pytest.mark.parametrize(("ready", "consumers", "free"), [(0, 0, True), (1, 0, False), (0, 1, False)])
def test_over_amqp_they_must_be_empty_and_unused(
    see: Any, ready: int, consumers: int, level: str, *, free: bool
) -> None:
    """Bindings, or those of others, cannot be seen there; the broker itself counts what is ready."""
    queues = {f"clicks.{n}": SeenQueue(QueueSpec(f"clicks.{n}"), ready=ready, consumers=consumers) for n in range(4)}
    bindings = None if level == "amqp" else ()
    unseen = {"policies": None, "operator_policies": None, "consumers": None}
    seen = see(make(4), level=level, queues=queues, bindings=bindings, **unseen)
    found = planned(make(6), seen)
    assert (found.of(Action.FORBIDDEN) == ()) is free
    assert any(step.name == "clicks.5" for step in found.steps) is free
    assert any("-> clicks.5" in step.name for step in found.steps if step.operation == "bind") is free


def test_over_amqp_no_delay_is_led_to_a_partition_that_must_not_be_made(see: Any) -> None:
    """All bindings are made there, but those of the partitions."""
    topology = make(4, DELAYS)
    queues = {f"clicks.{n}": SeenQueue(QueueSpec(f"clicks.{n}"), ready=1, consumers=0) for n in range(4)}
    blind: dict[str, Any] = {"bindings": None, "policies": None, "operator_policies": None, "consumers": None}
    found = planned(make(6, DELAYS), see(topology, level="amqp", queues=queues, **blind))
    assert [change.name for change in found.of(Action.FORBIDDEN)] == ["clicks"]
    assert not [step.name for step in found.steps if re.search(r"clicks\.\d+$", step.name)]
    assert "web[c.*] -> clicks.hash (exchange)" in [step.name for step in found.steps]


def test_a_partitioned_queue_is_destroyed_by_the_name_that_the_file_has(see: Any) -> None:
    """With all its partitions and the exchange before them; and nothing else goes."""
    topology = make(2, DELAYS)
    target = wanted(topology)
    addresses = [f"exchange {name}" for name in target.exchanges] + [f"queue {name}" for name in target.queues]
    bindings = [f"binding {address_of_binding(binding)}" for binding in target.declarations.bindings]
    ground = Ground(target, see(topology), frozenset([*addresses, *bindings]))
    for word in ("clicks", "queue.clicks"):
        found = destruction(ground, Choice((word,)))
        assert found.refusals == ()
        gone = {step.address for step in found.steps if step.operation != "unbind"}
        assert gone == {"queue clicks.0", "queue clicks.1", "exchange clicks.hash"}
        assert "web[c.*] -> clicks.hash (exchange)" in [step.name for step in found.steps]


def test_an_exchange_of_the_same_name_is_not_destroyed_with_a_partitioned_queue(see: Any) -> None:
    """Which of the two is asked for."""
    topology = make(2, {"exchanges": {"web": {"type": "topic"}, "clicks": {"type": "fanout"}}})
    target = wanted(topology)
    addresses = [f"exchange {name}" for name in target.exchanges] + [f"queue {name}" for name in target.queues]
    ground = Ground(target, see(topology), frozenset(addresses))
    with pytest.raises(LocalError, match="there are `exchange.clicks` and `queue.clicks`; say which"):
        destruction(ground, Choice(("clicks",)))
    steps = destruction(ground, Choice(("exchange.clicks",))).steps
    assert [step.address for step in steps] == ["exchange clicks"]


def test_a_partitioned_queue_that_is_to_go_is_not_said_to_be_gone(see: Any) -> None:
    """The file has its partitions no more; the plan says what they are called."""
    seen = see(make(2))
    without = load(
        {"amqpq": 1, "project": "shop", "queues": {"other": {}}, "decommission": {"queues": ["clicks"]}}, environ={}
    )
    (change,) = [each for each in differences(wanted(without), seen) if each.address == "queue clicks"]
    assert (change.action, change.because) == (
        Action.FORBIDDEN,
        "in `decommission`, and the broker has it in partitions",
    )
    assert change.remedy == "name those: queues clicks.0 and so on, exchange clicks.hash"


def test_another_hash_takes_another_exchange(see: Any) -> None:
    """Only the management API tells what it hashes by."""
    seen = see(make(4))
    (change,) = differences(wanted(make(4, partition_by={"header": "user"})), seen)
    assert (change.address, change.action) == ("exchange clicks.hash", Action.REPLACE)
