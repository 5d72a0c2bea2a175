"""Objects that another project owns as well: both are told, and neither takes them from the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from amqpq.provision import text
from amqpq.provision.changes import Action
from amqpq.provision.journal import Manifest
from amqpq.provision.observed import Observed
from amqpq.provision.plan import Plan, plan
from amqpq.provision.wanted import wanted
from amqpq.topology import Topology

Make: TypeAlias = Callable[..., Topology]
See: TypeAlias = Callable[..., Observed]

LOST = ("exchange lost", "queue lost", "binding lost -> lost")
WITHOUT_LOST: dict[str, Any] = {
    "exchanges": {"events": {"type": "topic"}},
    "queues": {"orders": {"type": "quorum", "limits": {"max_length": 1000}}, "mail": {"max_priority": 5, "ttl": "1h"}},
    "bindings": ["events[order.#] -> orders", "events[mail.*] -> mail"],
    "allow": {"delete": True},
}


def planned(topology: Topology, observed: Observed, owned: tuple[str, ...], theirs: tuple[str, ...]) -> Plan:
    """Plan where the project crm has a manifest, too."""
    others = {"crm": Manifest(3, frozenset(theirs))}
    return plan(topology, wanted(topology), observed, Manifest(7, frozenset(owned)), others)


def told(made: Plan) -> list[tuple[str, str]]:
    """Return action and address of each change."""
    return [(change.action.value, change.address) for change in made.changes]


@pytest.mark.parametrize("owned", [(), ("queue lost", "exchange lost")], ids=["theirs alone", "both"])
def test_what_has_two_owners_is_told_with_the_way_out(make: Make, see: See, owned: tuple[str, ...]) -> None:
    """Whether we have applied it already or are about to."""
    topology = make()
    made = planned(topology, see(topology), owned, ("queue lost", "exchange other"))
    assert told(made) == [("foreign", "queue lost")]
    assert made.outcome == "changes"
    assert list(text.lines(made))[1:3] == [
        "  * queue      lost  the project crm owns it as well: what one of the two changes or removes, the other loses",
        "      -> write `manage: verify` into the file of one of the two, and apply a plan of that",
    ]


def test_what_we_only_expect_may_be_theirs(make: Make, see: See) -> None:
    """That is what `manage: verify` is for."""
    queues = {**WITHOUT_LOST["queues"], "lost": {"manage": "verify"}}
    made = planned(make(queues=queues), see(make()), (), ("queue lost",))
    assert "queue lost" not in [address for _, address in told(made)]


def test_what_is_not_there_has_no_owner(make: Make, see: See) -> None:
    """A manifest may list what is long gone."""
    topology = make()
    observed = see(topology, queues={})
    assert ("foreign", "queue lost") not in told(planned(topology, observed, (), ("queue lost",)))


def test_what_leaves_our_file_stays_for_its_other_owner(make: Make, see: See) -> None:
    """Nothing is removed, and we do not own it any more; what is ours alone goes as ever."""
    owned = (*LOST, "queue shop.dead", "binding events[mail.*] -> mail")
    topology = make(**{**WITHOUT_LOST, "bindings": ["events[order.#] -> orders"]})
    made = planned(
        topology, see(make(exchanges={**WITHOUT_LOST["exchanges"], "lost": {"type": "fanout"}})), owned, LOST
    )
    assert [(step.operation, step.name) for step in made.steps] == [("unbind", "events[mail.*] -> mail")]
    left = [change for change in made.changes if change.action is Action.INFO]
    assert sorted(change.address for change in left) == sorted(LOST)
    assert {change.because for change in left} == {
        "not in the file any more, and left to the project crm, which owns it as well"
    }
    assert made.given_up == frozenset(LOST)


def test_the_same_without_another_owner_goes(make: Make, see: See) -> None:
    """So it is the other manifest that keeps it."""
    topology = make(**WITHOUT_LOST)
    observed = see(make(exchanges={**WITHOUT_LOST["exchanges"], "lost": {"type": "fanout"}}))
    made = planned(topology, observed, LOST, ())
    assert [step.name for step in made.steps] == ["lost -> lost", "lost", "lost"]
    assert made.given_up == frozenset()


def test_what_we_decommission_stays_for_its_other_owner(make: Make, see: See) -> None:
    """With the bindings that the other one made too."""
    topology = make(**WITHOUT_LOST, decommission={"queues": ["lost"], "exchanges": ["lost"]})
    observed = see(make(exchanges={**WITHOUT_LOST["exchanges"], "lost": {"type": "fanout"}}))
    assert planned(topology, observed, LOST, LOST).steps == ()
    assert planned(topology, observed, LOST, ()).steps != ()


def test_a_journal_that_cannot_be_read_is_told_and_changes_nothing(make: Make, see: See) -> None:
    """Users of other projects may often not read it."""
    topology = make()
    unread = {"crm": Manifest(problem="access refused")}
    made = plan(topology, wanted(topology), see(topology), Manifest(7), unread)
    assert made.outcome == "clean"
    (change,) = made.changes
    assert (change.action, change.because) == (Action.INFO, "what the project crm owns cannot be read: access refused")
