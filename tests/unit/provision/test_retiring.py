"""What is to go, what has another name, and what somebody else manages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from amqpq.provision.changes import Action
from amqpq.provision.destruction import Choice, Ground, destruction
from amqpq.provision.differences import differences
from amqpq.provision.journal import Manifest
from amqpq.provision.observed import Observed, SeenExchange, SeenQueue
from amqpq.provision.plan import plan
from amqpq.provision.wanted import wanted
from amqpq.topology import Topology, reach
from amqpq.topology.declarations import declarations
from amqpq.topology.renames import forwarding
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec

Make = Callable[..., Topology]


def with_old(seen: Observed, *bindings: BindingSpec, **facts: Any) -> Observed:
    """Return a broker that also has the queue `old` and the exchange `gone`."""
    old = SeenQueue(QueueSpec("old"), **{"ready": 0, "unacknowledged": 0, "consumers": 0, **facts})
    gone, crm = SeenExchange(ExchangeSpec("gone")), SeenExchange(ExchangeSpec("crm"))
    return replace(
        seen,
        queues={**seen.queues, "old": old},
        exchanges={**seen.exchanges, "gone": gone, "crm": crm},
        bindings=(*(seen.bindings or ()), *bindings),
    )


def found(topology: Topology, seen: Observed, *owned: str) -> list[tuple[str, str, str]]:
    """Return action, address and reason of each change."""
    changes = differences(wanted(topology), seen, frozenset(owned))
    return [(str(change.action), change.address, change.because) for change in changes]


LEAVING = {"decommission": {"queues": ["old"], "exchanges": ["gone"]}, "allow": {"delete": True}}


def test_what_is_to_go_is_unbound_first_and_kept(make: Make, see: Any) -> None:
    """Its bindings to and from what is ours; the object itself waits for a later plan."""
    topology = make(**LEAVING)
    bound = (BindingSpec("events", "old", "old.#"), BindingSpec("gone", "old", "k"), BindingSpec("gone", "mail", "m"))
    later = "in `decommission`: unbound by this plan, and kept; a later one deletes it when it is empty and unused"
    assert sorted(found(topology, with_old(see(topology), *bound))) == [
        ("delete", "binding events[old.#] -> old", "old is in `decommission`"),
        ("delete", "binding gone[k] -> old", "gone is in `decommission`"),
        ("delete", "binding gone[m] -> mail", "gone is in `decommission`"),
        ("info", "exchange gone", later),
        ("info", "queue old", later),
    ]


@pytest.mark.parametrize(
    "facts, action, because",
    [
        ({}, "delete", "in `decommission`"),
        (
            {"ready": 2, "unacknowledged": 1},
            "info",
            "in `decommission`, and it holds 3 messages: kept until it is empty and unused",
        ),
    ],
)
def test_a_later_plan_deletes_what_is_empty(
    make: Make, see: Any, facts: dict[str, int], action: str, because: str
) -> None:
    """And says what it waits for otherwise, which is no reason for an alarm."""
    topology = make(**LEAVING)
    seen = with_old(see(topology), **facts)
    assert (action, "queue old", because) in found(topology, seen)
    assert plan(topology, wanted(topology), seen, Manifest()).outcome == "changes"  # the exchange goes


def test_it_says_the_same_of_what_the_project_made_itself(make: Make, see: Any) -> None:
    """The manifest's word and the file's are one change each."""
    topology = make(**LEAVING)
    seen = with_old(see(topology), BindingSpec("events", "old", "k"))
    mine = ("queue old", "binding events[k] -> old")
    addresses = [address for _, address, _ in found(topology, seen, *mine)]
    assert sorted(addresses) == ["binding events[k] -> old", "exchange gone", "queue old"]


def test_bindings_of_others_keep_what_is_to_go(make: Make, see: Any) -> None:
    """They are named, and nothing is done to them."""
    topology = make(**LEAVING)
    seen = with_old(see(topology), BindingSpec("crm", "old", "k"))
    assert ("forbidden", "queue old", "in `decommission`, still bound by others: crm[k] -> old") in found(
        topology, seen
    )
    assert not any(action == "delete" and "old" in address for action, address, _ in found(topology, seen))


def test_the_file_must_allow_it(make: Make, see: Any) -> None:
    """Bindings go all the same: they hold nothing."""
    topology = make(decommission={"queues": ["old"]})
    assert found(topology, with_old(see(topology))) == [
        ("forbidden", "queue old", "in `decommission`; the file does not allow it")
    ]


def test_what_is_gone_can_leave_the_file(make: Make, see: Any) -> None:
    """The plan is clean, and says so."""
    topology = make(decommission={"queues": ["old"]})
    assert found(topology, see(topology)) == [
        ("info", "queue old", "in `decommission`, and gone; take it out of the file")
    ]
    assert plan(topology, wanted(topology), see(topology), Manifest()).outcome == "clean"


def test_an_alternate_exchange_is_not_taken_from_its_exchange(make: Make, see: Any) -> None:
    """Where somebody put one under `unrouted` that the file does not have."""
    topology = make(decommission={"exchanges": ["gone"]}, allow={"delete": True})
    target = wanted(topology)
    events = replace(target.exchanges["events"], arguments={"alternate-exchange": "gone"})
    target = replace(target, exchanges={**target.exchanges, "events": events})
    changes = differences(target, with_old(see(topology)))
    assert any(
        change.action is Action.FORBIDDEN and "the alternate exchange of events" in change.because for change in changes
    )


@pytest.mark.parametrize("manage", ["verify", "external"])
def test_what_somebody_else_manages_is_never_deleted(make: Make, see: Any, manage: str) -> None:
    """Also where this project made it once; neither by a plan nor by destroying the project."""
    topology = make(
        queues={"orders": {"type": "quorum"}, "lost": {}, "mail": {"manage": manage}}, allow={"delete": True}
    )
    queue = SeenQueue(QueueSpec("mail"), ready=0, unacknowledged=0)
    seen = see(topology)
    seen = replace(seen, queues={**seen.queues, "mail": queue})
    owned = frozenset({"queue mail", "queue lost"})
    assert not [text for text in found(topology, seen, *owned) if "queue mail" in text]
    gone = destruction(Ground(wanted(topology), seen, owned), Choice())
    assert "mail" not in {step.name for step in gone.steps}


@pytest.mark.parametrize(
    "kind, binding",
    [
        ("topic", "new[order.#] -> orders"),
        ("fanout", "new -> orders"),
        ("headers", {"from": "new", "to": "orders", "headers": {"a": 1}}),
        ("direct", "new[order.x] -> orders"),
    ],
)
def test_an_exchange_of_another_name_sends_on_what_reaches_the_old_one(make: Make, kind: str, binding: Any) -> None:
    """For each type, as the router of `topology route` has it; what matches nothing at the new one reaches nobody."""
    topology = make(
        exchanges={"new": {"type": kind}},
        bindings=[binding],
        routes={},
        moved=[{"from": "exchange.before", "to": "exchange.new"}],
    )
    declared = declarations(topology)
    assert [spec.type for spec in declared.exchanges if spec.name == "before"] == [kind]
    assert {each.source for each in forwarding(topology)} == {"before"}
    whole = replace(
        topology,
        exchanges={**topology.exchanges, "before": replace(topology.exchanges["new"], name="before")},
        bindings=declared.bindings,
    )
    assert set(reach(whole, "before", "order.x", {"a": 1}).queues) == {"orders"}
    assert kind == "fanout" or not reach(whole, "before", "else", {"a": 2}).queues


def test_the_old_name_loses_its_bindings_when_the_new_one_has_them(make: Make, see: Any) -> None:
    """New exchange and binding to it first, then its bindings, and only then the old ones go."""
    before, after = (
        make(),
        make(
            exchanges={"happened": {"type": "topic", "unrouted": "lost"}, "lost": {"type": "fanout"}},
            bindings=["happened[order.#] -> orders", "happened[mail.*] -> mail", "lost -> lost"],
            routes={"*": {"exchange": "happened", "key": "order.{task}"}},
            moved=[{"from": "exchange.events", "to": "exchange.happened"}],
        ),
    )
    owned = frozenset({"exchange events", "binding events[order.#] -> orders", "binding events[mail.*] -> mail"})
    made = plan(after, wanted(after), see(before), Manifest(owned=owned))
    assert [(step.operation, step.name) for step in made.steps] == [
        ("exchange", "happened"),
        ("bind", "events[#] -> happened (exchange)"),
        ("bind", "happened[order.#] -> orders"),
        ("bind", "happened[mail.*] -> mail"),
        ("unbind", "events[order.#] -> orders"),
        ("unbind", "events[mail.*] -> mail"),
    ]
    assert made.outcome == "changes"
