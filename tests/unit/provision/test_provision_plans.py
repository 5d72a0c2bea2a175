"""Plans: what they say, in which order they act, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import pytest

from amqpq.provision import text
from amqpq.provision.changes import Action
from amqpq.provision.journal import Manifest
from amqpq.provision.observed import Observed, SeenConsumer, SeenPolicy
from amqpq.provision.plan import Plan, plan
from amqpq.provision.wanted import wanted
from amqpq.topology import Topology
from amqpq.types import BindingSpec

Make: TypeAlias = Callable[..., Topology]
See: TypeAlias = Callable[..., Observed]
MakePolicy: TypeAlias = Callable[..., SeenPolicy]


def planned(topology: Topology, observed: Observed, *owned: str) -> Plan:
    """Plan from what was seen."""
    return plan(topology, wanted(topology), observed, Manifest(7, frozenset(owned)))


def without(objects: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Leave some out."""
    return {name: value for name, value in objects.items() if name not in names}


def told(made: Plan) -> list[tuple[str, str]]:
    """Return action and address of each change."""
    return [(change.action.value, change.address) for change in made.changes]


def test_a_broker_that_is_as_the_file_says_has_no_changes(make: Make, see: See) -> None:
    """No change, no step, outcome clean."""
    topology = make()
    made = planned(topology, see(topology))
    assert (made.changes, made.steps, made.outcome) == ((), (), "clean")
    assert list(text.lines(made))[-1] == "Plan: no changes.   Messages that may be lost by this plan: 0"


def test_an_empty_broker_gets_everything_in_order(make: Make, see: See) -> None:
    """Exchanges, then queues, then policies, then bindings; an exchange after its alternate one."""
    topology = make(policies={"cap": {"pattern": "^mail$", "definition": {"max-length": 5}}})
    made = planned(topology, see(topology, exchanges={}, queues={}, bindings=(), policies=()))
    operations = [step.operation for step in made.steps]
    assert operations == ["exchange"] * 2 + ["queue"] * 4 + ["policy"] + ["bind"] * 3
    assert [step.name for step in made.steps][:2] == ["lost", "events"]
    assert made.outcome == "changes"


def test_bindings_between_exchanges_come_before_those_of_queues(make: Make, see: See) -> None:
    """Or a message would find an exchange that leads nowhere yet."""
    topology = make(bindings=["lost -> lost", {"from": "events", "to": "lost", "keys": ["#"], "as": "exchange"}])
    made = planned(topology, see(topology, bindings=()))
    assert [step.name for step in made.steps] == ["events[#] -> lost (exchange)", "lost -> lost"]


def test_what_goes_goes_after_what_comes(make: Make, see: See) -> None:
    """Bindings that are added come first; then those that go; then deleted policies, queues, exchanges."""
    old = make(
        exchanges={"events": {"type": "topic", "unrouted": "lost"}, "lost": {"type": "fanout"}, "old": {}},
        queues={"orders": {"type": "quorum"}, "mail": {}, "lost": {}, "gone": {"dead_letter": "none"}},
        bindings=["events[order.#] -> orders", "old -> gone", "events[old.#] -> gone"],
        policies={"cap": {"pattern": "^gone$", "definition": {"max-length": 5}}},
    )
    new = make(allow={"delete": True}, queues={"orders": {"type": "quorum"}, "mail": {}, "lost": {}})
    owned = [
        "exchange old",
        "queue gone",
        "policy cap",
        "binding old -> gone",
        "binding events[old.#] -> gone",
    ]
    made = planned(new, see(old), *owned)
    assert [(step.operation, step.name) for step in made.steps] == [
        ("bind", "events[mail.*] -> mail"),
        ("bind", "lost -> lost"),
        ("unbind", "old -> gone"),
        ("unbind", "events[old.#] -> gone"),
        ("delete policy", "cap"),
        ("delete queue", "gone"),
        ("delete exchange", "old"),
    ]


def test_nothing_goes_that_is_not_ours(make: Make, see: See) -> None:
    """What is neither in the file nor in the manifest is not even mentioned, unless it acts on what is ours."""
    topology = make()
    observed = see(topology)
    theirs = {**observed.queues, "theirs": observed.queues["lost"]}
    alien = BindingSpec("events", "theirs", "x")
    observed = replace(observed, queues=theirs, bindings=(*(observed.bindings or ()), alien))
    made = planned(topology, observed)
    assert told(made) == [("foreign", "binding events[x] -> theirs")]
    assert made.steps == ()


