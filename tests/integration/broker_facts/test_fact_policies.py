"""L11: which policy holds for a queue when several match, and when one has a key that the queue does not take."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.lab import QUORUM, Lab, until

FOREIGN = {"max-age": "1h"}
"""A key that only streams take."""


def length_limit(lab: Lab, queue: str) -> int:
    """How many of ten messages a queue keeps."""
    lab.send(queue, *[b"%d" % number for number in range(10)])
    return len(lab.bodies(queue))


@pytest.mark.parametrize("base", [{}, QUORUM], ids=["classic", "quorum"])
def test_one_key_that_a_queue_does_not_take_voids_the_whole_policy(lab: Lab, base: dict[str, Any]) -> None:
    """The policy is set without complaint and none of it holds."""
    lab.policy({"max-length": 2, **FOREIGN})
    lab.declare("work", base)
    assert length_limit(lab, "work") == 10


def test_a_void_policy_gives_way_to_the_next(lab: Lab) -> None:
    """A policy of lower priority that the queue can take holds in its place."""
    lab.policy({"max-length": 2, **FOREIGN}, priority=9)
    lab.policy({"max-length": 5}, priority=1)
    lab.declare("work")
    assert length_limit(lab, "work") == 5


def test_the_policy_of_the_highest_priority_holds_alone(lab: Lab) -> None:
    """Policies are not merged: what only the other one sets does not hold."""
    lab.policy({"max-length": 5}, priority=1)
    lab.policy({"max-length-bytes": 10_000}, priority=9)
    lab.declare("work")
    assert length_limit(lab, "work") == 10


def test_of_two_policies_of_equal_priority_one_holds(lab: Lab) -> None:
    """One of the two and not both; which, the documentation leaves open."""
    lab.policy({"max-length": 5})
    lab.policy({"max-length-bytes": 3})
    lab.declare("work")
    assert length_limit(lab, "work") in {5, 3}


def test_a_pattern_is_not_anchored(lab: Lab) -> None:
    """`work` matches wherever it stands in a name."""
    lab.policy({"max-length": 5}, "work")
    lab.declare("our.work.too")
    assert length_limit(lab, "our.work.too") == 5


def test_a_policy_for_quorum_queues_passes_classic_ones(lab: Lab) -> None:
    """`apply-to` may name a type of queue; before RabbitMQ 3.12 the broker refuses such a policy."""
    if lab.version < (3, 12, 0):
        refused = lab.api_refusal(
            "PUT", "policies/{v}/typed", {"pattern": ".*", "definition": {"max-length": 5}, "apply-to": "quorum_queues"}
        )
        assert refused.startswith("400"), refused
        return
    lab.policy({"max-length": 5}, kind="quorum_queues")
    lab.declare("classic")
    lab.declare("quorum", QUORUM)
    assert length_limit(lab, "classic") == 10
    assert length_limit(lab, "quorum") == 5


@pytest.mark.parametrize("base", [{}, QUORUM], ids=["classic", "quorum"])
def test_a_policy_holds_for_queues_that_are_there(lab: Lab, base: dict[str, Any]) -> None:
    """It takes effect a moment after it was set, without a declaration; and is over when it is deleted."""
    lab.declare("work", base)
    lab.policy({"max-length": 5}, "^work$")
    until(lambda: length_limit(lab, "work") == 5, "the policy holds")
    (policy,) = lab.api("GET", "policies/{v}")
    lab.api("DELETE", f"policies/{{v}}/{policy['name']}")
    until(lambda: length_limit(lab, "work") == 10, "the policy is over")


@pytest.mark.parametrize(
    "definition",
    [{"max-priority": 5}, {"single-active-consumer": True}, {"queue-type": "quorum"}, {"no-such-key": 1}],
    ids=lambda definition: next(iter(definition)),
)
def test_what_no_policy_can_set_is_refused(lab: Lab, definition: dict[str, Any]) -> None:
    """Type, priorities and the single active consumer are a queue's for life."""
    body = {"pattern": ".*", "definition": definition, "apply-to": "queues"}
    assert lab.api_refusal("PUT", "policies/{v}/never", body).startswith("400")
