"""A topology, and brokers that look like it but for one thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from amqpq.provision.observed import Observed, SeenExchange, SeenPolicy, SeenQueue
from amqpq.provision.wanted import Wanted, wanted
from amqpq.topology import Topology, load

Make: TypeAlias = Callable[..., Topology]
See: TypeAlias = Callable[..., Observed]

BASE: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "exchanges": {"events": {"type": "topic", "unrouted": "lost"}, "lost": {"type": "fanout"}},
    "queues": {
        "orders": {"type": "quorum", "limits": {"max_length": 1000}},
        "mail": {"max_priority": 5, "ttl": "1h"},
        "lost": {"dead_letter": "none"},
    },
    "bindings": ["events[order.#] -> orders", "events[mail.*] -> mail", "lost -> lost"],
    "routes": {"*": {"exchange": "events", "key": "order.{task}"}},
}


@pytest.fixture
def make() -> Make:
    """Load the topology with some sections replaced."""

    def load_with(**sections: Any) -> Topology:
        return load({**BASE, **sections}, environ={})

    return load_with


@pytest.fixture
def see() -> See:
    """Look at a broker that is as a topology says, over HTTP."""

    def look(topology: Topology, **changed: Any) -> Observed:
        target: Wanted = wanted(topology)
        facts: dict[str, Any] = {
            "level": "http",
            "vhost": "v",
            "version": (4, 3, 0),
            "exchanges": {name: SeenExchange(spec) for name, spec in target.exchanges.items()},
            "queues": {name: SeenQueue(spec, ready=0, unacknowledged=0) for name, spec in target.queues.items()},
            "bindings": target.declarations.bindings,
            "policies": tuple(target.policies.values()),
            "operator_policies": (),
            "consumers": (),
            **changed,
        }
        return Observed(**facts)

    return look


@pytest.fixture
def policy() -> Callable[..., SeenPolicy]:
    """Make a policy for one queue."""

    def make_policy(name: str, queue: str, priority: int = 50, **definition: Any) -> SeenPolicy:
        keys = {key.replace("_", "-"): value for key, value in definition.items()}
        return SeenPolicy(name, f"^{queue}$", "queues", priority, keys)

    return make_policy