def test_deleting_needs_the_files_word(make: Make, see: See) -> None:
    """A queue and an exchange of ours stay without `allow: {delete: true}`; a binding goes."""
    topology = make()
    observed = see(topology)
    old = {**observed.queues, "old": observed.queues["lost"]}
    observed = replace(observed, queues=old, bindings=(*(observed.bindings or ()), BindingSpec("lost", "old")))
    made = planned(topology, observed, "queue old", "binding lost -> old")
    assert told(made) == [("delete", "binding lost -> old"), ("forbidden", "queue old")]
    assert made.outcome == "forbidden"


def test_a_queue_that_holds_something_is_not_deleted(make: Make, see: See) -> None:
    """Nor one that somebody consumes from, nor a quorum queue whose counts nobody told."""
    topology = make(allow={"delete": True})
    observed = see(topology)
    empty = observed.queues["lost"]
    full, unknown = replace(empty, ready=3), replace(observed.queues["orders"], ready=None)
    for seen, consumers, words in (
        (full, (), "holds 3 messages"),
        (empty, (SeenConsumer("old", "t", "u", "c"),), "has 1 consumers"),
        (unknown, (), "nothing here proves that it is empty"),
    ):
        looked = replace(observed, queues={**observed.queues, "old": seen}, consumers=consumers)
        made = planned(topology, looked, "queue old")
        assert told(made) == [("forbidden", "queue old")]
        assert words in made.changes[0].because
    looked = replace(observed, queues={**observed.queues, "old": empty})
    assert told(planned(topology, looked, "queue old")) == [("delete", "queue old")]


def test_an_exchange_that_others_use_is_not_deleted(make: Make, see: See) -> None:
    """A foreign binding keeps it, and so does an exchange that names it as its alternate one."""
    topology = make(allow={"delete": True})
    observed = see(topology)
    exchanges = {**observed.exchanges, "old": observed.exchanges["lost"]}
    bound = replace(observed, exchanges=exchanges, bindings=(*(observed.bindings or ()), BindingSpec("old", "bi.tmp")))
    made = planned(topology, bound, "exchange old")
    assert told(made) == [("forbidden", "exchange old")]
    assert "still bound: old -> bi.tmp" in made.changes[0].because
    assert told(planned(topology, replace(observed, exchanges=exchanges), "exchange old")) == [
        ("delete", "exchange old")
    ]


def test_a_policy_that_drops_messages_is_told(make: Make, see: See) -> None:
    """The count is that of the messages over the new length, where their dead letters go nowhere."""
    topology = make(policies={"cap": {"pattern": "^lost$", "definition": {"max-length": 5}}})
    observed = see(topology, policies=())
    queues = {**observed.queues, "lost": replace(observed.queues["lost"], ready=12)}
    made = planned(topology, replace(observed, queues=queues))
    assert told(made) == [("create", "policy cap")]
    assert (made.may_lose, made.changes[0].risk) == (7, "loss")
    assert list(text.lines(made))[-1].endswith("lost by this plan: 7")


def test_a_policy_of_others_that_shadows_ours_is_told(make: Make, see: See, policy: MakePolicy) -> None:
    """With the value that holds, the file's, and who says so."""
    topology = make(policies={"cap": {"pattern": "^mail$", "priority": 5, "definition": {"max-length": 5}}})
    observed = see(topology)
    observed = replace(observed, policies=(*(observed.policies or ()), policy("theirs", "mail", expires=1000)))
    becauses = [change.because for change in planned(topology, observed).of(Action.FOREIGN)]
    assert becauses == [
        "policy theirs makes max-length nothing (the file: 5)",
        "policy theirs makes expires 1000 (the file: nothing)",
    ]


def test_an_operator_policy_is_the_administrators(make: Make, see: See, policy: MakePolicy) -> None:
    """It is told as such."""
    topology = make()
    made = planned(topology, see(topology, operator_policies=(policy("guard", "orders", max_length=10),)))
    assert told(made) == [("admin", "queue orders")]
    assert "operator policy guard makes max-length 10 (the file: 1000)" in made.changes[0].because


def test_an_argument_that_a_policy_makes_up_for_makes_no_difference(make: Make, see: See) -> None:
    """The queue has no time to live of its own, and a policy gives it the file's: that is information only."""
    topology = make(policies={"ttl": {"pattern": "^mail$", "definition": {"message-ttl": 3600000}}})
    observed = see(topology)
    spec = observed.queues["mail"].spec
    arguments = without(spec.arguments, "x-message-ttl")
    queues = {**observed.queues, "mail": replace(observed.queues["mail"], spec=replace(spec, arguments=arguments))}
    made = planned(topology, replace(observed, queues=queues))
    assert told(made) == [("info", "queue mail")]
    assert made.outcome == "clean"


