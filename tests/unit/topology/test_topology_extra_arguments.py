"""Further arguments: of bindings, and of queues whose dead letters go another way than their workers'."""

from __future__ import annotations

from typing import Any

from amqpq.topology import inspect, load
from amqpq.topology.declarations import declarations


def file(**sections: Any) -> dict[str, Any]:
    """A file with an exchange of headers and a queue."""
    return {"amqpq": 1, "project": "shop", "exchanges": {"h": {"type": "headers"}}, "queues": {"q": {}}, **sections}


def test_further_arguments_of_a_binding_are_passed_as_they_are() -> None:
    """Without the `x-match` that `headers` brings, and with lists."""
    entry = {"from": "h", "to": "q", "extra_arguments": {"kind": ["a", 1], "pii": True}}
    (binding,) = declarations(load(file(bindings=[entry]), environ={})).bindings
    assert binding.arguments == {"kind": ["a", 1], "pii": True}


def test_lint_counts_further_arguments_as_headers() -> None:
    """A binding with some does not match everything."""
    told = inspect(file(bindings=[{"from": "h", "to": "q", "extra_arguments": {"pii": True}}]), environ={}).problems
    assert not [problem for problem in told if problem.rule == "TOP025"]
    bare = inspect(file(bindings=[{"from": "h", "to": "q"}]), environ={}).problems
    assert [problem.severity for problem in bare if problem.rule == "TOP025"] == ["warning"]


def test_a_queue_may_dead_letter_another_way_than_its_worker() -> None:
    """`dead_letter` is where workers park; the arguments are the broker's, and nothing is added to them."""
    queues = {
        "q": {"dead_letter": "parked", "extra_arguments": {"x-dead-letter-exchange": "h"}},
        "parked": {},
    }
    bindings = [{"from": "h", "to": "parked", "headers": {"a": 1}}]
    topology = load(file(queues=queues, bindings=bindings, dead_letters={"parked": {"queue": "parked"}}), environ={})
    specs = {spec.name: dict(spec.arguments) for spec in declarations(topology).queues}
    assert specs["q"] == {"x-queue-type": "classic", "x-dead-letter-exchange": "h"}
    assert topology.dead_letter_of("q") == "parked"


def test_other_arguments_with_a_key_of_their_own_stay_refused() -> None:
    """One way to say a thing."""
    told = inspect(file(queues={"q": {"extra_arguments": {"x-message-ttl": 5}}}), environ={}).errors
    assert [problem.rule for problem in told] == ["TOP043"]
