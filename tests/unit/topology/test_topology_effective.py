"""What holds when argument, policy and operator policy all say something: the planner's table, cell by cell."""

from __future__ import annotations

import pytest

from amqpq.provision.observed import SeenPolicy
from amqpq.topology.effective import Effective, applied, combine, effective, policy_can

# (type, key): argument, policy -> what holds
CELLS: dict[tuple[str, str, object, object], object] = {
    ("classic", "message-ttl", 10, 5): 5,
    ("classic", "message-ttl", 5, 10): 5,
    ("quorum", "max-length", 5, 10): 5,
    ("quorum", "expires", 10, 5): 5,
    ("classic", "overflow", "drop-head", "reject-publish"): "drop-head",
    ("quorum", "overflow", "drop-head", "reject-publish"): "reject-publish",
    ("classic", "dead-letter-exchange", "a", "b"): "a",
    ("quorum", "dead-letter-strategy", "at-least-once", "at-most-once"): "at-least-once",
    ("quorum", "delivery-limit", 5, 10): 5,
    ("quorum", "delivery-limit", -1, 10): 10,
    ("quorum", "delivery-limit", 5, -1): 5,
    ("stream", "max-age", "1D", "7D"): "7D",
    ("stream", "max-length-bytes", 5, 10): 10,
    ("exchange", "alternate-exchange", "a", "b"): "a",
    ("classic", "max-length", None, 5): 5,
    ("classic", "max-length", 5, None): 5,
    ("classic", "max-length", None, None): None,
    ("quorum", "max-length", 9, 5): 5,
    ("quorum", "dead-letter-exchange", "a", "b"): "a",
    ("quorum", "delivery-limit", 20, -1): 20,
    ("quorum", "delivery-limit", 20, 5): 5,
    ("quorum", "delayed-retry-type", "all", "failed"): "failed",
    ("quorum", "delayed-retry-max", 5, 9): 5,
    ("classic", "federation-upstream-set", "a", "b"): "b",
}


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_argument_against_policy(cell: tuple[str, str, object, object]) -> None:
    """Each cell of the table in `effective`."""
    kind, key, argument, policy = cell
    found = combine(kind, key, argument, None if policy is None else Effective(policy, "policy p"))
    assert (None if found is None else found.value) == CELLS[cell]


@pytest.mark.parametrize(
    "kind, key, argument, wanted, can",
    [
        ("classic", "message-ttl", None, 5, True),
        ("classic", "message-ttl", 10, 5, True),
        ("classic", "message-ttl", 5, 10, False),
        ("classic", "message-ttl", 5, None, False),
        ("classic", "overflow", "drop-head", "reject-publish", False),
        ("quorum", "overflow", "drop-head", "reject-publish", True),
        ("classic", "overflow", None, "reject-publish", True),
        ("stream", "max-age", "1D", "7D", True),
        ("classic", "max-priority", None, 5, False),
    ],
)
def test_what_a_policy_can_do(kind: str, key: str, argument: object, wanted: object, can: bool) -> None:
    """An argument can be tightened and never loosened; where the policy wins everything can be done."""
    assert policy_can(kind, key, argument, wanted) is can


def test_the_lease_of_a_quorum_queue_is_the_policys_on_3_x() -> None:
    """Even where it is longer than the argument's; from 4.0 on the shorter one holds."""
    longer = Effective(90, "policy p")
    old, new = (combine("quorum", "expires", 30, longer, version=version) for version in ((3, 10, 8), (4, 0, 5)))
    assert (old, new) == (longer, Effective(30, "argument"))
    assert policy_can("quorum", "expires", 30, 90, version=(3, 13, 0))
    assert not policy_can("quorum", "expires", 30, 90)
    assert combine("classic", "expires", 30, longer, version=(3, 10, 8)) == Effective(30, "argument")


def policy(name: str, pattern: str = ".*", **changed: object) -> SeenPolicy:
    """Return a policy for queues."""
    return SeenPolicy(name, pattern, **{"apply_to": "queues", **changed})  # type: ignore[arg-type]


def test_the_highest_priority_of_those_that_fit_applies() -> None:
    """The pattern is found anywhere in the name; other kinds of objects are passed by."""
    policies = [
        policy("low", "ord", priority=1),
        policy("high", "^orders$", priority=5),
        policy("elsewhere", "^mail", priority=9),
        policy("exchanges", priority=9, apply_to="exchanges"),
        policy("quorum only", priority=9, apply_to="quorum_queues"),
    ]
    assert applied(policies, "classic", "orders").policy == policies[1]
    assert applied(policies, "classic", "my.orders").policy == policies[0]
    assert applied(policies, "quorum", "orders").policy == policies[4]
    assert applied(policies, "exchange", "orders").policy == policies[3]
    assert applied(policies, "classic", "x").policy is None


def test_one_key_that_the_type_does_not_know_makes_the_policy_pass_it_by() -> None:
    """As a whole, although its other keys would fit (rabbitmq-server #7350)."""
    both = policy("both", priority=9, definition={"max-length": 5, "delivery-limit": 3})
    plain = policy("plain", priority=1, definition={"max-length": 7})
    assert applied([both, plain], "classic", "q").policy == plain
    assert applied([both, plain], "quorum", "q").policy == both


def test_rivals_of_equal_priority_are_told() -> None:
    """The broker's choice between them is open."""
    assert applied([policy("a"), policy("b")], "classic", "q").rivals == ("b",)


def test_the_operator_takes_the_lesser() -> None:
    """And for overflow the operator wins; who said what holds is part of the answer."""
    user = policy("u", definition={"max-length": 10, "overflow": "drop-head", "expires": 5})
    operator = policy("o", definition={"max-length": 5, "overflow": "reject-publish", "expires": 9})
    holds = effective("quorum", {"x-max-length": 100}, user, operator)
    assert holds["max-length"] == Effective(5, "operator policy o")
    assert holds["overflow"] == Effective("reject-publish", "operator policy o")
    assert holds["expires"] == Effective(5, "policy u")