def test_a_delivery_limit_by_policy_needs_4_3(make: Make, see: See) -> None:
    """Before, a queue reads it when it is declared."""
    topology = make(queues={"orders": {"type": "quorum", "delivery_limit": 5}, "mail": {}, "lost": {}})
    observed = see(topology)
    spec = observed.queues["orders"].spec
    seen = replace(spec, arguments=without(spec.arguments, "x-delivery-limit"))
    observed = replace(observed, queues={**observed.queues, "orders": replace(observed.queues["orders"], spec=seen)})
    assert told(planned(topology, observed)) == [("create", "policy amqpq.shop.1"), ("change", "queue orders")]
    assert told(planned(topology, replace(observed, version=(4, 2, 0)))) == [("migrate", "queue orders")]


def test_a_policy_for_one_type_of_queue_needs_3_12(make: Make, see: See) -> None:
    """Before, the broker refuses it; the plan says so first."""
    policies = {"cap": {"pattern": "^mail$", "apply_to": "classic_queues", "definition": {"max-length": 5}}}
    topology = make(requires={"rabbitmq": ">=3.12"}, policies=policies)
    made = planned(topology, see(topology, policies=(), version=(3, 11, 0)))
    assert told(made) == [("forbidden", "policy cap")]
    assert told(planned(topology, see(topology, policies=(), version=(3, 12, 0)))) == [("create", "policy cap")]


def test_a_queue_on_a_node_that_is_down_is_the_administrators(make: Make, see: See) -> None:
    """It exists as the file says, and does not run."""
    topology = make()
    observed = see(topology)
    queues = {**observed.queues, "orders": replace(observed.queues["orders"], state="down")}
    assert told(planned(topology, replace(observed, queues=queues))) == [("admin", "queue orders")]


# ------------------------------------------------------------------------------------------------------- over AMQP

AMQP: dict[str, Any] = {
    "level": "amqp",
    "bindings": None,
    "policies": None,
    "operator_policies": None,
    "consumers": None,
}


def test_over_amqp_nothing_is_ever_clean(make: Make, see: See) -> None:
    """What cannot be seen is a question mark, and all bindings are made once more."""
    topology = make()
    made = planned(topology, see(topology, **AMQP))
    assert made.outcome == "unknown"
    assert {change.action for change in made.changes} == {Action.UNKNOWN}
    assert [step.operation for step in made.steps] == ["bind"] * 3


def test_over_amqp_a_binding_of_what_is_missing_is_missing(make: Make, see: See) -> None:
    """That much is certain."""
    topology = make()
    observed = see(topology, **AMQP)
    made = planned(topology, replace(observed, queues=without(observed.queues, "mail")))
    assert told(made)[:2] == [("create", "queue mail"), ("create", "binding events[mail.*] -> mail")]


def test_over_amqp_an_orphan_is_a_question(make: Make, see: See) -> None:
    """The manifest names it; whether it is still there nobody says."""
    topology = make()
    assert ("unknown", "queue old") in told(planned(topology, see(topology, **AMQP), "queue old"))


# -------------------------------------------------------------------------------------------------------- rehearsal

CHECKS = [{"publish": {"task": "t"}, "reaches": ["orders"], "exactly": True}]


def test_a_plan_that_breaks_a_check_is_refused(make: Make, see: See) -> None:
    """What reached its queue before must reach it after every step."""
    old = make(bindings=["events[order.#] -> orders", "events[#] -> mail", "lost -> lost"])
    new = make(bindings=["events[#] -> mail", "lost -> lost"], checks=CHECKS)
    made = planned(new, see(old), "binding events[order.#] -> orders")
    assert made.problems == ("after the last step, task t misses orders",)
    assert made.outcome == "forbidden"


def test_a_check_that_failed_before_is_only_told(make: Make, see: See) -> None:
    """The plan does not make it worse."""
    topology = make(bindings=["lost -> lost"], checks=CHECKS)
    made = planned(topology, see(topology, bindings=()))
    assert made.problems == ()
    assert made.warnings == ("after the last step, task t misses orders",)


