"""Generated policies: how objects are put together, what a plan does with them, and when it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest

from amqpq.provision import text
from amqpq.provision.changes import Action
from amqpq.provision.compiling import PATTERN_LIMIT, Need, command, compiled, pattern_of
from amqpq.provision.journal import Manifest
from amqpq.provision.observed import Observed, SeenPolicy
from amqpq.provision.plan import Plan, plan
from amqpq.provision.wanted import wanted
from amqpq.topology import Topology
from amqpq.topology.effective import is_generated

Make: TypeAlias = Callable[..., Topology]
See: TypeAlias = Callable[..., Observed]
MakePolicy: TypeAlias = Callable[..., SeenPolicy]

NOW = (4, 3, 0)
HOUR = 3600000


def need(name: str, kind: str = "classic", priority: int = 500, **definition: Any) -> Need:
    """Return what a queue needs."""
    return Need(kind, name, priority, {key.replace("_", "-"): value for key, value in definition.items()})


def made(
    needs: list[Need], there: tuple[SeenPolicy, ...] = (), version: tuple[int, int, int] = NOW
) -> list[SeenPolicy]:
    """Return the policies for these needs."""
    return [each.policy for each in compiled("shop", needs, there, version)]


# ------------------------------------------------------------------------------------------------------------ compiling


@pytest.mark.parametrize(
    "names, pattern",
    [
        (["a"], "^a$"),
        (["a", "b.c"], r"^(a|b\.c)$"),
        (["a(b)|c*", "[x]"], r"^(a\(b\)\|c\*|\[x\])$"),
        (["with space-and_#"], "^with space-and_#$"),
        (["über"], "^über$"),
    ],
)
def test_a_pattern_matches_its_names_and_nothing_else(names: list[str], pattern: str) -> None:
    """It is anchored, and what has a meaning in expressions is escaped."""
    assert pattern_of(names) == pattern
    assert all(re.search(pattern, name) for name in names)
    assert not any(re.search(pattern, strange) for name in names for strange in (f"x{name}", f"{name}x", name[:-1]))


@pytest.mark.parametrize(
    "kind, version, apply_to",
    [
        ("classic", (3, 10, 8), "queues"),
        ("quorum", (3, 11, 0), "queues"),
        ("quorum", (3, 12, 0), "quorum_queues"),
        ("classic", (4, 3, 0), "classic_queues"),
        ("stream", (4, 3, 0), "streams"),
        ("exchange", (3, 10, 8), "exchanges"),
    ],
)
def test_a_policy_is_for_one_type_where_the_broker_knows_types(
    kind: str, version: tuple[int, int, int], apply_to: str
) -> None:
    """Before 3.12 it is for queues, and only its names make it exact."""
    assert [policy.apply_to for policy in made([need("a", kind, max_age="7D")], version=version)] == [apply_to]


def test_objects_that_need_the_same_share_a_policy() -> None:
    """Another type, another value and another priority make another one."""
    found = made(
        [
            need("b", max_length=5),
            need("a", max_length=5),
            need("c", "quorum", max_length=5),
            need("d", max_length=6),
            need("e", max_length=5, priority=501),
        ]
    )
    assert [(policy.name, policy.pattern) for policy in found] == [
        ("amqpq.shop.1", "^(a|b)$"),
        ("amqpq.shop.2", "^c$"),
        ("amqpq.shop.3", "^d$"),
        ("amqpq.shop.4", "^e$"),
    ]


def test_a_long_group_is_split() -> None:
    """No pattern is longer than the broker takes, and every name is in exactly one."""
    names = [f"department.{number:03}.orders" for number in range(200)]
    found = made([need(name, max_length=5) for name in names])
    assert len(found) > 1
    assert max(len(policy.pattern) for policy in found) <= PATTERN_LIMIT
    assert all(sum(bool(re.search(policy.pattern, name)) for policy in found) == 1 for name in names)


def test_the_same_needs_make_the_same_policies_again() -> None:
    """Also those of a group that was split, in any order."""
    needs = [need(f"department.{number:03}.orders", max_length=5) for number in range(200)]
    first = made(needs)
    assert sorted(policy.name for policy in made(needs[::-1], tuple(first[::-1]))) == sorted(p.name for p in first)
    assert {policy.name: policy for policy in made(needs, tuple(first))} == {policy.name: policy for policy in first}


def test_types_that_need_the_same_stay_apart_where_the_broker_knows_no_types() -> None:
    """On 3.10 both are for queues; the second time nothing changes."""
    needs = [need("a", max_length=5), need("b", "quorum", max_length=5), need("c", max_length=5)]
    first = made(needs, version=(3, 10, 8))
    assert [policy.pattern for policy in first] == ["^(a|c)$", "^b$"]
    assert made(needs, tuple(first), version=(3, 10, 8)) == first


def test_a_name_that_ends_with_an_escape_is_found_again() -> None:
    """Its pattern is no simple list of names any more."""
    needs = [need("a\\", max_length=5), need("b|c", max_length=5)]
    first = made(needs)
    assert made(needs, tuple(first)) == first


def test_a_new_object_joins_a_policy_that_says_the_same() -> None:
    """The others keep theirs."""
    there = tuple(made([need("a", max_length=5), need("b", max_length=6)]))
    found = made([need("a", max_length=5), need("b", max_length=6), need("c", max_length=6)], there)
    assert [(policy.name, policy.pattern) for policy in found] == [("amqpq.shop.1", "^a$"), ("amqpq.shop.2", "^(b|c)$")]


def test_a_policy_whose_value_changes_keeps_its_name() -> None:
    """It is changed in place: no object is without one meanwhile."""
    there = tuple(made([need("a", max_length=5), need("b", max_length=5)]))
    found = made([need("a", max_length=7), need("b", max_length=7)], there)
    assert [(policy.name, dict(policy.definition)) for policy in found] == [("amqpq.shop.1", {"max-length": 7})]


def test_an_object_that_leaves_a_policy_has_the_next_one_first() -> None:
    """The old policy lets it go after the new one is written, under a name that nobody has."""
    there = tuple(made([need("a", max_length=5), need("b", max_length=5)]))
    found = made([need("a", max_length=5), need("b", max_length=7)], there)
    assert [(policy.name, policy.pattern) for policy in found] == [("amqpq.shop.2", "^b$"), ("amqpq.shop.1", "^a$")]


def test_two_objects_that_change_places_are_never_without_a_policy() -> None:
    """A policy that lets one go takes no other one in: each of the two gets a new policy before the old ones shrink."""
    needs = [need(name, max_length=5) for name in "ab"] + [need(name, max_length=7) for name in "cd"]
    there = {policy.name: policy for policy in made(needs)}
    crossed = [
        need("a", max_length=5),
        need("b", max_length=7),
        need("c", max_length=5),
        need("d", max_length=7),
    ]
    found = made(crossed, tuple(there.values()))
    held = dict(there)
    for policy in found:
        held[policy.name] = policy
        for each in crossed:
            assert any(re.search(other.pattern, each.name) for other in held.values()), (policy, each)
    assert [policy.pattern for policy in found] == ["^c$", "^b$", "^a$", "^d$"]


def test_a_policy_that_somebody_has_bent_is_taken_back() -> None:
    """Its name stays, whatever its pattern became: also one that is no expression."""
    for pattern in ("^nothing$", "(", ".*"):
        (found,) = made([need("a", max_length=5)], (SeenPolicy("amqpq.shop.4", pattern, "queues", 500, {}),))
        assert (found.name, found.pattern, dict(found.definition)) == ("amqpq.shop.4", "^a$", {"max-length": 5})


def test_which_names_are_generated() -> None:
    """Those of the project with a number, and not those of a project whose name begins alike."""
    assert is_generated("shop", "amqpq.shop.12")
    assert not any(is_generated("shop", name) for name in ("amqpq.shop.x", "amqpq.shop.1.2", "amqpq.shops.1", "shop.1"))


def test_the_command_that_sets_a_policy() -> None:
    """It can be pasted as it is."""
    policy = SeenPolicy("amqpq.shop.1", r"^(a|b\.c)$", "queues", 500, {"message-ttl": 5})
    assert command("my host", policy) == (
        "rabbitmqctl set_policy -p 'my host' --priority 500 --apply-to queues amqpq.shop.1 '^(a|b\\.c)$' "
        "'{\"message-ttl\": 5}'"
    )


# ------------------------------------------------------------------------------------------------------------- planning


def planned(topology: Topology, observed: Observed, *owned: str) -> Plan:
    """Plan from what was seen."""
    return plan(topology, wanted(topology), observed, Manifest(7, frozenset(owned)))


def told(plan: Plan) -> list[tuple[str, str]]:
    """Return action and address of each change."""
    return [(change.action.value, change.address) for change in plan.changes]


def seen_with(observed: Observed, queue: str, **arguments: Any) -> Observed:
    """Return what would be seen if a queue had other arguments; None: it has not this one."""
    old = observed.queues[queue]
    changed = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
    merged = {key: value for key, value in {**old.spec.arguments, **changed}.items() if value is not None}
    return replace(observed, queues={**observed.queues, queue: replace(old, spec=replace(old.spec, arguments=merged))})


def after(observed: Observed, plan: Plan) -> Observed:
    """Return what would be seen once the policies of a plan are there."""
    policies = {policy.name: policy for policy in observed.policies or ()}
    policies |= {step.name: step.spec for step in plan.steps if isinstance(step.spec, SeenPolicy)}
    gone = {step.name for step in plan.steps if step.operation == "delete policy"}
    return replace(observed, policies=tuple(policy for policy in policies.values() if policy.name not in gone))


def test_what_a_policy_can_tighten_is_done_by_a_generated_one(make: Make, see: See) -> None:
    """The plan says by which; once it is there nothing is left to do."""
    topology = make()
    observed = seen_with(see(topology), "mail", message_ttl=2 * HOUR)
    plan = planned(topology, observed)
    assert told(plan) == [("create", "policy amqpq.shop.1"), ("change", "queue mail")]
    assert [(step.operation, step.name) for step in plan.steps] == [("policy", "amqpq.shop.1")]
    assert plan.steps[0].spec == SeenPolicy("amqpq.shop.1", "^mail$", "classic_queues", 500, {"message-ttl": HOUR})
    assert "  ~ queue      mail  x-message-ttl 7200000 -> 3600000  (by policy amqpq.shop.1)" in list(text.lines(plan))
    again = planned(topology, after(observed, plan), "policy amqpq.shop.1")
    assert (told(again), again.steps, again.outcome) == ([("info", "queue mail")], (), "clean")
    assert "holds, by policy amqpq.shop.1" in again.changes[0].details[0].note


def test_what_a_policy_cannot_loosen_is_a_migration_and_no_policy(make: Make, see: See) -> None:
    """An argument that is too short."""
    topology = make()
    plan = planned(topology, seen_with(see(topology), "mail", message_ttl=5))
    assert (told(plan), plan.steps) == ([("migrate", "queue mail")], ())


def test_a_migration_that_has_to_come_keeps_no_policy_from_coming_before(make: Make, see: See) -> None:
    """What can be done now is: the queue migrates for its priorities."""
    topology = make()
    plan = planned(topology, seen_with(see(topology), "mail", message_ttl=None, max_priority=3))
    assert told(plan) == [("create", "policy amqpq.shop.1"), ("migrate", "queue mail")]
    assert "x-message-ttl none -> 3600000  (by policy amqpq.shop.1)" in "\n".join(text.lines(plan))


def test_a_queue_that_waits_for_its_migration_keeps_its_policy(make: Make, see: See) -> None:
    """It is to become a quorum queue; until then its limit goes on holding."""
    topology = make()
    observed = seen_with(see(topology), "orders", queue_type="classic", max_length=2000)
    kept = SeenPolicy("amqpq.shop.1", "^orders$", "classic_queues", 500, {"max-length": 1000})
    plan = planned(topology, replace(observed, policies=(kept,)), "policy amqpq.shop.1")
    assert (told(plan), plan.steps) == ([("migrate", "queue orders")], ())
    assert told(planned(topology, observed)) == [("migrate", "queue orders")]


def test_a_policy_that_nothing_needs_any_more_goes(make: Make, see: See) -> None:
    """Without `allow: {delete: true}`: nothing is in it. One that the manifest does not have is told, and stays."""
    topology = make()
    old = SeenPolicy("amqpq.shop.1", "^mail$", "classic_queues", 500, {"message-ttl": HOUR})
    observed = see(topology, policies=(old,))
    plan = planned(topology, observed, "policy amqpq.shop.1")
    assert told(plan) == [("delete", "policy amqpq.shop.1")]
    assert [step.operation for step in plan.steps] == ["delete policy"]
    stranger = planned(topology, observed)
    assert told(stranger) == [("foreign", "policy amqpq.shop.1")]
    assert stranger.changes[0].remedy == "`rabbitmqctl clear_policy -p v amqpq.shop.1`"


@pytest.mark.parametrize(
    "bent, words",
    [
        ({"definition": {"message-ttl": 7}}, "message-ttl 7 -> 3600000"),
        ({"definition": {}}, "message-ttl none -> 3600000"),
        ({"pattern": "^nothing$"}, "pattern ^nothing$ -> ^mail$"),
        ({"priority": 3}, "priority 3 -> 500"),
        ({"apply_to": "exchanges"}, "apply_to exchanges -> classic_queues"),
    ],
)
def test_a_generated_policy_that_somebody_has_changed_is_put_right(
    make: Make, see: See, bent: dict[str, Any], words: str
) -> None:
    """As a change of that policy, with what was there and what is to be there."""
    topology = make()
    observed = seen_with(see(topology), "mail", message_ttl=None)
    (step,) = planned(topology, observed).steps
    assert isinstance(step.spec, SeenPolicy)
    plan = planned(topology, replace(observed, policies=(replace(step.spec, **bent),)), "policy amqpq.shop.1")
    assert told(plan) == [("change", "queue mail"), ("change", "policy amqpq.shop.1")]
    assert words in "\n".join(text.lines(plan))


def test_an_alternate_exchange_that_is_missing_comes_by_policy(make: Make, see: See) -> None:
    """No argument stands against it."""
    topology = make()
    observed = see(topology)
    events = observed.exchanges["events"]
    bare = replace(events, spec=replace(events.spec, arguments={}))
    observed = replace(observed, exchanges={**observed.exchanges, "events": bare})
    plan = planned(topology, observed)
    assert told(plan) == [("create", "policy amqpq.shop.1"), ("change", "exchange events")]
    assert plan.steps[0].spec == SeenPolicy(
        "amqpq.shop.1", "^events$", "exchanges", 500, {"alternate-exchange": "lost"}
    )
    assert planned(topology, after(observed, plan), "policy amqpq.shop.1").outcome == "clean"


def test_an_alternate_exchange_that_a_policy_of_the_file_says_makes_no_difference(make: Make, see: See) -> None:
    """It is told who makes it hold."""
    way = {"pattern": "^events$", "apply_to": "exchanges", "definition": {"alternate-exchange": "lost"}}
    topology = make(policies={"way": way})
    observed = see(topology)
    bare = replace(observed.exchanges["events"], spec=replace(observed.exchanges["events"].spec, arguments={}))
    plan = planned(topology, replace(observed, exchanges={**observed.exchanges, "events": bare}))
    assert told(plan) == [("info", "exchange events")]
    assert plan.changes[0].details[0].note == "what holds is the same, by policy way"


def test_a_check_that_a_generated_policy_holds_up_keeps_it_from_going(make: Make, see: See) -> None:
    """The file has no alternate exchange any more, and a check that needs it: the plan is refused."""
    checks = [{"publish": {"exchange": "events", "key": "nothing"}, "reaches": ["lost"]}]
    exchanges = {"events": {"type": "topic"}, "lost": {"type": "fanout"}}
    topology = make(exchanges=exchanges, checks=checks)
    kept = SeenPolicy("amqpq.shop.1", "^events$", "exchanges", 500, {"alternate-exchange": "lost"})
    plan = planned(topology, see(topology, policies=(kept,)), "policy amqpq.shop.1")
    assert [step.operation for step in plan.steps] == ["delete policy"]
    assert plan.problems == ("after the last step, exchange 'events' with key 'nothing' misses lost",)


def test_a_policy_that_breaks_a_check_for_a_moment_is_refused(make: Make, see: See) -> None:
    """The exchange that it leads to is bound only after it."""
    topology = make(
        exchanges={"events": {"type": "topic"}, "lost": {"type": "fanout"}, "other": {"type": "fanout"}},
        bindings=["events[order.#] -> orders", "lost -> lost", "other -> lost"],
        policies={
            "way": {"pattern": "^events$", "apply_to": "exchanges", "definition": {"alternate-exchange": "other"}}
        },
        checks=[{"publish": {"exchange": "events", "key": "nothing"}, "reaches": ["lost"]}],
    )
    there = SeenPolicy("way", "^events$", "exchanges", 0, {"alternate-exchange": "lost"})
    observed = see(topology, policies=(there,))
    bindings = tuple(binding for binding in observed.bindings or () if binding.source != "other")
    plan = planned(topology, replace(observed, bindings=bindings))
    assert plan.problems == ("after step 1 (policy way), exchange 'events' with key 'nothing' misses lost",)


def test_a_policy_of_the_file_is_hidden_and_what_it_says_goes_on(make: Make, see: See) -> None:
    """The generated one is above it, and holds its keys."""
    topology = make(policies={"cap": {"pattern": "^mail$", "priority": 700, "definition": {"max-length": 5}}})
    observed = seen_with(see(topology), "mail", message_ttl=None)
    assert "write `policy_band: {from: 701, to: 800}`" in planned(topology, observed).changes[0].remedy
    topology = make(policies={"cap": {"pattern": "^mail$", "priority": 510, "definition": {"max-length": 5}}})
    plan = planned(topology, seen_with(see(topology), "mail", message_ttl=None))
    assert plan.steps[0].spec == SeenPolicy(
        "amqpq.shop.1", "^mail$", "classic_queues", 511, {"max-length": 5, "message-ttl": HOUR}
    )
    assert Action.FOREIGN not in {change.action for change in plan.changes}


def test_a_policy_of_others_is_not_hidden_unasked(make: Make, see: See, policy: MakePolicy) -> None:
    """The plan names it and what it says; nothing is done."""
    topology = make()
    observed = replace(
        seen_with(see(topology), "mail", message_ttl=None), policies=(policy("theirs", "mail", expires=9),)
    )
    plan = planned(topology, observed)
    assert ("forbidden", "queue mail") in told(plan)
    assert (plan.steps, plan.outcome) == ((), "forbidden")
    lines = "\n".join(text.lines(plan))
    assert "a policy with message-ttl: 3600000 would hide policy theirs (priority 50) with expires: 9" in lines
    assert "`policy_band: {inherit: true}` takes over what it says" in lines


def test_a_policy_of_others_is_taken_over_where_the_file_says_so(make: Make, see: See, policy: MakePolicy) -> None:
    """What it says goes on holding, and is told as theirs."""
    topology = make(policy_band={"inherit": True})
    theirs = policy("theirs", "mail", 550, expires=9)
    observed = replace(seen_with(see(topology), "mail", message_ttl=None), policies=(theirs,))
    plan = planned(topology, observed)
    assert told(plan) == [("create", "policy amqpq.shop.1"), ("change", "queue mail"), ("foreign", "queue mail")]
    assert plan.steps[0].spec == SeenPolicy(
        "amqpq.shop.1", "^mail$", "classic_queues", 551, {"expires": 9, "message-ttl": HOUR}
    )
    assert "policy theirs, taken over by amqpq.shop.1, makes expires 9 (the file: nothing)" in plan.changes[-1].because
    changed = replace(after(observed, plan), policies=(policy("theirs", "mail", 550, expires=8), plan.steps[0].spec))
    follows = planned(topology, changed, "policy amqpq.shop.1")
    assert ("change", "policy amqpq.shop.1") in told(follows)


def test_a_policy_of_others_that_comes_later_removes_none_of_ours(make: Make, see: See, policy: MakePolicy) -> None:
    """Ours stays as it is, and the plan says what is in its way."""
    topology = make()
    observed = seen_with(see(topology), "mail", message_ttl=None)
    observed = after(observed, planned(topology, observed))
    for priority in (50, 900):
        both = (*(observed.policies or ()), policy("theirs", "mail", priority, expires=9))
        plan = planned(topology, replace(observed, policies=both), "policy amqpq.shop.1")
        assert ("forbidden", "queue mail") in told(plan)
        assert plan.steps == ()


def test_nobody_is_above_the_band(make: Make, see: See, policy: MakePolicy) -> None:
    """A policy of others with a priority beyond it is shown with the band that would do."""
    topology = make(policy_band={"from": 10, "to": 20, "inherit": True})
    observed = seen_with(see(topology), "mail", message_ttl=None)
    plan = planned(topology, replace(observed, policies=(policy("theirs", "mail", 20, expires=9),)))
    assert (plan.changes[0].action, plan.steps) == (Action.FORBIDDEN, ())
    assert "policy theirs has priority 20, and generated ones end at 20" in plan.changes[0].because
    assert "`policy_band: {from: 21, to: 120}`" in plan.changes[0].remedy
    below = planned(topology, replace(observed, policies=(policy("theirs", "mail", 19, expires=9),)))
    assert isinstance(below.steps[0].spec, SeenPolicy)
    assert below.steps[0].spec.priority == 20


def test_messages_that_a_policy_drops_are_counted(make: Make, see: See) -> None:
    """With the arguments and policies that hold before; none where dead letters go somewhere."""
    topology = make(queues={"orders": {}, "mail": {}, "lost": {"dead_letter": "none", "limits": {"max_length": 5}}})
    observed = seen_with(see(topology), "lost", max_length=9)
    queues = {**observed.queues, "lost": replace(observed.queues["lost"], ready=8)}
    plan = planned(topology, replace(observed, queues=queues))
    assert (plan.may_lose, plan.changes[0].because) == (
        3,
        "on ^lost$; lost holds 8: up to 3 of them are dropped",
    )


@pytest.mark.parametrize(
    "kind, overflow, lost",
    [
        ("classic", "drop-head", 3),
        ("classic", "reject-publish", 0),
        ("classic", "reject-publish-dlx", 0),
        ("quorum", "drop-head", 3),
        ("quorum", "reject-publish", 0),
    ],
)
def test_a_queue_that_refuses_when_it_is_full_drops_nothing_of_what_it_has(
    make: Make, see: See, kind: str, overflow: str, lost: int
) -> None:
    """Neither does it when a policy makes it shorter than it is."""
    limits = {"max_length": 5, "overflow": overflow}
    lost_queue = {"type": kind, "dead_letter": "none", "limits": limits}
    topology = make(requires={"rabbitmq": ">=3.10"}, queues={"orders": {}, "mail": {}, "lost": lost_queue})
    observed = seen_with(see(topology), "lost", max_length=9)
    queues = {**observed.queues, "lost": replace(observed.queues["lost"], ready=8)}
    plan = planned(topology, replace(observed, queues=queues))
    assert told(plan)[0] == ("create", "policy amqpq.shop.1")
    assert plan.may_lose == lost


def test_unconfirmed_dead_letters_are_no_price_for_an_overflow(make: Make, see: See) -> None:
    """Leaving at-least-once by policy would drop them: that is refused."""
    queues = {
        "orders": {"type": "quorum", "limits": {"max_length": 1000, "overflow": "drop-head"}},
        "mail": {},
        "lost": {},
    }
    topology = make(queues=queues)
    observed = seen_with(see(topology), "orders", overflow="reject-publish")
    assert told(planned(topology, observed)) == [("create", "policy amqpq.shop.1"), ("change", "queue orders")]
    kept = planned(topology, seen_with(observed, "orders", dead_letter_strategy="at-least-once"))
    assert (told(kept), kept.steps) == ([("migrate", "queue orders")], ())


def test_a_policy_that_keeps_unconfirmed_dead_letters_stays_until_the_queue_has_moved(make: Make, see: See) -> None:
    """The file wants at-least-once no more; that is a migration, and the policy goes after it."""
    topology = make()
    observed = seen_with(see(topology), "orders", dead_letter_strategy="at-least-once")
    ours = SeenPolicy("amqpq.shop.1", "^orders$", "quorum_queues", 500, {"overflow": "reject-publish"})
    plan = planned(topology, replace(observed, policies=(ours,)), "policy amqpq.shop.1")
    assert plan.steps == ()
    assert told(plan)[0] == ("migrate", "queue orders")
    moved = planned(topology, replace(see(topology), policies=(ours,)), "policy amqpq.shop.1")
    assert [step.operation for step in moved.steps] == ["delete policy"]


def test_a_user_that_may_not_write_policies_is_told_what_to_type(make: Make, see: See) -> None:
    """The policy is blocked, with the command for somebody who may."""
    topology = make()
    observed = replace(seen_with(see(topology), "mail", message_ttl=None), may_write_policies=False)
    plan = planned(topology, observed)
    assert told(plan) == [("policy", "queue mail"), ("forbidden", "policy amqpq.shop.1")]
    assert plan.steps == ()
    typed = (
        "`rabbitmqctl set_policy -p v --priority 500 --apply-to classic_queues amqpq.shop.1 '^mail$' "
        "'{\"message-ttl\": 3600000}'`"
    )
    assert all(typed in change.remedy and "policymaker" in change.remedy for change in plan.changes)
    done = planned(
        topology, replace(see(topology), policies=(SeenPolicy("amqpq.shop.1", "^mail$"),)), "policy amqpq.shop.1"
    )
    assert told(done) == [("delete", "policy amqpq.shop.1")]
    may_not = replace(see(topology), policies=(SeenPolicy("amqpq.shop.1", "^mail$"),), may_write_policies=False)
    assert told(planned(topology, may_not, "policy amqpq.shop.1")) == [("forbidden", "policy amqpq.shop.1")]


def test_over_amqp_the_command_is_all_there_is(make: Make, see: See) -> None:
    """And where the project has made policies already it is unknown whether one holds, so no command is proposed."""
    topology = make()
    blind: dict[str, Any] = {
        "level": "amqp",
        "bindings": None,
        "policies": None,
        "operator_policies": None,
        "consumers": None,
    }
    observed = replace(seen_with(see(topology), "mail", message_ttl=None), **blind)
    (change,) = [each for each in planned(topology, observed).changes if each.address == "queue mail"]
    assert change.action is Action.POLICY
    assert "set broker.management" in change.remedy
    assert "rabbitmqctl set_policy -p v --priority 500 --apply-to classic_queues amqpq.shop.1 '^mail$'" in change.remedy
    (change,) = [
        each for each in planned(topology, observed, "policy amqpq.shop.3").changes if each.address == "queue mail"
    ]
    assert (change.action, "rabbitmqctl" in change.remedy) == (Action.UNKNOWN, False)
    assert "a policy of this project may make it hold" in change.details[0].note


def test_a_kept_plan_is_stale_when_its_policy_would_be_another(make: Make, see: See) -> None:
    """The steps are called the same; what they write is not."""
    topology = make()
    first = planned(topology, seen_with(see(topology), "mail", message_ttl=None))
    second = planned(topology, seen_with(see(topology), "mail", message_ttl=None, dead_letter_exchange=None))
    assert [step.name for step in first.steps] == [step.name for step in second.steps]
    assert first.fingerprint != second.fingerprint