def test_a_moment_in_which_a_message_reaches_more_is_told(make: Make, see: See) -> None:
    """Additions come before removals, so a new way overlaps with an old end of it."""
    more = {"events": {"type": "topic"}, "lost": {"type": "fanout"}, "more": {"type": "fanout"}}
    old = make(exchanges=more, bindings=["events[order.#] -> orders", "more -> lost"])
    way = {"from": "events", "to": "more", "keys": ["#"], "as": "exchange"}
    new = make(exchanges=more, bindings=["events[order.#] -> orders", way, "more -> orders"], checks=CHECKS)
    made = planned(new, see(old), "binding more -> lost")
    assert made.problems == ()
    assert made.warnings[0] == "after step 1 (bind events[#] -> more (exchange)), task t also reaches lost"


# ----------------------------------------------------------------------------------------------------------- printing


def test_a_plan_reads_like_this(make: Make, see: See) -> None:
    """One line for each object, the reasons below it, the remedy behind an arrow, the sum at the end."""
    topology = make()
    observed = see(topology)
    spec = observed.queues["mail"].spec
    seen = replace(spec, arguments={**without(spec.arguments, "x-max-priority"), "x-message-ttl": 5})
    queues = {**without(observed.queues, "lost"), "mail": replace(observed.queues["mail"], spec=seen, ready=3104)}
    assert list(text.lines(planned(topology, replace(observed, queues=queues)))) == [
        "amqpq plan  project=shop vhost=v  broker=4.3 observed=http  serial=7",
        "  + queue      lost  classic",
        "  > queue      mail  x-max-priority none -> 5  (holds for the life of a queue); 3104 ready",
        "      x-message-ttl 5 -> 3600000  (an argument can be tightened by a policy, never loosened)",
        "      -> `amqpq topology migrate` moves its messages to a new queue; or write the broker's value into the file",
        "Plan: 1 to add, 1 to migrate.   Messages that may be lost by this plan: 0",
    ]


def test_the_json_of_a_plan_holds_what_machines_need(make: Make, see: See) -> None:
    """Version of the form, hashes of what was seen, changes with their action, steps; it is JSON."""
    topology = make()
    observed = see(topology)
    made = planned(topology, replace(observed, queues=without(observed.queues, "lost")))
    document = json.loads(json.dumps(text.document(made)))
    assert document["format_version"] == "1.0"
    assert document["steps"] == [{"operation": "queue", "name": "lost"}]
    assert document["observed"]["hashes"] == {"queue lost": "absent"}
    assert (document["outcome"], document["loss_budget"], document["serial"]) == ("changes", 0, 7)


def test_the_hash_of_a_plan_follows_what_was_seen_of_its_objects(make: Make, see: See) -> None:
    """Another argument is another hash; counts, and objects that no step touches, are not part of it."""
    topology = make(policies={"cap": {"pattern": "^mail$", "definition": {"max-length": 5}}})
    observed = see(topology, policies=(SeenPolicy("cap", "^mail$", "all", 0, {"max-length": 6}),))
    first = planned(topology, observed)
    counted = {**observed.queues, "mail": replace(observed.queues["mail"], ready=5)}
    assert planned(topology, replace(observed, queues=counted)).fingerprint == first.fingerprint
    changed = replace(observed, policies=(SeenPolicy("cap", "^mail$", "all", 0, {"max-length": 7}),))
    assert planned(topology, changed).fingerprint != first.fingerprint


def test_a_stream_is_never_removed(make: Make, see: See) -> None:
    """The broker would delete it with what it holds and under its readers: `if-unused` and `if-empty` are not looked at there."""
    before = make(
        queues={
            "orders": {},
            "mail": {},
            "lost": {},
            "log": {"type": "stream", "dead_letter": "none", "retention": {"max_age": "30D"}},
        }
    )
    after = make(queues={"orders": {}, "mail": {}, "lost": {}}, allow={"delete": True})
    made = planned(after, see(before), "queue log")
    (change,) = [change for change in made.changes if change.name == "log"]
    assert (change.action, change.remedy) == (Action.FORBIDDEN, "delete it by hand")
    assert made.steps == ()


@pytest.mark.parametrize(("version", "outcome"), [((4, 2, 9), "changes"), ((4, 3, 0), "clean")])
def test_equal_ages_of_a_stream_are_equal_from_4_3_on(
    make: Make, see: See, version: tuple[int, int, int], outcome: str
) -> None:
    """Before, the broker refuses `24h` where it has `1D`."""
    had, wants = (
        make(queues={"orders": {}, "mail": {}, "lost": {}, "log": {"type": "stream", "retention": {"max_age": age}}})
        for age in ("1D", "24h")
    )
    assert planned(wants, see(had, version=version)).outcome == outcome
